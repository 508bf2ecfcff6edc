//! Ready codecs of single values.
//!
//! Numbers are written so that the order of the bytes is the order of the
//! numbers: big-endian, the sign bit of signed integers flipped, floats in
//! their total order (`-NaN < -inf < ... < -0.0 < 0.0 < ... < inf < NaN`).

use std::marker::PhantomData;

use super::typed::{Codec, CodecId, HasCodec, decode_exact};
use crate::base::{Error, Result};

/// The ready codec of a number, `bool`, `char` or `()`.
pub struct Primitive<T>(PhantomData<fn() -> T>);

impl<T> Default for Primitive<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Primitive<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Primitive<T> {}

impl<T> std::fmt::Debug for Primitive<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Primitive<{}>", std::any::type_name::<T>())
    }
}

/// A value with a natural encoding of a fixed number of bytes.
pub trait PrimitiveValue: Sized + 'static {
    /// Name of the codec.
    const NAME: &'static str;
    /// Bytes of every value.
    const BYTES: usize;

    /// Appends exactly [`BYTES`](Self::BYTES) bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads the value back.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not an encoding of any value.
    fn read(bytes: &[u8]) -> Result<Self>;
}

impl<T: PrimitiveValue> Codec<T> for Primitive<T> {
    const MAY_PANIC: bool = false;

    fn id(&self) -> CodecId {
        CodecId::new(T::NAME, 1)
    }

    #[inline]
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        value.write(out);
        Ok(())
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<T> {
        T::read(bytes)
    }

    #[inline]
    fn fixed_len(&self) -> Option<usize> {
        Some(T::BYTES)
    }
}

/// Implements a primitive through an unsigned integer of the same size, given
/// the two ways between them.
macro_rules! through_bits {
    ($($type:ty as $bits:ty, $name:literal: $to:expr, $from:expr;)*) => {$(
        impl PrimitiveValue for $type {
            const NAME: &'static str = $name;
            const BYTES: usize = size_of::<$bits>();

            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                let to: fn($type) -> $bits = $to;
                out.extend_from_slice(&to(*self).to_be_bytes());
            }

            #[inline]
            fn read(bytes: &[u8]) -> Result<Self> {
                let from: fn($bits) -> $type = $from;
                Ok(from(<$bits>::from_be_bytes(decode_exact($name, bytes)?)))
            }
        }

        impl HasCodec for $type {
            type Codec = Primitive<Self>;
        }
    )*};
}

through_bits! {
    u8 as u8, "u8": |v| v, |b| b;
    u16 as u16, "u16": |v| v, |b| b;
    u32 as u32, "u32": |v| v, |b| b;
    u64 as u64, "u64": |v| v, |b| b;
    u128 as u128, "u128": |v| v, |b| b;
    i8 as u8, "i8": |v| v as u8 ^ (1 << 7), |b| (b ^ (1 << 7)) as i8;
    i16 as u16, "i16": |v| v as u16 ^ (1 << 15), |b| (b ^ (1 << 15)) as i16;
    i32 as u32, "i32": |v| v as u32 ^ (1 << 31), |b| (b ^ (1 << 31)) as i32;
    i64 as u64, "i64": |v| v as u64 ^ (1 << 63), |b| (b ^ (1 << 63)) as i64;
    i128 as u128, "i128": |v| v as u128 ^ (1 << 127), |b| (b ^ (1 << 127)) as i128;
    f32 as u32, "f32": |v| order_f32(v.to_bits()), |b| f32::from_bits(unorder_f32(b));
    f64 as u64, "f64": |v| order_f64(v.to_bits()), |b| f64::from_bits(unorder_f64(b));
}

/// Positive floats get their sign bit set; negative ones are inverted whole,
/// since their magnitude sorts backwards.
fn order_f32(bits: u32) -> u32 {
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

fn unorder_f32(bits: u32) -> u32 {
    if bits >> 31 == 1 { bits ^ 1 << 31 } else { !bits }
}

fn order_f64(bits: u64) -> u64 {
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

fn unorder_f64(bits: u64) -> u64 {
    if bits >> 63 == 1 { bits ^ 1 << 63 } else { !bits }
}

impl PrimitiveValue for bool {
    const NAME: &'static str = "bool";
    const BYTES: usize = 1;

    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        match decode_exact::<1>(Self::NAME, bytes)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(not_a_value(Self::NAME, "0 or 1", other)),
        }
    }
}

impl HasCodec for bool {
    type Codec = Primitive<Self>;
}

