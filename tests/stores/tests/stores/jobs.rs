//! Checkpoints of whole backends in S3.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium::env::Env;

use alluvium::{Backend, Shard, SnapshotHandle, SnapshotId, StoreSink, ValueState};
use stores_tests::{Fault, Server};

use crate::{env, small_parts};

type Model = BTreeMap<u64, u64>;

struct Job {
    backend: Backend,
    _dir: tempfile::TempDir,
}

impl Job {
    fn new(env: &Arc<dyn Env>, server: &Server, prefix: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = small_parts(server.options());
        let store = Arc::new(server.store_with(env, prefix, options));
        let sink = Arc::new(StoreSink::new(store));
        let builder = Backend::builder(dir.path()).sink(sink.clone()).source(sink);
        let backend = builder.warm_up(false).open().unwrap();
        Self { backend, _dir: dir }
    }

    fn shards(&self, count: u32, handles: &[SnapshotHandle]) -> Vec<Shard> {
        let max = self.backend.max_parallelism();
        let open = |index| {
            let groups = max.range_of_subtask(index, count).unwrap();
            self.backend.shard("op", groups).restore(handles.iter().cloned()).open().unwrap()
        };
        (0..count).map(open).collect()
    }
}

fn state(shard: &mut Shard) -> ValueState<u64, u64> {
    ValueState::register(shard, "v").unwrap()
}

fn put(shards: &mut [Shard], model: &mut Model, keys: impl Iterator<Item = u64>, salt: u64) {
    for key in keys {
        model.insert(key, key ^ salt);
        let put =
            shards.iter_mut().any(|shard| state(shard).put(shard, &key, &(key ^ salt)).is_ok());
        assert!(put, "a shard has the key");
    }
}

fn check(shards: &mut [Shard], model: &Model, keys: u64, context: &str) {
    for key in 0..keys {
        let found: Vec<_> =
            shards.iter_mut().filter_map(|shard| state(shard).get(shard, &key).ok()).collect();
        assert_eq!(found, [model.get(&key).copied()], "key {key}: {context}");
    }
}

fn snapshots(shards: &mut [Shard], id: u64) -> Vec<alluvium::Result<SnapshotHandle>> {
    let taken: Vec<_> =
        shards.iter_mut().map(|shard| shard.snapshot(SnapshotId(id), b"").unwrap()).collect();
    taken.into_iter().map(|ticket| ticket.wait().map(|report| report.handle)).collect()
}

fn all(handles: Vec<alluvium::Result<SnapshotHandle>>) -> Vec<SnapshotHandle> {
    handles.into_iter().map(Result::unwrap).collect()
}

#[test]
fn a_job_is_restored_from_s3_on_any_number_of_shards() {
    let (env, server) = (env(), Server::start());
    let mut model = Model::new();
    let mut handles = Vec::new();
    for (id, shards) in [(1, 1), (2, 3), (3, 2), (4, 1)] {
        let job = Job::new(&env, &server, "job");
        let mut shards = job.shards(shards, &handles);
        check(&mut shards, &model, 600, &format!("before snapshot {id}"));
        put(&mut shards, &mut model, (0..500).step_by(id as usize), id << 32);
        handles = all(snapshots(&mut shards, id));
    }
    let job = Job::new(&env, &server, "job");
    check(&mut job.shards(5, &handles), &model, 600, "at last");
}

#[test]
fn a_table_of_many_parts_is_restored() {
    let (env, server) = (env(), Server::start());
    let job = Job::new(&env, &server, "job");
    let mut shards = job.shards(1, &[]);
    let big: ValueState<u64, Vec<u8>> = ValueState::register(&mut shards[0], "big").unwrap();
    let value = |key: u64| crate::bytes(20_000, key);
    for key in 0..800 {
        big.put(&mut shards[0], &key, &value(key)).unwrap();
    }
    let handles = all(snapshots(&mut shards, 1));
    assert!(server.take_requests().iter().any(|request| request.contains("partNumber=3")));
    let job = Job::new(&env, &server, "job");
    let mut shards = job.shards(1, &handles);
    let big: ValueState<u64, Vec<u8>> = ValueState::register(&mut shards[0], "big").unwrap();
    for key in 0..800 {
        assert_eq!(big.get(&mut shards[0], &key).unwrap(), Some(value(key)), "key {key}");
    }
}

