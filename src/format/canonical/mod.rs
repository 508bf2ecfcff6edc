//! A canonical savepoint: all state of a job in one stream of bytes that knows
//! nothing of tables, key groups or memory.
//!
//! It is written and read front to back, once; it may be larger than any memory.
//! The same state always has the same bytes, on however many shards it was: there
//! is no time, no identity and no place in it.
//!
//! ```text
//! savepoint:  | head | block or piece ... | end |
//! head:       an envelope (see envelope.rs), magic "ALVCANON", version 1, around
//!             | job | user meta | operator count | operator ... |
//! operator:   | name | max_parallelism u16 | watermark | state count | state ... |
//!             | operator state count | operator state ... |
//! watermark:  | 0 u8 |, or | 1 u8 | milliseconds i64 |
//! state:      | state of a manifest (see manifest.rs) | entry count | bytes |
//! operator state:
//!             | name | mode u8 | key schema, of a broadcast state only |
//!             | part count | part ... | bytes |
//! part:       | value schema | entry count |
//! ```
//!
//! Names, keys, values and the user meta are a varint length and bytes; counts are
//! varints unless drawn otherwise; integers are little-endian. Job and operators are
//! named in UTF-8. Operators ascend by name, so do the states of each, of both
//! sorts.
//!
//! The *sections* are what the entries belong to: for each operator in order its
//! states, then its operator states, counted from 0. `bytes` is the sum of the
//! lengths of keys, namespaces, names (8 for a time) and values of the entries of a
//! section.
//!
//! ```text
//! block:  a frame (see frame.rs) of kind 7 around
//!         | section u32 | entry count u32 | entry ... |
//!         0             4                 8
//! piece:  a frame of kind 8 around bytes of the one value that goes on
//! end:    a frame of kind 9 around
//!         | frames u64 | entries u64 | bytes u64 | hash u128 |
//!         0            8             16          24         40
//! ```
//!
//! - The checksum of a frame is the xxh3-64 of what is behind it, with the seed
//!   `(low + rotate_left(high, 32)) * 0x9e37_79b9_7f4a_7c15 ^ rotate_left(offset, 8) ^ kind`,
//!   modulo 2^64, as in a table: `low` and `high` are the halves of the hash that ends
//!   the head, and stand where a table has its identity; `offset` is that of the frame
//!   from the beginning of the stream.
//! - A frame holds at most [`MAX_FRAME_BYTES`]. Blocks and pieces may be compressed.
//! - `frames` counts blocks and pieces; `entries` and `bytes` are those of all
//!   sections; `hash` is the 128-bit xxh3 of the head, envelope included, and of the
//!   payloads of all blocks and pieces before compression. It is the same whether
//!   the savepoint is compressed or not. Nothing follows the end.
//!
//! ```text
//! entry of a state:           | flags u8 | place | schema | name | stamp | value |
//! entry of an operator state: | flags u8 | name | value |
//! place:  | key | namespace | group u16, if flag 2 |       unless flag 1
//! schema: a varint                                         if flag 4, else 0 is meant
//! name:   | user key |     of a map entry, | key | of an entry of a broadcast state
//!         | time i64 |     of a timer
//! stamp:  | time i64 |     if the state has a time to live
//! value:  | length | bytes |, or | length | if flag 8; of a timer nothing
//! ```
//!
//! - Flag 1, *same place*: key, namespace and group are those of the entry before, in
//!   the same block.
//! - Flag 2: the key is in this key group because the runtime chose it. Without, the
//!   group follows from the key: the low 32 bits of its xxh3-64, times
//!   `max_parallelism`, shifted right by 32. A chosen group is never the one that
//!   follows.
//! - Flag 4: which of the value schemas of the state the value is written under:
//!   0 is the value schema, 1 the first of the older ones, and so on.
//! - Flag 8: the value is long. It is the last one of its block, and its bytes are in
//!   the pieces that follow, [`PIECE_BYTES`] in each but the last one.
//! - An entry is the value of a key and a namespace, an element of a list, an entry
//!   of a map, a timer, an item of a list beside the keys, or an entry of a broadcast
//!   state.
//! - `stamp` is when the value was last written, or read where that counts, in
//!   milliseconds of the time that the state lives by; [`UNKNOWN_TIME`] if that is
//!   not known.
//!
//! # Order
//! Sections ascend. In one of keyed state the entries ascend by (key, namespace,
//! group, name): bytes as they compare, the group that follows from the key before
//! any chosen one, times as numbers. A place has one entry, but for the elements of a
//! list, which stand in the order of the list, and the entries of a map and the timers
//! of a key, whose names ascend. Items of an operator list stand in their order, those
//! of its first part first; entries of a broadcast state ascend by key.
//!
//! # What is not in it
//! Deletions, key groups that follow from keys, chunks and pages, which shard had
//! what, what the runtime attached to single snapshots, times and numbers of
//! snapshots. Which time timers wait for is said by the codec name of their value
//! schema: `timers.event_time` or `timers.processing_time`.

mod entries;
mod head;

pub use entries::{Block, End, Entry, Name, UNKNOWN_TIME};
pub(crate) use entries::{EntryWriter, PerPlace, Shape, instant_of_stamp, stamp_of_instant};
pub use head::{Head, ItemsHead, OperatorHead, Section, StateHead};

use super::envelope::Envelope;
use crate::base::FileId;
use crate::base::checksum::ContentHash;

/// Bytes of entries after which a block ends: 64 KiB.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// Bytes of a value above which it is long, and of all of its pieces but the last:
/// 1 MiB.
pub const PIECE_BYTES: usize = 1024 * 1024;
/// Most bytes of a block, a piece or the end, before and after compression: 2 MiB.
pub const MAX_FRAME_BYTES: usize = 2 * 1024 * 1024;
/// Longest name of a job, in bytes. It may be empty.
pub const MAX_JOB_BYTES: usize = 1024;
/// Most operators of a job.
pub const MAX_OPERATORS: usize = u16::MAX as usize;

const WHAT: &str = "canonical savepoint";
const ENVELOPE: Envelope = Envelope { what: WHAT, magic: *b"ALVCANON", version: 1 };

/// For what file the frames of a savepoint with this head are checked.
pub(crate) fn identity(head: ContentHash) -> FileId {
    FileId { incarnation: head.0 as u64, number: (head.0 >> 64) as u64 }
}
