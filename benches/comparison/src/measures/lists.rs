//! Lists: appending an element, and reading a list of ten.
//!
//! Every list gets ten elements in passes over all keys, each in another order.
//! Then lists are read. Then they are brought to all lengths, off the clock, and
//! appended to; a list of [`LONGEST`] elements is cleared, off the clock, and begins
//! anew.

use std::hint::black_box;

use super::kinds::{CHUNK, Clock, Contestant, Prepare, compare, contestants, section};
use super::{EngineDir, with_sizes};
use crate::Result;
use crate::engines::kinds::{Kinds, KindsVisitor};
use crate::options::Cli;
use crate::report::{Report, Section, keys_name};
use crate::workload::{Random, bump, counter_of, key, scatter, value};

/// Elements of a list that is read.
const ELEMENTS: u8 = 10;
/// Elements of a list that is cleared.
const LONGEST: u8 = 20;
const READ: usize = 0;
const APPEND: usize = 1;

struct Runner<E, const K: usize, const V: usize> {
    engine: E,
    keys: u64,
    keeps: bool,
    /// Appends so far; each pass over all keys is in another order.
    appended: u64,
    /// Of each list, how many elements it has got in its life and how many of
    /// them it still has.
    got: Vec<u32>,
    has: Vec<u8>,
    /// Whether the lists have different lengths yet.
    staggered: bool,
    picks: Random,
    /// Keys and elements of a chunk, made before the clock starts.
    chunk: Vec<([u8; K], [u8; V])>,
    _dir: EngineDir,
}

/// The element that a list gets as its `number`th, counted from one.
fn element<const V: usize>(index: u64, number: u32) -> [u8; V] {
    let mut element = value::<V>(index);
    bump(&mut element, number.into());
    element
}

impl<E: Kinds<K, V>, const K: usize, const V: usize> Runner<E, K, V> {
    /// Makes the next chunk of appends, all of one pass: a list that came twice
    /// would be cleared between the two, but is cleared before the chunk is done.
    fn spell_appends(&mut self) -> Result<()> {
        self.chunk.clear();
        let left_of_pass = self.keys - self.appended % self.keys;
        for _ in 0..left_of_pass.min(CHUNK as u64) {
            let (pass, at) = (self.appended / self.keys, self.appended % self.keys);
            let index = (scatter(at, self.keys) + pass.wrapping_mul(0x9e37_79b9)) % self.keys;
            self.appended += 1;
            if self.has[index as usize] == LONGEST {
                self.clear(index)?;
            }
            self.note_append(index);
        }
        black_box(&mut self.chunk);
        Ok(())
    }

    fn note_append(&mut self, index: u64) {
        let at = index as usize;
        self.got[at] += 1;
        self.has[at] += 1;
        self.chunk.push((key(index), element(index, self.got[at])));
    }

    fn clear(&mut self, index: u64) -> Result<()> {
        self.has[index as usize] = 0;
        self.engine.clear(&key(index))
    }

    fn append(&mut self) -> Result<()> {
        self.chunk.iter().try_for_each(|(key, element)| self.engine.append(key, element))
    }

    fn fill(&mut self) -> Result<()> {
        let all = u64::from(ELEMENTS) * self.keys;
        while self.appended < all {
            self.spell_appends()?;
            self.append()?;
        }
        self.engine.settle()
    }

    /// Makes lists of every length, so that at any time some are new, some have
    /// just grown and some are about to be cleared.
    fn stagger(&mut self) -> Result<()> {
        for index in 0..self.keys {
            let length = (index % u64::from(LONGEST)) as u8;
            if length < ELEMENTS {
                self.clear(index)?;
            }
            self.chunk.clear();
            while self.has[index as usize] < length {
                self.note_append(index);
            }
            self.append()?;
        }
        self.staggered = true;
        self.engine.settle()
    }
}

