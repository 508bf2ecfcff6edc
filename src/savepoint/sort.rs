//! Sorting any number of records in bounded memory.
//!
//! 1. Records gather in memory, with a note of 24 bytes for each.
//! 2. When they have come to what memory may be used, they are sorted and written as a
//!    [run](super::runs).
//! 3. When there are many runs of about one size, they become one.
//! 4. At the end all runs are read as one.
//!
//! Keys are byte strings, compared as such; each comes once.

use std::cmp::Ordering;

use super::runs::{Run, RunReader, RunWriter, prefix_of};
use super::work::WorkDir;
use crate::base::{Error, Result};
use crate::codec::{Reader, varint};

/// Runs that are read as one at most: each has a frame in memory.
const MOST_RUNS: usize = 96;

/// A record in memory: where it lies, and the first bytes of its key.
#[derive(Clone, Copy)]
struct Note {
    high: u64,
    low: u64,
    at: u32,
    key_len: u32,
}

/// Takes records in any order.
pub(super) struct Sorter<'w> {
    work: &'w WorkDir,
    memory_bytes: usize,
    notes: Vec<Note>,
    /// Keys, each with its value behind it: | key | value length varint | value |.
    bytes: Vec<u8>,
    /// Finished runs, those made of so many others at the position of how many times
    /// that was done.
    levels: Vec<Vec<Run>>,
}

impl<'w> Sorter<'w> {
    /// Keeps about `memory_bytes` in memory.
    pub(super) fn new(work: &'w WorkDir, memory_bytes: usize) -> Self {
        Self { work, memory_bytes, notes: Vec::new(), bytes: Vec::new(), levels: Vec::new() }
    }

    /// Takes in a record whose value is `value` put together.
    ///
    /// # Errors
    /// `Unavailable` if the working directory fails.
    pub(super) fn push(&mut self, key: &[u8], value: &[&[u8]]) -> Result<()> {
        let value_len: usize = value.iter().map(|part| part.len()).sum();
        let bytes = key.len() + value_len + varint::MAX_U64_BYTES + size_of::<Note>();
        if self.used_bytes() + bytes > self.memory_bytes {
            self.spill()?;
        }
        if bytes > self.memory_bytes {
            // A run of its own, so that it is copied but once.
            let mut run = RunWriter::new(self.work)?;
            match value {
                [value] => run.push(key, value)?,
                parts => run.push(key, &parts.concat())?,
            }
            return self.keep(run.finish()?, 0);
        }
        let prefix = prefix_of(key);
        self.notes.push(Note {
            high: (prefix >> 64) as u64,
            low: prefix as u64,
            at: self.bytes.len() as u32,
            key_len: key.len() as u32,
        });
        self.bytes.extend_from_slice(key);
        varint::put_u64(&mut self.bytes, value_len as u64);
        value.iter().for_each(|part| self.bytes.extend_from_slice(part));
        Ok(())
    }

    fn used_bytes(&self) -> usize {
        self.bytes.len() + self.notes.len() * size_of::<Note>()
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.notes.sort_unstable_by(|a, b| {
            (a.high, a.low).cmp(&(b.high, b.low)).then_with(|| key(bytes, a).cmp(key(bytes, b)))
        });
    }

    fn spill(&mut self) -> Result<()> {
        if self.notes.is_empty() {
            return Ok(());
        }
        self.sort();
        let mut run = RunWriter::new(self.work)?;
        for note in &self.notes {
            run.push(key(&self.bytes, note), value(&self.bytes, note)?)?;
        }
        self.notes.clear();
        self.bytes.clear();
        self.keep(run.finish()?, 0)
    }

