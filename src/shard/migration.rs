//! How the values of one state are brought from the form in which earlier
//! versions wrote them to that of today: from one schema to another, and from
//! without a stamp to with one, or back.
//!
//! # Where a record's schema is known
//!
//! - *In a table*: its properties name one value schema for each state, and say
//!   whether there are stamps in front of its values, and of which time.
//! - *In memory*: every value is in the schema that the state was registered
//!   with in this life. What comes up from a table is migrated on its way, by a
//!   read on the task thread or by the warm-up in the background, so no operation
//!   on a record in memory ever asks.
//! - *In a manifest*: the schema of today, and every other that one of its tables
//!   may still name.
//!
//! What is a *value* here is an element in a state of lists, and the value of an
//! entry in one of maps. A list is stored in chunks of elements, each chunk in one
//! table and so in one schema; its elements are migrated one by one.
//!
//! A record that was only read stays in its table as it was: migrating changes
//! nothing. It is written anew when the job changes it, or when its table is
//! merged. So a snapshot may hold values of several versions, and the next life
//! compares the codec it is given with each of them.
//!
//! A state's time to live needs no comparison: a value that gets a stamp on its way
//! counts as written when the state was first registered with one
//! ([`ttl`](super::ttl)).
//!
//! A state that nobody has registered has no codec in this life. Its records stay
//! in their tables, which are carried on as they are; tables that hold them under
//! different schemas are not merged with each other.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::limits::check_value;
use crate::base::time::{UNKNOWN_STAMP, stamp_of_ms};
use crate::base::{Error, Result, TimeDomain};
use crate::codec::schema::{Fit, Reencode};
use crate::codec::{CodecSpec, Schema};
use crate::format::manifest::{StateKind, StateMeta};
use crate::format::properties::StateProperties;
use crate::memtable::collection::NEVER;
use crate::memtable::collection::elements::{Elements, ElementsBuf};
use crate::memtable::expiry::STAMP_BYTES;

use super::store::StateSpec;
use super::ttl::{self, StateTtl};

/// The ways from the stored schemas of a state to that of today.
pub(crate) struct Migration {
    state: String,
    kind: StateKind,
    current: Schema,
    /// Other schemas; none for those whose bytes are read as they are.
    older: Vec<(Schema, Option<Reencode>)>,
    ttl: Option<StateTtl>,
}

impl std::fmt::Debug for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Migration of state {:?} to {}", self.state, self.current)
    }
}

/// In which form a value is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Form {
    /// Fingerprint of its schema.
    pub(crate) schema: u64,
    /// Which time the stamp in front of it is of, if there is one.
    pub(crate) stamps: Option<TimeDomain>,
}

impl Migration {
    /// The form of today.
    pub(crate) fn current(&self) -> Form {
        let stamps = self.ttl.as_ref().map(|ttl| ttl.time);
        Form { schema: self.current.fingerprint(), stamps }
    }

    /// The same for a state with this time to live.
    pub(super) fn living(self, ttl: Option<StateTtl>) -> Self {
        Self { ttl, ..self }
    }

    /// How long values live, if not for ever.
    pub(super) fn ttl(&self) -> Option<&StateTtl> {
        self.ttl.as_ref()
    }

    /// Whether it is a state of lists.
    pub(crate) fn is_of_lists(&self) -> bool {
        self.kind == StateKind::List
    }

    /// What has a stamp up to this has expired: by now, or, if values live by event
    /// time, at this watermark.
    pub(crate) fn cutoff(&self, watermark: Option<i64>) -> u64 {
        self.ttl.as_ref().map_or(0, |ttl| match ttl.time {
            TimeDomain::Processing => ttl.rule.cutoff(),
            TimeDomain::Event => ttl.rule.cutoff_at(watermark.map_or(UNKNOWN_STAMP, stamp_of_ms)),
        })
    }

