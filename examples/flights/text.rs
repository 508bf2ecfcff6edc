//! Short texts that own no memory, so that what has them is copied and not allocated.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// At most `MAX_BYTES` bytes of UTF-8, kept in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text<const MAX_BYTES: usize> {
    len: u8,
    bytes: [u8; MAX_BYTES],
}

impl<const MAX_BYTES: usize> Text<MAX_BYTES> {
    /// The longest that fits.
    pub(crate) const MAX_BYTES: usize = MAX_BYTES;

    pub(crate) const EMPTY: Self = Self { len: 0, bytes: [0; MAX_BYTES] };

    /// The text; `None` if it is too long.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let mut this = Self::EMPTY;
        fmt::Write::write_str(&mut this, text).ok().map(|()| this)
    }

    pub(crate) fn as_str(&self) -> &str {
        let bytes = &self.bytes[..usize::from(self.len)];
        std::str::from_utf8(bytes).expect("it was made of whole texts")
    }
}

impl<const MAX_BYTES: usize> fmt::Write for Text<MAX_BYTES> {
    /// Appends a text that fits; fails, and appends nothing, if it does not.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let from = usize::from(self.len);
        let end = from + text.len();
        let len = u8::try_from(end).map_err(|_| fmt::Error)?;
        self.bytes.get_mut(from..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = len;
        Ok(())
    }
}

impl<const MAX_BYTES: usize> fmt::Display for Text<MAX_BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const MAX_BYTES: usize> fmt::Debug for Text<MAX_BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const MAX_BYTES: usize> Serialize for Text<MAX_BYTES> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, const MAX_BYTES: usize> Deserialize<'de> for Text<MAX_BYTES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Short<const MAX_BYTES: usize>;

        impl<const MAX_BYTES: usize> Visitor<'_> for Short<MAX_BYTES> {
            type Value = Text<MAX_BYTES>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_BYTES} bytes of text")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Text::of(text).ok_or_else(|| E::invalid_length(text.len(), &self))
            }
        }

        deserializer.deserialize_str(Short)
    }
}
