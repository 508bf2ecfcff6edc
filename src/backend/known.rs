//! States that a restored shard has and the job does not know.
//!
//! They are never lost: what nobody registers is carried on from snapshot to snapshot as
//! it is. So a restore does not refuse them by itself, and cannot: states are registered
//! after the shard is open, one by one, and perhaps only when the first record comes that
//! needs them. A job that wants to hear of them, because a misspelt name or a forgotten
//! operator would begin with nothing beside the state that it should have had, says which
//! it knows before ([`ShardBuilder::known_states`](super::ShardBuilder::known_states)), or
//! asks when it has registered all
//! ([`Shard::check_no_unknown_states`](super::Shard::check_no_unknown_states)).

use std::collections::BTreeSet;
use std::fmt;

use super::{Shard, ShardBuilder};
use crate::base::{Error, Result};
use crate::shard::operator::store::OperatorStore;
use crate::shard::store::KeyedStore;

/// What a restore is to find.
#[derive(Debug, Default)]
pub(super) struct KnownStates {
    names: Option<BTreeSet<String>>,
    others_allowed: bool,
}

impl KnownStates {
    /// # Errors
    /// `Incompatible`, naming them, if there are others that are not allowed.
    pub(super) fn check<'a>(
        &self,
        found: impl Iterator<Item = &'a str>,
        at: impl fmt::Display,
    ) -> Result<()> {
        let Some(names) = self.names.as_ref().filter(|_| !self.others_allowed) else {
            return Ok(());
        };
        let unknown: Vec<_> = found.filter(|name| !names.contains(*name)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        Err(refusal(&unknown).at(at).expected(format_args!("none but {names:?}")).remedy(
            "declare them if the job should have them; if they are to be carried on unread, \
             say ShardBuilder::allow_unknown_states(true)",
        ))
    }
}

fn refusal(unknown: &[&str]) -> Error {
    Error::incompatible("the snapshots hold states that the job does not know")
        .found(format_args!("{unknown:?}"))
}

impl ShardBuilder {
    /// Says which states the job knows, by their names: values, lists, maps, timers, and
    /// operator states. Called again it adds to them. A restore that finds others is then
    /// refused before anything else is done, unless they are
    /// [allowed](Self::allow_unknown_states). States that are known and not there are
    /// none of its business: they begin empty.
    ///
    /// Without this call every state that is there is taken over, and carried on as it is
    /// until somebody registers it.
    pub fn known_states<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        let known = self.known_states.names.get_or_insert_default();
        known.extend(names.into_iter().map(Into::into));
        self
    }

    /// Whether states are taken over that the job does not [know](Self::known_states).
    /// They are not read, stay in every snapshot from now on, and cost what they cost the
    /// store; [`KeyedStore::drop_state`] ends one. Not allowed by default, which says
    /// something only where `known_states` was called.
    pub fn allow_unknown_states(mut self, allowed: bool) -> Self {
        self.known_states.others_allowed = allowed;
        self
    }
}

impl Shard {
    /// The names of states that were restored and that nobody has registered or opened
    /// yet, ascending; those of operator states come last. They are carried on as they
    /// are.
    pub fn unknown_states(&self) -> Vec<String> {
        let keyed = self.states().into_iter().filter(|state| !state.is_registered);
        let mut operator: Vec<_> =
            self.operator_states().into_iter().filter(|state| !state.is_open).collect();
        operator.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        keyed.map(|state| state.meta.name).chain(operator.into_iter().map(|of| of.name)).collect()
    }

    /// To be called when all states of the job were registered, and before the first
    /// record: fails if there are [others](Self::unknown_states). Nothing has been changed
    /// by then; drop the shard.
    ///
    /// # Errors
    /// `Incompatible`, naming them.
    pub fn check_no_unknown_states(&self) -> Result<()> {
        let unknown = self.unknown_states();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<_> = unknown.iter().map(String::as_str).collect();
        Err(refusal(&unknown)
            .at(format_args!("shard {} of operator {:?}", self.groups(), self.operator()))
            .expected("none but those that were registered")
            .remedy(
                "register them, or drop them with drop_state; if they are to be carried on \
                 unread, do without this check",
            ))
    }
}
