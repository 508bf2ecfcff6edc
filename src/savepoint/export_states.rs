//! What the snapshots of a job hold, put together: which operators, which states, and
//! where their tables are.

use std::collections::BTreeMap;

use crate::base::checksum::{ContentHash, ContentHasher};
use crate::base::time::{UNKNOWN_STAMP, stamp_of_ms, stamp_of_unix_ms};
use crate::base::{Error, KeyGroup, MaxParallelism, Result, TimeDomain};
use crate::codec::Schema;
use crate::format::canonical::{Head, ItemsHead, OperatorHead, StateHead};
use crate::format::manifest::{Manifest, StateMeta};
use crate::format::{OperatorState, OperatorStateMode, SnapshotHandle};
use crate::restore::read_manifest;
use crate::shard::migration;
use crate::snapshot::sink::SnapshotSource;

/// An operator, with the manifests of its shards in the order of their key groups.
#[derive(Debug)]
pub(super) struct OperatorInput {
    pub(super) name: String,
    pub(super) max_parallelism: MaxParallelism,
    pub(super) watermark: Option<i64>,
    pub(super) shards: Vec<ShardInput>,
    /// By name.
    pub(super) states: Vec<StateInput>,
    /// By name.
    pub(super) items: BTreeMap<String, ItemsInput>,
}

/// A shard's snapshot.
#[derive(Debug)]
pub(super) struct ShardInput {
    pub(super) handle: SnapshotHandle,
    /// Without its operator states.
    pub(super) manifest: Manifest,
}

/// A state, and what is found of it.
#[derive(Debug)]
pub(super) struct StateInput {
    pub(super) meta: StateMeta,
    /// Which of its value schemas its entries are written under.
    pub(super) used: Vec<bool>,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// The stamp of what has none, and up to which stamp something has expired.
    pub(super) unstamped: u64,
    pub(super) cutoff: u64,
}

/// An operator state.
#[derive(Debug)]
pub(super) struct ItemsInput {
    pub(super) mode: OperatorStateMode,
    key_schema: Option<Schema>,
    parts: Vec<(Schema, u64)>,
    bytes: u64,
    /// What no element is written under.
    nothing: Schema,
    /// Which shard a broadcast state is taken from, and the hash of what it has there.
    pub(super) owner: usize,
    hash: ContentHash,
    /// Whether another shard has something else.
    pub(super) differs: bool,
}

/// Reads all manifests.
///
/// # Errors
/// `Invalid` if the handles of an operator do not hold each key group once;
/// `Incompatible` if they disagree about a state; those of [`read_manifest`].
pub(super) fn collect(
    source: &dyn SnapshotSource,
    handles: &[SnapshotHandle],
) -> Result<Vec<OperatorInput>> {
    let mut by_operator: BTreeMap<&str, Vec<&SnapshotHandle>> = BTreeMap::new();
    for handle in handles {
        by_operator.entry(handle.operator()).or_default().push(handle);
    }
    by_operator
        .into_iter()
        .map(|(name, mut handles)| {
            handles.sort_by_key(|handle| handle.groups().first());
            collect_operator(source, name, &handles)
                .map_err(|error| error.at(format_args!("operator {name:?}")))
        })
        .collect()
}

