//! States that a restore finds and the job does not know: carried on, or refused by name
//! before anything is done.

use std::sync::Arc;

use alluvium::env::RealEnv;
use alluvium::object::MemoryStore;
use alluvium::{
    Backend, ErrorKind, KeyedStore, MaxParallelism, OperatorListState, Shard, SnapshotHandle,
    SnapshotId, StoreSink, Timers, ValueState,
};

const MAX: MaxParallelism = MaxParallelism::DEFAULT;

struct Store {
    sink: Arc<StoreSink>,
    dir: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new(Arc::new(RealEnv::new())));
        Self { sink: Arc::new(StoreSink::new(store)), dir: tempfile::tempdir().unwrap() }
    }

    fn backend(&self, name: &str) -> Backend {
        Backend::builder(self.dir.path().join(name))
            .sink(Arc::clone(&self.sink) as _)
            .source(Arc::clone(&self.sink) as _)
            .background_threads(0)
            .open()
            .unwrap()
    }

    /// A snapshot with a state of each sort.
    fn snapshot(&self) -> SnapshotHandle {
        let backend = self.backend("before");
        let mut shard = backend.shard("op", MAX.all_groups()).open().unwrap();
        let counts: ValueState<u64, u64> = ValueState::register(&mut shard, "counts").unwrap();
        counts.put(&mut shard, &1, &10).unwrap();
        let sums: ValueState<u64, u64> = ValueState::register(&mut shard, "sums").unwrap();
        sums.put(&mut shard, &1, &20).unwrap();
        let late: Timers<u64> = Timers::event_time(&mut shard, "late").unwrap();
        late.register(&mut shard, &1, 5).unwrap();
        let offsets = OperatorListState::<u64>::even_split(&mut shard, "offsets").unwrap();
        offsets.add_all(&mut shard, &[7]).unwrap();
        take(&mut shard, 1)
    }
}

fn take(shard: &mut Shard, id: u64) -> SnapshotHandle {
    shard.snapshot(SnapshotId(id), b"").unwrap().wait().unwrap().handle
}

#[test]
fn a_restore_refuses_by_name_what_is_not_among_the_states_that_are_known() {
    let store = Store::new();
    let handle = store.snapshot();
    let backend = store.backend("after");
    let shard = |known: &[&str]| {
        let builder = backend.shard("op", MAX.all_groups()).restore([handle.clone()]);
        builder.known_states(known.iter().copied())
    };
    let error = shard(&["counts", "late", "new"]).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    let told = error.to_string();
    for part in ["\"sums\"", "\"offsets\"", "\"new\"", "allow_unknown_states", "\"op\""] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(shard(&["counts", "late", "sums"]).open().is_err(), "operator states count");
    // Known in several calls, and one that is not there.
    let all = shard(&["counts", "late"]).known_states(["sums", "offsets", "new"]).open();
    drop(all.unwrap());
    drop(shard(&["counts"]).allow_unknown_states(true).open().unwrap());
    assert!(
        shard(&["counts"]).allow_unknown_states(true).allow_unknown_states(false).open().is_err()
    );
    // Nobody has said anything.
    let silent = backend.shard("op", MAX.all_groups()).restore([handle.clone()]);
    drop(silent.open().unwrap());
    // Nothing is restored, so nothing is unknown.
    drop(backend.shard("op", MAX.all_groups()).known_states(["counts"]).open().unwrap());
}

#[test]
fn what_nobody_registers_is_carried_on() {
    let store = Store::new();
    let handle = store.snapshot();
    let next = {
        let backend = store.backend("after");
        let builder = backend.shard("op", MAX.all_groups()).restore([handle]);
        let mut shard = builder.known_states(["counts"]).allow_unknown_states(true).open().unwrap();
        let counts: ValueState<u64, u64> = ValueState::register(&mut shard, "counts").unwrap();
        counts.put(&mut shard, &2, &11).unwrap();
        take(&mut shard, 2)
    };
    let backend = store.backend("at last");
    let builder = backend.shard("op", MAX.all_groups()).restore([next]);
    let mut shard = builder.known_states(["counts", "sums", "late", "offsets"]).open().unwrap();
    let sums: ValueState<u64, u64> = ValueState::register(&mut shard, "sums").unwrap();
    assert_eq!(sums.get(&mut shard, &1).unwrap(), Some(20));
    let offsets = OperatorListState::<u64>::even_split(&mut shard, "offsets").unwrap();
    assert_eq!(offsets.get(&shard).unwrap(), [7]);
}

#[test]
fn a_shard_says_which_states_nobody_has_registered() {
    let store = Store::new();
    let handle = store.snapshot();
    let backend = store.backend("after");
    let mut shard = backend.shard("op", MAX.all_groups()).restore([handle]).open().unwrap();
    assert_eq!(shard.unknown_states(), ["counts", "late", "sums", "offsets"]);
    let _: ValueState<u64, u64> = ValueState::register(&mut shard, "counts").unwrap();
    let _: Timers<u64> = Timers::event_time(&mut shard, "late").unwrap();
    let _: ValueState<u64, u64> = ValueState::register(&mut shard, "new").unwrap();
    let error = shard.check_no_unknown_states().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    let told = error.to_string();
    assert!(told.contains("\"sums\"") && told.contains("\"offsets\""), "{told}");
    assert!(!told.contains("\"counts\"") && !told.contains("\"new\""), "{told}");
    shard.drop_state("sums").unwrap();
    assert_eq!(shard.unknown_states(), ["offsets"]);
    let _ = OperatorListState::<u64>::even_split(&mut shard, "offsets").unwrap();
    shard.check_no_unknown_states().unwrap();
}
