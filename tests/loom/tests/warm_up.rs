//! The request flag of a warm-up: the task thread, which asks for more
//! whenever it finds nothing, gets everything there is and then hears that
//! this was all. (States that are wanted while a piece of work is ending are
//! found because the task thread asks again: to the model they are batches.)
//!
//! `Shared` and `WarmUp` here have the flag, the lock and the channel of those
//! in `src/restore/warm.rs`, used in the same order by functions of the same
//! names. The last test compares the lines that matter with that source. The
//! executor is the real one.

use std::collections::VecDeque;
use std::sync::Arc;

use alluvium_loom::check;
use alluvium_loom::env::LoomEnv;
use alluvium_loom::env::executor::{Executor, Priority};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Condvar, Mutex, MutexGuard};

#[derive(PartialEq, Eq, Debug)]
enum Warm {
    Batch(u32),
    NotYet,
    Done,
    Failed,
}

#[derive(Default)]
struct Channel {
    messages: VecDeque<Warm>,
    sender_is_gone: bool,
}

/// The sending end; the receiver hears of its end.
struct Sender(Arc<Mutex<Channel>>);

impl Drop for Sender {
    fn drop(&mut self) {
        lock(&self.0).sender_is_gone = true;
    }
}

/// One batch is sent for each request.
struct Work {
    next: u32,
    batches: u32,
    fails: bool,
    out: Sender,
}

struct Shared {
    work: Mutex<Option<Work>>,
    requested: AtomicBool,
    executor: Executor,
    /// Counts pieces of work that are over. Not in the source.
    pieces: Mutex<u32>,
    piece_is_over: Condvar,
}

struct WarmUp {
    shared: Arc<Shared>,
    batches: Arc<Mutex<Channel>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics here")
}

impl Work {
    fn send_some(&mut self) -> Result<bool, ()> {
        let message = match self.batches - self.next {
            0 if self.fails => return Err(()),
            0 => Warm::Done,
            _ => Warm::Batch(self.next),
        };
        self.next += 1;
        let more = message != Warm::Done;
        lock(&self.out.0).messages.push_back(message);
        Ok(more)
    }
}

impl Shared {
    #[allow(clippy::single_match, reason = "the source has the same arms, and says why it failed")]
    fn work(&self) {
        let mut work = lock(&self.work);
        // Taken out: if this panics it is gone, and the shard is told so.
        let Some(mut running) = work.take() else { return };
        match running.send_some() {
            Ok(true) => *work = Some(running),
            Ok(false) | Err(()) => {}
        }
        // A store in the source. Loom 0.7 does not know that nothing comes
        // between what an exchange reads and what it writes, and would let the
        // next exchange of the other thread read its own `true` again.
        self.requested.swap(false, Ordering::Release);
    }
}

impl WarmUp {
    fn start(executor: &Executor, batches: u32, fails: bool) -> Self {
        let channel = Arc::new(Mutex::new(Channel::default()));
        let work = Work { next: 0, batches, fails, out: Sender(Arc::clone(&channel)) };
        let shared = Shared {
            work: Mutex::new(Some(work)),
            requested: AtomicBool::new(false),
            executor: executor.clone(),
            pieces: Mutex::new(0),
            piece_is_over: Condvar::new(),
        };
        let warm_up = Self { shared: Arc::new(shared), batches: channel };
        warm_up.request();
        warm_up
    }

    fn request(&self) {
        if !self.shared.requested.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(&self.shared);
            self.shared.executor.spawn(Priority::Idle, move || {
                shared.work();
                *lock(&shared.pieces) += 1;
                shared.piece_is_over.notify_all();
            });
        }
    }

    fn try_next(&mut self) -> Warm {
        let (message, sender_is_gone) = {
            let mut channel = lock(&self.batches);
            (channel.messages.pop_front(), channel.sender_is_gone)
        };
        match message {
            Some(message) => message,
            None if sender_is_gone => Warm::Failed,
            None => {
                self.request();
                Warm::NotYet
            }
        }
    }
}

/// Polls as the task thread does, except that it sleeps from a poll without a
/// result until some piece of work is over. A request that is neither waiting
/// nor at work, nor will be made again, lets it sleep for ever.
fn all_of(executor: &Executor, batches: u32, fails: bool) -> Vec<Warm> {
    let mut warm_up = WarmUp::start(executor, batches, fails);
    let mut heard = Vec::new();
    loop {
        let pieces = *lock(&warm_up.shared.pieces);
        match warm_up.try_next() {
            Warm::NotYet => {
                let mut now = lock(&warm_up.shared.pieces);
                while *now == pieces {
                    now = warm_up.shared.piece_is_over.wait(now).expect("nothing panics here");
                }
            }
            Warm::Batch(batch) => heard.push(Warm::Batch(batch)),
            end => {
                heard.push(end);
                return heard;
            }
        }
    }
}

#[test]
fn every_batch_arrives_once_and_then_the_end() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let heard = all_of(&executor, 2, false);
        assert_eq!(heard, [Warm::Batch(0), Warm::Batch(1), Warm::Done]);
        drop(threads);
    });
}

#[test]
fn with_two_threads_the_batches_stay_in_order() {
    check(2, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 2).unwrap();
        assert_eq!(all_of(&executor, 1, false), [Warm::Batch(0), Warm::Done]);
        drop(threads);
    });
}

#[test]
fn a_failure_arrives_after_the_batches_before_it() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        assert_eq!(all_of(&executor, 1, true), [Warm::Batch(0), Warm::Failed]);
        drop(threads);
    });
}

#[test]
fn the_model_is_like_the_source() {
    let source = include_str!("../../../src/restore/warm.rs");
    let model = include_str!("warm_up.rs");
    let part = |text: &str, start: &str, end: &str| {
        let start = text.find(start).expect("both have it");
        let end = text[start..].find(end).expect("it ends") + end.len();
        text[start..start + end]
            .replace("lock(&self.work)", "self.work.lock()")
            .replace("requested.swap(false", "requested.store(false")
    };
    for (start, end) in [
        ("    fn request(&self)", "spawn(Priority::Idle, move || "),
        ("    fn work(&self)", "let Some(mut running) = work.take() else { return };"),
        ("self.requested.s", "Ordering::Release);\n    }\n"),
    ] {
        let (model, source) = (part(model, start, end), part(source, start, end));
        assert_eq!(model, source, "bring the model in line with what has changed");
    }
}
