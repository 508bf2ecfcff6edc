//! Copy-on-write between the writer and the extractor: they never touch a
//! record at the same time, and every frozen epoch is extracted as it was.
//!
//! The hand-over is the one that ships. Around it stands a memtable of a few
//! blocks that decides as `src/memtable/mod.rs` does: `put` is its
//! `first_touch`, `chores` and `freeze` have the names they have there, and
//! `extract_next` is the pipeline's. The blocks are loom's cells, which fail a
//! model whose threads are not ordered by something when they meet in one.

use std::collections::VecDeque;
use std::sync::Arc;
// Loom's would forget what they hold from one interleaving to the next.
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium_loom::check;
use alluvium_loom::memtable::{Handoff, Shipped, WithoutAcquire, WithoutRelease};
use loom::cell::Cell;
use loom::sync::Mutex;
use loom::thread;

/// The epoch of a block that holds no record.
const FREE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    epoch: u32,
    value: u32,
}

struct Shared<H> {
    blocks: Vec<Cell<Record>>,
    handoff: H,
    extracting: Mutex<VecDeque<Frozen>>,
    extractor: Mutex<()>,
}

/// A frozen epoch: which blocks are to be read, and what must be in them.
struct Frozen {
    epoch: u32,
    image: Vec<(usize, u32)>,
}

struct Memtable<H> {
    shared: Arc<Shared<H>>,
    /// The block of each key.
    index: Vec<usize>,
    /// Dirty blocks and what the writer wrote there last.
    dirty: Vec<(usize, u32)>,
    free: VecDeque<usize>,
    retired: VecDeque<(u32, usize)>,
    epoch: u32,
    extracted: u32,
    copies: usize,
}

impl<H: Handoff> Memtable<H> {
    /// `keys` records of an epoch that has been extracted, and free blocks.
    fn new(keys: usize, blocks: usize) -> Self {
        let record = |block| Record { epoch: if block < keys { 0 } else { FREE }, value: 0 };
        let shared = Shared {
            blocks: (0..blocks).map(|block| Cell::new(record(block))).collect(),
            handoff: H::new(0),
            extracting: Mutex::default(),
            extractor: Mutex::new(()),
        };
        Self {
            shared: Arc::new(shared),
            index: (0..keys).collect(),
            dirty: Vec::new(),
            free: (keys..blocks).collect(),
            retired: VecDeque::new(),
            epoch: 1,
            extracted: 0,
            copies: 0,
        }
    }

    fn put(&mut self, key: usize, value: u32) {
        let block = self.index[key];
        let record = self.shared.blocks[block].get();
        if !self.in_place(record.epoch) {
            let copy = self.free.pop_front().expect("the model has enough blocks");
            self.index[key] = copy;
            self.retired.push_back((record.epoch, block));
            self.copies += 1;
        }
        let block = self.index[key];
        self.shared.blocks[block].set(Record { epoch: self.epoch, value });
        self.dirty.retain(|&(dirty, _)| dirty != block);
        self.dirty.push((block, value));
    }

    fn in_place(&mut self, epoch: u32) -> bool {
        if epoch == self.epoch || epoch <= self.extracted {
            return true;
        }
        self.extracted = self.shared.handoff.extracted();
        epoch <= self.extracted
    }

    /// Frees old blocks; a free block is written to, and used again first.
    fn chores(&mut self) {
        self.extracted = self.shared.handoff.extracted();
        while let Some(&(epoch, block)) = self.retired.front()
            && epoch <= self.extracted
        {
            self.retired.pop_front();
            self.shared.blocks[block].set(Record { epoch: FREE, value: 0 });
            self.free.push_front(block);
        }
    }

    /// Ends the epoch and hands it to a thread of the background.
    fn freeze(&mut self) -> thread::JoinHandle<()> {
        let frozen = Frozen { epoch: self.epoch, image: std::mem::take(&mut self.dirty) };
        self.epoch += 1;
        self.shared.extracting.lock().unwrap().push_back(frozen);
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || shared.extract_next())
    }
}

impl<H: Handoff> Shared<H> {
    fn extract_next(&self) {
        let _in_order = self.extractor.lock().unwrap();
        let frozen = self.extracting.lock().unwrap().pop_front();
        let Frozen { epoch, image } = frozen.expect("there is one for each thread");
        for (block, value) in image {
            assert_eq!(self.blocks[block].get(), Record { epoch, value }, "as it was frozen");
        }
        self.handoff.publish(epoch);
    }
}

