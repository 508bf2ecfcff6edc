//! A store whose calls fail, lose their replies, take effect late, and take so long
//! that everybody else goes on meanwhile.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use alluvium::env::ReadAt;
use alluvium::object::{Contents, ObjectName, ObjectStore};
use alluvium::{Error, Result};

use crate::sim::{Sim, State};

/// Bytes that can be read anywhere.
#[derive(Debug)]
pub struct Bytes(pub Arc<[u8]>);

impl ReadAt for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let found = self.0.get(offset as usize..offset as usize + buf.len());
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What is to change in the store.
#[derive(Clone, Debug)]
pub enum Change {
    Create(String, Arc<[u8]>),
    Remove(String),
}

/// A change on its way, of a job whose name follows.
#[derive(Clone, Debug)]
pub struct Late {
    pub job: usize,
    pub change: Change,
}

/// How one call goes.
enum Fate {
    Well,
    /// Fails without effect.
    Fails,
    /// The reply is lost; nothing happened.
    InDoubt,
    /// The reply is lost; it happened.
    InDoubtDone,
    /// The reply is lost; it will happen.
    InDoubtLate,
}

/// The store as one process has it: what it calls ends when it crashes.
pub struct Door {
    sim: Weak<Sim>,
    pub job: usize,
    crashed: AtomicBool,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Door({})", self.job)
    }
}

fn crashed() -> Error {
    Error::unavailable("this process has crashed").ambiguous()
}

impl Door {
    pub fn new(sim: &Arc<Sim>, job: usize) -> Arc<Self> {
        Arc::new(Self { sim: Arc::downgrade(sim), job, crashed: AtomicBool::new(false) })
    }

    pub fn crash(&self) {
        self.crashed.store(true, Ordering::Relaxed);
    }

    pub fn is_crashed(&self) -> bool {
        self.crashed.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Result<Arc<Sim>> {
        let sim = self.sim.upgrade().ok_or_else(crashed)?;
        if self.is_crashed() {
            return Err(crashed());
        }
        sim.meanwhile();
        Ok(sim)
    }

    fn leave<T>(&self, sim: &Sim, result: Result<T>) -> Result<T> {
        sim.meanwhile();
        if self.is_crashed() {
            return Err(crashed());
        }
        result
    }

    fn read<T>(&self, act: impl FnOnce(&State) -> Result<T>) -> Result<T> {
        let sim = self.enter()?;
        let result = {
            let mut state = sim.state.lock();
            let chances = state.chances;
            if state.rng.one_in(chances.crash) {
                self.crash();
            }
            if state.rng.one_in(chances.fail) {
                state.tally.failed_calls += 1;
                Err(Error::unavailable("the store cannot be read now"))
            } else {
                act(&state)
            }
        };
        self.leave(&sim, result)
    }

    fn write(&self, change: Change) -> Result<()> {
        let sim = self.enter()?;
        let result = {
            let mut state = sim.state.lock();
            let chances = state.chances;
            let fate = if state.rng.one_in(chances.fail) {
                state.tally.failed_calls += 1;
                match state.rng.below(4) {
                    0 => Fate::Fails,
                    1 => Fate::InDoubt,
                    2 => Fate::InDoubtDone,
                    _ => Fate::InDoubtLate,
                }
            } else {
                Fate::Well
            };
            if state.rng.one_in(chances.crash) {
                self.crash();
            }
            let lost = || Error::unavailable("the reply was lost").ambiguous();
            match fate {
                Fate::Well => state.apply(self.job, change),
                Fate::Fails => Err(Error::unavailable("the store is busy")),
                Fate::InDoubt => Err(lost()),
                Fate::InDoubtDone => state.apply(self.job, change).and(Err(lost())),
                Fate::InDoubtLate => {
                    state.late.push(Late { job: self.job, change });
                    Err(lost())
                }
            }
        };
        self.leave(&sim, result)
    }
}

impl ObjectStore for Door {
    fn identity(&self) -> String {
        "the store".to_owned()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.write(Change::Create(name.as_str().to_owned(), bytes.into()))
    }

    fn create_from_file(
        &self,
        _name: &ObjectName,
        _local: &Path,
        _expected: &Contents,
        _keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        unreachable!("nobody here has files")
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        _keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let mut bytes = vec![0; source.len() as usize];
        source.read_at(0, &mut bytes).unwrap();
        assert_eq!(Contents::of(&bytes), *expected);
        self.create(name, &bytes)
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        self.read(|state| match state.objects.get(name.as_str()) {
            Some(bytes) => Ok(Arc::new(Bytes(Arc::clone(bytes))) as Arc<dyn ReadAt>),
            None => Err(Error::corrupt("the object is missing").at(name)),
        })
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.read(|state| Ok(state.objects.get(name.as_str()).map(|bytes| bytes.len() as u64)))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        self.read(|state| Ok(state.names(prefix).map(|n| ObjectName::new(n).unwrap()).collect()))
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.write(Change::Remove(name.as_str().to_owned()))
    }
}
