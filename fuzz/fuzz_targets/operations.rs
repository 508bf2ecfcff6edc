//! Any bytes as a sequence of operations on a job of one operator: what the
//! shards say is what ordered maps say that share no code with them, through
//! snapshots that are finished at any time, merges, restores and rescaling.
//!
//! The simulated machine has no background threads, so an input replays.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium::base::MaxParallelism;
use alluvium::env::SimEnv;
use alluvium::{
    Backend, ErrorKind, KeyRef, KeyedStore, Shard, SnapshotHandle, SnapshotId, SnapshotTicket,
    StateId, StateSpec,
};
use libfuzzer_sys::fuzz_target;

const GROUPS: u32 = 8;
const OPERATOR: &str = "fuzzed";
const STATES: [&str; 2] = ["a", "b"];
/// Operations of one input; more of the same finds nothing more.
const MAX_OPERATIONS: usize = 512;

/// State, key, namespace: value.
type Model = BTreeMap<(usize, Vec<u8>, Vec<u8>), Vec<u8>>;

struct Worker {
    shard: Shard,
    states: [StateId; 2],
}

/// The snapshots of all shards under one number, and what they must hold.
struct Checkpoint {
    id: SnapshotId,
    tickets: Vec<SnapshotTicket>,
    model: Model,
}

struct Job {
    backend: Backend,
    workers: Vec<Worker>,
    model: Model,
    pending: Vec<Checkpoint>,
    completed: Option<(Vec<SnapshotHandle>, Model)>,
    last_id: u64,
}

impl Job {
    fn new(options: u8) -> Self {
        let mut env = SimEnv::new(u64::from(options));
        if options & 1 != 0 {
            env = env.with_mapped_reads();
        }
        let backend = Backend::builder("/job")
            .env(Arc::new(env))
            .background_threads(0)
            .max_parallelism(MaxParallelism::new(GROUPS).expect("a number of groups"))
            .max_tables_per_shard(1 + usize::from(options >> 2 & 3))
            .warm_up(options & 2 != 0)
            .open()
            .expect("the simulated disk is sound");
        let mut job = Self {
            backend,
            workers: Vec::new(),
            model: Model::new(),
            pending: Vec::new(),
            completed: None,
            last_id: 0,
        };
        job.restart(1 + u32::from(options >> 4 & 3));
        job
    }

    /// Everything in memory is lost, and the last completed checkpoint is
    /// restored by another number of workers.
    fn restart(&mut self, workers: u32) {
        self.pending.clear();
        self.workers.clear();
        let (handles, model) = self.completed.clone().unwrap_or_default();
        self.model = model;
        for subtask in 0..workers {
            let groups = self.backend.max_parallelism().range_of_subtask(subtask, workers);
            let groups = groups.expect("there are more groups than workers");
            let builder = self.backend.shard(OPERATOR, groups).restore(handles.clone());
            let mut shard = builder.open().expect("a completed checkpoint is restored");
            let states = STATES.map(|name| {
                shard.register(StateSpec::value(name)).expect("the state is as it was")
            });
            self.workers.push(Worker { shard, states });
        }
    }

    fn worker(&mut self, key: KeyRef<'_>) -> &mut Worker {
        let (group, _) = key.locate(self.backend.max_parallelism());
        let owner = self.workers.iter_mut().find(|worker| worker.shard.groups().contains(group));
        owner.expect("each group has an owner")
    }

    fn get(&mut self, state: usize, key: &[u8], namespace: &[u8]) {
        let expected = self.model.get(&(state, key.to_vec(), namespace.to_vec())).cloned();
        let key = KeyRef::new(key).namespace(namespace);
        let worker = self.worker(key);
        let found = worker.shard.get(worker.states[state], key).expect("the disk is sound");
        assert_eq!(found, expected.as_deref(), "{key:?}");
    }

    fn put(&mut self, state: usize, key: &[u8], namespace: &[u8], value: Vec<u8>) {
        let key_ref = KeyRef::new(key).namespace(namespace);
        let worker = self.worker(key_ref);
        worker.shard.put(worker.states[state], key_ref, &value).expect("there is memory");
        self.model.insert((state, key.to_vec(), namespace.to_vec()), value);
    }

