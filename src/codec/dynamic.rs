//! Reading stored bytes by their stored schema, without the type that they were made
//! of: for tools.
//!
//! | codec | as JSON | as the text of a key |
//! | --- | --- | --- |
//! | integers up to 64 bits, `bool` | a number, true or false | the same |
//! | `u128`, `i128` beyond that | a string of digits | digits |
//! | floats | a number; `"NaN"`, `"inf"`, `"-inf"` | the same |
//! | `string`, `char` | a string | the text as it is |
//! | `bytes` | a string, `0x` and hexadecimal digits | the same |
//! | `unit` | null | nothing, or `null` |
//! | `option(..)` | null, or the value; what is null itself is `{"some": null}` | JSON |
//! | `tuple(..)` | an array | JSON |
//! | `avro..`, with the feature `avro` | what its schema says | cannot be given |
//! | any other | a string, `0x` and hexadecimal digits | the same |
//!
//! Strings inside options and tuples are JSON strings. What schemas and bytes say is
//! not trusted: a schema that does not fit its codec's name is one of an unknown codec,
//! and bytes that do not fit are `Corrupt`.

use serde_json::{Number, Value, json};

use super::compose::parts_of;
use super::primitive::not_a_value;
use super::{BytesCodec, Codec, Primitive, Reader, Schema, StringCodec, varint};
use crate::base::{Error, Result};

/// How deep options and tuples are looked into; what is deeper is shown as bytes.
const MAX_DEPTH: usize = 32;

/// What a stored schema says of bytes.
#[derive(Debug)]
pub struct DynamicCodec {
    shape: Shape,
    name: String,
}

#[derive(Debug)]
enum Shape {
    Unit,
    Bool,
    Char,
    Int(Int),
    F32,
    F64,
    Text,
    Bytes,
    Option(Box<Shape>),
    Tuple(Vec<Part>),
    #[cfg(feature = "avro")]
    Avro(Box<super::avro::DynamicAvro>),
    Unknown,
}

#[derive(Debug)]
struct Part {
    fixed_len: Option<usize>,
    shape: Shape,
}

macro_rules! ints {
    ($($name:literal $variant:ident $int:ty),*) => {
        #[derive(Clone, Copy, Debug)]
        enum Int {
            $($variant,)*
        }

        impl Int {
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            fn decode(self, bytes: &[u8]) -> Result<Value> {
                Ok(match self {
                    $(Self::$variant => {
                        let value = Primitive::<$int>::default().decode(bytes)?;
                        // Beyond 64 bits most readers of JSON would round.
                        match (u64::try_from(value), i64::try_from(value)) {
                            (Ok(value), _) => value.into(),
                            (_, Ok(value)) => value.into(),
                            _ => value.to_string().into(),
                        }
                    })*
                })
            }

            fn parse(self, text: &str, out: &mut Vec<u8>) -> Result<()> {
                match self {
                    $(Self::$variant => {
                        let value: $int = text.parse().map_err(|why| not_text($name, text, why))?;
                        Primitive::<$int>::default().encode(&value, out)
                    })*
                }
            }
        }
    };
}

ints!(
    "u8" U8 u8, "u16" U16 u16, "u32" U32 u32, "u64" U64 u64, "u128" U128 u128,
    "i8" I8 i8, "i16" I16 i16, "i32" I32 i32, "i64" I64 i64, "i128" I128 i128
);

impl DynamicCodec {
    /// What is known of bytes that were written under `schema`.
    pub fn of(schema: &Schema) -> Self {
        Self { shape: Shape::of(schema, 0), name: schema.id().to_string() }
    }

    /// Whether the codec, and each codec inside it, is known: if not, what is not is
    /// shown as hexadecimal digits.
    pub fn is_known(&self) -> bool {
        self.shape.is_known()
    }

    /// The value that all of `bytes` stand for.
    ///
    /// # Errors
    /// `Corrupt` if they stand for none.
    pub fn decode(&self, bytes: &[u8]) -> Result<Value> {
        self.shape.decode(bytes).map_err(|error| error.at(format_args!("codec {}", self.name)))
    }

