//! A codec that also reads what its predecessors wrote.

use std::fmt;
use std::sync::Arc;

use super::schema::{Compatibility, ReadOld, Schema, compare};
use super::typed::{Codec, CodecId};
use crate::base::Result;

type Up<From, To> = Arc<dyn Fn(From) -> Result<To> + Send + Sync>;
type CompareOld<T> = Arc<dyn Fn(&Schema) -> Compatibility<T> + Send + Sync>;

/// Today's codec and a chain of older ones, newest first, with a step from the
/// type of each to that of the one before it.
///
/// It writes like today's codec and has its schema, so state that was written
/// before there was a chain is read as well, and a chain may be cut when no
/// snapshot with the oldest version is left. What an older version wrote is
/// read by that version's codec and goes up step by step, when the record is
/// first read or its table is merged. Steps run on the task thread and in the
/// background.
///
/// ```
/// # fn main() -> alluvium::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let backend = alluvium::Backend::builder(dir.path()).open()?;
/// # let groups = backend.max_parallelism().all_groups();
/// use alluvium::codec::{Evolving, HasCodec, Primitive, StringCodec};
/// use alluvium::{SnapshotId, ValueState};
///
/// // The first version kept whole cents, as `u32`.
/// let mut shard = backend.shard("accounts", groups).open()?;
/// let balances: ValueState<String, u32> = ValueState::register(&mut shard, "balances")?;
/// balances.put(&mut shard, &"heron".to_owned(), &250)?;
/// let handle = shard.snapshot(SnapshotId(1), b"")?.wait()?.handle;
///
/// // Then came debts, hence `i64`; now the currency is kept, too.
/// type Money = <(i64, String) as HasCodec>::Codec;
/// let money = Evolving::new(Money::default())
///     .older(Primitive::<i64>::default(), |cents| (cents, "EUR".to_owned()))
///     .older(Primitive::<u32>::default(), |cents| i64::from(cents));
///
/// let mut shard = backend.shard("accounts", groups).restore([handle]).open()?;
/// let balances: ValueState<String, (i64, String), (), _, _, _> = ValueState::with_codecs(
///     &mut shard, "balances", StringCodec, Primitive::<()>::default(), money)?;
/// let heron = balances.get(&mut shard, &"heron".to_owned())?;
/// assert_eq!(heron, Some((250, "EUR".to_owned())));
/// # Ok(())
/// # }
/// ```
pub struct Evolving<T, C, Oldest = T> {
    current: C,
    /// Newest first.
    older: Vec<(Schema, CompareOld<T>)>,
    /// From the oldest type to today's.
    up: Up<Oldest, T>,
}

impl<T: 'static, C: Codec<T>> Evolving<T, C> {
    /// A chain of one: `codec` and nothing older.
    pub fn new(codec: C) -> Self {
        Self { current: codec, older: Vec::new(), up: Arc::new(Ok) }
    }
}

impl<T: 'static, C, Oldest: 'static> Evolving<T, C, Oldest> {
    /// Adds the version before the oldest so far, and the step up from it.
    #[must_use]
    pub fn older<Old: 'static, OC: Codec<Old>>(
        self,
        codec: OC,
        step: impl Fn(Old) -> Oldest + Send + Sync + 'static,
    ) -> Evolving<T, C, Old> {
        self.try_older(codec, move |old| Ok(step(old)))
    }

    /// As [`older`](Self::older), with a step that may fail. Then the record
    /// stays as it is stored, and reading it fails with that error.
    #[must_use]
    pub fn try_older<Old: 'static, OC: Codec<Old>>(
        mut self,
        codec: OC,
        step: impl Fn(Old) -> Result<Oldest> + Send + Sync + 'static,
    ) -> Evolving<T, C, Old> {
        let rest = self.up;
        let up: Up<Old, T> = Arc::new(move |old| rest(step(old)?));
        let schema = codec.schema();
        let compare_old: CompareOld<T> = {
            let up = Arc::clone(&up);
            Arc::new(move |stored| {
                let read: ReadOld<Old> = match compare(&codec, stored) {
                    Compatibility::Same => {
                        let codec = codec.clone();
                        Box::new(move |bytes| codec.decode(bytes))
                    }
                    Compatibility::Migrate(read) => read,
                    Compatibility::Incompatible(reason) => {
                        return Compatibility::Incompatible(reason);
                    }
                };
                let up = Arc::clone(&up);
                Compatibility::Migrate(Box::new(move |bytes| up(read(bytes)?)))
            })
        };
        self.older.push((schema, compare_old));
        Evolving { current: self.current, older: self.older, up }
    }
}

