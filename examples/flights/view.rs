//! Progress for whoever watches: a bar on a terminal, plain lines otherwise.
//! All of it goes to standard error.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::{counted, percent, thousands};

/// Plain lines appear each time so much more of the input is done.
const PLAIN_STEP_PERCENT: u64 = 10;

/// Shows how far the job is.
pub(crate) enum View {
    Bar(ProgressBar),
    Plain { total: u64, next_percent: u64 },
}

impl View {
    /// Over `total` records.
    pub(crate) fn new(total: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self::Plain { total, next_percent: PLAIN_STEP_PERCENT };
        }
        let style = ProgressStyle::with_template(
            "{bar:40} {percent:>3} %  {human_pos} of {human_len} records  {msg}",
        )
        .expect("the template is sound");
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        Self::Bar(bar.with_style(style))
    }

    /// `offset` records are done. The position may also go back.
    pub(crate) fn progress(&mut self, offset: u64, checkpoints: usize) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(offset);
                bar.set_message(counted(checkpoints as u64, "checkpoint"));
            }
            Self::Plain { total, next_percent } => {
                let done = offset.saturating_mul(100) / (*total).max(1);
                if done >= *next_percent {
                    eprintln!(
                        "{:>7}  {} of {} records, {}",
                        percent(offset, *total),
                        thousands(offset),
                        thousands(*total),
                        counted(checkpoints as u64, "checkpoint"),
                    );
                }
                // The same after going back: the next step above where we are.
                *next_percent = (done / PLAIN_STEP_PERCENT + 1) * PLAIN_STEP_PERCENT;
            }
        }
    }

    /// Something worth a line of its own.
    pub(crate) fn say(&self, line: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| eprintln!("{line}")),
            Self::Plain { .. } => eprintln!("{line}"),
        }
    }

    /// No more progress: the bar goes away.
    pub(crate) fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
