//! The figures that a person sees move when they should and only then, and what they say
//! of tables is what a scan of the files finds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::env::sim::{FaultError, FaultKind, SimRng};
use alluvium::env::{Env, SimEnv};
use alluvium::table::TableReader;
use alluvium::{
    Backend, BackendBuilder, KeyRef, KeyedStore, LookupStats, MaxParallelism, MemoryComponent,
    Shard, ShardStats, SnapshotHandle, SnapshotId, Stall, Stalls, StateSpec, TableStateStats,
    TimeDomain, TimerSpec, TimerStore,
};

const DIR: &str = "/node";
const BUDGET_BYTES: u64 = 256 << 10;

fn builder(env: &SimEnv) -> BackendBuilder {
    Backend::builder(DIR).env(Arc::new(env.clone())).background_threads(0).warm_up(false)
}

fn with_budget(env: &SimEnv) -> Backend {
    builder(env).memory_budget_bytes(BUDGET_BYTES).open().unwrap()
}

fn shard(backend: &Backend, handle: Option<SnapshotHandle>) -> Shard {
    let groups = MaxParallelism::DEFAULT.all_groups();
    backend.shard("op", groups).restore(handle).open().unwrap()
}

fn snapshot(shard: &mut Shard, id: u64) -> SnapshotHandle {
    let report = shard.snapshot(SnapshotId(id), b"").unwrap().wait().unwrap();
    shard.notify_complete(SnapshotId(id));
    report.handle
}

fn files_in(env: &SimEnv, dir: &str) -> BTreeMap<PathBuf, u64> {
    let files = env.list_all_files().into_iter().filter(|path| path.starts_with(dir));
    files.map(|path| (path.clone(), env.file_bytes(&path).unwrap().len() as u64)).collect()
}

/// What a scan of all tables finds of each state is what the counters say of it. The
/// files are read without the shard; a table that is not there any more where the shard
/// says it is fails, too.
fn scrub(env: &SimEnv, shard: &Shard) {
    let stats = shard.stats();
    let tables = shard.tables();
    assert_eq!(tables.len(), stats.tables);
    let mut files = BTreeMap::new();
    for table in &tables {
        let name = format!("{}.table", table.file);
        let local = Path::new(DIR).join("local").join(&name);
        let stored = Path::new(DIR).join("checkpoints/tables").join(&name);
        assert_eq!(table.is_local, env.file_bytes(&local).is_some(), "{table}");
        assert!(!table.is_stored || env.file_bytes(&stored).is_some(), "{table}");
        let path = if table.is_local { local } else { stored };
        files.insert(table.file, table.bytes);
        let reader = Arc::new(TableReader::open_any(env.fs().open(&path).unwrap()).unwrap());
        let names: Vec<_> = reader.states().iter().map(|state| state.name.clone()).collect();
        let mut found: BTreeMap<&str, [u64; 5]> = BTreeMap::new();
        let mut scan = reader.scan(MaxParallelism::DEFAULT.all_groups());
        while let Some(record) = scan.next().unwrap() {
            assert!(table.groups.contains(record.group));
            let counts = found.entry(&names[usize::from(record.state)]).or_default();
            let value = record.value.map_or(0, <[u8]>::len);
            let lens = [1, usize::from(record.value.is_none())];
            let lens = lens.into_iter().chain([record.key.len(), record.namespace.len(), value]);
            counts.iter_mut().zip(lens).for_each(|(count, more)| *count += more as u64);
        }
        let said = |state: &TableStateStats| {
            let TableStateStats { records, tombstones, key_bytes, .. } = *state;
            let counts = [records, tombstones, key_bytes, state.namespace_bytes, state.value_bytes];
            (&*table.states.iter().find(|other| *other == state).unwrap().name, counts)
        };
        let said: BTreeMap<_, _> = table.states.iter().map(said).collect();
        assert_eq!(said, found, "{table}");
        let sum = |at: usize| found.values().map(|counts| counts[at]).sum::<u64>();
        assert_eq!((table.records, table.tombstones), (sum(0), sum(1)));
        assert_eq!(table.raw_bytes, sum(2) + sum(3) + sum(4));
        assert!(table.slice_bytes <= table.bytes);
    }
    assert_eq!(files.values().sum::<u64>(), stats.table_bytes, "each file once");
    // By state: what counts, slice by slice.
    for state in shard.state_stats() {
        let held = tables.iter().flat_map(|table| {
            let share = |count: u64| {
                let slice = u64::from(table.slice.intersection(table.groups).unwrap().count());
                (count * slice).div_ceil(u64::from(table.groups.count()))
            };
            let counts = table.states.iter().filter(|held| held.name == state.name);
            counts
                .filter(|held| !held.is_dropped)
                .map(move |held| (share(held.records), share(held.raw_bytes())))
        });
        let sum = held.fold((0, 0), |sum, held| (sum.0 + held.0, sum.1 + held.1));
        assert_eq!((state.table_records, state.table_bytes), sum, "{state}");
    }
}