    fn delete(&mut self, state: usize, key: &[u8], namespace: &[u8]) {
        let key_ref = KeyRef::new(key).namespace(namespace);
        let worker = self.worker(key_ref);
        worker.shard.delete(worker.states[state], key_ref).expect("there is memory");
        self.model.remove(&(state, key.to_vec(), namespace.to_vec()));
    }

    /// Reads, and then does what `how` says: nothing, changes bytes in place,
    /// sets another value, deletes, or several of these one after the other.
    fn update(&mut self, state: usize, key: &[u8], namespace: &[u8], how: u8, value: &[u8]) {
        let id = (state, key.to_vec(), namespace.to_vec());
        let mut expected = self.model.remove(&id);
        let key = KeyRef::new(key).namespace(namespace);
        let worker = self.worker(key);
        worker
            .shard
            .update(worker.states[state], key, &mut |entry| {
                assert_eq!(entry.get(), expected.as_deref());
                if how & 1 != 0 {
                    let bytes = entry.bytes_mut();
                    assert_eq!(bytes.as_deref(), expected.as_deref());
                    for (byte, other) in
                        bytes.into_iter().flatten().zip(expected.iter_mut().flatten())
                    {
                        *byte = byte.wrapping_add(how);
                        *other = other.wrapping_add(how);
                    }
                }
                if how & 2 != 0 {
                    entry.set(value);
                    expected = Some(value.to_vec());
                }
                if how & 4 != 0 {
                    entry.delete();
                    expected = None;
                }
                if how & 8 != 0 {
                    entry.set(value);
                    expected = Some(value.to_vec());
                }
                assert_eq!(entry.get(), expected.as_deref());
            })
            .expect("there is memory");
        if let Some(value) = expected {
            self.model.insert(id, value);
        }
    }

    /// One call for keys of one worker; a key may come twice.
    fn update_many(&mut self, state: usize, keys: &[Vec<u8>], value: &[u8]) {
        let Some(first) = keys.first() else { return };
        let max_parallelism = self.backend.max_parallelism();
        let worker = self.worker(KeyRef::new(first));
        let groups = worker.shard.groups();
        let keys: Vec<_> = keys
            .iter()
            .map(|key| KeyRef::new(key))
            .filter(|key| groups.contains(key.locate(max_parallelism).0))
            .collect();
        let id = worker.states[state];
        let mut seen = Vec::new();
        worker
            .shard
            .update_many(id, &keys, &mut |at, entry| {
                seen.push((at, entry.get().map(<[u8]>::to_vec)));
                let mut longer = entry.get().unwrap_or_default().to_vec();
                longer.extend_from_slice(value);
                longer.truncate(300);
                entry.set(&longer);
            })
            .expect("there is memory");
        assert!(seen.iter().map(|&(at, _)| at).eq(0..keys.len()), "each key once, in order");
        for (key, (_, seen)) in keys.iter().zip(seen) {
            let entry = self.model.entry((state, key.key_bytes().to_vec(), Vec::new()));
            assert_eq!(seen.unwrap_or_default(), *entry.or_default());
            let entry = self.model.get_mut(&(state, key.key_bytes().to_vec(), Vec::new()));
            let longer = entry.expect("it was just put there");
            longer.extend_from_slice(value);
            longer.truncate(300);
        }
        let mut found = Vec::new();
        let worker = self.worker(keys[0]);
        worker
            .shard
            .get_many(id, &keys, &mut |_, bytes| found.push(bytes.map(<[u8]>::to_vec)))
            .expect("the disk is sound");
        for (key, found) in keys.iter().zip(found) {
            let id = (state, key.key_bytes().to_vec(), Vec::new());
            assert_eq!(found.as_ref(), self.model.get(&id));
        }
    }

    /// A barrier passes through all workers.
    fn snapshot(&mut self) {
        // Each holds a copy of the model.
        if self.pending.len() >= 4 {
            return self.complete(0);
        }
        self.last_id += 1;
        let id = SnapshotId(self.last_id);
        let tickets = self
            .workers
            .iter_mut()
            .map(|worker| worker.shard.snapshot(id, b"").expect("ids ascend"))
            .collect();
        self.pending.push(Checkpoint { id, tickets, model: self.model.clone() });
    }

