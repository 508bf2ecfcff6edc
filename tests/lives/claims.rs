//! What a merge may not do to a snapshot that is under way while it runs. Another
//! thread of the background is played by a task that is run where the first one
//! makes a file.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::codec::CodecSpec;
use alluvium::env::SimEnv;
use alluvium::{
    Backend, KeyRef, KeyedStore, Shard, SnapshotHandle, SnapshotId, StateId, StateSpec, TimeDomain,
    Ttl,
};

use crate::runtime::{Door, Machine};
use crate::thing::{Thing, codec};

struct Job {
    door: Arc<Door>,
    backend: Backend,
    shard: Shard,
}

impl Job {
    fn open(env: &SimEnv, handle: Option<&SnapshotHandle>) -> Self {
        let door = Door::closed();
        let backend = Backend::builder("/node/state")
            .checkpoint_dir("/shared/checkpoints")
            .env(Arc::new(Machine::new(env.clone(), &door)))
            .background_threads(0)
            .max_tables_per_shard(1)
            .warm_up(false)
            .open()
            .unwrap();
        let groups = backend.max_parallelism().all_groups();
        let shard = backend.shard("op", groups).restore(handle.cloned()).open().unwrap();
        Self { door, backend, shard }
    }

    fn versions(&mut self, version: u8) -> StateId {
        let values = CodecSpec::of(&codec(version, &self.door));
        self.shard.register(StateSpec::value("versions").value_codec(values)).unwrap()
    }

    fn sessions(&mut self) -> StateId {
        let ttl = Ttl::after(Duration::from_millis(60)).time(TimeDomain::Event);
        self.shard.register(StateSpec::value("sessions").ttl(ttl)).unwrap()
    }

    fn snapshot(&mut self, id: u64) -> SnapshotHandle {
        self.shard.snapshot(SnapshotId(id), b"").unwrap().wait().unwrap().handle
    }

    /// Takes a snapshot, goes on with `then`, and has a second thread merge tables
    /// as soon as the first one writes the snapshot's.
    fn snapshot_beside_a_merge(&mut self, id: u64, then: impl FnOnce(&mut Self)) -> SnapshotHandle {
        let ticket = self.shard.snapshot(SnapshotId(id), b"").unwrap();
        then(self);
        let backend = self.backend.clone();
        let merged = Arc::new(Mutex::new(false));
        let done = Arc::clone(&merged);
        self.door.follow(move || *done.lock().unwrap() = backend.run_background());
        let handle = ticket.wait().unwrap().handle;
        assert!(*merged.lock().unwrap(), "there was nothing to merge");
        handle
    }
}

fn thing(by: u8, steps: u8) -> Thing {
    Thing { number: 7, by, steps }
}

#[test]
fn a_merge_leaves_what_lived_by_event_time_at_the_barrier_of_a_snapshot_under_way() {
    let env = SimEnv::new(3);
    let mut job = Job::open(&env, None);
    let sessions = job.sessions();
    job.shard.advance_watermark(50);
    job.shard.put(sessions, KeyRef::new(b"one"), b"open").unwrap();
    let first = job.snapshot(1);
    drop(job);

    let mut job = Job::open(&env, Some(&first));
    let sessions = job.sessions();
    job.shard.put(sessions, KeyRef::new(b"other"), b"open").unwrap();
    job.snapshot(2);
    job.shard.advance_watermark(100);
    job.shard.put(sessions, KeyRef::new(b"another"), b"open").unwrap();
    let handle = job.snapshot_beside_a_merge(3, |job| job.shard.advance_watermark(1_000));
    drop(job);
    let mut job = Job::open(&env, Some(&handle));
    let sessions = job.sessions();
    assert_eq!(job.shard.watermark(), Some(100));
    for key in [b"one".as_slice(), b"other"] {
        let found = job.shard.get(sessions, KeyRef::new(key)).unwrap();
        assert_eq!(found, Some(&b"open"[..]), "written at 50, it lives until 110");
    }
}

#[test]
fn a_merge_migrates_nothing_that_a_snapshot_under_way_knows_in_its_old_form() {
    let env = SimEnv::new(3);
    let mut job = Job::open(&env, None);
    let versions = job.versions(1);
    for id in 1..=2_u64 {
        let key = id.to_be_bytes();
        job.shard.put(versions, KeyRef::new(&key), &thing(1, 0).bytes(1)).unwrap();
    }
    let first = job.snapshot(1);
    drop(job);

    // The next version does not register its state until after a barrier.
    let mut job = Job::open(&env, Some(&first));
    let sessions = job.sessions();
    job.shard.put(sessions, KeyRef::new(b"one"), b"open").unwrap();
    job.snapshot(2);
    job.shard.put(sessions, KeyRef::new(b"other"), b"open").unwrap();
    let handle = job.snapshot_beside_a_merge(3, |job| {
        job.versions(2);
    });
    drop(job);

    let mut job = Job::open(&env, Some(&handle));
    let versions = job.versions(2);
    for id in 1..=2_u64 {
        let found = job.shard.get(versions, KeyRef::new(&id.to_be_bytes())).unwrap();
        assert_eq!(found, Some(&*thing(1, 1).bytes(2)));
    }
}