    /// Keeps a run, and makes one of many.
    fn keep(&mut self, run: Run, level: usize) -> Result<()> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        self.levels[level].push(run);
        if self.levels[level].len() < MOST_RUNS {
            return Ok(());
        }
        let runs = std::mem::take(&mut self.levels[level]);
        let merged = merge(self.work, runs)?;
        self.keep(merged, level + 1)
    }

    /// Ends taking in; the records come out in order.
    ///
    /// # Errors
    /// `Unavailable` if the working directory fails; `Corrupt` if a run in it is not
    /// as it was written.
    pub(super) fn finish(mut self) -> Result<Sorted> {
        if self.levels.is_empty() {
            self.sort();
            let memory = Memory { notes: self.notes, bytes: self.bytes, next: 0 };
            return Ok(Sorted { source: Source::Memory(memory), last: Vec::new(), began: false });
        }
        self.spill()?;
        self.notes = Vec::new();
        self.bytes = Vec::new();
        let mut runs: Vec<Run> = std::mem::take(&mut self.levels).into_iter().flatten().collect();
        while runs.len() > MOST_RUNS {
            // The smallest first, and as few as will do.
            runs.sort_unstable_by_key(|run| std::cmp::Reverse(run.bytes()));
            let few = (runs.len() - MOST_RUNS + 1).min(MOST_RUNS);
            let smallest = runs.split_off(runs.len() - few);
            runs.push(merge(self.work, smallest)?);
        }
        let source = Source::Runs(Merged::new(runs)?);
        Ok(Sorted { source, last: Vec::new(), began: false })
    }
}

fn key<'a>(bytes: &'a [u8], note: &Note) -> &'a [u8] {
    &bytes[note.at as usize..][..note.key_len as usize]
}

fn value<'a>(bytes: &'a [u8], note: &Note) -> Result<&'a [u8]> {
    let mut reader = Reader::new("record in memory", &bytes[(note.at + note.key_len) as usize..]);
    reader.bytes("value", usize::MAX)
}

fn merge(work: &WorkDir, runs: Vec<Run>) -> Result<Run> {
    let mut merged = Merged::new(runs)?;
    let mut out = RunWriter::new(work)?;
    while merged.step()? {
        let (key, value) = merged.current()?;
        out.push(key, value)?;
    }
    out.finish()
}

/// Lends all records in order.
pub(super) struct Sorted {
    source: Source,
    last: Vec<u8>,
    began: bool,
}

enum Source {
    Memory(Memory),
    Runs(Merged),
}

struct Memory {
    notes: Vec<Note>,
    bytes: Vec<u8>,
    next: usize,
}

impl Sorted {
    /// The next record's key and value, until the next call; `None` at the end.
    ///
    /// # Errors
    /// As of [`Sorter::finish`]; `Internal` if a key comes twice.
    pub(super) fn next(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        let (key, value) = match &mut self.source {
            Source::Memory(memory) => {
                let Some(note) = memory.notes.get(memory.next) else { return Ok(None) };
                memory.next += 1;
                (key(&memory.bytes, note), value(&memory.bytes, note)?)
            }
            Source::Runs(runs) => {
                if !runs.step()? {
                    return Ok(None);
                }
                runs.current()?
            }
        };
        if self.began && *self.last >= *key {
            return Err(Error::internal("two records of a savepoint have one key"));
        }
        self.began = true;
        self.last.clear();
        self.last.extend_from_slice(key);
        Ok(Some((key, value)))
    }
}

/// Several runs read as one.
struct Merged {
    /// A heap: none comes before the one at half its position.
    heap: Vec<RunReader>,
    /// Whether the first of the heap was given out, and must move on.
    spent: bool,
    long: Vec<u8>,
}

impl Merged {
    fn new(runs: Vec<Run>) -> Result<Self> {
        let heap = runs.into_iter().map(Run::read).collect::<Result<Vec<_>>>()?;
        let mut merged = Self { heap, spent: false, long: Vec::new() };
        for at in (0..merged.heap.len() / 2).rev() {
            merged.sift_down(at);
        }
        Ok(merged)
    }

    fn step(&mut self) -> Result<bool> {
        if self.spent {
            let Some(first) = self.heap.first_mut() else { return Ok(false) };
            if !first.advance()? {
                self.heap.swap_remove(0);
            }
            self.sift_down(0);
        }
        self.spent = true;
        Ok(!self.heap.is_empty())
    }

