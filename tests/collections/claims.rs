//! What is claimed of lists and maps, one claim a test.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use alluvium::env::sim::SimRng;
use alluvium::env::{Env, SimEnv};
use alluvium::format::Manifest;
use alluvium::format::collection::{EntryName, Subkey};
use alluvium::object::LocalStore;
use alluvium::table::TableReader;
use alluvium::{
    Backend, Error, ErrorKind, KeyGroup, KeyRef, KeyedStore, MaxParallelism, Shard, SnapshotHandle,
    SnapshotId, SnapshotReport, SnapshotSource, StateId, StateSpec, StoreSink,
};

type Bytes = Vec<u8>;
type Map = BTreeMap<Bytes, Bytes>;

const CHECKPOINTS: &str = "/checkpoints";

struct Node {
    env: SimEnv,
    backend: Backend,
}

impl Node {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(settings: impl FnOnce(alluvium::BackendBuilder) -> alluvium::BackendBuilder) -> Self {
        let env = SimEnv::new(1);
        let builder = Backend::builder("/node")
            .checkpoint_dir(CHECKPOINTS)
            .env(Arc::new(env.clone()))
            .background_threads(0)
            .max_parallelism(MaxParallelism::new(16).unwrap());
        Self { env, backend: settings(builder).open().unwrap() }
    }

    fn shard(&self, handles: &[SnapshotHandle]) -> Shard {
        self.shards(1, handles).remove(0)
    }

    fn shards(&self, parallelism: u32, handles: &[SnapshotHandle]) -> Vec<Shard> {
        (0..parallelism)
            .map(|index| {
                let max = self.backend.max_parallelism();
                let groups = max.range_of_subtask(index, parallelism).unwrap();
                self.backend.shard("op", groups).restore(handles.iter().cloned()).open().unwrap()
            })
            .collect()
    }

    fn warm_up(&self, shard: &mut Shard) {
        while !shard.warm_up(1000).unwrap() {
            assert!(self.backend.run_background() || shard.warm_up(1000).unwrap());
        }
    }

    /// The names and values of the newest table of a snapshot.
    fn newest_table(&self, handle: &SnapshotHandle) -> Vec<(Bytes, Bytes, Option<Bytes>)> {
        let env: Arc<dyn Env> = Arc::new(self.env.clone());
        let store = StoreSink::new(Arc::new(LocalStore::open(env, CHECKPOINTS.into()).unwrap()));
        let object = store.open(handle.manifest()).unwrap();
        let mut bytes = vec![0; object.len() as usize];
        object.read_at(0, &mut bytes).unwrap();
        let manifest = Manifest::decode(&bytes).unwrap();
        let table = manifest.tables.last().unwrap();
        let reader = TableReader::open(store.open(&table.location).unwrap(), &table.meta).unwrap();
        let mut scan = Arc::new(reader).scan(table.slice);
        let mut records = Vec::new();
        while let Some(record) = scan.next().unwrap() {
            let value = record.value.map(<[u8]>::to_vec);
            records.push((record.key.to_vec(), record.namespace.to_vec(), value));
        }
        records
    }
}

fn snapshot(shard: &mut Shard, id: u64) -> SnapshotReport {
    shard.snapshot(SnapshotId(id), b"").unwrap().wait().unwrap()
}

fn list(shard: &mut Shard) -> StateId {
    shard.register(StateSpec::list("lists")).unwrap()
}

fn map(shard: &mut Shard) -> StateId {
    shard.register(StateSpec::map("maps")).unwrap()
}

fn read(shard: &mut Shard, state: StateId, key: &[u8]) -> Vec<Bytes> {
    let mut found = Vec::new();
    shard.list_read(state, KeyRef::new(key), &mut |element| found.push(element.to_vec())).unwrap();
    found
}