    /// The value of a record of this form, in that of today: in a state of lists a
    /// chunk of elements, in one of maps the value of an entry.
    ///
    /// # Errors
    /// Those of the codecs and steps, naming the state; `Invalid` if one panics
    /// or makes a value that is too long; `Corrupt` if a chunk of elements is
    /// none, or a value has no stamp.
    pub(crate) fn apply<'a>(
        &self,
        form: Form,
        value: &'a [u8],
        out: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let (stored, reencode) = self.way_from(form.schema)?;
        if reencode.is_none() && form.stamps == self.current().stamps {
            if self.kind != StateKind::List {
                split_form(form, value).map_err(|error| self.failed(stored, error))?;
            }
            return Ok(value);
        }
        let done = match self.kind {
            StateKind::List => self.change_elements(form, reencode, value, out),
            _ => self.change_value(form, reencode, value, out),
        };
        done.map_err(|error| self.failed(stored, error))?;
        Ok(out)
    }

    /// How values of a stored schema become those of today; `None` if they are
    /// read as they are.
    fn way_from(&self, schema: u64) -> Result<(&Schema, Option<&Reencode>)> {
        if schema == self.current.fingerprint() {
            return Ok((&self.current, None));
        }
        match self.older.iter().find(|(known, _)| known.fingerprint() == schema) {
            Some((stored, reencode)) => Ok((stored, reencode.as_ref())),
            None => Err(Error::internal("a table was not asked for its schema when it was opened")
                .at(format_args!("state {:?}, schema #{schema:016x}", self.state))),
        }
    }

    /// The stamp that something gets, if it is to have one.
    fn stamp(&self, from: Form, stored: Option<u64>) -> Option<u64> {
        let ttl = self.ttl.as_ref()?;
        match stored {
            Some(stamp) if from.stamps == Some(ttl.time) => Some(stamp.max(UNKNOWN_STAMP)),
            _ => Some(ttl.unstamped),
        }
    }

    fn change_value(
        &self,
        form: Form,
        reencode: Option<&Reencode>,
        value: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let (stored, bytes) = split_form(form, value)?;
        out.clear();
        match reencode {
            Some(reencode) => reencode(bytes, out)?,
            None => out.extend_from_slice(bytes),
        }
        if let Some(stamp) = self.stamp(form, stored) {
            out.splice(0..0, stamp.to_le_bytes());
        }
        check_value(out)
    }

    /// Changes the elements of a list one by one.
    fn change_elements(
        &self,
        form: Form,
        reencode: Option<&Reencode>,
        value: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let stored = Elements::parse(value, form.stamps.is_some())?;
        let mut elements = ElementsBuf::new(self.ttl.is_some());
        for (number, element) in stored.iter().enumerate() {
            out.clear();
            let bytes = match reencode {
                Some(reencode) => reencode(element.value, out).map(|()| &**out),
                None => Ok(element.value),
            };
            let stamp = self.stamp(form, form.stamps.map(|_| element.stamp)).unwrap_or(NEVER);
            bytes
                .and_then(|bytes| check_value(bytes).and_then(|()| elements.push(bytes, stamp)))
                .map_err(|error| error.at(format_args!("element {number}")))?;
        }
        out.clear();
        out.extend_from_slice(elements.elements().bytes());
        Ok(())
    }

    /// Whether anything of a stored value is to be seen: nothing if all has
    /// expired.
    ///
    /// # Errors
    /// As of [`apply`](Self::apply).
    pub(crate) fn shows(&self, form: Form, value: &[u8], hidden: u64) -> Result<bool> {
        if self.ttl.is_none() {
            return Ok(true);
        }
        let shown = |stored| self.stamp(form, stored).is_none_or(|stamp| stamp > hidden);
        if self.kind == StateKind::List {
            let elements = Elements::parse(value, form.stamps.is_some())?;
            return Ok(elements.iter().any(|element| shown(form.stamps.map(|_| element.stamp))));
        }
        Ok(shown(split_form(form, value)?.0))
    }

    /// What is left of a value of today's form when what has expired goes, in
    /// `out` if that is less; `None` if nothing is.
    ///
    /// # Errors
    /// `Corrupt` if a chunk of elements is none, or a value has no stamp.
    pub(crate) fn without_expired<'a>(
        &self,
        value: &'a [u8],
        cutoff: u64,
        out: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>> {
        if cutoff == 0 {
            return Ok(Some(value));
        }
        if self.kind != StateKind::List {
            let (stamp, _) = split_form(self.current(), value)?;
            return Ok(stamp.is_none_or(|stamp| stamp > cutoff).then_some(value));
        }
        let all = Elements::parse(value, self.ttl.is_some())?;
        let live = || all.iter().filter(|element| !element.is_expired(cutoff));
        match live().count() {
            0 => return Ok(None),
            count if count == all.count() => return Ok(Some(value)),
            _ => {}
        }
        let mut left = ElementsBuf::new(true);
        live().try_for_each(|element| left.push(element.value, element.stamp))?;
        out.clear();
        out.extend_from_slice(left.elements().bytes());
        Ok(Some(out))
    }

    /// Whether all values that a table holds of the state have expired at `cutoff`, as
    /// far as the table says: a merge would leave none of them.
    fn has_expired(&self, stored: &StateProperties, cutoff: u64) -> bool {
        let Some(ttl) = &self.ttl else { return false };
        let newest = match stored.stamps {
            Some(time) if time == ttl.time => stored.newest_stamp,
            _ => Some(ttl.unstamped),
        };
        newest.is_some_and(|newest| newest <= cutoff)
    }

    #[cold]
    fn failed(&self, stored: &Schema, error: Error) -> Error {
        let current = &self.current;
        error
            .at(format_args!("state {:?}, a value of {stored} on its way to {current}", self.state))
    }
}

