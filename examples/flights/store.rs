//! TEMPORARY plain-map stand-in.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use alluvium::base::hash::{group_of_hash, hash_key};
use alluvium::base::{Error, KeyGroup, KeyGroupRange, MaxParallelism, Result, SnapshotId};

use super::aggregate::Aggregate;
use super::checkpoint_file::{Costs, ShardSnapshot};
use super::input::Outcome;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Operator {
    Aircraft,
    Route,
    CarrierDay,
}

impl Operator {
    pub(crate) const ALL: [Self; 3] = [Self::Aircraft, Self::Route, Self::CarrierDay];
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Aircraft => "aircraft",
            Self::Route => "route",
            Self::CarrierDay => "carrier and day",
        }
    }
}

pub(crate) fn group_of_key(key: &str, max: MaxParallelism) -> KeyGroup {
    group_of_hash(hash_key(key.as_bytes()), max)
}

pub(crate) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(crate) fn open(dir: &Path, _snapshots: &Path, _max: MaxParallelism) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("mkdir", e))?;
        Ok(Self { dir: dir.to_owned() })
    }
    pub(crate) fn shard(&self, groups: KeyGroupRange, handles: &[Vec<u8>]) -> Result<ShardStore> {
        let mut map = HashMap::new();
        for handle in handles {
            let bytes = std::fs::read(String::from_utf8(handle.clone()).unwrap()).unwrap();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let op = Operator::ALL[usize::from(rest[0])];
                let len = usize::from(rest[1]);
                let key = String::from_utf8(rest[2..2 + len].to_vec()).unwrap();
                rest = &rest[2 + len..];
                let n = |i: usize| i64::from_le_bytes(rest[i * 8..i * 8 + 8].try_into().unwrap());
                let a = Aggregate {
                    flights: n(0) as u64,
                    cancelled: n(1) as u64,
                    departure_delay_sum_minutes: n(2),
                    arrival_delay_sum_minutes: n(3),
                    miles: n(4) as u64,
                    longest_delay_minutes: n(5) as i32,
                };
                rest = &rest[48..];
                if groups.contains(group_of_key(&key, MaxParallelism::DEFAULT)) {
                    map.insert((op, key), a);
                }
            }
        }
        Ok(ShardStore { dir: self.dir.clone(), groups, map })
    }
    pub(crate) fn meta(&self, _handle: &[u8]) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

pub(crate) struct ShardStore {
    dir: PathBuf,
    groups: KeyGroupRange,
    map: HashMap<(Operator, String), Aggregate>,
}

impl ShardStore {
    pub(crate) fn update(
        &mut self,
        operator: Operator,
        key: &str,
        outcome: &Outcome,
    ) -> Result<()> {
        self.map.entry((operator, key.to_owned())).or_insert(Aggregate::EMPTY).apply(outcome);
        Ok(())
    }
    pub(crate) fn get(&mut self, operator: Operator, key: &str) -> Result<Option<Aggregate>> {
        Ok(self.map.get(&(operator, key.to_owned())).copied())
    }
    pub(crate) fn snapshot(&mut self, id: SnapshotId, _meta: &[u8]) -> Result<Ticket> {
        let began = Instant::now();
        let mut bytes = Vec::new();
        for ((op, key), a) in &self.map {
            bytes.push(*op as u8);
            bytes.push(key.len() as u8);
            bytes.extend_from_slice(key.as_bytes());
            for n in [
                a.flights as i64,
                a.cancelled as i64,
                a.departure_delay_sum_minutes,
                a.arrival_delay_sum_minutes,
                a.miles as i64,
                i64::from(a.longest_delay_minutes),
            ] {
                bytes.extend_from_slice(&n.to_le_bytes());
            }
        }
        let path = self.dir.join(format!("{id}-{}-{}", self.groups, self.map.len()));
        Ok(Ticket { path, bytes, began, pause_ns: began.elapsed().as_nanos() as u64 })
    }
    pub(crate) fn notify_complete(&mut self, _id: SnapshotId) -> Result<()> {
        Ok(())
    }
    pub(crate) fn notify_aborted(&mut self, _id: SnapshotId) -> Result<()> {
        Ok(())
    }
}

pub(crate) struct Ticket {
    path: PathBuf,
    bytes: Vec<u8>,
    began: Instant,
    pause_ns: u64,
}

impl Ticket {
    pub(crate) fn wait(self) -> Result<ShardSnapshot> {
        std::fs::write(&self.path, &self.bytes).map_err(|e| Error::io("write", e))?;
        Ok(ShardSnapshot {
            costs: Costs {
                pause_ns: self.pause_ns,
                duration_ns: self.began.elapsed().as_nanos() as u64,
                bytes_new: self.bytes.len() as u64,
                bytes_total: self.bytes.len() as u64,
                records_new: 0,
            },
            handle: self.path.to_str().unwrap().as_bytes().to_vec(),
        })
    }
}
