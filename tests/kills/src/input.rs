//! The input: records that follow from their offsets, so that any process reads the same.

/// Keys are below this.
pub const KEYS: u64 = 90;
/// Namespaces are below this.
pub const NAMESPACES: u32 = 3;
/// Records from one checkpoint to the next.
pub const STEP: u64 = 60;
/// Where the input ends.
pub const END: u64 = 12 * STEP;
/// Where a job that comes this far closes everything and restores itself.
pub const TURN: u64 = 7 * STEP;
/// Where a checkpoint is given up before another one is taken.
pub const GIVEN_UP: u64 = 4 * STEP;
/// The step after whose checkpoint a savepoint is taken.
pub const SAVEPOINT: u64 = 2 * STEP;
/// The step after whose checkpoint the savepoint is disposed of.
pub const DISPOSAL: u64 = 9 * STEP;

/// What a record does to the state of its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Writes the value.
    Put(Vec<u8>),
    /// Deletes the value.
    Delete,
    /// Adds to the count of a window.
    Count(u32, u64),
    /// Adds to the end of a list.
    Append(u32, Vec<u64>),
    /// Puts the elements of the other lists of the key behind those of this one.
    MergeLists(u32),
    /// Clears a list.
    ClearList(u32),
    /// Writes an entry of the map.
    PutEntry(u32, Vec<u8>),
    /// Removes an entry of the map.
    RemoveEntry(u32),
    /// Clears the map.
    ClearMap,
    /// Adds to the mean.
    Measure(u64),
    /// Registers a timer of event time.
    Wait(i64),
    /// Deletes a timer of event time, which may be there.
    WaitNoMore(i64),
    /// Registers a timer of processing time, which never comes.
    Remind(i64),
    /// Adds to the list that subtasks divide among themselves.
    Note(u64),
    /// Writes an entry of the map that all subtasks have.
    Tell(u32, u64),
}

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Whose.
    pub key: u64,
    /// What it does, beside adding to the sum of its key.
    pub change: Change,
    /// The watermark that follows it, if one does.
    pub watermark: Option<i64>,
}

/// The record at an offset.
pub fn record(offset: u64) -> Record {
    let mut random = Random(offset + 1);
    let key = random.below(KEYS);
    let namespace = random.below(u64::from(NAMESPACES)) as u32;
    let time = offset as i64 + 1 + random.below(90) as i64;
    let change = match random.below(20) {
        0..4 => Change::Put(random.bytes(1_500)),
        4 => Change::Delete,
        5 | 6 => Change::Count(namespace, random.below(100)),
        7 | 8 => Change::Append(namespace, (0..random.below(40)).map(|n| offset + n).collect()),
        9 => Change::MergeLists(namespace),
        10 => Change::ClearList(namespace),
        11..14 => Change::PutEntry(random.below(12) as u32, random.bytes(300)),
        14 => match random.below(4) {
            0 => Change::ClearMap,
            _ => Change::RemoveEntry(random.below(12) as u32),
        },
        15 => Change::Measure(random.below(1_000)),
        16 => Change::Wait(time),
        17 => match random.below(2) {
            0 => Change::WaitNoMore(time),
            _ => Change::Remind(time),
        },
        18 => Change::Note(offset),
        _ => Change::Tell(random.below(7) as u32, offset),
    };
    let watermark = (offset % 20 == 19).then_some(offset as i64);
    Record { key, change, watermark }
}

/// Numbers that look like chance (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below another one.
    pub fn below(&mut self, end: u64) -> u64 {
        self.any() % end
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.any() as u8).collect()
    }
}
