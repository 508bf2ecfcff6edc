//! Manifests and snapshot handles: what goes in comes out, what contradicts
//! itself is refused on both sides, and no damage passes.

use alluvium::base::checksum::{ContentHash, of_contents};
use alluvium::base::{
    ErrorKind, FileId, KeyGroup, KeyGroupRange, MaxParallelism, SnapshotId, TimeDomain,
};
use alluvium::codec::{CodecId, MAX_SCHEMA_DETAIL_BYTES, Schema};
use alluvium::format::envelope::ENVELOPE_BYTES;
use alluvium::format::{
    Items, Manifest, OperatorPart, OperatorState, OperatorStateMode, SnapshotHandle, StateKind,
    StateMeta, TableMeta, TableRef, TtlMeta,
};

fn groups(first: u16, last: u16) -> KeyGroupRange {
    KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap()
}

fn state(name: &str) -> StateMeta {
    StateMeta {
        name: name.into(),
        kind: StateKind::Value,
        key_schema: CodecId::new("tuple(u64,string)", 1).into(),
        namespace_schema: CodecId::new("unit", 1).into(),
        map_key_schema: None,
        value_schema: CodecId::new("my.Order", 70_000).into(),
        older_value_schemas: Vec::new(),
        ttl: None,
    }
}

fn order(version: u32) -> Schema {
    Schema::new(CodecId::new("my.Order", version), *b"{\"type\": \"record\"}")
}

fn state_with_history(name: &str) -> StateMeta {
    let mut older = vec![order(1), order(2), order(3)];
    older.sort_by_key(Schema::fingerprint);
    StateMeta {
        kind: StateKind::Map,
        map_key_schema: Some(CodecId::new("string", 1).into()),
        older_value_schemas: older,
        ttl: Some(TtlMeta { time: TimeDomain::Event, duration_ms: 60_000, since_ms: Some(-7) }),
        ..state(name)
    }
}

fn table(number: u64, in_table: KeyGroupRange, slice: KeyGroupRange) -> TableRef {
    TableRef {
        meta: TableMeta {
            file: FileId { incarnation: 1, number },
            bytes: 1000 + number,
            hash: ContentHash(u128::from(number) << 70),
            records: 10,
            tombstones: 2,
            raw_bytes: 500,
            groups: in_table,
        },
        location: format!("shared/{number}.tbl"),
        slice,
        dropped: Vec::new(),
    }
}

fn part(schema: Schema, items: &[&str]) -> OperatorPart {
    OperatorPart { value_schema: schema, items: items.iter().collect() }
}

fn operator_states() -> Vec<OperatorState> {
    let list = |name: &str, mode, parts| OperatorState {
        name: name.into(),
        mode,
        key_schema: None,
        parts,
    };
    let rules = part(order(2), &["", "none", "heron", "stay", "heronry", ""]);
    vec![
        list("aa list", OperatorStateMode::List, vec![part(order(1), &["one", "", "three"])]),
        OperatorState {
            name: "ab rules".into(),
            mode: OperatorStateMode::Broadcast,
            key_schema: Some(CodecId::new("string", 4).into()),
            parts: vec![rules],
        },
        list("ac empty", OperatorStateMode::List, vec![part(order(1), &[])]),
        list(
            "ad union",
            OperatorStateMode::UnionList,
            vec![part(order(1), &["x"]), part(order(2), &["y", "z"]), part(order(1), &["w"])],
        ),
    ]
}

fn sample() -> Manifest {
    Manifest {
        snapshot: SnapshotId(42),
        operator: "count per user".into(),
        created_unix_ms: 1_795_000_000_000,
        sequence: 1 << 40,
        groups: groups(32, 95),
        max_parallelism: MaxParallelism::DEFAULT,
        watermark: Some(-1),
        states: vec![state("a"), state("b"), state_with_history("ba")],
        tables: vec![
            table(9, groups(0, 63), groups(32, 63)),
            TableRef {
                dropped: vec!["a".into(), "gone".into()],
                ..table(3, groups(60, 127), groups(64, 95))
            },
            table(11, groups(40, 41), groups(40, 41)),
        ],
        operator_states: operator_states(),
        user_meta: b"offsets".to_vec(),
    }
}

