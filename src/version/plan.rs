//! Which tables are merged, for which key groups, and when.
//!
//! ```text
//!          key groups ->
//!   new    |------- delta -------|                   what the cycle has passed
//!          |----------------- delta ---------------|
//!                    |------------ delta ----------|  of an older one, this is left
//!                    |----------|--- merged -------|
//!   bottom |----|----|----------|-----|------------|  partitions
//!            merged  ^ the next step
//! ```
//!
//! 1. The *bottom* is what has nothing older beneath it: tables with disjoint
//!    slices, the *partitions*. Above it lie *runs*: tables that have equally many
//!    others beneath them, one above the other, are a run and share no key group. So
//!    a look-up in a key group meets at most one table of each run.
//! 2. When what lies above the bottom comes to [`CYCLE_PERCENT`] of what is alive, a
//!    *cycle* begins: it goes through the key groups from the first to the last and
//!    merges all tables that it finds, the bottom included.
//! 3. Where a key group is in more than `max_tables` before that, the newest runs
//!    there are merged with as many older ones as are no larger. While there is a
//!    cycle, which will do better, that begins at half as many tables again, and only
//!    small ones are merged.
//! 4. All this goes in *steps*. Each takes a range of key groups in which it reads
//!    up to `partition_bytes`, never less than one group, and makes one table. What
//!    it leaves of a table on either side is a smaller slice of the same file.
//! 5. Every published snapshot, and every early write, grants [`RATION`] times the
//!    bytes of its delta (or of the usual one, if that is larger), and at least a
//!    quarter of a partition. A step is taken when what was granted covers what it reads; what it writes is
//!    taken off again. Up to half of a grant goes to what 3. does during a cycle, and
//!    the rest leaves a quarter for it. If it took what the next step of the cycle
//!    needed, it waits until that was taken: so neither waits for the other for ever.
//!    Grants are saved up, but no more than one, or one and a half partitions, so that
//!    no snapshot ever uploads more of merged tables than that. (A single group that
//!    is larger waits until as much is saved up as may be, and the rest is owed.)
//!    Whole tables that no store has yet are merged for nothing.
//! 6. A shard is *behind* where a key group is in more than [`BEHIND`] times
//!    `max_tables`: deltas that are small beside a partition, each with every key
//!    group, come faster than steps do that must have saved up a partition. Then
//!    nothing of a grant is left unused: a step is taken as soon as anything is
//!    granted, and the rest is owed. What 3. does begins where the most tables are, and
//!    takes turns with the cycle, byte for byte.
//!
//! Everything but the position of a cycle follows from the version alone. After a
//! restore it is forgotten, and the next cycle passes over what is merged already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{TableEntry, Version};
use crate::base::{FileId, KeyGroup, KeyGroupRange};

/// Bytes above the bottom, per hundred of what is alive, at which a cycle begins.
///
/// With *a* for this and *r* for what cycles have of [`RATION`], of a state that
/// neither grows nor shrinks: deltas and cycles upload 1 + 1 / *a* bytes for each byte
/// of a delta; the files have 1 + *a* / 2 + 1 / *r* bytes for each that is alive on
/// average, and 1 + *a* + 1 / *r* at the most.
const CYCLE_PERCENT: u64 = 72;
/// The same, when otherwise most of them would be merged with each other.
const EARLY_PERCENT: u64 = 60;
/// Where there is less than this, a cycle that goes by bytes has nothing to do.
const LEAST_PERCENT: u64 = 20;
/// Bytes that merges may add to a snapshot for each byte of a delta.
const RATION: u64 = 7;
/// Times as many tables as there may be, above which a shard is behind.
const BEHIND: usize = 2;
/// A shard with less than a partition divided by this is merged only for the
/// number of its tables: there is nothing to be gained.
const SMALL_FRACTION: u64 = 32;

/// What merges go by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergeLimits {
    /// Tables that a key group is in above which some are merged.
    pub(crate) max_tables: usize,
    /// About how large the tables of the bottom are to be.
    pub(crate) partition_bytes: u64,
}

