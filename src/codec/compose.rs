//! Ready codecs made of other codecs: options and tuples.
//!
//! ```text
//! option:  | 0 u8 |     or     | 1 u8 | the value |
//! tuple:   | part | part | ... | last part |
//! part:    its bytes if their number is fixed, else | length varint | bytes |
//! last:    its bytes; they reach to the end
//! ```

use super::primitive::not_a_value;
use super::reader::Reader;
use super::typed::{Codec, CodecId, HasCodec};
use super::varint;
use crate::base::Result;

/// The ready codec of `Option<T>`: `None` sorts before every `Some`.
#[derive(Clone, Copy, Default, Debug)]
pub struct OptionCodec<C>(
    /// The codec of the value inside.
    pub C,
);

impl<T, C: Codec<T>> Codec<Option<T>> for OptionCodec<C> {
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
        match bytes {
            [0] => Ok(None),
            [1, value @ ..] => self.0.decode(value).map(Some),
            [] => Err(not_a_value("option", "at least 1 byte", "none")),
            [0, ..] => Err(not_a_value("option", "1 byte for None", bytes.len())),
            [other, ..] => Err(not_a_value("option", "first byte 0 or 1", other)),
        }
    }
}

impl<T: HasCodec> HasCodec for Option<T> {
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

fn decode_part<T, C: Codec<T>>(codec: &C, reader: &mut Reader<'_>) -> Result<T> {
    let bytes = match codec.fixed_len() {
        Some(len) => reader.take("part", len)?,
        None => reader.bytes("part", usize::MAX)?,
    };
    codec.decode(bytes)
}

macro_rules! tuples {
    ($(($($part:ident $codec:ident $at:tt),*; $last:ident $last_codec:ident $last_at:tt))*) => {$(
        impl<$($part,)* $last, $($codec,)* $last_codec> Codec<($($part,)* $last,)>
            for TupleCodec<($($codec,)* $last_codec,)>
        where
            $($codec: Codec<$part>,)*
            $last_codec: Codec<$last>,
        {
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
        }

        impl<$($part: HasCodec,)* $last: HasCodec> HasCodec for ($($part,)* $last,) {
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