#[test]
fn a_manifest_comes_back_and_encodes_to_the_same_bytes() {
    let empty = Manifest {
        states: vec![],
        tables: vec![],
        operator_states: vec![],
        user_meta: vec![],
        ..sample()
    };
    let mut large = Manifest { user_meta: vec![7; 1 << 20], ..sample() };
    let items: Items = (0..700_usize).map(|len| vec![len as u8; len * len % 30_000]).collect();
    large.operator_states[0].parts[0].items = items;
    for manifest in [sample(), empty, large] {
        let bytes = manifest.encode().unwrap();
        let back = Manifest::decode(&bytes).unwrap();
        assert_eq!(back, manifest);
        assert_eq!(back.encode().unwrap(), bytes);
    }
}

type Damage = fn(&mut Manifest);

#[test]
fn a_manifest_that_contradicts_itself_is_not_written() {
    let damages: &[(&str, Damage)] = &[
        ("no operator", |m| m.operator.clear()),
        ("operator too long", |m| m.operator = "x".repeat(1025)),
        ("groups outside the job's", |m| m.max_parallelism = MaxParallelism::new(95).unwrap()),
        ("states out of order", |m| m.states.swap(0, 1)),
        ("a state twice", |m| m.states[1].name = "a".into()),
        ("a state without a name", |m| m.states[0].name.clear()),
        ("a codec without a name", |m| m.states[0].value_schema = CodecId::new("", 1).into()),
        ("a codec name too long", |m| {
            m.states[0].key_schema = CodecId::new("x".repeat(1025), 1).into();
        }),
        ("a map key codec without a name", |m| {
            m.states[2].map_key_schema = Some(CodecId::new("", 1).into());
        }),
        ("detail too long", |m| {
            let id = CodecId::new("x", 1);
            m.states[0].value_schema = Schema::new(id, vec![0; MAX_SCHEMA_DETAIL_BYTES + 1]);
        }),
        ("older schemas out of order", |m| m.states[2].older_value_schemas.swap(0, 1)),
        ("an older schema twice", |m| {
            m.states[2].older_value_schemas[1] = m.states[2].older_value_schemas[0].clone();
        }),
        ("today's schema among the older ones", |m| {
            m.states[2].value_schema = m.states[2].older_value_schemas[1].clone();
        }),
        ("an older codec without a name", |m| {
            m.states[0].older_value_schemas = vec![CodecId::new("", 1).into()];
        }),
        ("a file twice", |m| m.tables[2].meta.file = m.tables[0].meta.file),
        ("no location", |m| m.tables[0].location.clear()),
        ("location too long", |m| m.tables[0].location = "x".repeat(1025)),
        ("slice outside the table", |m| m.tables[2].slice = groups(41, 42)),
        ("slice outside the shard", |m| m.tables[0].slice = groups(31, 63)),
        ("slice apart from the table", |m| m.tables[2].slice = groups(50, 60)),
        ("table outside the job", |m| m.tables[1].meta.groups = groups(60, 128)),
        ("an operator state without a name", |m| m.operator_states[0].name.clear()),
        ("operator states out of order", |m| m.operator_states.swap(0, 1)),
        ("an operator state twice", |m| m.operator_states[1].name = "aa list".into()),
        ("one name for states of both sorts", |m| m.operator_states[0].name = "a".into()),
        ("a list with keys", |m| {
            m.operator_states[0].key_schema = Some(CodecId::new("string", 1).into());
        }),
        ("a broadcast state without keys", |m| m.operator_states[1].key_schema = None),
        ("no part", |m| m.operator_states[0].parts.clear()),
        ("an empty part among others", |m| m.operator_states[3].parts[1] = part(order(3), &[])),
        ("two parts of one schema", |m| {
            m.operator_states[3].parts[1].value_schema = order(1);
        }),
        ("a broadcast state of two parts", |m| {
            m.operator_states[1].parts.push(part(order(1), &["later", ""]));
        }),
        ("a key without a value", |m| {
            m.operator_states[1].parts[0].items.push(b"zebra");
        }),
        ("a key twice", |m| {
            m.operator_states[1].parts[0].items = ["a", "", "a", ""].iter().collect();
        }),
        ("keys out of order", |m| {
            m.operator_states[1].parts[0].items = ["b", "", "a", ""].iter().collect();
        }),
        ("a key too long", |m| {
            m.operator_states[1].parts[0].items = ["k".repeat(65_537), "v".into()].iter().collect();
        }),
        ("a codec of an operator state without a name", |m| {
            m.operator_states[0].parts[0].value_schema = CodecId::new("", 1).into();
        }),
        ("a codec of keys without a name", |m| {
            m.operator_states[1].key_schema = Some(CodecId::new("", 1).into());
        }),
        ("dropped states out of order", |m| m.tables[1].dropped.swap(0, 1)),
        ("a state dropped twice", |m| m.tables[1].dropped[1] = "a".into()),
        ("a dropped state without a name", |m| m.tables[1].dropped[0].clear()),
        ("a dropped state with too long a name", |m| m.tables[1].dropped[1] = "x".repeat(1025)),
        ("user meta too long", |m| m.user_meta = vec![0; (16 << 20) + 1]),
    ];
    for (name, damage) in damages {
        let mut bad = sample();
        damage(&mut bad);
        assert_eq!(bad.encode().unwrap_err().kind(), ErrorKind::Invalid, "{name}");
    }
}

