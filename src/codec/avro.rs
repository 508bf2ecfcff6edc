//! Values by an Avro schema, which is stored beside them.

use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::sync::Arc;

use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::{Schema as AvroSchema, from_avro_datum, from_value, to_avro_datum, to_value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::primitive::not_a_value;
use super::schema::{Compatibility, Schema};
use super::typed::{Codec, CodecId};
use crate::base::{Error, Result};

/// The codec of a type that serde can write and read, in Avro's binary format
/// and by an Avro schema.
///
/// The schema is stored with the state. When a record was written by another
/// one, Avro's rules for the schemas of writer and reader decide whether it can
/// be read, and how: fields by name, defaults for those that are new, numbers
/// that may be widened. There are no version numbers; changing the schema is
/// enough.
///
/// ```
/// # fn main() -> alluvium::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let backend = alluvium::Backend::builder(dir.path()).open()?;
/// # let groups = backend.max_parallelism().all_groups();
/// use alluvium::codec::{Avro, Primitive};
/// use alluvium::{SnapshotId, ValueState};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct OrderV1 { cents: i32 }
/// let v1 = Avro::<OrderV1>::new(r#"{"type": "record", "name": "Order", "fields": [
///     {"name": "cents", "type": "int"}]}"#)?;
/// let (keys, no_namespace) = (Primitive::<u64>::default(), Primitive::<()>::default());
///
/// let mut shard = backend.shard("shop", groups).open()?;
/// let orders: ValueState<u64, OrderV1, (), _, _, _> =
///     ValueState::with_codecs(&mut shard, "orders", keys, no_namespace, v1)?;
/// orders.put(&mut shard, &17, &OrderV1 { cents: 250 })?;
/// let handle = shard.snapshot(SnapshotId(1), b"")?.wait()?.handle;
///
/// // The next version of the job: wider, and with one field more.
/// #[derive(Serialize, Deserialize)]
/// struct Order { cents: i64, currency: String }
/// let v2 = Avro::<Order>::new(r#"{"type": "record", "name": "Order", "fields": [
///     {"name": "cents", "type": "long"},
///     {"name": "currency", "type": "string", "default": "EUR"}]}"#)?;
/// let mut shard = backend.shard("shop", groups).restore([handle]).open()?;
/// let orders: ValueState<u64, Order, (), _, _, _> =
///     ValueState::with_codecs(&mut shard, "orders", keys, no_namespace, v2)?;
/// let order = orders.get(&mut shard, &17)?.expect("it was stored");
/// assert_eq!((order.cents, &*order.currency), (250, "EUR"));
/// # Ok(())
/// # }
/// ```
///
/// Not for keys whose equal values may have different bytes (maps, that is).
/// How much a value may allocate while it is decoded is the `apache-avro`
/// crate's own setting, `apache_avro::max_allocation_bytes`.
pub struct Avro<T> {
    inner: Arc<Inner>,
    types: PhantomData<fn() -> T>,
}

struct Inner {
    id: CodecId,
    schema: AvroSchema,
    /// The schema as stored: no white space, attributes in a fixed order, and
    /// everything that decides how bytes are read, logical types included.
    json: String,
}

impl<T> Avro<T> {
    /// The codec of `schema`, in JSON.
    ///
    /// # Errors
    /// `Invalid` if it is not an Avro schema.
    pub fn new(schema: &str) -> Result<Self> {
        let schema = parse(schema).map_err(|why| {
            Error::invalid("not an Avro schema").source(why).remedy("correct the JSON")
        })?;
        let json = serde_json::to_string(&schema)
            .map_err(|why| Error::invalid("an Avro schema cannot be written").source(why))?;
        let name = match schema.name() {
            Some(name) => format!("avro({})", name.fullname(None)),
            None => "avro".to_owned(),
        };
        let inner = Inner { id: CodecId::new(name, 1), schema, json };
        Ok(Self { inner: Arc::new(inner), types: PhantomData })
    }
}

fn parse(json: &str) -> std::result::Result<AvroSchema, apache_avro::Error> {
    AvroSchema::parse_str(json)
}

impl<T: Serialize + DeserializeOwned + 'static> Avro<T> {
    /// Reads bytes that were written by the schema `writer`.
    fn read(&self, bytes: &[u8], writer: Option<&AvroSchema>) -> Result<T> {
        let schema = &self.inner.schema;
        let mut reader = Exact { rest: bytes, overrun: false };
        let value = match writer {
            None => from_avro_datum(schema, &mut reader, None),
            Some(writer) => from_avro_datum(writer, &mut reader, Some(schema)),
        };
        let codec = || self.inner.id.to_string();
        let value = value
            .and_then(|value| from_value(&value))
            .map_err(|why| not_a_value(&codec(), "a value of the Avro schema", why))?;
        if reader.overrun || !reader.rest.is_empty() {
            let what = if reader.overrun { "too few" } else { "too many" };
            return Err(not_a_value(&codec(), "the bytes of one value", what));
        }
        Ok(value)
    }
}

