//! Values of serde types, by way of the postcard format.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::primitive::not_a_value;
use super::typed::{Codec, CodecId};
use crate::base::{Error, Result};

/// The codec of any type that serde can write and read, in the compact
/// [postcard](https://postcard.jamesmunns.com/) format.
///
/// That format says nothing about itself: fields stand one after the other,
/// without names. So a field that is added, removed, or moved makes another
/// version, and so does a variant that does not come last. Raise the version
/// and add the type as it was to an [`Evolving`](super::Evolving):
///
/// ```
/// # fn main() -> alluvium::Result<()> {
/// use alluvium::codec::{Codec, Evolving, Postcard};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct OrderV1 { cents: u64 }
///
/// #[derive(Serialize, Deserialize)]
/// struct Order { cents: u64, currency: String }
///
/// let orders = Evolving::new(Postcard::<Order>::new("shop.Order", 2))
///     .older(Postcard::<OrderV1>::new("shop.Order", 1), |old| Order {
///         cents: old.cents,
///         currency: "EUR".to_owned(),
///     });
/// let mut bytes = Vec::new();
/// orders.encode(&Order { cents: 5, currency: "EUR".to_owned() }, &mut bytes)?;
/// assert_eq!(orders.decode(&bytes)?.currency, "EUR");
/// assert_eq!(orders.id().to_string(), "shop.Order@2");
/// # Ok(())
/// # }
/// ```
///
/// Not for keys whose equal values may have different bytes: a `HashMap`, for
/// one, is written in any order.
pub struct Postcard<T> {
    id: CodecId,
    types: PhantomData<fn() -> T>,
}

impl<T> Postcard<T> {
    /// The codec of version `version` of a type. The name is stored; it should
    /// stay the same when the type is renamed or moved.
    pub fn new(name: &'static str, version: u32) -> Self {
        Self { id: CodecId::new(name, version), types: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Codec<T> for Postcard<T> {
    fn id(&self) -> CodecId {
        self.id.clone()
    }

    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        match postcard::to_io(value, &mut *out) {
            Ok(_) => Ok(()),
            Err(why) => Err(Error::invalid("a value has no encoding")
                .at(format_args!("codec {}", self.id))
                .source(why)
                .remedy("postcard knows no maps or sequences of unknown length, for example")),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<T> {
        let codec = || self.id.to_string();
        match postcard::take_from_bytes(bytes) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => {
                let found = format_args!("{} more", rest.len()).to_string();
                Err(not_a_value(
                    &codec(),
                    format_args!("{} bytes", bytes.len() - rest.len()),
                    found,
                ))
            }
            Err(why) => Err(not_a_value(&codec(), "a value in the postcard format", why)),
        }
    }
}

impl<T> Clone for Postcard<T> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), types: PhantomData }
    }
}

impl<T> fmt::Debug for Postcard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Postcard({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::base::ErrorKind;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Visit {
        page: String,
        seconds: Option<u32>,
        tags: Vec<char>,
    }

    #[test]
    fn values_come_back_and_no_other_length_does() {
        let codec = Postcard::<Visit>::new("Visit", 4);
        let visit = Visit { page: "ä".into(), seconds: Some(70_000), tags: vec!['x', 'ß'] };
        let mut bytes = vec![1, 2];
        codec.encode(&visit, &mut bytes).unwrap();
        assert_eq!(bytes[..2], [1, 2], "encode appends");
        bytes.drain(..2);
        assert_eq!(codec.decode(&bytes).unwrap(), visit);
        for len in 0..bytes.len() {
            let error = codec.decode(&bytes[..len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("Visit@4"), "{error}");
        }
        bytes.push(0);
        assert_eq!(codec.decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn what_postcard_cannot_write_is_invalid() {
        struct Endless;
        impl Serialize for Endless {
            fn serialize<S: serde::Serializer>(
                &self,
                to: S,
            ) -> std::result::Result<S::Ok, S::Error> {
                serde::ser::SerializeSeq::end(to.serialize_seq(None)?)
            }
        }
        impl<'de> Deserialize<'de> for Endless {
            fn deserialize<D: serde::Deserializer<'de>>(
                _: D,
            ) -> std::result::Result<Self, D::Error> {
                Ok(Self)
            }
        }
        let error = Postcard::<Endless>::new("Endless", 1).encode(&Endless, &mut Vec::new());
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
