//! Which of the operator states of all old subtasks a new one has.
//!
//! 1. The old subtasks are the handles in the order of their key groups: together
//!    they hold all groups, each once, or something would be lost or doubled.
//! 2. The new one is number `index` of `parallelism`: as the runtime says, or as
//!    follows from its key groups if only one parallelism gives it those.
//! 3. A list goes to it by its share of all elements, in order; on as many
//!    subtasks as before, by its own. A union list goes to it whole, and is
//!    carried on by its share. A broadcast state goes to it from the old subtask
//!    of its number, counted round, or the next one that has it.
//!
//! Nothing is asked of snapshots without operator states, except that the shard
//! remembers when some were missing: it then opens no new one.

use std::collections::BTreeMap;

use super::Target;
use crate::base::{Error, KeyGroup, KeyGroupRange, MaxParallelism, Result};
use crate::format::operator_state::MAX_MANIFEST_ITEM_BYTES;
use crate::format::{Items, OperatorPart, OperatorState, OperatorStateMode};
use crate::shard::operator::{RestoredOperatorState, RestoredOperatorStates};

/// Which subtask of how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Subtask {
    pub(crate) index: u32,
    pub(crate) parallelism: u32,
}

impl Subtask {
    /// Refuses what cannot be true of a subtask that owns `groups`: each one owns
    /// some, and they own them in order.
    ///
    /// # Errors
    /// `Invalid`, saying what does not fit.
    pub(crate) fn check(self, groups: KeyGroupRange, max: MaxParallelism) -> Result<()> {
        // This also refuses what is out of range by itself.
        let by_formula = max.range_of_subtask(self.index, self.parallelism)?;
        let before = u32::from(groups.first().0);
        let after = max.get() - 1 - u32::from(groups.last().0);
        let later = self.parallelism - 1 - self.index;
        let fits = |subtasks: u32, left: u32| subtasks <= left && (subtasks == 0) == (left == 0);
        if fits(self.index, before) && fits(later, after) {
            return Ok(());
        }
        Err(Error::invalid("the key groups are not those of such a subtask")
            .at(format_args!("subtask {} of {}", self.index, self.parallelism))
            .expected(format_args!(
                "{by_formula}, or others with groups of {} subtasks before them and of {later} after",
                self.index
            ))
            .found(groups)
            .remedy("number the subtasks from 0, in the order of their key groups"))
    }
}

/// The operator states of a shard that is being restored, collected from one
/// manifest after the other.
///
/// Of what cannot be this subtask's nothing is kept: with a hundred subtasks and a
/// broadcast state on each, all of it would be a hundred copies.
pub(super) struct Distribution<'a> {
    target: Target<'a>,
    /// The key groups of the old subtasks, in order.
    old: Vec<KeyGroupRange>,
    /// Which subtask the target is; found out when it matters.
    subtask: Option<Subtask>,
    states: BTreeMap<String, Collected>,
}

/// What was found of one state.
enum Collected {
    List {
        mode: OperatorStateMode,
        /// By the number of the old subtask.
        parts: Vec<(u32, Vec<OperatorPart>)>,
        /// No element, under some schema of the state.
        nothing: OperatorPart,
    },
    Broadcast {
        state: OperatorState,
        /// How many old subtasks after the one that it should be from.
        distance: u32,
    },
}

impl<'a> Distribution<'a> {
    /// For a target whose old subtasks had these key groups, in order.
    pub(super) fn new(target: Target<'a>, old: Vec<KeyGroupRange>) -> Self {
        Self { target, old, subtask: None, states: BTreeMap::new() }
    }

    /// Takes in what the manifest of an old subtask has. They come in order.
    ///
    /// # Errors
    /// If there is anything: `Invalid` if the old subtasks do not hold every key
    /// group once, or it cannot be known which subtask the target is;
    /// `Incompatible` if old subtasks disagree about a state.
    pub(super) fn add(&mut self, number: u32, states: Vec<OperatorState>) -> Result<()> {
        if states.is_empty() {
            return Ok(());
        }
        let subtask = match self.subtask {
            Some(subtask) => subtask,
            None => *self.subtask.insert(self.find_out()?),
        };
        states.into_iter().try_for_each(|state| self.add_one(subtask, number, state))
    }

