//! The layouts beside plain vectors and maps that share no code with them.
//!
//! Any bytes are a sequence of operations, so the unit tests run random ones
//! and a fuzzer (`fuzz/fuzz_targets/layouts.rs`) those that it finds
//! interesting. Epochs end at any time, and what the layouts say that an epoch
//! changed is applied to a model of the tables: those must then say what the
//! memory says. Memory runs out at any time, and nothing may have changed then.

mod list;
mod map;

use crate::base::{Error, Result};

use super::Buffer;

/// Does what the bytes say with one list or one map.
///
/// # Panics
/// If a layout says something else than its model.
pub(crate) fn run(bytes: &[u8]) {
    let mut script = Script { rest: bytes };
    if script.byte() & 1 == 0 { list::run(&mut script) } else { map::run(&mut script) }
}

/// Bytes that are read as choices; zeros when they have run out.
struct Script<'a> {
    rest: &'a [u8],
}

impl Script<'_> {
    fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        byte
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 1
    }

    /// A value: mostly short, sometimes longer than a page.
    fn value(&mut self) -> Vec<u8> {
        let len = match self.byte() {
            byte @ 0..=199 => usize::from(byte % 40),
            byte @ 200..=253 => usize::from(byte),
            _ => 5000,
        };
        vec![self.byte(); len]
    }

    /// When a thing expires: soon after `now`, or a little before, or never.
    fn expiry(&mut self, now: u64) -> u64 {
        match self.byte() {
            byte @ 0..=99 => now + u64::from(byte % 20),
            100..=119 => now.saturating_sub(1),
            _ => super::NEVER,
        }
    }
}

/// A buffer that refuses to grow when it is told to.
#[derive(Clone, Default)]
struct Scarce {
    bytes: Vec<u8>,
    refuses: bool,
}

impl Buffer for Scarce {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn splice(&mut self, at: usize, remove: usize, insert: usize) -> Result<()> {
        if self.refuses && insert > remove {
            return Err(Error::unavailable("no memory"));
        }
        Buffer::splice(&mut self.bytes, at, remove, insert)?;
        // Whoever relies on what new bytes hold is found out.
        self.bytes[at..at + insert].fill(0xaa);
        Ok(())
    }
}

/// Lets an operation on a buffer fail if the script says so: `None` if it did.
fn scarcely<T>(
    script: &mut Script<'_>,
    buffer: &mut Scarce,
    operation: impl FnOnce(&mut Scarce) -> Result<T>,
) -> Option<T> {
    let refuses = script.chance(16);
    let before = refuses.then(|| buffer.bytes.clone());
    buffer.refuses = refuses;
    let result = operation(buffer);
    buffer.refuses = false;
    match (result, before) {
        (Ok(value), _) => Some(value),
        (Err(_), Some(before)) => {
            assert!(before == buffer.bytes, "a failure changed something");
            None
        }
        (Err(error), None) => panic!("there was memory: {error}"),
    }
}