    /// The record that the last step moved on to. To be called once.
    fn current(&mut self) -> Result<(&[u8], &[u8])> {
        let Self { heap, long, .. } = self;
        let Some(first) = heap.first_mut() else {
            return Err(Error::internal("a merge of runs has no record to lend"));
        };
        if first.fetch(long)? {
            return Ok((first.key(), long));
        }
        // One large value must not pin its size.
        *long = Vec::new();
        Ok((first.key(), first.value()))
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut least = at;
            for child in [left, right] {
                if child < self.heap.len()
                    && compare(&self.heap[child], &self.heap[least]) == Ordering::Less
                {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }
}

fn compare(a: &RunReader, b: &RunReader) -> Ordering {
    a.prefix().cmp(&b.prefix()).then_with(|| a.key().cmp(b.key()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::env::SimEnv;
    use crate::env::sim::SimRng;

    fn sorted(seed: u64, records: &[(Vec<u8>, Vec<u8>)], memory_bytes: usize) -> u64 {
        let env = SimEnv::new(seed);
        let work = WorkDir::open(Arc::new(env.clone()), Path::new("/work")).unwrap();
        let mut sorter = Sorter::new(&work, memory_bytes);
        for (key, value) in records {
            let (one, other) = value.split_at(value.len() / 2);
            sorter.push(key, &[one, other]).unwrap();
        }
        let mut expected = records.to_vec();
        expected.sort_unstable();
        let mut found = sorter.finish().unwrap();
        for (key, value) in &expected {
            let (found_key, found_value) = found.next().unwrap().expect("a record is missing");
            assert!(found_key == key && found_value == value, "seed {seed}, {key:?}");
        }
        assert!(found.next().unwrap().is_none());
        drop(found);
        assert_eq!(env.list_all_files(), [] as [&Path; 0], "files are left over");
        work.next_id().number
    }

    #[test]
    fn records_come_out_in_order_whatever_memory_there_is() {
        let mut most_files = 0;
        for seed in 0..40 {
            let mut rng = SimRng::new(seed);
            let count = [0, 1, 50, 3_000][rng.below(4) as usize];
            let mut records = std::collections::BTreeMap::new();
            for _ in 0..count {
                let mut key = vec![7; rng.below(30) as usize];
                let from = rng.below(key.len() as u64 + 1) as usize;
                rng.fill(&mut key[from..]);
                let len = if rng.one_in(400) { rng.below(900_000) } else { rng.below(100) };
                records.insert(key, vec![rng.below(256) as u8; len as usize]);
            }
            let records: Vec<_> = records.into_iter().collect();
            let by = rng.below(records.len() as u64 + 1) as usize;
            let mut shuffled = records.clone();
            shuffled.rotate_left(by);
            let half = shuffled.len() / 2;
            shuffled[half..].reverse();
            for memory_bytes in [400, 5_000, 1 << 24] {
                most_files = most_files.max(sorted(seed, &shuffled, memory_bytes));
            }
        }
        assert!(most_files > 2 * MOST_RUNS as u64, "runs were merged more than once");
    }

    #[test]
    fn a_run_that_was_damaged_is_not_believed() {
        for bit in [3, 170, 900, 4_000] {
            let env = SimEnv::new(1);
            let work = WorkDir::open(Arc::new(env.clone()), Path::new("/work")).unwrap();
            let mut sorter = Sorter::new(&work, 1_000);
            for number in 0..100_u32 {
                sorter.push(&number.to_le_bytes(), &[&[1; 40]]).unwrap();
            }
            for path in env.list_all_files() {
                env.mutate_file(&path, |bytes| {
                    let at = bit / 8 % bytes.len();
                    bytes[at] ^= 1 << (bit % 8);
                });
            }
            let read = sorter.finish().and_then(|mut sorted| {
                while sorted.next()?.is_some() {}
                Ok(())
            });
            let error = read.expect_err("it was damaged");
            assert_eq!(error.kind(), crate::base::ErrorKind::Corrupt, "{error}");
        }
    }
}