#[test]
fn what_is_said_of_tables_is_what_a_scan_of_them_finds_after_random_lives() {
    for seed in 0..6 {
        println!("seed {seed}");
        let env = SimEnv::new(seed);
        let mut rng = SimRng::new(seed);
        let mut handle = None;
        let mut id = 0;
        for life in 0..3 {
            let backend =
                if rng.one_in(2) { with_budget(&env) } else { builder(&env).open().unwrap() };
            let mut shard = shard(&backend, handle.take());
            let values = shard.register(StateSpec::value("values")).unwrap();
            let lists = shard.register(StateSpec::list("lists")).unwrap();
            let maps = shard.register(StateSpec::map("maps")).unwrap();
            let mut passing = shard.register(StateSpec::value("passing")).unwrap();
            for step in 0..6_000_u64 {
                let key = rng.below(3_000).to_le_bytes();
                let key = KeyRef::new(&key).namespace(&b"namespace"[..rng.below(9) as usize]);
                let value = vec![step as u8; rng.below(120) as usize];
                match rng.below(12) {
                    0..=3 => shard.put(values, key, &value).unwrap(),
                    4 => shard.delete(values, key).unwrap(),
                    5 => shard.list_append(lists, key, &[&value, b"more"]).unwrap(),
                    6 => shard.clear(if rng.one_in(2) { lists } else { maps }, key).unwrap(),
                    7 => shard.map_put(maps, key, &value, b"entry").unwrap(),
                    8 => shard.map_remove(maps, key, &value).unwrap(),
                    9 => shard.put(passing, key, &value).unwrap(),
                    _ => drop(shard.get(values, key).unwrap()),
                }
                if rng.one_in(700) {
                    id += 1;
                    snapshot(&mut shard, id);
                    scrub(&env, &shard);
                }
                if rng.one_in(2_500) {
                    assert!(shard.drop_state("passing").unwrap());
                    passing = shard.register(StateSpec::value("passing")).unwrap();
                }
            }
            id += 1;
            handle = Some(snapshot(&mut shard, id));
            while backend.run_background() {}
            scrub(&env, &shard);
            let stats = shard.stats();
            assert!(life == 0 || stats.lookups.lookups > 0, "{stats}");
            assert_eq!(sum_of_states(&shard), stats.lookups);
        }
    }
}

/// No state was dropped since it was looked for.
fn sum_of_states(shard: &Shard) -> LookupStats {
    let mut sum = LookupStats::default();
    shard.state_stats().iter().for_each(|state| sum += state.lookups);
    sum
}

