//! A clock and a source that a test moves.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;

use alluvium::env::{Env, Fs, RealEnv};
use alluvium::{Error, Result};
use alluvium_timely::{Next, Reader, Source};

/// The real world, but for its wall clock.
#[derive(Debug)]
pub(crate) struct World {
    real: RealEnv,
    pub(crate) now: AtomicU64,
    /// By how much it goes on with each look: so it may do so between any two.
    pub(crate) step: AtomicU64,
    /// How often somebody looked at the clock.
    pub(crate) looks: AtomicU64,
}

impl World {
    /// At a time.
    pub(crate) fn at(now: u64) -> Arc<Self> {
        let (step, looks) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { real: RealEnv::new(), now: AtomicU64::new(now), step, looks })
    }

    /// Moves the clock.
    pub(crate) fn set(&self, now: u64) {
        self.now.store(now, SeqCst);
    }
}

impl Env for World {
    fn fs(&self) -> &dyn Fs {
        self.real.fs()
    }

    fn unix_time_ms(&self) -> u64 {
        self.looks.fetch_add(1, SeqCst);
        self.now.fetch_add(self.step.load(SeqCst), SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.real.monotonic_ns()
    }

    fn random_u64(&self) -> u64 {
        self.real.random_u64()
    }

    fn spawn(
        &self,
        name: &str,
        body: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<JoinHandle<()>> {
        self.real.spawn(name, body)
    }
}

/// The numbers from 0, as far as the test lets them come.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    /// The first that does not come yet.
    pub(crate) limit: AtomicU64,
    /// With the limit the input is at its end.
    pub(crate) ends: AtomicBool,
    /// It fails.
    pub(crate) fails: AtomicBool,
    /// How often it was asked.
    pub(crate) asked: AtomicU64,
}

#[derive(Clone)]
pub(crate) struct Numbers {
    pub(crate) feed: Arc<Feed>,
    pub(crate) next: u64,
}

impl Source for Numbers {
    type Item = u64;
    type Reader = Self;

    fn splits(&self) -> Result<u32> {
        Ok(1)
    }

    fn open(&self, _: u32, position: Option<u64>) -> Result<Self> {
        Ok(Self { feed: Arc::clone(&self.feed), next: position.unwrap_or(0) })
    }
}

impl Reader for Numbers {
    type Item = u64;

    fn next(&mut self) -> Result<Next<u64>> {
        self.feed.asked.fetch_add(1, SeqCst);
        if self.feed.fails.load(SeqCst) {
            return Err(Error::invalid("a failure on purpose"));
        }
        // Read before the limit, which is set first.
        let ends = self.feed.ends.load(SeqCst);
        if self.next < self.feed.limit.load(SeqCst) {
            self.next += 1;
            return Ok(Next::Record(self.next - 1));
        }
        Ok(if ends { Next::End } else { Next::Idle })
    }

    fn position(&self) -> u64 {
        self.next
    }
}

impl Feed {
    pub(crate) fn until(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit: AtomicU64::new(limit), ..Self::default() })
    }

    pub(crate) fn end(&self) {
        self.ends.store(true, SeqCst);
    }
}