fn collect_operator(
    source: &dyn SnapshotSource,
    name: &str,
    handles: &[&SnapshotHandle],
) -> Result<OperatorInput> {
    let max_parallelism = check_handles(handles)?;
    let mut states: Vec<StateMeta> = Vec::new();
    let mut items = BTreeMap::new();
    let mut watermarks = Vec::new();
    let mut shards = Vec::new();
    for (number, &handle) in handles.iter().enumerate() {
        let at = |error: Error| error.at(format_args!("snapshot of {}", handle.groups()));
        let mut manifest = read_manifest(source, handle)?;
        watermarks.push(manifest.watermark);
        for state in &manifest.states {
            match states.iter_mut().find(|known| known.name == state.name) {
                Some(known) => migration::join(known, state.clone()).map_err(at)?,
                None => states.push(state.clone()),
            }
        }
        for state in std::mem::take(&mut manifest.operator_states) {
            ItemsInput::add(&mut items, number, state).map_err(at)?;
        }
        shards.push(ShardInput { handle: handle.clone(), manifest });
    }
    if let Some(state) = states.iter().find(|state| items.contains_key(&state.name)) {
        return Err(Error::incompatible("two states of one checkpoint have one name")
            .at(format_args!("state {:?}", state.name))
            .remedy("give the handles of one and the same checkpoint"));
    }
    states.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(OperatorInput {
        name: name.to_owned(),
        max_parallelism,
        // `None`, that there was none yet, is the lowest.
        watermark: watermarks.into_iter().min().flatten(),
        shards,
        states: states.into_iter().map(StateInput::new).collect(),
        items,
    })
}

/// Whether the handles hold each key group once; they come in order.
fn check_handles(handles: &[&SnapshotHandle]) -> Result<MaxParallelism> {
    let max = handles[0].max_parallelism();
    let mut next = 0;
    for handle in handles {
        if handle.max_parallelism() != max {
            return Err(Error::incompatible("the snapshots have different numbers of key groups")
                .expected(format_args!("max_parallelism {max}"))
                .found(format_args!("max_parallelism {}", handle.max_parallelism()))
                .remedy("give the handles of one and the same checkpoint"));
        }
        let first = u32::from(handle.groups().first().0);
        if first != next {
            return Err(not_covered(max, first < next, next.min(first)));
        }
        next = u32::from(handle.groups().last().0) + 1;
    }
    if next == max.get() { Ok(max) } else { Err(not_covered(max, false, next)) }
}

fn not_covered(max: MaxParallelism, twice: bool, group: u32) -> Error {
    let group = KeyGroup(group as u16);
    let error = Error::invalid("the snapshots do not hold each key group once")
        .expected(format_args!("handles that hold each of {} once", max.all_groups()))
        .remedy("give the handles of all shards of one checkpoint, each once");
    if twice {
        error.found(format_args!("{group} twice"))
    } else {
        error.found(format_args!("none with {group}"))
    }
}

impl StateInput {
    fn new(meta: StateMeta) -> Self {
        let unstamped = match meta.ttl {
            Some(ttl) if ttl.time == TimeDomain::Processing => {
                ttl.since_ms.map_or(UNKNOWN_STAMP, stamp_of_ms)
            }
            _ => UNKNOWN_STAMP,
        };
        let used = vec![false; meta.value_schemas().count()];
        Self { meta, used, entries: 0, bytes: 0, unstamped, cutoff: 0 }
    }

    /// From now on leaves out what has expired, by the watermark or at this time of
    /// the clock.
    pub(super) fn leave_out_expired(&mut self, watermark: Option<i64>, unix_ms: u64) {
        let Some(ttl) = self.meta.ttl else { return };
        let (now, floor) = match ttl.time {
            TimeDomain::Processing => (Some(stamp_of_unix_ms(unix_ms)), Some(0)),
            // Nothing counts as older than the first watermark that the state saw.
            TimeDomain::Event => (watermark.map(stamp_of_ms), ttl.since_ms.map(stamp_of_ms)),
        };
        if let (Some(now), Some(floor)) = (now, floor) {
            let cutoff = now.saturating_sub(ttl.duration_ms);
            self.cutoff = if cutoff < floor { 0 } else { cutoff };
        }
    }

    /// The number of the schema of this fingerprint.
    ///
    /// # Errors
    /// `Corrupt` if there is none.
    pub(super) fn schema(&self, fingerprint: u64) -> Result<usize> {
        let mut known = self.meta.value_schemas().map(Schema::fingerprint);
        known.position(|known| known == fingerprint).ok_or_else(|| {
            Error::corrupt("a table holds values that its manifest knows no schema of")
                .at(format_args!("state {:?}", self.meta.name))
                .found(format_args!("#{fingerprint:016x}"))
                .remedy("use another copy of the snapshot")
        })
    }

