//! The process that is killed: `kills-job DIR [WORK]` waits for a line on standard input, goes on
//! from the job's last checkpoint, and ends with its input. On the way it restores itself
//! once, on another number of shards. Its store is in `DIR/store`, its local files in
//! `DIR/WORK`. Every line that it says is one write:
//!
//! ```text
//! mark WHAT                    what its main thread does from here on
//! restored ID OFFSET           it goes on from this checkpoint; 0 if there is none
//! trigger ID OFFSET            a checkpoint begins
//! complete ID OFFSET           the coordinator has said that it is complete
//! savepoint ID OFFSET          the same, of the savepoint
//! aborted ID                   it was given up
//! disposing                    from here on the savepoint may be gone
//! figures MERGES EARLY EVICTED what the shards of this life did beside
//! end
//! ```

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use alluvium::base::Error;
use alluvium::coordinator::{
    CheckpointSettings, ClaimMode, Coordinator, Event, Participant, RestoreFrom,
};
use alluvium::env::RealEnv;
use alluvium::format::{CheckpointKind, ShardAck};
use alluvium::object::LocalStore;
use alluvium::{Backend, Result, SnapshotId, SnapshotTicket};
use kills_tests::input::{DISPOSAL, END, GIVEN_UP, SAVEPOINT, STEP, TURN};
use kills_tests::job::{Job, MAX, OPERATOR};

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let dir = arguments.next().expect("a directory");
    let work = arguments.next().unwrap_or_else(|| "work".into());
    let mut go = String::new();
    std::io::stdin().lock().read_line(&mut go).expect("standard input can be read");
    loop {
        match live(Path::new(&dir), Path::new(&work)) {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                eprintln!("{error:?}");
                return std::process::ExitCode::FAILURE;
            }
        }
    }
    say("end");
    std::process::ExitCode::SUCCESS
}

/// Says a line with one system call.
fn say(line: impl std::fmt::Display) {
    let line = format!("{line}\n");
    std::io::stdout().write_all(line.as_bytes()).expect("somebody listens");
}

/// One life of the job: from its last checkpoint to the turn, or to the end, in which case
/// `true` is given.
fn live(dir: &Path, work: &Path) -> Result<bool> {
    say("mark restore");
    let store = Arc::new(LocalStore::open(Arc::new(RealEnv::new()), dir.join("store"))?);
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = None;
    settings.requests_interval_ms = None;
    settings.tolerable_failures = 1;
    let mut coordinator = Coordinator::builder(store, "job").settings(settings).open()?;
    let from = coordinator.restore(&RestoreFrom::Latest, ClaimMode::NoClaim)?;
    let offset = match &from {
        Some(from) => offset_in(&from.runtime)?,
        None => 0,
    };
    let sink = Arc::new(coordinator.sink());
    // Another number of shards in each life, two in the first.
    let parallelism = coordinator.epoch() as u32 % 3 + 1;
    // So little memory that records leave it, and so few tables that they are merged.
    let backend = Backend::builder(dir.join(work))
        .background_threads(2)
        .memory_budget_bytes(u64::from(parallelism.max(2)) * (136 << 10))
        .partition_bytes(16_000)
        .max_tables_per_shard(2)
        .sink(Arc::clone(&sink) as _)
        .source(sink)
        .open()?;
    let job = Job::open(&backend, from.as_ref(), parallelism)?;
    coordinator.start(Participant::of_operator(OPERATOR, MAX, parallelism)?)?;
    let id = from.as_ref().map_or(SnapshotId(0), |from| from.id);
    say(format_args!("restored {} {offset}", id.0));
    say("mark work");
    let mut life = Life { coordinator, backend, job, offset, under_way: None };
    let until = if offset < TURN { TURN } else { END };
    life.run(until)?;
    let shards = life.job.shards.iter().map(alluvium::Shard::stats);
    let figures = shards.fold([0; 3], |[merges, early, evicted], stats| {
        let merged = stats.merges.merges;
        [merges + merged, early + stats.early_writes, evicted + stats.evicted_records]
    });
    let [merges, early, evicted] = figures;
    say(format_args!("figures {merges} {early} {evicted}"));
    Ok(until == END)
}

