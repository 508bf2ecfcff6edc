//! The values of all states: things that know which version of the job wrote
//! them, and how many steps of a migration they have gone.

use std::sync::Arc;

use alluvium::codec::{Codec, CodecId, Evolving};
use alluvium::{Aggregate, Error, Result};

use crate::runtime::Door;

/// The last version of the job.
pub const LAST_VERSION: u8 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thing {
    pub number: u32,
    /// The version that wrote it.
    pub by: u8,
    /// Migrations since.
    pub steps: u8,
}

impl Thing {
    /// As one version lays it out: no two of them do it alike.
    pub fn bytes(self, version: u8) -> Vec<u8> {
        let mut bytes = vec![version];
        bytes.extend(self.number.to_be_bytes());
        bytes.extend([self.by, self.steps]);
        let filler = match self.number % 60 {
            0 => 2_500,
            1 | 2 => 300,
            _ => self.number % 23,
        };
        bytes.resize(bytes.len() + filler as usize + usize::from(version), version);
        bytes
    }
}

/// How one version lays things out.
#[derive(Clone, Copy, Debug)]
pub struct Layout(u8);

impl Codec<Thing> for Layout {
    fn id(&self) -> CodecId {
        CodecId::new("lives.thing", u32::from(self.0))
    }

    fn encode(&self, thing: &Thing, out: &mut Vec<u8>) -> Result<()> {
        out.extend(thing.bytes(self.0));
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Thing> {
        let refuse = || Error::corrupt("no thing").expected(self.0).found(format!("{bytes:?}"));
        let &[_, a, b, c, d, by, steps, ..] = bytes else { return Err(refuse()) };
        let thing = Thing { number: u32::from_be_bytes([a, b, c, d]), by, steps };
        if thing.bytes(self.0) == bytes { Ok(thing) } else { Err(refuse()) }
    }
}

pub type ThingCodec = Evolving<Thing, Layout>;

/// The codec of a version of the job, which reads what all before it wrote.
pub fn codec(version: u8, door: &Arc<Door>) -> ThingCodec {
    let mut codec = Evolving::new(Layout(version));
    for older in (1..version).rev() {
        let door = Arc::clone(door);
        codec = codec.older(Layout(older), move |thing| {
            door.open();
            Thing { steps: thing.steps + 1, ..thing }
        });
    }
    codec
}

/// What two numbers become in a reducing state; the order matters.
pub fn reduced(old: u32, new: u32) -> u32 {
    old.wrapping_mul(33).wrapping_add(new)
}

/// What two accumulators become when namespaces are merged.
pub fn accumulated(into: u32, from: u32) -> u32 {
    into.wrapping_mul(35).wrapping_add(from) ^ 5
}

/// The number of an accumulator of nothing.
pub const NOTHING: u32 = 77;

/// Aggregates numbers, in a version of the job.
#[derive(Clone, Copy, Debug)]
pub struct Numbers(pub u8);

impl Aggregate for Numbers {
    type In = u32;
    type Acc = Thing;
    type Out = Thing;

    fn create(&self) -> Thing {
        Thing { number: NOTHING, by: self.0, steps: 0 }
    }

    fn add(&self, acc: &mut Thing, value: u32) {
        *acc = Thing { number: reduced(acc.number, value), by: self.0, steps: 0 };
    }

    fn merge(&self, into: &mut Thing, from: Thing) {
        *into = Thing { number: accumulated(into.number, from.number), by: self.0, steps: 0 };
    }

    fn result(&self, acc: Thing) -> Thing {
        acc
    }
}
