//! What is refused, and that nothing has changed then.

use alluvium::base::limits::{MAX_KEY_BYTES, MAX_OPERATOR_STATE_BYTES};
use alluvium::codec::{Codec, CodecId};
use alluvium::{
    BroadcastState, KeyRef, KeyedStore, OldCodecs, OldKey, OperatorListState, StateSpec,
    TimeDomain, TimerSpec, TimerStore,
};

use crate::*;

/// Snapshots of two subtasks that have an operator state.
fn two(backend: &Backend) -> Vec<SnapshotHandle> {
    let mut shards = open(backend, 2, &[]);
    for (index, shard) in shards.iter_mut().enumerate() {
        let state = list(shard, "list");
        add(shard, state, [index as u8]);
    }
    snapshots(&mut shards, 1)
}

#[test]
fn a_missing_or_doubled_handle_is_refused_even_if_its_key_groups_are_of_no_interest() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let handles = two(&backend);
    let one = |at: usize| handles[at].clone();
    for (given, fact) in [
        (vec![one(0)], "none with kg64"),
        (vec![one(0), one(0), one(1)], "kg0 twice"),
        (vec![one(0), one(1), one(1)], "kg64 twice"),
    ] {
        let error = open_one(&backend, 0, 2, &given).unwrap_err();
        if !given[1..].contains(&given[0]) {
            assert_says(&error, ErrorKind::Invalid, &["handles of all shards", fact, OPERATOR]);
        }
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    open_one(&backend, 0, 2, &handles).unwrap();
}

/// Nobody can know what the subtask whose handle is missing had.
#[test]
fn a_shard_restored_from_some_handles_opens_no_operator_state() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shards = open(&backend, 2, &[]);
    for shard in &mut shards {
        shard.register(StateSpec::value("keyed")).unwrap();
    }
    let state = list(&mut shards[1], "only the second knows it");
    add(&mut shards[1], state, b"element");
    let handles = snapshots(&mut shards, 1);
    let mut shard = open_one(&backend, 0, 2, &handles[..1]).unwrap();
    shard.register(StateSpec::value("keyed")).unwrap();
    let spec = OperatorStateSpec::list("only the second knows it");
    let error = shard.open_operator_state(spec.clone()).unwrap_err();
    assert_says(
        &error,
        ErrorKind::Invalid,
        &["only the second", "none with kg64", "all old shards"],
    );
    assert_eq!(shard.state_names().collect::<Vec<_>>(), ["keyed"]);
    let mut shard = open_one(&backend, 0, 2, &handles).unwrap();
    shard.open_operator_state(spec).unwrap();
}

#[test]
fn which_subtask_it_is_follows_from_the_key_groups_or_has_to_be_said() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let handles = two(&backend);
    let max = backend.max_parallelism();
    let builder = |groups| backend.shard(OPERATOR, groups).restore(handles.iter().cloned());
    let mut all = Elements::new();
    for index in 0..5 {
        let mut shard = builder(max.range_of_subtask(index, 5).unwrap()).open().unwrap();
        let state = list(&mut shard, "list");
        all.extend(read(&shard, state));
    }
    assert_eq!(all, [[0], [1]]);
    // One group is all that a subtask of 65 to 128 may have.
    let groups = range_of(0, 100, MAX);
    let error = builder(groups).open().unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["64 as well as 127", "ShardBuilder::subtask"]);
    let mut shard = builder(groups).subtask(0, 100).open().unwrap();
    let state = list(&mut shard, "list");
    assert_eq!(read(&shard, state), [[0]]);
    let (first, last) = (alluvium::KeyGroup(3), alluvium::KeyGroup(77));
    let own = alluvium::KeyGroupRange::new(first, last).unwrap();
    assert_says(&builder(own).open().unwrap_err(), ErrorKind::Invalid, &["no subtask", "subtask"]);
    builder(own).subtask(1, 3).open().unwrap();
    // Without operator states there is nothing to know.
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let handle = snapshot(&mut shard, 2);
    backend.shard(OPERATOR, groups).restore([handle]).open().unwrap();
}

