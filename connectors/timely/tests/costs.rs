//! What is told of the costs of checkpoints.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use alluvium::{SnapshotId, ValueState};
use alluvium_timely::{Flow, Generator, Job, JobEvent};
use timely::Config;

const RECORDS: u64 = 20_000;

fn count(flow: &Flow<'_>, operator: &str) -> alluvium::Result<()> {
    let made = Generator::new(2, |_, number| (number < RECORDS).then_some(number));
    let numbers = flow.source(&format!("for {operator}"), made).build()?;
    flow.keyed(operator, numbers, |number| *number)
        .state(|shard| ValueState::<u64, u64>::register(shard, "counts"))?
        .process::<()>(|counts, context, key, _| {
            let count = |before: Option<u64>| Some(before.unwrap_or(0) + 1);
            counts.update(context.store(), key, count)
        })?;
    Ok(())
}

#[test]
fn each_shard_of_a_checkpoint_says_what_it_cost_before_that_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let job = Job::local("costs", dir.path()).unwrap().interval_ms(Some(10));
    job.observer(move |event| heard.lock().unwrap().push(event.clone()))
        .run(Config::process(2), |flow| {
            count(flow, "one")?;
            count(flow, "other")
        })
        .unwrap();

    let mut shards = BTreeMap::<SnapshotId, Vec<String>>::new();
    let (mut records, mut completed) = (0, 0);
    for event in told.lock().unwrap().iter() {
        match event {
            JobEvent::Acknowledged { id, operator, costs } => {
                assert!(costs.pause_ns > 0 && costs.pause_ns < costs.duration_ns, "{costs:?}");
                assert!(costs.bytes_total >= costs.bytes_new && costs.bytes_new > 0, "{costs:?}");
                records += costs.records_new;
                shards.entry(*id).or_default().push(operator.clone());
            }
            JobEvent::Completed(id) => {
                completed += 1;
                let mut of = shards.remove(id).unwrap();
                of.sort();
                assert_eq!(of, ["one", "one", "other", "other"], "checkpoint {id}");
            }
            _ => {}
        }
    }
    assert!(completed > 0);
    assert!(records >= 2 * RECORDS, "every key was in a checkpoint: {records}");
}
