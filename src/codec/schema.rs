//! What the bytes of a state remember of the codec that wrote them, and how
//! another codec judges it.
//!
//! ```text
//! schema:  | codec name: length varint, UTF-8 | version varint | detail: length varint, bytes |
//! ```
//!
//! The fingerprint is the xxh3-64 of these bytes. It is not stored with a
//! schema but computed; tables name the schemas of their records by it.
//!
//! A schema never says by itself whether it can be read: the codec of today is
//! asked ([`Codec::compatibility`]), once, when a state is registered, and what
//! it answers is either nothing to do, a way to read the old bytes, or a reason.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::typed::{Codec, CodecId, MAX_CODEC_NAME_BYTES};
use super::{Reader, varint};
use crate::base::{Error, Result};

/// Longest detail of a schema, in bytes: 256 KiB. An Avro schema of a thousand
/// documented fields stays below it; it stands in every manifest.
pub const MAX_SCHEMA_DETAIL_BYTES: usize = 256 * 1024;

/// A codec as stored beside a state: its name and version, and what it needs
/// to read its bytes again.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Schema {
    id: CodecId,
    detail: Arc<[u8]>,
    fingerprint: u64,
}

impl Schema {
    /// The schema of a codec of this name and version. `detail` means something
    /// to that codec only: an Avro schema, say.
    pub fn new(id: CodecId, detail: impl Into<Arc<[u8]>>) -> Self {
        let mut schema = Self { id, detail: detail.into(), fingerprint: 0 };
        let mut bytes = Vec::new();
        schema.encode(&mut bytes);
        schema.fingerprint = xxh3_64(&bytes);
        schema
    }

    /// Name and version of the codec.
    pub fn id(&self) -> &CodecId {
        &self.id
    }

    /// What the codec needs to read its bytes again; empty for most.
    pub fn detail(&self) -> &[u8] {
        &self.detail
    }

    /// Tells schemas apart, in tables and in messages.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Refuses what no manifest can hold.
    ///
    /// # Errors
    /// `Invalid`, naming the limit.
    pub(crate) fn check(&self) -> Result<()> {
        for (what, len, least, most) in [
            ("the name of a codec", self.id.name.len(), 1, MAX_CODEC_NAME_BYTES),
            ("the detail of a schema", self.detail.len(), 0, MAX_SCHEMA_DETAIL_BYTES),
        ] {
            if !(least..=most).contains(&len) {
                return Err(Error::invalid(format_args!("{what} has a bad length"))
                    .at(format_args!("codec {:.80}", self.id.name))
                    .expected(format_args!("{least} to {most} bytes"))
                    .found(format_args!("{len} bytes")));
            }
        }
        Ok(())
    }

    /// Appends the schema.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.id.encode(out);
        varint::put_u64(out, self.detail.len() as u64);
        out.extend_from_slice(&self.detail);
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// `Corrupt` if there is no schema at the cursor.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let id = CodecId::decode(reader)?;
        let detail = reader.bytes("schema detail", MAX_SCHEMA_DETAIL_BYTES)?;
        Ok(Self::new(id, detail))
    }

    /// In what two schemas differ, for people.
    pub(crate) fn difference(&self, stored: &Self) -> String {
        if self.id.name != stored.id.name {
            format!("codec {} does not read what codec {} wrote", self.id.name, stored.id.name)
        } else if self.id.version < stored.id.version {
            format!(
                "the stored version {} is newer than version {} of the codec",
                stored.id.version, self.id.version
            )
        } else if self.id.version > stored.id.version {
            format!(
                "version {} of the codec has no way to read version {}",
                self.id.version, stored.id.version
            )
        } else {
            "name and version are the same, but not the details of the two schemas".to_owned()
        }
    }
}

impl From<CodecId> for Schema {
    fn from(id: CodecId) -> Self {
        Self::new(id, [])
    }
}

/// The codec, and the fingerprint if name and version do not say everything.
impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " #{:016x}", self.fingerprint) }
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} #{:016x} ({} bytes)", self.id, self.fingerprint, self.detail.len())
    }
}

/// Reads bytes that were written under another schema.
pub type ReadOld<T> = Box<dyn Fn(&[u8]) -> Result<T> + Send + Sync>;

/// What a codec says about a stored schema.
pub enum Compatibility<T> {
    /// Its bytes are the codec's own, and are used as they are.
    Same,
    /// This reads its bytes; what it gives is then written anew.
    Migrate(ReadOld<T>),
    /// They cannot be read, for this reason.
    Incompatible(String),
}

