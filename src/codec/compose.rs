//! Ready codecs made of other codecs: options and tuples.
//!
//! ```text
//! option:  | 0 u8 |     or     | 1 u8 | the value |
//! tuple:   | part | part | ... | last part |
//! part:    its bytes if their number is fixed, else | length varint | bytes |
//! last:    its bytes; they reach to the end
//!
//! schema detail of either:  | part's schema | ... |
//! part's schema:            | 1 + its number of bytes if that is fixed, else 0: varint | schema (see schema.rs) |
//! ```
//!
//! A value that is made of others can be read if each of its parts can.

use super::primitive::not_a_value;
use super::reader::Reader;
use super::schema::{Compatibility, ReadOld, Schema, compare};
use super::typed::{Codec, CodecId, HasCodec};
use super::varint;
use crate::base::Result;

/// The ready codec of `Option<T>`: `None` sorts before every `Some`.
#[derive(Clone, Copy, Default, Debug)]
pub struct OptionCodec<C>(
    /// The codec of the value inside.
    pub C,
);

impl<T: 'static, C: Codec<T>> Codec<Option<T>> for OptionCodec<C> {
    const MAY_PANIC: bool = C::MAY_PANIC;

    fn id(&self) -> CodecId {
        CodecId::composed("option", 1, &[self.0.id()])
    }

    fn encode(&self, value: &Option<T>, out: &mut Vec<u8>) -> Result<()> {
        match value {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                self.0.encode(value, out)?;
            }
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Option<T>> {
        decode_option(bytes, |value| self.0.decode(value))
    }

    fn schema_detail(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_part(&self.0, &mut out);
        out
    }

    fn compatibility(&self, stored: &Schema) -> Compatibility<Option<T>> {
        let parts = match StoredPart::all("option", 1, stored) {
            Some(parts) => parts,
            None => return Compatibility::Incompatible(self.schema().difference(stored)),
        };
        match compare(&self.0, &parts[0].schema) {
            Compatibility::Same => Compatibility::Same,
            Compatibility::Migrate(read) => {
                Compatibility::Migrate(Box::new(move |bytes| decode_option(bytes, &read)))
            }
            Compatibility::Incompatible(reason) => {
                Compatibility::Incompatible(format!("inside the option, {reason}"))
            }
        }
    }
}

fn decode_option<T>(bytes: &[u8], read: impl Fn(&[u8]) -> Result<T>) -> Result<Option<T>> {
    match bytes {
        [0] => Ok(None),
        [1, value @ ..] => read(value).map(Some),
        [] => Err(not_a_value("option", "at least 1 byte", "none")),
        [0, ..] => Err(not_a_value("option", "1 byte for None", bytes.len())),
        [other, ..] => Err(not_a_value("option", "first byte 0 or 1", other)),
    }
}

impl<T: HasCodec + 'static> HasCodec for Option<T> {
    type Codec = OptionCodec<T::Codec>;
}

/// The ready codec of tuples of 2 to 6 parts, given a tuple of their codecs.
///
/// The order of the bytes is the order of the tuples only while every part but
/// the last has a fixed length.
#[derive(Clone, Copy, Default, Debug)]
pub struct TupleCodec<Parts>(
    /// The codecs of the parts.
    pub Parts,
);

/// Appends a part that is not the last. Its length is known only after it was
/// encoded, so the prefix is rotated in front of it.
fn encode_part<T, C: Codec<T>>(codec: &C, value: &T, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    codec.encode(value, out)?;
    if codec.fixed_len().is_none() {
        let before = out.len();
        varint::put_u64(out, (before - start) as u64);
        let prefix = out.len() - before;
        out[start..].rotate_right(prefix);
    }
    Ok(())
}

fn take_part<'a>(fixed_len: Option<usize>, reader: &mut Reader<'a>) -> Result<&'a [u8]> {
    match fixed_len {
        Some(len) => reader.take("part", len),
        None => reader.bytes("part", usize::MAX),
    }
}

fn decode_part<T, C: Codec<T>>(codec: &C, reader: &mut Reader<'_>) -> Result<T> {
    codec.decode(take_part(codec.fixed_len(), reader)?)
}

