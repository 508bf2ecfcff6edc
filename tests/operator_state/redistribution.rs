//! Who has what after a restore.

use alluvium::env::sim::SimRng;

use crate::*;

/// What each subtask keeps: elements of a list and of a union list, and a map that
/// here, unlike in a job, is another on each, so that it is seen whose it is.
#[derive(Clone, Debug)]
struct Kept {
    list: Elements,
    union: Elements,
    broadcast: Entries,
}

fn kept_by(shard: &mut Shard) -> Kept {
    let list = list(shard, "list");
    let union = union(shard, "union");
    let broadcast = broadcast(shard, "broadcast");
    Kept {
        list: read(shard, list),
        union: read(shard, union),
        broadcast: entries(shard, broadcast),
    }
}

/// What `parallelism` subtasks keep after what `old` ones kept.
fn restored(old: &[Kept], parallelism: usize) -> Vec<Kept> {
    let lists: Vec<Elements> = if parallelism == old.len() {
        old.iter().map(|kept| kept.list.clone()).collect()
    } else {
        let all: Elements = old.iter().flat_map(|kept| kept.list.clone()).collect();
        dealt(&all, parallelism)
    };
    let union: Elements = old.iter().flat_map(|kept| kept.union.clone()).collect();
    let of_one = |(index, list): (usize, Elements)| Kept {
        list,
        union: union.clone(),
        broadcast: old[index % old.len()].broadcast.clone(),
    };
    lists.into_iter().enumerate().map(of_one).collect()
}

fn assert_kept(shards: &mut [Shard], expected: &[Kept], what: &str) {
    for (index, (shard, expected)) in shards.iter_mut().zip(expected).enumerate() {
        let found = kept_by(shard);
        assert_eq!(found.list, expected.list, "{what}: list of subtask {index}");
        assert_eq!(found.union, expected.union, "{what}: union list of subtask {index}");
        assert_eq!(found.broadcast, expected.broadcast, "{what}: map of subtask {index}");
    }
}

fn some_elements(rng: &mut SimRng, subtask: usize, most: u64) -> Elements {
    let count = if rng.one_in(4) { 0 } else { rng.below(most) };
    let long = rng.below(3) * 9_000;
    (0..count)
        .map(|number| {
            let mut element = format!("{subtask}/{number}").into_bytes();
            element.resize(element.len() + rng.below(10 + long) as usize, b'.');
            element
        })
        .collect()
}

/// A job of `parallelism` subtasks that keep something, and its snapshots.
fn begin(
    backend: &Backend,
    rng: &mut SimRng,
    parallelism: usize,
) -> (Vec<SnapshotHandle>, Vec<Kept>) {
    let mut shards = open(backend, parallelism as u32, &[]);
    let mut kept = Vec::new();
    for (index, shard) in shards.iter_mut().enumerate() {
        let (list, union, map) =
            (list(shard, "list"), union(shard, "union"), broadcast(shard, "broadcast"));
        let of_list = some_elements(rng, index, 40);
        of_list.iter().for_each(|element| add(shard, list, element));
        let of_union = some_elements(rng, index, 20);
        of_union.iter().for_each(|element| add(shard, union, element));
        let broadcast: Entries = (0..rng.below(300))
            .map(|key| (key.to_be_bytes().to_vec(), format!("{index}: {key}").into_bytes()))
            .collect();
        for (key, value) in &broadcast {
            shard.broadcast_put(map, key, value).unwrap();
        }
        kept.push(Kept { list: of_list, union: of_union, broadcast });
    }
    (snapshots(&mut shards, 1), kept)
}

/// Every number of subtasks to every other, and back to as many as there were.
#[test]
fn every_restore_gives_each_subtask_what_it_should_have() {
    let env = machine();
    for old in 1..=8 {
        for new in 1..=8 {
            let seed = old * 10 + new;
            println!("seed {seed}: {old} to {new} to {old}");
            let mut rng = SimRng::new(seed as u64);
            let backend = backend_on(&env).open().unwrap();
            let (handles, first) = begin(&backend, &mut rng, old);
            let second = restored(&first, new);
            let mut shards = open(&backend, new as u32, &shuffled(&handles));
            assert_kept(&mut shards, &second, "the second life");
            let handles = snapshots(&mut shards, 2);
            let third = restored(&second, old);
            let mut shards = open(&backend, old as u32, &handles);
            assert_kept(&mut shards, &third, "the third life");
        }
    }
}

/// Numbers of elements around multiples of the number of subtasks.
#[test]
fn lists_of_every_size_are_divided_evenly() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    for total in 0..=17_u32 {
        let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
        let state = list(&mut shard, "list");
        let all: Elements = (0..total).map(|number| number.to_be_bytes().to_vec()).collect();
        all.iter().for_each(|element| add(&mut shard, state, element));
        let handle = [snapshot(&mut shard, 1)];
        for parallelism in [2, 3, 5, 8, 16, 17, 128] {
            let expected = dealt(&all, parallelism);
            for (index, expected) in expected.iter().enumerate() {
                let mut shard =
                    open_one(&backend, index as u32, parallelism as u32, &handle).unwrap();
                let state = list(&mut shard, "list");
                assert_eq!(&read(&shard, state), expected, "{total} on {index} of {parallelism}");
            }
        }
    }
}

