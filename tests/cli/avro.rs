//! Values of Avro schemas, which are stored beside them.

use alluvium::codec::dynamic::DynamicCodec;
use alluvium::codec::{Avro, Codec};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Serialize, Deserialize)]
struct Order {
    cents: i64,
    currency: String,
    tags: Vec<String>,
    note: Option<String>,
}

#[test]
fn a_record_is_shown_by_the_schema_that_is_stored_with_it() {
    let codec = Avro::<Order>::new(
        r#"{"type": "record", "name": "Order", "fields": [
            {"name": "cents", "type": "long"},
            {"name": "currency", "type": "string"},
            {"name": "tags", "type": {"type": "array", "items": "string"}},
            {"name": "note", "type": ["null", "string"]}]}"#,
    )
    .unwrap();
    let (currency, tags) = ("EUR".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
    let mut bytes = Vec::new();
    codec.encode(&Order { cents: -5, currency, tags, note: None }, &mut bytes).unwrap();
    let dynamic = DynamicCodec::of(&codec.schema());
    assert!(dynamic.is_known());
    let shown = dynamic.decode(&bytes).unwrap();
    assert_eq!(shown, json!({ "cents": -5, "currency": "EUR", "tags": ["a", "b"], "note": null }));
    for len in 0..bytes.len() {
        assert!(dynamic.decode(&bytes[..len]).is_err(), "{len} bytes");
    }
    bytes.push(0);
    assert!(dynamic.decode(&bytes).is_err(), "one too many");
}