/// Splits a stored value into its stamp, if it has one, and the rest.
///
/// # Errors
/// `Corrupt` if it should have one and is too short.
pub(crate) fn split_form(form: Form, value: &[u8]) -> Result<(Option<u64>, &[u8])> {
    if form.stamps.is_none() {
        return Ok((None, value));
    }
    match value.split_first_chunk() {
        Some((stamp, value)) => Ok((Some(u64::from_le_bytes(*stamp)), value)),
        None => Err(Error::corrupt("a value has no stamp")
            .expected(format_args!("at least {STAMP_BYTES} bytes"))
            .found(format_args!("{} bytes", value.len()))),
    }
}

/// The newest stamp of some values, as they go into a table.
#[derive(Debug, Default)]
pub(super) struct NewestStamp {
    newest: Option<u64>,
    /// Something had a stamp that nobody can tell.
    is_unknown: bool,
}

impl NewestStamp {
    /// Takes in a value with a stamp, or, of a state of `lists`, a chunk of elements
    /// with stamps.
    pub(super) fn note(&mut self, lists: bool, value: &[u8]) {
        let newest = if lists {
            let elements = Elements::parse(value, true).ok();
            elements.and_then(|elements| elements.iter().map(|element| element.stamp).max())
        } else {
            value.first_chunk().map(|stamp| u64::from_le_bytes(*stamp))
        };
        self.note_table(newest);
    }

    /// Takes in a value of a table of which this is the newest stamp.
    pub(super) fn note_table(&mut self, newest: Option<u64>) {
        self.is_unknown |= newest.is_none();
        self.newest = self.newest.max(newest);
    }

    /// The newest of all, if it is known and there was any.
    pub(super) fn get(&self) -> Option<u64> {
        self.newest.filter(|_| !self.is_unknown)
    }
}

/// The migrations of a shard's registered states, for the background.
#[derive(Default)]
pub(crate) struct Migrations(Mutex<BTreeMap<String, Arc<Migration>>>);

/// Those of the states that were registered at a barrier, by their names.
pub(crate) type MigrationsThen = Arc<BTreeMap<String, Arc<Migration>>>;

/// What a merge may do to values.
///
/// A snapshot that is under way may name the merged table, and must find in it
/// what it had at its barrier, in a form that it knows. So a merge goes by the
/// newest snapshot that was done when it was planned, which every other one comes
/// after: by its watermark, and by what was registered then.
#[derive(Clone, Default, Debug)]
pub(crate) struct MigrationsNow {
    then: MigrationsThen,
    watermark: Option<i64>,
}

impl MigrationsNow {
    /// That of a state, if its values may be changed.
    pub(crate) fn get(&self, state: &str) -> Option<&Migration> {
        self.then.get(state).map(|migration| &**migration)
    }

    /// Whether all values that a table holds of a state have expired, as a merge would
    /// find.
    pub(crate) fn have_expired(&self, stored: &StateProperties) -> bool {
        self.get(&stored.name).is_some_and(|migration| {
            let cutoff = migration.cutoff(self.watermark);
            cutoff > 0 && migration.has_expired(stored, cutoff)
        })
    }

    /// The event time of the snapshot.
    pub(crate) fn watermark(&self) -> Option<i64> {
        self.watermark
    }
}

impl Migrations {
    /// Tells of a state that was registered.
    pub(crate) fn add(&self, migration: &Arc<Migration>) {
        self.0.lock().insert(migration.state.clone(), Arc::clone(migration));
    }

    /// From now on merges leave the state's records as they are.
    pub(crate) fn give_up(&self, state: &str) {
        self.0.lock().remove(state);
    }

    /// What a merge may do after a snapshot with these migrations and this
    /// watermark: those that have been given up since are left out.
    pub(crate) fn since(&self, then: &MigrationsThen, watermark: Option<i64>) -> MigrationsNow {
        let mut then = Arc::clone(then);
        let now = self.0.lock();
        let stands = |(state, migration): (&String, &Arc<Migration>)| {
            now.get(state).is_some_and(|now| Arc::ptr_eq(now, migration))
        };
        if !then.iter().all(stands) {
            Arc::make_mut(&mut then).retain(|state, migration| stands((state, migration)));
        }
        MigrationsNow { then, watermark }
    }
}