#[test]
fn only_what_memory_cannot_answer_counts_as_a_look_up() {
    let env = SimEnv::new(1);
    let backend = builder(&env).open().unwrap();
    let mut one = shard(&backend, None);
    let state = one.register(StateSpec::value("values")).unwrap();
    let key = |key: u64| key.to_le_bytes();
    for number in 0..1_000 {
        one.put(state, KeyRef::new(&key(number)), b"value").unwrap();
    }
    snapshot(&mut one, 1);
    for number in 0..2_000 {
        one.get(state, KeyRef::new(&key(number))).unwrap();
    }
    assert_eq!(one.stats().lookups, LookupStats::default(), "all is in memory");
    let handle = snapshot(&mut one, 2);
    drop(one);

    let mut one = shard(&backend, Some(handle));
    let state = one.register(StateSpec::value("values")).unwrap();
    assert_eq!(one.stats().lookups, LookupStats::default());
    for _ in 0..2 {
        // The second time they are in memory.
        for number in 0..500 {
            assert!(one.get(state, KeyRef::new(&key(number))).unwrap().is_some());
        }
        let LookupStats { lookups, found, tables_asked, blocks_read, promoted, .. } =
            one.stats().lookups;
        assert_eq!([lookups, found, tables_asked, promoted], [500; 4]);
        assert!((500..520).contains(&blocks_read), "{blocks_read}");
    }
    let before = one.stats().lookups;
    for number in 1_000..1_400 {
        assert!(one.get(state, KeyRef::new(&key(number))).unwrap().is_none());
    }
    let after = one.stats().lookups;
    assert_eq!(after.lookups - before.lookups, 400);
    assert_eq!((after.found, after.promoted), (before.found, before.promoted));
    assert_eq!(after.excluded + after.false_positives, 400);
    assert!((1..60).contains(&after.false_positives), "one in 40: {after}");
    assert_eq!(after.tables_asked, after.found + after.excluded + after.false_positives);
    let (states, stats) = (one.state_stats(), one.stats());
    assert_eq!(states[0].lookups, stats.lookups);
    assert_eq!((states[0].records, states[0].table_records), (stats.records, 1_000));
    assert!(!states[0].is_complete);
}

#[test]
fn a_collection_is_one_look_up_however_many_entries_it_has() {
    let env = SimEnv::new(1);
    let backend = builder(&env).open().unwrap();
    let mut one = shard(&backend, None);
    let maps = one.register(StateSpec::map("maps")).unwrap();
    for entry in 0..100_u8 {
        for key in [b"a", b"b"] {
            one.map_put(maps, KeyRef::new(key), &[entry], b"value").unwrap();
        }
    }
    let handle = snapshot(&mut one, 1);
    drop(one);
    let mut one = shard(&backend, Some(handle));
    let maps = one.register(StateSpec::map("maps")).unwrap();
    for entry in 0..120_u8 {
        one.map_get(maps, KeyRef::new(b"a"), &[entry]).unwrap();
    }
    let stats = one.stats().lookups;
    assert_eq!((stats.lookups, stats.found, stats.promoted), (1, 1, 1), "{stats}");
    one.map_get(maps, KeyRef::new(b"c"), b"entry").unwrap();
    let stats = one.stats().lookups;
    assert_eq!((stats.lookups, stats.found, stats.promoted), (2, 1, 1), "{stats}");
    assert!(stats.tables_asked <= 2 && stats.excluded + stats.false_positives <= 1, "{stats}");
}

fn count_of(Stalls { writing, merging, memory, loading, .. }: Stalls) -> [u64; 4] {
    [writing, merging, memory, loading].map(|stall| stall.count)
}

#[test]
fn a_wait_for_tables_is_counted_with_its_cause() {
    let env = SimEnv::new(1);
    let backend = with_budget(&env);
    let mut one = shard(&backend, None);
    let state = one.register(StateSpec::value("values")).unwrap();
    assert_eq!(one.stats().stalls, Stalls::default());
    let put = |one: &mut Shard, key: u64| {
        one.put(state, KeyRef::new(&key.to_le_bytes()), &[7; 100]).map(drop)
    };
    (0..10_000).for_each(|key| put(&mut one, key).unwrap());
    let [writing, _, memory, loading] = count_of(one.stats().stalls);
    assert!(writing > 0, "nobody else writes: {}", one.stats().stalls);
    assert_eq!((memory, loading), (0, 0), "{}", one.stats().stalls);

    // Nothing can be written, so memory fills with what would have to be.
    env.fail_nth(FaultKind::Write, 1, FaultError::ENOSPC, true);
    let refused = (10_000..50_000).find(|&key| put(&mut one, key).is_err());
    refused.expect("memory is full in the end");
    let stuck = count_of(one.stats().stalls);
    assert!(stuck[0] > writing, "{}", one.stats().stalls);
    env.clear_faults();

    let Stall { total_ns, longest_ns, count, .. } = one.stats().stalls.writing;
    assert!(longest_ns <= total_ns && total_ns <= longest_ns * count);
}

