//! Waiting for several things at once, on threads that last as long as it takes.
//!
//! For calls that wait for somebody far away and compute little: opening objects,
//! storing them. The caller's thread does its share, so that everything is done even if
//! no thread can be had.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Env;
use super::sync::thread;
use crate::base::{Error, Result};

struct Shared<T, R> {
    waiting: Mutex<VecDeque<(usize, T)>>,
    done: Mutex<Vec<Option<Result<R>>>>,
}

impl<T, R> Shared<T, R> {
    /// Does what waits, until nothing does or something has failed.
    fn work(&self, work: &impl Fn(T) -> Result<R>) {
        loop {
            let Some((number, item)) = self.waiting.lock().pop_front() else { return };
            let done = work(item);
            if done.is_err() {
                self.waiting.lock().clear();
            }
            self.done.lock()[number] = Some(done);
        }
    }
}

/// Does `work` with each of the items, up to `at_once` at a time, in their order as far as
/// one waits for another; with one at a time, on this thread alone. Gives the results in
/// the order of the items.
///
/// # Errors
/// The first in that order of those that were met: after one nothing more is begun.
pub(crate) fn for_each<T: Send + 'static, R: Send + 'static>(
    env: &dyn Env,
    name: &str,
    at_once: usize,
    items: Vec<T>,
    work: impl Fn(T) -> Result<R> + Send + Sync + 'static,
) -> Result<Vec<R>> {
    let count = items.len();
    let shared = Arc::new(Shared {
        waiting: Mutex::new(items.into_iter().enumerate().collect()),
        done: Mutex::new((0..count).map(|_| None).collect()),
    });
    let work = Arc::new(work);
    let mut threads: Vec<thread::JoinHandle<()>> = Vec::new();
    for number in 1..at_once.min(count) {
        let (shared, work) = (Arc::clone(&shared), Arc::clone(&work));
        let body = Box::new(move || shared.work(&*work));
        match env.spawn(&format!("{name}-{number}"), body) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                tracing::debug!(%error, "no thread could be had to do several things at once");
                break;
            }
        }
    }
    shared.work(&*work);
    let mut panicked = false;
    for thread in threads {
        panicked |= thread.join().is_err();
    }
    let done = std::mem::take(&mut *shared.done.lock());
    let mut results = Vec::with_capacity(count);
    for outcome in done.into_iter().flatten() {
        results.push(outcome?);
    }
    if panicked || results.len() < count {
        return Err(Error::internal("a thread that did one of several things panicked").at(name));
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use parking_lot::Condvar;

    use super::*;
    use crate::env::real::RealEnv;

    #[test]
    fn all_is_done_in_order_and_so_many_at_a_time() {
        let env = RealEnv::new();
        for at_once in 1..=4_usize {
            // Each waits until as many as may be are there: with fewer it would for ever.
            let there = Arc::new((Mutex::new((0, 0)), Condvar::new()));
            let work = move |item: usize| {
                let (counts, changed) = &*there;
                let mut counts = counts.lock();
                counts.0 += 1;
                counts.1 = counts.1.max(counts.0);
                changed.notify_all();
                while counts.1 < at_once {
                    changed.wait(&mut counts);
                }
                assert!(counts.0 <= at_once);
                counts.0 -= 1;
                Ok(item * 2)
            };
            let done = for_each(&env, "test", at_once, (0..20).collect(), work).unwrap();
            assert!(done.into_iter().eq((0..20).map(|item| item * 2)));
        }
    }

    #[test]
    fn after_a_failure_nothing_more_is_begun() {
        let begun = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&begun);
        let work = move |item: u32| {
            noted.lock().push(item);
            if item < 3 { Ok(item) } else { Err(Error::unavailable(format!("item {item}"))) }
        };
        let error = for_each(&RealEnv::new(), "test", 1, (0..10).collect(), work).unwrap_err();
        assert!(error.to_string().contains("item 3"), "{error}");
        assert_eq!(*begun.lock(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_panic_is_an_error_for_the_caller() {
        let me = std::thread::current().id();
        let there = Arc::new((Mutex::new(0), Condvar::new()));
        let work = move |_: u32| {
            let (count, changed) = &*there;
            let mut count = count.lock();
            *count += 1;
            changed.notify_all();
            while *count < 2 {
                changed.wait(&mut count);
            }
            assert!(std::thread::current().id() == me, "on purpose");
            Ok(())
        };
        let error = for_each(&RealEnv::new(), "test", 2, vec![1, 2], work).unwrap_err();
        assert_eq!(error.kind(), crate::base::ErrorKind::Internal);
    }
}
