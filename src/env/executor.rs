//! Background work, in order of urgency, on a few threads or on none.
//!
//! Three queues: [`Urgent`](Priority::Urgent) work is short and somebody's
//! speed depends on it (copying frozen records out), [`Normal`](Priority::Normal)
//! work is what a checkpoint waits for (writing, uploading, publishing),
//! [`Idle`](Priority::Idle) work can wait (merging, warming up).
//!
//! Long work is not cut into tasks. Instead it *breathes*: between two pieces
//! of at most a few megabytes it calls [`Executor::breathe`], which runs what
//! is more urgent right there. So one thread serves many shards, and a merge
//! of gigabytes does not hold up the extraction of a freeze.
//!
//! # Who wakes whom
//!
//! A task thread at a barrier must neither make a system call nor wait for a
//! lock, so it leaves its task in a lock-free queue and goes on
//! ([`Executor::spawn_quietly`]). Threads that find nothing to do nap, for 16 ms
//! at most, and find it by themselves. Whoever has the time, or waits for the
//! outcome, wakes one at once ([`Executor::spawn`], [`Executor::wake`]); a
//! thread that takes one of several tasks wakes another; the end wakes all.
//!
//! With no threads at all, whoever waits for a result runs the queues
//! ([`Executor::run_one`]); that is how simulations stay deterministic. Nobody
//! naps then.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::Env;
use super::nap::{NapLength, Naps};
use super::sync::{AtomicBool, AtomicUsize, Ordering, Queue, fence, thread};

/// How urgent a task is; smaller is sooner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Priority {
    /// Short, and the task thread pays until it is done.
    Urgent,
    /// A checkpoint waits for it.
    Normal,
    /// Nobody waits for it.
    Idle,
}

const PRIORITIES: usize = 3;
/// The nap of a thread that has been idle for long. Longer, and a freeze after
/// a rest would wait longer for its extraction, during which the task thread
/// copies what it changes; shorter, and idle backends would cost more than the
/// 0.16 % of a processor that each thread takes now.
const LONGEST_NAP: Duration = Duration::from_millis(16);

type Task = Box<dyn FnOnce() + Send>;

struct Shared {
    tasks: [Queue<Task>; PRIORITIES],
    /// Tasks that were handed in and have been neither run to their end nor
    /// dropped. Counted before a task is queued and after it is over, so that
    /// zero means that there is nothing.
    unfinished: AtomicUsize,
    closed: AtomicBool,
    naps: Naps,
}

/// See the [module documentation](self). Cloning gives another handle to the
/// same queues.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
    threads: usize,
}

impl Executor {
    /// Starts `threads` threads called `name-0` and so on; none are needed.
    ///
    /// Whoever keeps the returned [`ExecutorThreads`] decides when they end.
    ///
    /// # Errors
    /// Whatever the system says when no thread can be had.
    pub fn start(env: &dyn Env, name: &str, threads: usize) -> io::Result<(Self, ExecutorThreads)> {
        let executor = Self {
            shared: Arc::new(Shared {
                tasks: std::array::from_fn(|_| Queue::new()),
                unfinished: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
                naps: Naps::new(),
            }),
            threads,
        };
        let mut running =
            ExecutorThreads { executor: executor.clone(), threads: Vec::with_capacity(threads) };
        for number in 0..threads {
            let executor = executor.clone();
            let body = Box::new(move || executor.run_until_closed());
            running.threads.push(env.spawn(&format!("{name}-{number}"), body)?);
        }
        Ok((executor, running))
    }

    /// Whether nobody but the callers of [`run_one`](Self::run_one) does the
    /// work.
    pub fn is_driven_by_caller(&self) -> bool {
        self.threads == 0
    }

    /// Hands in a task and sees to it that a napping thread takes it up at
    /// once. After the end of the executor the task is dropped unrun; a task
    /// that somebody waits for must say so when it is dropped.
    pub fn spawn(&self, priority: Priority, task: impl FnOnce() + Send + 'static) {
        self.spawn_quietly(priority, task);
        self.wake();
    }

