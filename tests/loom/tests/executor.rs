//! The executor: no task is lost, none runs twice, no worker sleeps through
//! one that somebody waits for, and the end is an end.

use std::sync::Arc;

use alluvium_loom::env::LoomEnv;
use alluvium_loom::env::executor::{Executor, Priority};
use alluvium_loom::{Gate, check, with_leaky_waits, with_naps_that_end};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

fn every_task_is_run() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let done = Arc::new(Gate::new(2));
        let other = {
            let (executor, done) = (executor.clone(), Arc::clone(&done));
            thread::spawn(move || executor.spawn(Priority::Normal, move || done.arrive()))
        };
        let arrive = Arc::clone(&done);
        executor.spawn(Priority::Urgent, move || arrive.arrive());
        done.wait();
        other.join().unwrap();
        drop(threads);
    });
}

#[test]
fn a_task_wakes_a_worker_whenever_it_comes() {
    every_task_is_run();
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_wait_that_is_not_atomic_is_caught() {
    with_leaky_waits(every_task_is_run);
}

/// Two tasks that are handed in quietly by two threads, and by nobody else.
fn every_quiet_task_is_run() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let done = Arc::new(Gate::new(2));
        let other = {
            let (executor, done) = (executor.clone(), Arc::clone(&done));
            thread::spawn(move || executor.spawn_quietly(Priority::Normal, move || done.arrive()))
        };
        let arrive = Arc::clone(&done);
        executor.spawn_quietly(Priority::Urgent, move || arrive.arrive());
        done.wait();
        other.join().unwrap();
        drop(threads);
    });
}

#[test]
fn a_quiet_task_is_found_at_the_end_of_a_nap() {
    with_naps_that_end(every_quiet_task_is_run);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_quiet_task_wakes_nobody() {
    every_quiet_task_is_run();
}

#[test]
fn whoever_waits_for_a_quiet_task_can_end_the_nap() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let done = Arc::new(Gate::new(1));
        let arrive = Arc::clone(&done);
        executor.spawn_quietly(Priority::Urgent, move || arrive.arrive());
        let other = thread::spawn(move || {
            executor.wake();
            done.wait();
        });
        other.join().unwrap();
        drop(threads);
    });
}

/// One is woken; since the first task ends only when the second has run, it
/// must have woken the other.
#[test]
fn who_finds_several_quiet_tasks_wakes_another_worker() {
    check(2, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 2).unwrap();
        let second_ran = Arc::new(Gate::new(1));
        let both_ran = Arc::new(Gate::new(2));
        let (wait, ran) = (Arc::clone(&second_ran), Arc::clone(&both_ran));
        executor.spawn_quietly(Priority::Normal, move || {
            wait.wait();
            ran.arrive();
        });
        let ran = Arc::clone(&both_ran);
        executor.spawn_quietly(Priority::Normal, move || {
            second_ran.arrive();
            ran.arrive();
        });
        executor.wake();
        both_ran.wait();
        drop(threads);
    });
}

/// Naps do not end by themselves here, so each worker is awake, or woken by the
/// end.
#[test]
fn a_nap_never_holds_up_the_end() {
    check(4, || {
        let (_executor, threads) = Executor::start(&LoomEnv, "loom", 2).unwrap();
        drop(threads);
    });
}

/// The first task ends only when the second has run: one worker is not enough,
/// and a signal that woke nobody, or the same one twice, would be a deadlock.
#[test]
fn each_of_two_tasks_gets_a_worker_of_its_own() {
    check(2, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 2).unwrap();
        let second_ran = Arc::new(Gate::new(1));
        let both_ran = Arc::new(Gate::new(2));
        let (wait, ran) = (Arc::clone(&second_ran), Arc::clone(&both_ran));
        executor.spawn(Priority::Normal, move || {
            wait.wait();
            ran.arrive();
        });
        let ran = Arc::clone(&both_ran);
        executor.spawn(Priority::Normal, move || {
            second_ran.arrive();
            ran.arrive();
        });
        both_ran.wait();
        drop(threads);
    });
}

/// One worker is at something long; what is urgent comes at any time, and is
/// run by whoever comes to it first: the long task as it breathes, or the
/// worker after it.
#[test]
fn what_comes_while_a_task_breathes_is_run_once() {
    check(3, || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let done = Arc::new(Gate::new(2));
        let runs = Arc::new(AtomicUsize::new(0));
        {
            let (executor, done) = (executor.clone(), Arc::clone(&done));
            executor.clone().spawn(Priority::Normal, move || {
                executor.breathe(Priority::Normal);
                executor.breathe(Priority::Normal);
                done.arrive();
            });
        }
        {
            let (runs, done) = (Arc::clone(&runs), Arc::clone(&done));
            executor.spawn(Priority::Urgent, move || {
                runs.fetch_add(1, Ordering::Relaxed);
                done.arrive();
            });
        }
        done.wait();
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        drop(threads);
    });
}

/// Counts its runs and its drops.
struct Fate {
    run: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

impl Drop for Fate {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Somebody waits for each task, so each must be run or dropped, whether it
/// comes before the end, during it or after it, or from a task.
fn every_task_is_run_or_dropped(spawn: fn(&Executor, Box<dyn FnOnce() + Send>)) {
    check(3, move || {
        let (executor, threads) = Executor::start(&LoomEnv, "loom", 1).unwrap();
        let run = Arc::new(AtomicUsize::new(0));
        let dropped = Arc::new(AtomicUsize::new(0));
        let task = |executor: Executor| {
            let fate = Fate { run: Arc::clone(&run), dropped: Arc::clone(&dropped) };
            let next = Fate { run: Arc::clone(&run), dropped: Arc::clone(&dropped) };
            move || {
                fate.run.fetch_add(1, Ordering::Relaxed);
                executor.spawn(Priority::Idle, move || {
                    next.run.fetch_add(1, Ordering::Relaxed);
                });
            }
        };
        let mine = task(executor.clone());
        let other = thread::spawn(move || spawn(&executor, Box::new(mine)));
        drop(threads);
        other.join().unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 2, "none is forgotten in a queue");
        assert!(run.load(Ordering::Relaxed) <= 2);
    });
}

#[test]
fn at_the_end_every_task_has_been_run_or_dropped() {
    every_task_is_run_or_dropped(|executor, task| executor.spawn(Priority::Normal, task));
}

#[test]
fn at_the_end_every_quiet_task_has_been_run_or_dropped() {
    every_task_is_run_or_dropped(|executor, task| executor.spawn_quietly(Priority::Normal, task));
}
