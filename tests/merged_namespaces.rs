//! Merging namespaces happens as a whole or not at all, whichever call of the
//! store fails.

mod common;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use alluvium::env::SimEnv;
use alluvium::{
    Aggregate, AggregatingState, Error, ErrorKind, KeyGroup, KeyRef, KeyedStore, ListState,
    MaxParallelism, OldCodecs, ReducingState, Rename, Result, Shard, SnapshotId, StateId,
    StateInfo, StateSpec, ValueMut,
};

use common::{Keyspace, OPERATOR, backend_on, range_of};

/// A store that counts the calls which read or change what a state holds for a
/// key, and refuses some of them.
struct Failing {
    shard: Shard,
    calls: usize,
    refused: std::ops::Range<usize>,
}

impl Failing {
    fn called(&mut self) -> Result<()> {
        self.calls += 1;
        if self.refused.contains(&(self.calls - 1)) {
            return Err(Error::unavailable("the store is out of order"));
        }
        Ok(())
    }
}

impl KeyedStore for Failing {
    fn max_parallelism(&self) -> MaxParallelism {
        self.shard.max_parallelism()
    }

    fn register(&mut self, spec: StateSpec) -> Result<StateId> {
        self.shard.register(spec)
    }

    fn drop_state(&mut self, name: &str) -> Result<bool> {
        self.shard.drop_state(name)
    }

    fn states(&self) -> Vec<StateInfo> {
        self.shard.states()
    }

    fn register_rekeyed(
        &mut self,
        spec: StateSpec,
        old: OldCodecs,
        rename: &mut dyn Rename,
    ) -> Result<StateId> {
        self.shard.register_rekeyed(spec, old, rename)
    }

