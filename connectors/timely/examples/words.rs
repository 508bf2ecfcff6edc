//! Counts the words of a file, and may be killed at any moment: run it again, with as
//! many workers and processes as you like, and it goes on.
//!
//! ```sh
//! cargo run --release -p alluvium-timely --example words -- FILE DIR -w 2
//! ```
//!
//! What follows `DIR` are timely's own options: `-w` workers; `-n` processes, each of which
//! is started with its number, `-p`. The counts are in `DIR/out`: each word is written once,
//! by a timer at the end of event time, which comes with the end of the file.

#![allow(clippy::disallowed_methods, reason = "the speed is told to a person")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use alluvium::{Error, Result, Timers, ValueState};
use alluvium_timely::{FileSink, Job, JobEvent, Lines};
use timely::Config;
use timely::dataflow::operators::vec::Map;

/// When words are written: at the end of event time, which comes with the end of the
/// file.
const END: i64 = i64::MAX - 1;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("words: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(input), Some(dir)) = (args.next(), args.next()) else {
        return Err(Error::invalid("too few arguments").remedy("words FILE DIR [-w WORKERS] ..."));
    };
    let config = Config::from_args(args)
        .map_err(|text| Error::invalid("timely does not know an option").found(text))?;
    let (input, out) = (PathBuf::from(input), PathBuf::from(&dir).join("out"));
    let (began, counted) = (Instant::now(), Arc::new(AtomicU64::new(0)));

    let job = Job::local("words", &dir)?.interval_ms(Some(500)).observer(|event| match event {
        JobEvent::Started { restored: Some(id), workers } => {
            eprintln!("{workers} workers go on from checkpoint {id}");
        }
        JobEvent::Started { restored: None, workers } => eprintln!("{workers} workers begin"),
        JobEvent::Acknowledged { .. } => {}
        JobEvent::Completed(id) => eprintln!("checkpoint {id}"),
        other => eprintln!("{other:?}"),
    });
    let words_of_this_process = Arc::clone(&counted);
    job.run(config, move |flow| {
        let words = flow.source("lines", Lines::new(&input)).build()?.flat_map(|line: String| {
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        });
        let counted = Arc::clone(&words_of_this_process);
        let counts = flow
            .keyed("count", words, String::clone)
            .state(|shard| {
                let counts = ValueState::<String, u64>::register(shard, "counts")?;
                let ends = Timers::<String>::event_time(shard, "ends")?;
                Ok((counts, ends))
            })?
            .process_with_timers(
                |(_, ends)| ends,
                |(counts, _), context, timer| {
                    let count = counts.get(context.store(), &timer.key)?.unwrap_or(0);
                    context.emit((timer.key, count));
                    Ok(())
                },
                move |(counts, ends), context, word, _| {
                    let mut is_new = false;
                    counts.update(context.store(), word, |count| {
                        is_new = count.is_none();
                        Some(count.unwrap_or(0) + 1)
                    })?;
                    if is_new {
                        ends.register(context.store(), word, END)?;
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                },
            )?;
        flow.files("out", counts, FileSink::new(&out), |(word, count), bytes| {
            bytes.extend_from_slice(format!("{word} {count}\n").as_bytes());
        })
    })?;
    let (counted, took) = (counted.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
    println!("{counted} words in {took:.2} s, {:.0} a second", counted as f64 / took);
    Ok(())
}