impl MergeLimits {
    /// Most bytes that a step reads, unless a single group has more.
    fn step_bytes(self) -> u64 {
        self.partition_bytes.max(1)
    }

    /// What may be saved up at least: a step, and some small ones before it.
    fn saved_bytes(self) -> u64 {
        self.partition_bytes.saturating_add(self.partition_bytes / 2).max(1)
    }
}

/// A merge to be done.
#[derive(Debug)]
pub(crate) struct MergePlan {
    /// In the order of age.
    pub(crate) inputs: Vec<Arc<TableEntry>>,
    /// What of them is merged.
    pub(crate) groups: KeyGroupRange,
    /// Nothing older lies beneath in these groups, so deletions need not be
    /// remembered.
    pub(crate) to_the_bottom: bool,
    /// What it adds at most to the bytes that are uploaded.
    adds_bytes: u64,
    /// Whether it is a step of the cycle.
    of_cycle: bool,
    /// Whether there are too many tables to wait for others.
    is_urgent: bool,
}

/// What came of a step.
#[derive(Debug, Default)]
pub(crate) struct StepResult {
    /// Of the table that was written.
    pub(crate) bytes: u64,
    /// The oldest of its tables, which cannot be merged with the others.
    pub(crate) left_out: Vec<FileId>,
}

/// How far a cycle is.
#[derive(Clone, Copy, Debug)]
struct Cycle {
    /// The first group that it has not reached.
    next: u32,
    /// It leaves alone what has less than this above the bottom.
    least_percent: u64,
    /// Whether tables that share no group with another one are joined, too.
    joins: bool,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct MergePlanner {
    limits: MergeLimits,
    /// Of deltas written since the last grant.
    delta_bytes: u64,
    /// Bytes of deltas for a snapshot, on a running average.
    usual_bytes: Option<u64>,
    /// Bytes that steps may still add to what is uploaded; negative if they are
    /// owed.
    granted: i64,
    /// Most that is saved up of it.
    most: i64,
    /// The last grant.
    ration: u64,
    /// What of it may go to urgent steps: the others must get on, too, since they
    /// put an end to what makes those urgent.
    urgent: i64,
    /// Whether an urgent step was taken since the last grant.
    urgent_taken: bool,
    /// Urgent steps wait for one of the cycle, from which they took what it needed.
    is_turn_of_cycle: bool,
    /// Bytes that urgent steps have added and the cycle has not, since the shard is
    /// behind; less than none the other way round.
    ahead_of_cycle: i64,
    cycle: Option<Cycle>,
    /// Tables that cannot be merged with later ones.
    apart: BTreeSet<FileId>,
}

/// Tables that have equally many others beneath them; they share no key group.
#[derive(Default)]
struct Run<'a> {
    bytes: u64,
    tables: Vec<&'a Arc<TableEntry>>,
    /// First and last groups of the slices.
    slices: BTreeMap<u16, u16>,
}

impl Run<'_> {
    fn meets(&self, slice: KeyGroupRange) -> bool {
        let before = self.slices.range(..=slice.last().0).next_back();
        before.is_some_and(|(_, &last)| last >= slice.first().0)
    }
}

/// The runs of tables (in the order of age) within `groups`, the lowest first.
fn runs<'a>(tables: &[&'a Arc<TableEntry>], groups: KeyGroupRange) -> Vec<Run<'a>> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for &table in tables {
        let Some(slice) = table.slice.intersection(groups) else { continue };
        let beneath = runs.iter().rposition(|run| run.meets(slice));
        let height = beneath.map_or(0, |beneath| beneath + 1);
        if height == runs.len() {
            runs.push(Run::default());
        }
        let run = &mut runs[height];
        run.bytes += table.bytes_in(slice);
        run.tables.push(table);
        run.slices.insert(slice.first().0, slice.last().0);
    }
    runs
}

