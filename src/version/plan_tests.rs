//! Plans are followed without files: a table is a list of which record it has as
//! of which checkpoint, 100 bytes each, or of deletions of 20. The model is what was
//! written last. Whatever is counted is counted in bytes.
//!
//! What could break: a table is put in the wrong place, or a deletion forgotten too
//! early, and a reader finds what is not there any more; a file is given up while it
//! is needed, or never; or merges write too much, too late, or at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::plan::{MergeLimits, MergePlan, MergePlanner, StepResult};
use super::{Places, Stored, TableEntry, TableFile, Version};
use crate::base::checksum::ContentHash;
use crate::base::{FileId, KeyGroup, KeyGroupRange};
use crate::env::sim::SimRng;
use crate::format::properties::StateProperties;
use crate::format::table::TableMeta;

const RECORD_BYTES: u64 = 100;
const DELETION_BYTES: u64 = 20;
/// Of a table besides its records.
const TABLE_BYTES: u64 = 200;

/// What a table has: the checkpoint of each record's last change, and whether
/// there still is one. Records of one group follow each other.
type Content = BTreeMap<u32, (u64, bool)>;

struct World {
    rng: SimRng,
    limits: MergeLimits,
    /// Files of this life that the version has no more.
    gone: BTreeSet<FileId>,
    /// The last file of the life before.
    restored: u64,
    planner: MergePlanner,
    version: Version,
    contents: BTreeMap<FileId, Content>,
    groups: KeyGroupRange,
    records_per_group: u32,
    files: u64,
    drops_one_in: u64,
    checkpoint: u64,
    /// By the checkpoints: when their changes were made, by a clock that may jump.
    stamps: Vec<u64>,
    /// Of state "a": what was written up to this has expired; and the highest so far.
    cutoff: u64,
    most_cutoff: u64,
    /// What is true: the last change of each record.
    model: Content,
    /// Bytes of the deltas, and of everything that was uploaded.
    dirty_bytes: u64,
    uploaded_bytes: u64,
    /// The most that was uploaded for one checkpoint.
    most_uploaded: u64,
    most_tables: usize,
    /// Bytes of files for each byte that is alive, after each checkpoint.
    space: Vec<f64>,
}

/// Records are of two states by turns.
fn state_of(record: u32) -> &'static str {
    if record.is_multiple_of(2) { "a" } else { "b" }
}

fn range(first: u32, last: u32) -> KeyGroupRange {
    KeyGroupRange::new(KeyGroup(first as u16), KeyGroup(last as u16)).unwrap()
}

fn bytes_of(content: &Content) -> u64 {
    let record = |&(_, alive): &(u64, bool)| if alive { RECORD_BYTES } else { DELETION_BYTES };
    TABLE_BYTES + content.values().map(record).sum::<u64>()
}

impl World {
    fn new(seed: u64, groups: u32, records_per_group: u32, limits: MergeLimits) -> Self {
        Self {
            rng: SimRng::new(seed),
            limits,
            gone: BTreeSet::new(),
            restored: 0,
            planner: MergePlanner::new(limits),
            version: Version::default(),
            contents: BTreeMap::new(),
            groups: range(0, groups - 1),
            records_per_group,
            files: 0,
            drops_one_in: 0,
            checkpoint: 0,
            stamps: vec![0],
            cutoff: 0,
            most_cutoff: 0,
            model: Content::new(),
            dirty_bytes: 0,
            uploaded_bytes: 0,
            most_uploaded: 0,
            most_tables: 0,
            space: Vec::new(),
        }
    }

    fn records(&self) -> u32 {
        self.groups.count() * self.records_per_group
    }

    fn group_of(&self, record: u32) -> KeyGroup {
        KeyGroup((record / self.records_per_group) as u16)
    }

    fn table(&mut self, content: Content) -> Option<Arc<TableEntry>> {
        let groups = KeyGroupRange::new(
            self.group_of(*content.keys().next()?),
            self.group_of(*content.keys().next_back()?),
        );
        self.files += 1;
        let file = FileId { incarnation: 1, number: self.files };
        let groups = groups.unwrap();
        let meta = TableMeta {
            file,
            bytes: bytes_of(&content),
            hash: ContentHash(0),
            records: content.len() as u64,
            tombstones: content.values().filter(|(_, alive)| !alive).count() as u64,
            raw_bytes: 0,
            groups,
        };
        let mut states: BTreeMap<_, StateProperties> = BTreeMap::new();
        for (&record, &(at, alive)) in &content {
            let state = states.entry(state_of(record)).or_default();
            state.name = state_of(record).to_owned();
            state.records += 1;
            state.tombstones += u64::from(!alive);
            state.newest_stamp = state.newest_stamp.max(alive.then(|| self.stamp(at)));
        }
        let states = states.into_values().collect();
        self.contents.insert(file, content);
        Some(TableEntry::new(meta, groups, states, &[], Places::default()))
    }