    /// As [`spawn`](Self::spawn), without a lock or a system call: a thread
    /// finds the task when its nap is over, or when it is
    /// [woken](Self::wake) by somebody who waits for it.
    pub fn spawn_quietly(&self, priority: Priority, task: impl FnOnce() + Send + 'static) {
        let shared = &*self.shared;
        shared.unfinished.fetch_add(1, Ordering::Relaxed);
        shared.tasks[priority as usize].push(Box::new(task));
        // The end closes first and looks at the queues then; this is the other
        // way round. With a fence on either side, one of the two sees the
        // other, and the task is not forgotten in a queue.
        fence(Ordering::SeqCst);
        if self.is_closed() {
            self.drop_waiting();
        }
    }

    /// Ends the nap of a thread, for somebody who waits for what was handed in
    /// before.
    pub fn wake(&self) {
        self.shared.naps.call_one();
    }

    /// Runs the most urgent task there is, on this thread. `false` if there
    /// is none.
    pub fn run_one(&self) -> bool {
        self.run_at_least(Priority::Idle)
    }

    /// Called by a task between two pieces of its work: runs everything that
    /// is more urgent than `mine`, on this thread. Costs a few loads if there
    /// is nothing.
    pub fn breathe(&self, mine: Priority) {
        let more_urgent = match mine {
            Priority::Urgent => return,
            Priority::Normal => Priority::Urgent,
            Priority::Idle => Priority::Normal,
        };
        while self.is_waiting(more_urgent) && self.run_at_least(more_urgent) {}
    }

    /// Whether the end has been asked for: long idle work should give up.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// Whether no task is waiting or running, on whatever thread: nothing will
    /// happen any more unless somebody hands in a task.
    pub fn is_idle(&self) -> bool {
        // Acquire: what the tasks have done is seen by who learns it here.
        self.shared.unfinished.load(Ordering::Acquire) == 0
    }

    /// Whether a task waits that is at least as urgent as `least`.
    fn is_waiting(&self, least: Priority) -> bool {
        self.shared.tasks[..=least as usize].iter().any(|tasks| !tasks.is_empty())
    }

    /// Takes the most urgent task that is at least as urgent as `least`.
    fn take(&self, least: Priority) -> Option<Task> {
        self.shared.tasks[..=least as usize].iter().find_map(Queue::pop)
    }

    fn run_at_least(&self, least: Priority) -> bool {
        if self.is_closed() {
            return false;
        }
        self.take(least).is_some_and(|task| {
            self.run(task);
            true
        })
    }

    /// Runs a task that was taken. One that panics must not take the thread,
    /// and with it every shard, down; its own guards report the failure to
    /// whoever waits.
    fn run(&self, task: Task) {
        if catch_unwind(AssertUnwindSafe(task)).is_err() {
            tracing::error!("a background task panicked; what it worked for reports the failure");
        }
        self.shared.unfinished.fetch_sub(1, Ordering::Release);
    }

    /// Drops, at the end, what will not be run any more. A dropped task may
    /// tell somebody about it.
    fn drop_waiting(&self) {
        while let Some(task) = self.take(Priority::Idle) {
            drop(task);
            self.shared.unfinished.fetch_sub(1, Ordering::Release);
        }
    }