fn scan(shard: &mut Shard, state: StateId, key: &[u8], from: Bound<&[u8]>) -> Vec<(Bytes, Bytes)> {
    let mut found = Vec::new();
    shard
        .map_scan(state, KeyRef::new(key), from, &mut |entry, value| {
            found.push((entry.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

fn keys(shard: &mut Shard, state: StateId) -> Vec<Bytes> {
    let mut found = Vec::new();
    shard
        .visit_keys(state, None, &mut |_, key, _| {
            found.push(key.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
    found.sort();
    found
}

#[test]
fn a_delta_holds_only_the_new_elements_of_a_list() {
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let state = list(&mut shard);
    let key = KeyRef::new(b"k").namespace(b"ns");
    for number in 0..1000_u32 {
        shard.list_append(state, key, &[&number.to_be_bytes(), &[7; 100]]).unwrap();
    }
    let first = snapshot(&mut shard, 1);
    assert_eq!(first.records_new, 1);
    shard.list_append(state, key, &[b"new", b""]).unwrap();
    shard.list_append(state, key, &[b"er"]).unwrap();
    let second = snapshot(&mut shard, 2);
    let [(found, name, value)] = &*node.newest_table(&second.handle) else { panic!("one record") };
    assert_eq!(found, b"k");
    let name = EntryName::decode(name).unwrap();
    assert_eq!(name, EntryName::entry(b"ns", &1_u64.to_be_bytes()));
    assert_eq!(value.as_deref(), Some(&b"\x03new\x00\x02er"[..]));
    // A list that is only read is no change.
    read(&mut shard, state, b"k");
    assert_eq!(snapshot(&mut shard, 3).records_new, 0);
}

#[test]
fn elements_keep_their_order_across_restores_merges_and_rescaling() {
    let node = Node::with(|builder| builder.max_tables_per_shard(2));
    let mut handles: Vec<SnapshotHandle> = Vec::new();
    let mut expected: BTreeMap<Bytes, Vec<Bytes>> = BTreeMap::new();
    let mut id = 0;
    for (round, parallelism) in [1, 3, 2, 4, 1, 4, 3, 1].into_iter().enumerate() {
        let mut shards = node.shards(parallelism, &handles);
        // Shards of one checkpoint need not have taken as many snapshots each.
        for part in 0..3 + round {
            for shard in &mut shards {
                let state = list(shard);
                for key in (0..40_u32).map(|key| key.to_le_bytes()) {
                    let element = format!("{round}.{part}");
                    match shard.list_append(state, KeyRef::new(&key), &[element.as_bytes()]) {
                        Ok(()) => {
                            expected.entry(key.to_vec()).or_default().push(element.into_bytes());
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid),
                    }
                }
            }
            id += 1;
            handles = shards.iter_mut().map(|shard| snapshot(shard, id).handle).collect();
            while node.backend.run_background() {}
        }
    }
    for parallelism in [1, 3] {
        for shard in &mut node.shards(parallelism, &handles) {
            let state = list(shard);
            for key in keys(shard, state) {
                assert_eq!(read(shard, state, &key), expected[&key]);
            }
        }
    }
    // The warm-up puts the older part before what was appended unseen.
    let mut shard = node.shard(&handles);
    let state = list(&mut shard);
    for (key, elements) in &mut expected {
        shard.list_append(state, KeyRef::new(key), &[b"last"]).unwrap();
        elements.push(b"last".to_vec());
    }
    node.warm_up(&mut shard);
    for (key, elements) in &expected {
        assert_eq!(read(&mut shard, state, key), *elements);
    }
}

/// Numbers of chunks go on from the greatest of all shards that are joined.
#[test]
fn elements_keep_their_order_when_shards_of_unequal_ages_are_joined() {
    let node = Node::new();
    for older in [0, 1] {
        let mut shards = node.shards(2, &[]);
        let keys = [KeyGroup(0), KeyGroup(15)].map(|group| KeyRef::in_group(group, b"k"));
        for (at, (shard, key)) in shards.iter_mut().zip(keys).enumerate() {
            let state = list(shard);
            for id in 1..if at == older { 9 } else { 2 } {
                shard.list_append(state, key, &[&[id]]).unwrap();
                snapshot(shard, u64::from(id));
            }
        }
        let handles: Vec<_> = shards.iter_mut().map(|shard| snapshot(shard, 100).handle).collect();
        let mut joined = node.shard(&handles);
        let state = list(&mut joined);
        joined.list_append(state, keys[older], &[b"last"]).unwrap();
        let handle = snapshot(&mut joined, 101).handle;
        let mut found = Vec::new();
        node.shard(&[handle])
            .list_read(state, keys[older], &mut |element| found.push(element.to_vec()))
            .unwrap();
        let expected = (1..9).map(|id| vec![id]).chain([b"last".to_vec()]);
        assert!(found.into_iter().eq(expected));
    }
}

#[test]
fn a_map_is_scanned_in_the_order_of_the_bytes_of_its_keys() {
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let state = map(&mut shard);
    let mut rng = SimRng::new(5);
    let mut model = Map::new();
    for _ in 0..3000 {
        let mut entry = vec![0; rng.below(4) as usize];
        rng.fill(&mut entry);
        shard.map_put(state, KeyRef::new(b"k"), &entry, &entry).unwrap();
        model.insert(entry.clone(), entry);
    }
    for _ in 0..300 {
        let mut from = vec![0; rng.below(4) as usize];
        rng.fill(&mut from);
        for from in [Bound::Unbounded, Bound::Included(&*from), Bound::Excluded(&*from)] {
            let expected: Vec<_> = model
                .range::<[u8], _>((from, Bound::Unbounded))
                .map(|(entry, value)| (entry.clone(), value.clone()))
                .collect();
            assert!(scan(&mut shard, state, b"k", from) == expected, "from {from:?}");
        }
    }
}

#[test]
fn a_map_of_many_thousand_entries_writes_only_those_that_changed() {
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let state = map(&mut shard);
    let key = KeyRef::new(b"k");
    let mut model = Map::new();
    for number in 0..50_000_u32 {
        let entry = number.wrapping_mul(2_654_435_761).to_be_bytes();
        shard.map_put(state, key, &entry, &number.to_le_bytes()).unwrap();
        model.insert(entry.to_vec(), number.to_le_bytes().to_vec());
    }
    assert_eq!(snapshot(&mut shard, 1).records_new, 50_000);
    let some = model.keys().nth(777).unwrap().clone();
    let other = model.keys().nth(33_333).unwrap().clone();
    shard.map_put(state, key, &some, b"changed").unwrap();
    shard.map_remove(state, key, &other).unwrap();
    shard.map_remove(state, key, b"absent").unwrap();
    model.insert(some, b"changed".to_vec());
    model.remove(&other);
    let second = snapshot(&mut shard, 2);
    assert_eq!(second.records_new, 2);
    let mut shard = node.shard(&[second.handle]);
    let state = map(&mut shard);
    let expected: Vec<_> = model.into_iter().collect();
    assert!(scan(&mut shard, state, b"k", Bound::Unbounded) == expected);
    assert_eq!(snapshot(&mut shard, 3).records_new, 0, "what comes up is no change");
}

#[test]
fn keys_namespaces_entries_elements_and_values_may_be_empty() {
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let (lists, maps) = (list(&mut shard), map(&mut shard));
    let key = KeyRef::new(b"");
    shard.list_append(lists, key, &[]).unwrap();
    assert!(keys(&mut shard, lists).is_empty(), "no elements make no list");
    shard.list_append(lists, key, &[b"", b""]).unwrap();
    shard.map_put(maps, key, b"", b"").unwrap();
    let handle = snapshot(&mut shard, 1).handle;
    for mut shard in [shard, node.shard(&[handle])] {
        let (lists, maps) = (list(&mut shard), map(&mut shard));
        assert_eq!(keys(&mut shard, lists), [b""]);
        assert_eq!(read(&mut shard, lists, b""), [b"", b""]);
        assert_eq!(shard.map_get(maps, key, b"").unwrap(), Some(&b""[..]));
        assert_eq!(shard.map_get(maps, key, b"x").unwrap(), None);
        assert!(!shard.map_is_empty(maps, key).unwrap());
        assert!(shard.map_is_empty(maps, key.namespace(b"n")).unwrap());
    }
}

fn refuses(error: Error, wanted: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    for wanted in wanted {
        assert!(error.to_string().contains(wanted), "{wanted:?} is not in: {error}");
    }
}

#[test]
fn a_call_that_does_not_fit_the_kind_is_refused_and_changes_nothing() {
    type Call = fn(&mut Shard, StateId) -> Result<(), Error>;
    const KEY: KeyRef<'static> = KeyRef::new(b"k");
    let calls: [(&str, &str, Call); 14] = [
        ("value", "get", |shard, state| shard.get(state, KEY).map(drop)),
        ("value", "put", |shard, state| shard.put(state, KEY, b"v")),
        ("value", "delete", |shard, state| shard.delete(state, KEY)),
        ("value", "update", |shard, state| {
            shard.update(state, KEY, &mut |_| panic!("called for a state of another kind"))
        }),
        ("value", "get", |shard, state| shard.get_many(state, &[KEY], &mut |_, _| ())),
        ("value", "update", |shard, state| shard.update_many(state, &[KEY], &mut |_, _| ())),
        ("list", "list_append", |shard, state| shard.list_append(state, KEY, &[b"e"])),
        ("list", "list_read", |shard, state| shard.list_read(state, KEY, &mut |_| ())),
        ("list", "list_replace", |shard, state| shard.list_replace(state, KEY, &[])),
        ("map", "map_get", |shard, state| shard.map_get(state, KEY, b"e").map(drop)),
        ("map", "map_put", |shard, state| shard.map_put(state, KEY, b"e", b"v")),
        ("map", "map_remove", |shard, state| shard.map_remove(state, KEY, b"e")),
        ("map", "map_is_empty", |shard, state| shard.map_is_empty(state, KEY).map(drop)),
        ("map", "map_scan", |shard, state| {
            shard.map_scan(state, KEY, Bound::Unbounded, &mut |_, _| ControlFlow::Continue(()))
        }),
    ];
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let states = [
        ("value", StateSpec::value("a value")),
        ("value", StateSpec::reducing("a reducing value")),
        ("value", StateSpec::aggregating("an aggregating value")),
        ("list", StateSpec::list("a list")),
        ("map", StateSpec::map("a map")),
    ]
    .map(|(kind, spec)| (kind, spec.name().to_owned(), shard.register(spec).unwrap()));
    for (kind, _, state) in &states {
        match *kind {
            "value" => shard.put(*state, KEY, b"held").unwrap(),
            "list" => shard.list_append(*state, KEY, &[b"held"]).unwrap(),
            _ => shard.map_put(*state, KEY, b"held", b"held").unwrap(),
        }
    }
    let before = snapshot(&mut shard, 1);
    assert_eq!(before.records_new, 5);
    for of_epoch in [1, 2] {
        for (kind, name, state) in &states {
            for (fits, call, make) in calls {
                if *kind == fits {
                    continue;
                }
                refuses(make(&mut shard, *state).unwrap_err(), &[name, call, "kind"]);
            }
        }
        assert_eq!(snapshot(&mut shard, 1 + of_epoch).records_new, 0);
    }
    assert_eq!(shard.get(states[0].2, KEY).unwrap(), Some(&b"held"[..]));
    assert_eq!(read(&mut shard, states[3].2, b"k"), [b"held"]);
    assert_eq!(shard.map_get(states[4].2, KEY, b"held").unwrap(), Some(&b"held"[..]));
    // Nor does a state become another.
    let error = shard.register(StateSpec::map("a list")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
}

#[test]
fn keys_of_other_shards_and_long_entries_are_refused() {
    let node = Node::new();
    let mut shards = node.shards(2, &[]);
    let shard = &mut shards[0];
    let (lists, maps) = (list(shard), map(shard));
    let theirs = KeyRef::in_group(KeyGroup(15), b"k");
    refuses(shard.list_append(lists, theirs, &[b"e"]).unwrap_err(), &["another shard"]);
    refuses(shard.map_put(maps, theirs, b"e", b"v").unwrap_err(), &["another shard"]);
    refuses(shard.map_get(maps, theirs, b"e").unwrap_err(), &["another shard"]);
    refuses(shard.clear(maps, theirs).unwrap_err(), &["another shard"]);
    let ours = KeyRef::in_group(KeyGroup(0), b"k");
    let long = vec![0; 64 * 1024 + 1];
    refuses(shard.map_put(maps, ours, &long, b"v").unwrap_err(), &["entry is too long", "maps"]);
    shard.map_put(maps, ours, &long[1..], b"v").unwrap();
    refuses(shard.map_put(maps, KeyRef::in_group(KeyGroup(0), &long), b"", b"").unwrap_err(), &[]);
    assert_eq!(shard.map_get(maps, ours, &long).unwrap(), None);
    assert_eq!(shard.map_get(maps, ours, &long[1..]).unwrap(), Some(&b"v"[..]));
}

#[test]
fn what_comes_and_goes_between_two_barriers_leaves_no_bytes() {
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let (lists, maps) = (list(&mut shard), map(&mut shard));
    let key = KeyRef::new(b"k");
    for id in 1..4 {
        for _ in 0..2 {
            shard.list_append(lists, key, &[b"e"]).unwrap();
            shard.list_replace(lists, key, &[b"f", b"g"]).unwrap();
            shard.list_append(lists, key, &[&[1; 500]]).unwrap();
            shard.clear(lists, key).unwrap();
            for number in 0..2000_u32 {
                shard.map_put(maps, key, &number.to_be_bytes(), b"v").unwrap();
                // Large maps go at once, small ones entry by entry.
                shard.map_put(maps, key.namespace(b"n"), &number.to_be_bytes(), b"v").unwrap();
                shard.map_remove(maps, key.namespace(b"n"), &number.to_be_bytes()).unwrap();
            }
            shard.clear(maps, key).unwrap();
        }
        assert_eq!(shard.stats().records, 0);
        let report = snapshot(&mut shard, id);
        assert_eq!((report.records_new, report.tables), (0, 0));
    }
}

#[test]
fn a_collection_that_was_cleared_and_rebuilt_has_nothing_of_its_past() {
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let (lists, maps) = (list(&mut shard), map(&mut shard));
    let key = KeyRef::new(b"k");
    for number in 0..600_u32 {
        shard.list_append(lists, key, &[b"old"]).unwrap();
        shard.map_put(maps, key, &number.to_be_bytes(), b"old").unwrap();
    }
    let old = snapshot(&mut shard, 1).handle;
    // In the shard that wrote it; restored and cold; restored and warm.
    let mut warm = node.shard(std::slice::from_ref(&old));
    node.warm_up(&mut warm);
    for mut shard in [shard, node.shard(&[old]), warm] {
        let (lists, maps) = (list(&mut shard), map(&mut shard));
        shard.clear(lists, key).unwrap();
        shard.clear(maps, key).unwrap();
        let cleared = snapshot(&mut shard, 2);
        assert_eq!(cleared.records_new, 2, "a marker each");
        assert!(node.newest_table(&cleared.handle).iter().all(|(_, name, value)| {
            EntryName::decode(name).unwrap().subkey == Subkey::Marker && value.is_none()
        }));
        shard.list_append(lists, key, &[b"a"]).unwrap();
        shard.map_put(maps, key, &7_u32.to_be_bytes(), b"new").unwrap();
        let rebuilt = snapshot(&mut shard, 3);
        shard.list_replace(lists, key, &[b"x"]).unwrap();
        shard.clear(maps, key).unwrap();
        shard.map_put(maps, key, b"one", b"new").unwrap();
        let again = snapshot(&mut shard, 4);
        assert_eq!(again.records_new, 4, "two markers, a chunk and an entry");
        for (handle, elements, entry) in [
            (cleared.handle, None, None),
            (rebuilt.handle, Some(b"a".to_vec()), Some(7_u32.to_be_bytes().to_vec())),
            (again.handle, Some(b"x".to_vec()), Some(b"one".to_vec())),
        ] {
            let mut shard = node.shard(&[handle]);
            let (lists, maps) = (list(&mut shard), map(&mut shard));
            assert_eq!(keys(&mut shard, lists).len(), usize::from(elements.is_some()));
            assert_eq!(read(&mut shard, lists, b"k"), Vec::from_iter(elements));
            let found = scan(&mut shard, maps, b"k", Bound::Unbounded);
            assert_eq!(found, Vec::from_iter(entry.map(|entry| (entry, b"new".to_vec()))));
        }
    }
}

#[test]
fn collections_that_nobody_touches_survive_further_snapshots_and_merges() {
    let node = Node::with(|builder| builder.max_tables_per_shard(1));
    let mut shard = node.shard(&[]);
    let (lists, maps) = (list(&mut shard), map(&mut shard));
    for key in 0..20_u8 {
        shard.list_append(lists, KeyRef::new(&[key]), &[&[key], b"old"]).unwrap();
        for number in 0..300_u32 {
            shard.map_put(maps, KeyRef::new(&[key]), &number.to_be_bytes(), &[key]).unwrap();
        }
    }
    for id in 1..12 {
        for (state, is_map) in [(lists, false), (maps, true)] {
            let busy = [100 + id as u8];
            let key = KeyRef::new(&busy);
            shard.clear(state, KeyRef::new(&[99 + id as u8])).unwrap();
            match is_map {
                false => shard.list_append(state, key, &[b"busy"]).unwrap(),
                true => shard.map_put(state, key, b"busy", b"").unwrap(),
            }
        }
        snapshot(&mut shard, 2 * id);
        while node.backend.run_background() {}
        if id % 3 == 0 {
            let handle = snapshot(&mut shard, 2 * id + 1).handle;
            shard = node.shard(&[handle]);
            assert_eq!((list(&mut shard), map(&mut shard)), (lists, maps));
        }
    }
    for key in 0..20_u8 {
        assert_eq!(read(&mut shard, lists, &[key]), [vec![key], b"old".to_vec()]);
        let found = scan(&mut shard, maps, &[key], Bound::Unbounded);
        assert_eq!(found.len(), 300);
        assert!(found.iter().all(|(_, value)| *value == [key]));
    }
    assert_eq!(keys(&mut shard, lists).len(), 21);
}

#[test]
fn every_snapshot_under_way_holds_what_was_there_at_its_barrier() {
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let (lists, maps) = (list(&mut shard), map(&mut shard));
    let key = KeyRef::new(b"k");
    let mut tickets = Vec::new();
    for id in 0..8_u32 {
        for number in 0..500 {
            let number = id * 500 + number;
            shard.list_append(lists, key, &[&number.to_be_bytes()]).unwrap();
            shard.map_put(maps, key, &(number % 1500).to_be_bytes(), &id.to_be_bytes()).unwrap();
        }
        tickets.push(shard.snapshot(SnapshotId(u64::from(id)), b"").unwrap());
    }
    // Nothing was extracted until now: all that changed since was copied first.
    for (id, ticket) in (0..8_u32).zip(tickets) {
        let mut shard = node.shard(&[ticket.wait().unwrap().handle]);
        let (lists, maps) = (list(&mut shard), map(&mut shard));
        let elements: Vec<_> =
            (0..(id + 1) * 500).map(|number| number.to_be_bytes().to_vec()).collect();
        assert!(read(&mut shard, lists, b"k") == elements);
        let mut model = Map::new();
        for number in 0..(id + 1) * 500 {
            let epoch = (number / 500).to_be_bytes().to_vec();
            model.insert((number % 1500).to_be_bytes().to_vec(), epoch);
        }
        let found = scan(&mut shard, maps, b"k", Bound::Unbounded);
        assert!(found.into_iter().eq(model));
    }
}

/// As above, but the background works on threads of its own meanwhile.
#[test]
fn the_task_goes_on_while_threads_copy_what_its_barriers_froze() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::builder(dir.path()).background_threads(2).open().unwrap();
    let groups = backend.max_parallelism().all_groups();
    let mut shard = backend.shard("op", groups).open().unwrap();
    let (lists, maps) = (list(&mut shard), map(&mut shard));
    let mut rng = SimRng::new(11);
    let mut model: BTreeMap<u8, (Vec<Bytes>, Map)> = BTreeMap::new();
    let mut points = Vec::new();
    for id in 0..24 {
        for _ in 0..1500 {
            let key = rng.below(9) as u8;
            let at = KeyRef::new(std::slice::from_ref(&key));
            let element = rng.next_u64().to_be_bytes();
            let (elements, entries) = model.entry(key).or_default();
            match rng.below(400) {
                0 => {
                    shard.clear(lists, at).unwrap();
                    elements.clear();
                }
                1 => {
                    shard.clear(maps, at).unwrap();
                    entries.clear();
                }
                2..=150 => {
                    shard.list_append(lists, at, &[&element]).unwrap();
                    elements.push(element.to_vec());
                }
                151..=250 => {
                    shard.map_remove(maps, at, &element[..1]).unwrap();
                    entries.remove(&element[..1]);
                }
                _ => {
                    let entry = &element[..1 + usize::from(element[7] % 2)];
                    shard.map_put(maps, at, entry, &element).unwrap();
                    entries.insert(entry.to_vec(), element.to_vec());
                }
            }
        }
        points.push((shard.snapshot(SnapshotId(id), b"").unwrap(), model.clone()));
    }
    for (ticket, model) in points {
        let handle = ticket.wait().unwrap().handle;
        let mut shard = backend.shard("op", groups).restore([handle]).open().unwrap();
        let (lists, maps) = (list(&mut shard), map(&mut shard));
        for (key, (elements, entries)) in model {
            assert!(read(&mut shard, lists, &[key]) == elements);
            assert!(scan(&mut shard, maps, &[key], Bound::Unbounded).into_iter().eq(entries));
        }
    }
}

#[test]
fn maps_that_lose_all_their_entries_give_their_memory_back() {
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let maps = map(&mut shard);
    for round in 0..4 {
        for number in 0..3000_u32 {
            shard.map_put(maps, KeyRef::new(b"k"), &number.to_be_bytes(), b"v").unwrap();
        }
        snapshot(&mut shard, 10 * round + 1);
        for number in 0..3000_u32 {
            shard.map_remove(maps, KeyRef::new(b"k"), &number.to_be_bytes()).unwrap();
        }
        assert!(shard.map_is_empty(maps, KeyRef::new(b"k")).unwrap());
        assert!(keys(&mut shard, maps).is_empty());
        assert_eq!(shard.stats().records, 1, "the marker");
        let report = snapshot(&mut shard, 10 * round + 2);
        assert_eq!(report.records_new, 1, "one marker for all entries");
    }
}

#[test]
fn a_map_used_as_a_queue_does_not_grow() {
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let maps = map(&mut shard);
    let key = KeyRef::new(b"k");
    let mut most = 0;
    for number in 0..100_000_u32 {
        shard.map_put(maps, key, &number.to_be_bytes(), &[0; 20]).unwrap();
        if let Some(gone) = number.checked_sub(1000) {
            shard.map_remove(maps, key, &gone.to_be_bytes()).unwrap();
        }
        if number % 500 == 0 {
            snapshot(&mut shard, u64::from(number) + 1);
            most = most.max(shard.stats().records);
        }
    }
    // A thousand entries are some fifteen pages.
    assert!(most < 150, "{most} pages");
    let found = scan(&mut shard, maps, b"k", Bound::Unbounded);
    assert_eq!(found.len(), 1000);
}

#[test]
fn the_keys_of_a_restored_shard_are_there_once_however_warm_it_is() {
    let node = Node::new();
    let mut shard = node.shard(&[]);
    let (lists, maps) = (list(&mut shard), map(&mut shard));
    for key in 0..50_u8 {
        for namespace in [&b""[..], b"n"] {
            let at = KeyRef::new(std::slice::from_ref(&key)).namespace(namespace);
            shard.list_append(lists, at, &[b"e"]).unwrap();
            shard.map_put(maps, at, b"e", b"v").unwrap();
        }
    }
    let handle = snapshot(&mut shard, 1).handle;
    let mut shard = node.shard(&[handle]);
    let (lists, maps) = (list(&mut shard), map(&mut shard));
    for state in [lists, maps] {
        shard.clear(state, KeyRef::new(&[3])).unwrap();
    }
    read(&mut shard, lists, &[5]);
    shard.list_append(lists, KeyRef::new(&[6]), &[b"f"]).unwrap();
    shard.map_put(maps, KeyRef::new(&[7]), b"f", b"").unwrap();
    shard.list_append(lists, KeyRef::new(&[200]), &[b"f"]).unwrap();
    shard.map_put(maps, KeyRef::new(&[200]), b"f", b"").unwrap();
    for warm in [false, true] {
        if warm {
            node.warm_up(&mut shard);
        }
        for state in [lists, maps] {
            assert_eq!(keys(&mut shard, state).len(), 100);
            let mut found = Vec::new();
            shard
                .visit_keys(state, Some(b"n"), &mut |group, key, namespace| {
                    assert_eq!(namespace, b"n");
                    let max = MaxParallelism::new(16).unwrap();
                    assert_eq!(group, KeyRef::new(key).locate(max).0);
                    found.push(key.to_vec());
                    ControlFlow::Continue(())
                })
                .unwrap();
            found.sort();
            assert!(found.into_iter().eq((0..50_u8).map(|key| vec![key])));
            let mut seen = 0;
            shard
                .visit_keys(state, None, &mut |_, _, _| {
                    seen += 1;
                    if seen == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .unwrap();
            assert_eq!(seen, 7);
        }
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "what damages a table is not the engine")]
fn a_damaged_table_is_an_error_and_never_an_empty_collection() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = dir.path().join("checkpoints");
    let open = || {
        Backend::builder(dir.path().join("node"))
            .checkpoint_dir(&checkpoints)
            .warm_up(false)
            .open()
            .unwrap()
    };
    let backend = open();
    let groups = backend.max_parallelism().all_groups();
    let mut shard = backend.shard("op", groups).open().unwrap();
    let (lists, maps) = (list(&mut shard), map(&mut shard));
    let key = KeyRef::new(b"k");
    let mut held = [[0; 64]; 2];
    held.iter_mut().for_each(|held| SimRng::new(3).fill(held));
    held[1].reverse();
    shard.list_append(lists, key, &[&held[0]]).unwrap();
    shard.map_put(maps, key, b"e", &held[1]).unwrap();
    let handle = snapshot(&mut shard, 1).handle;
    drop((shard, backend));
    let tables = std::fs::read_dir(checkpoints.join("tables")).unwrap();
    for table in tables.map(|table| table.unwrap().path()) {
        let mut bytes = std::fs::read(&table).unwrap();
        for held in held {
            let at = bytes.windows(64).position(|window| window == held).expect("a plain value");
            bytes[at + 10] ^= 1;
        }
        let mut permissions = std::fs::metadata(&table).unwrap().permissions();
        #[allow(clippy::permissions_set_readonly_false, reason = "the file is this test's own")]
        permissions.set_readonly(false);
        std::fs::set_permissions(&table, permissions).unwrap();
        std::fs::write(&table, bytes).unwrap();
    }
    let backend = open();
    let mut shard = backend.shard("op", groups).restore([handle]).open().unwrap();
    let (lists, maps) = (list(&mut shard), map(&mut shard));
    let errors = [
        shard.list_read(lists, key, &mut |_| ()).unwrap_err(),
        shard.map_get(maps, key, b"e").map(drop).unwrap_err(),
        shard.map_put(maps, key, b"e", b"v").unwrap_err(),
        shard.map_remove(maps, key, b"e").unwrap_err(),
        shard.map_is_empty(maps, key).map(drop).unwrap_err(),
        shard.visit_keys(maps, None, &mut |_, _, _| ControlFlow::Continue(())).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("state \""), "{error}");
    }
    // What need not know goes on, and clearing helps.
    shard.list_append(lists, key, &[b"new"]).unwrap();
    assert_eq!(shard.list_read(lists, key, &mut |_| ()).unwrap_err().kind(), ErrorKind::Corrupt);
    shard.list_replace(lists, key, &[b"newer"]).unwrap();
    assert_eq!(read(&mut shard, lists, b"k"), [b"newer"]);
    shard.clear(maps, key).unwrap();
    assert!(shard.map_is_empty(maps, key).unwrap());
}