    fn within(&self, table: &TableEntry, groups: KeyGroupRange) -> Content {
        let slice = table.slice.intersection(groups).expect("what is merged is there");
        let first = u32::from(slice.first().0) * self.records_per_group;
        let end = (u32::from(slice.last().0) + 1) * self.records_per_group;
        let content = &self.contents[&table.meta.file];
        let dropped = table.dropped();
        let counts = |record| !dropped.iter().any(|state| state == state_of(record));
        let range = content.range(first..end).map(|(&record, &change)| (record, change));
        range.filter(|&(record, _)| counts(record)).collect()
    }

    fn merge(&mut self, plan: &MergePlan) {
        let mut merged = Content::new();
        for input in &plan.inputs {
            merged.extend(self.within(input, plan.groups));
        }
        for (&record, (at, alive)) in &mut merged {
            *alive &= !self.is_expired(record, *at, self.cutoff);
        }
        if plan.to_the_bottom {
            merged.retain(|_, (_, alive)| *alive);
        }
        let left_away: Vec<_> = plan.inputs.iter().map(|input| input.dropped()).collect();
        if self.rng.one_in(self.drops_one_in) {
            // While the merge goes on.
            self.drop_state();
        }
        let output = self.table(merged);
        if let Some(output) = &output {
            for (input, left_away) in plan.inputs.iter().zip(left_away) {
                let since = input.dropped().into_iter().filter(|name| !left_away.contains(name));
                output.drop_states(&since.collect::<Vec<_>>());
            }
        }
        let bytes = output.as_ref().map_or(0, |table| table.meta.bytes);
        let before = self.version.clone();
        self.version = before
            .with_merged(&plan.inputs, plan.groups, output)
            .expect("a plan can be carried out");
        self.give_up(self.version.files_gone(&plan.inputs));
        self.planner.done(plan, StepResult { bytes, left_out: Vec::new() });
    }

    fn give_up(&mut self, files: Vec<Arc<TableFile>>) {
        // Joined from two halves, a restored file is known twice; it is not ours.
        for file in files.iter().filter(|file| file.meta.file.number > self.restored) {
            assert!(self.gone.insert(file.meta.file), "a file is given up twice");
        }
    }

    fn is_expired(&self, record: u32, at: u64, cutoff: u64) -> bool {
        cutoff > 0 && state_of(record) == "a" && self.stamp(at) <= cutoff
    }

    fn stamp(&self, checkpoint: u64) -> u64 {
        self.stamps.get(checkpoint as usize).copied().unwrap_or(0)
    }

    fn come_to(&mut self, cutoff: u64) {
        self.cutoff = cutoff;
        self.most_cutoff = self.most_cutoff.max(cutoff);
    }

    /// All that was written of a state by now is gone.
    fn drop_state(&mut self) {
        let name = ["a", "b"][self.rng.below(2) as usize];
        self.version.drop_states(&[name.to_owned()]);
        self.planner.forget_apart();
        self.model.retain(|&record, _| state_of(record) != name);
    }

    /// The shard as it is found by a later process, which joins it from two.
    fn restore(&mut self) {
        let middle = 1 + self.rng.below(u64::from(self.groups.count()) - 1) as u32;
        let mut tables = Vec::new();
        for half in [range(0, middle - 1), range(middle, self.groups.last().0.into())] {
            for table in self.version.tables() {
                if let Some(slice) = table.slice.intersection(half) {
                    let (states, places) = (table.states.clone(), table.places());
                    let dropped = table.dropped();
                    tables.push(TableEntry::new(table.meta, slice, states, &dropped, places));
                }
            }
        }
        self.gone.clear();
        self.restored = self.files;
        self.version = Version::new(tables);
        self.planner = MergePlanner::new(self.limits);
    }

    /// A checkpoint with these changes, and the merges after it.
    fn checkpoint(&mut self, changes: &BTreeMap<u32, bool>, published: bool) {
        self.write(changes, published, published);
    }