fn change_records_while_they_are_extracted<H: Handoff>() {
    check(4, || {
        let mut memtable = Memtable::<H>::new(2, 4);
        memtable.put(0, 10);
        memtable.put(1, 11);
        let extractor = memtable.freeze();
        memtable.put(0, 20);
        memtable.put(1, 21);
        memtable.put(0, 30);
        extractor.join().unwrap();
    });
}

fn use_the_blocks_again<H: Handoff>() {
    check(4, || {
        let mut memtable = Memtable::<H>::new(2, 4);
        memtable.put(0, 10);
        let extractor = memtable.freeze();
        memtable.put(0, 20);
        memtable.chores();
        memtable.put(1, 21);
        memtable.put(1, 31);
        extractor.join().unwrap();
    });
}

#[test]
fn a_frozen_record_is_copied_or_extracted_before_it_is_changed() {
    change_records_while_they_are_extracted::<Shipped>();
}

/// A model that sees one of the two ways only would prove little.
#[test]
fn the_models_see_copies_and_changes_in_place() {
    let copies_seen = Arc::new([const { AtomicBool::new(false) }; 3]);
    let seen = Arc::clone(&copies_seen);
    check(4, move || {
        let mut memtable = Memtable::<Shipped>::new(2, 4);
        memtable.put(0, 10);
        memtable.put(1, 11);
        let extractor = memtable.freeze();
        memtable.put(0, 20);
        memtable.put(1, 21);
        seen[memtable.copies].store(true, Ordering::Relaxed);
        extractor.join().unwrap();
    });
    assert!(copies_seen.iter().all(|seen| seen.load(Ordering::Relaxed)), "{copies_seen:?}");
}

#[test]
fn the_old_block_of_a_copied_record_is_used_again_only_after_extraction() {
    use_the_blocks_again::<Shipped>();
}

#[test]
fn freezing_again_before_the_first_extraction_is_over_mixes_no_epochs() {
    check(3, || {
        let mut memtable = Memtable::<Shipped>::new(2, 6);
        memtable.put(0, 10);
        memtable.put(1, 11);
        let first = memtable.freeze();
        memtable.put(0, 20);
        let second = memtable.freeze();
        memtable.put(0, 30);
        memtable.chores();
        memtable.put(1, 31);
        first.join().unwrap();
        second.join().unwrap();
    });
}

#[test]
fn three_epochs_in_a_row_are_each_extracted_as_they_were() {
    check(3, || {
        let mut memtable = Memtable::<Shipped>::new(1, 5);
        let extractors: Vec<_> = (1..=3)
            .map(|round| {
                memtable.chores();
                memtable.put(0, round * 10);
                memtable.freeze()
            })
            .collect();
        memtable.put(0, 40);
        for extractor in extractors {
            extractor.join().unwrap();
        }
    });
}

#[test]
fn extracted_records_are_changed_in_place_again() {
    check(4, || {
        let mut memtable = Memtable::<Shipped>::new(1, 2);
        memtable.put(0, 10);
        let extractor = memtable.freeze();
        extractor.join().unwrap();
        memtable.put(0, 20);
        assert_eq!(memtable.copies, 0);
        let extractor = memtable.freeze();
        memtable.put(0, 30);
        extractor.join().unwrap();
    });
}

// The same models with a hand-over that orders too little. They must fail, or
// the models above prove nothing.

#[test]
#[should_panic(expected = "Causality violation")]
fn changing_in_place_without_release_is_caught() {
    change_records_while_they_are_extracted::<WithoutRelease>();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn changing_in_place_without_acquire_is_caught() {
    change_records_while_they_are_extracted::<WithoutAcquire>();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn using_a_block_again_without_release_is_caught() {
    use_the_blocks_again::<WithoutRelease>();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn using_a_block_again_without_acquire_is_caught() {
    use_the_blocks_again::<WithoutAcquire>();
}

/// A hand-over that publishes an epoch before its last record has been read.
struct TooEarly(Shipped);

impl Handoff for TooEarly {
    fn new(epoch: u32) -> Self {
        let early = Shipped::new(epoch);
        early.publish(epoch + 1);
        Self(early)
    }

    fn publish(&self, _epoch: u32) {}

    fn extracted(&self) -> u32 {
        self.0.extracted()
    }
}

#[test]
#[should_panic(expected = "Causality violation")]
fn publishing_before_the_last_read_is_caught() {
    change_records_while_they_are_extracted::<TooEarly>();
}
