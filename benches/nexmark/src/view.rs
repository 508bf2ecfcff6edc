//! Shows on the error stream how far it is, if somebody looks on.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const REDRAWN_EVERY: Duration = Duration::from_millis(200);

/// A bar on a terminal, one line for each run elsewhere.
pub(crate) struct View {
    bar: Option<ProgressBar>,
}

impl View {
    pub(crate) fn new(events: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(events), ProgressDrawTarget::stderr());
            let style = "{msg:24} {wide_bar} {human_pos} of {human_len} events, {per_sec}";
            bar.with_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        Self { bar }
    }

    /// Something begins.
    pub(crate) fn begin(&self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.reset();
                bar.set_message(what.to_owned());
            }
            None => eprintln!("{what}"),
        }
    }

    /// So many events are done.
    pub(crate) fn reach(&self, events: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(events);
        }
    }

    /// What was shown goes.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Shows what `counter` says while `work` works.
    pub(crate) fn follow<T>(&self, counter: Arc<AtomicU64>, work: impl FnOnce() -> T) -> T {
        let Some(bar) = &self.bar else { return work() };
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let shown = scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    bar.set_position(counter.load(Ordering::Relaxed));
                    std::thread::park_timeout(REDRAWN_EVERY);
                }
            });
            let done = work();
            is_done.store(true, Ordering::Relaxed);
            shown.thread().unpark();
            bar.finish_and_clear();
            done
        })
    }
}
