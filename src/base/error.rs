//! One error type for the whole crate.
//!
//! Outside, a few [`ErrorKind`]s that each name the caller's next step. Inside,
//! every fact: what went wrong, where, what was expected, what was found, and
//! what to do about it.

use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::io;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The world did not cooperate (I/O error, full disk, cancelled): try
    /// again later. Nothing was changed unless
    /// [`Error::may_have_happened`] says so.
    Unavailable,
    /// The call was wrong: fix it. Nothing was changed.
    Invalid,
    /// The data is sound but does not fit these settings or this version:
    /// change the settings, or restore from elsewhere.
    Incompatible,
    /// Bytes are damaged, truncated or foreign: restore from another copy.
    Corrupt,
    /// The handle was closed, or refuses further work after an earlier
    /// failure: open a new one.
    Closed,
    /// A broken promise of ours: please report it.
    Internal,
}

/// What went wrong, where, what was expected and found, and what to do.
pub struct Error(Box<Detail>);

struct Detail {
    kind: ErrorKind,
    what: String,
    at: Option<String>,
    expected: Option<String>,
    found: Option<String>,
    remedy: Option<String>,
    may_have_happened: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A new error; the other facts are added with the builder methods.
    pub fn new(kind: ErrorKind, what: impl Display) -> Self {
        Self(Box::new(Detail {
            kind,
            what: what.to_string(),
            at: None,
            expected: None,
            found: None,
            remedy: None,
            may_have_happened: false,
            source: None,
        }))
    }

    /// An [`ErrorKind::Unavailable`] error.
    pub fn unavailable(what: impl Display) -> Self {
        Self::new(ErrorKind::Unavailable, what)
    }

    /// An [`ErrorKind::Invalid`] error.
    pub fn invalid(what: impl Display) -> Self {
        Self::new(ErrorKind::Invalid, what)
    }

    /// An [`ErrorKind::Incompatible`] error.
    pub fn incompatible(what: impl Display) -> Self {
        Self::new(ErrorKind::Incompatible, what)
    }

    /// An [`ErrorKind::Corrupt`] error.
    pub fn corrupt(what: impl Display) -> Self {
        Self::new(ErrorKind::Corrupt, what)
    }

    /// An [`ErrorKind::Closed`] error.
    pub fn closed(what: impl Display) -> Self {
        Self::new(ErrorKind::Closed, what)
    }

    /// An [`ErrorKind::Internal`] error.
    pub fn internal(what: impl Display) -> Self {
        Self::new(ErrorKind::Internal, what)
    }

    /// An I/O error met while doing `what`: `Unavailable`, with the system's
    /// own words as its source.
    pub fn io(what: impl Display, source: io::Error) -> Self {
        Self::unavailable(what).source(source)
    }

    /// Says where: a file, an offset, a state, a line.
    #[must_use]
    pub fn at(mut self, at: impl Display) -> Self {
        self.0.at = Some(match self.0.at.take() {
            None => at.to_string(),
            Some(inner) => format!("{at}, {inner}"),
        });
        self
    }

    /// Says what was expected.
    #[must_use]
    pub fn expected(mut self, expected: impl Display) -> Self {
        self.0.expected = Some(expected.to_string());
        self
    }

    /// Says what was found.
    #[must_use]
    pub fn found(mut self, found: impl Display) -> Self {
        self.0.found = Some(found.to_string());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Display) -> Self {
        self.0.remedy = Some(remedy.to_string());
        self
    }

    /// Attaches the error that caused this one.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Marks the outcome as unknown: the operation failed, but its effect may
    /// have happened all the same.
    #[must_use]
    pub fn ambiguous(mut self) -> Self {
        self.0.may_have_happened = true;
        self
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without any change.
    pub fn is_retryable(&self) -> bool {
        self.0.kind == ErrorKind::Unavailable
    }

    /// Whether the effect of the failed operation may nevertheless have
    /// happened (a lost reply, a failed fsync). Read back before deciding;
    /// never delete on the strength of such an error.
    pub fn may_have_happened(&self) -> bool {
        self.0.may_have_happened
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = &self.0;
        f.write_str(&detail.what)?;
        if let Some(at) = &detail.at {
            write!(f, " ({at})")?;
        }
        match (&detail.expected, &detail.found) {
            (Some(expected), Some(found)) => write!(f, ": expected {expected}, found {found}")?,
            (Some(expected), None) => write!(f, ": expected {expected}")?,
            (None, Some(found)) => write!(f, ": found {found}")?,
            (None, None) => {}
        }
        if let Some(source) = &detail.source {
            write!(f, ": {source}")?;
        }
        if let Some(remedy) = &detail.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
