//! Any bytes as a request or an answer: what decodes is encoded again without complaint,
//! and decodes to the same. And any bytes where a coordinator looks for requests: each is
//! answered or left alone, nothing of another job changes, and the job goes on. What is
//! asked into another place is whole there.

#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use alluvium::coordinator::{CheckpointSettings, Event, JobView, Participant, RestoreFrom};
use alluvium::env::SimEnv;
use alluvium::format::{Answer, Manifest, Request, ShardAck, ShardCosts, ShardPart, StoredFile};
use alluvium::object::{MemoryStore, ObjectName, ObjectStore};
use alluvium::savepoint::NativeSavepoint;
use alluvium::{Coordinator, MaxParallelism, SnapshotHandle, SnapshotId};
use libfuzzer_sys::fuzz_target;

/// What a coordinator does with one look at the store.
const MOST_LOOKS: usize = 8;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).expect("a name")
}

/// Places that savepoints were asked into.
#[derive(Default)]
struct Places(Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>);

impl Places {
    fn open(&self, env: &Arc<SimEnv>, place: &str) -> Arc<dyn ObjectStore> {
        let mut places = self.0.lock().expect("nobody panicked");
        let new = || Arc::new(MemoryStore::new(Arc::clone(env) as _)) as Arc<dyn ObjectStore>;
        Arc::clone(places.entry(place.to_owned()).or_insert_with(new))
    }
}

/// Answers the barriers of a job with one shard, which has no state.
fn turn(
    coordinator: &mut Coordinator,
    store: &dyn ObjectStore,
    shard: &Participant,
    open: &dyn Fn(&str) -> Arc<dyn ObjectStore>,
) {
    coordinator.poll().expect("nobody else takes the job over, and the store is sound");
    while let Some(event) = coordinator.next_event() {
        let Event::Trigger(barrier) = event else { continue };
        let manifest = Manifest {
            snapshot: barrier.id,
            operator: shard.operator.clone(),
            created_unix_ms: 1,
            sequence: barrier.id.0,
            groups: shard.groups,
            max_parallelism: shard.max_parallelism,
            watermark: None,
            states: vec![],
            tables: vec![],
            operator_states: vec![],
            user_meta: vec![],
        };
        let bytes = manifest.encode().expect("a manifest");
        let place = barrier.place.as_deref().map(open);
        let location = match place {
            Some(_) => format!("manifests/{}", barrier.id),
            None => format!("jobs/job/epochs/{:010}/manifests/{}", barrier.epoch, barrier.id),
        };
        place.as_deref().unwrap_or(store).create(&name(&location), &bytes).expect("a new name");
        let handle = SnapshotHandle::new(&manifest, &bytes, "", &location).expect("a handle");
        let files = vec![StoredFile { location, bytes: bytes.len() as u64 }];
        let part = ShardPart { handle, costs: ShardCosts::default() };
        let ack = ShardAck { epoch: barrier.epoch, part, files };
        coordinator.acknowledge(ack).expect("the shard is one of the job");
    }
}

/// All that is there, but for what belongs to the job.
fn of_others(store: &dyn ObjectStore) -> BTreeMap<ObjectName, u64> {
    let names = store.list("").expect("the store is sound");
    let others = names.into_iter().filter(|name| !name.as_str().starts_with("jobs/job/"));
    others.map(|name| (name.clone(), store.len_of(&name).expect("sound").unwrap_or(0))).collect()
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::decode(bytes) {
        let again = request.encode().expect("a decoded request keeps its promises");
        assert_eq!(Request::decode(&again).expect("what was written is read"), request);
    }
    if let Ok(answer) = Answer::decode(bytes) {
        let again = answer.encode().expect("a decoded answer keeps its promises");
        assert_eq!(Answer::decode(&again).expect("what was written is read"), answer);
    }

    let env = Arc::new(SimEnv::new(1));
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Arc::clone(&env) as _));
    store.create(&name("jobs/other/epochs/0000000001/tables/a"), b"a").expect("a new name");
    let mut settings = CheckpointSettings::default();
    (settings.interval_ms, settings.requests_interval_ms) = (None, Some(1));
    let builder = Coordinator::builder(Arc::clone(&store), "job").settings(settings);
    let places = Arc::new(Places::default());
    let (opens, opens_in) = (Arc::clone(&places), Arc::clone(&env));
    let builder = builder.places(move |place| Ok(opens.open(&opens_in, place)));
    let open = |place: &str| places.open(&env, place);
    let mut coordinator = builder.env(Arc::clone(&env) as _).open().expect("a new job");
    let groups = MaxParallelism::new(1).expect("one group");
    let shard = Participant::of_operator("fuzzed", groups, 1).expect("one shard").remove(0);
    coordinator.start(vec![shard.clone()]).expect("all key groups");
    let kept = coordinator.trigger().expect("nothing is in the way");
    turn(&mut coordinator, &*store, &shard, &open);
    coordinator.keep(&RestoreFrom::Checkpoint(kept), "before").expect("it is complete");
    let others = of_others(&*store);

    // The first byte says under which names; the same bytes under two are two requests.
    let (how, bytes) = bytes.split_first().map_or((0, bytes), |(how, rest)| (*how, rest));
    let under = |name: &str| format!("jobs/job/{name}");
    let mut requests = vec![under("requests/0000000000000001")];
    if how & 1 != 0 {
        requests.push(under("requests/00000000000000ff"));
    }
    let mut strange = vec![];
    if how & 2 != 0 {
        strange.extend([under("requests/not-one"), under("requests/0000000000000001.more")]);
    }
    if how & 4 != 0 {
        // What stands where an answer would.
        strange.push(under("answers/0000000000000001"));
    }
    for text in requests.iter().chain(&strange) {
        store.create(&name(text), bytes).expect("a new name");
    }
    for _ in 0..MOST_LOOKS {
        env.advance_ms(1);
        turn(&mut coordinator, &*store, &shard, &open);
    }
    for request in &requests {
        let there = store.len_of(&name(request)).expect("sound");
        assert_eq!(there, None, "{request} was not met");
        let answer = request.replace("requests", "answers");
        if !strange.contains(&answer) {
            let answer = store.open(&name(&answer)).expect("it was answered");
            let mut read = vec![0; answer.len() as usize];
            answer.read_at(0, &mut read).expect("sound");
            Answer::decode(&read).expect("a sound answer");
        }
    }
    assert_eq!(of_others(&*store), others, "something of another job changed");
    // What was kept is whole, unless that is what was asked for; and the job goes on.
    let view = JobView::open(Arc::clone(&store), "job").expect("sound").expect("there");
    for kept in view.entry().kept() {
        view.files(kept).expect("what is kept is whole");
    }
    assert!(view.entry().kept().any(|found| found.id == kept), "a request cost a checkpoint");
    for place in places.0.lock().expect("nobody panicked").values() {
        let placed = NativeSavepoint::open(Arc::clone(place)).expect("sound");
        let placed = placed.expect("what was begun is complete");
        for shard in &placed.checkpoint().shards {
            placed.source().open(shard.handle.manifest()).expect("what it names is there");
        }
    }
    let next: SnapshotId = coordinator.trigger().expect("nothing is in the way");
    turn(&mut coordinator, &*store, &shard, &open);
    let entry = coordinator.view().entry().clone();
    assert_eq!(entry.resume.map(|resume| resume.id), Some(next), "the job does not go on");
});