#[test]
fn a_shard_without_a_budget_never_waits() {
    let env = SimEnv::new(1);
    let backend = builder(&env).open().unwrap();
    let mut one = shard(&backend, None);
    let state = one.register(StateSpec::value("values")).unwrap();
    for key in 0..5_000_u64 {
        one.put(state, KeyRef::new(&key.to_le_bytes()), &[7; 100]).unwrap();
        if key % 500 == 0 {
            snapshot(&mut one, 1 + key);
        }
    }
    let stats = one.stats();
    assert_eq!((stats.stalls, stats.early_writes), (Stalls::default(), 0));
}

#[test]
fn timers_that_must_all_be_read_first_are_a_wait_for_loading() {
    let env = SimEnv::new(1);
    let backend = builder(&env).open().unwrap();
    let mut one = shard(&backend, None);
    let timers = one.open_timers(TimerSpec::new("timers", TimeDomain::Event)).unwrap();
    for time in 0..100_i64 {
        one.register_timer(timers, time, KeyRef::new(&time.to_le_bytes())).unwrap();
    }
    assert_eq!(one.next_timer(timers).unwrap(), Some(0));
    assert_eq!(one.stats().stalls, Stalls::default());
    let handle = snapshot(&mut one, 1);
    drop(one);
    let mut one = shard(&backend, Some(handle));
    let timers = one.open_timers(TimerSpec::new("timers", TimeDomain::Event)).unwrap();
    for _ in 0..3 {
        assert_eq!(one.next_timer(timers).unwrap(), Some(0));
    }
    assert_eq!(count_of(one.stats().stalls), [0, 0, 0, 1]);
    assert_eq!(one.stats().lookups.promoted, 100);
}

#[test]
fn what_was_written_merged_and_uploaded_is_what_the_files_come_to() {
    let env = SimEnv::new(1);
    let backend = builder(&env).max_tables_per_shard(4).open().unwrap();
    let mut one = shard(&backend, None);
    let state = one.register(StateSpec::value("values")).unwrap();
    let mut rng = SimRng::new(1);
    let mut deltas = 0;
    for id in 1..=20 {
        for _ in 0..500 {
            let key = rng.below(2_000).to_le_bytes();
            one.put(state, KeyRef::new(&key), &[id as u8; 50]).unwrap();
        }
        snapshot(&mut one, id);
        deltas += 1;
        // Until the next one nothing is uploaded.
        let stored = files_in(&env, "/node/checkpoints/tables");
        let merges = one.stats().merges;
        assert_eq!(merges.uploaded_bytes, stored.values().sum::<u64>());
        assert_eq!(merges.deltas, deltas);
        let tables = one.tables();
        let above: u64 = tables.iter().skip(1).map(|table| table.slice_bytes).sum();
        if tables.iter().all(|table| table.slice.count() == 128) {
            assert_eq!(merges.debt_bytes, above, "one run beneath, the others above it");
        }
        while backend.run_background() {}
    }
    let merges = one.stats().merges;
    assert!(merges.merges > 0 && merges.delta_bytes > 0);
    assert!(merges.read_bytes >= merges.written_bytes, "{merges}");
    let delta = merges.delta_bytes / merges.deltas;
    assert!((merges.delta_bytes + merges.written_bytes) >= merges.uploaded_bytes, "{merges}");
    assert!(merges.uploaded_bytes >= 20 * delta * 9 / 10, "{merges}");
}

