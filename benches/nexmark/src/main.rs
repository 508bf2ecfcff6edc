//! Runs NEXMark queries on several stores in turn, checks that they say the same, and
//! prints how they compare.

#![allow(
    clippy::disallowed_methods,
    reason = "a measurement reads the real clock and works on real files"
)]

mod options;
mod report;
mod view;

use std::path::Path;
use std::process::ExitCode;

use alluvium::{Error, Result};
use clap::Parser;

use nexmark_comparison::engine::{Alluvium, Maps};
use nexmark_comparison::generate::Events;
use nexmark_comparison::queries::Query;
use nexmark_comparison::run::{Plan, Report, run};

use self::options::{Options, Run, Store, Verb};
use self::report::Results;
use self::view::View;

fn main() -> ExitCode {
    let Verb::Run(options) = Options::parse().verb;
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nexmark-comparison: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Run) -> Result<()> {
    let settings = options.settings();
    let view = View::new(options.events);
    let events = if options.live {
        Events::made(&settings)
    } else {
        view.begin("making events");
        let kept = Events::kept(&settings, |made| view.reach(made));
        view.end();
        kept
    };
    let mut results = Results::new(options.events);
    for query in &options.query {
        for round in 0..options.rounds {
            // Nobody is always the first.
            let mut stores = options.store.clone();
            stores.rotate_left(round as usize % options.store.len().max(1));
            for store in stores {
                let report = run_one(options, *query, store, round, &events.again(), &view)?;
                results.add(*query, store, report)?;
            }
        }
    }
    results.print(&options.store, options.json);
    Ok(())
}

/// Runs a query once, in a directory of its own that goes afterwards.
fn run_one(
    options: &Run,
    query: Query,
    store: Store,
    round: u32,
    events: &Events,
    view: &View,
) -> Result<Report> {
    let dir = match &options.dir {
        None => tempfile::tempdir(),
        Some(dir) => std::fs::create_dir_all(dir).and_then(|()| tempfile::tempdir_in(dir)),
    };
    let dir = dir.map_err(|error| Error::io("no temporary directory", error))?;
    let name = format!("{query}-{}-{round}", store.name());
    let plan = Plan {
        query,
        workers: options.workers as usize,
        interval_ms: Some(options.interval_ms).filter(|ms| *ms > 0),
        memory_budget_bytes: options.memory_budget_mb.map(|mb| mb << 20),
        batch_records: options.batch as usize,
        out: options.out.as_ref().map(|out| out.join(&name)),
    };
    view.begin(&name);
    view.follow(events.counter(), || on(store, &plan, events, dir.path()))
}

fn on(store: Store, plan: &Plan, events: &Events, dir: &Path) -> Result<Report> {
    match store {
        Store::Alluvium => run(plan, events, &Alluvium, dir, |_| {}),
        Store::Map => run(plan, events, &Maps, dir, |_| {}),
        #[cfg(feature = "rocksdb")]
        Store::Rocksdb => {
            use nexmark_comparison::stores::rocksdb::Rocks;
            let rocks = Rocks::new(&dir.join("rocksdb"), plan.memory_budget_bytes);
            run(plan, events, &rocks, dir, |_| {})
        }
    }
}
