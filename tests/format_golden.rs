//! Files as earlier versions wrote them still open, and today's code still
//! writes them byte for byte.
//!
//! `tests/golden/` holds one of each kind for every format version that was
//! released. A difference means that the format changed: give it a new version
//! and a new file instead of changing the old one. Only a file that was never
//! released may be written again, with
//! `REGENERATE_GOLDEN=1 cargo test --test format_golden`.

#![allow(clippy::disallowed_methods, reason = "golden files lie on the real disk")]

mod table_support;

use std::path::Path;

use alluvium::base::{SnapshotId, SnapshotMode};
use alluvium::codec::{CodecId, Schema};
use alluvium::format::{
    Action, Answer, Borrowed, Checkpoint, CheckpointKind, CheckpointRef, Compression, JournalEntry,
    Manifest, OperatorPart, OperatorState, OperatorStateMode, Outcome, Pin, Request, SavepointRef,
    ShardAck, ShardCosts, ShardPart, SnapshotHandle, StateKind, StateMeta, StoredFile, TableMeta,
    TableRef,
};
use alluvium::table::{TableOptions, TableReader};
use table_support::*;

const PLAIN: TableOptions = TableOptions {
    block_bytes: 512,
    compression: Compression::None,
    filter_bits_per_key: 8,
    fit_pages: false,
};
const PACKED: TableOptions = TableOptions { compression: Compression::Lz4, ..PLAIN };