/// The position of the oldest of `bytes` (oldest first) to be merged so that at
/// most `limit` are left, if there are more: some of the newest, and older ones as
/// long as they are no larger than what is being merged anyway, and all of it comes
/// to no more than `most_bytes`.
fn newest_of(bytes: &[u64], limit: usize, most_bytes: u64) -> Option<usize> {
    let mut first = (bytes.len() > limit).then(|| limit.saturating_sub(1))?;
    let mut sum: u64 = bytes[first..].iter().sum();
    while first > 0 && bytes[first - 1] <= sum.min(most_bytes.saturating_sub(sum)) {
        first -= 1;
        sum += bytes[first];
    }
    Some(first)
}

/// Neighbouring groups that are in the same tables.
struct Piece<'a> {
    groups: KeyGroupRange,
    /// In the order of age.
    tables: Vec<&'a Arc<TableEntry>>,
}

/// The pieces of tables (in the order of age) from group `next` on, also those
/// between tables that no table has.
fn pieces<'a>(tables: &[&'a Arc<TableEntry>], next: u32) -> Vec<Piece<'a>> {
    // Where slices begin and end, there the tables of a group change.
    let mut borders = BTreeSet::new();
    let mut begin: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (age, table) in tables.iter().enumerate() {
        let (first, end) = (u32::from(table.slice.first().0), u32::from(table.slice.last().0) + 1);
        if end > next {
            borders.extend([first.max(next), end]);
            begin.entry(first.max(next)).or_default().push(age);
        }
    }
    let borders: Vec<_> = borders.into_iter().collect();
    let mut there: BTreeSet<usize> = BTreeSet::new();
    let piece = |border: &[u32]| {
        there.retain(|&age| u32::from(tables[age].slice.last().0) >= border[0]);
        there.extend(begin.get(&border[0]).into_iter().flatten());
        let tables = there.iter().map(|&age| tables[age]).collect();
        Piece { groups: range(border[0], border[1] - 1), tables }
    };
    borders.windows(2).map(piece).collect()
}

/// Bytes above the bottom.
pub(crate) fn debt_bytes(version: &Version) -> u64 {
    let tables: Vec<_> = version.tables().iter().collect();
    let runs = hull(&tables).map(|all| runs(&tables, all)).unwrap_or_default();
    runs.iter().skip(1).map(|run| run.bytes).sum()
}

impl MergePlanner {
    pub(crate) fn new(limits: MergeLimits) -> Self {
        let most = i64::try_from(limits.saved_bytes()).unwrap_or(i64::MAX);
        Self {
            limits,
            delta_bytes: 0,
            usual_bytes: None,
            granted: most,
            most,
            ration: limits.partition_bytes / 4,
            urgent: most / 2,
            urgent_taken: false,
            is_turn_of_cycle: false,
            ahead_of_cycle: 0,
            cycle: None,
            apart: BTreeSet::new(),
        }
    }

    /// A delta of so many bytes was added to the version.
    pub(crate) fn delta_written(&mut self, bytes: u64) {
        self.delta_bytes += bytes;
    }

    /// A snapshot was published, or changes were written early, which the next one has.
    pub(crate) fn published(&mut self) {
        let bytes = std::mem::take(&mut self.delta_bytes);
        let usual = self.usual_bytes.map_or(bytes, |usual| usual.midpoint(bytes));
        self.usual_bytes = Some(usual);
        let ration = usual.max(bytes).saturating_mul(RATION).max(self.limits.partition_bytes / 4);
        self.ration = ration;
        self.urgent = i64::try_from(ration / 2).unwrap_or(i64::MAX);
        self.urgent_taken = false;
        self.most = i64::try_from(ration.max(self.limits.saved_bytes())).unwrap_or(i64::MAX);
        self.granted = self.granted.saturating_add_unsigned(ration).min(self.most);
    }

    /// Something has changed that may let tables be merged which could not be.
    pub(crate) fn forget_apart(&mut self) {
        self.apart.clear();
    }