    /// Appends the bytes of what a text says.
    ///
    /// # Errors
    /// `Invalid` if the text is not that of a value.
    pub fn parse(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let parsed = match &self.shape {
            Shape::Unit if text.is_empty() => Ok(()),
            Shape::Option(_) | Shape::Tuple(_) | Shape::Unit => serde_json::from_str(text)
                .map_err(|why| not_text("JSON", text, why))
                .and_then(|value| self.shape.encode(&value, out)),
            shape => shape.parse(text, out),
        };
        parsed.map_err(|error| error.at(format_args!("codec {}", self.name)))
    }

    /// Appends the bytes of a value, as [`decode`](Self::decode) gives it.
    ///
    /// # Errors
    /// `Invalid` if it is none of this codec.
    pub fn encode(&self, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        self.shape.encode(value, out).map_err(|error| error.at(format_args!("codec {}", self.name)))
    }
}

impl Shape {
    fn of(schema: &Schema, depth: usize) -> Self {
        let (name, version) = (&*schema.id().name, schema.id().version);
        if version != 1 || depth > MAX_DEPTH {
            return Self::Unknown;
        }
        #[cfg(feature = "avro")]
        if name == "avro" || name.starts_with("avro(") {
            return match super::avro::DynamicAvro::of(schema.detail()) {
                Some(avro) => Self::Avro(Box::new(avro)),
                None => Self::Unknown,
            };
        }
        let simple = match name {
            "unit" => Self::Unit,
            "bool" => Self::Bool,
            "char" => Self::Char,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "string" => Self::Text,
            "bytes" => Self::Bytes,
            _ => match Int::named(name) {
                Some(int) => Self::Int(int),
                None => return Self::composed(schema, depth),
            },
        };
        if schema.detail().is_empty() { simple } else { Self::Unknown }
    }

    fn composed(schema: &Schema, depth: usize) -> Self {
        let parts_as = |outer| {
            let parts = parts_of(outer, schema)?;
            Some(
                parts
                    .map(|(fixed_len, part)| Part { fixed_len, shape: Self::of(&part, depth + 1) }),
            )
        };
        if let Some(mut parts) = parts_as("option") {
            return match (parts.next(), parts.next()) {
                (Some(part), None) => Self::Option(Box::new(part.shape)),
                _ => Self::Unknown,
            };
        }
        match parts_as("tuple") {
            Some(parts) => Self::Tuple(parts.collect()),
            None => Self::Unknown,
        }
    }

    fn is_known(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Option(inner) => inner.is_known(),
            Self::Tuple(parts) => parts.iter().all(|part| part.shape.is_known()),
            _ => true,
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Value> {
        Ok(match self {
            Self::Unit => {
                Primitive::<()>::default().decode(bytes)?;
                Value::Null
            }
            Self::Bool => Primitive::<bool>::default().decode(bytes)?.into(),
            Self::Char => Primitive::<char>::default().decode(bytes)?.to_string().into(),
            Self::Int(int) => int.decode(bytes)?,
            // By way of its shortest text, or 0.1 would become 0.10000000149011612.
            Self::F32 => float(Primitive::<f32>::default().decode(bytes)?),
            Self::F64 => float(Primitive::<f64>::default().decode(bytes)?),
            Self::Text => StringCodec.decode(bytes)?.into(),
            Self::Bytes | Self::Unknown => hex(bytes).into(),
            Self::Option(inner) => match bytes {
                [0] => Value::Null,
                [1, value @ ..] => match inner.decode(value)? {
                    Value::Null => json!({ "some": null }),
                    value => value,
                },
                _ => return Err(not_a_value("option", "0 alone, or 1 and a value", hex(bytes))),
            },
            Self::Tuple(parts) => {
                let mut reader = Reader::new("tuple", bytes);
                let last = parts.len().saturating_sub(1);
                let mut values = Vec::with_capacity(parts.len());
                for (place, part) in parts.iter().enumerate() {
                    let bytes = match part.fixed_len {
                        _ if place == last => reader.rest(),
                        Some(len) => reader.take("part", len)?,
                        None => reader.bytes("part", usize::MAX)?,
                    };
                    let value = part.shape.decode(bytes);
                    values.push(value.map_err(|e| e.at(format_args!("part {}", place + 1)))?);
                }
                reader.finish()?;
                values.into()
            }
            #[cfg(feature = "avro")]
            Self::Avro(avro) => avro.decode(bytes)?,
        })
    }

    /// What a text says that stands by itself.
    fn parse(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Int(int) => int.parse(text, out),
            Self::Bool => {
                let value: bool = text.parse().map_err(|why| not_text("bool", text, why))?;
                Primitive::<bool>::default().encode(&value, out)
            }
            Self::Char => {
                let value: char = text.parse().map_err(|why| not_text("char", text, why))?;
                Primitive::<char>::default().encode(&value, out)
            }
            Self::F32 => {
                let value: f32 = text.parse().map_err(|why| not_text("f32", text, why))?;
                Primitive::<f32>::default().encode(&value, out)
            }
            Self::F64 => {
                let value: f64 = text.parse().map_err(|why| not_text("f64", text, why))?;
                Primitive::<f64>::default().encode(&value, out)
            }
            Self::Text => StringCodec.encode(&text.to_owned(), out),
            Self::Bytes | Self::Unknown => BytesCodec.encode(&unhex(text)?, out),
            #[cfg(feature = "avro")]
            Self::Avro(_) => {
                Err(Error::invalid("a value of an Avro schema cannot be given as text")
                    .remedy("give its bytes in hexadecimal"))
            }
            Self::Unit | Self::Option(_) | Self::Tuple(_) => {
                Err(Error::internal("what is composed is given as JSON"))
            }
        }
    }

