//! Random lives of a job with operator states: changes, snapshots that are under
//! way while it goes on, restores on any number of subtasks, states that are not
//! opened in some lives. The seed of a failure is printed.

use alluvium::SnapshotTicket;
use alluvium::env::sim::SimRng;

use crate::*;

const MODES: [OperatorStateMode; 3] =
    [OperatorStateMode::List, OperatorStateMode::UnionList, OperatorStateMode::Broadcast];

/// What one subtask has of one state.
#[derive(Clone, Debug, PartialEq)]
enum Kept {
    Nothing,
    List(Elements),
    Broadcast(Entries),
}

impl Kept {
    fn elements(&self) -> Elements {
        match self {
            Self::List(elements) => elements.clone(),
            _ => Elements::new(),
        }
    }
}

/// States by subtask, and among them by number.
type Image = Vec<Vec<Kept>>;

/// What subtask `index` of `parallelism` has of state `at` after `image`: when it
/// is carried on, and when it is opened.
fn restored(image: &Image, at: usize, index: usize, parallelism: usize) -> (Kept, Kept) {
    let of_all: Vec<&Kept> = image.iter().map(|states| &states[at]).collect();
    if of_all.iter().all(|kept| **kept == Kept::Nothing) {
        return (Kept::Nothing, Kept::Nothing);
    }
    if MODES[at % 3] == OperatorStateMode::Broadcast {
        // Round and round from the old one of its number.
        let round = of_all.iter().cycle().skip(index % of_all.len());
        let copy = round.copied().find(|kept| **kept != Kept::Nothing).cloned();
        let copy = copy.expect("some subtask has it");
        return (copy.clone(), copy);
    }
    let all: Elements = of_all.iter().flat_map(|kept| kept.elements()).collect();
    let carried = Kept::List(if parallelism == image.len() {
        of_all[index].elements()
    } else {
        dealt(&all, parallelism).swap_remove(index)
    });
    let opened = match MODES[at % 3] {
        OperatorStateMode::UnionList => Kept::List(all),
        _ => carried.clone(),
    };
    (carried, opened)
}

struct Job {
    backend: Backend,
    shards: Vec<Shard>,
    /// What is in the next snapshot.
    now: Image,
    /// What a state that is not open yet would be opened with.
    unopened: Vec<Vec<Option<Kept>>>,
    ids: Vec<Vec<Option<OperatorStateId>>>,
}

impl Job {
    fn open(
        env: &SimEnv,
        states: usize,
        parallelism: usize,
        from: Option<&(Vec<SnapshotHandle>, Image)>,
    ) -> Self {
        let backend = backend_on(env).open().unwrap();
        let (handles, image) = match from {
            Some((handles, image)) => (&handles[..], image.clone()),
            None => (&[][..], vec![vec![Kept::Nothing; states]; parallelism]),
        };
        let shards = open(&backend, parallelism as u32, &shuffled(handles));
        let of_all = (0..parallelism).map(|index| {
            let of_one = (0..states).map(|at| restored(&image, at, index, parallelism));
            of_one.unzip::<_, _, Vec<_>, Vec<_>>()
        });
        let (now, opened): (Vec<_>, Vec<_>) = of_all.unzip();
        let unopened = opened.into_iter().map(|states| states.into_iter().map(Some).collect());
        let ids = vec![vec![None; states]; parallelism];
        Self { backend, shards, now, unopened: unopened.collect(), ids }
    }

    fn id(&mut self, index: usize, at: usize) -> OperatorStateId {
        if let Some(id) = self.ids[index][at] {
            return id;
        }
        let name = format!("state {at}");
        let (spec, empty) = match MODES[at % 3] {
            OperatorStateMode::List => {
                (OperatorStateSpec::list(&name), Kept::List(Elements::new()))
            }
            OperatorStateMode::UnionList => {
                (OperatorStateSpec::union_list(&name), Kept::List(Elements::new()))
            }
            _ => (OperatorStateSpec::broadcast(&name), Kept::Broadcast(Entries::new())),
        };
        let id = self.shards[index].open_operator_state(spec).unwrap();
        self.ids[index][at] = Some(id);
        let opened = self.unopened[index][at].take().expect("it was not open");
        self.now[index][at] = if opened == Kept::Nothing { empty } else { opened };
        id
    }

