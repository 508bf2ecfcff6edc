//! Damaged, cut and forged savepoints.

use alluvium::env::sim::SimRng;
use alluvium::format::Compression;
use alluvium::object::ObjectStore;
use alluvium::savepoint::SavepointReader;
use alluvium::{ErrorKind, Result};

use crate::golden::small_job;
use crate::plain::{self, Parts, end_of, put_together, take_apart};
use crate::{export, export_by, handles_of, import_by, memory};

/// Reads everything through the reader of tools, and gives the number of entries.
fn read(bytes: &[u8]) -> Result<u64> {
    let mut reader = SavepointReader::open(bytes)?;
    let mut entries = 0;
    loop {
        match reader.next() {
            Ok(Some(_)) => entries += 1,
            Ok(None) => {
                assert!(reader.end().is_some());
                return Ok(entries);
            }
            Err(error) => {
                assert!(reader.end().is_none());
                let again = reader.next().expect_err("it stays failed");
                assert_eq!(again.kind(), ErrorKind::Closed);
                return Err(error);
            }
        }
    }
}

/// That an import fails, too, and hands nothing to the sink.
fn assert_not_imported(bytes: &[u8], what: &str) {
    let store = memory();
    let error = import_by(&store, bytes, |import| import.shards(2)).expect_err(what);
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible), "{error}");
    assert!(store.objects.list("").unwrap().is_empty(), "{what}: something was stored");
}