#[test]
fn a_subtask_that_cannot_have_its_key_groups_is_refused() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let told = |range: (u32, u32), index, parallelism| {
        let groups = range_of(range.0, range.1, MAX);
        backend.shard(OPERATOR, groups).subtask(index, parallelism).open()
    };
    for (range, index, parallelism) in [
        ((0, 2), 1, 2),
        ((1, 2), 0, 2),
        ((1, 2), 1, 3),
        ((1, 2), 0, 1),
        ((0, 1), 0, 0),
        ((0, 1), 1, 1),
        ((0, 1), 0, 2),
        ((127, 128), 127, 129),
        // Two subtasks cannot be before one group.
        ((1, 128), 2, 128),
        ((1, 128), 2, 100),
    ] {
        let error = told(range, index, parallelism).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{range:?}: {error}");
    }
    for (range, index, parallelism) in
        [((0, 2), 0, 2), ((0, 2), 0, 3), ((1, 3), 1, 3), ((1, 3), 1, 40), ((126, 128), 126, 128)]
    {
        told(range, index, parallelism).unwrap();
    }
    let error = told((0, 2), 1, 2).unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["subtask 1 of 2", "kg64..=kg127", "kg0..=kg63"]);
}

fn assert_name_is_taken(result: Result<()>, name: &str, have: &str, asked: &str) {
    assert_says(&result.unwrap_err(), ErrorKind::Incompatible, &[name, have, asked]);
}

#[test]
fn a_name_is_that_of_one_state_of_any_sort() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    shard.register(StateSpec::map("keyed")).unwrap();
    shard.open_timers(TimerSpec::new("timers", TimeDomain::Event)).unwrap();
    let state = list(&mut shard, "list");
    add(&mut shard, state, b"element");
    broadcast(&mut shard, "broadcast");
    for life in 1..3 {
        let operator = |shard: &mut Shard, spec| shard.open_operator_state(spec).map(drop);
        let of_kind = |shard: &mut Shard, spec| shard.register(spec).map(drop);
        let spec = OperatorStateSpec::list("keyed");
        assert_name_is_taken(operator(&mut shard, spec), "keyed", "kind Map", "a list");
        let spec = OperatorStateSpec::broadcast("timers");
        assert_name_is_taken(operator(&mut shard, spec), "timers", "Timers", "a broadcast state");
        let spec = StateSpec::value("list");
        assert_name_is_taken(of_kind(&mut shard, spec.clone()), "list", "a list", "kind Value");
        let codec = CodecId::new("bytes", 1);
        let old =
            OldCodecs { keys: codec.clone().into(), namespaces: codec.into(), map_keys: None };
        let rekeyed = shard.register_rekeyed(spec, old, &mut |_: OldKey<'_>| {
            unreachable!("there is nothing to rename")
        });
        assert_name_is_taken(rekeyed.map(drop), "list", "a list", "kind Value");
        let timers = shard.open_timers(TimerSpec::new("broadcast", TimeDomain::Event)).map(drop);
        assert_name_is_taken(timers, "broadcast", "a broadcast state", "Timers");
        for spec in [OperatorStateSpec::union_list("list"), OperatorStateSpec::broadcast("list")] {
            let mode = spec.mode().to_string();
            assert_name_is_taken(operator(&mut shard, spec), "\"list\"", "a list that is", &mode);
        }
        let spec = OperatorStateSpec::list("broadcast");
        assert_name_is_taken(operator(&mut shard, spec), "broadcast", "a broadcast", "a list");
        let names: Vec<_> = shard.state_names().map(str::to_owned).collect();
        let handle = snapshot(&mut shard, life);
        let mut again = open_one(&backend, 0, 1, std::slice::from_ref(&handle)).unwrap();
        let state = list(&mut again, "list");
        assert_eq!(read(&again, state), [b"element"]);
        // The second time none of them has been opened.
        shard = open_one(&backend, 0, 1, &[handle]).unwrap();
        let mut found: Vec<_> = shard.state_names().map(str::to_owned).collect();
        found.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(found, names);
    }
}