    /// Waits for a checkpoint that is under way, and completes it. Those before
    /// it are subsumed.
    fn complete(&mut self, which: usize) {
        if which >= self.pending.len() {
            return;
        }
        let checkpoint = self.pending.drain(..=which).next_back().expect("it is there");
        let handles = checkpoint
            .tickets
            .iter()
            .map(|ticket| ticket.wait().expect("the disk is sound").handle)
            .collect();
        for worker in &mut self.workers {
            worker.shard.notify_complete(checkpoint.id);
        }
        self.completed = Some((handles, checkpoint.model));
    }

    /// Gives a checkpoint up, before or after its snapshots are done.
    fn abort(&mut self, which: usize, cancel: bool) {
        if which >= self.pending.len() {
            return;
        }
        let checkpoint = self.pending.remove(which);
        for (worker, ticket) in self.workers.iter_mut().zip(&checkpoint.tickets) {
            if cancel {
                ticket.cancel();
            }
            worker.shard.notify_aborted(checkpoint.id);
        }
    }

    /// Every record, and as many keys that are absent; a key of another shard
    /// is refused.
    fn check_all(&mut self) {
        for (state, key, namespace) in self.model.keys().cloned().collect::<Vec<_>>() {
            self.get(state, &key, &namespace);
            self.get(1 - state, &key, &namespace);
            let key = KeyRef::new(&key).namespace(&namespace);
            let (group, _) = key.locate(self.backend.max_parallelism());
            for worker in &mut self.workers {
                if !worker.shard.groups().contains(group) {
                    let refused = worker.shard.get(worker.states[state], key);
                    assert_eq!(refused.expect_err("not its key").kind(), ErrorKind::Invalid);
                }
            }
        }
    }
}

/// Reads an input from the front; past its end everything is zero.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    /// One of 64 short keys, or now and then a long or an empty one.
    fn key(&mut self) -> Vec<u8> {
        match self.byte() {
            255 => Vec::new(),
            byte @ 248..255 => vec![byte; usize::from(byte - 247) * 40],
            byte @ 192..248 => vec![byte & 3, byte],
            byte => format!("key {}", byte & 63).into_bytes(),
        }
    }

    fn namespace(&mut self) -> Vec<u8> {
        match self.byte() & 7 {
            0..=4 => Vec::new(),
            byte => vec![b'w'; usize::from(byte - 4)],
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let fill = self.byte();
        let len = match self.byte() {
            255 => 5_000,
            byte @ 240..255 => usize::from(byte - 240) * 50,
            byte => usize::from(byte & 31),
        };
        vec![fill; len]
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut job = Job::new(input.byte());
    for _ in 0..MAX_OPERATIONS {
        if input.0.is_empty() {
            break;
        }
        let operation = input.byte();
        let state = usize::from(operation >> 7);
        match operation & 31 {
            0..=6 => {
                let (key, namespace, value) = (input.key(), input.namespace(), input.value());
                job.put(state, &key, &namespace, value);
            }
            7..=9 => {
                let (key, namespace) = (input.key(), input.namespace());
                job.delete(state, &key, &namespace);
            }
            10..=14 => {
                let (key, namespace, value) = (input.key(), input.namespace(), input.value());
                let how = input.byte();
                job.update(state, &key, &namespace, how, &value);
            }
            15..=17 => {
                let (key, namespace) = (input.key(), input.namespace());
                job.get(state, &key, &namespace);
            }
            18..=19 => {
                let keys: Vec<_> = (0..input.byte() & 31).map(|_| input.key()).collect();
                let value = input.value();
                job.update_many(state, &keys, &value);
            }
            20..=22 => job.snapshot(),
            23..=25 => {
                for _ in 0..=input.byte() & 7 {
                    job.backend.run_background();
                }
            }
            26..=27 => job.complete(usize::from(operation >> 5 & 3)),
            28 => job.abort(usize::from(operation >> 5 & 3), state == 1),
            29 => {
                let worker = usize::from(input.byte()) % job.workers.len();
                let records = usize::from(input.byte());
                job.workers[worker].shard.warm_up(records).expect("there is memory");
            }
            30 => job.check_all(),
            _ => job.restart(1 + u32::from(input.byte() & 7)),
        }
    }
    job.check_all();
    job.snapshot();
    job.complete(job.pending.len().saturating_sub(1));
    job.restart(3);
    job.check_all();
});