#[test]
fn the_first_read_after_a_restore_takes_three_requests_for_each_table_at_most() {
    let (env, server) = (env(), Server::start());
    let job = Job::new(&env, &server, "job");
    let mut shards = job.shards(1, &[]);
    let mut model = Model::new();
    let mut handles = Vec::new();
    for id in 1..=3 {
        put(&mut shards, &mut model, 0..30_000, id << 32);
        handles = all(snapshots(&mut shards, id));
    }
    server.take_requests();
    let other = Job::new(&env, &server, "job");
    let mut restored = other.shards(1, &handles);
    let opening = server.take_requests();
    let tables = opening.iter().filter(|request| request.contains("/tables/")).count();
    let (manifests, rest): (Vec<_>, Vec<_>) =
        opening.iter().partition(|request| request.contains("/manifests/"));
    assert_eq!(manifests.len(), 1, "{opening:?}");
    assert!(rest.iter().all(|request| request.starts_with("GET ")), "{opening:?}");
    println!("opening: {} requests, {tables} of them for tables", opening.len());
    assert!(tables <= 2 * 3, "{opening:?}");
    let first = state(&mut restored[0]).get(&mut restored[0], &17).unwrap();
    assert_eq!(first, model.get(&17).copied());
    let lookup = server.take_requests();
    println!("first lookup: {} requests", lookup.len());
    assert_eq!(lookup.len(), 1, "{lookup:?}");
}

/// The manifests at once, then the tables at once, then the block that has the key.
#[test]
fn the_first_operation_of_a_rescaled_job_takes_three_round_trips() {
    let (env, server) = (env(), Server::start());
    let job = Job::new(&env, &server, "job");
    let mut shards = job.shards(2, &[]);
    let mut model = Model::new();
    let mut handles = Vec::new();
    for id in 1..=3 {
        put(&mut shards, &mut model, 0..30_000, id << 32);
        handles = all(snapshots(&mut shards, id));
    }
    drop(shards);
    let max = job.backend.max_parallelism();
    for index in 0..3 {
        let open = || {
            let other = Job::new(&env, &server, "job");
            let groups = max.range_of_subtask(index, 3).unwrap();
            let builder = other.backend.shard("op", groups).restore(handles.iter().cloned());
            (builder.open().unwrap(), other)
        };
        // How many of each there are, without asking who comes with whom.
        server.take_requests();
        drop(open());
        let requests = server.take_requests();
        let count = |part: &str| requests.iter().filter(|name| name.contains(part)).count();
        let (manifests, tables) = (count("/manifests/"), count("/tables/"));
        assert_eq!(manifests + tables, requests.len(), "{requests:?}");
        assert!(manifests <= 2 && tables >= 3, "{requests:?}");

        server.in_trips(&[manifests, tables, 1]);
        let (mut shard, _other) = open();
        let values = state(&mut shard);
        let mine = (0..30_000).find(|key| values.get(&mut shard, key).is_ok());
        // Keys of others are refused without a request, so this was one look-up.
        let (arrived, alone) = server.end_trips();
        let names = server.take_requests();
        // A small table comes whole with its end, and then there is no block to ask for.
        let most = manifests + tables + 1;
        assert!(arrived == most || arrived == most - 1, "shard {index}: {names:?}");
        assert_eq!(alone, 0, "shard {index}: {names:?}");
        println!("shard {index}: {manifests} manifests, {tables} tables, 1 block");
        let mine = mine.expect("the shard has keys");
        assert_eq!(values.get(&mut shard, &mine).unwrap(), model.get(&mine).copied());
    }
}

#[test]
fn a_checkpoint_survives_every_fault_at_every_request_and_the_next_one_works() {
    let (env, server) = (env(), Server::start());
    let mut jobs = 0;
    for fault in Fault::QUICK {
        for sticky in [false, true] {
            for ordinal in 1.. {
                jobs += 1;
                let context = format!("{fault:?} at {ordinal}, sticky {sticky}");
                let prefix = format!("job-{jobs}");
                let job = Job::new(&env, &server, &prefix);
                let mut shards = job.shards(2, &[]);
                let mut model = Model::new();
                put(&mut shards, &mut model, 0..50, 1 << 32);
                let before = all(snapshots(&mut shards, 1));
                let model_before = model.clone();

                put(&mut shards, &mut model, 30..70, 2 << 32);
                server.plan(fault, ordinal, sticky);
                let taken = snapshots(&mut shards, 2);
                let suffered = server.heal();
                let model_taken = model.clone();
                put(&mut shards, &mut model, 60..80, 3 << 32);
                let after = all(snapshots(&mut shards, 3));
                drop(shards);

                let other = Job::new(&env, &server, &prefix);
                check(&mut other.shards(1, &before), &model_before, 90, &context);
                check(&mut other.shards(1, &after), &model, 90, &context);
                if taken.iter().all(Result::is_ok) {
                    check(&mut other.shards(1, &all(taken)), &model_taken, 90, &context);
                } else {
                    assert!(suffered > 0, "{context}");
                }
                if suffered == 0 {
                    break;
                }
                assert!(ordinal < 100, "a checkpoint has an end");
            }
        }
    }
}
