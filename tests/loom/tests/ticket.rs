//! The ticket: whoever waits for an outcome hears of it, whichever way it
//! comes, and whenever the waiting begins.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use alluvium_loom::base::{Error, ErrorKind, Result};
use alluvium_loom::env::LoomEnv;
use alluvium_loom::env::executor::{Executor, Priority};
use alluvium_loom::snapshot::{Promise, SnapshotReport, SnapshotTicket};
use alluvium_loom::{check, with_leaky_waits};
use loom::thread;

/// An outcome that is easily made.
fn outcome() -> Result<SnapshotReport> {
    Err(Error::unavailable("the outcome"))
}

fn kind(result: Result<SnapshotReport>) -> ErrorKind {
    result.expect_err("no model succeeds").kind()
}

fn two_waiters_hear_of_the_outcome() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let (promise, ticket) = Promise::new(&executor);
        executor.spawn(Priority::Normal, move || promise.keep(outcome()));
        let other = ticket.clone();
        let other = thread::spawn(move || kind(other.wait()));
        assert_eq!(kind(ticket.wait()), ErrorKind::Unavailable);
        assert_eq!(other.join().unwrap(), ErrorKind::Unavailable);
        drop(threads);
    });
}

#[test]
fn every_waiter_hears_of_the_outcome() {
    two_waiters_hear_of_the_outcome();
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_wait_that_is_not_atomic_is_caught() {
    with_leaky_waits(two_waiters_hear_of_the_outcome);
}

/// Nobody else wakes the worker: the ticket must.
fn a_snapshot_taken_quietly(heard: fn(SnapshotTicket) -> ErrorKind) {
    check(3, move || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let (promise, ticket) = Promise::new(&executor);
        executor.spawn_quietly(Priority::Urgent, move || promise.keep(outcome()));
        assert_eq!(heard(ticket), ErrorKind::Unavailable);
        drop(threads);
    });
}

#[test]
fn whoever_waits_wakes_the_background() {
    a_snapshot_taken_quietly(|ticket| kind(ticket.wait()));
}

#[test]
fn whoever_awaits_wakes_the_background() {
    a_snapshot_taken_quietly(|ticket| kind(block_on(ticket)));
}

#[test]
fn whoever_cancels_wakes_the_background() {
    a_snapshot_taken_quietly(|ticket| {
        ticket.cancel();
        // A look alone wakes nobody.
        loop {
            match ticket.try_poll() {
                Some(result) => return kind(result),
                None => thread::yield_now(),
            }
        }
    });
}

#[test]
fn closing_the_backend_leaves_no_waiter_behind() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let (promise, ticket) = Promise::new(&executor);
        executor.spawn(Priority::Normal, move || promise.keep(outcome()));
        let waiter = thread::spawn(move || kind(ticket.wait()));
        drop(threads);
        let heard = waiter.join().unwrap();
        assert!(matches!(heard, ErrorKind::Unavailable | ErrorKind::Closed), "{heard:?}");
    });
}

#[test]
fn a_promise_that_is_dropped_unkept_wakes_the_waiter() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let (promise, ticket) = Promise::new(&executor);
        executor.spawn(Priority::Normal, move || drop(promise));
        assert_eq!(kind(ticket.wait()), ErrorKind::Closed);
        drop(threads);
    });
}

/// Ends the sleep of one thread of the model.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn this_thread() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// As a runtime would do it: poll, sleep until the waker is called, poll again.
fn block_on(ticket: SnapshotTicket) -> Result<SnapshotReport> {
    let mut ticket = pin!(ticket);
    let waker = this_thread();
    loop {
        match ticket.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_task_that_awaits_it_is_woken() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let (promise, ticket) = Promise::new(&executor);
        executor.spawn(Priority::Normal, move || promise.keep(outcome()));
        assert_eq!(kind(block_on(ticket)), ErrorKind::Unavailable);
        drop(threads);
    });
}

/// A future may move to another task between two polls; the waker of the last
/// poll counts.
#[test]
fn a_future_that_moves_to_another_task_wakes_that_one() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let (promise, mut ticket) = Promise::new(&executor);
        executor.spawn(Priority::Normal, move || promise.keep(outcome()));
        let first = pin!(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
        if first.is_pending() {
            let second = thread::spawn(move || kind(block_on(ticket)));
            assert_eq!(second.join().unwrap(), ErrorKind::Unavailable);
        }
        drop(threads);
    });
}

/// One waits, one awaits, and nobody runs the background but they.
#[test]
fn without_background_threads_the_waiter_does_the_work() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 0).unwrap();
        let (promise, ticket) = Promise::new(&executor);
        executor.spawn(Priority::Normal, move || promise.keep(outcome()));
        assert_eq!(kind(ticket.wait()), ErrorKind::Unavailable);
        drop(threads);
    });
}
