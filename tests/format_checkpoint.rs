//! Metadata of checkpoints, acknowledgements, journal entries and pins: what goes in
//! comes out, what contradicts itself is refused on both sides, and no damage passes.

use alluvium::base::checksum::{ContentHash, of_contents};
use alluvium::base::{
    ErrorKind, KeyGroup, KeyGroupRange, MaxParallelism, SnapshotId, SnapshotMode,
};
use alluvium::format::envelope::ENVELOPE_BYTES;
use alluvium::format::{
    Borrowed, Checkpoint, CheckpointKind, CheckpointRef, JournalEntry, Manifest, Outcome, Pin,
    SavepointRef, ShardAck, ShardCosts, ShardPart, SnapshotHandle, StoredFile,
};

fn groups(first: u16, last: u16) -> KeyGroupRange {
    KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap()
}

fn handle(operator: &str, in_shard: KeyGroupRange, max: u32, snapshot: u64) -> SnapshotHandle {
    let manifest = Manifest {
        snapshot: SnapshotId(snapshot),
        operator: operator.into(),
        created_unix_ms: 1_795_000_000_000,
        sequence: 1,
        groups: in_shard,
        max_parallelism: MaxParallelism::new(max).unwrap(),
        watermark: None,
        states: vec![],
        tables: vec![],
        operator_states: vec![],
        user_meta: vec![],
    };
    let bytes = manifest.encode().unwrap();
    let location = format!("jobs/j/epochs/1/manifests/{snapshot}-{}", in_shard.first());
    SnapshotHandle::new(&manifest, &bytes, "s3", &location).unwrap()
}

fn part(operator: &str, in_shard: KeyGroupRange, max: u32) -> ShardPart {
    let costs = ShardCosts {
        pause_ns: 7_000,
        duration_ns: 1 << 40,
        bytes_new: 300,
        bytes_total: u64::MAX,
        records_new: 0,
    };
    ShardPart { handle: handle(operator, in_shard, max, 42), costs }
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        id: SnapshotId(42),
        epoch: 3,
        job: "flights-2.b_7".into(),
        kind: CheckpointKind::Savepoint("before-upgrade".into()),
        mode: SnapshotMode::Full,
        triggered_unix_ms: 1_795_000_000_000,
        completed_unix_ms: 1_795_000_000_250,
        shards: vec![
            part("count", groups(0, 63), 128),
            part("count", groups(64, 127), 128),
            part("join", groups(0, 6), 7),
        ],
        runtime: b"offsets 17".to_vec(),
    }
}

fn ack() -> ShardAck {
    let file = |name: &str, bytes| StoredFile { location: name.into(), bytes };
    let files = vec![file("e/1/m/1", 90), file("e/1/t/1", 1 << 33), file("e/1/t/2", 0)];
    ShardAck { epoch: 3, part: part("count", groups(64, 127), 128), files }
}

fn reference(id: u64, epoch: u64) -> CheckpointRef {
    CheckpointRef {
        id: SnapshotId(id),
        epoch,
        location: format!("jobs/j/checkpoints/{id}-{epoch}"),
        bytes: 100 + id,
        hash: ContentHash(u128::from(id) << 77),
    }
}

fn outcome(id: u64, failure: Option<&str>) -> Outcome {
    Outcome {
        id: SnapshotId(id),
        epoch: 2,
        kind: CheckpointKind::Savepoint("named".into()),
        mode: SnapshotMode::Full,
        triggered_unix_ms: 1_795_000_000_000,
        duration_ms: 250,
        pause_ns: 7_000,
        bytes_new: 300,
        bytes_total: u64::MAX,
        failure: failure.map(str::to_owned),
    }
}