    fn encode(&self, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        match (self, value) {
            (Self::Unit, Value::Null) => Ok(()),
            (Self::Option(_), Value::Null) => {
                out.push(0);
                Ok(())
            }
            (Self::Option(inner), value) => {
                out.push(1);
                match value {
                    Value::Object(fields) if fields.len() == 1 && fields.contains_key("some") => {
                        inner.encode(&fields["some"], out)
                    }
                    value => inner.encode(value, out),
                }
            }
            (Self::Tuple(parts), Value::Array(values)) if parts.len() == values.len() => {
                for (place, (part, value)) in parts.iter().zip(values).enumerate() {
                    let mut bytes = Vec::new();
                    part.shape.encode(value, &mut bytes)?;
                    if place + 1 < parts.len() && part.fixed_len.is_none() {
                        varint::put_u64(out, bytes.len() as u64);
                    }
                    out.extend_from_slice(&bytes);
                }
                Ok(())
            }
            (Self::Tuple(parts), other) => Err(Error::invalid("not a value of this codec")
                .expected(format_args!("an array of {}", parts.len()))
                .found(other)),
            (Self::Text | Self::Char | Self::Bytes | Self::Unknown, Value::String(text)) => {
                self.parse(text, out)
            }
            (Self::Int(_) | Self::F32 | Self::F64, Value::String(text)) => self.parse(text, out),
            (Self::Int(_) | Self::F32 | Self::F64, Value::Number(number)) => {
                self.parse(&number.to_string(), out)
            }
            (Self::Bool, Value::Bool(value)) => {
                out.push(u8::from(*value));
                Ok(())
            }
            (_, other) => Err(Error::invalid("not a value of this codec").found(other)),
        }
    }
}

/// A number, or its name if it is none.
fn float<T: std::fmt::Display>(value: T) -> Value {
    let text = value.to_string();
    match text.parse().ok().and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::String(text),
    }
}

/// `0x` and two digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes that hexadecimal digits stand for, with or without `0x`.
///
/// # Errors
/// `Invalid` if they are not pairs of digits.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let pair = |pair: &[u8]| {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        Some((digit(0)? << 4 | digit(1)?) as u8)
    };
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(pair).collect();
    bytes.ok_or_else(|| not_text("bytes", text, "pairs of hexadecimal digits are wanted"))
}

fn not_text(codec: &str, text: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format_args!("the text is not that of a value of {codec}"))
        .expected(why)
        .found(format_args!("{text:.80?}"))
}

