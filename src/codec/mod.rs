//! From typed values to bytes and back: integers of variable length, a checked
//! cursor, the key of a record, and the seam where user types come in.
//!
//! Promises: every decoder here accepts any bytes whatever, never panics, never
//! allocates more than the bytes it was given call for, and reports damage as
//! [`ErrorKind::Corrupt`](crate::base::ErrorKind::Corrupt) with the field and
//! the offset. Nothing here knows a file, a table or a shard.

mod compose;
mod key;
mod primitive;
mod reader;
mod typed;
pub mod varint;

pub use compose::{OptionCodec, TupleCodec};
pub use key::KeyRef;
pub use primitive::{BytesCodec, Primitive, PrimitiveValue, StringCodec};
pub use reader::Reader;
pub use typed::{Codec, CodecId, HasCodec, MAX_CODEC_NAME_BYTES, decode_exact};