    fn change(&mut self, rng: &mut SimRng, at: usize) {
        let index = rng.below(self.shards.len() as u64) as usize;
        let id = self.id(index, at);
        let shard = &mut self.shards[index];
        let longest = if rng.one_in(50) { 20_000 } else { 40 };
        let mut bytes = vec![0; rng.below(longest) as usize];
        rng.fill(&mut bytes);
        match &mut self.now[index][at] {
            Kept::List(elements) => match rng.below(12) {
                0 => {
                    shard.operator_state_clear(id).unwrap();
                    elements.clear();
                }
                1 => {
                    elements.truncate(elements.len() / 2);
                    elements.push(bytes);
                    let replaced: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
                    shard.operator_list_replace(id, &replaced).unwrap();
                }
                _ => {
                    let batch: Vec<&[u8]> = vec![&bytes; rng.below(4) as usize];
                    shard.operator_list_add(id, &batch).unwrap();
                    elements.extend(batch.iter().map(|element| element.to_vec()));
                }
            },
            Kept::Broadcast(entries) => {
                let key = rng.below(200).to_string().into_bytes();
                match rng.below(60) {
                    0 => {
                        shard.operator_state_clear(id).unwrap();
                        entries.clear();
                    }
                    1..25 => {
                        let removed = shard.broadcast_remove(id, &key).unwrap();
                        assert_eq!(removed, entries.remove(&key).is_some());
                    }
                    _ => {
                        shard.broadcast_put(id, &key, &bytes).unwrap();
                        entries.insert(key.clone(), bytes);
                    }
                }
                let found = shard.broadcast_get(id, &key).unwrap();
                assert_eq!(found, entries.get(&key).map(Vec::as_slice));
            }
            Kept::Nothing => unreachable!("it was opened"),
        }
    }

    /// Compares the states that are open with the model.
    fn check(&self) {
        for (index, shard) in self.shards.iter().enumerate() {
            for (at, id) in self.ids[index].iter().enumerate() {
                let Some(id) = *id else { continue };
                match &self.now[index][at] {
                    Kept::List(expected) => assert_eq!(&read(shard, id), expected),
                    Kept::Broadcast(expected) => assert_eq!(&entries(shard, id), expected),
                    Kept::Nothing => unreachable!("it was opened"),
                }
            }
        }
    }
}

fn live(seed: u64) {
    let mut rng = SimRng::new(seed);
    let env = SimEnv::new(seed);
    let states = 3 + rng.below(4) as usize;
    let mut id = 0;
    let mut completed: Option<(Vec<SnapshotHandle>, Image)> = None;
    for _ in 0..6 {
        let parallelism = match &completed {
            Some((handles, _)) if rng.one_in(3) => handles.len(),
            _ => 1 + rng.below(6) as usize,
        };
        let mut job = Job::open(&env, states, parallelism, completed.as_ref());
        // What this life does not touch, it carries on.
        let touched: Vec<usize> = (0..states).filter(|_| !rng.one_in(3)).collect();
        let mut under_way: Vec<(Vec<SnapshotTicket>, Image)> = Vec::new();
        for _ in 0..rng.below(120) {
            match rng.below(14) {
                0 => {
                    id += 1;
                    let tickets = job
                        .shards
                        .iter_mut()
                        .map(|shard| shard.snapshot(SnapshotId(id), b"").unwrap());
                    under_way.push((tickets.collect(), job.now.clone()));
                }
                1 => drop(job.backend.run_background()),
                2 => job.check(),
                _ => {
                    if let Some(&at) = touched.get(rng.below(touched.len().max(1) as u64) as usize)
                    {
                        job.change(&mut rng, at);
                    }
                }
            }
        }
        job.check();
        for (tickets, image) in under_way {
            let results: Vec<_> = tickets.iter().map(SnapshotTicket::wait).collect();
            let handles = results.into_iter().map(|report| report.unwrap().handle).collect();
            if !rng.one_in(4) {
                completed = Some((handles, image));
            }
        }
    }
}

#[test]
fn random_lives_agree_with_a_model() {
    let (first, count) = match std::env::var("SEED") {
        Ok(seed) => (seed.parse().unwrap(), 1),
        Err(_) => (0, 300),
    };
    for seed in first..first + count {
        println!("seed {seed}");
        live(seed);
    }
}
