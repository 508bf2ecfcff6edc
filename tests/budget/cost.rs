//! What timers cost that do not fit, beside such that do.

#![allow(clippy::disallowed_methods, reason = "it measures the real clock and disk")]

use std::time::Instant;

use alluvium::{Backend, KeyRef, MaxParallelism, SnapshotId, TimeDomain, TimerSpec, TimerStore};

const TIMERS: u64 = 2_000_000;

/// Times and keys, as good as random and cheap.
fn mixed(number: u64) -> u64 {
    let mixed = (number ^ number >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

fn live(budget: Option<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let builder = Backend::builder(dir.path());
    let builder = match budget {
        Some(bytes) => builder.memory_budget_bytes(bytes),
        None => builder,
    };
    let backend = builder.open().unwrap();
    let groups = MaxParallelism::DEFAULT.all_groups();
    let mut shard = backend.shard("op", groups).open().unwrap();
    let timers = shard.open_timers(TimerSpec::new("timers", TimeDomain::Event)).unwrap();
    let began = Instant::now();
    for number in 0..TIMERS {
        let time = mixed(number) as i64 >> 24;
        shard.register_timer(timers, time, KeyRef::new(&number.to_le_bytes())).unwrap();
        if number % (TIMERS / 4) == TIMERS / 4 - 1 {
            let id = SnapshotId(number);
            shard.snapshot(id, b"").unwrap().wait().unwrap();
            shard.notify_complete(id);
        }
    }
    let registered = began.elapsed();
    let used = shard.stats();
    let began = Instant::now();
    let (mut fired, mut last) = (0, i64::MIN);
    let mut longest = 0;
    loop {
        let popping = Instant::now();
        let more = shard.pop_due(timers, i64::MAX, &mut |timer| {
            assert!(timer.timestamp >= last);
            last = timer.timestamp;
            Ok(())
        });
        longest = longest.max(popping.elapsed().as_micros());
        if !more.unwrap() {
            break;
        }
        fired += 1;
    }
    let popped = began.elapsed();
    assert_eq!(fired, TIMERS);
    let each = |took: std::time::Duration| took.as_nanos() / u128::from(TIMERS);
    println!(
        "budget {budget:?}: {} ns to register, {} ns to fire, longest pop {longest} us\n{used}\n{}\n{}\n",
        each(registered),
        each(popped),
        shard.stats(),
        backend.memory(),
    );
    if let Some(bytes) = budget {
        assert!(backend.memory().peak_bytes <= bytes);
    }
}

/// `cargo test --release --test budget -- --ignored --nocapture two_million`
#[test]
#[ignore = "writes some hundred megabytes"]
fn two_million_timers_in_a_tenth_of_their_memory_keep_within_it() {
    live(None);
    // They take some 90 bytes each; of a budget nine sixteenths are for records.
    live(Some(TIMERS * 90 / 10 * 16 / 9));
}