/// Two subtasks that ran different versions of the job.
#[test]
fn snapshots_that_disagree_about_a_state_are_refused() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    type Open = fn(&mut Shard);
    let opens: [Open; 4] = [
        |shard| _ = list(shard, "state"),
        |shard| _ = union(shard, "state"),
        |shard| _ = broadcast(shard, "state"),
        |shard| _ = shard.register(StateSpec::value("state")).unwrap(),
    ];
    for (one, open_one_way) in opens.iter().enumerate() {
        for (other, open_other_way) in opens.iter().enumerate() {
            let mut shards = open(&backend, 2, &[]);
            open_one_way(&mut shards[0]);
            open_other_way(&mut shards[1]);
            let handles = snapshots(&mut shards, 1);
            match open_one(&backend, 0, 1, &handles) {
                Ok(_) => assert_eq!(one, other),
                Err(error) => {
                    assert_ne!(one, other);
                    assert_says(&error, ErrorKind::Incompatible, &["\"state\"", "one"]);
                }
            }
        }
    }
}

#[test]
fn calls_that_do_not_fit_the_mode_change_nothing() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let (elements, rules) = (union(&mut shard, "elements"), broadcast(&mut shard, "rules"));
    add(&mut shard, elements, b"element");
    shard.broadcast_put(rules, b"rule", b"value").unwrap();
    let go_on = &mut |_: &[u8]| ControlFlow::Continue(());
    let go_on_too = &mut |_: &[u8], _: &[u8]| ControlFlow::Continue(());
    for (name, result) in [
        ("operator_list_add", shard.operator_list_add(rules, &[b"x"])),
        ("operator_list_replace", shard.operator_list_replace(rules, &[])),
        ("operator_list_read", shard.operator_list_read(rules, go_on)),
        ("broadcast_put", shard.broadcast_put(elements, b"", b"")),
        ("broadcast_get", shard.broadcast_get(elements, b"").map(drop)),
        ("broadcast_remove", shard.broadcast_remove(elements, b"").map(drop)),
        ("broadcast_scan", shard.broadcast_scan(elements, Bound::Unbounded, go_on_too)),
    ] {
        let state = if name.starts_with('b') { "elements" } else { "rules" };
        assert_says(&result.unwrap_err(), ErrorKind::Invalid, &[name, state]);
    }
    let nobodys = OperatorStateId::new(2);
    for result in [
        shard.operator_list_add(nobodys, &[]),
        shard.operator_state_clear(nobodys),
        shard.operator_state_len(nobodys).map(drop),
        shard.broadcast_put(nobodys, b"", b""),
    ] {
        assert_says(&result.unwrap_err(), ErrorKind::Invalid, &["no such operator state"]);
    }
    for name in ["", &"x".repeat(1025)] {
        let error = shard.open_operator_state(OperatorStateSpec::list(name)).unwrap_err();
        assert_says(&error, ErrorKind::Invalid, &["name of an operator state"]);
    }
    let key = vec![0; MAX_KEY_BYTES + 1];
    let error = shard.broadcast_put(rules, &key, b"").unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["rules", "key is too long"]);
    assert_eq!(read(&shard, elements), [b"element"]);
    assert_eq!(entries(&shard, rules).len(), 1);
}

