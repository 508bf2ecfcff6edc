//! From typed values to bytes and back: integers of variable length, a checked
//! cursor, the key of a record, and the seam where user types come in.
//!
//! | values | codec |
//! | --- | --- |
//! | integers, floats, `bool`, `char`, `()` | [`Primitive`] |
//! | `String`, `Vec<u8>` | [`StringCodec`], [`BytesCodec`] |
//! | tuples, options | [`TupleCodec`], [`OptionCodec`] |
//! | whatever serde knows | `Postcard`, with the feature `postcard` |
//! | records of an Avro schema | `Avro`, with the feature `avro` |
//! | a value whose type has changed | [`Evolving`] |
//! | your own | [`Codec`] |
//! | what is stored, without its type | `dynamic`, with the feature `dynamic` |
//!
//! What a codec is called and what it needs is its [`Schema`]. It is stored in
//! every snapshot, compared when a state is registered, and what was written
//! under an older one is brought up to date when it is read.
//!
//! Promises: every decoder here accepts any bytes whatever, never panics, never
//! allocates more than the bytes it was given call for, and reports damage as
//! [`ErrorKind::Corrupt`](crate::base::ErrorKind::Corrupt) with the field and
//! the offset. Nothing here knows a file, a table or a shard.

#[cfg(feature = "avro")]
mod avro;
mod compose;
#[cfg(feature = "dynamic")]
pub mod dynamic;
mod evolving;
mod key;
#[cfg(feature = "postcard")]
mod postcard;
mod primitive;
mod reader;
pub(crate) mod schema;
mod typed;
pub mod varint;

#[cfg(feature = "avro")]
pub use avro::Avro;
pub use compose::{OptionCodec, TupleCodec};
pub use evolving::Evolving;
pub use key::KeyRef;
#[cfg(feature = "postcard")]
pub use postcard::Postcard;
pub use primitive::{BytesCodec, Primitive, PrimitiveValue, StringCodec};
pub use reader::Reader;
pub use schema::{CodecSpec, Compatibility, MAX_SCHEMA_DETAIL_BYTES, ReadOld, Schema, compare};
pub use typed::{Codec, CodecId, HasCodec, MAX_CODEC_NAME_BYTES, decode_exact};