    fn mergeable<'v>(&self, version: &'v Version) -> Vec<&'v Arc<TableEntry>> {
        let tables = version.tables().iter();
        tables.filter(|table| !self.apart.contains(&table.meta.file)).collect()
    }

    /// Begins a cycle if it is time for one: after a snapshot.
    pub(crate) fn begin(&mut self, version: &Version) {
        if self.cycle.is_some() {
            return;
        }
        let MergeLimits { max_tables, partition_bytes } = self.limits;
        let tables = self.mergeable(version);
        let Some(all) = hull(&tables) else { return };
        let runs = runs(&tables, all);
        let total: u64 = runs.iter().map(|run| run.bytes).sum();
        let full = fullness_percent(&tables, all);
        let cycle = |least_percent, joins| Some(Cycle { next: 0, least_percent, joins });
        if full >= CYCLE_PERCENT && total >= partition_bytes / SMALL_FRACTION {
            self.cycle = cycle(LEAST_PERCENT, false);
            return;
        }
        let bytes: Vec<_> = runs.iter().map(|run| run.bytes).collect();
        if let Some(first) = newest_of(&bytes, max_tables, u64::MAX) {
            let merged: u64 = bytes[first..].iter().sum();
            let most_of_it = merged > bytes[1..].iter().sum::<u64>() / 2;
            if first == 0 || (most_of_it && full >= EARLY_PERCENT) {
                self.cycle = cycle(0, false);
            }
        } else if self.are_many(&tables) && self.newest_small(&tables).is_none() {
            self.cycle = cycle(0, true);
        }
    }

    /// Whether there are many tables although no group is in many: deltas of few
    /// keys. A run has a table for each half of a partition, at the most.
    fn are_many(&self, tables: &[&Arc<TableEntry>]) -> bool {
        let total: u64 = tables.iter().map(|table| table.bytes_in(table.slice)).sum();
        let partitions = total.saturating_mul(2) / self.limits.partition_bytes.max(1);
        let most = usize::try_from(partitions).unwrap_or(usize::MAX).saturating_add(1);
        tables.len() > self.limits.max_tables.saturating_mul(most)
    }

    /// The newest of many tables to be merged, if the bottom is not among them.
    fn newest_small<'v>(&self, tables: &[&'v Arc<TableEntry>]) -> Option<Vec<&'v Arc<TableEntry>>> {
        let runs = runs(tables, hull(tables)?);
        let bottom = runs.first()?;
        let is_above = |table: &&&'v Arc<TableEntry>| {
            !bottom.tables.iter().any(|other| Arc::ptr_eq(other, **table))
        };
        let above: Vec<_> = tables.iter().filter(is_above).copied().collect();
        let mut bytes = vec![bottom.bytes];
        bytes.extend(above.iter().map(|table| table.bytes_in(table.slice)));
        let first = newest_of(&bytes, self.limits.max_tables, u64::MAX)?.checked_sub(1)?;
        Some(above[first..].to_vec()).filter(|newest| newest.len() > 1)
    }

    /// The next step, if there is one and it has been granted.
    pub(crate) fn step(&mut self, version: &Version) -> Option<MergePlan> {
        let tables = self.mergeable(version);
        let most = self.limits.max_tables;
        let more = most.saturating_add((most / 2).max(1));
        let all = u64::from(hull(&tables)?.count());
        let ration = self.ration;
        let few = |bytes: &[u64], groups: KeyGroupRange| {
            let most_bytes = ration.saturating_mul(4) / all;
            newest_of(bytes, more, most_bytes.saturating_mul(u64::from(groups.count())))
        };
        let pieces = pieces(&tables, 0);
        let deepest = pieces.iter().map(|piece| piece.tables.len()).max().unwrap_or(0);
        let is_behind = deepest > most.saturating_mul(BEHIND);
        let urgent = self.runs_step(version, &tables, more, is_behind, few);
        if is_behind && self.cycle.is_some() {
            if self.granted <= 0 {
                return None;
            }
            let cycle = |this: &mut Self| this.cycle_step(version, &tables);
            let urgent = urgent.map(|plan| MergePlan { is_urgent: true, ..plan });
            return if self.ahead_of_cycle > 0 {
                cycle(self).or(urgent)
            } else {
                urgent.or_else(|| cycle(self))
            };
        }
        self.ahead_of_cycle = 0;
        // Where it is urgent, all that is granted; otherwise something is left for
        // what will be.
        let may_be_urgent = self.urgent > 0 && !(self.is_turn_of_cycle && self.cycle.is_some());
        let urgent = urgent.filter(|_| may_be_urgent);
        if let Some(plan) = urgent.filter(|plan| self.is_granted(plan, 0)) {
            return Some(MergePlan { is_urgent: true, ..plan });
        }
        let plan = if self.cycle.is_some() {
            self.cycle_step(version, &tables)
        } else {
            let by_size = |bytes: &[u64], _| newest_of(bytes, most, u64::MAX);
            self.runs_step(version, &tables, most, is_behind, by_size).or_else(|| {
                let newest = self.newest_small(&tables).filter(|_| self.are_many(&tables))?;
                self.plan(version, &newest, self.cut(&newest, hull(&newest)?))
            })
        };
        let plan = plan.or_else(|| self.deletions_step(version, &tables));
        let granted = plan.as_ref().is_some_and(|plan| self.is_granted(plan, self.ration / 4));
        // No more is saved up than for a step, so there would never be enough of it.
        let is_kept_waiting = !granted && plan.as_ref().is_some_and(|plan| plan.of_cycle);
        self.is_turn_of_cycle |= is_kept_waiting && self.urgent_taken;
        plan.filter(|_| granted)
    }

    /// A step that writes a table of deletions anew without them: what they deleted went
    /// unread, and nothing is left beneath.
    fn deletions_step(&self, version: &Version, tables: &[&Arc<TableEntry>]) -> Option<MergePlan> {
        let plan = |table: &&Arc<TableEntry>| {
            self.plan(version, &[*table], self.cut(&[*table], table.slice))
        };
        let of_deletions = tables.iter().filter(|table| is_of_deletions(table));
        of_deletions.filter_map(plan).find(|plan| plan.to_the_bottom)
    }

    /// Whether a step is granted that is to leave so many bytes to others.
    fn is_granted(&self, plan: &MergePlan, rest: u64) -> bool {
        let wanted = plan.adds_bytes.saturating_add(if plan.adds_bytes > 0 { rest } else { 0 });
        self.granted >= i64::try_from(wanted).unwrap_or(i64::MAX).min(self.most)
    }

    /// A step that merges the newest tables of the first groups that are in more than
    /// `limit`, or of those that are in the most: from the one on that `oldest` tells,
    /// given the bytes of all and the groups.
    fn runs_step(
        &self,
        version: &Version,
        tables: &[&Arc<TableEntry>],
        limit: usize,
        deepest_first: bool,
        oldest: impl Fn(&[u64], KeyGroupRange) -> Option<usize>,
    ) -> Option<MergePlan> {
        let pieces = pieces(tables, 0);
        let deepest = pieces.iter().map(|piece| piece.tables.len()).max()?;
        let limit_of_first = if deepest_first { limit.max(deepest - 1) } else { limit };
        let first = pieces.iter().position(|piece| piece.tables.len() > limit_of_first)?;
        let mut inputs: BTreeSet<*const TableEntry> = BTreeSet::new();
        let mut groups: Option<KeyGroupRange> = None;
        for (at, piece) in pieces.iter().enumerate().skip(first) {
            if piece.tables.len() <= limit {
                break;
            }
            let bytes = piece.tables.iter().map(|table| table.bytes_in(piece.groups));
            let Some(oldest) = oldest(&bytes.collect::<Vec<_>>(), piece.groups) else { break };
            let newest = &piece.tables[oldest..];
            let mut more = inputs.clone();
            more.extend(newest.iter().copied().map(id));
            // In every group the newest, without a gap. Only tables that are new among
            // them and reach back can change that of groups before.
            let reaches_back = |table: &&Arc<TableEntry>| {
                table.slice.first() < piece.groups.first() && !inputs.contains(&id(table))
            };
            let from = if newest.iter().any(reaches_back) { first } else { at };
            let fits = pieces[from..=at].iter().all(|piece| {
                let is_in = |table: &&Arc<TableEntry>| more.contains(&id(table));
                piece.tables.iter().skip_while(|table| !is_in(table)).all(is_in)
            });
            if !fits {
                break;
            }
            inputs = more;
            let from = groups.map_or(piece.groups.first(), KeyGroupRange::first);
            groups = Some(range(from.0.into(), piece.groups.last().0.into()));
        }
        let inputs: Vec<_> =
            tables.iter().filter(|table| inputs.contains(&id(table))).copied().collect();
        let groups = self.cut(&inputs, groups?);
        self.plan(version, &inputs, groups)
    }

    /// The next step of the cycle, which ends if there is none.
    fn cycle_step(&mut self, version: &Version, tables: &[&Arc<TableEntry>]) -> Option<MergePlan> {
        loop {
            let Cycle { next, least_percent, joins } = self.cycle?;
            let mut worth: Option<KeyGroupRange> = None;
            for Piece { groups, tables } in pieces(tables, next) {
                let is_worth = match tables.len() {
                    0 => worth.is_some(),
                    // What is small is taken along: it would be a sliver for ever.
                    1 => {
                        joins
                            || tables[0].has_dropped()
                            || tables[0].bytes_in(groups) <= self.limits.partition_bytes / 4
                    }
                    _ => {
                        least_percent == 0
                            || tables.iter().any(|table| table.has_dropped())
                            || fullness_percent(&tables, groups) >= least_percent
                    }
                };
                match (is_worth, worth) {
                    (true, Some(before)) => {
                        worth = Some(range(before.first().0.into(), groups.last().0.into()));
                    }
                    (true, None) => worth = Some(groups),
                    (false, Some(_)) => break,
                    (false, None) => {}
                }
            }
            let Some(groups) = worth.map(|groups| self.cut(tables, groups)) else {
                self.cycle = None;
                return None;
            };
            let plan = self.plan(version, tables, groups);
            if let Some(plan) = plan {
                return Some(MergePlan { of_cycle: true, ..plan });
            }
            // One table, and to write it again would gain nothing.
            if let Some(cycle) = &mut self.cycle {
                cycle.next = u32::from(groups.last().0) + 1;
            }
        }
    }

    /// The first of `groups`, as many as a step of `tables` may take.
    fn cut(&self, tables: &[&Arc<TableEntry>], groups: KeyGroupRange) -> KeyGroupRange {
        let (first, last) = (u32::from(groups.first().0), u32::from(groups.last().0));
        let bytes_to = |last| {
            let groups = range(first, last);
            tables.iter().map(|table| table.bytes_in(groups)).sum::<u64>()
        };
        let bytes = bytes_to(last);
        // Steps of one size, instead of a small one at the end.
        let steps = bytes.div_ceil(self.limits.step_bytes()).max(1);
        let target = bytes.div_ceil(steps);
        let (mut least, mut most) = (first, last);
        while least < most {
            let middle = (least + most).div_ceil(2);
            if bytes_to(middle) <= target {
                least = middle;
            } else {
                most = middle - 1;
            }
        }
        range(first, least)
    }

    /// A merge of what `tables` have of `groups`, if there is anything to be merged.
    fn plan(
        &self,
        version: &Version,
        tables: &[&Arc<TableEntry>],
        groups: KeyGroupRange,
    ) -> Option<MergePlan> {
        let inputs = tables.iter().filter(|table| table.slice.intersection(groups).is_some());
        let inputs: Vec<_> = inputs.copied().cloned().collect();
        let gains = |table: &Arc<TableEntry>| table.has_dropped() || is_of_deletions(table);
        if inputs.len() < 2 && !inputs.iter().any(gains) {
            return None;
        }
        // What no store has and is used up need not be uploaded any more.
        let is_saved = |table: &&Arc<TableEntry>| {
            table.slice == table.meta.groups
                && groups.covers(table.slice)
                && table.places().stored.is_empty()
        };
        let adding = inputs.iter().filter(|table| !is_saved(table));
        let adds_bytes = adding.map(|table| table.bytes_in(groups)).sum();
        let to_the_bottom = is_bottom(version, &inputs, groups);
        Some(MergePlan {
            inputs,
            groups,
            to_the_bottom,
            adds_bytes,
            of_cycle: false,
            is_urgent: false,
        })
    }

    /// A step was done, or could not be done because of what was left out.
    pub(crate) fn done(&mut self, plan: &MergePlan, result: StepResult) {
        let added = result.bytes.min(plan.adds_bytes);
        self.granted = self.granted.saturating_sub_unsigned(added);
        if plan.is_urgent {
            self.urgent_taken = true;
            self.urgent = self.urgent.saturating_sub_unsigned(added);
            self.ahead_of_cycle = self.ahead_of_cycle.saturating_add_unsigned(added);
        } else if plan.of_cycle {
            self.ahead_of_cycle = self.ahead_of_cycle.saturating_sub_unsigned(added);
        }
        self.apart.extend(result.left_out);
        if let Some(cycle) = self.cycle.as_mut().filter(|_| plan.of_cycle) {
            self.is_turn_of_cycle = false;
            cycle.next = u32::from(plan.groups.last().0) + 1;
        }
    }
}