#[test]
fn what_is_too_large_is_refused_by_name_and_changes_nothing() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let (elements, rules) = (list(&mut shard, "elements"), broadcast(&mut shard, "rules"));
    let half = vec![7; MAX_OPERATOR_STATE_BYTES as usize / 2];
    add(&mut shard, elements, b"first");
    shard.operator_list_add(elements, &[&half]).unwrap();
    for refused in [
        shard.operator_list_add(elements, &[b"x", &half]),
        shard.operator_list_replace(elements, &[&half, &half]),
    ] {
        assert_says(&refused.unwrap_err(), ErrorKind::Invalid, &["elements", "268435456 bytes"]);
    }
    let error = shard.broadcast_put(rules, b"rule", &half).unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["rules", "268435456 bytes"]);
    assert_eq!(shard.operator_state_len(elements).unwrap(), 2);
    assert_eq!(shard.operator_state_len(rules).unwrap(), 0);
    // Up to the last byte, and not one more.
    let left = MAX_OPERATOR_STATE_BYTES - shard.stats().operator_state_bytes;
    let key_and_lengths = 1 + 3 + 4;
    let value = &half[..(left - 1 - key_and_lengths) as usize];
    shard.broadcast_put(rules, b"rul", value).unwrap();
    assert_eq!(shard.stats().operator_state_bytes, MAX_OPERATOR_STATE_BYTES - 1);
    add(&mut shard, elements, b"");
    shard.operator_list_add(elements, &[b""]).unwrap_err();
    shard.broadcast_put(rules, b"rul", &[]).unwrap();
    shard.operator_list_add(elements, &[&half[..half.len() / 2]]).unwrap();
    shard.register(StateSpec::value("keyed")).unwrap();
}

/// Writes numbers below 100, and panics at 13.
#[derive(Clone)]
struct Superstitious;

impl Codec<u8> for Superstitious {
    fn id(&self) -> CodecId {
        CodecId::new("superstitious", 1)
    }

    fn encode(&self, value: &u8, out: &mut Vec<u8>) -> Result<()> {
        assert_ne!(*value, 13, "thirteen");
        if *value >= 100 {
            return Err(Error::invalid("a large number"));
        }
        out.push(*value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<u8> {
        match bytes {
            [7] => panic!("seven"),
            [value] => Ok(*value),
            _ => Err(Error::corrupt("no number")),
        }
    }
}

#[test]
fn codecs_that_fail_or_panic_leave_operator_states_as_they_were() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let numbers = OperatorListState::even_split_with(&mut shard, "numbers", Superstitious).unwrap();
    let names =
        BroadcastState::with_codecs(&mut shard, "names", Superstitious, Superstitious).unwrap();
    numbers.add(&mut shard, &1).unwrap();
    names.put(&mut shard, &1, &2).unwrap();
    for (result, facts) in [
        (numbers.add(&mut shard, &13), ["\"numbers\"", "thirteen"]),
        (numbers.add_all(&mut shard, &[2, 13]), ["\"numbers\"", "thirteen"]),
        (numbers.replace(&mut shard, &[2, 100]), ["\"numbers\"", "large number"]),
        (names.put(&mut shard, &13, &2), ["\"names\"", "thirteen"]),
        (names.put(&mut shard, &1, &13), ["\"names\"", "thirteen"]),
        (names.remove(&mut shard, &100).map(drop), ["\"names\"", "large number"]),
    ] {
        assert_says(&result.unwrap_err(), ErrorKind::Invalid, &facts);
    }
    assert_eq!(numbers.get(&shard).unwrap(), [1]);
    assert_eq!(names.entries(&shard).unwrap(), [(1, 2)]);
    numbers.add(&mut shard, &7).unwrap();
    names.put(&mut shard, &7, &7).unwrap();
    assert_says(&numbers.get(&shard).unwrap_err(), ErrorKind::Invalid, &["numbers", "seven"]);
    assert_says(&names.get(&shard, &7).unwrap_err(), ErrorKind::Invalid, &["names", "seven"]);
    assert_eq!(names.get(&shard, &1).unwrap(), Some(2));
    assert_eq!(shard.operator_state_len(numbers.id()).unwrap(), 2);
    let keyed = shard.register(StateSpec::value("keyed")).unwrap();
    shard.put(keyed, KeyRef::new(b"key"), b"the shard goes on").unwrap();
    assert_eq!(OperatorStateMode::List.to_string(), "a list that is divided");
}