impl<T: 'static, C: Codec<T>, Oldest: 'static> Codec<T> for Evolving<T, C, Oldest> {
    const MAY_PANIC: bool = C::MAY_PANIC;

    fn id(&self) -> CodecId {
        self.current.id()
    }

    fn schema_detail(&self) -> Vec<u8> {
        self.current.schema_detail()
    }

    #[inline]
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        self.current.encode(value, out)
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<T> {
        self.current.decode(bytes)
    }

    #[inline]
    fn fixed_len(&self) -> Option<usize> {
        self.current.fixed_len()
    }

    fn compatibility(&self, stored: &Schema) -> Compatibility<T> {
        let reason = match compare(&self.current, stored) {
            Compatibility::Incompatible(reason) => reason,
            readable => return readable,
        };
        for (_, compare_old) in &self.older {
            match compare_old(stored) {
                Compatibility::Incompatible(_) => {}
                readable => return readable,
            }
        }
        let known: Vec<_> = self.older.iter().map(|(schema, _)| schema.to_string()).collect();
        Compatibility::Incompatible(match known.as_slice() {
            [] => reason,
            known => format!("{reason}; the older versions that it reads are {}", known.join(", ")),
        })
    }
}

impl<T, C: Clone, Oldest> Clone for Evolving<T, C, Oldest> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), older: self.older.clone(), up: Arc::clone(&self.up) }
    }
}

impl<T, C: fmt::Debug, Oldest> fmt::Debug for Evolving<T, C, Oldest> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let older: Vec<_> = self.older.iter().map(|(schema, _)| schema).collect();
        f.debug_struct("Evolving").field("current", &self.current).field("older", &older).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{OptionCodec, Primitive, StringCodec, TupleCodec};

    fn chain() -> impl Codec<String> {
        Evolving::new(StringCodec)
            .older(Primitive::<u64>::default(), |number| number.to_string())
            .older(Primitive::<u16>::default(), u64::from)
            .older(Primitive::<u8>::default(), u16::from)
    }

    fn read_old(codec: &impl Codec<String>, old: &Schema, bytes: &[u8]) -> Result<String> {
        match compare(codec, old) {
            Compatibility::Migrate(read) => read(bytes),
            other => panic!("{old}: {other:?}"),
        }
    }

    #[test]
    fn every_version_goes_up_through_all_later_ones() {
        let codec = chain();
        for (old, bytes) in [
            (Codec::<u64>::schema(&Primitive::<u64>::default()), &200_u64.to_be_bytes()[..]),
            (Codec::<u16>::schema(&Primitive::<u16>::default()), &200_u16.to_be_bytes()),
            (Codec::<u8>::schema(&Primitive::<u8>::default()), &[200]),
        ] {
            assert_eq!(read_old(&codec, &old, bytes).unwrap(), "200");
            assert!(read_old(&codec, &old, b"").is_err(), "{old}");
        }
        assert!(matches!(compare(&codec, &StringCodec.schema()), Compatibility::Same));
    }

    #[test]
    fn what_is_not_in_the_chain_is_refused_with_what_is() {
        let stored = Schema::from(CodecId::new("string", 2));
        let Compatibility::Incompatible(reason) = compare(&chain(), &stored) else {
            panic!("a newer version is not readable");
        };
        for fact in ["newer", "version 2", "u64, u16, u8"] {
            assert!(reason.contains(fact), "{reason:?} does not say {fact:?}");
        }
    }

    #[test]
    fn parts_of_tuples_and_options_evolve() {
        type Old = TupleCodec<(Primitive<u8>, StringCodec, OptionCodec<Primitive<u8>>)>;
        let old = (7, "x".to_owned(), Some(9));
        let mut bytes = Vec::new();
        Old::default().encode(&old, &mut bytes).unwrap();
        let old = Codec::<(u8, String, Option<u8>)>::schema(&Old::default());
        let new = TupleCodec((chain(), StringCodec, OptionCodec(chain())));
        let Compatibility::Migrate(read) = compare(&new, &old) else { panic!("readable") };
        assert_eq!(read(&bytes).unwrap(), ("7".into(), "x".into(), Some("9".into())));
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "{len} bytes");
        }

        let other = TupleCodec((chain(), chain(), OptionCodec(chain())));
        let Compatibility::Migrate(read) = compare(&other, &old) else { panic!("readable") };
        assert_eq!(read(&bytes).unwrap().0, "7");
        let refused = TupleCodec((StringCodec, StringCodec, OptionCodec(chain())));
        let Compatibility::Incompatible(reason) = compare(&refused, &old) else {
            panic!("a string is no u8");
        };
        assert!(reason.contains("part 1") && reason.contains("u8"), "{reason}");
    }
}
