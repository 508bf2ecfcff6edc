//! The job's shards, with every kind of state.

use std::ops::ControlFlow;

use alluvium::base::Error;
use alluvium::format::Checkpoint;
use alluvium::{
    Aggregate, AggregatingState, Backend, BroadcastState, KeyRef, ListState, MapState,
    MaxParallelism, OperatorListState, ReducingState, Result, Shard, Timers, ValueState,
};

use crate::contents::{Contents, FIRED};
use crate::input::{Change, NAMESPACES, record};

/// Name of the only operator.
pub const OPERATOR: &str = "all kinds";
/// Number of its key groups.
pub const MAX: MaxParallelism = MaxParallelism::DEFAULT;

/// Sum and number, as they are.
pub struct Mean;

impl Aggregate for Mean {
    type In = u64;
    type Acc = (u64, u64);
    type Out = (u64, u64);

    fn create(&self) -> (u64, u64) {
        (0, 0)
    }

    fn add(&self, (sum, number): &mut (u64, u64), value: u64) {
        *sum += value;
        *number += 1;
    }

    fn merge(&self, into: &mut (u64, u64), from: (u64, u64)) {
        *into = (into.0 + from.0, into.1 + from.1);
    }

    fn result(&self, acc: (u64, u64)) -> (u64, u64) {
        acc
    }
}

struct States {
    values: ValueState<u64, Vec<u8>>,
    counts: ValueState<u64, u64, u32>,
    lists: ListState<u64, u64, u32>,
    maps: MapState<u64, u32, Vec<u8>>,
    sums: ReducingState<u64, u64>,
    means: AggregatingState<u64, Mean>,
    waiting: Timers<u64>,
    reminders: Timers<u64>,
    notes: OperatorListState<u64>,
    /// Who took part in the checkpoint, and where.
    present: OperatorListState<(u32, u64)>,
    told: BroadcastState<u32, u64>,
}

impl States {
    fn register(shard: &mut Shard) -> Result<Self> {
        Ok(Self {
            values: ValueState::register(shard, "values")?,
            counts: ValueState::register(shard, "counts")?,
            lists: ListState::register(shard, "lists")?,
            maps: MapState::register(shard, "maps")?,
            sums: ReducingState::register(shard, "sums", |a, b| a + b)?,
            means: AggregatingState::register(shard, "means", Mean)?,
            waiting: Timers::event_time(shard, "waiting")?,
            reminders: Timers::processing_time(shard, "reminders")?,
            notes: OperatorListState::even_split(shard, "notes")?,
            present: OperatorListState::union(shard, "present")?,
            told: BroadcastState::open(shard, "told")?,
        })
    }
}

/// The shards of the job.
pub struct Job {
    /// By the order of their key groups.
    pub shards: Vec<Shard>,
    states: Vec<States>,
}

impl Job {
    /// Opens the job on so many shards, from a checkpoint if there is one.
    ///
    /// # Errors
    /// As the engine.
    pub fn open(backend: &Backend, from: Option<&Checkpoint>, parallelism: u32) -> Result<Self> {
        let mut job = Self { shards: Vec::new(), states: Vec::new() };
        for index in 0..parallelism {
            let groups = MAX.range_of_subtask(index, parallelism)?;
            let handles = from.map(|from| from.handles(OPERATOR)).unwrap_or_default();
            let builder = backend.shard(OPERATOR, groups).subtask(index, parallelism);
            let mut shard = builder.restore(handles).open()?;
            job.states.push(States::register(&mut shard)?);
            job.shards.push(shard);
        }
        Ok(job)
    }

