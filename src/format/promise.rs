//! Promises that a layout keeps beyond its bytes: the same check refuses a value that
//! is to be written (`Invalid`) and one that was read (`Corrupt`).

use std::fmt::Display;

use crate::base::{Error, ErrorKind};

/// A promise that is not kept.
pub(super) struct Broken {
    what: &'static str,
    expected: String,
    found: String,
}

impl Broken {
    /// The error of this kind about a `file` ("manifest") that breaks it.
    pub(super) fn error(self, kind: ErrorKind, file: &str) -> Error {
        Error::new(kind, format_args!("{file} contradicts itself: {}", self.what))
            .expected(self.expected)
            .found(self.found)
    }

    /// What was promised and what is there, for an error with words of its own.
    pub(super) fn expected_and_found(self) -> (String, String) {
        (self.expected, self.found)
    }
}

pub(super) fn broken<T>(
    what: &'static str,
    expected: impl Display,
    found: impl Display,
) -> Result<T, Broken> {
    Err(Broken { what, expected: expected.to_string(), found: found.to_string() })
}

pub(super) fn check_len(
    what: &'static str,
    len: usize,
    least: usize,
    most: usize,
) -> Result<(), Broken> {
    if (least..=most).contains(&len) {
        Ok(())
    } else {
        broken(what, format_args!("{least} to {most}"), len)
    }
}