fn offset_in(runtime: &[u8]) -> Result<u64> {
    let bytes = runtime.try_into();
    let bytes = bytes.map_err(|_| Error::corrupt("an offset has eight bytes"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// A checkpoint whose snapshots are being written.
struct UnderWay {
    id: SnapshotId,
    epoch: u64,
    offset: u64,
    tickets: Vec<SnapshotTicket>,
}

struct Life {
    coordinator: Coordinator,
    backend: Backend,
    job: Job,
    offset: u64,
    under_way: Option<UnderWay>,
}

impl Life {
    fn run(&mut self, until: u64) -> Result<()> {
        while self.offset < until {
            self.job.apply(self.offset)?;
            self.offset += 1;
            match self.offset % STEP {
                0 => self.begin()?,
                // The first half of the step's records came while it was being written.
                30 => self.end_step()?,
                45 => self.write_early()?,
                _ => {}
            }
        }
        self.end_step()
    }

    fn begin(&mut self) -> Result<()> {
        say("mark begin");
        self.job.be_present(self.offset)?;
        if self.offset == GIVEN_UP {
            self.coordinator.trigger()?;
            self.listen()?;
            self.give_up()?;
            say("mark begin");
        }
        self.coordinator.trigger()?;
        self.listen()
    }

    /// Does what the coordinator says.
    fn listen(&mut self) -> Result<()> {
        while let Some(event) = self.coordinator.next_event() {
            match event {
                Event::Trigger(barrier) => {
                    let (id, offset) = (barrier.id, self.offset);
                    let is_checkpoint = barrier.kind == CheckpointKind::Checkpoint;
                    say(if is_checkpoint { "mark snapshot" } else { "mark savepoint" });
                    say(format_args!("trigger {id} {offset}"));
                    let shards = self.job.shards.iter_mut();
                    let tickets = shards.map(|shard| shard.snapshot(id, &offset.to_le_bytes()));
                    let tickets = tickets.collect::<Result<_>>()?;
                    let epoch = barrier.epoch;
                    self.under_way = Some(UnderWay { id, epoch, offset, tickets });
                    self.coordinator.set_runtime_data(id, offset.to_le_bytes().to_vec())?;
                }
                Event::Completed(id) => {
                    let offset = self.under_way.take().map_or(0, |under_way| under_way.offset);
                    say(format_args!("complete {id} {offset}"));
                    self.job.shards.iter_mut().for_each(|shard| shard.notify_complete(id));
                    // All shards took a snapshot: they read nothing older any more.
                    self.coordinator.release_base();
                }
                Event::SavepointCompleted { id, .. } => {
                    let offset = self.under_way.take().map_or(0, |under_way| under_way.offset);
                    say(format_args!("savepoint {id} {offset}"));
                }
                Event::Aborted { id, .. } => {
                    self.under_way = None;
                    say(format_args!("aborted {id}"));
                    self.job.shards.iter_mut().for_each(|shard| shard.notify_aborted(id));
                }
                other => return Err(Error::internal("not expected").at(format!("{other:?}"))),
            }
        }
        Ok(())
    }

    /// Waits for the snapshots under way and acknowledges them.
    fn acknowledge(&mut self) -> Result<()> {
        let Some(under_way) = self.under_way.as_mut() else { return Ok(()) };
        let epoch = under_way.epoch;
        for ticket in std::mem::take(&mut under_way.tickets) {
            let report = ticket.wait()?;
            self.coordinator.acknowledge(ShardAck::of(epoch, &report))?;
        }
        self.listen()
    }

    /// Gives up the checkpoint under way when all but one shard have acknowledged it, and
    /// lets that one come too late.
    fn give_up(&mut self) -> Result<()> {
        let Some(under_way) = self.under_way.as_mut() else { return Ok(()) };
        let (id, epoch) = (under_way.id, under_way.epoch);
        let mut acks = Vec::new();
        for ticket in std::mem::take(&mut under_way.tickets) {
            acks.push(ShardAck::of(epoch, &ticket.wait()?));
        }
        let last = acks.pop();
        for ack in acks {
            self.coordinator.acknowledge(ack)?;
        }
        self.coordinator.abort(id, "on purpose");
        if let Some(ack) = last {
            self.coordinator.acknowledge(ack)?;
        }
        self.listen()
    }

    /// Completes the checkpoint under way, and does what comes after it.
    fn end_step(&mut self) -> Result<()> {
        let Some(step) = self.under_way.as_ref().map(|under_way| under_way.offset) else {
            return Ok(());
        };
        self.acknowledge()?;
        say("mark merge");
        while self.backend.run_background() {}
        say("mark collect");
        self.coordinator.poll()?;
        let has_savepoint = !self.coordinator.view().entry().savepoints.is_empty();
        if step == SAVEPOINT && !has_savepoint {
            say("mark begin");
            self.job.be_present(self.offset)?;
            self.coordinator.savepoint("kept")?;
            self.listen()?;
            self.acknowledge()?;
        }
        if step == DISPOSAL && has_savepoint {
            say("mark dispose");
            say("disposing");
            self.coordinator.dispose("kept")?;
            self.coordinator.poll()?;
        }
        say("mark work");
        Ok(())
    }

    /// Has what changed written before a snapshot asks, in one shard and one step of two.
    fn write_early(&mut self) -> Result<()> {
        if self.offset / STEP % 2 == 1 {
            say("mark early write");
            self.job.shards[0].write_early()?;
            while self.backend.run_background() {}
        }
        Ok(())
    }
}