/// Appends the schema of a part.
fn put_part<T, C: Codec<T>>(codec: &C, out: &mut Vec<u8>) {
    varint::put_u64(out, codec.fixed_len().map_or(0, |len| len as u64 + 1));
    codec.schema().encode(out);
}

/// What is known of a part of a value that was written earlier.
struct StoredPart {
    fixed_len: Option<usize>,
    schema: Schema,
}

impl StoredPart {
    /// The parts of a schema, if it is one of `outer` with that many.
    fn all(outer: &str, count: usize, stored: &Schema) -> Option<Vec<Self>> {
        let inner = stored.id().name.strip_prefix(outer)?;
        if stored.id().version != 1 || !inner.starts_with('(') {
            return None;
        }
        let mut reader = Reader::new("schema of parts", stored.detail());
        let parts: Vec<Self> =
            (0..count).map(|_| Self::decode(&mut reader)).collect::<Result<_>>().ok()?;
        reader.finish().ok()?;
        Some(parts)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let fixed_len = reader.varint_u64("length of a part")?.checked_sub(1);
        // No part is longer than a pointer can say; a larger one fits no bytes.
        let fixed_len = fixed_len.map(|len| usize::try_from(len).unwrap_or(usize::MAX));
        Ok(Self { fixed_len, schema: Schema::decode(reader)? })
    }

    /// How `codec`, now at this place, reads the part; and whether the tuple's
    /// bytes can stay as they are as far as this part goes.
    fn reader<T: 'static, C: Codec<T>>(
        &self,
        codec: &C,
        place: usize,
    ) -> Result<(ReadOld<T>, bool), String> {
        match compare(codec, &self.schema) {
            Compatibility::Same => {
                let same = self.fixed_len == codec.fixed_len();
                let codec = codec.clone();
                Ok((Box::new(move |bytes| codec.decode(bytes)), same))
            }
            Compatibility::Migrate(read) => Ok((read, false)),
            Compatibility::Incompatible(reason) => {
                Err(format!("in part {} of the tuple, {reason}", place + 1))
            }
        }
    }
}

/// The parts of a schema, each with its number of bytes if that is fixed; `None` if it
/// is not a whole one of `outer`.
#[cfg(feature = "dynamic")]
pub(super) fn parts_of(
    outer: &str,
    stored: &Schema,
) -> Option<impl Iterator<Item = (Option<usize>, Schema)>> {
    let mut reader = Reader::new("schema of parts", stored.detail());
    let mut count = 0;
    while reader.remaining() > 0 {
        StoredPart::decode(&mut reader).ok()?;
        count += 1;
    }
    let parts = StoredPart::all(outer, count, stored).filter(|parts| !parts.is_empty())?;
    Some(parts.into_iter().map(|part| (part.fixed_len, part.schema)))
}

