//! Bringing a restored shard into memory while it works.
//!
//! When a state is registered, the background reads its tables merged and in
//! order, migrates values of earlier versions, and sends batches of records; the
//! task thread takes in a few with each operation, and asks for more when it has
//! none left, or says that there is no room for more. A key about which the memtable has anything to say (a later value,
//! or a deletion) is left alone. When all has been taken in, the state is as fast
//! as one that was never restored.
//!
//! States come one after the other. One that cannot be read or migrated to its
//! end is given up: the task thread goes on reading its tables, and meets the
//! failure where it asks for the record.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use crossbeam_queue::SegQueue;
use parking_lot::Mutex;

use crate::base::{Error, KeyGroup, Result};
use crate::env::executor::{Executor, Priority};
use crate::env::ledger::{MemoryComponent, MemoryLedger};
use crate::format::Placement;
use crate::format::collection::{EntryName, Subkey};
use crate::format::manifest::StateKind;
use crate::shard::contents::Assembly;
use crate::shard::migration::{Form, Migration};
use crate::shard::warm::{Wanted, Warm, WarmBatch, WarmSource};
use crate::version::merge::{MergeScan, MergeSource};

/// Bytes of records in a batch.
const BATCH_BYTES: usize = 32 * 1024;
/// Batches made for one request: some milliseconds of the task thread's time.
const BATCHES: usize = 32;

struct Work {
    current: Option<Scan>,
    out: Sender<Warm>,
    ledger: Arc<MemoryLedger>,
}

/// One state on its way.
struct Scan {
    state: usize,
    kind: StateKind,
    records: MergeScan,
    migration: Arc<Migration>,
    migrated: Vec<u8>,
    /// The collection whose entries are coming.
    open: Option<Open>,
}

/// A collection that is being put together: its entries are neighbours.
struct Open {
    group: KeyGroup,
    key: Vec<u8>,
    namespace: Vec<u8>,
    assembly: Assembly,
}

impl Open {
    fn close(self, state: usize, batch: &mut WarmBatch) -> Result<()> {
        let Self { group, key, namespace, assembly } = self;
        let bytes = assembly.bytes();
        batch.push_collection(state, group, &key, &namespace, assembly.finish()?, bytes);
        Ok(())
    }
}

struct Shared {
    work: Mutex<Option<Work>>,
    wanted: SegQueue<Wanted>,
    /// Positions of states that nobody wants any more.
    given_up: Mutex<Vec<usize>>,
    requested: AtomicBool,
    executor: Executor,
}

/// The task thread's end of a warm-up.
pub(crate) struct WarmUp {
    shared: Arc<Shared>,
    batches: Receiver<Warm>,
}

impl WarmUp {
    /// A warm-up that has nothing to do yet. What it has ready is charged.
    pub(crate) fn new(executor: Executor, ledger: Arc<MemoryLedger>) -> Self {
        let (out, batches) = unbounded();
        let shared = Shared {
            work: Mutex::new(Some(Work { current: None, out, ledger })),
            wanted: SegQueue::new(),
            given_up: Mutex::default(),
            requested: AtomicBool::new(false),
            executor,
        };
        Self { shared: Arc::new(shared), batches }
    }

    fn request(&self) {
        if !self.shared.requested.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(&self.shared);
            self.shared.executor.spawn(Priority::Idle, move || shared.work());
        }
    }
}

impl WarmSource for WarmUp {
    fn want(&mut self, wanted: Wanted) {
        self.shared.wanted.push(wanted);
        // If that comes too late for a piece of work that is just ending, the
        // next look for a batch asks again.
        self.request();
    }

    fn give_up(&mut self, state: usize) {
        self.shared.given_up.lock().push(state);
    }

    fn try_next(&mut self) -> Warm {
        match self.batches.try_recv() {
            Ok(message) => message,
            // The other end is gone without having said that it is done.
            Err(error) if error.is_disconnected() => Warm::Failed,
            Err(_) => {
                self.request();
                Warm::NotYet
            }
        }
    }
}

impl fmt::Debug for WarmUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WarmUp")
    }
}

impl Shared {
    fn work(&self) {
        let mut work = self.work.lock();
        // Taken out: if this panics it is gone, and the shard is told so.
        let Some(mut running) = work.take() else { return };
        // If not, nobody listens any more: the shard is gone.
        if running.send_some(self) {
            *work = Some(running);
        }
        self.requested.store(false, Ordering::Release);
    }
}