    fn run_until_closed(&self) {
        let mut nap = NapLength::up_to(LONGEST_NAP);
        while !self.is_closed() {
            if let Some(task) = self.take(Priority::Idle) {
                // Whoever woke this thread may have handed in more.
                if self.threads > 1 && self.is_waiting(Priority::Idle) {
                    self.wake();
                }
                self.run(task);
                nap.has_worked();
            } else {
                let naps = &self.shared.naps;
                naps.nap(&mut nap, || self.is_closed() || self.is_waiting(Priority::Idle));
            }
        }
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// The threads of an [`Executor`]. Dropping this lets each finish the task it
/// is at, drops the tasks that are still queued, and joins.
#[derive(Debug)]
pub struct ExecutorThreads {
    executor: Executor,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Drop for ExecutorThreads {
    fn drop(&mut self) {
        let shared = &*self.executor.shared;
        shared.closed.store(true, Ordering::Relaxed);
        // See `spawn_quietly`.
        fence(Ordering::SeqCst);
        shared.naps.call_all();
        self.executor.drop_waiting();
        let me = thread::current().id();
        for thread in self.threads.drain(..) {
            // The last handle may be dropped by a task on one of the threads
            // themselves; that one ends by itself.
            if thread.thread().id() != me {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::env::real::RealEnv;

    fn order_of(tasks: &[(Priority, u32)]) -> Vec<u32> {
        let (executor, _threads) = Executor::start(&RealEnv::new(), "test", 0).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        for &(priority, number) in tasks {
            let order = Arc::clone(&order);
            executor.spawn(priority, move || order.lock().push(number));
        }
        while executor.run_one() {}
        let order = order.lock();
        order.clone()
    }

    #[test]
    fn urgent_tasks_run_first_and_equals_in_order() {
        use Priority::{Idle, Normal, Urgent};
        assert_eq!(
            order_of(&[(Idle, 5), (Normal, 3), (Urgent, 1), (Normal, 4), (Urgent, 2)]),
            [1, 2, 3, 4, 5]
        );
    }

    #[test]
    fn breathing_runs_only_what_is_more_urgent() {
        let (executor, _threads) = Executor::start(&RealEnv::new(), "test", 0).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (priority, number) in
            [(Priority::Urgent, 1), (Priority::Normal, 2), (Priority::Idle, 3)]
        {
            let order = Arc::clone(&order);
            executor.spawn(priority, move || order.lock().push(number));
        }
        executor.breathe(Priority::Normal);
        assert_eq!(*order.lock(), [1]);
        executor.breathe(Priority::Idle);
        assert_eq!(*order.lock(), [1, 2]);
    }

    #[test]
    fn a_task_that_panics_does_not_end_the_thread() {
        let (executor, threads) = Executor::start(&RealEnv::new(), "test", 1).unwrap();
        let (done, wait) = crossbeam_channel::bounded(1);
        executor.spawn(Priority::Normal, || panic!("on purpose"));
        executor.spawn(Priority::Normal, move || done.send(()).unwrap());
        wait.recv().unwrap();
        drop(threads);
    }

    #[test]
    fn queued_tasks_are_dropped_not_run_at_the_end() {
        struct Told(crossbeam_channel::Sender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let (executor, threads) = Executor::start(&RealEnv::new(), "test", 0).unwrap();
        let (told, wait) = crossbeam_channel::bounded(2);
        let queued = Told(told.clone());
        executor.spawn(Priority::Normal, move || {
            let _queued = &queued;
            unreachable!("never run");
        });
        drop(threads);
        wait.recv().unwrap();
        let late = Told(told);
        executor.spawn(Priority::Normal, move || drop(late));
        wait.recv().unwrap();
    }
    #[test]
    fn a_task_that_is_handed_in_quietly_is_found_without_a_call() {
        let (executor, threads) = Executor::start(&RealEnv::new(), "test", 2).unwrap();
        let (done, wait) = crossbeam_channel::unbounded();
        for number in 0..100 {
            let done = done.clone();
            executor.spawn_quietly(Priority::Urgent, move || done.send(number).unwrap());
        }
        let mut numbers: Vec<_> = wait.iter().take(100).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..100));
        drop(threads);
    }

    #[test]
    fn an_executor_is_idle_when_its_last_task_is_over() {
        let (executor, _threads) = Executor::start(&RealEnv::new(), "test", 0).unwrap();
        assert!(executor.is_idle());
        let again = executor.clone();
        executor.spawn_quietly(Priority::Normal, move || {
            assert!(!again.is_idle(), "this task is not over");
            again.spawn(Priority::Idle, || panic!("on purpose"));
        });
        assert!(!executor.is_idle());
        assert!(executor.run_one());
        assert!(!executor.is_idle());
        assert!(executor.run_one());
        assert!(executor.is_idle(), "a panic is an end, too");
        assert!(!executor.run_one());
    }
}