/// Whether half of its records, or more, are deletions.
fn is_of_deletions(table: &TableEntry) -> bool {
    table.meta.tombstones > 0 && table.meta.tombstones >= table.meta.records / 2
}

/// What lies above the bottom in `groups`, per hundred bytes of what is alive there.
/// A deletion counts for the record that it hides.
fn fullness_percent(tables: &[&Arc<TableEntry>], groups: KeyGroupRange) -> u64 {
    let mut bottom = Run::default();
    let (mut above, mut records, mut deletions) = (0_u64, 0_u64, 0_u64);
    for table in tables {
        let Some(slice) = table.slice.intersection(groups) else { continue };
        if bottom.meets(slice) {
            above += table.bytes_in(slice);
            deletions += table.share_of(table.meta.tombstones, slice);
        } else {
            bottom.slices.insert(slice.first().0, slice.last().0);
            bottom.bytes += table.bytes_in(slice);
            records += table.share_of(table.meta.records, slice);
        }
    }
    let hidden = u128::from(bottom.bytes) * u128::from(deletions) / u128::from(records.max(1));
    let hidden = u64::try_from(hidden).unwrap_or(u64::MAX).min(bottom.bytes);
    let alive = (bottom.bytes - hidden).max(1);
    above.saturating_add(hidden).saturating_mul(100) / alive
}

/// Whether all tables of the version that are older than one of `inputs` in
/// `groups` are among them.
fn is_bottom(version: &Version, inputs: &[Arc<TableEntry>], groups: KeyGroupRange) -> bool {
    let mut left = inputs.iter().peekable();
    for table in version.tables() {
        if left.next_if(|input| Arc::ptr_eq(input, table)).is_some() {
            continue;
        }
        if left.peek().is_some() && table.slice.intersection(groups).is_some() {
            return false;
        }
    }
    true
}

fn id(table: &Arc<TableEntry>) -> *const TableEntry {
    Arc::as_ptr(table)
}

/// From the first group of the tables to the last.
fn hull(tables: &[&Arc<TableEntry>]) -> Option<KeyGroupRange> {
    let first = tables.iter().map(|table| table.slice.first().0).min()?;
    let last = tables.iter().map(|table| table.slice.last().0).max()?;
    Some(range(first.into(), last.into()))
}

fn range(first: u32, last: u32) -> KeyGroupRange {
    KeyGroupRange::new(KeyGroup(first as u16), KeyGroup(last as u16))
        .expect("groups of a table, the first before the last")
}