#[test]
fn memory_is_counted_with_and_without_a_budget_and_goes_with_who_had_it() {
    for budget in [None, Some(4 << 20)] {
        let env = SimEnv::new(1);
        let mut builder = builder(&env);
        if let Some(bytes) = budget {
            builder = builder.memory_budget_bytes(bytes);
        }
        let backend = builder.open().unwrap();
        assert_eq!(backend.memory().limit_bytes, budget);
        let before = backend.memory();
        let mut one = shard(&backend, None);
        let state = one.register(StateSpec::value("values")).unwrap();
        let timers = one.open_timers(TimerSpec::new("timers", TimeDomain::Event)).unwrap();
        for key in 0..2_000_u64 {
            one.put(state, KeyRef::new(&key.to_le_bytes()), &[7; 100]).unwrap();
            let key = key.to_le_bytes();
            one.register_timer(timers, 0, KeyRef::new(&key)).unwrap();
        }
        let handle = snapshot(&mut one, 1);
        let (memory, stats) = (backend.memory(), one.stats());
        use MemoryComponent as Of;
        assert_eq!(memory.bytes_of(Of::Records), stats.arena_used_bytes);
        assert_eq!(memory.bytes_of(Of::Gaps), stats.arena_free_bytes);
        assert_eq!(memory.bytes_of(Of::Indexes), stats.index_bytes);
        assert_eq!(memory.bytes_of(Of::Queues), stats.timer_queue_bytes);
        assert!(memory.peak_bytes > memory.total_bytes, "copies and tables were there: {memory}");
        for gone in [Of::Changes, Of::Writing, Of::Merging, Of::Uploading, Of::WarmUp] {
            assert_eq!(memory.bytes_of(gone), 0, "{gone:?} in {memory}");
        }
        let sum: u64 = Of::ALL.iter().map(|&component| memory.bytes_of(component)).sum();
        assert_eq!(sum, memory.total_bytes);
        drop(one);

        let mut one = shard(&backend, Some(handle));
        assert!(backend.memory().bytes_of(Of::OpenTables) > 2_000, "a byte a key for the filter");
        let state = one.register(StateSpec::value("values")).unwrap();
        assert!(one.get(state, KeyRef::new(&7_u64.to_le_bytes())).unwrap().is_some());
        assert!(backend.memory().bytes_of(Of::Blocks) > 0);
        drop(one);
        // What was queued holds a shard's tables until it is done.
        while backend.run_background() {}
        let after = backend.memory();
        let left = after.bytes_of(Of::Blocks) + after.bytes_of(Of::SpareBuffers);
        let ready = after.bytes_of(Of::ReadyPages);
        assert_eq!(after.total_bytes, left + ready, "{after}");
        assert_eq!(before.bytes_of(Of::Records), 0);
    }
}

#[test]
fn shards_add_up_to_a_backend() {
    let env = SimEnv::new(1);
    let backend = with_budget(&env);
    let mut sum = ShardStats::default();
    sum.is_warm = true;
    let mut shards = Vec::new();
    for index in 0..2 {
        let groups = MaxParallelism::DEFAULT.range_of_subtask(index, 2).unwrap();
        let mut one = backend.shard("op", groups).open().unwrap();
        let state = one.register(StateSpec::value("values")).unwrap();
        for key in 0..10_u64 {
            let key = key.to_le_bytes();
            one.put(state, KeyRef::in_group(groups.first(), &key), b"value").unwrap();
        }
        snapshot(&mut one, 1);
        shards.push(one);
    }
    shards.iter().for_each(|one| sum += one.stats());
    assert_eq!((sum.records, sum.tables, sum.merges.deltas), (20, 2, 2));
    let bytes: u64 = files_in(&env, "/node/checkpoints/tables").values().sum();
    assert_eq!((sum.table_bytes, sum.merges.uploaded_bytes), (bytes, bytes));
}

#[test]
fn figures_are_lines_that_a_person_can_read() {
    let env = SimEnv::new(1);
    let backend = with_budget(&env);
    let mut one = shard(&backend, None);
    let state = one.register(StateSpec::value("clicks")).unwrap();
    for key in 0..10_000_u64 {
        one.put(state, KeyRef::new(&key.to_le_bytes()), &[7; 100]).unwrap();
    }
    for key in 0..1_000_u64 {
        one.get(state, KeyRef::new(&key.to_le_bytes())).unwrap();
    }
    let shown = [
        one.stats().to_string(),
        backend.memory().to_string(),
        one.state_stats()[0].to_string(),
        one.tables()[0].to_string(),
    ];
    println!("{}", shown.join("\n\n"));
    for (text, parts) in shown.iter().zip([
        &["records in memory", "the rest in tables", "writing too slow", "early writes"][..],
        &["records ", "indexes ", "together", "of 256.0 KiB", " %"],
        &["clicks", "in memory", "look-ups in tables"],
        &["clicks", "deletions", "local"],
    ]) {
        for part in parts {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(text.lines().all(|line| line.len() < 260 && !line.ends_with(' ')), "{text}");
    }
}
