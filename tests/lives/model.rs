//! What the job holds, in plain maps.

use std::collections::{BTreeMap, BTreeSet};

use alluvium::{KeyGroup, KeyRef, TimeDomain, Ttl};

use crate::operator::Kept;
use crate::thing::Thing;

pub const GROUPS: u32 = 16;
const KEYS: u64 = 8;
const NAMESPACES: u64 = 3;
/// Keys in their namespaces, by number.
pub const PLACES: u64 = KEYS * NAMESPACES;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Value,
    List,
    Map,
    Reducing,
    Aggregating,
    Timers(TimeDomain),
}

impl Kind {
    /// Through a typed view, whose keys are hashed; others may come in a group of
    /// the runtime's choice.
    pub fn is_typed(self) -> bool {
        matches!(self, Self::Reducing | Self::Aggregating)
    }

    pub fn is_timers(self) -> bool {
        matches!(self, Self::Timers(_))
    }
}

/// The states of the job, and whether they ever have a time to live.
pub const STATES: [(Kind, bool); 10] = [
    (Kind::Value, false),
    (Kind::Value, true),
    (Kind::List, false),
    (Kind::List, true),
    (Kind::Map, false),
    (Kind::Map, true),
    (Kind::Reducing, true),
    (Kind::Aggregating, false),
    (Kind::Timers(TimeDomain::Event), false),
    (Kind::Timers(TimeDomain::Processing), false),
];

/// A key in a namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub group: u16,
    pub key: Vec<u8>,
    pub namespace: Vec<u8>,
}

impl Place {
    pub fn of(kind: Kind, number: u64) -> Self {
        let (key, namespace) = (number % KEYS, number / KEYS);
        let given = key % 3 == 2 && !kind.is_typed();
        let bytes = if key == 0 { Vec::new() } else { format!("key {key}").into_bytes() };
        let group = if given { (key * 5 % u64::from(GROUPS)) as u16 } else { hashed(&bytes) };
        // Namespaces that end as the names of a map's records might.
        let namespace = [vec![], vec![0], vec![0, 0, 0, 0, 0, 2]][namespace as usize].clone();
        Self { group, key: bytes, namespace }
    }

    pub fn at(&self) -> KeyRef<'_> {
        let key = if self.group == hashed(&self.key) {
            KeyRef::new(&self.key)
        } else {
            KeyRef::in_group(KeyGroup(self.group), &self.key)
        };
        key.namespace(&self.namespace)
    }

    /// The same key in another namespace.
    pub fn number_in(number: u64, namespace: u64) -> u64 {
        number % KEYS + namespace % NAMESPACES * KEYS
    }
}

/// The group of a key: the low 32 bits of its hash, scaled.
fn hashed(key: &[u8]) -> u16 {
    let low = xxhash_rust::xxh3::xxh3_64(key) & 0xffff_ffff;
    ((low * u64::from(GROUPS)) >> 32) as u16
}

/// Something that was written: a value, an element or an entry.
#[derive(Clone, Debug)]
pub struct Cell {
    pub number: u32,
    /// The version of the job that wrote it.
    pub by: u8,
    /// Its stamp is not before and not after these; `None` before any watermark.
    pub oldest: Option<i64>,
    pub newest: Option<i64>,
    /// It may have been removed.
    pub doomed: bool,
}

impl Cell {
    /// What a version of the job reads.
    pub fn read_by(&self, version: u8) -> Vec<u8> {
        let steps = version - self.by;
        Thing { number: self.number, by: self.by, steps }.bytes(version)
    }
}

/// What a state holds for a place: one cell without a name, the elements of a
/// list under their numbers, or the entries of a map in order.
pub type Named = Vec<(Vec<u8>, Cell)>;

/// One state, as a snapshot has it.
#[derive(Clone, Debug)]
pub struct State {
    pub name: String,
    /// It was registered, and not dropped since.
    pub is_there: bool,
    pub cells: BTreeMap<u64, Named>,
    pub timers: BTreeSet<(i64, u64)>,
    /// Whether the last life that registered it gave it a time to live, and since
    /// when.
    pub timed: bool,
    pub since: Option<i64>,
}

impl State {
    pub fn absent(name: String) -> Self {
        Self {
            name,
            is_there: false,
            cells: BTreeMap::new(),
            timers: BTreeSet::new(),
            timed: false,
            since: None,
        }
    }
}

/// All that a snapshot of the job has.
#[derive(Clone, Debug)]
pub struct Image {
    pub states: Vec<State>,
    /// Operator states by subtask.
    pub operator: Vec<Vec<Kept>>,
    pub watermark: Option<i64>,
}

/// By what values of a state live in this life, and what time it is for them.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub ttl: Option<Ttl>,
    pub time: TimeDomain,
    pub now: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Is {
    There,
    Gone,
    EitherWay,
}

impl Rule {
    pub fn renews(&self) -> bool {
        self.ttl.is_some_and(|ttl| ttl.update_type() == alluvium::TtlUpdate::OnReadAndWrite)
    }

    pub fn expired(&self, since: Option<i64>, stamp: Option<i64>) -> bool {
        let (Some(ttl), Some(now)) = (self.ttl, self.now) else { return false };
        let stamp = match (self.time, since) {
            (TimeDomain::Processing, _) => stamp.unwrap_or(i64::MIN),
            (TimeDomain::Event, Some(since)) => stamp.unwrap_or(i64::MIN).max(since),
            (TimeDomain::Event, None) => return false,
        };
        stamp.saturating_add(ttl.duration().as_millis() as i64) <= now
    }

    pub fn is(&self, since: Option<i64>, cell: &Cell) -> Is {
        if self.expired(since, cell.newest) {
            Is::Gone
        } else if cell.doomed || self.expired(since, cell.oldest) {
            Is::EitherWay
        } else {
            Is::There
        }
    }

    /// Notes what has expired by now.
    pub fn doom(&self, state: &mut State) {
        if self.ttl.is_none() {
            return;
        }
        for (_, cell) in state.cells.values_mut().flatten() {
            cell.doomed |= self.expired(state.since, cell.oldest);
        }
    }
}
