//! Why the tool ends without having done what it was asked, and the exit code that says so.

use std::fmt;
use std::io;

use alluvium::{Error, ErrorKind};

/// Wrong usage, or something is asked for that is not there.
pub(crate) const WRONG_USE: u8 = 1;
/// Something is damaged.
pub(crate) const DAMAGED: u8 = 2;
/// The store cannot be reached, or there was no answer in time.
pub(crate) const UNAVAILABLE: u8 = 3;
/// The data is sound, and does not fit this version or what is asked.
pub(crate) const INCOMPATIBLE: u8 = 4;
/// There is no such key.
pub(crate) const NO_SUCH_KEY: u8 = 5;
/// A mistake in the engine or the tool.
pub(crate) const INTERNAL: u8 = 6;

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the engine.
    Engine(Error),
    /// The output could not be written.
    Output(io::Error),
    /// Nobody reads the output any more.
    Hung,
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Engine(error) => code_of(error),
            Self::Output(_) => UNAVAILABLE,
            Self::Hung => 0,
        }
    }
}

/// The exit code for an error of the engine.
pub(crate) fn code_of(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Invalid => WRONG_USE,
        ErrorKind::Corrupt => DAMAGED,
        ErrorKind::Unavailable | ErrorKind::Closed => UNAVAILABLE,
        ErrorKind::Incompatible => INCOMPATIBLE,
        _ => INTERNAL,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Hung,
            _ => Self::Output(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => write!(f, "{error}"),
            Self::Output(error) => write!(f, "the output could not be written: {error}"),
            Self::Hung => f.write_str("nobody reads the output"),
        }
    }
}