impl<E: Kinds<K, V>, const K: usize, const V: usize> Contestant for Runner<E, K, V> {
    fn work(&mut self, task: usize, clock: &mut Clock) -> Result<()> {
        if task == APPEND {
            if !self.staggered {
                self.stagger()?;
            }
            self.spell_appends()?;
            return clock.time(self.chunk.len() as u64, || self.append());
        }
        self.chunk.clear();
        for _ in 0..CHUNK {
            self.chunk.push((key(self.picks.below(self.keys)), [0; V]));
        }
        black_box(&mut self.chunk);
        let (mut elements, mut sum) = (0, 0_u64);
        clock.time(CHUNK as u64, || {
            self.chunk.iter().try_for_each(|(key, _)| {
                self.engine.read(key, |element| {
                    elements += 1;
                    sum = sum.wrapping_add(counter_of(element).unwrap_or(0));
                })
            })
        })?;
        // The elements of each list are numbered from one.
        let (chunk, each) = (CHUNK as u64, u64::from(ELEMENTS));
        let expected = (each * chunk, each * (each + 1) / 2 * chunk);
        if self.keeps && (elements, sum) != expected {
            return Err(format!(
                "{chunk} lists were read wrongly: expected elements and their sum {expected:?}, \
                 found {:?}",
                (elements, sum)
            )
            .into());
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.engine.settle()
    }

    fn check(&mut self, name: &str) -> Result<()> {
        if !self.keeps {
            return Ok(());
        }
        for _ in 0..128 {
            let index = self.picks.below(self.keys);
            let (got, has) = (self.got[index as usize], self.has[index as usize]);
            let expected: Vec<Vec<u8>> = (got - u32::from(has) + 1..=got)
                .map(|number| element::<V>(index, number).to_vec())
                .collect();
            let mut found: Vec<Vec<u8>> = Vec::new();
            self.engine.read(&key(index), |element| found.push(element.to_vec()))?;
            if found != expected {
                return Err(format!(
                    "{name} has another list of key {index} than was appended to: expected {has} \
                     elements, found {}",
                    found.len()
                )
                .into());
            }
        }
        Ok(())
    }
}

struct Lists<'a> {
    prepare: Prepare<'a>,
    keys: u64,
    seed: u64,
}

impl<const K: usize, const V: usize> KindsVisitor<K, V> for Lists<'_> {
    type Output = Result<Box<dyn Contestant>>;

    fn visit<E: Kinds<K, V> + 'static>(self) -> Self::Output {
        let mut runner = Runner::<E, K, V> {
            engine: super::kinds::engine(&self.prepare)?,
            keys: self.keys,
            keeps: self.prepare.keeps,
            appended: 0,
            got: vec![0; self.keys as usize],
            has: vec![0; self.keys as usize],
            staggered: false,
            picks: Random::new(self.seed),
            chunk: Vec::with_capacity(CHUNK),
            _dir: self.prepare.dir,
        };
        runner.fill()?;
        Ok(Box::new(runner))
    }
}

/// Runs the measure at every size.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    for keys in cli.keys_or(&[100_000, 1_000_000], &[5_000]) {
        for value_bytes in cli.value_bytes_or(&[32], &[32]) {
            report.add(with_sizes!(cli.key_bytes, value_bytes, at_size, cli, keys)?);
        }
    }
    Ok(())
}

fn at_size<const K: usize, const V: usize>(cli: &Cli, keys: u64) -> Result<Section> {
    let settings = cli.settings();
    let title = format!("{} keys of {K} B, elements of {V} B", keys_name(keys));
    let mut section = section("lists", title, cli)
        .parameter("keys", keys)
        .parameter("key_bytes", K)
        .parameter("value_bytes", V);
    let mut all = contestants::<K, V, _>(cli, &settings, "lists", |prepare| Lists {
        prepare,
        keys,
        seed: cli.seed,
    })?;
    let tasks = [(READ, "read a list of 10"), (APPEND, "append an element")];
    compare(cli, &mut section, "lists", &mut all, &tasks)?;
    for (name, contestant) in &mut all {
        contestant.check(name)?;
    }
    section.note(format!(
        "Lists are read with {ELEMENTS} elements each, and have 1 to {LONGEST} after an append."
    ));
    Ok(section)
}