    /// Where each value schema is in the head, if it is: those that are not used are
    /// not, but for the first.
    pub(super) fn numbers(&self) -> Vec<usize> {
        let mut next = 0;
        let number = |(at, used): (usize, &bool)| {
            next += usize::from(at > 0 && *used);
            if at == 0 { 0 } else { next }
        };
        self.used.iter().enumerate().map(number).collect()
    }

    fn head(&self) -> StateHead {
        let mut meta = self.meta.clone();
        let mut used = self.used[1..].iter();
        meta.older_value_schemas.retain(|_| *used.next().unwrap_or(&false));
        StateHead { meta, entries: self.entries, bytes: self.bytes }
    }
}

impl ItemsInput {
    fn add(all: &mut BTreeMap<String, Self>, number: usize, state: OperatorState) -> Result<()> {
        let OperatorState { name, mode, key_schema, parts } = state;
        let Some(last) = parts.last() else {
            return Err(Error::internal("an operator state has no part"));
        };
        let is_broadcast = mode == OperatorStateMode::Broadcast;
        let mut hasher = ContentHasher::new();
        if is_broadcast {
            for item in parts.iter().flat_map(|part| part.items.iter()) {
                hasher.update(&(item.len() as u64).to_le_bytes());
                hasher.update(item);
            }
        }
        let hash = hasher.finish();
        let nothing = last.value_schema.clone();
        let is_new = !all.contains_key(&name);
        let known = all.entry(name.clone()).or_insert_with(|| Self {
            mode,
            key_schema,
            parts: Vec::new(),
            bytes: 0,
            nothing,
            owner: number,
            hash,
            differs: false,
        });
        if known.mode != mode {
            return Err(Error::incompatible(
                "the mode of an operator state differs: the snapshots of one checkpoint disagree",
            )
            .at(format_args!("operator state {name:?}"))
            .expected(format_args!("{}, as in one snapshot", known.mode))
            .found(format_args!("{mode}, as in another"))
            .remedy("give the handles of one and the same checkpoint"));
        }
        if is_broadcast && !is_new {
            known.differs |= known.hash != hash;
            return Ok(());
        }
        for part in parts {
            let count = part.items.len() / if is_broadcast { 2 } else { 1 };
            known.bytes += part.items.iter().map(|item| item.len() as u64).sum::<u64>();
            match known.parts.last_mut() {
                _ if count == 0 => {}
                Some((schema, sum)) if *schema == part.value_schema => *sum += count,
                _ => known.parts.push((part.value_schema, count)),
            }
        }
        Ok(())
    }

    fn head(&self, name: &str) -> ItemsHead {
        let mut parts = self.parts.clone();
        if parts.is_empty() {
            parts.push((self.nothing.clone(), 0));
        }
        ItemsHead {
            name: name.to_owned(),
            mode: self.mode,
            key_schema: self.key_schema.clone(),
            parts,
            bytes: self.bytes,
        }
    }
}

impl OperatorInput {
    fn head(&self) -> OperatorHead {
        OperatorHead {
            name: self.name.clone(),
            max_parallelism: self.max_parallelism,
            watermark: self.watermark,
            states: self.states.iter().map(StateInput::head).collect(),
            operator_states: self.items.iter().map(|(name, items)| items.head(name)).collect(),
        }
    }
}

/// The head of a savepoint of all this, once everything has been counted.
pub(super) fn head(job: &str, user_meta: &[u8], operators: &[OperatorInput]) -> Head {
    Head {
        job: job.to_owned(),
        user_meta: user_meta.to_owned(),
        operators: operators.iter().map(OperatorInput::head).collect(),
    }
}
