//! The seam for typed state: how a user's type becomes bytes, and how the
//! bytes remember which codec wrote them.

use std::borrow::Cow;
use std::fmt;

use super::Reader;
use super::schema::{Compatibility, Schema};
use super::varint;
use crate::base::{Error, Result};

/// Longest name of a codec, in bytes. Names of composed codecs grow with their
/// parts; four of them stand in every entry of a manifest.
pub const MAX_CODEC_NAME_BYTES: usize = 1024;

/// Turns values of `T` into bytes and back.
///
/// # For implementers
/// - `decode(encode(value))` is `value`; `decode` refuses bytes that are too
///   few or too many instead of ignoring them, and never panics.
/// - Two keys are the same key if and only if their bytes are equal, so a codec
///   for keys must encode equal values to equal bytes.
/// - Change the version in [`id`](Self::id) when the bytes change meaning. It
///   is stored beside the state and compared when the state is restored, which
///   is what keeps yesterday's bytes from being read as today's type.
/// - [`Evolving`](super::Evolving) makes one codec of all versions of a value.
pub trait Codec<T>: Clone + Send + Sync + 'static {
    /// Whether encoding or decoding might panic after all. The engine guards
    /// itself, which costs a few nanoseconds a call. `false` only for code that
    /// has been looked at.
    const MAY_PANIC: bool = true;

    /// The name and version that are stored beside the state.
    fn id(&self) -> CodecId;

    /// Appends the bytes of `value` to `out`.
    ///
    /// # Errors
    /// `Invalid` if the value has no encoding. What was appended to `out` is
    /// then unspecified.
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<()>;

    /// The value that `bytes`, all of them, stand for.
    ///
    /// # Errors
    /// `Corrupt` if they stand for none.
    fn decode(&self, bytes: &[u8]) -> Result<T>;

    /// `Some(n)` when every encoding has exactly `n` bytes.
    fn fixed_len(&self) -> Option<usize> {
        None
    }

    /// What is needed, besides name and version, to read the bytes again: it is
    /// stored with them. At most
    /// [`MAX_SCHEMA_DETAIL_BYTES`](super::MAX_SCHEMA_DETAIL_BYTES).
    fn schema_detail(&self) -> Vec<u8> {
        Vec::new()
    }

    /// What is stored beside the state. Not to be replaced.
    fn schema(&self) -> Schema {
        Schema::new(self.id(), self.schema_detail())
    }

    /// Whether, and how, bytes can be read that were written under another
    /// schema than [`schema`](Self::schema). By default they cannot.
    ///
    /// Only values are ever migrated like this. The bytes of a key decide where
    /// it is, so keys and namespaces must be the same, or be
    /// [re-keyed](crate::KeyedStore::register_rekeyed).
    fn compatibility(&self, stored: &Schema) -> Compatibility<T> {
        Compatibility::Incompatible(self.schema().difference(stored))
    }
}

/// A type with a codec that needs no choosing.
pub trait HasCodec: Sized {
    /// The ready codec of the type.
    type Codec: Codec<Self> + Default;
}

/// The name and version of a codec, as stored beside state.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CodecId {
    /// What kind of bytes: `u64`, `tuple(u64,string)`, `my.app.Order`.
    pub name: Cow<'static, str>,
    /// Advanced by the author of the codec when the bytes change meaning.
    pub version: u32,
}

impl CodecId {
    /// A name and a version.
    pub fn new(name: impl Into<Cow<'static, str>>, version: u32) -> Self {
        Self { name: name.into(), version }
    }

    /// The id of a codec made of others: `outer(part,part)`, each part with
    /// its version unless that is 1.
    pub fn composed(outer: &str, version: u32, parts: &[Self]) -> Self {
        use fmt::Write;
        let mut name = format!("{outer}(");
        for (index, part) in parts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Writing into a String cannot fail.
            let _ = write!(name, "{comma}{part}");
        }
        name.push(')');
        Self::new(name, version)
    }

    /// Appends the id: name as varint length and bytes, version as varint.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::put_u64(out, self.name.len() as u64);
        out.extend_from_slice(self.name.as_bytes());
        varint::put_u32(out, self.version);
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// `Corrupt` if there is no id at the cursor.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let name = reader.str("codec name", MAX_CODEC_NAME_BYTES)?.to_owned();
        let version = reader.varint_u32("codec version")?;
        Ok(Self::new(name, version))
    }
}

impl fmt::Display for CodecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.version {
            1 => Ok(()),
            version => write!(f, "@{version}"),
        }
    }
}

impl fmt::Debug for CodecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// The bytes as an array of exactly `N`, for codecs of fixed length.
///
/// # Errors
/// `Corrupt`, naming the codec, if there are more or fewer.
#[inline]
pub fn decode_exact<const N: usize>(codec: &str, bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| wrong_length(codec, N, bytes.len()))
}

#[cold]
fn wrong_length(codec: &str, expected: usize, found: usize) -> Error {
    Error::corrupt(format_args!("bytes do not fit codec {codec}"))
        .expected(format_args!("{expected} bytes"))
        .found(format_args!("{found}"))
        .remedy("was the state written with another codec?")
}
