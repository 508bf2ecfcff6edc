//! What a typed state is asked for with, besides its types.

use crate::shard::store::StateSpec;
use crate::shard::ttl::Ttl;

/// The name of a state, and what is to be said of it besides its types.
///
/// A name alone becomes this by itself, so that
/// `ValueState::register(&mut shard, "counts")` says the same as with
/// `StateOptions::new("counts")`.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct StateOptions {
    name: String,
    ttl: Option<Ttl>,
}

impl StateOptions {
    /// A state of this name whose values live for ever.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ttl: None }
    }

    /// Says how long its values (elements of its lists, entries of its maps) live.
    pub const fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The state at the level of bytes.
    pub(super) fn spec(&self, of_kind: impl FnOnce(&str) -> StateSpec) -> StateSpec {
        let spec = of_kind(&self.name);
        match self.ttl {
            Some(ttl) => spec.ttl(ttl),
            None => spec,
        }
    }
}

impl From<&str> for StateOptions {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<&String> for StateOptions {
    fn from(name: &String) -> Self {
        Self::new(name)
    }
}

impl From<String> for StateOptions {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}