impl Work {
    /// Sends the next batches; `false` when nobody takes them.
    fn send_some(&mut self, shared: &Shared) -> bool {
        for _ in 0..BATCHES {
            shared.executor.breathe(Priority::Idle);
            let is_given_up = |scan: &Scan| shared.given_up.lock().contains(&scan.state);
            let scan = match self.current.take() {
                Some(scan) if is_given_up(&scan) => {
                    if self.out.send(Warm::Done(scan.state)).is_err() {
                        return false;
                    }
                    continue;
                }
                Some(scan) => Ok(scan),
                None => match shared.wanted.pop() {
                    Some(wanted) => Scan::open(wanted),
                    None => return true,
                },
            };
            if !self.send_batch(scan) {
                return false;
            }
        }
        true
    }

    fn send_batch(&mut self, scan: Result<Scan>) -> bool {
        let next = scan.and_then(|mut scan| {
            let (mut batch, ended) = scan.next_batch()?;
            batch.charge(self.ledger.charge(MemoryComponent::WarmUp, 0));
            Ok((scan, batch, ended))
        });
        match next {
            Ok((scan, batch, ended)) => {
                let done = ended.then_some(Warm::Done(scan.state));
                self.current = Some(scan).filter(|_| !ended);
                let batch = (!batch.is_empty()).then_some(Warm::Batch(batch));
                batch.into_iter().chain(done).all(|message| self.out.send(message).is_ok())
            }
            Err(error) => {
                tracing::warn!(%error, "a restored state could not be brought into memory");
                self.out.send(Warm::GaveUp).is_ok()
            }
        }
    }
}

impl Scan {
    fn open(wanted: Wanted) -> Result<Self> {
        let Wanted { state, kind, tables, migration } = wanted;
        let sources = tables.into_iter().map(|(table, ordinal)| {
            let dropped = Vec::new();
            (MergeSource { reader: table.reader, slice: table.slice, dropped }, ordinal)
        });
        let records = MergeScan::of_state(sources.collect());
        Ok(Self { state, kind, records, migration, migrated: Vec::new(), open: None })
    }

    /// The next batch, and whether it was the last.
    fn next_batch(&mut self) -> Result<(WarmBatch, bool)> {
        let mut batch = WarmBatch::default();
        while self.records.step()? {
            self.take_in(&mut batch)?;
            if batch.bytes() >= BATCH_BYTES {
                return Ok((batch, false));
            }
        }
        if let Some(last) = self.open.take() {
            last.close(self.state, &mut batch)?;
        }
        Ok((batch, true))
    }

    /// Adds the current record, if it is live, to a batch, or to the collection
    /// that it belongs to; one that is complete goes into the batch.
    fn take_in(&mut self, batch: &mut WarmBatch) -> Result<()> {
        let Some(record) = self.records.current() else { return Ok(()) };
        if record.placement != Placement::of(self.kind) {
            return Err(Error::corrupt("a table keeps a state as one of another kind")
                .at(format_args!("state {:?}", record.state))
                .expected(format_args!("records placed for {:?}", self.kind))
                .found(format_args!("{:?}", record.placement)));
        }
        if record.is_only_for_older_tables()? {
            return Ok(());
        }
        let Some(stored) = record.value else { return Ok(()) };
        let form = Form { schema: record.value_schema, stamps: record.stamps };
        let value = self.migration.apply(form, stored, &mut self.migrated)?;
        let timed = self.migration.current().stamps.is_some();
        let Some(assembly) = Assembly::new(self.kind, timed) else {
            batch.push(self.state, record.group, record.key, record.namespace, value);
            return Ok(());
        };
        let name = EntryName::decode(record.namespace)?;
        let Subkey::Entry(entry) = name.subkey else { return Ok(()) };
        let same = |open: &Open| {
            (open.group, &*open.key, &*open.namespace) == (record.group, record.key, name.namespace)
        };
        if !self.open.as_ref().is_some_and(same) {
            let next = Open {
                group: record.group,
                key: record.key.to_vec(),
                namespace: name.namespace.to_vec(),
                assembly,
            };
            if let Some(last) = self.open.replace(next) {
                last.close(self.state, batch)?;
            }
        }
        let open = self.open.as_mut().expect("it is open by now");
        open.assembly.push(entry, value)
    }
}