impl PrimitiveValue for char {
    const NAME: &'static str = "char";
    const BYTES: usize = 4;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&u32::from(*self).to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        let code = u32::from_be_bytes(decode_exact(Self::NAME, bytes)?);
        char::from_u32(code).ok_or_else(|| not_a_value(Self::NAME, "a Unicode scalar value", code))
    }
}

impl HasCodec for char {
    type Codec = Primitive<Self>;
}

impl PrimitiveValue for () {
    const NAME: &'static str = "unit";
    const BYTES: usize = 0;

    fn write(&self, _out: &mut Vec<u8>) {}

    fn read(bytes: &[u8]) -> Result<Self> {
        decode_exact::<0>(Self::NAME, bytes).map(|_| ())
    }
}

impl HasCodec for () {
    type Codec = Primitive<Self>;
}

/// The ready codec of [`String`]: its UTF-8 bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct StringCodec;

impl Codec<String> for StringCodec {
    const MAY_PANIC: bool = false;

    fn id(&self) -> CodecId {
        CodecId::new("string", 1)
    }

    #[inline]
    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(why) => Err(not_a_value("string", "UTF-8", why)),
        }
    }
}

impl HasCodec for String {
    type Codec = StringCodec;
}

/// The ready codec of `Vec<u8>`: its bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct BytesCodec;

impl Codec<Vec<u8>> for BytesCodec {
    const MAY_PANIC: bool = false;

    fn id(&self) -> CodecId {
        CodecId::new("bytes", 1)
    }

    #[inline]
    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }
}

impl HasCodec for Vec<u8> {
    type Codec = BytesCodec;
}

#[cold]
pub(super) fn not_a_value(
    codec: &str,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Error {
    Error::corrupt(format_args!("bytes do not fit codec {codec}"))
        .expected(expected)
        .found(found)
        .remedy("was the state written with another codec?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    fn encoded<T: HasCodec>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        T::Codec::default().encode(value, &mut out).unwrap();
        out
    }

    fn round<T: HasCodec + PartialEq + std::fmt::Debug>(value: T) {
        let codec = T::Codec::default();
        let mut bytes = encoded(&value);
        if let Some(len) = codec.fixed_len() {
            assert_eq!(bytes.len(), len);
            bytes.push(0);
            assert_eq!(codec.decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
            bytes.pop();
            if len > 0 {
                let error = codec.decode(&bytes[..len - 1]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains(&*codec.id().name), "{error}");
            }
        }
        assert_eq!(codec.decode(&bytes).unwrap(), value);
    }

    #[test]
    fn values_come_back_and_wrong_lengths_are_corrupt() {
        macro_rules! ints {
            ($($int:ty),*) => {$(
                for value in [<$int>::MIN, 0, 1, 42, <$int>::MAX] {
                    round(value);
                }
            )*};
        }
        ints!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);
        for value in [f64::MIN, -1.5, -0.0, 0.0, 1.5, f64::MAX, f64::INFINITY] {
            round(value);
            round(value as f32);
        }
        round(true);
        round(false);
        round('ß');
        round(());
        round(String::from("grün"));
        round(vec![0u8, 255]);
    }

    #[test]
    fn byte_order_is_number_order() {
        fn ascending<T: HasCodec>(values: &[T]) {
            let bytes: Vec<_> = values.iter().map(encoded).collect();
            assert!(bytes.is_sorted_by(|a, b| a < b), "{bytes:?}");
        }
        ascending(&[i64::MIN, -2, -1, 0, 1, i64::MAX]);
        ascending(&[i8::MIN, -1, 0, 1, i8::MAX]);
        ascending(&[i128::MIN, -1, 0, 1, i128::MAX]);
        ascending(&[0u32, 1, 255, 256, u32::MAX]);
        ascending(&[-f64::NAN, f64::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, f64::INFINITY, f64::NAN]);
        ascending(&[-f32::NAN, f32::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, f32::INFINITY, f32::NAN]);
        ascending(&['a', 'b', 'ß', '\u{10ffff}']);
    }

    #[test]
    fn nan_keeps_its_payload() {
        let odd = f64::from_bits(0x7ff8_0000_dead_beef);
        let back = Primitive::<f64>::default().decode(&encoded(&odd)).unwrap();
        assert_eq!(back.to_bits(), odd.to_bits());
    }

    #[test]
    fn bytes_that_stand_for_no_value_are_corrupt() {
        assert!(Primitive::<bool>::default().decode(&[2]).is_err());
        assert!(Primitive::<char>::default().decode(&0xd800u32.to_be_bytes()).is_err());
        assert_eq!(StringCodec.decode(&[0xff]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
