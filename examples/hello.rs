//! Count words, take a snapshot, lose everything in memory, and go on.
//!
//! ```text
//! cargo run --example hello [DIRECTORY]
//! ```

use alluvium::{Backend, Result, SnapshotId, ValueState};

fn main() -> Result<()> {
    // Everything is kept below one directory: yours, or one that goes away.
    let temporary = tempfile::tempdir().expect("a temporary directory can be made");
    let dir = std::env::args_os().nth(1).map_or(temporary.path().to_owned(), Into::into);

    // A backend is what the shards of a process share: a directory, a place
    // for checkpoints, threads. A shard is the state of one worker: a range of
    // key groups. Here it is all of them, since there is one worker.
    let backend = Backend::builder(dir).open()?;
    let groups = backend.max_parallelism().all_groups();
    let mut shard = backend.shard("word count", groups).open()?;

    // A state has a name, and types for its keys and values.
    let counts: ValueState<String, u64> = ValueState::register(&mut shard, "counts")?;
    for word in "the river brings the sand and the sand stays".split(' ') {
        counts.update(&mut shard, &word.to_owned(), |count| Some(count.unwrap_or(0) + 1))?;
    }

    // A snapshot freezes the shard in constant time; the background writes it
    // while the worker goes on. A real job would keep its source offsets with it.
    let ticket = shard.snapshot(SnapshotId(1), b"9 words read")?;
    counts.put(&mut shard, &"the".to_owned(), &1_000)?;
    let report = ticket.wait()?;
    println!("snapshot of {} records in {} bytes", report.records_new, report.bytes_new);

    // The worker dies. A new one restores the snapshot from its handle: what
    // was counted before the snapshot is there, what came after is not.
    drop(shard);
    let mut shard = backend.shard("word count", groups).restore([report.handle]).open()?;
    let counts: ValueState<String, u64> = ValueState::register(&mut shard, "counts")?;
    for word in ["the", "sand", "sea"] {
        println!("{word}: {:?}", counts.get(&mut shard, &word.to_owned())?);
    }
    Ok(())
}
