//! Maps of twenty entries: scanning one, getting and putting a single entry.

use std::hint::black_box;

use super::kinds::{CHUNK, Clock, Contestant, Prepare, compare, contestants, section};
use super::{EngineDir, with_sizes};
use crate::Result;
use crate::engines::kinds::{ENTRY_BYTES, Kinds, KindsVisitor};
use crate::options::Cli;
use crate::report::{Report, Section, keys_name};
use crate::workload::{Random, bump, counter_of, key, scatter, value};

/// Entries of a map.
const ENTRIES: u64 = 20;
const SCAN: usize = 0;
const GET: usize = 1;
const PUT: usize = 2;
const GET_AND_PUT: usize = 3;

/// An entry of a map and a value for it.
type Operation<const K: usize, const V: usize> = ([u8; K], [u8; ENTRY_BYTES], [u8; V]);

struct Runner<E, const K: usize, const V: usize> {
    engine: E,
    keys: u64,
    keeps: bool,
    picks: Random,
    /// What each entry was put last, as a counter.
    expected: Vec<u32>,
    written: u32,
    /// The entries of a chunk and what they are to become, made before the clock
    /// starts.
    numbers: Vec<u64>,
    chunk: Vec<Operation<K, V>>,
    _dir: EngineDir,
}

/// The key of an entry of a map: in no order, and different for every map.
fn entry(index: u64, number: u64) -> [u8; ENTRY_BYTES] {
    key(index.wrapping_mul(ENTRIES).wrapping_add(number) ^ 1 << 60)
}

impl<E: Kinds<K, V>, const K: usize, const V: usize> Runner<E, K, V> {
    fn fill(&mut self) -> Result<()> {
        let all = self.keys * ENTRIES;
        for at in 0..all {
            let number = scatter(at, all);
            let index = number / ENTRIES;
            self.engine.put(&key(index), &entry(index, number % ENTRIES), &value::<V>(index))?;
        }
        self.engine.settle()
    }

    /// Draws entries, and a new value for each if there is to be one.
    fn spell(&mut self, puts: bool) {
        self.numbers.clear();
        self.chunk.clear();
        for _ in 0..CHUNK {
            let number = self.picks.below(self.keys * ENTRIES);
            let index = number / ENTRIES;
            let mut new = [0; V];
            if puts {
                self.written += 1;
                new = value(index);
                bump(&mut new, self.written.into());
            }
            self.numbers.push(number);
            self.chunk.push((key(index), entry(index, number % ENTRIES), new));
        }
        black_box(&mut self.chunk);
    }

    /// Gets all entries of the chunk; gives the sum of their counters.
    #[inline]
    fn get_all(&mut self) -> Result<u64> {
        let mut sum = 0_u64;
        for (key, entry, _) in &self.chunk {
            let counter = self.engine.get(key, entry)?.ok_or("an entry of a map was lost")?;
            sum = sum.wrapping_add(counter);
        }
        Ok(sum)
    }

    fn note_puts(&mut self) {
        let first = self.written - CHUNK as u32;
        for (written, &number) in (first + 1..).zip(&self.numbers) {
            self.expected[number as usize] = written;
        }
    }

    fn check_sum(&self, found: u64, expected: u64) -> Result<()> {
        if self.keeps && found != expected {
            return Err(format!(
                "maps were read wrongly: expected counters of {expected} in sum, found {found}"
            )
            .into());
        }
        Ok(())
    }
}