/// The fields of a record, in order.
#[cfg(feature = "avro")]
pub(super) fn object(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value::Object(fields.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;
    use crate::codec::{CodecId, HasCodec};

    fn bytes_of<T: HasCodec>(value: &T) -> (DynamicCodec, Vec<u8>) {
        let codec = T::Codec::default();
        let mut bytes = Vec::new();
        codec.encode(value, &mut bytes).unwrap();
        (DynamicCodec::of(&codec.schema()), bytes)
    }

    /// A value is shown like this, and what is shown is read back as its bytes.
    fn shown<T: HasCodec>(value: T, expected: Value) {
        let (codec, bytes) = bytes_of(&value);
        assert!(codec.is_known());
        let decoded = codec.decode(&bytes).unwrap();
        assert_eq!(decoded, expected);
        let mut again = Vec::new();
        codec.encode(&decoded, &mut again).unwrap();
        assert_eq!(again, bytes, "{decoded}");
        for len in 0..bytes.len() {
            // Some beginnings of texts are texts; none may be a panic.
            let _ = codec.decode(&bytes[..len]);
        }
    }

    #[test]
    fn values_of_ready_codecs_are_shown_and_what_is_shown_is_read_back() {
        shown(17u8, json!(17));
        shown(u64::MAX, json!(u64::MAX));
        shown(i64::MIN, json!(i64::MIN));
        shown(u128::MAX, json!(u128::MAX.to_string()));
        shown(i128::MIN, json!(i128::MIN.to_string()));
        shown(-5i128, json!(-5));
        shown(0.1f32, json!(0.1));
        shown(-1.5f64, json!(-1.5));
        shown(f64::INFINITY, json!("inf"));
        shown(f64::NAN, json!("NaN"));
        shown(true, json!(true));
        shown('ß', json!("ß"));
        shown((), json!(null));
        shown("grün".to_owned(), json!("grün"));
        shown(vec![0u8, 255], json!("0x00ff"));
        shown(None::<u64>, json!(null));
        shown(Some(3u64), json!(3));
        shown(Some(None::<u64>), json!({ "some": null }));
        shown(Some(Some(3u64)), json!(3));
        shown((7u64, "a,b".to_owned(), Some(false), vec![1u8]), json!([7, "a,b", false, "0x01"]));
        shown((String::new(), (1u8, String::from("x"))), json!(["", [1, "x"]]));
    }

    #[test]
    fn keys_are_given_as_a_person_would_write_them() {
        let parse = |schema: &Schema, text: &str| {
            let mut bytes = Vec::new();
            DynamicCodec::of(schema).parse(text, &mut bytes).map(|()| bytes)
        };
        let schema = |name: &'static str| Schema::from(CodecId::new(name, 1));
        assert_eq!(parse(&schema("u16"), "258").unwrap(), [1, 2]);
        assert_eq!(parse(&schema("string"), "a \"b\"").unwrap(), b"a \"b\"");
        assert_eq!(parse(&schema("bytes"), "0x00fF").unwrap(), [0, 255]);
        assert_eq!(parse(&schema("my.app.Key"), "0a").unwrap(), [10]);
        assert!(parse(&schema("unit"), "").unwrap().is_empty());
        let tuple = <(u8, String) as HasCodec>::Codec::default().schema();
        assert_eq!(parse(&tuple, r#"[3, "x"]"#).unwrap(), [3, b'x']);
        for (schema, text) in [
            (&schema("u16"), "65536"),
            (&schema("u16"), "x"),
            (&schema("bytes"), "0x0"),
            (&schema("bytes"), "0xé"),
            (&schema("bool"), "1"),
            (&tuple, "[3]"),
            (&tuple, "3,x"),
        ] {
            assert_eq!(parse(schema, text).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
    }

    #[test]
    fn schemas_that_are_not_known_or_do_not_fit_their_names_are_shown_as_bytes() {
        let id = |name: &'static str, version| CodecId::new(name, version);
        for schema in [
            Schema::from(id("shop.Order", 2)),
            Schema::from(id("u64", 2)),
            Schema::new(id("u64", 1), *b"?"),
            Schema::from(id("tuple(u64,string)", 1)),
            Schema::new(id("tuple(u64,string)", 1), *b"nonsense"),
            Schema::from(id("option(", 1)),
        ] {
            let codec = DynamicCodec::of(&schema);
            assert!(!codec.is_known(), "{schema:?}");
            assert_eq!(codec.decode(b"\x01\xab").unwrap(), json!("0x01ab"));
        }
    }

    #[test]
    fn a_schema_that_is_nested_without_end_is_shown_as_bytes() {
        let mut schema = Schema::from(CodecId::new("u8", 1));
        for _ in 0..2 * MAX_DEPTH {
            let mut detail = vec![0];
            schema.encode(&mut detail);
            schema = Schema::new(CodecId::new("option()", 1), detail);
        }
        assert!(!DynamicCodec::of(&schema).is_known());
    }
}
