//! The queue of snapshots that wait to be written, and the one task at a time
//! that writes them: each is finished, once, in the order of the freezes,
//! however many threads there are.
//!
//! `Pipeline` here has the queues and flags of the one in
//! `src/snapshot/pipeline.rs`, changed in the same order by functions of the
//! same names, without the tables and files. The last test compares the lines
//! that matter with that source, and fails when they have drifted apart. The
//! executor and the tickets are the real ones.

use std::collections::VecDeque;
use std::sync::Arc;

use alluvium_loom::base::{Error, ErrorKind};
use alluvium_loom::check;
use alluvium_loom::env::LoomEnv;
use alluvium_loom::env::executor::{Executor, Priority};
use alluvium_loom::snapshot::{Promise, SnapshotTicket};
use loom::sync::{Mutex, MutexGuard};
use loom::thread;

struct Request {
    snapshot: u32,
    promise: Promise,
}

#[derive(Default)]
struct Writing {
    queue: VecDeque<Request>,
    busy: bool,
}

/// Stands for a panic while a snapshot is written.
struct Panic;

struct Pipeline {
    executor: Executor,
    /// The snapshot that a panic meets.
    panics_at: Option<u32>,
    /// The source has a queue without a lock here, to which one thread adds.
    extracting: Mutex<VecDeque<Request>>,
    /// That of the source holds the number of the next delta, too.
    extractor: Mutex<()>,
    writing: Mutex<Writing>,
    finished: Mutex<Vec<u32>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics here")
}

impl Pipeline {
    fn new(executor: &Executor, panics_at: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            executor: executor.clone(),
            panics_at,
            extracting: Mutex::default(),
            extractor: Mutex::new(()),
            writing: Mutex::default(),
            finished: Mutex::default(),
        })
    }

    fn submit(self: &Arc<Self>, snapshot: u32) -> SnapshotTicket {
        let (promise, ticket) = Promise::new(&self.executor);
        lock(&self.extracting).push_back(Request { snapshot, promise });
        let this = Arc::clone(self);
        self.executor.spawn_quietly(Priority::Urgent, move || this.extract_next());
        ticket
    }

    fn extract_next(self: &Arc<Self>) {
        {
            let _in_order = lock(&self.extractor);
            let Some(extracted) = lock(&self.extracting).pop_front() else { return };
            lock(&self.writing).queue.push_back(extracted);
        }
        self.write_all_later();
    }

    fn write_all(self: &Arc<Self>) {
        {
            let mut writing = lock(&self.writing);
            if writing.busy {
                return;
            }
            writing.busy = true;
        }
        loop {
            let next = {
                let mut writing = lock(&self.writing);
                let next = writing.queue.pop_front();
                writing.busy = next.is_some();
                next
            };
            let Some(extracted) = next else { return };
            if self.finish(extracted).is_err() {
                self.unwind();
                return;
            }
        }
    }

    fn finish(&self, extracted: Request) -> Result<(), Panic> {
        self.executor.breathe(Priority::Normal);
        lock(&self.finished).push(extracted.snapshot);
        if self.panics_at == Some(extracted.snapshot) {
            return Err(Panic);
        }
        extracted.promise.keep(Err(Error::unavailable("the outcome")));
        Ok(())
    }

    /// What the source does in the destructor of its `Busy`. Loom cannot switch
    /// threads during a real panic.
    fn unwind(self: &Arc<Self>) {
        lock(&self.writing).busy = false;
        self.write_all_later();
    }

    /// What failed before is tried again, which here is nothing.
    fn write_again(self: &Arc<Self>) {
        // Whoever is at it has tried since.
        {
            let mut writing = lock(&self.writing);
            if writing.busy {
                return;
            }
            writing.busy = true;
        }
        self.executor.breathe(Priority::Normal);
        let more = {
            let mut writing = lock(&self.writing);
            writing.busy = false;
            !writing.queue.is_empty()
        };
        if more {
            self.write_all_later();
        }
    }

    fn write_all_later(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.executor.spawn(Priority::Normal, move || this.write_all());
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Loom does not see the counts of an `Arc`, and so not that whoever
        // adds a request comes before whoever drops it with the pipeline.
        drop(lock(&self.extracting));
        drop(lock(&self.writing));
    }
}