impl std::fmt::Debug for Migrations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.lock().keys()).finish()
    }
}

/// Compares a state that was restored with what it is asked for as. Changes
/// nothing.
///
/// # Errors
/// `Incompatible`, naming the state, both schemas and the difference; `Invalid`
/// if a codec panics.
pub(super) fn compare(have: &StateMeta, want: &StateSpec) -> Result<Migration> {
    check_kind(have, want)?;
    let map_keys = have.map_key_schema.as_ref().zip(want.map_keys.as_ref());
    for (what, stored, codec) in [
        ("key codec", &have.key_schema, &want.keys),
        ("namespace codec", &have.namespace_schema, &want.namespaces),
    ]
    .into_iter()
    .chain(map_keys.map(|(stored, codec)| ("map key codec", stored, codec)))
    {
        let reason = match codec.fit(stored).map_err(|error| at_state(error, &want.name))? {
            Fit::Same => continue,
            Fit::Migrate(_) => {
                "the bytes of a key say where it is, so they are not migrated".to_owned()
            }
            Fit::Incompatible(reason) => reason,
        };
        return Err(differ(what, &want.name, stored, codec.schema(), &reason)
            .remedy("register the state with the codec that wrote it, or re-key it"));
    }
    let mut older = Vec::new();
    for stored in have.value_schemas() {
        let codec = &want.values;
        if stored == codec.schema() {
            continue;
        }
        match codec.fit(stored).map_err(|error| at_state(error, &want.name))? {
            Fit::Same => older.push((stored.clone(), None)),
            Fit::Migrate(reencode) => older.push((stored.clone(), Some(reencode))),
            Fit::Incompatible(reason) => {
                return Err(differ("value codec", &want.name, stored, codec.schema(), &reason)
                    .remedy("register the state with a codec that reads all that is stored, such as codec::Evolving with every version since"));
            }
        }
    }
    Ok(Migration {
        state: want.name.clone(),
        kind: want.kind,
        current: want.values.schema().clone(),
        older,
        ttl: None,
    })
}

/// Whether keys, namespaces and map keys of a stored state are those of `want`.
///
/// # Errors
/// `Invalid` if a codec panics.
pub(super) fn has_keys_of(have: &StateMeta, want: &StateSpec) -> Result<bool> {
    let same = |codec: &CodecSpec, stored| Ok::<_, Error>(matches!(codec.fit(stored)?, Fit::Same));
    Ok(same(&want.keys, &have.key_schema)?
        && same(&want.namespaces, &have.namespace_schema)?
        && match (&want.map_keys, &have.map_key_schema) {
            (Some(codec), Some(stored)) => same(codec, stored)?,
            _ => true,
        })
}

/// Whether a state that was registered in this life is asked for as the same.
///
/// # Errors
/// `Incompatible`, as [`compare`].
pub(super) fn check_again(have: &StateMeta, want: &StateSpec) -> Result<()> {
    check_kind(have, want)?;
    let map_keys = have.map_key_schema.as_ref().zip(want.map_keys.as_ref());
    for (what, have, codec) in [
        ("key codec", &have.key_schema, &want.keys),
        ("namespace codec", &have.namespace_schema, &want.namespaces),
        ("value codec", &have.value_schema, &want.values),
    ]
    .into_iter()
    .chain(map_keys.map(|(have, codec)| ("map key codec", have, codec)))
    {
        if have != codec.schema() {
            let reason = "the state is in use with another codec in this process";
            return Err(differ(what, &want.name, have, codec.schema(), reason)
                .remedy("register a state with one and the same codec, or use another name"));
        }
    }
    Ok(())
}

/// Whether two snapshots of one checkpoint hold the same state; `have` then
/// stands for both. Their values may be of different versions, since a shard may
/// have taken its snapshot before it registered the state.
///
/// # Errors
/// `Incompatible`, naming the state and what differs.
pub(crate) fn join(have: &mut StateMeta, other: StateMeta) -> Result<()> {
    let disagree = |what, one: &dyn Display, another: &dyn Display| {
        differ(what, &have.name, one, another, "the snapshots of one checkpoint disagree")
            .remedy("restore each of them by itself, and let one write the state anew")
    };
    if have.kind != other.kind || have.map_key_schema.is_some() != other.map_key_schema.is_some() {
        let (one, another) = (format!("{:?}", have.kind), format!("{:?}", other.kind));
        return Err(disagree("kind", &one, &another));
    }
    let map_keys = have.map_key_schema.as_ref().zip(other.map_key_schema.as_ref());
    for (what, one, another) in [
        ("key codec", &have.key_schema, &other.key_schema),
        ("namespace codec", &have.namespace_schema, &other.namespace_schema),
    ]
    .into_iter()
    .chain(map_keys.map(|(one, another)| ("map key codec", one, another)))
    {
        if one != another {
            return Err(disagree(what, one, another));
        }
    }
    // Today's is the one that has seen the other. It matters for nothing but
    // what people are told: each of them will be compared.
    let mut schemas: Vec<Schema> = have.value_schemas().cloned().collect();
    if other.older_value_schemas.contains(&have.value_schema) {
        have.value_schema = other.value_schema.clone();
    }
    schemas.extend(other.value_schemas().cloned());
    schemas.retain(|schema| *schema != have.value_schema);
    have.older_value_schemas = sorted(schemas);
    have.ttl = ttl::join(have.ttl, other.ttl);
    Ok(())
}