/// A schema that was stored, without a type.
#[cfg(feature = "dynamic")]
pub(super) struct DynamicAvro(AvroSchema);

#[cfg(feature = "dynamic")]
impl DynamicAvro {
    /// That of a schema's detail, if it is one.
    pub(super) fn of(detail: &[u8]) -> Option<Self> {
        parse(std::str::from_utf8(detail).ok()?).ok().map(Self)
    }

    /// The value that all of `bytes` stand for, as JSON.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<serde_json::Value> {
        let mut reader = Exact { rest: bytes, overrun: false };
        let value = from_avro_datum(&self.0, &mut reader, None)
            .map_err(|why| not_a_value("avro", "a value of the Avro schema", why))?;
        if reader.overrun || !reader.rest.is_empty() {
            let what = if reader.overrun { "too few" } else { "too many" };
            return Err(not_a_value("avro", "the bytes of one value", what));
        }
        Ok(to_json(value))
    }
}

#[cfg(feature = "dynamic")]
impl fmt::Debug for DynamicAvro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DynamicAvro")
    }
}

#[cfg(feature = "dynamic")]
fn to_json(value: apache_avro::types::Value) -> serde_json::Value {
    use super::dynamic::{hex, object};
    use apache_avro::types::Value;
    match value {
        Value::Union(_, inner) => to_json(*inner),
        Value::Record(fields) => {
            object(fields.into_iter().map(|(name, value)| (name, to_json(value))))
        }
        Value::Map(entries) => {
            object(entries.into_iter().map(|(name, value)| (name, to_json(value))))
        }
        Value::Array(items) => items.into_iter().map(to_json).collect(),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => hex(&bytes).into(),
        Value::Enum(_, symbol) => symbol.into(),
        // Numbers, texts and what logical types make of them; what has no JSON is named.
        other => {
            let text = format!("{other:?}");
            serde_json::Value::try_from(other).unwrap_or(serde_json::Value::String(text))
        }
    }
}

/// Notes whether more was asked for than there is: the decoder takes a union that
/// is cut off for null.
struct Exact<'a> {
    rest: &'a [u8],
    overrun: bool,
}

impl Read for Exact<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.overrun |= out.len() > self.rest.len();
        self.rest.read(out)
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Codec<T> for Avro<T> {
    fn id(&self) -> CodecId {
        self.inner.id.clone()
    }

    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        let schema = &self.inner.schema;
        let bytes = to_value(value)
            .and_then(|value| value.resolve(schema))
            .and_then(|value| to_avro_datum(schema, value))
            .map_err(|why| {
                Error::invalid("a value does not fit its Avro schema")
                    .at(format_args!("codec {}", self.inner.id))
                    .source(why)
                    .remedy("let the fields of the type and of the schema be the same")
            })?;
        out.extend_from_slice(&bytes);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<T> {
        self.read(bytes, None)
    }

    fn schema_detail(&self) -> Vec<u8> {
        self.inner.json.clone().into_bytes()
    }

    fn compatibility(&self, stored: &Schema) -> Compatibility<T> {
        if !stored.id().name.starts_with("avro") {
            return Compatibility::Incompatible(self.schema().difference(stored));
        }
        let json = String::from_utf8_lossy(stored.detail());
        let writer = match parse(&json) {
            Ok(writer) => writer,
            Err(why) => {
                return Compatibility::Incompatible(format!("the stored Avro schema: {why}"));
            }
        };
        match SchemaCompatibility::can_read(&writer, &self.inner.schema) {
            Ok(()) => {
                let this = self.clone();
                Compatibility::Migrate(Box::new(move |bytes| this.read(bytes, Some(&writer))))
            }
            Err(why) => Compatibility::Incompatible(format!(
                "{why}; the stored Avro schema is {json:.1000}, that of the codec {:.1000}",
                self.inner.json
            )),
        }
    }
}