#[test]
fn on_as_many_subtasks_as_before_each_has_its_own_however_uneven() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shards = open(&backend, 3, &[]);
    let state = list(&mut shards[1], "only the second knows it");
    for number in 0..10_u8 {
        add(&mut shards[1], state, [number]);
    }
    let handles = snapshots(&mut shards, 1);
    let sizes = |parallelism| -> Vec<usize> {
        let mut shards = open(&backend, parallelism, &handles);
        let size = |shard: &mut Shard| {
            let state = list(shard, "only the second knows it");
            read(shard, state).len()
        };
        shards.iter_mut().map(size).collect()
    };
    assert_eq!(sizes(3), [0, 10, 0]);
    assert_eq!(sizes(4), [3, 3, 2, 2]);
}

/// A subtask whose old one does not have a broadcast state gets that of the next
/// one that has it.
#[test]
fn every_subtask_gets_a_broadcast_state_that_only_some_had() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shards = open(&backend, 4, &[]);
    for index in [1, 3] {
        let state = broadcast(&mut shards[index], "rules");
        shards[index].broadcast_put(state, b"rule", format!("of {index}").as_bytes()).unwrap();
    }
    let handles = shuffled(&snapshots(&mut shards, 1));
    for parallelism in [3, 4, 9] {
        for (index, shard) in open(&backend, parallelism, &handles).iter_mut().enumerate() {
            let state = broadcast(shard, "rules");
            let from = [1, 1, 3, 3][index % 4];
            let found = shard.broadcast_get(state, b"rule").unwrap();
            assert_eq!(found, Some(format!("of {from}").as_bytes()), "{index} of {parallelism}");
        }
    }
}

/// In three lives nobody asks for the states; the subtasks become more and fewer.
#[test]
fn states_that_nobody_opens_are_carried_on_and_distributed_like_others() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    for seed in 0..6 {
        println!("seed {seed}");
        let mut rng = SimRng::new(seed);
        let (mut handles, first) = begin(&backend, &mut rng, 3);
        let mut lists: Vec<Elements> = first.iter().map(|kept| kept.list.clone()).collect();
        let union: Elements = first.iter().flat_map(|kept| kept.union.clone()).collect();
        let mut maps: Vec<Entries> = first.iter().map(|kept| kept.broadcast.clone()).collect();
        for (life, parallelism) in [5, 2, 2, 7, 3].into_iter().enumerate() {
            let mut shards = open(&backend, parallelism as u32, &handles);
            let names: Vec<_> = shards[0].state_names().map(str::to_owned).collect();
            assert_eq!(names, ["broadcast", "list", "union"]);
            handles = snapshots(&mut shards, life as u64 + 2);
            if parallelism != lists.len() {
                lists = dealt(&lists.concat(), parallelism);
            }
            maps = (0..parallelism).map(|index| maps[index % maps.len()].clone()).collect();
        }
        // A union list has not been multiplied on its way.
        let expected: Vec<Kept> = lists
            .into_iter()
            .zip(maps)
            .map(|(list, broadcast)| Kept { list, union: union.clone(), broadcast })
            .collect();
        assert_kept(&mut open(&backend, 3, &handles), &expected, "the last life");
    }
}

/// As in Flink: the snapshot of each subtask then has the elements of all.
#[test]
fn a_union_list_that_is_opened_and_not_replaced_holds_the_elements_of_all() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shards = open(&backend, 2, &[]);
    for (index, shard) in shards.iter_mut().enumerate() {
        let state = union(shard, "union");
        add(shard, state, [index as u8]);
    }
    let mut shards = open(&backend, 2, &snapshots(&mut shards, 1));
    let states: Vec<_> = shards.iter_mut().map(|shard| union(shard, "union")).collect();
    // The first keeps what it was given, the second replaces it by its own.
    shards[1].operator_list_replace(states[1], &[b"own"]).unwrap();
    let mut shard = open_one(&backend, 0, 1, &snapshots(&mut shards, 2)).unwrap();
    let state = union(&mut shard, "union");
    assert_eq!(read(&shard, state), [&[0][..], &[1], b"own"]);
}

#[test]
fn key_groups_of_the_runtimes_own_choosing_do_not_matter() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let ranges = |bounds: &[(u16, u16)]| -> Vec<alluvium::KeyGroupRange> {
        let range = |&(first, last)| {
            alluvium::KeyGroupRange::new(alluvium::KeyGroup(first), alluvium::KeyGroup(last))
        };
        bounds.iter().map(|bounds| range(bounds).unwrap()).collect()
    };
    let open = |ranges: &[alluvium::KeyGroupRange], handles: &[SnapshotHandle]| -> Vec<Shard> {
        let open = |(index, &groups)| {
            let builder = backend.shard(OPERATOR, groups).restore(handles.iter().cloned());
            builder.subtask(index as u32, ranges.len() as u32).open().unwrap()
        };
        ranges.iter().enumerate().map(open).collect()
    };
    let mut shards = open(&ranges(&[(0, 0), (1, 120), (121, 127)]), &[]);
    for (index, shard) in shards.iter_mut().enumerate() {
        let state = list(shard, "list");
        (0..index * 3).for_each(|number| add(shard, state, [index as u8, number as u8]));
    }
    let handles = snapshots(&mut shards, 1);
    for (bounds, expected) in
        [(&[(0, 50), (51, 51), (52, 127)][..], &[0, 3, 6][..]), (&[(0, 126), (127, 127)], &[5, 4])]
    {
        let mut shards = open(&ranges(bounds), &handles);
        let size = |shard: &mut Shard| {
            let state = list(shard, "list");
            read(shard, state).len()
        };
        assert_eq!(shards.iter_mut().map(size).collect::<Vec<_>>(), expected);
    }
}
