//! Records of numbers, with what state, results and files need of them.

use alluvium::{Error, Result};

/// A number, or a few bytes, of a record.
pub trait Field: Copy {
    /// How many bytes it has in state.
    const BYTES: usize;

    /// Writes its bytes, of which there are [`BYTES`](Self::BYTES).
    fn put(self, bytes: &mut [u8]);

    /// Reads what [`put`](Self::put) wrote.
    fn take(bytes: &[u8]) -> Self;

    /// It, as a number that goes into a checksum.
    fn word(self) -> u64;

    /// Appends it as text.
    fn write(self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Field for $type {
            const BYTES: usize = size_of::<$type>();

            #[inline(always)]
            fn put(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }

            #[inline(always)]
            fn take(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$type>()];
                own.copy_from_slice(bytes);
                Self::from_le_bytes(own)
            }

            #[inline(always)]
            fn word(self) -> u64 {
                self as u64
            }

            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.to_string().as_bytes());
            }
        }
    )*};
}

numbers!(u32 u64 i64);

/// The bytes of a short name.
pub const NAME_BYTES: usize = 16;

/// A short name, filled up with zeros.
pub type Name = [u8; NAME_BYTES];

impl Field for Name {
    const BYTES: usize = NAME_BYTES;

    #[inline(always)]
    fn put(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self);
    }

    #[inline(always)]
    fn take(bytes: &[u8]) -> Self {
        let mut own = [0; NAME_BYTES];
        own.copy_from_slice(bytes);
        own
    }

    fn word(self) -> u64 {
        self.chunks_exact(8).fold(0, |word, part| mixed(word, u64::take(part)))
    }

    fn write(self, out: &mut Vec<u8>) {
        let end = self.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
        out.extend_from_slice(&self[..end]);
    }
}

/// One number of two, in which every bit of both counts.
#[inline(always)]
pub fn mixed(one: u64, other: u64) -> u64 {
    let product =
        u128::from(one ^ 0x9e37_79b9_7f4a_7c15) * u128::from(other ^ 0xe703_7ed1_a0b4_28db);
    (product as u64 ^ (product >> 64) as u64).rotate_left(23).wrapping_add(other)
}

/// What a query says.
pub trait Row: 'static {
    /// A number that differs between different rows.
    fn checksum(&self) -> u64;

    /// How often the row is there more than before: once, and less for a row that is taken
    /// back. A query's answer is the sum of what it has said.
    fn change(&self) -> i64 {
        1
    }

    /// Appends it as a line without its end.
    fn write(&self, out: &mut Vec<u8>);
}

/// A row that comes or goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<R> {
    /// The row.
    pub row: R,
    /// Whether it comes.
    pub comes: bool,
}

impl<R: Row> Row for Change<R> {
    #[inline]
    fn checksum(&self) -> u64 {
        self.row.checksum()
    }

    #[inline]
    fn change(&self) -> i64 {
        if self.comes { 1 } else { -1 }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.comes { b"+ " } else { b"- " });
        self.row.write(out);
    }
}

#[cold]
pub(crate) fn wrong_length(codec: &str, expected: usize, found: usize) -> Error {
    Error::corrupt(format_args!("bytes do not fit codec {codec}"))
        .expected(format_args!("{expected} bytes"))
        .found(found)
}

/// The bytes of a record, if there are as many as it has.
#[inline(always)]
pub(crate) fn exact<'a>(codec: &str, bytes: &'a [u8], expected: usize) -> Result<&'a [u8]> {
    if bytes.len() == expected {
        Ok(bytes)
    } else {
        Err(wrong_length(codec, expected, bytes.len()))
    }
}

/// Declares records: what they are made of, and a codec under which they are kept.
macro_rules! records {
    ($(
        $(#[$about:meta])*
        pub struct $name:ident kept by $codec:ident as $id:literal {
            $($(#[$of:meta])* pub $field:ident: $type:ty,)*
        }
    )*) => {$(
        $(#[$about])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug,
            serde::Serialize, serde::Deserialize,
        )]
        pub struct $name {
            $($(#[$of])* pub $field: $type,)*
        }

        #[doc = concat!("Keeps [`", stringify!($name), "`]s: its fields one after the other.")]
        #[derive(Clone, Copy, Default, Debug)]
        pub struct $codec;

        impl $codec {
            const BYTES: usize = 0 $(+ <$type as $crate::record::Field>::BYTES)*;
        }

        impl alluvium::codec::Codec<$name> for $codec {
            const MAY_PANIC: bool = false;

            fn id(&self) -> alluvium::codec::CodecId {
                alluvium::codec::CodecId::new($id, 1)
            }

            #[inline]
            fn encode(&self, record: &$name, out: &mut Vec<u8>) -> alluvium::Result<()> {
                let mut bytes = [0; $codec::BYTES];
                let rest = &mut bytes[..];
                $(
                    let (field, rest) =
                        rest.split_at_mut(<$type as $crate::record::Field>::BYTES);
                    $crate::record::Field::put(record.$field, field);
                )*
                debug_assert!(rest.is_empty());
                out.extend_from_slice(&bytes);
                Ok(())
            }

            #[inline]
            fn decode(&self, bytes: &[u8]) -> alluvium::Result<$name> {
                let rest = $crate::record::exact($id, bytes, Self::BYTES)?;
                $(
                    let ($field, rest) = rest.split_at(<$type as $crate::record::Field>::BYTES);
                    let $field = <$type as $crate::record::Field>::take($field);
                )*
                debug_assert!(rest.is_empty());
                Ok($name { $($field,)* })
            }

            #[inline]
            fn fixed_len(&self) -> Option<usize> {
                Some(Self::BYTES)
            }
        }

        impl alluvium::codec::HasCodec for $name {
            type Codec = $codec;
        }

        impl $crate::record::Row for $name {
            #[inline]
            fn checksum(&self) -> u64 {
                let mut sum = 0;
                $(sum = $crate::record::mixed(sum, $crate::record::Field::word(self.$field));)*
                sum
            }

            fn write(&self, out: &mut Vec<u8>) {
                let mut is_first = true;
                $(
                    if !std::mem::take(&mut is_first) {
                        out.push(b' ');
                    }
                    $crate::record::Field::write(self.$field, out);
                )*
            }
        }
    )*};
}
pub(crate) use records;