impl<T> Clone for Avro<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), types: PhantomData }
    }
}

impl<T> fmt::Debug for Avro<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Avro({})", self.inner.json)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::base::ErrorKind;
    use crate::codec::compare;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Visit {
        page: String,
        seconds: Option<i64>,
    }

    fn visit(fields: &str) -> Avro<Visit> {
        let json = format!(r#"{{"type":"record","name":"web.Visit","fields":[{fields}]}}"#);
        Avro::new(&json).unwrap()
    }

    const PAGE: &str = r#"{"name":"page","type":"string"}"#;
    const SECONDS: &str = r#"{"name":"seconds","type":["null","long"],"default":null}"#;

    #[test]
    fn values_come_back_and_no_other_length_does() {
        let codec = visit(&format!("{PAGE},{SECONDS}"));
        let value = Visit { page: "ä".into(), seconds: Some(70_000) };
        let mut bytes = vec![1, 2];
        codec.encode(&value, &mut bytes).unwrap();
        assert_eq!(bytes[..2], [1, 2], "encode appends");
        bytes.drain(..2);
        assert_eq!(codec.decode(&bytes).unwrap(), value);
        for len in 0..bytes.len() {
            assert_eq!(
                codec.decode(&bytes[..len]).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{len}"
            );
        }
        bytes.push(0);
        assert_eq!(codec.decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn the_rules_of_avro_decide() {
        #[derive(Serialize, Deserialize)]
        struct Old {
            page: String,
        }
        let old =
            r#"{"type":"record","name":"web.Visit","fields":[{"name":"page","type":"string"}]}"#;
        let old = Avro::<Old>::new(old).unwrap();
        let mut bytes = Vec::new();
        old.encode(&Old { page: "p".into() }, &mut bytes).unwrap();
        let new = visit(&format!("{SECONDS},{PAGE}"));
        let Compatibility::Migrate(read) = compare(&new, &old.schema()) else {
            panic!("a field with a default may be added");
        };
        assert_eq!(read(&bytes).unwrap(), Visit { page: "p".into(), seconds: None });
        assert!(read(&bytes[1..]).is_err());

        let no_default = visit(&format!(r#"{PAGE},{{"name":"seconds","type":"long"}}"#));
        let other_name = Avro::<Old>::new(
            r#"{"type":"record","name":"Page","fields":[{"name":"page","type":"string"}]}"#,
        );
        for (codec, fact) in [
            (compare(&no_default, &old.schema()), "seconds"),
            (compare(&new, &CodecId::new("string", 1).into()), "string"),
            (compare(&new, &other_name.unwrap().schema()), "Page"),
            (compare(&new, &Schema::new(CodecId::new("avro", 1), *b"{")), "stored Avro schema"),
        ] {
            let Compatibility::Incompatible(reason) = codec else { panic!("{fact}: readable") };
            assert!(reason.contains(fact), "{reason:?} does not say {fact:?}");
        }
    }

    #[test]
    fn white_space_is_no_difference_and_what_is_no_schema_is_invalid() {
        let one = Avro::<String>::new(r#"{"type":"string"}"#).unwrap();
        let other = Avro::<String>::new(" \"string\" ").unwrap();
        assert_eq!(one.schema(), other.schema());
        assert_eq!(Avro::<String>::new("{").unwrap_err().kind(), ErrorKind::Invalid);
    }
}