fn entry() -> JournalEntry {
    let savepoint = |name: &str, id| SavepointRef {
        name: name.into(),
        created_unix_ms: 1_795_000_000_000,
        checkpoint: reference(id, 1),
    };
    JournalEntry {
        number: 17,
        epoch: 3,
        writer: 0x0102_0304_0506_0708,
        written_unix_ms: 1_795_000_000_300,
        next_id: SnapshotId(48),
        job: "flights".into(),
        owner: "host 7, process 1234".into(),
        resume: Some(reference(42, 3)),
        checkpoints: vec![reference(40, 2), reference(42, 3)],
        savepoints: vec![savepoint("after", 11), savepoint("before", 9)],
        retired: vec![reference(39, 2)],
        borrowed: vec![Borrowed { job: "origin".into(), pin: "jobs/origin/pins/7".into() }],
        outcomes: vec![outcome(41, Some("a shard declined")), outcome(42, None)],
    }
}

fn pin() -> Pin {
    Pin {
        created_unix_ms: 1_795_000_000_000,
        owner: "a reader".into(),
        checkpoint: reference(42, 3),
    }
}

#[test]
fn what_is_written_comes_back_and_encodes_to_the_same_bytes() {
    let small = Checkpoint {
        kind: CheckpointKind::Checkpoint,
        shards: vec![],
        runtime: vec![],
        ..checkpoint()
    };
    let large = Checkpoint { runtime: vec![7; 1 << 20], ..checkpoint() };
    for checkpoint in [checkpoint(), small, large] {
        let bytes = checkpoint.encode().unwrap();
        assert_eq!(Checkpoint::decode(&bytes).unwrap(), checkpoint);
    }
    for ack in [ack(), ShardAck { files: vec![], ..ack() }] {
        let bytes = ack.encode().unwrap();
        assert_eq!(ShardAck::decode(&bytes).unwrap(), ack);
    }
    let empty = JournalEntry {
        resume: None,
        checkpoints: vec![],
        savepoints: vec![],
        retired: vec![],
        borrowed: vec![],
        outcomes: vec![],
        owner: String::new(),
        ..entry()
    };
    for entry in [entry(), empty] {
        let bytes = entry.encode().unwrap();
        assert_eq!(JournalEntry::decode(&bytes).unwrap(), entry);
    }
    let bytes = pin().encode().unwrap();
    assert_eq!(Pin::decode(&bytes).unwrap(), pin());
}