#[test]
fn every_flipped_bit_and_every_other_length_is_refused() {
    let manifest = sample().encode().unwrap();
    let handle = SnapshotHandle::new(&sample(), &manifest, "s3 bucket", "m/1").unwrap().encode();
    type Decode = fn(&[u8]) -> Result<(), ErrorKind>;
    let decoders: [(&[u8], Decode); 2] = [
        (&manifest, |bytes| Manifest::decode(bytes).map(drop).map_err(|e| e.kind())),
        (&handle, |bytes| SnapshotHandle::decode(bytes).map(drop).map_err(|e| e.kind())),
    ];
    for (good, decode) in decoders {
        assert_eq!(decode(good), Ok(()));
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let version = (8..10).contains(&(bit / 8));
            let expected = if version { ErrorKind::Incompatible } else { ErrorKind::Corrupt };
            assert_eq!(decode(&bad), Err(expected), "bit {bit}");
        }
        for len in 0..good.len() {
            assert_eq!(decode(&good[..len]), Err(ErrorKind::Corrupt), "{len} bytes");
        }
        let longer = [good, &[0]].concat();
        assert_eq!(decode(&longer), Err(ErrorKind::Corrupt));
        assert_eq!(decode(&[good, good].concat()), Err(ErrorKind::Corrupt));
    }
}

/// Makes length and hash right again, as a hostile writer would.
fn repair(bytes: &mut Vec<u8>) {
    let body = (bytes.len() - ENVELOPE_BYTES) as u32;
    bytes[12..16].copy_from_slice(&body.to_le_bytes());
    bytes.truncate(bytes.len() - 16);
    let hash = of_contents(bytes);
    bytes.extend_from_slice(&hash.0.to_le_bytes());
}

/// Finds `needle` and puts `with` in its place.
fn replace(bytes: &mut Vec<u8>, needle: &[u8], with: &[u8]) {
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes.splice(at..at + needle.len(), with.iter().copied());
    repair(bytes);
}

