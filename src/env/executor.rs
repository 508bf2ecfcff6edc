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
//! With no threads at all, whoever waits for a result runs the queues
//! ([`Executor::run_one`]); that is how simulations stay deterministic.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Env;
use super::sync::{AtomicUsize, Condvar, Mutex, Ordering, thread};

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

type Task = Box<dyn FnOnce() + Send>;

struct Queues {
    tasks: [VecDeque<Task>; PRIORITIES],
    /// Tasks that have been taken out and are not over.
    running: usize,
    closed: bool,
}

impl Queues {
    /// The most urgent task that is at least as urgent as `least`. It counts as
    /// running from now on.
    fn pop(&mut self, least: Priority) -> Option<Task> {
        let task = self.tasks[..=least as usize].iter_mut().find_map(VecDeque::pop_front);
        self.running += usize::from(task.is_some());
        task
    }
}

struct Shared {
    queues: Mutex<Queues>,
    arrived: Condvar,
    /// Tasks in each queue, so that breathing costs one load and no lock.
    waiting: [AtomicUsize; PRIORITIES],
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
                queues: Mutex::new(Queues {
                    tasks: std::array::from_fn(|_| VecDeque::new()),
                    running: 0,
                    closed: false,
                }),
                arrived: Condvar::new(),
                waiting: std::array::from_fn(|_| AtomicUsize::new(0)),
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

    /// Hands in a task. After the end of the executor the task is dropped
    /// unrun; a task that somebody waits for must say so when it is dropped.
    pub fn spawn(&self, priority: Priority, task: impl FnOnce() + Send + 'static) {
        let mut queues = self.shared.queues.lock();
        if queues.closed {
            drop(queues);
            drop(task);
            return;
        }
        queues.tasks[priority as usize].push_back(Box::new(task));
        self.shared.waiting[priority as usize].fetch_add(1, Ordering::Relaxed);
        drop(queues);
        self.shared.arrived.notify_one();
    }

    /// Runs the most urgent task there is, on this thread. `false` if there
    /// is none.
    pub fn run_one(&self) -> bool {
        self.run_at_least(Priority::Idle)
    }

    /// Called by a task between two pieces of its work: runs everything that
    /// is more urgent than `mine`, on this thread. Costs a load or two if
    /// there is nothing.
    pub fn breathe(&self, mine: Priority) {
        let more_urgent = match mine {
            Priority::Urgent => return,
            Priority::Normal => Priority::Urgent,
            Priority::Idle => Priority::Normal,
        };
        while self.shared.waiting[..=more_urgent as usize]
            .iter()
            .any(|waiting| waiting.load(Ordering::Relaxed) > 0)
            && self.run_at_least(more_urgent)
        {}
    }

    /// Whether the end has been asked for: long idle work should give up.
    pub fn is_closed(&self) -> bool {
        self.shared.queues.lock().closed
    }

    /// Whether no task is waiting or running, on whatever thread: nothing will
    /// happen any more unless somebody hands in a task.
    pub fn is_idle(&self) -> bool {
        let queues = self.shared.queues.lock();
        queues.running == 0 && queues.tasks.iter().all(VecDeque::is_empty)
    }

    fn run_at_least(&self, least: Priority) -> bool {
        let task = {
            let mut queues = self.shared.queues.lock();
            let task = queues.pop(least);
            self.note_waiting(&queues);
            task
        };
        task.is_some_and(|task| {
            self.run(task);
            true
        })
    }

    /// Runs a task that was popped. One that panics must not take the thread,
    /// and with it every shard, down; its own guards report the failure to
    /// whoever waits.
    fn run(&self, task: Task) {
        if catch_unwind(AssertUnwindSafe(task)).is_err() {
            tracing::error!("a background task panicked; what it worked for reports the failure");
        }
        self.shared.queues.lock().running -= 1;
    }

    fn note_waiting(&self, queues: &Queues) {
        for (waiting, tasks) in self.shared.waiting.iter().zip(&queues.tasks) {
            waiting.store(tasks.len(), Ordering::Relaxed);
        }
    }

    fn run_until_closed(&self) {
        loop {
            let task = {
                let mut queues = self.shared.queues.lock();
                loop {
                    if queues.closed {
                        return;
                    }
                    if let Some(task) = queues.pop(Priority::Idle) {
                        self.note_waiting(&queues);
                        break task;
                    }
                    self.shared.arrived.wait(&mut queues);
                }
            };
            self.run(task);
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
        let left = {
            let mut queues = self.executor.shared.queues.lock();
            queues.closed = true;
            std::mem::replace(&mut queues.tasks, std::array::from_fn(|_| VecDeque::new()))
        };
        self.executor.shared.arrived.notify_all();
        // Outside the lock: a dropped task may tell somebody about it.
        drop(left);
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
        let (done, wait) = crossbeam::channel::bounded(1);
        executor.spawn(Priority::Normal, || panic!("on purpose"));
        executor.spawn(Priority::Normal, move || done.send(()).unwrap());
        wait.recv().unwrap();
        drop(threads);
    }

    #[test]
    fn queued_tasks_are_dropped_not_run_at_the_end() {
        struct Told(crossbeam::channel::Sender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let (executor, threads) = Executor::start(&RealEnv::new(), "test", 0).unwrap();
        let (told, wait) = crossbeam::channel::bounded(2);
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
}