type Damage<T> = (&'static str, fn(&mut T));

fn refused<T>(
    good: impl Fn() -> T,
    encode: impl Fn(&T) -> alluvium::Result<Vec<u8>>,
    damages: &[Damage<T>],
) {
    encode(&good()).unwrap();
    for (what, damage) in damages {
        let mut bad = good();
        damage(&mut bad);
        assert_eq!(encode(&bad).map_err(|e| e.kind()), Err(ErrorKind::Invalid), "{what}");
    }
}

#[test]
fn what_contradicts_itself_is_not_written() {
    refused(
        checkpoint,
        Checkpoint::encode,
        &[
            ("no job", |c| c.job.clear()),
            ("a job that is a path", |c| c.job = "a/b".into()),
            ("a hidden job", |c| c.job = ".a".into()),
            ("a long name", |c| c.job = "a".repeat(129)),
            ("a savepoint without a name", |c| c.kind = CheckpointKind::Savepoint(String::new())),
            ("shards out of order", |c| c.shards.swap(0, 1)),
            ("operators out of order", |c| c.shards.rotate_left(2)),
            ("a shard twice", |c| c.shards[1] = c.shards[0].clone()),
            ("a shard too few in front", |c| drop(c.shards.remove(0))),
            ("a shard too few behind", |c| drop(c.shards.remove(1))),
            ("half an operator at the end", |c| c.shards[2] = part("join", groups(0, 5), 7)),
            ("two numbers of key groups", |c| c.shards[1] = part("count", groups(64, 127), 256)),
            ("a shard of a later snapshot", |c| c.id = SnapshotId(41)),
            ("too much runtime data", |c| c.runtime = vec![0; (16 << 20) + 1]),
        ],
    );
    refused(
        ack,
        ShardAck::encode,
        &[
            ("files out of order", |a| a.files.swap(0, 1)),
            ("a file twice", |a| a.files[1].location = a.files[0].location.clone()),
            ("a file without a name", |a| a.files[0].location.clear()),
            ("a long name", |a| a.files[2].location = "x".repeat(1025)),
        ],
    );
    refused(
        entry,
        JournalEntry::encode,
        &[
            ("no job", |e| e.job.clear()),
            ("a long owner", |e| e.owner = "x".repeat(1025)),
            ("checkpoints out of order", |e| e.checkpoints.swap(0, 1)),
            ("a checkpoint twice", |e| e.checkpoints[1] = e.checkpoints[0].clone()),
            ("savepoints out of order", |e| e.savepoints.swap(0, 1)),
            ("a savepoint twice", |e| e.savepoints[1].name = e.savepoints[0].name.clone()),
            ("a savepoint without a name", |e| e.savepoints[0].name.clear()),
            ("a resume that is not kept", |e| e.resume = Some(reference(41, 3))),
            ("a resume that is retired", |e| e.resume = Some(reference(39, 2))),
            ("a retired one that is kept", |e| e.retired.push(reference(40, 2))),
            ("a retired savepoint that is kept", |e| e.retired.push(reference(9, 1))),
            ("an id that is still to come", |e| e.next_id = SnapshotId(42)),
            ("a checkpoint that is nowhere", |e| e.checkpoints[0].location.clear()),
            ("a retired one that is nowhere", |e| e.retired[0].location.clear()),
            ("a failure without a reason", |e| e.outcomes[0].failure = Some(String::new())),
            ("a long reason", |e| e.outcomes[0].failure = Some("x".repeat(1025))),
            ("an outcome of no name", |e| {
                e.outcomes[0].kind = CheckpointKind::Savepoint("/".into())
            }),
            ("borrowed from nobody", |e| e.borrowed[0].job.clear()),
            ("borrowed without a pin", |e| e.borrowed[0].pin.clear()),
            ("too many outcomes", |e| e.outcomes = vec![outcome(1, None); 4097]),
        ],
    );
    refused(
        pin,
        Pin::encode,
        &[
            ("a long owner", |p| p.owner = "x".repeat(1025)),
            ("of nothing", |p| p.checkpoint.location.clear()),
        ],
    );
}

type Decode = fn(&[u8]) -> Result<Vec<u8>, ErrorKind>;

/// Each kind: its bytes, and how they are read and written again.
fn all() -> [(Vec<u8>, Decode); 4] {
    [
        (checkpoint().encode().unwrap(), |bytes| {
            Checkpoint::decode(bytes).map(|c| c.encode().unwrap()).map_err(|e| e.kind())
        }),
        (ack().encode().unwrap(), |bytes| {
            ShardAck::decode(bytes).map(|a| a.encode().unwrap()).map_err(|e| e.kind())
        }),
        (entry().encode().unwrap(), |bytes| {
            JournalEntry::decode(bytes).map(|e| e.encode().unwrap()).map_err(|e| e.kind())
        }),
        (pin().encode().unwrap(), |bytes| {
            Pin::decode(bytes).map(|p| p.encode().unwrap()).map_err(|e| e.kind())
        }),
    ]
}

#[test]
fn every_flipped_bit_and_every_other_length_is_refused() {
    for (good, decode) in all() {
        assert_eq!(decode(&good).as_ref(), Ok(&good));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let version = (8..10).contains(&(bit / 8));
            let expected = if version { ErrorKind::Incompatible } else { ErrorKind::Corrupt };
            assert_eq!(decode(&bad), Err(expected), "bit {bit}");
        }
        for len in 0..good.len() {
            assert_eq!(decode(&good[..len]), Err(ErrorKind::Corrupt), "{len} bytes");
        }
        assert_eq!(decode(&[&good[..], &[0]].concat()), Err(ErrorKind::Corrupt));
        assert_eq!(decode(&[&good[..], &good[..]].concat()), Err(ErrorKind::Corrupt));
    }
}