    /// Applies the record at an offset.
    ///
    /// # Errors
    /// As the engine.
    pub fn apply(&mut self, offset: u64) -> Result<()> {
        let record = record(offset);
        let (key, of_all) = (record.key, self.shards.len());
        let group = KeyRef::new(&key.to_be_bytes()).locate(MAX).0;
        let at = self.shards.iter().position(|shard| shard.groups().contains(group));
        let at = at.expect("the shards have all key groups");
        let (shard, states) = (&mut self.shards[at], &self.states[at]);
        states.sums.add(shard, &key, 1)?;
        match record.change {
            Change::Put(value) => states.values.put(shard, &key, &value)?,
            Change::Delete => states.values.delete(shard, &key)?,
            Change::Count(window, n) => {
                let add = |count: Option<u64>| Some(count.unwrap_or(0) + n);
                states.counts.update_in(shard, &key, &window, add)?;
            }
            Change::Append(namespace, elements) => {
                states.lists.add_all_in(shard, &key, &namespace, &elements)?;
            }
            Change::MergeLists(target) => {
                let all: Vec<_> = (0..NAMESPACES).collect();
                states.lists.merge_namespaces(shard, &key, &target, &all)?;
            }
            Change::ClearList(namespace) => states.lists.clear_in(shard, &key, &namespace)?,
            Change::PutEntry(entry, value) => states.maps.put(shard, &key, &entry, &value)?,
            Change::RemoveEntry(entry) => drop(states.maps.remove(shard, &key, &entry)?),
            Change::ClearMap => states.maps.clear(shard, &key)?,
            Change::Measure(value) => states.means.add(shard, &key, value)?,
            Change::Wait(time) => drop(states.waiting.register(shard, &key, time)?),
            Change::WaitNoMore(time) => drop(states.waiting.delete(shard, &key, time)?),
            Change::Remind(time) => drop(states.reminders.register(shard, &key, time)?),
            Change::Note(note) => {
                let at = note as usize % of_all;
                self.states[at].notes.add(&mut self.shards[at], &note)?;
            }
            Change::Tell(about, what) => {
                for (shard, states) in self.shards.iter_mut().zip(&self.states) {
                    states.told.put(shard, &about, &what)?;
                }
            }
        }
        if let Some(now) = record.watermark {
            for (shard, states) in self.shards.iter_mut().zip(&self.states) {
                while let Some(timer) = states.waiting.pop_due(shard, now)? {
                    states.sums.add(shard, &timer.key, FIRED)?;
                }
            }
        }
        Ok(())
    }

    /// Has every subtask say that it is there, for the checkpoint at this offset.
    ///
    /// # Errors
    /// As the engine.
    pub fn be_present(&mut self, offset: u64) -> Result<()> {
        for (index, (shard, states)) in self.shards.iter_mut().zip(&self.states).enumerate() {
            states.present.replace(shard, &[(index as u32, offset)])?;
        }
        Ok(())
    }

    /// Whether every subtask knows of so many that were there at this offset.
    ///
    /// # Errors
    /// As the engine.
    pub fn were_present(&self, subtasks: usize, offset: u64) -> Result<bool> {
        let expected: Vec<_> = (0..subtasks as u32).map(|index| (index, offset)).collect();
        for (shard, states) in self.shards.iter().zip(&self.states) {
            let mut found = states.present.get(shard)?;
            found.sort_unstable();
            if found != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads everything, and takes out all timers.
    ///
    /// # Errors
    /// As the engine; `Internal` if a key is met twice, or subtasks were told different
    /// things.
    pub fn into_contents(mut self) -> Result<Contents> {
        let mut all = Contents::default();
        let twice = |what: &str| Err(Error::internal("met twice, or not everywhere").at(what));
        for (index, (shard, states)) in self.shards.iter_mut().zip(&self.states).enumerate() {
            for key in states.values.keys(shard)? {
                let value = states.values.get(shard, &key)?;
                if all.values.insert(key, value.unwrap_or_default()).is_some() {
                    return twice("values");
                }
            }
            let mut names = Vec::new();
            states.counts.visit_keys(shard, |key, window| {
                names.push((key, window));
                ControlFlow::Continue(())
            })?;
            for (key, window) in names.drain(..) {
                let count = states.counts.get_in(shard, &key, &window)?;
                if all.counts.insert((key, window), count.unwrap_or_default()).is_some() {
                    return twice("counts");
                }
            }
            states.lists.visit_keys(shard, |key, namespace| {
                names.push((key, namespace));
                ControlFlow::Continue(())
            })?;
            for (key, namespace) in names {
                let list = states.lists.get_in(shard, &key, &namespace)?;
                if all.lists.insert((key, namespace), list).is_some() {
                    return twice("lists");
                }
            }
            for key in states.maps.keys(shard)? {
                let map = states.maps.entries(shard, &key)?.into_iter().collect();
                if all.maps.insert(key, map).is_some() {
                    return twice("maps");
                }
            }
            for key in states.sums.keys(shard)? {
                let sum = states.sums.get(shard, &key)?;
                if all.sums.insert(key, sum.unwrap_or_default()).is_some() {
                    return twice("sums");
                }
            }
            for key in states.means.keys(shard)? {
                let mean = states.means.get(shard, &key)?;
                if all.means.insert(key, mean.unwrap_or_default()).is_some() {
                    return twice("means");
                }
            }
            while let Some(timer) = states.waiting.pop_due(shard, i64::MAX)? {
                if !all.waiting.insert((timer.timestamp, timer.key)) {
                    return twice("timers of event time");
                }
            }
            while let Some(timer) = states.reminders.pop_due(shard, i64::MAX)? {
                if !all.reminders.insert((timer.timestamp, timer.key)) {
                    return twice("timers of processing time");
                }
            }
            all.notes.extend(states.notes.get(shard)?);
            let told = states.told.entries(shard)?.into_iter().collect();
            if index > 0 && all.told != told {
                return twice("broadcast map");
            }
            all.told = told;
        }
        all.notes.sort_unstable();
        Ok(all)
    }
}