    /// Changes that become a table, for which merges may be granted, and of which the
    /// store may get everything.
    fn write(&mut self, changes: &BTreeMap<u32, bool>, granted: bool, uploaded_now: bool) {
        self.checkpoint += 1;
        let at = self.checkpoint;
        // Usually a step of ten, and never up to what has expired.
        let now = self.cutoff + 50 + 10 * (at * 7 % 3);
        self.stamps.push(now);
        let delta: Content =
            changes.iter().map(|(&record, &alive)| (record, (at, alive))).collect();
        self.model.extend(delta.iter());
        let delta = self.table(delta);
        let delta_bytes = delta.as_ref().map_or(0, |delta| delta.meta.bytes);
        if let Some(delta) = delta {
            self.planner.delta_written(delta_bytes);
            self.version = self.version.with_delta(delta);
        }
        self.dirty_bytes += delta_bytes;
        if uploaded_now {
            let mut uploaded = 0;
            for table in
                self.version.tables().iter().filter(|table| table.places().stored.is_empty())
            {
                uploaded += table.meta.bytes;
                let (store, location) = ("s".to_owned(), "".into());
                table.set_stored(Stored { store, location, confirmed: true, named: true });
            }
            self.uploaded_bytes += uploaded;
            self.most_uploaded = self.most_uploaded.max(uploaded);
        }
        if granted {
            self.planner.published();
        }
        let cutoff = self.cutoff;
        let have_expired = |state: &StateProperties| {
            state.name == "a" && state.newest_stamp.is_some_and(|newest| newest <= cutoff)
        };
        if let Some((version, gone)) = self.version.without_spent(have_expired) {
            self.give_up(version.files_gone(&gone));
            self.version = version;
        }
        self.planner.begin(&self.version);
        while let Some(plan) = self.planner.step(&self.version) {
            self.merge(&plan);
        }
    }

    /// The most tables that a group is in.
    fn depth(&self) -> usize {
        let of_group = |group| {
            self.version.tables().iter().filter(|table| table.slice.contains(group)).count()
        };
        self.groups.iter().map(of_group).max().unwrap_or(0)
    }

    fn live_bytes(&self) -> u64 {
        self.model.values().filter(|(_, alive)| *alive).count() as u64 * RECORD_BYTES
    }

    fn measure(&mut self) {
        self.most_tables = self.most_tables.max(self.depth());
        let live = self.live_bytes().max(1);
        self.space.push(self.version.file_bytes() as f64 / live as f64);
    }

    /// What a reader finds, table by table in the order of age, is what was written
    /// last, and nothing that was deleted. What had expired some day may be there, as it
    /// was written last, or not.
    fn check(&self) {
        let mut expected = self.model.clone();
        expected.retain(|_, (_, alive)| *alive);
        let found = self.read(&self.version);
        expected.retain(|record, (at, _)| {
            found.contains_key(record) || !self.is_expired(*record, *at, self.most_cutoff)
        });
        assert_eq!(found, expected, "checkpoint {}", self.checkpoint);
    }

    fn read(&self, version: &Version) -> Content {
        let mut found = Content::new();
        for table in version.tables() {
            found.extend(self.within(table, self.groups));
        }
        found.retain(|_, (_, alive)| *alive);
        found
    }
}

/// Numbers below `count`, the small ones more often: Zipf's law with exponent 0.99.
struct Zipf {
    sums: Vec<f64>,
    order: Vec<u32>,
}

impl Zipf {
    fn new(count: u32, rng: &mut SimRng) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count)
            .map(|rank| {
                sum += f64::from(rank).powf(-0.99);
                sum
            })
            .collect();
        let mut order: Vec<u32> = (0..count).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, rng.below(at as u64 + 1) as usize);
        }
        Self { sums, order }
    }

    fn pick(&self, rng: &mut SimRng) -> u32 {
        let all = self.sums.last().unwrap();
        let at = rng.below(1 << 53) as f64 / (1_u64 << 53) as f64 * all;
        self.order[self.sums.partition_point(|&sum| sum < at).min(self.order.len() - 1)]
    }
}

/// A world that was loaded, and whose merges are done with that.
fn loaded(max_tables: usize) -> World {
    loaded_by(7, max_tables)
}