    fn find_out(&self) -> Result<Subtask> {
        check_whole(self.target.max_parallelism, &self.old).map_err(|found| {
            Error::invalid("operator states cannot be restored from some of the snapshots alone")
                .at(at(self.target))
                .expected(format_args!(
                    "handles that hold each of {} once",
                    self.target.max_parallelism.all_groups()
                ))
                .found(found)
                .remedy("give every shard the handles of all shards of the checkpoint, each once")
        })?;
        position(self.target)
    }

    fn add_one(&mut self, subtask: Subtask, number: u32, state: OperatorState) -> Result<()> {
        let old = self.old.len() as u32;
        let is_broadcast = state.mode == OperatorStateMode::Broadcast;
        let distance = (number + old - subtask.index % old) % old;
        let is_needed = state.mode == OperatorStateMode::UnionList
            || subtask.parallelism != old
            || number == subtask.index;
        match self.states.get_mut(&state.name) {
            None if is_broadcast => {
                let name = state.name.clone();
                self.states.insert(name, Collected::Broadcast { state, distance });
            }
            None => {
                let nothing = nothing_of(&state.parts);
                let parts = if is_needed { vec![(number, state.parts)] } else { Vec::new() };
                let list = Collected::List { mode: state.mode, parts, nothing };
                self.states.insert(state.name, list);
            }
            Some(Collected::Broadcast { state: best, distance: least }) if is_broadcast => {
                if distance < *least {
                    (*best, *least) = (state, distance);
                }
            }
            Some(Collected::List { mode, parts, .. }) if *mode == state.mode => {
                if is_needed {
                    parts.push((number, state.parts));
                }
            }
            Some(other) => return Err(disagree(other.mode(), &state)),
        }
        Ok(())
    }

    /// What the target has of everything.
    ///
    /// # Errors
    /// `Invalid` if that is more than a manifest can hold.
    pub(super) fn finish(self) -> Result<RestoredOperatorStates> {
        let Some(subtask) = self.subtask else {
            let missing = check_whole(self.target.max_parallelism, &self.old).err();
            return Ok(RestoredOperatorStates { states: Vec::new(), missing });
        };
        let old = self.old.len() as u32;
        let states: Vec<_> = self
            .states
            .into_iter()
            .map(|(name, of_all)| of_all.distribute(name, subtask, old))
            .collect();
        check_bytes(self.target, &states)?;
        Ok(RestoredOperatorStates { states, missing: None })
    }
}

impl Collected {
    fn mode(&self) -> OperatorStateMode {
        match self {
            Self::List { mode, .. } => *mode,
            Self::Broadcast { .. } => OperatorStateMode::Broadcast,
        }
    }

    fn distribute(self, name: String, subtask: Subtask, old: u32) -> RestoredOperatorState {
        let (mode, of_all, nothing) = match self {
            Self::Broadcast { state, .. } => {
                return RestoredOperatorState { carried: state.parts.clone(), state };
            }
            Self::List { mode, parts, nothing } => (mode, parts, nothing),
        };
        let all = of_all.iter().flat_map(|(_, parts)| parts);
        let mut carried = if subtask.parallelism == old {
            let own = of_all.iter().find(|(number, _)| *number == subtask.index);
            own.map(|(_, parts)| parts.clone()).unwrap_or_default()
        } else {
            share(subtask, all.clone())
        };
        let mut parts = match mode {
            OperatorStateMode::UnionList => slice(all, 0, u64::MAX),
            _ => carried.clone(),
        };
        for parts in [&mut carried, &mut parts] {
            if parts.is_empty() {
                parts.push(nothing.clone());
            }
        }
        let state = OperatorState { name, mode, key_schema: None, parts };
        RestoredOperatorState { state, carried }
    }
}

/// Whether the old subtasks, in order, hold every group once; if not, what is
/// wrong.
fn check_whole(max: MaxParallelism, old: &[KeyGroupRange]) -> Result<(), String> {
    let mut next = 0;
    for groups in old {
        let first = u32::from(groups.first().0);
        if first < next {
            return Err(format!("{} twice", groups.first()));
        }
        if first > next {
            break;
        }
        next = u32::from(groups.last().0) + 1;
    }
    if next == max.get() { Ok(()) } else { Err(format!("none with {}", KeyGroup(next as u16))) }
}