impl<E: Kinds<K, V>, const K: usize, const V: usize> Contestant for Runner<E, K, V> {
    fn work(&mut self, task: usize, clock: &mut Clock) -> Result<()> {
        self.spell(task == PUT || task == GET_AND_PUT);
        let expected = |runner: &Self| -> u64 {
            runner.numbers.iter().map(|&at| u64::from(runner.expected[at as usize])).sum()
        };
        match task {
            SCAN => {
                let (mut entries, mut sum) = (0, 0_u64);
                clock.time(CHUNK as u64, || {
                    self.chunk.iter().try_for_each(|(key, ..)| {
                        self.engine.scan(key, |_, value| {
                            entries += 1;
                            sum = sum.wrapping_add(counter_of(value).unwrap_or(0));
                        })
                    })
                })?;
                let of_map = |&number: &u64| {
                    let first = (number / ENTRIES * ENTRIES) as usize;
                    self.expected[first..first + ENTRIES as usize].iter().map(|&n| u64::from(n))
                };
                if self.keeps && entries != ENTRIES * CHUNK as u64 {
                    return Err(format!("{CHUNK} maps have {entries} entries").into());
                }
                self.check_sum(sum, self.numbers.iter().flat_map(of_map).sum())
            }
            GET => {
                let sum = clock.time(CHUNK as u64, || self.get_all())?;
                self.check_sum(sum, expected(self))
            }
            PUT => {
                clock.time(CHUNK as u64, || {
                    self.chunk
                        .iter()
                        .try_for_each(|(key, entry, value)| self.engine.put(key, entry, value))
                })?;
                self.note_puts();
                Ok(())
            }
            _ => {
                // An entry that is drawn twice is put before it is got again.
                clock.time(CHUNK as u64, || {
                    self.chunk.iter().try_for_each(|(key, entry, value)| {
                        let counter = self.engine.get(key, entry)?;
                        black_box(counter.ok_or("an entry of a map was lost")?);
                        self.engine.put(key, entry, value)
                    })
                })?;
                self.note_puts();
                Ok(())
            }
        }
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
            let mut expected: Vec<_> = (0..ENTRIES)
                .map(|number| {
                    let mut value = value::<V>(index);
                    bump(&mut value, self.expected[(index * ENTRIES + number) as usize].into());
                    (entry(index, number).to_vec(), value.to_vec())
                })
                .collect();
            expected.sort_unstable();
            let mut found = Vec::new();
            self.engine.scan(&key(index), |entry, value| {
                found.push((entry.to_vec(), value.to_vec()));
            })?;
            if found != expected {
                return Err(format!("{name} has other entries in the map of key {index}").into());
            }
        }
        Ok(())
    }
}

struct Maps<'a> {
    prepare: Prepare<'a>,
    keys: u64,
    seed: u64,
}

impl<const K: usize, const V: usize> KindsVisitor<K, V> for Maps<'_> {
    type Output = Result<Box<dyn Contestant>>;

    fn visit<E: Kinds<K, V> + 'static>(self) -> Self::Output {
        let mut runner = Runner::<E, K, V> {
            engine: super::kinds::engine(&self.prepare)?,
            keys: self.keys,
            keeps: self.prepare.keeps,
            picks: Random::new(self.seed),
            expected: vec![0; (self.keys * ENTRIES) as usize],
            written: 0,
            numbers: Vec::with_capacity(CHUNK),
            chunk: Vec::with_capacity(CHUNK),
            _dir: self.prepare.dir,
        };
        runner.fill()?;
        Ok(Box::new(runner))
    }
}

/// Runs the measure at every size.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    for keys in cli.keys_or(&[100_000], &[2_000]) {
        for value_bytes in cli.value_bytes_or(&[8, 32], &[32]) {
            report.add(with_sizes!(cli.key_bytes, value_bytes, at_size, cli, keys)?);
        }
    }
    Ok(())
}

fn at_size<const K: usize, const V: usize>(cli: &Cli, keys: u64) -> Result<Section> {
    let settings = cli.settings();
    let title = format!(
        "{} keys of {K} B, {ENTRIES} entries of {ENTRY_BYTES} + {V} B each",
        keys_name(keys)
    );
    let mut section = section("maps", title, cli)
        .parameter("keys", keys)
        .parameter("key_bytes", K)
        .parameter("entries", ENTRIES)
        .parameter("entry_bytes", ENTRY_BYTES)
        .parameter("value_bytes", V);
    let mut all = contestants::<K, V, _>(cli, &settings, "maps", |prepare| Maps {
        prepare,
        keys,
        seed: cli.seed,
    })?;
    let tasks = [
        (SCAN, "scan a map of 20"),
        (GET, "get one entry"),
        (PUT, "put one entry"),
        (GET_AND_PUT, "get and put one entry"),
    ];
    compare(cli, &mut section, "maps", &mut all, &tasks)?;
    for (name, contestant) in &mut all {
        contestant.check(name)?;
    }
    section.note("Getting and putting are two calls, on the same entry.");
    Ok(section)
}