fn loaded_by(seed: u64, max_tables: usize) -> World {
    let (groups, per_group) = (128, 100);
    let bytes = u64::from(groups * per_group) * RECORD_BYTES;
    let limits = MergeLimits { max_tables, partition_bytes: bytes / 20 };
    let mut world = World::new(seed, groups, per_group, limits);
    let all: BTreeMap<_, _> = (0..world.records()).map(|record| (record, true)).collect();
    // The second one has what was loaded cut into partitions.
    world.checkpoint(&all, true);
    world.checkpoint(&all, true);
    for _ in 0..20 {
        world.checkpoint(&BTreeMap::new(), true);
    }
    world.count_anew();
    world
}

impl World {
    fn count_anew(&mut self) {
        (self.dirty_bytes, self.uploaded_bytes, self.most_uploaded) = (0, 0, 0);
        self.most_tables = 0;
        self.space.clear();
        self.gone.iter().for_each(|file| drop(self.contents.remove(file)));
    }

    /// Checkpoints with so many records changed in each, so many per hundred of all.
    fn work(&mut self, law: Option<&Zipf>, percent: u32, checkpoints: u32) {
        let all = self.records();
        for _ in 0..checkpoints {
            let mut changes = BTreeMap::new();
            if percent == 100 {
                changes.extend((0..all).map(|record| (record, true)));
            }
            while changes.len() < (all * percent / 100) as usize {
                let record = match law {
                    Some(law) => law.pick(&mut self.rng),
                    None => self.rng.below(u64::from(all)) as u32,
                };
                changes.insert(record, true);
            }
            self.checkpoint(&changes, true);
            self.measure();
        }
        self.check();
    }

    /// Bytes uploaded for each byte of a delta; those of files for each one alive, on
    /// average and at the most; the most uploaded at once, in deltas.
    fn figures(&self, deltas: u32) -> (f64, f64, f64, f64) {
        let dirty = self.dirty_bytes as f64;
        (
            self.uploaded_bytes as f64 / dirty,
            self.space.iter().sum::<f64>() / self.space.len() as f64,
            self.space.iter().copied().fold(0.0, f64::max),
            self.most_uploaded as f64 / (dirty / f64::from(deltas)),
        )
    }
}

#[test]
fn uploads_space_and_tables_are_bounded_whatever_part_of_the_state_changes() {
    for is_zipf in [false, true] {
        for percent in [1, 2, 5, 10, 30, 100] {
            // Fifty checkpoints as most people measure; then many more.
            for (checkpoints, most_uploads, most_space, most_peak) in [
                (50, if is_zipf { 2.25 } else { 2.8 }, 1.56, 2.0),
                (250, if is_zipf { 3.1 } else { 3.7 }, 1.66, 2.2),
            ] {
                let mut world = loaded(8);
                let law = is_zipf.then(|| Zipf::new(world.records(), &mut world.rng));
                world.work(law.as_ref(), percent, checkpoints);
                let (uploads, space, peak, at_once) = world.figures(checkpoints);
                let law = if is_zipf { "zipf" } else { "uniform" };
                let all = format!(
                    "{law} {percent:3} % x {checkpoints:3}: {uploads:.2} uploaded, space \
                     {space:.2}, at the most {peak:.2}, {} tables, {at_once:.1} deltas at once",
                    world.most_tables
                );
                println!("{all}");
                assert!(uploads <= most_uploads, "{all}");
                assert!(space <= most_space && peak <= most_peak, "{all}");
                // Half as many again as there may be, and what is not granted yet.
                assert!(world.most_tables <= 8 + 4 + 3, "{all}");
                // A delta, and what was saved up of seven times a usual one, or of one
                // and a half partitions.
                let most = 1.0 + f64::max(7.0, 1.5 * 5.0 / f64::from(percent)) + 0.5;
                assert!(at_once <= most, "{all}: more than {most:.1}");
            }
        }
    }
}

/// Steps of a cycle wait until enough is granted, and so do urgent ones, which come
/// first; a cycle that never gets on lets tables pile up without a bound. Seeds 14 and
/// 26 led there.
#[test]
fn what_is_urgent_does_not_keep_a_cycle_waiting_for_ever() {
    for seed in [2, 14, 26] {
        let mut world = loaded_by(seed, 8);
        world.work(None, 1, 250);
        let (uploads, space, peak, _) = world.figures(250);
        let all =
            format!("seed {seed}: {uploads:.2}, {space:.2}, {peak:.2}, {}", world.most_tables);
        println!("{all}");
        assert!(uploads <= 3.7 && space <= 1.66 && peak <= 2.2, "{all}");
        assert!(world.most_tables <= 8 + 4 + 4, "{all}");
    }
}