#[test]
fn a_savepoint_that_is_cut_short_or_goes_on_is_refused() {
    let (store, handles) = small_job();
    let packed = export_by(&store, &handles, |export| export).unwrap();
    for bytes in [export(&store, &handles), packed] {
        read(&bytes).unwrap();
        for len in 0..bytes.len() {
            let error = read(&bytes[..len]).expect_err("it is cut short");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes: {error}");
            if len % 13 == 0 || len + 100 > bytes.len() {
                assert_not_imported(&bytes[..len], "it is cut short");
            }
        }
        let error = read(&[&bytes[..], b"x"].concat()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_not_imported(&[&bytes[..], b"x"].concat(), "it goes on");
    }
}

#[test]
fn every_flipped_bit_of_a_savepoint_is_an_error() {
    let (store, handles) = small_job();
    let bytes = export(&store, &handles);
    let mut bad = bytes.clone();
    for bit in 0..bytes.len() * 8 {
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = read(&bad).expect_err("a bit is wrong");
        let version = (8..10).contains(&(bit / 8));
        let kind = if version { ErrorKind::Incompatible } else { ErrorKind::Corrupt };
        assert_eq!(error.kind(), kind, "bit {bit}: {error}");
        if bit % 97 == 0 {
            assert_not_imported(&bad, "a bit is wrong");
        }
        bad[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(bad == bytes);
}

/// A savepoint in which some frame was changed, and its checksums and its end with it.
fn forged(parts: &Parts, change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    let mut parts = parts.clone();
    change(&mut parts);
    if let Some((9, end)) = parts.frames.last().cloned()
        && end.len() == 40
    {
        let end = end_of(&parts, &end);
        parts.frames.last_mut().unwrap().1 = end;
    }
    put_together(&parts)
}

/// The blocks of the small job, by number of the section.
fn sections(parts: &Parts) -> Vec<u8> {
    parts.frames.iter().filter(|(kind, _)| *kind == 7).map(|(_, block)| block[0]).collect()
}

#[test]
fn a_forged_savepoint_with_sound_checksums_is_refused() {
    let (store, handles) = small_job();
    let bytes = export(&store, &handles);
    let parts = take_apart(&bytes);
    assert!(put_together(&parts) == bytes, "taken apart and put together");
    assert!(forged(&parts, |_| {}) == bytes);
    // "no state" has no sections; those of "orders": amount 0, due 1, empty 2, lines 3,
    // prices 4, offsets 5, rules 6, seen 7.
    assert_eq!(sections(&parts), [0, 1, 3, 4, 5, 6]);
    let last = parts.frames.len() - 1;
    type Change = Box<dyn Fn(&mut Parts)>;
    let set = |frame: usize, at: usize, byte: u8| -> Change {
        Box::new(move |parts| parts.frames[frame].1[at] = byte)
    };
    let changes: Vec<(&str, Change)> = vec![
        ("no end", Box::new(move |parts| drop(parts.frames.pop()))),
        ("two ends", Box::new(move |parts| parts.frames.push(parts.frames[last].clone()))),
        ("an end in the middle", Box::new(move |parts| parts.frames.swap(last, 3))),
        ("a block is missing", Box::new(|parts| drop(parts.frames.remove(2)))),
        ("a block twice", Box::new(|parts| parts.frames.insert(2, parts.frames[2].clone()))),
        ("blocks out of order", Box::new(|parts| parts.frames.swap(1, 2))),
        ("a section that is not there", set(5, 0, 9)),
        ("a section far away", set(5, 3, 255)),
        ("a section of another shape", set(1, 0, 2)),
        ("no entries", set(0, 4, 0)),
        ("fewer entries", set(0, 4, 4)),
        ("more entries", set(0, 4, 6)),
        ("very many entries", set(0, 7, 255)),
        ("unknown flags", set(0, 8, 16)),
        ("the place of nothing", set(0, 8, 1)),
        ("a schema that is not there", set(0, 8, 4)),
        ("a long value in the middle", set(0, 8, 8)),
        ("a group for the place before", set(0, 8, 3)),
        (
            "a long key",
            Box::new(|parts| {
                parts.frames[0].1.splice(9..10, [0xff, 0xff, 0xff, 0x7f]);
            }),
        ),
        ("a piece of nothing", Box::new(|parts| parts.frames.insert(1, (8, vec![1; 10])))),
        (
            "a short value in pieces",
            Box::new(move |parts| {
                let block = &mut parts.frames[5].1;
                let flags = block.len() - 5;
                block[flags] = 8;
                block.pop();
                parts.frames[last].1[0] += 1;
                parts.frames.insert(6, (8, b"2".to_vec()));
            }),
        ),
        ("an unknown frame", Box::new(|parts| parts.frames[1].0 = 10)),
        ("a table's frame", Box::new(|parts| parts.frames[1].0 = 1)),
        ("bytes behind the entries", Box::new(|parts| parts.frames[0].1.push(0))),
        ("an empty block", Box::new(|parts| parts.frames[0].1.clear())),
        ("a huge frame", Box::new(|parts| parts.frames[0].1.resize(3 << 20, 0))),
        ("counts of frames", Box::new(move |parts| parts.frames[last].1[0] ^= 1)),
        ("counts of entries", Box::new(move |parts| parts.frames[last].1[8] ^= 1)),
        ("counts of bytes", Box::new(move |parts| parts.frames[last].1[16] ^= 1)),
        ("a short end", Box::new(move |parts| parts.frames[last].1.truncate(39))),
        ("a long end", Box::new(move |parts| parts.frames[last].1.push(0))),
        (
            "an item too few",
            Box::new(|parts| {
                let at = find(&parts.head, b"offset\x01\x00\x04") + 8;
                parts.head[at] = 3;
            }),
        ),
        (
            "other bytes",
            Box::new(|parts| {
                let at = find(&parts.head, b"offset\x01\x00\x04") + 9;
                parts.head[at] += 1;
            }),
        ),
        (
            "states out of order",
            Box::new(|parts| {
                let at = find(&parts.head, b"\x05empty") + 1;
                parts.head[at] = b'a';
            }),
        ),
        (
            "an unknown mode",
            Box::new(|parts| {
                let at = find(&parts.head, b"\x07offsets\x01") + 8;
                parts.head[at] = 9;
            }),
        ),
        (
            "map keys in descending order",
            Box::new(|parts| {
                let at = find(&parts.frames[3].1, b"bolt");
                parts.frames[3].1[at] = b'z';
            }),
        ),
        (
            "a map key twice",
            Box::new(|parts| {
                let block = &mut parts.frames[3].1;
                let at = find(block, b"\x04bolt");
                block.splice(at..at + 5, b"\x03nut".iter().copied());
            }),
        ),
        (
            "a timer of the same time",
            Box::new(|parts| {
                let block = &mut parts.frames[1].1;
                let at = find(block, &5_i64.to_le_bytes());
                block[at..at + 8].copy_from_slice(&(-5_i64).to_le_bytes());
                let at = find(block, b"\x02w1");
                block.splice(at..at + 3, [0]);
            }),
        ),
        (
            "keys of a broadcast state in descending order",
            Box::new(|parts| {
                let block = &mut parts.frames[5].1;
                let at = find(block, b"\x01a");
                block[at + 1] = b'c';
            }),
        ),
        (
            "a stamp that no table has",
            Box::new(|parts| {
                let block = &mut parts.frames[2].1;
                let at = find(block, &i64::MIN.to_le_bytes());
                block[at..at + 8].copy_from_slice(&(i64::MIN + 1).to_le_bytes());
            }),
        ),
        (
            "a group above all",
            Box::new(|parts| {
                let block = &mut parts.frames[0].1;
                let at = find(block, b"chosen\x00\x64\x00") + 7;
                block[at] = 128;
            }),
        ),
        (
            "a group that follows from the key",
            Box::new(|parts| {
                let block = &mut parts.frames[0].1;
                let at = find(block, b"chosen\x00\x64\x00") + 7;
                block[at] = crate::common::group_of(b"chosen", crate::golden::MAX) as u8;
            }),
        ),
    ];
    for (what, change) in changes {
        let bad = forged(&parts, change);
        assert!(bad != bytes, "{what}: nothing was changed");
        let error = read(&bad).expect_err(what);
        let kind = error.kind();
        assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::Incompatible), "{what}: {error}");
        assert_not_imported(&bad, what);
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    let at = bytes.windows(wanted.len()).position(|window| window == wanted);
    at.unwrap_or_else(|| panic!("{:?} is not there", wanted.escape_ascii().to_string()))
}

#[test]
fn frames_of_another_savepoint_do_not_pass_for_ones_own() {
    let (store, handles) = small_job();
    let bytes = export(&store, &handles);
    let parts = take_apart(&bytes);
    // Sound in itself, but the end is of something else.
    let mut other = parts.clone();
    let last = other.frames.len() - 1;
    other.frames[last].1[30] ^= 1;
    let error = read(&put_together(&other)).unwrap_err();
    assert!(error.to_string().contains("hash does not match"), "{error}");
    assert_not_imported(&put_together(&other), "the end of something else");
    // The very frames, behind a head that differs in what nobody checks.
    let other = export_by(&store, &handles, |export| {
        export.job("job", b"offset 18").compression(Compression::None)
    });
    let other = other.unwrap();
    assert_eq!(other.len(), bytes.len());
    let head = bytes.len() - parts.frames.iter().map(|(_, frame)| frame.len() + 20).sum::<usize>();
    let mixed = [&other[..head], &bytes[head..]].concat();
    let error = read(&mixed).unwrap_err();
    assert!(error.to_string().contains("misplaced"), "{error}");
}

/// All entries but for the numbers of their schemas, of which unused ones go.
fn entries_of(bytes: &[u8]) -> Result<Vec<String>> {
    let mut reader = SavepointReader::open(bytes)?;
    let mut entries = Vec::new();
    while let Some((section, mut entry)) = reader.next()? {
        entry.schema = 0;
        entries.push(format!("{section} {entry:?}"));
    }
    Ok(entries)
}

#[test]
fn whatever_a_forger_changes_is_refused_or_comes_through_an_import() {
    let (store, handles) = small_job();
    let parts = take_apart(&export(&store, &handles));
    let mut read = [0; 2];
    for seed in 0..6_000 {
        let mut rng = SimRng::new(seed);
        let bad = forged(&parts, |parts| {
            for _ in 0..1 + rng.below(3) {
                let frame = rng.below(parts.frames.len() as u64 + 2) as usize;
                let bytes = match parts.frames.get_mut(frame) {
                    Some((_, payload)) => payload,
                    None => &mut parts.head,
                };
                let at = rng.below(bytes.len() as u64) as usize;
                match rng.below(4) {
                    0 => bytes[at] ^= 1 << rng.below(8),
                    1 => bytes[at] = rng.below(256) as u8,
                    2 => drop(bytes.splice(at..at, [rng.below(256) as u8])),
                    _ => bytes[at] = bytes[at].wrapping_add(rng.below(3) as u8),
                }
            }
        });
        let to = memory();
        let imported = import_by(&to, &bad, |import| import.shards(2).table_bytes(50));
        let found = entries_of(&bad);
        read[usize::from(found.is_ok())] += 1;
        match (found, imported) {
            (Ok(found), Ok(imported)) => {
                let again = export(&to, &handles_of(&imported));
                assert!(entries_of(&again).unwrap() == found, "seed {seed}");
            }
            (Err(_), Err(_)) => {}
            // One key group is not enough for two shards.
            (Ok(_), Err(error)) if error.kind() == ErrorKind::Invalid => {}
            (found, imported) => panic!("seed {seed}: {:?} {imported:?}", found.map(|_| "read")),
        }
    }
    assert!(read.iter().all(|count| *count > 300), "{read:?}");
}

/// A list is the one state in which nothing in the bytes says that an entry is there
/// twice: the counts and the hash of the head and the end do.
#[test]
fn a_forged_savepoint_that_is_one_is_read_for_what_it_says() {
    let (store, handles) = small_job();
    let parts = take_apart(&export(&store, &handles));
    let other = forged(&parts, |parts| {
        let at = find(&parts.frames[0].1, b" costs 17") + 1;
        parts.frames[0].1[at] = b'C';
    });
    assert_eq!(read(&other).unwrap(), read(&put_together(&parts)).unwrap());
    let found = plain::read(&other);
    let amounts = &found.operators["orders"].states["amount"].entries;
    assert_eq!(amounts[0].value, b" Costs 17");
}