macro_rules! tuples {
    ($(($($part:ident $codec:ident $at:tt),*; $last:ident $last_codec:ident $last_at:tt))*) => {$(
        impl<$($part,)* $last, $($codec,)* $last_codec> Codec<($($part,)* $last,)>
            for TupleCodec<($($codec,)* $last_codec,)>
        where
            $($part: 'static, $codec: Codec<$part>,)*
            $last: 'static,
            $last_codec: Codec<$last>,
        {
            const MAY_PANIC: bool = $($codec::MAY_PANIC ||)* $last_codec::MAY_PANIC;

            fn id(&self) -> CodecId {
                CodecId::composed("tuple", 1, &[$(self.0.$at.id(),)* self.0.$last_at.id()])
            }

            fn encode(&self, value: &($($part,)* $last,), out: &mut Vec<u8>) -> Result<()> {
                $(encode_part(&self.0.$at, &value.$at, out)?;)*
                self.0.$last_at.encode(&value.$last_at, out)
            }

            fn decode(&self, bytes: &[u8]) -> Result<($($part,)* $last,)> {
                let mut reader = Reader::new("tuple", bytes);
                Ok((
                    $(decode_part(&self.0.$at, &mut reader)?,)*
                    self.0.$last_at.decode(reader.rest())?,
                ))
            }

            fn fixed_len(&self) -> Option<usize> {
                0usize $(.checked_add(self.0.$at.fixed_len()?)?)*.checked_add(self.0.$last_at.fixed_len()?)
            }

            fn schema_detail(&self) -> Vec<u8> {
                let mut out = Vec::new();
                $(put_part(&self.0.$at, &mut out);)*
                put_part(&self.0.$last_at, &mut out);
                out
            }

            fn compatibility(&self, stored: &Schema) -> Compatibility<($($part,)* $last,)> {
                let Some(parts) = StoredPart::all("tuple", $last_at + 1, stored) else {
                    return Compatibility::Incompatible(self.schema().difference(stored));
                };
                let readers = (|| Ok((
                    $(parts[$at].reader(&self.0.$at, $at)?,)*
                    parts[$last_at].reader(&self.0.$last_at, $last_at)?,
                )))();
                let readers = match readers {
                    Ok(readers) => readers,
                    Err(reason) => return Compatibility::Incompatible(reason),
                };
                if $(readers.$at.1 &&)* readers.$last_at.1 {
                    return Compatibility::Same;
                }
                Compatibility::Migrate(Box::new(move |bytes| {
                    let mut reader = Reader::new("tuple", bytes);
                    Ok((
                        $(readers.$at.0(take_part(parts[$at].fixed_len, &mut reader)?)?,)*
                        readers.$last_at.0(reader.rest())?,
                    ))
                }))
            }
        }

        impl<$($part: HasCodec + 'static,)* $last: HasCodec + 'static> HasCodec for ($($part,)* $last,) {
            type Codec = TupleCodec<($($part::Codec,)* $last::Codec,)>;
        }
    )*};
}

tuples! {
    (A CA 0; B CB 1)
    (A CA 0, B CB 1; C CC 2)
    (A CA 0, B CB 1, C CC 2; D CD 3)
    (A CA 0, B CB 1, C CC 2, D CD 3; E CE 4)
    (A CA 0, B CB 1, C CC 2, D CD 3, E CE 4; F CF 5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    fn round<T: HasCodec + PartialEq + std::fmt::Debug>(value: T) -> Vec<u8> {
        let codec = T::Codec::default();
        let mut bytes = vec![0xee];
        codec.encode(&value, &mut bytes).unwrap();
        assert_eq!(bytes.remove(0), 0xee, "encode appends");
        assert_eq!(codec.decode(&bytes).unwrap(), value);
        if let Some(len) = codec.fixed_len() {
            assert_eq!(bytes.len(), len);
        }
        bytes
    }

    #[test]
    fn tuples_and_options_come_back() {
        assert_eq!(round((1u8, 2u16)), [1, 0, 2]);
        assert_eq!(round((String::from("ab"), 7u8)), [2, b'a', b'b', 7]);
        assert_eq!(round((7u8, String::from("ab"))), [7, b'a', b'b']);
        assert_eq!(round(Some(9u8)), [1, 9]);
        assert_eq!(round(None::<u64>), [0]);
        assert_eq!(round(Some(None::<u64>)), [1, 0]);
        round((vec![1u8; 300], String::new(), Some((1i8, 'x')), 0.5f64, (), true));
    }

    #[test]
    fn ids_name_their_parts() {
        let id = <(u64, Option<String>) as HasCodec>::Codec::default().id();
        assert_eq!(id, CodecId::new("tuple(u64,option(string))", 1));
        let newer = CodecId::composed("list", 1, &[CodecId::new("order", 3)]);
        assert_eq!(newer.name, "list(order@3)");
    }

    #[test]
    fn missing_and_trailing_bytes_are_corrupt() {
        type Codec = <(u32, String, u8) as HasCodec>::Codec;
        use crate::codec::Codec as _;
        let codec = Codec::default();
        let bytes = round((5u32, String::from("abc"), 1u8));
        for len in 0..bytes.len() {
            assert_eq!(
                codec.decode(&bytes[..len]).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{len}"
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(codec.decode(&longer).unwrap_err().kind(), ErrorKind::Corrupt);
        let option = <Option<u8> as HasCodec>::Codec::default();
        for bad in [&[][..], &[0, 0], &[1], &[1, 2, 3], &[2, 2]] {
            assert_eq!(option.decode(bad).unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
    }
}