#[test]
fn a_growing_state_uploads_each_byte_a_few_times() {
    for (step, most_uploads) in [(100, 5.0), (1_000, 4.0)] {
        let limits = MergeLimits { max_tables: 8, partition_bytes: 64_000 };
        let mut world = World::new(1, 128, 100, limits);
        let mut records: Vec<u32> = (0..world.records()).collect();
        for at in (1..records.len()).rev() {
            records.swap(at, world.rng.below(at as u64 + 1) as usize);
        }
        for new in records.chunks(step) {
            world.checkpoint(&new.iter().map(|&record| (record, true)).collect(), true);
            world.measure();
        }
        world.check();
        let (uploads, _, peak, _) = world.figures(1);
        assert!(uploads <= most_uploads, "{uploads} bytes for each");
        assert!(peak <= 2.1 && world.most_tables <= 15, "{peak}, {} tables", world.most_tables);
    }
}

#[test]
fn what_is_deleted_gives_back_its_space() {
    for percent in [1, 10] {
        let mut world = loaded(8);
        let mut left: Vec<u32> = (0..world.records()).collect();
        while left.len() as u32 > world.records() / 50 {
            let mut changes = BTreeMap::new();
            for _ in 0..world.records() * percent / 100 {
                if !left.is_empty() {
                    let at = world.rng.below(left.len() as u64) as usize;
                    changes.insert(left.swap_remove(at), false);
                }
            }
            world.checkpoint(&changes, true);
            if left.len() as u32 > world.records() / 5 {
                world.measure();
            }
        }
        // Idle snapshots: a cycle that was begun is brought to its end.
        for _ in 0..50 {
            world.checkpoint(&BTreeMap::new(), true);
        }
        world.check();
        let (_, _, peak, _) = world.figures(1);
        assert!(peak <= 3.0, "{percent} %: {peak} times the space");
        let bytes = world.version.file_bytes();
        let live = world.live_bytes();
        assert!(bytes < 2 * live + 64_000, "{percent} %: {bytes} bytes for {live}");
    }
}

/// With a memory budget: what is written at a time is a fraction of a partition, and a
/// key group is nearly one. Several such writes come to one snapshot, whose tables the
/// store has; after each of them merges are granted.
#[test]
fn early_writes_of_a_large_state_pile_up_no_tables() {
    for (writes_per_partition, most_tables, most_peak) in [(4, 28, 2.3), (12, 60, 2.8)] {
        let (groups, per_group) = (128, 40);
        let bytes = u64::from(groups * per_group) * RECORD_BYTES;
        let limits = MergeLimits { max_tables: 8, partition_bytes: bytes / 80 };
        let mut world = World::new(5, groups, per_group, limits);
        let mut new: Vec<u32> = (0..world.records()).collect();
        for at in (1..new.len()).rev() {
            new.swap(at, world.rng.below(at as u64 + 1) as usize);
        }
        let records_per_write = bytes / RECORD_BYTES / 80 / writes_per_partition;
        // The state grows, and is then written over.
        let writes = 2 * new.len() as u64 / records_per_write;
        for write in 0..writes {
            let mut changes = BTreeMap::new();
            for _ in 0..records_per_write {
                let any = world.rng.below(u64::from(world.records())) as u32;
                changes.insert(new.pop().unwrap_or(any), true);
            }
            world.write(&changes, true, write % 5 == 4);
            if write > writes / 10 && write % 7 == 0 {
                world.measure();
            }
        }
        world.check();
        let (uploads, space, peak, _) = world.figures(1);
        let all = format!(
            "{writes_per_partition} writes a partition: {uploads:.2} uploaded, \
             space {space:.2}, at the most {peak:.2}, {} tables in a group, {} in all",
            world.most_tables,
            world.version.tables().len(),
        );
        println!("{all}");
        assert!(world.most_tables <= most_tables, "{all}");
        assert!(space <= 1.85 && peak <= most_peak, "{all}");
        assert!(uploads <= 8.0, "{all}");
    }
}

