//! The power goes after every single operation of some checkpoints and of a
//! restore: what comes back is what the last completed checkpoint had, operator
//! states and keyed ones alike.

use alluvium::ValueState;
use alluvium::env::sim::CrashMode;

use crate::*;

/// A checkpoint as the runtime remembers it: what it counted up to.
type Checkpoint = (Vec<SnapshotHandle>, u64);

/// One record counted on each subtask, and the total noted in all three ways.
fn count(shards: &mut [Shard], number: u64) -> Result<()> {
    for shard in shards.iter_mut() {
        let keyed: ValueState<u64, u64> = ValueState::register(shard, "keyed")?;
        let key = (0..).find(|key| keyed.get(shard, key).is_ok()).expect("some key is ours");
        keyed.put(shard, &key, &number)?;
        let elements = shard.open_operator_state(OperatorStateSpec::list("elements"))?;
        shard.operator_list_add(elements, &[&number.to_be_bytes()])?;
        let rules = shard.open_operator_state(OperatorStateSpec::broadcast("rules"))?;
        shard.broadcast_put(rules, &number.to_be_bytes(), b"counted")?;
        shard.broadcast_put(rules, b"last", &number.to_be_bytes())?;
    }
    Ok(())
}

fn work(env: &SimEnv, from: Option<&Checkpoint>, parallelism: u32) -> Option<Checkpoint> {
    let mut last = from.cloned();
    let (handles, mut number) = from.map_or((&[][..], 0), |(handles, number)| (handles, *number));
    let Ok(backend) = backend_on(env).open() else { return last };
    let shards: Result<Vec<_>> =
        (0..parallelism).map(|index| open_one(&backend, index, parallelism, handles)).collect();
    let Ok(mut shards) = shards else { return last };
    for _ in 0..3 {
        number += 1;
        if count(&mut shards, number).is_err() {
            break;
        }
        let results: Vec<_> = shards
            .iter_mut()
            .map(|shard| shard.snapshot(SnapshotId(number), b"")?.wait())
            .collect();
        if let Ok(reports) = results.into_iter().collect::<Result<Vec<_>>>() {
            last = Some((reports.into_iter().map(|report| report.handle).collect(), number));
        }
    }
    last
}

/// `parallelism` is that of the job that counted.
fn assert_recovers(env: &SimEnv, last: Option<&Checkpoint>, parallelism: u64, what: &str) {
    let backend = backend_on(env).open().unwrap_or_else(|error| panic!("{what}: {error}"));
    let Some((handles, number)) = last else { return };
    let mut counted = Vec::new();
    for index in 0..3 {
        let mut shard =
            open_one(&backend, index, 3, handles).unwrap_or_else(|error| panic!("{what}: {error}"));
        let (elements, rules) = (list(&mut shard, "elements"), broadcast(&mut shard, "rules"));
        counted.extend(read(&shard, elements));
        let entries = entries(&shard, rules);
        assert_eq!(entries.len() as u64, number + 1, "{what}");
        assert_eq!(entries[&b"last"[..]], number.to_be_bytes(), "{what}");
    }
    let mut expected: Elements =
        (1..=*number).map(|number| number.to_be_bytes().to_vec()).collect();
    expected = expected.into_iter().flat_map(|one| vec![one; parallelism as usize]).collect();
    counted.sort_unstable();
    assert_eq!(counted, expected, "{what}");
}

fn crash_at_every_operation(
    machine: impl Fn() -> SimEnv,
    work: impl Fn(&SimEnv) -> Option<Checkpoint>,
    parallelism: u64,
) -> u64 {
    for operations in 0.. {
        let env = machine();
        env.stop_after(operations);
        let last = work(&env);
        for mode in CrashMode::ALL {
            let image = env.crash_image(mode, operations);
            let what = format!("power cut after {operations} operations, {mode:?}");
            assert_recovers(&image, last.as_ref(), parallelism, &what);
        }
        if !env.power_lost() {
            return operations;
        }
    }
    unreachable!("the work ends some day")
}

#[test]
fn a_power_cut_at_any_operation_leaves_the_operator_states_of_a_completed_checkpoint() {
    let operations = crash_at_every_operation(machine, |env| work(env, None, 2), 2);
    assert!(operations > 60, "there was something to interrupt: {operations}");
}

#[test]
fn a_power_cut_at_any_operation_after_a_restore_loses_no_element() {
    let env = machine();
    let last = work(&env, None, 2).expect("checkpoints complete");
    let make = || env.crash_image(CrashMode::DropUnsynced, 0);
    let operations = crash_at_every_operation(make, |env| work(env, Some(&last), 2), 2);
    assert!(operations > 60, "there was something to interrupt: {operations}");
}