/// In the order of manifests.
pub(crate) fn sorted(mut schemas: Vec<Schema>) -> Vec<Schema> {
    schemas.sort_unstable_by_key(Schema::fingerprint);
    schemas.dedup_by_key(|schema| schema.fingerprint());
    schemas
}

fn check_kind(have: &StateMeta, want: &StateSpec) -> Result<()> {
    let text = |kind, map_keys| {
        let map_keys = if map_keys { " with map keys" } else { "" };
        format!("{kind:?}{map_keys}")
    };
    let stored = text(have.kind, have.map_key_schema.is_some());
    let asked = text(want.kind, want.map_keys.is_some());
    if stored == asked {
        return Ok(());
    }
    let reason = "records of one kind are not read as another";
    Err(differ("kind", &want.name, &stored, &asked, reason)
        .remedy("register the state as it was written, or use another name"))
}

pub(super) fn differ(
    what: &str,
    state: &str,
    stored: impl Display,
    asked: impl Display,
    reason: &str,
) -> Error {
    Error::incompatible(format_args!("the {what} of a state does not fit what is stored: {reason}"))
        .at(format_args!("state {state:?}"))
        .expected(stored)
        .found(asked)
}

fn at_state(error: Error, state: &str) -> Error {
    error.at(format_args!("state {state:?}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::base::ErrorKind;
    use crate::format::manifest::TtlMeta;
    use crate::memtable::lifetime::{TtlClock, TtlRule};

    /// Of a state of values of bytes that live by event time.
    fn timed(spec: StateSpec) -> Migration {
        let clock = TtlClock::Event(Arc::new(AtomicU64::new(UNKNOWN_STAMP)));
        let (time, meta) = (
            TimeDomain::Event,
            TtlMeta { time: TimeDomain::Event, duration_ms: 10, since_ms: None },
        );
        let rule = Arc::new(TtlRule::new(10, clock, false, false));
        let ttl = StateTtl { time, rule, unstamped: 77, meta };
        compare(&spec.meta(), &spec).unwrap().living(Some(ttl))
    }

    #[test]
    fn stamps_come_and_go_and_one_of_another_time_is_none() {
        let spec = StateSpec::value("v");
        let (plain, timed) = (compare(&spec.meta(), &spec).unwrap(), timed(spec));
        let today = timed.current();
        let without = plain.current();
        let processing = Form { stamps: Some(TimeDomain::Processing), ..today };
        let stamped = |stamp: u64| [&stamp.to_le_bytes()[..], b"abc"].concat();
        let mut out = Vec::new();
        assert_eq!(timed.apply(without, b"abc", &mut out).unwrap(), stamped(77));
        assert_eq!(timed.apply(today, &stamped(5), &mut out).unwrap(), stamped(5));
        assert_eq!(timed.apply(processing, &stamped(5), &mut out).unwrap(), stamped(77));
        assert_eq!(plain.apply(today, &stamped(5), &mut out).unwrap(), b"abc");
        assert_eq!(plain.apply(without, b"abc", &mut out).unwrap(), b"abc");
    }

    #[test]
    fn a_value_that_should_have_a_stamp_and_has_none_is_corrupt() {
        for len in 0..STAMP_BYTES {
            let value = vec![1; len];
            let (spec, mut out) = (StateSpec::value("v"), Vec::new());
            let (plain, timed) = (compare(&spec.meta(), &spec).unwrap(), timed(spec));
            for migration in [&plain, &timed] {
                let error = migration.apply(timed.current(), &value, &mut out).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert!(error.to_string().contains("\"v\""), "{error}");
            }
            let error = timed.without_expired(&value, 5, &mut out).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            let error = timed.shows(timed.current(), &value, 5).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }
}
