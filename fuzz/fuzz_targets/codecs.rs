//! Every ready codec survives any bytes, and what it can read it writes again
//! byte for byte; and what can be migrated can be read by those who know how.

#![no_main]

use std::collections::BTreeMap;
use std::fmt::Debug;

use alluvium::codec::{
    Avro, Codec, Compatibility, Evolving, HasCodec, OptionCodec, Postcard, Primitive, Reader,
    Schema, StringCodec, TupleCodec, compare,
};
use libfuzzer_sys::fuzz_target;

/// Whether one value has one encoding.
#[derive(Clone, Copy, PartialEq)]
enum Encoding {
    One,
    Several,
}

fn check<T: Debug, C: Codec<T>>(codec: &C, bytes: &[u8], encoding: Encoding) {
    let Ok(value) = codec.decode(bytes) else { return };
    if let Some(len) = codec.fixed_len() {
        assert_eq!(len, bytes.len());
    }
    let mut again = vec![0xaa];
    codec.encode(&value, &mut again).expect("what was read can be written");
    assert_eq!(again.remove(0), 0xaa, "encode appends");
    if encoding == Encoding::One {
        assert_eq!(again, bytes, "{value:?}");
    }
    let value_again = codec.decode(&again).expect("what was written can be read");
    // By their text, since a NaN is not equal to itself.
    assert_eq!(format!("{value_again:?}"), format!("{value:?}"));
}

fn ready<T: HasCodec + Debug>(bytes: &[u8]) {
    check(&T::Codec::default(), bytes, Encoding::One);
}

type Old = TupleCodec<(Primitive<u16>, OptionCodec<StringCodec>, Primitive<u8>)>;

fuzz_target!(|bytes: &[u8]| {
    ready::<u8>(bytes);
    ready::<u16>(bytes);
    ready::<u32>(bytes);
    ready::<u64>(bytes);
    ready::<u128>(bytes);
    ready::<i8>(bytes);
    ready::<i16>(bytes);
    ready::<i32>(bytes);
    ready::<i64>(bytes);
    ready::<i128>(bytes);
    ready::<f32>(bytes);
    ready::<f64>(bytes);
    ready::<bool>(bytes);
    ready::<char>(bytes);
    ready::<()>(bytes);
    ready::<String>(bytes);
    ready::<Vec<u8>>(bytes);
    ready::<Option<String>>(bytes);
    ready::<Option<Option<u16>>>(bytes);
    ready::<(String, Vec<u8>)>(bytes);
    ready::<(u16, Option<char>, i64)>(bytes);
    ready::<((bool, String), f64, (), Option<(u8, i8)>, Vec<u8>, u32)>(bytes);

    type Struct = (u32, String, Option<Vec<i64>>, BTreeMap<u8, char>, f32);
    check(&Postcard::<Struct>::new("struct", 1), bytes, Encoding::Several);
    let avro = Avro::<Option<i64>>::new(r#"["null", "long"]"#).expect("a schema");
    check(&avro, bytes, Encoding::Several);

    let mut reader = Reader::new("schema", bytes);
    if let Ok(schema) = Schema::decode(&mut reader) {
        let mut again = Vec::new();
        schema.encode(&mut again);
        assert!(bytes.starts_with(&again));
        // Whatever it says, codecs of parts survive it, and it says one thing.
        let _ = compare(&Old::default(), &schema);
        let _ = compare(&avro, &schema);
        let parts = Schema::new(Codec::id(&Old::default()), bytes);
        if let Compatibility::Migrate(read) = compare(&Old::default(), &parts) {
            let _ = read(bytes);
        }
    }

    let wider =
        Evolving::new(Primitive::<u64>::default()).older(Primitive::<u16>::default(), u64::from);
    let new = TupleCodec((wider, OptionCodec(StringCodec), Primitive::<u8>::default()));
    let Compatibility::Migrate(read) = compare(&new, &Old::default().schema()) else {
        panic!("each part can be read");
    };
    let old: Result<(u16, Option<String>, u8), _> = Old::default().decode(bytes);
    match (old, read(bytes)) {
        (Ok(old), Ok(new)) => assert_eq!((u64::from(old.0), old.1, old.2), new),
        (Err(_), Err(_)) => {}
        (old, new) => panic!("{old:?} became {new:?}"),
    }
});