impl<T> fmt::Debug for Compatibility<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("Same"),
            Self::Migrate(_) => f.write_str("Migrate"),
            Self::Incompatible(reason) => f.debug_tuple("Incompatible").field(reason).finish(),
        }
    }
}

/// How `codec` reads bytes that were written under `stored`: at once if that is
/// its own schema, otherwise as it says itself.
pub fn compare<T, C: Codec<T>>(codec: &C, stored: &Schema) -> Compatibility<T> {
    if codec.schema().fingerprint == stored.fingerprint {
        Compatibility::Same
    } else {
        codec.compatibility(stored)
    }
}

/// Turns the bytes of an old record into those of today.
pub(crate) type Reencode = Arc<dyn Fn(&[u8], &mut Vec<u8>) -> Result<()> + Send + Sync>;

/// [`Compatibility`] for those who do not know the type.
pub(crate) enum Fit {
    Same,
    Migrate(Reencode),
    Incompatible(String),
}

type Compare = Arc<dyn Fn(&Schema) -> Fit + Send + Sync>;

/// A codec as far as the engine has to know it: its schema, and how it reads
/// others.
///
/// Made of a codec ([`of`](Self::of)), or of a mere schema or id, which reads
/// nothing but its own bytes.
#[derive(Clone)]
pub struct CodecSpec {
    schema: Schema,
    compare: Option<Compare>,
}

impl CodecSpec {
    /// What the engine has to know of `codec`.
    pub fn of<T: 'static, C: Codec<T>>(codec: &C) -> Self {
        let schema = codec.schema();
        let codec = codec.clone();
        let compare: Compare = Arc::new(move |stored| match codec.compatibility(stored) {
            Compatibility::Same => Fit::Same,
            Compatibility::Incompatible(reason) => Fit::Incompatible(reason),
            Compatibility::Migrate(read) => {
                let codec = codec.clone();
                Fit::Migrate(Arc::new(move |bytes, out| guard(|| codec.encode(&read(bytes)?, out))))
            }
        });
        Self { schema, compare: Some(compare) }
    }

    /// What is stored of the codec.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// How bytes written under `stored` are read.
    ///
    /// # Errors
    /// `Invalid` if the codec panics.
    pub(crate) fn fit(&self, stored: &Schema) -> Result<Fit> {
        if stored.fingerprint == self.schema.fingerprint {
            return Ok(Fit::Same);
        }
        match &self.compare {
            Some(compare) => guard(|| Ok(compare(stored))),
            None => Ok(Fit::Incompatible(self.schema.difference(stored))),
        }
    }
}

impl<S: Into<Schema>> From<S> for CodecSpec {
    fn from(schema: S) -> Self {
        Self { schema: schema.into(), compare: None }
    }
}

impl fmt::Debug for CodecSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CodecSpec").field(&self.schema).finish()
    }
}

/// Runs code of a codec; a panic in it becomes an error.
///
/// # Errors
/// Those of `work`; `Invalid` if it panics.
pub(crate) fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // What a codec leaves half done is its own output, which nobody looks at
    // after an error.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::invalid("a codec or a migration panicked")
            .found(format_args!("{:?}", panic_text(&*panic)))
            .remedy("correct it: it has to return an error instead"))
    })
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("something that is not text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn schemas_come_back_and_every_part_counts_for_the_fingerprint() {
        let schema = Schema::new(CodecId::new("order", 3), *b"detail");
        let mut bytes = Vec::new();
        schema.encode(&mut bytes);
        let mut reader = Reader::new("schema", &bytes);
        assert_eq!(Schema::decode(&mut reader).unwrap(), schema);
        reader.finish().unwrap();
        for other in [
            Schema::new(CodecId::new("orders", 3), *b"detail"),
            Schema::new(CodecId::new("order", 4), *b"detail"),
            Schema::new(CodecId::new("order", 3), *b"detai"),
            Schema::from(CodecId::new("order", 3)),
        ] {
            assert_ne!(other.fingerprint(), schema.fingerprint(), "{other:?}");
        }
        for len in 0..bytes.len() {
            let error = Schema::decode(&mut Reader::new("schema", &bytes[..len])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes");
        }
    }

    #[test]
    fn a_panic_in_a_codec_is_an_error_with_its_words() {
        let error = guard(|| -> Result<()> { panic!("no such {}", "enum value") }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("no such enum value"), "{error}");
    }
}