#[test]
fn forged_manifests_with_sound_hashes_are_refused() {
    let good = sample().encode().unwrap();
    let forged = |needle: &[u8], with: &[u8]| {
        let mut bytes = good.clone();
        replace(&mut bytes, needle, with);
        Manifest::decode(&bytes).unwrap_err().kind()
    };
    assert_eq!(forged(b"\x02ba", b"\x01a"), ErrorKind::Corrupt, "a state twice");
    assert_eq!(forged(b"\x01b\x01", b"\x01b\x07"), ErrorKind::Incompatible, "an unknown kind");
    assert_eq!(
        forged(b"\x01\x06string\x01\x00\x03", b"\x02\x06string\x01\x00\x03"),
        ErrorKind::Corrupt,
        "neither with map keys nor without"
    );
    assert_eq!(
        forged(b"\x06string\x01\x00\x03", b"\x06string\x01\x00\x04"),
        ErrorKind::Corrupt,
        "more older schemas than there are"
    );
    assert_eq!(forged(b"\x0cshared/9.tbl", b"\x00"), ErrorKind::Corrupt, "no location");
    assert_eq!(forged(b"\x0cshared/9.tbl", b"\xff\xff\xff\xff\x0f"), ErrorKind::Corrupt, "4 GiB");
    assert_eq!(
        forged(
            b"user\x01\xff\xff\xff\xff\xff\xff\xff\xff\x03",
            b"user\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
        ),
        ErrorKind::Corrupt,
        "as many states as there are numbers"
    );
    assert_eq!(
        forged(b"\x07aa list\x01", b"\x07aa list\x04"),
        ErrorKind::Incompatible,
        "an unknown mode"
    );
    assert_eq!(
        forged(b"\x03one\x00\x05three", b"\x03one\x00\xff\xff\x7fthree"),
        ErrorKind::Corrupt,
        "an element longer than all that follows"
    );
    assert_eq!(
        forged(b"\x03\x03one\x00", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x03one\x00"),
        ErrorKind::Corrupt,
        "as many elements as there are numbers"
    );
    assert_eq!(
        forged(b"\x01\x01w\x07offsets", b"\x00\x01w\x07offsets"),
        ErrorKind::Corrupt,
        "fewer elements than there are"
    );
    assert_eq!(forged(b"\x05heron", b"\x05herpn"), ErrorKind::Corrupt, "keys out of order");
    assert_eq!(
        forged(b"\x02\x01a\x04gone", b"\xff\xff\x03\x01a\x04gone"),
        ErrorKind::Corrupt,
        "more dropped states than there are bytes"
    );
    assert_eq!(
        forged(b"user\x01\xff", b"user\x02\xff"),
        ErrorKind::Corrupt,
        "neither with a watermark nor without"
    );
    assert_eq!(
        forged(b"\x02\x60\xea\x00", b"\x03\x60\xea\x00"),
        ErrorKind::Incompatible,
        "a time of the future"
    );
    assert_eq!(forged(b"\x07offsets", b"\x06offsets"), ErrorKind::Corrupt, "a byte too many");
    assert_eq!(forged(b"\x07offsets", b"\x87\x00offsets"), ErrorKind::Corrupt, "a long varint");
    assert_eq!(forged(b"count per user", b"count per \xff\xffer"), ErrorKind::Corrupt, "not UTF-8");
}

#[test]
fn every_forged_byte_is_refused_or_still_a_manifest_that_keeps_its_promises() {
    let good = sample().encode().unwrap();
    for at in 16..good.len() - 16 {
        for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            repair(&mut bad);
            if let Ok(manifest) = Manifest::decode(&bad) {
                assert_eq!(manifest.encode().unwrap(), bad, "one manifest, one encoding");
            }
        }
    }
}

#[test]
fn a_handle_leads_to_its_manifest_and_to_no_other() {
    let bytes = sample().encode().unwrap();
    let handle =
        SnapshotHandle::new(&sample(), &bytes, "dir:/state", "job/op/42.manifest").unwrap();
    let back = SnapshotHandle::decode(&handle.encode()).unwrap();
    assert_eq!(back, handle);
    assert_eq!(back.snapshot(), SnapshotId(42));
    assert_eq!(back.operator(), "count per user");
    assert_eq!((back.groups(), back.max_parallelism().get()), (groups(32, 95), 128));
    assert_eq!((back.store(), back.manifest()), ("dir:/state", "job/op/42.manifest"));
    assert_eq!(back.manifest_bytes(), bytes.len() as u64);
    assert_eq!(back.manifest_hash(), of_contents(&bytes));
    assert_eq!(back.open_manifest(&bytes).unwrap(), sample());
    let other = Manifest { snapshot: SnapshotId(43), ..sample() }.encode().unwrap();
    let error = back.open_manifest(&other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("job/op/42.manifest"), "{error}");
    for (store, name) in [("", ""), (&*"x".repeat(5000), "m"), ("", &*"x".repeat(1025))] {
        let error = SnapshotHandle::new(&sample(), &bytes, store, name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