#[test]
fn snapshots_that_are_not_published_grant_nothing() {
    let mut world = loaded(8);
    world.work(None, 1, 40);
    let before = (world.uploaded_bytes, world.dirty_bytes);
    for at in 0..=60 {
        let mut changes = BTreeMap::new();
        for _ in 0..world.records() / 100 {
            changes.insert(world.rng.below(u64::from(world.records())) as u32, true);
        }
        world.checkpoint(&changes, at == 60);
    }
    world.check();
    let (uploaded, dirty) = (world.uploaded_bytes - before.0, world.dirty_bytes - before.1);
    // The deltas, what had been granted before, and a step that is owed, since so many
    // tables are behind.
    let most = dirty + 8 * dirty / 60 + world.limits.partition_bytes;
    assert!(uploaded <= most, "{uploaded} bytes after {dirty} of deltas");
}

/// Random lives: whatever is planned, a reader of the tables finds what was written
/// last, and a file is given up exactly when no slice of it is left.
#[test]
fn every_group_is_read_from_the_right_tables_in_the_order_of_age() {
    for seed in 0..300 {
        let mut rng = SimRng::new(seed);
        let groups = 2 + rng.below(12) as u32;
        let limits = MergeLimits {
            max_tables: 1 + rng.below(6) as usize,
            partition_bytes: 1 + rng.below(6_000),
        };
        let mut world = World::new(seed, groups, 1 + rng.below(6) as u32, limits);
        world.drops_one_in = [0, 10][rng.below(2) as usize];
        let expires = rng.one_in(2);
        for _ in 0..40 {
            if expires {
                // Forward; and now and then far ahead, or back.
                let by = if rng.one_in(10) { rng.below(200) } else { 10 };
                let now = if rng.one_in(12) { world.cutoff / 2 } else { world.cutoff + by };
                world.come_to(now);
            }
            if world.rng.one_in(12) {
                world.drop_state();
                if let Some((version, dropped)) = world.version.without_dropped() {
                    world.give_up(version.files_gone(&dropped));
                    world.version = version;
                }
            }
            let mut changes = BTreeMap::new();
            for _ in 0..world.rng.below(20) {
                let record = world.rng.below(u64::from(world.records())) as u32;
                changes.insert(record, !world.rng.one_in(3));
            }
            if world.rng.one_in(4) {
                // A few groups only.
                let most = world.records() / 3;
                changes.retain(|&record, _| record <= most);
            }
            let published = !world.rng.one_in(4);
            let held = world.version.clone();
            let before = world.read(&held);
            world.checkpoint(&changes, published);
            world.check();
            if world.drops_one_in == 0 {
                // A snapshot under way reads what it read, whatever was merged since.
                assert_eq!(world.read(&held), before, "seed {seed}");
            }
            if world.rng.one_in(10) {
                world.restore();
                world.check();
            }
            let here: BTreeSet<_> = world.version.tables().iter().map(|t| t.meta.file).collect();
            let ours = world.contents.keys().filter(|file| file.number > world.restored);
            let expected: BTreeSet<_> = ours.filter(|file| !here.contains(file)).copied().collect();
            assert_eq!(world.gone, expected, "seed {seed}: the files that are gone");
        }
    }
}

#[test]
fn no_table_stands_for_others_if_one_lies_between_them() {
    let limits = MergeLimits { max_tables: 8, partition_bytes: 1_000 };
    let mut world = World::new(0, 4, 1, limits);
    let tables: Vec<_> = [&[0, 1, 2, 3][..], &[0, 1], &[1, 2, 3]]
        .into_iter()
        .map(|records| world.table(records.iter().map(|&r| (r, (1, true))).collect()).unwrap())
        .collect();
    let version = Version::new(tables.clone());
    let apart = [Arc::clone(&tables[0]), Arc::clone(&tables[2])];
    assert!(version.with_merged(&apart, range(0, 3), None).is_none());
    assert!(version.with_merged(&apart, range(1, 1), None).is_none());
    let merged = version.with_merged(&apart, range(2, 2), None).expect("nothing between them");
    let slices: Vec<_> = merged.tables().iter().map(|table| table.slice).collect();
    assert_eq!(slices, [range(0, 1), range(3, 3), range(0, 1), range(1, 1), range(3, 3)]);
    assert!(merged.files_gone(&apart).is_empty());
    assert_eq!(merged.file_bytes(), version.file_bytes());
    // Taken up again, a table that was cut is no longer what it was.
    assert!(merged.with_merged(&apart, range(3, 3), None).is_none());
}