/// Which subtask the target is.
fn position(target: Target<'_>) -> Result<Subtask> {
    if let Some(subtask) = target.subtask {
        return Ok(subtask);
    }
    let found = match target.max_parallelism.parallelisms_of_range(target.groups) {
        Some((parallelism, most)) if parallelism == most => {
            let first = target.groups.first();
            let index = target.max_parallelism.subtask_of_group(first, parallelism);
            return Ok(Subtask { index, parallelism });
        }
        Some((least, most)) => {
            format!("key groups that a subtask has with a parallelism of {least} as well as {most}")
        }
        None => "key groups that no subtask has by the formula of range_of_subtask".to_owned(),
    };
    Err(Error::invalid("operator states cannot be restored: which subtask it is is not known")
        .at(at(target))
        .expected("to be told, or key groups that say it")
        .found(found)
        .remedy("say it with ShardBuilder::subtask"))
}

#[cold]
fn disagree(mode: OperatorStateMode, state: &OperatorState) -> Error {
    Error::incompatible(
        "the mode of an operator state differs: the snapshots of one checkpoint disagree",
    )
    .at(format_args!("operator state {:?}", state.name))
    .expected(format_args!("{mode}, as in one snapshot"))
    .found(format_args!("{}, as in another", state.mode))
    .remedy("give the handles of one and the same checkpoint")
}

/// A share of all elements: as many for each subtask, and one more for each of
/// the first as long as there are any left.
fn share<'a>(
    subtask: Subtask,
    parts: impl Iterator<Item = &'a OperatorPart> + Clone,
) -> Vec<OperatorPart> {
    let total: u64 = parts.clone().map(|part| part.items.len()).sum();
    let (index, parallelism) = (u64::from(subtask.index), u64::from(subtask.parallelism));
    let (each, left) = (total / parallelism, total % parallelism);
    let first = index * each + index.min(left);
    slice(parts, first, each + u64::from(index < left))
}

/// `count` of the elements, from number `first` on; no part if there are none.
fn slice<'a>(
    parts: impl Iterator<Item = &'a OperatorPart>,
    first: u64,
    count: u64,
) -> Vec<OperatorPart> {
    let mut out: Vec<OperatorPart> = Vec::new();
    let (mut skip, mut wanted) = (first, count);
    for OperatorPart { value_schema, items } in parts {
        let from = skip.min(items.len());
        let len = wanted.min(items.len() - from);
        skip -= from;
        wanted -= len;
        if len == 0 {
            continue;
        }
        let of_part = items.iter().skip(from as usize).take(len as usize);
        match out.last_mut() {
            Some(last) if last.value_schema == *value_schema => {
                of_part.for_each(|element| last.items.push(element));
            }
            _ => {
                // A part as it is can be shared.
                let items =
                    if len == items.len() { items.clone() } else { of_part.collect::<Items>() };
                out.push(OperatorPart { value_schema: value_schema.clone(), items });
            }
        }
    }
    out
}

/// No element, under the schema of the last part.
fn nothing_of(parts: &[OperatorPart]) -> OperatorPart {
    let value_schema = parts.last().expect("a state has a part").value_schema.clone();
    OperatorPart { value_schema, items: Items::default() }
}

/// A shard could take no snapshot of more.
fn check_bytes(target: Target<'_>, states: &[RestoredOperatorState]) -> Result<()> {
    let bytes_of = |state: &RestoredOperatorState| -> u64 {
        state.carried.iter().map(|part| part.items.bytes()).sum()
    };
    let bytes: u64 = states.iter().map(bytes_of).sum();
    if bytes <= MAX_MANIFEST_ITEM_BYTES {
        return Ok(());
    }
    let largest = states.iter().max_by_key(|state| bytes_of(state)).map(|state| &state.state.name);
    Err(Error::invalid("the operator states are too large for one shard")
        .at(at(target))
        .expected(format_args!("at most {MAX_MANIFEST_ITEM_BYTES} bytes"))
        .found(format_args!(
            "{bytes} bytes, most of them in state {:?}",
            largest.unwrap_or(&String::new())
        ))
        .remedy("restore the operator on more shards"))
}

fn at(target: Target<'_>) -> String {
    format!("shard {} of operator {:?}", target.groups, target.operator)
}