fn kind(ticket: &SnapshotTicket) -> ErrorKind {
    ticket.wait().expect_err("no model succeeds").kind()
}

fn finishes(ticket: &SnapshotTicket) {
    assert_eq!(kind(ticket), ErrorKind::Unavailable);
}

/// Two snapshots in a row; the second comes at any moment of the first.
fn two_snapshots(threads: usize, preemptions: usize) {
    check(preemptions, move || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", threads).unwrap();
        let pipeline = Pipeline::new(&executor, None);
        let first = pipeline.submit(1);
        let second = pipeline.submit(2);
        finishes(&second);
        finishes(&first);
        assert_eq!(*lock(&pipeline.finished), [1, 2]);
        drop(threads);
    });
}

#[test]
fn one_thread_finishes_every_snapshot_in_order() {
    two_snapshots(1, 3);
}

#[test]
fn two_threads_finish_every_snapshot_in_order() {
    two_snapshots(2, 1);
}

/// The task of the second snapshot may have left again, because the first was
/// being written, when that one panics.
#[test]
fn a_panic_while_one_is_written_strands_no_other() {
    check(1, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 2).unwrap();
        let pipeline = Pipeline::new(&executor, Some(1));
        let first = pipeline.submit(1);
        let second = pipeline.submit(2);
        finishes(&second);
        assert_eq!(kind(&first), ErrorKind::Closed);
        drop(threads);
    });
}

/// A snapshot may be extracted while what failed before is written once more.
#[test]
fn who_writes_again_strands_no_snapshot() {
    check(2, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let pipeline = Pipeline::new(&executor, None);
        let again = Arc::clone(&pipeline);
        let other = thread::spawn(move || again.write_again());
        finishes(&pipeline.submit(1));
        other.join().unwrap();
        assert_eq!(*lock(&pipeline.finished), [1]);
        drop(threads);
    });
}

#[test]
fn closing_settles_every_snapshot_wherever_it_is() {
    check(2, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let pipeline = Pipeline::new(&executor, None);
        let tickets = [pipeline.submit(1), pipeline.submit(2)];
        drop(pipeline);
        let closer = thread::spawn(move || drop(threads));
        for ticket in &tickets {
            let heard = kind(ticket);
            assert!(matches!(heard, ErrorKind::Unavailable | ErrorKind::Closed), "{heard:?}");
        }
        closer.join().unwrap();
    });
}

#[test]
fn the_model_is_like_the_source() {
    let source = include_str!("../../../src/snapshot/pipeline.rs");
    let model = include_str!("pipeline.rs");
    let part = |text: &str, start: &str, end: &str| {
        let start = text.find(start).expect("both have it");
        let end = text[start..].find(end).expect("it ends") + end.len();
        text[start..start + end]
            .lines()
            .map(str::trim)
            // What the model has no need of, and how it spells a lock.
            .filter(|line| !line.starts_with("let _busy"))
            .map(|line| line.replace("self.config.", "self."))
            .collect::<Vec<_>>()
            .join("\n")
            .replace("lock(&self.writing)", "self.writing.lock()")
    };
    for (start, end) in [
        ("spawn_quietly(Priority::Urgent", "ticket\n"),
        ("queue.push_back(extracted)", "self.write_all_later();"),
        ("fn write_all(", "let Some(extracted) = next else { return };"),
        ("fn write_all_later(", "this.write_all());"),
        ("// Whoever is at it has", "writing.busy = true;"),
        ("let more = {", "self.write_all_later();"),
    ] {
        let (model, source) = (part(model, start, end), part(source, start, end));
        assert_eq!(model, source, "bring the model in line with what has changed");
    }
}
