//! The executor, and the little of the world that it needs.

use std::io;

#[path = "../../../src/env/executor.rs"]
pub mod executor;
#[path = "../../../src/env/nap.rs"]
mod nap;

pub(crate) mod sync {
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(crate) use loom::thread;

    pub(crate) use crate::sync::{Condvar, Mutex, Queue};
}

/// What the executor asks of the world: threads.
pub trait Env {
    /// Starts a thread of the model.
    ///
    /// # Errors
    /// Never.
    fn spawn(
        &self,
        name: &str,
        body: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<loom::thread::JoinHandle<()>>;
}

/// The world of a model.
#[derive(Debug)]
pub struct LoomEnv;

impl Env for LoomEnv {
    fn spawn(
        &self,
        name: &str,
        body: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<loom::thread::JoinHandle<()>> {
        loom::thread::Builder::new().name(name.to_owned()).spawn(body)
    }
}
