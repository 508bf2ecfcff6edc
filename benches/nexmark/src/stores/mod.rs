//! Stores to compare with: each keeps what Alluvium's typed states ask it to keep, and can
//! do nothing that no query asks for, such as re-keying.

pub mod map;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;

use alluvium::{Error, StateKind};

/// The error of what no query asks for.
#[cold]
fn not_here(what: &str) -> Error {
    Error::invalid(format_args!("a store that is compared with cannot do this: {what}"))
        .remedy("keep the state in Alluvium")
}

/// The error of a call that does not fit the kind of the state.
#[cold]
fn wrong_kind(expected: &str, found: StateKind) -> Error {
    Error::invalid("the call does not fit the state")
        .expected(expected)
        .found(format_args!("{found:?}"))
}

/// The error of a number that no state has.
#[cold]
fn unknown(what: &str, number: u32) -> Error {
    Error::invalid(format_args!("there is no such {what}")).found(number)
}

/// The error of a timer that would never fire.
#[cold]
fn too_late(timestamp: i64, watermark: i64) -> Error {
    Error::invalid("a timer lies at or before the watermark")
        .expected(format_args!("after {watermark}"))
        .found(timestamp)
}