    fn get(&mut self, state: StateId, key: KeyRef<'_>) -> Result<Option<&[u8]>> {
        self.called()?;
        self.shard.get(state, key)
    }

    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        self.called()?;
        self.shard.put(state, key, value)
    }

    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        self.called()?;
        self.shard.delete(state, key)
    }

    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        self.called()?;
        self.shard.update(state, key, change)
    }

    fn get_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.called()?;
        self.shard.get_many(state, keys, visit)
    }

    fn update_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        change: &mut dyn FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        self.called()?;
        self.shard.update_many(state, keys, change)
    }

    fn list_append(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        self.called()?;
        self.shard.list_append(state, key, elements)
    }

    fn list_read(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        self.called()?;
        self.shard.list_read(state, key, visit)
    }

    fn list_replace(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        self.called()?;
        self.shard.list_replace(state, key, elements)
    }

    fn map_get(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<Option<&[u8]>> {
        self.called()?;
        self.shard.map_get(state, key, entry)
    }

    fn map_put(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
        value: &[u8],
    ) -> Result<()> {
        self.called()?;
        self.shard.map_put(state, key, entry, value)
    }

    fn map_remove(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<()> {
        self.called()?;
        self.shard.map_remove(state, key, entry)
    }

    fn map_scan(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.called()?;
        self.shard.map_scan(state, key, from, visit)
    }

    fn map_is_empty(&mut self, state: StateId, key: KeyRef<'_>) -> Result<bool> {
        self.called()?;
        self.shard.map_is_empty(state, key)
    }

    fn clear(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        self.called()?;
        self.shard.clear(state, key)
    }

    fn visit_keys(
        &mut self,
        state: StateId,
        namespace: Option<&[u8]>,
        visit: &mut dyn FnMut(KeyGroup, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.shard.visit_keys(state, namespace, visit)
    }
}

struct Joined;

impl Aggregate for Joined {
    type In = String;
    type Acc = String;
    type Out = String;

    fn create(&self) -> String {
        String::new()
    }

    fn add(&self, acc: &mut String, value: String) {
        acc.push_str(&value);
    }

    fn merge(&self, into: &mut String, from: String) {
        into.push_str(&from);
    }

    fn result(&self, acc: String) -> String {
        acc
    }
}

struct States {
    list: ListState<u8, String, u8>,
    reduced: ReducingState<u8, String, u8>,
    aggregated: AggregatingState<u8, Joined, u8>,
}

impl States {
    fn register(store: &mut Failing) -> Self {
        Self {
            list: ListState::register(store, "list").unwrap(),
            reduced: ReducingState::register(store, "reduced", |a: String, b: String| a + &b)
                .unwrap(),
            aggregated: AggregatingState::register(store, "aggregated", Joined).unwrap(),
        }
    }

    fn add(&self, store: &mut Failing, window: u8, text: &str) {
        self.list.add_in(store, &1, &window, &text.to_owned()).unwrap();
        self.reduced.add_in(store, &1, &window, text.to_owned()).unwrap();
        self.aggregated.add_in(store, &1, &window, text.to_owned()).unwrap();
    }

    fn merge(&self, store: &mut Failing, kind: usize) -> Result<()> {
        let (target, sources) = (&4, [2, 9, 4, 1, 3, 2]);
        match kind {
            0 => self.list.merge_namespaces(store, &1, target, &sources),
            1 => self.reduced.merge_namespaces(store, &1, target, &sources),
            _ => self.aggregated.merge_namespaces(store, &1, target, &sources),
        }
    }

    /// What one of the states holds in each window.
    fn held(&self, store: &mut Failing, kind: usize) -> BTreeMap<u8, String> {
        let mut all = BTreeMap::new();
        for window in 0..10 {
            let text = match kind {
                0 => Some(self.list.get_in(store, &1, &window).unwrap().concat())
                    .filter(|text| !text.is_empty()),
                1 => self.reduced.get_in(store, &1, &window).unwrap(),
                _ => self.aggregated.get_in(store, &1, &window).unwrap(),
            };
            all.extend(text.map(|text| (window, text)));
        }
        all
    }
}

#[test]
fn a_merge_of_namespaces_that_fails_anywhere_changes_nothing() {
    for target_is_there in [false, true] {
        for kind in 0..3 {
            for restored in [false, true] {
                for fails_for in [1, usize::MAX / 2] {
                    merge_with_failures(target_is_there, kind, restored, fails_for);
                }
            }
        }
    }
}

fn merge_with_failures(target_is_there: bool, kind: usize, restored: bool, fails_for: usize) {
    let env = SimEnv::new(1);
    let backend = backend_on(&env, &Keyspace::new(128, [""; 0])).warm_up(false).open().unwrap();
    let shard = backend.shard(OPERATOR, range_of(0, 1, 128)).open().unwrap();
    let mut store = Failing { shard, calls: 0, refused: 0..0 };
    let states = States::register(&mut store);
    for (window, text) in [(1, "a"), (2, "bb"), (3, "ccc"), (5, "other")] {
        states.add(&mut store, window, text);
        if target_is_there {
            states.add(&mut store, 4, "d");
        }
    }
    let handle = store.shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
    states.add(&mut store, 2, "B");
    let mut expected = states.held(&mut store, kind);
    if restored {
        let builder = backend.shard(OPERATOR, range_of(0, 1, 128)).restore([handle]);
        store.shard = builder.open().unwrap();
    }
    let states = States::register(&mut store);
    if restored {
        expected = states.held(&mut store, kind);
    }
    let mut merged = expected.clone();
    let sources: String = [2, 1, 3].iter().filter_map(|window| merged.remove(window)).collect();
    merged.entry(4).or_default().push_str(&sources);

    let mut uncertain = 0;
    for refused in 0.. {
        assert!(refused < 100);
        store.calls = 0;
        store.refused = refused..refused + fails_for;
        let done = states.merge(&mut store, kind);
        store.refused = 0..0;
        let Err(error) = done else {
            assert!(refused > 5, "it takes more calls than {refused}");
            break;
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        if error.may_have_happened() {
            // It could not put back what it had cleared; that is told, and the
            // name of the state with it.
            assert!(fails_for > 1, "{error}");
            assert!(error.to_string().contains("not as it was"), "{error}");
            uncertain += 1;
            for (window, text) in [(1, "a"), (2, "bb"), (3, "ccc")] {
                if !states.held(&mut store, kind).contains_key(&window) {
                    let text = expected.get(&window).map_or(text, |text| text.as_str());
                    match kind {
                        0 => states.list.add_in(&mut store, &1, &window, &text.to_owned()),
                        1 => states.reduced.add_in(&mut store, &1, &window, text.to_owned()),
                        _ => states.aggregated.add_in(&mut store, &1, &window, text.to_owned()),
                    }
                    .unwrap();
                }
            }
        }
        let held = states.held(&mut store, kind);
        assert_eq!(held, expected, "kind {kind}, call {refused} was refused");
    }
    assert_eq!(uncertain > 0, fails_for > 1);
    assert_eq!(states.held(&mut store, kind), merged, "kind {kind}");
    // What became of it is in the next snapshot, too.
    let handle = store.shard.snapshot(SnapshotId(2), b"").unwrap().wait().unwrap().handle;
    let builder = backend.shard(OPERATOR, range_of(0, 1, 128)).restore([handle]);
    store.shard = builder.open().unwrap();
    let states = States::register(&mut store);
    assert_eq!(states.held(&mut store, kind), merged, "kind {kind}, restored");
}