/// The golden bytes of this name; `written` only if they are to be replaced, and of what
/// today's code does not write any more empty.
fn golden(name: &str, written: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("REGENERATE_GOLDEN").is_some() && !written.is_empty() {
        std::fs::write(&path, written).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn manifest(table: TableMeta) -> Manifest {
    let states = small_model().states;
    let state = |name: &String| StateMeta {
        name: name.clone(),
        kind: StateKind::Value,
        key_schema: CodecId::new("u64", 1).into(),
        namespace_schema: CodecId::new("bytes", 1).into(),
        map_key_schema: (name.len() == 1).then(|| CodecId::new("string", 1).into()),
        value_schema: Schema::new(CodecId::new("tuple(u64,string)", 3), *b"parts"),
        older_value_schemas: vec![CodecId::new("u64", 1).into()],
        ttl: (name.len() == 1).then_some(alluvium::format::TtlMeta {
            time: alluvium::TimeDomain::Processing,
            duration_ms: 3_600_000,
            since_ms: Some(1_795_000_000_000),
        }),
    };
    Manifest {
        snapshot: SnapshotId(7),
        operator: "orders".into(),
        created_unix_ms: 1_795_000_000_123,
        sequence: 0x0102_0304_0506_0708,
        groups: groups(0, 127),
        max_parallelism: alluvium::base::MaxParallelism::DEFAULT,
        watermark: Some(-1),
        states: states.keys().map(state).collect(),
        tables: vec![TableRef {
            slice: table.groups,
            location: "t/0-3".into(),
            meta: table,
            dropped: vec!["orders".into(), "was here".into()],
        }],
        operator_states: operator_states(),
        user_meta: b"kafka offsets: 17".to_vec(),
    }
}

fn operator_states() -> Vec<OperatorState> {
    let part = |version, items: &[&str]| OperatorPart {
        value_schema: Schema::new(CodecId::new("string", version), *b"parts"),
        items: items.iter().collect(),
    };
    let list = |name: &str, mode, parts| OperatorState {
        name: name.into(),
        mode,
        key_schema: None,
        parts,
    };
    vec![
        OperatorState {
            name: "operator broadcast".into(),
            mode: OperatorStateMode::Broadcast,
            key_schema: Some(CodecId::new("string", 2).into()),
            parts: vec![part(1, &["", "no key", "key", "value"])],
        },
        list("operator list", OperatorStateMode::List, vec![part(1, &["one"]), part(2, &["two"])]),
        list("operator union", OperatorStateMode::UnionList, vec![part(3, &[])]),
    ]
}

/// What the table in these bytes says of itself.
fn meta_of(bytes: &[u8]) -> TableMeta {
    let found = *TableReader::open_any(source(bytes, false)).unwrap().meta();
    TableMeta { hash: alluvium::base::checksum::of_contents(bytes), ..found }
}

/// The table that manifests below speak of.
fn golden_meta() -> TableMeta {
    meta_of(&golden("table-v1.tbl", &[]))
}

/// Checks that a table of an earlier version still opens and holds what this model does,
/// however it is read.
fn check_earlier(name: &str, model: &Model) {
    let bytes = golden(name, &[]);
    let meta = meta_of(&bytes);
    check_table(&bytes, &meta, model);
    assert!(TableReader::open(source(&bytes, false), &meta).unwrap().footer().sums().is_none());
}

fn check_table(bytes: &[u8], meta: &TableMeta, model: &Model) {
    let table = open(bytes, true, meta).unwrap();
    table.verify().unwrap();
    let all = model.max_parallelism.all_groups();
    assert_eq!(collect(table.scan(all)).unwrap(), model.scan(all));
    let mut out = Vec::new();
    for row in model.scan(all) {
        let found =
            table.get(row.state, row.group, row.hash, &row.key, &row.namespace, &mut out).unwrap();
        assert_ne!(found, alluvium::table::Found::Absent, "{row:?}");
    }
}

#[test]
fn tables_of_version_1_open() {
    check_earlier("table-v1.tbl", &small_model());
    check_earlier("table-v1-collections.tbl", &small_collections());
    check_earlier("table-v1-timed.tbl", &small_timed());
    check_earlier("table-v1-pages.tbl", &incompressible());
    check_earlier("table-v1-lz4.tbl", &small_model());
}

/// Nothing of it is looked at later, for its pages have no checksums.
#[test]
fn filter_and_index_of_a_table_of_version_1_are_checked_when_it_is_opened() {
    let bytes = golden("table-v1.tbl", &[]);
    let (meta, footer) = (meta_of(&bytes), *open(&bytes, true, &meta_of(&bytes)).unwrap().footer());
    for at in footer.searched() {
        let mut bad = bytes.clone();
        bad[at as usize] ^= 4;
        for mapped in [true, false] {
            let error = open(&bad, mapped, &meta).unwrap_err();
            assert_eq!(error.kind(), alluvium::ErrorKind::Corrupt, "byte {at}");
        }
    }
}

#[test]
fn tables_of_version_2_open_and_are_still_written_alike() {
    let (written, meta) = small_model().write(FILE, PLAIN).unwrap();
    let bytes = golden("table-v2.tbl", &written);
    check_table(&bytes, &meta, &small_model());
    assert!(bytes == written, "the format of tables changed");
}

#[test]
fn tables_of_collections_of_version_2_open_and_are_still_written_alike() {
    let model = small_collections();
    let (written, meta) = model.write(FILE, PLAIN).unwrap();
    let bytes = golden("table-v2-collections.tbl", &written);
    check_table(&bytes, &meta, &model);
    assert!(bytes == written, "the format of tables of collections changed");
}

#[test]
fn tables_of_values_that_expire_of_version_2_open_and_are_still_written_alike() {
    let model = small_timed();
    let (written, meta) = model.write(FILE, PLAIN).unwrap();
    let bytes = golden("table-v2-timed.tbl", &written);
    check_table(&bytes, &meta, &model);
    let table = open(&bytes, true, &meta).unwrap();
    for state in table.states() {
        let found = state.stamps.map(|time| (time, state.newest_stamp));
        assert_eq!(found, model.stamps.get(&state.name).copied(), "{}", state.name);
    }
    assert!(bytes == written, "the format of tables of values that expire changed");
}

/// Values that nothing compresses, of several pages.
fn incompressible() -> Model {
    let mut rng = Rng(1);
    let mut model = Model::default();
    for key in 0..150_u64 {
        model.insert("values", &key.to_be_bytes(), b"", Some(&rng.bytes(80)));
    }
    model
}

#[test]
fn tables_whose_blocks_fit_pages_of_version_2_open_and_are_still_written_alike() {
    let model = incompressible();
    let options = TableOptions { fit_pages: true, ..PLAIN };
    let (written, meta) = model.write(FILE, options).unwrap();
    let bytes = golden("table-v2-pages.tbl", &written);
    check_table(&bytes, &meta, &model);
    assert!(bytes == written, "the format of tables whose blocks fit pages changed");
}

/// Compressed bytes may differ with the version of the compressor, so these
/// are only read.
#[test]
fn compressed_tables_of_version_2_open() {
    let (written, _) = small_model().write(FILE, PACKED).unwrap();
    let bytes = golden("table-v2-lz4.tbl", &written);
    check_table(&bytes, &meta_of(&bytes), &small_model());
}

#[test]
fn manifests_and_handles_of_version_1_open_and_are_still_written_alike() {
    let manifest = manifest(golden_meta());
    let written = manifest.encode().unwrap();
    let bytes = golden("manifest-v1.bin", &written);
    assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
    assert!(bytes == written, "the format of manifests changed");

    let handle = SnapshotHandle::new(&manifest, &bytes, "dir:/golden", "m/7").unwrap();
    let golden_handle = golden("handle-v1.bin", &handle.encode());
    assert_eq!(SnapshotHandle::decode(&golden_handle).unwrap(), handle);
    assert!(golden_handle == handle.encode(), "the format of snapshot handles changed");
    assert_eq!(handle.open_manifest(&bytes).unwrap(), manifest);
}

fn part() -> ShardPart {
    let manifest = manifest(golden_meta());
    let bytes = manifest.encode().unwrap();
    let handle = SnapshotHandle::new(&manifest, &bytes, "dir:/golden", "m/7").unwrap();
    let costs = ShardCosts {
        pause_ns: 5_700,
        duration_ns: 81_000_000,
        bytes_new: 300,
        bytes_total: 70_000,
        records_new: 17,
    };
    ShardPart { handle, costs }
}

fn reference(id: u64) -> CheckpointRef {
    CheckpointRef {
        id: SnapshotId(id),
        epoch: 2,
        location: format!("jobs/flights/checkpoints/{id:020}-0000000002"),
        bytes: 1000 + id,
        hash: alluvium::base::checksum::ContentHash(u128::from(id) << 70),
    }
}

#[test]
fn checkpoints_and_acknowledgements_of_version_1_open_and_are_still_written_alike() {
    let checkpoint = Checkpoint {
        id: SnapshotId(7),
        epoch: 2,
        job: "flights".into(),
        kind: CheckpointKind::Savepoint("before-upgrade".into()),
        mode: SnapshotMode::Incremental,
        triggered_unix_ms: 1_795_000_000_123,
        completed_unix_ms: 1_795_000_000_321,
        shards: vec![part()],
        runtime: b"kafka offsets: 17".to_vec(),
    };
    let written = checkpoint.encode().unwrap();
    let bytes = golden("checkpoint-v1.bin", &written);
    assert_eq!(Checkpoint::decode(&bytes).unwrap(), checkpoint);
    assert!(bytes == written, "the format of checkpoints changed");

    for (kind, name) in [
        (CheckpointKind::Checkpoint, "checkpoint-v1-full.bin"),
        (checkpoint.kind.clone(), "checkpoint-v1-full-savepoint.bin"),
    ] {
        let full = Checkpoint { kind, mode: SnapshotMode::Full, ..checkpoint.clone() };
        let written = full.encode().unwrap();
        let bytes = golden(name, &written);
        assert_eq!(Checkpoint::decode(&bytes).unwrap(), full);
        assert!(bytes == written, "the format of full checkpoints changed");
    }

    let file = |location: &str, bytes| StoredFile { location: location.into(), bytes };
    let files = vec![file("m/7", 900), file("t/0-3", 69_100)];
    let ack = ShardAck { epoch: 2, part: part(), files };
    let written = ack.encode().unwrap();
    let bytes = golden("ack-v1.bin", &written);
    assert_eq!(ShardAck::decode(&bytes).unwrap(), ack);
    assert!(bytes == written, "the format of acknowledgements changed");
}

#[test]
fn journal_entries_and_pins_of_version_1_open_and_are_still_written_alike() {
    let outcome = |kind, failure: Option<&str>| Outcome {
        id: SnapshotId(7),
        epoch: 2,
        kind,
        mode: SnapshotMode::Incremental,
        triggered_unix_ms: 1_795_000_000_123,
        duration_ms: 198,
        pause_ns: 5_700,
        bytes_new: 300,
        bytes_total: 70_000,
        failure: failure.map(str::to_owned),
    };
    let named = CheckpointKind::Savepoint("before-upgrade".into());
    let entry = JournalEntry {
        number: 12,
        epoch: 2,
        writer: 0x0102_0304_0506_0708,
        written_unix_ms: 1_795_000_000_400,
        next_id: SnapshotId(23),
        job: "flights".into(),
        owner: "host 1, process 2".into(),
        resume: Some(reference(8)),
        checkpoints: vec![reference(6), reference(8)],
        savepoints: vec![SavepointRef {
            name: "before-upgrade".into(),
            created_unix_ms: 1_795_000_000_321,
            checkpoint: reference(7),
        }],
        retired: vec![reference(5)],
        borrowed: vec![Borrowed { job: "origin".into(), pin: "jobs/origin/pins/7".into() }],
        outcomes: vec![outcome(named, None), outcome(CheckpointKind::Checkpoint, Some("declined"))],
    };
    let written = entry.encode().unwrap();
    let bytes = golden("journal-v1.bin", &written);
    assert_eq!(JournalEntry::decode(&bytes).unwrap(), entry);
    assert!(bytes == written, "the format of journal entries changed");

    let pin = Pin {
        created_unix_ms: 1_795_000_000_500,
        owner: "a reader".into(),
        checkpoint: reference(8),
    };
    let written = pin.encode().unwrap();
    let bytes = golden("pin-v1.bin", &written);
    assert_eq!(Pin::decode(&bytes).unwrap(), pin);
    assert!(bytes == written, "the format of pins changed");
}

#[test]
fn requests_and_answers_of_version_1_open_and_are_still_written_alike() {
    let request = Request {
        created_unix_ms: 1_795_000_000_123,
        seen: 17,
        asker: "a person".into(),
        action: Action::Keep(SnapshotId(7), "before-upgrade".into()),
    };
    let bytes = golden("request-v1.bin", &request.encode().unwrap());
    assert_eq!(Request::decode(&bytes).unwrap(), request);
    assert!(bytes == request.encode().unwrap(), "the format of requests changed");

    for (action, name) in [
        (Action::Savepoint("alone".into(), SnapshotMode::Full), "request-v1-full-savepoint.bin"),
        (Action::Checkpoint(SnapshotMode::Full, SnapshotId(23)), "request-v1-full.bin"),
        (
            Action::Checkpoint(SnapshotMode::Incremental, SnapshotId(23)),
            "request-v1-checkpoint.bin",
        ),
        (
            Action::SavepointInto {
                name: "release".into(),
                place: "s3://bucket/savepoints/release".into(),
            },
            "request-v1-placed.bin",
        ),
    ] {
        let request = Request { action, ..request.clone() };
        let bytes = golden(name, &request.encode().unwrap());
        assert_eq!(Request::decode(&bytes).unwrap(), request);
        assert!(bytes == request.encode().unwrap(), "the format of requests changed");
    }

    let answer = Answer {
        answered_unix_ms: 1_795_000_000_456,
        id: Some(SnapshotId(7)),
        refused: Some("the name is taken".into()),
    };
    let bytes = golden("answer-v1.bin", &answer.encode().unwrap());
    assert_eq!(Answer::decode(&bytes).unwrap(), answer);
    assert!(bytes == answer.encode().unwrap(), "the format of answers changed");
}