#[test]
fn one_kind_is_not_taken_for_another() {
    for (at, (bytes, _)) in all().into_iter().enumerate() {
        for (other, (_, decode)) in all().into_iter().enumerate() {
            assert_eq!(decode(&bytes).is_ok(), at == other, "{at} as {other}");
        }
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

/// What decoding says if `needle` is replaced and all hashes are right.
fn forged(good: &[u8], decode: Decode, needle: &[u8], with: &[u8]) -> Option<ErrorKind> {
    let mut bytes = good.to_vec();
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes.splice(at..at + needle.len(), with.iter().copied());
    repair(&mut bytes);
    decode(&bytes).err()
}

#[test]
fn forged_ones_with_sound_hashes_are_refused() {
    let [checkpoint, ack, entry, pin] = all();
    let corrupt = Some(ErrorKind::Corrupt);
    type Case<'a> = (&'static str, &'a (Vec<u8>, Decode), &'a [u8], &'a [u8], Option<ErrorKind>);
    let cases: [Case<'_>; 14] = [
        ("a path", &checkpoint, b"flights-2.b_7", b"../../etc/pwd", corrupt),
        ("an unknown kind", &checkpoint, b"b_7\x04", b"b_7\x05", Some(ErrorKind::Incompatible)),
        ("a million shards", &checkpoint, b"upgrade\x03", b"upgrade\xc0\x84\x3d", corrupt),
        ("no shards, and bytes left", &checkpoint, b"upgrade\x03", b"upgrade\x00", corrupt),
        ("a long varint", &checkpoint, b"\x0aoffsets", b"\x8a\x00offsets", corrupt),
        (
            "4 GiB of runtime data",
            &checkpoint,
            b"\x0aoffsets",
            b"\xff\xff\xff\xff\x0foffsets",
            corrupt,
        ),
        ("no location", &ack, b"\x07e/1/m/1", b"\x00", corrupt),
        ("files out of order", &ack, b"e/1/m/1", b"e/1/x/1", corrupt),
        (
            "as many files as numbers",
            &ack,
            b"\x03\x07e/1/m/1",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x07e/1/m/1",
            corrupt,
        ),
        ("neither with a resume nor without", &entry, b"1234\x01", b"1234\x02", corrupt),
        ("a savepoint twice", &entry, b"\x06before", b"\x05after", corrupt),
        ("not UTF-8", &entry, b"host 7", b"host \xff", corrupt),
        ("a reason too long", &entry, b"\x10a shard", b"\xff\x7fa shard", corrupt),
        ("of nothing", &pin, b"\x17jobs/j/checkpoints/42-3", b"\x00", corrupt),
    ];
    for (what, (good, decode), needle, with, expected) in cases {
        assert_eq!(forged(good, *decode, needle, with), expected, "{what}");
    }
}

#[test]
fn every_forged_byte_is_refused_or_still_keeps_all_promises() {
    for (good, decode) in all() {
        for at in 16..good.len() - 16 {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                repair(&mut bad);
                if let Ok(again) = decode(&bad) {
                    assert_eq!(again, bad, "one encoding");
                }
            }
        }
    }
}

#[test]
fn a_reference_recognises_its_metadata_and_no_other() {
    let bytes = checkpoint().encode().unwrap();
    let hash = of_contents(&bytes);
    let good = CheckpointRef { bytes: bytes.len() as u64, hash, ..reference(42, 3) };
    good.check(&bytes).unwrap();
    let mut other = bytes.clone();
    other[40] ^= 1;
    for (reference, bytes) in [
        (good.clone(), &other),
        (CheckpointRef { bytes: good.bytes + 1, ..good.clone() }, &bytes),
        (CheckpointRef { hash: ContentHash(hash.0 ^ 1), ..good.clone() }, &bytes),
    ] {
        assert_eq!(reference.check(bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_checkpoint_gives_the_handles_of_each_operator() {
    let checkpoint = checkpoint();
    assert_eq!(checkpoint.operators().collect::<Vec<_>>(), ["count", "join"]);
    let of_count: Vec<_> = checkpoint.handles("count").iter().map(SnapshotHandle::groups).collect();
    assert_eq!(of_count, [groups(0, 63), groups(64, 127)]);
    assert!(checkpoint.handles("other").is_empty());
    let costs = checkpoint.costs();
    assert_eq!((costs.pause_ns, costs.bytes_new, costs.bytes_total), (7_000, 900, u64::MAX));
}
