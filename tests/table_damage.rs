//! Damaged, foreign and hostile files: an error, or the very same answers.
//!
//! What could break: a decoder panics or reads past a check; a block is taken
//! from the wrong place or file; an error is mistaken for "absent".

mod table_support;

use std::sync::Arc;

use alluvium::TimeDomain;
use alluvium::base::checksum::of_part;
use alluvium::base::{Error, ErrorKind, FileId, MaxParallelism, Result};
use alluvium::codec::KeyRef;
use alluvium::format::collection::EntryName;
use alluvium::format::frame::{FRAME_HEADER_BYTES, FrameEncoder, PartKind};
use alluvium::format::page_sums::PageSumsBuilder;
use alluvium::format::table::{FOOTER_BYTES, Footer, HEADER_BYTES};
use alluvium::format::{Compression, Placement, TableMeta};
use alluvium::table::{Found, PlacedKey, TableOptions, TableReader, TableWriter};
use table_support::*;

const PLAIN: TableOptions = TableOptions {
    block_bytes: 512,
    compression: Compression::None,
    filter_bits_per_key: 8,
    fit_pages: false,
};
const PACKED: TableOptions = TableOptions { compression: Compression::Lz4, ..PLAIN };

/// A table small enough to be damaged in every possible way.
fn tiny_model() -> Model {
    let mut model = Model { max_parallelism: MaxParallelism::new(4).unwrap(), ..Model::default() };
    for i in 0..30u64 {
        model.insert("counts", &i.to_be_bytes(), b"", Some(&[7; 16]));
    }
    for i in 0..6u8 {
        let value = (i != 2).then(|| vec![i; usize::from(i)]);
        model.insert("names", &vec![b'k'; usize::from(i)], &[i / 2], value.as_deref());
    }
    model
}

/// The same of collections.
fn tiny_collections() -> Model {
    let mut model = Model { max_parallelism: MaxParallelism::new(4).unwrap(), ..Model::default() };
    model.insert_named("lists", b"k", EntryName::marker(b"n"), None);
    for i in 0..14u64 {
        let entry = i.to_be_bytes();
        model.insert_named("lists", b"k", EntryName::entry(b"n", &entry), Some(&[7; 16]));
    }
    for i in 0..6u8 {
        let (entry, value) = (vec![i; usize::from(i)], (i != 2).then_some(&b"value"[..]));
        model.insert_named("maps", &[i / 2], EntryName::entry(b"", &entry), value);
    }
    model.insert("names", b"k", b"n", Some(b"single"));
    model
}

/// Opens the file and asks for everything in it. `Ok(true)` if all answers are
/// those of the model, `Ok(false)` if one is wrong.
fn all_answers(bytes: &[u8], mapped: bool, meta: &TableMeta, model: &Model) -> Result<bool> {
    let table = open(bytes, mapped, meta)?;
    let mut error: Option<Error> = None;
    let mut out = Vec::new();
    for (ordinal, records) in model.states.values().enumerate() {
        for ((group, hash, key, namespace), value) in records {
            match (table.get(ordinal as u16, *group, *hash, key, namespace, &mut out), value) {
                (Ok(Found::Value), Some(value)) if out == *value => {}
                (Ok(Found::Deleted), None) => {}
                (Ok(_), _) => return Ok(false),
                (Err(why), _) => error = Some(why),
            }
        }
    }
    let all = model.max_parallelism.all_groups();
    match collect(table.scan(all)) {
        Ok(rows) if rows == model.scan(all) => {}
        Ok(_) => return Ok(false),
        Err(why) => error = Some(why),
    }
    if let Some(lists) = table.state_ordinal("lists") {
        let all: Vec<Row> = model.scan(all).into_iter().filter(|row| row.state == lists).collect();
        let at = PlacedKey::new(KeyRef::new(b"k").namespace(b"n"), model.max_parallelism);
        for (from, expected) in [(None, &all[..]), (Some(&13u64.to_be_bytes()[..]), &all[14..])] {
            match table.scan_collection(lists, at, from).and_then(collect) {
                Ok(rows) if rows == expected => {}
                Ok(_) => return Ok(false),
                Err(why) => error = Some(why),
            }
        }
    }
    error.map_or(Ok(true), Err)
}

#[test]
fn every_flipped_bit_is_an_error_or_changes_no_answer() {
    let models = [tiny_model(), tiny_collections(), small_timed()];
    for (model, options) in models.iter().flat_map(|model| [(model, PLAIN), (model, PACKED)]) {
        let (bytes, meta) = model.write(FILE, options).unwrap();
        assert!(bytes.len() < 4000, "{} bytes: keep this test short", bytes.len());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mapped = bit % 2 == 0;
            match all_answers(&bad, mapped, &meta, model) {
                Ok(same) => {
                    assert!(same, "bit {bit} changed an answer");
                    assert!(bit / 8 < HEADER_BYTES, "bit {bit} was not noticed");
                }
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible),
                    "bit {bit}: {error:?}"
                ),
            }
            if let Ok(table) = open(&bad, mapped, &meta) {
                assert_eq!(table.verify().unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
            }
        }
    }
}

#[test]
fn a_table_cut_or_extended_to_any_length_is_corrupt() {
    let (bytes, meta) = tiny_model().write(FILE, PLAIN).unwrap();
    for len in 0..bytes.len() {
        let mapped = len % 2 == 0;
        let error = open(&bytes[..len], mapped, &meta).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes");
        let error = TableReader::open_any(source(&bytes[..len], mapped)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes");
    }
    for more in [1, FOOTER_BYTES, 4096] {
        let mut longer = bytes.clone();
        longer.resize(bytes.len() + more, 0);
        assert_eq!(open(&longer, true, &meta).unwrap_err().kind(), ErrorKind::Corrupt);
        // A whole footer at the very end is still at the wrong offset.
        let footer_at = longer.len() - FOOTER_BYTES;
        longer[footer_at..].copy_from_slice(&bytes[bytes.len() - FOOTER_BYTES..]);
        let error = TableReader::open_any(source(&longer, true)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{more} more bytes");
    }
}

#[test]
fn another_file_of_the_same_shape_is_not_the_expected_one() {
    let model = tiny_model();
    let other = FileId { number: FILE.number + 1, ..FILE };
    let (bytes, meta) = model.write(FILE, PLAIN).unwrap();
    let (other_bytes, other_meta) = model.write(other, PLAIN).unwrap();
    assert_eq!(bytes.len(), other_bytes.len());
    for (bytes, meta) in [(&bytes, &other_meta), (&other_bytes, &meta)] {
        let error = open(bytes, true, meta).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&meta.file.to_string()), "{error}");
    }
    for wrong in [
        TableMeta { records: meta.records + 1, ..meta },
        TableMeta { tombstones: meta.tombstones + 1, ..meta },
        TableMeta { raw_bytes: meta.raw_bytes + 1, ..meta },
        TableMeta { groups: groups(0, 1), ..meta },
    ] {
        assert_eq!(open(&bytes, true, &wrong).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn verify_finds_a_file_with_another_content_hash() {
    let (bytes, meta) = tiny_model().write(FILE, PLAIN).unwrap();
    let wrong = TableMeta { hash: alluvium::base::checksum::ContentHash(1), ..meta };
    let table = open(&bytes, true, &wrong).unwrap();
    assert_eq!(table.verify().unwrap_err().kind(), ErrorKind::Corrupt);
    TableReader::open_any(source(&bytes, false)).unwrap().verify().unwrap();
}

/// The parts of a file: header, each block, filter, index, page sums, properties, footer.
fn parts(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let table = TableReader::open_any(source(bytes, true)).unwrap();
    let range = |range: std::ops::Range<u64>| range.start as usize..range.end as usize;
    let index = table.index().unwrap();
    let blocks =
        index.iter().map(|block| block.unwrap()).map(|block| range(block.offset..block.end));
    let mut parts: Vec<_> = std::iter::once(0..HEADER_BYTES).chain(blocks).collect();
    let footer = table.footer();
    let sums = footer.sums().unwrap();
    parts.extend([footer.filter(), footer.index(), sums, footer.properties()].map(range));
    parts.push(bytes.len() - FOOTER_BYTES..bytes.len());
    parts
}

#[test]
fn no_part_can_be_taken_from_another_file_or_place() {
    let model = tiny_model();
    let (bytes, meta) = model.write(FILE, PLAIN).unwrap();
    let (donor, _) = model.write(FileId { incarnation: 1, ..FILE }, PLAIN).unwrap();
    let parts = parts(&bytes);
    assert!(parts.len() > 6, "several blocks");
    for part in &parts {
        let mut mixed = bytes.clone();
        mixed[part.clone()].copy_from_slice(&donor[part.clone()]);
        let answers = all_answers(&mixed, true, &meta, &model);
        if part.start == 0 {
            let table = open(&mixed, true, &meta).unwrap();
            assert!(answers.unwrap(), "the header holds no answers");
            assert_eq!(table.verify().unwrap_err().kind(), ErrorKind::Corrupt);
        } else {
            assert_eq!(answers.unwrap_err().kind(), ErrorKind::Corrupt, "part at {part:?}");
        }
    }
}

#[test]
fn two_blocks_of_one_file_cannot_change_places() {
    let mut model = Model { max_parallelism: MaxParallelism::new(1).unwrap(), ..Model::default() };
    for i in 0..200u64 {
        model.insert("counts", &i.to_be_bytes(), b"", Some(&[7; 16]));
    }
    let (bytes, meta) = model.write(FILE, PLAIN).unwrap();
    let parts = parts(&bytes);
    let (a, b) = (parts[1].clone(), parts[2].clone());
    assert_eq!(a.len(), b.len(), "full blocks of fixed records");
    let mut mixed = bytes.clone();
    mixed[a.clone()].copy_from_slice(&bytes[b.clone()]);
    mixed[b].copy_from_slice(&bytes[a]);
    let error = all_answers(&mixed, false, &meta, &model).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// Edits a part and makes all checksums right again, as a hostile writer would.
fn forge(
    bytes: &mut [u8],
    part: std::ops::Range<usize>,
    kind: PartKind,
    edit: impl FnOnce(&mut [u8]),
) {
    let footer = *TableReader::open_any(source(bytes, true)).unwrap().footer();
    edit(&mut bytes[part.clone()]);
    seal(bytes, part, kind);
    if matches!(kind, PartKind::Filter | PartKind::Index) {
        let mut sums = PageSumsBuilder::new(FILE, footer.filter_at);
        let searched = footer.searched();
        sums.add(&bytes[searched.start as usize..searched.end as usize]);
        let part = footer.sums().unwrap();
        let part = part.start as usize..part.end as usize;
        bytes[part.start + FRAME_HEADER_BYTES..part.end].copy_from_slice(&sums.finish());
        seal(bytes, part, PartKind::PageSums);
    }
}

/// Makes the checksum of a part right.
fn seal(bytes: &mut [u8], part: std::ops::Range<usize>, kind: PartKind) {
    let checksum = of_part(FILE, part.start as u64, kind as u8, &bytes[part.start + 8..part.end]);
    bytes[part.start..part.start + 8].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn another_version_is_incompatible_even_with_sound_checksums() {
    let (bytes, meta) = tiny_model().write(FILE, PLAIN).unwrap();
    let mut newer = bytes.clone();
    let footer = parts(&bytes).pop().unwrap();
    forge(&mut newer, footer, PartKind::Footer, |footer| footer[62] = 3);
    let error = open(&newer, true, &meta).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    assert!(error.to_string().contains("expected 2, found 3"), "{error}");
}

#[test]
fn forged_parts_with_sound_checksums_never_panic_nor_give_wrong_answers_silently() {
    let models = [tiny_model(), tiny_collections(), small_timed()];
    for (model, options) in models.iter().flat_map(|model| [(model, PLAIN), (model, PACKED)]) {
        let (bytes, meta) = model.write(FILE, options).unwrap();
        let parts = parts(&bytes);
        let tail = parts.len() - 5;
        for (number, part) in parts.iter().enumerate().skip(1).take(parts.len() - 2) {
            let kind = match number {
                n if n < tail => PartKind::Data,
                n if n == tail => PartKind::Filter,
                n if n == tail + 1 => PartKind::Index,
                n if n == tail + 2 => PartKind::PageSums,
                _ => PartKind::Properties,
            };
            for at in 8..part.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bad = bytes.clone();
                    if bad[part.start + at] == value {
                        continue;
                    }
                    forge(&mut bad, part.clone(), kind, |part| part[at] = value);
                    // A forger may change keys and values; never crash us.
                    let _ = all_answers(&bad, number % 2 == 0, &meta, model);
                    if let Ok(table) = TableReader::open_any(source(&bad, true)) {
                        let _ = table.verify();
                    }
                }
            }
        }
    }
}

#[test]
fn a_table_with_a_page_sum_too_few_or_too_many_does_not_open() {
    let (bytes, meta) = tiny_model().write(FILE, PLAIN).unwrap();
    let footer = *open(&bytes, true, &meta).unwrap().footer();
    let sums = footer.sums().unwrap();
    let [sums, properties] = [sums, footer.properties()]
        .map(|part| part.start as usize + FRAME_HEADER_BYTES..part.end as usize);
    for sum in [&[][..], &[7; 16][..]] {
        // Whatever follows the index, at its new place and with right checksums.
        let mut bad = bytes[..sums.start - FRAME_HEADER_BYTES].to_vec();
        let mut frames = FrameEncoder::new(FILE, Compression::None);
        let mut append = |bad: &mut Vec<u8>, kind, payload: &[u8]| {
            let at = bad.len() as u64;
            frames.encode(bad, kind, at, payload).unwrap();
            at
        };
        append(&mut bad, PartKind::PageSums, sum);
        let properties_at = append(&mut bad, PartKind::Properties, &bytes[properties.clone()]);
        let footer_at = bad.len() as u64;
        bad.extend_from_slice(&Footer { properties_at, footer_at, ..footer }.encode());
        for mapped in [true, false] {
            let error = TableReader::open_any(source(&bad, mapped)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("page sums"), "{error}");
        }
    }
}

/// What has expired is told by it, so a value that is newer would be lost.
#[test]
fn a_newest_stamp_below_one_of_the_values_is_corrupt() {
    for newest in [0, 1, 1010] {
        let mut model = small_timed();
        model.stamps.insert("clock".into(), (TimeDomain::Processing, Some(newest)));
        let (bytes, meta) = model.write(FILE, PLAIN).unwrap();
        let table = open(&bytes, true, &meta).unwrap();
        let error = table.verify().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("newer than its table says"), "{error}");
    }
}

#[test]
fn hostile_counts_and_lengths_are_refused() {
    let (bytes, meta) = tiny_model().write(FILE, PLAIN).unwrap();
    let parts = parts(&bytes);
    let (first, index, properties) =
        (parts[1].clone(), parts[parts.len() - 4].clone(), parts[parts.len() - 2].clone());
    let max = u32::MAX.to_le_bytes();
    let body = FRAME_HEADER_BYTES;
    type Edit = Box<dyn Fn(&mut [u8])>;
    let edits: Vec<(std::ops::Range<usize>, PartKind, Edit)> = vec![
        // Frame lengths, record count, run count, column sizes of a block.
        (first.clone(), PartKind::Data, Box::new(move |p| p[12..16].copy_from_slice(&max))),
        (first.clone(), PartKind::Data, Box::new(move |p| p[16..20].copy_from_slice(&max))),
        (first.clone(), PartKind::Data, Box::new(move |p| p[body..body + 2].fill(0xff))),
        (first.clone(), PartKind::Data, Box::new(move |p| p[body + 2..body + 4].fill(0xff))),
        (first.clone(), PartKind::Data, Box::new(move |p| p[body + 8..body + 12].fill(0xff))),
        (first.clone(), PartKind::Data, Box::new(move |p| p[body + 16..body + 20].fill(0xff))),
        // A first offset at the end of time, a second one there, another count of
        // records.
        (index.clone(), PartKind::Index, Box::new(move |p| p[body + 10..body + 16].fill(0xff))),
        (index.clone(), PartKind::Index, Box::new(move |p| p[body + 26..body + 32].fill(0xff))),
        (index, PartKind::Index, Box::new(move |p| p[body + 8..body + 10].fill(0xff))),
        // 65,535 states, 65,535 blocks of the first one ("counts").
        (
            properties.clone(),
            PartKind::Properties,
            Box::new(move |p| p[body + 6..body + 8].fill(0xff)),
        ),
        (properties, PartKind::Properties, Box::new(move |p| p[body + 26] = 0x7f)),
    ];
    for (number, (part, kind, edit)) in edits.into_iter().enumerate() {
        let mut bad = bytes.clone();
        forge(&mut bad, part, kind, edit);
        for mapped in [false, true] {
            let error = all_answers(&bad, mapped, &meta, &tiny_model()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "edit {number}");
        }
    }
}

#[test]
fn a_failed_scan_stays_failed() {
    let model = tiny_model();
    let (mut bytes, meta) = model.write(FILE, PLAIN).unwrap();
    let second = parts(&bytes)[2].clone();
    bytes[second.start + 30] ^= 1;
    for mapped in [false, true] {
        let table: Arc<TableReader> = open(&bytes, mapped, &meta).unwrap();
        let mut scan = table.scan(model.max_parallelism.all_groups());
        let mut seen = 0;
        let error = loop {
            match scan.next() {
                Ok(Some(_)) => seen += 1,
                Ok(None) => panic!("the damage was not noticed"),
                Err(error) => break error,
            }
        };
        assert!(seen > 0, "the first block is sound");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&format!("offset {}", second.start)), "{error}");
        assert_eq!(scan.next().unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[test]
fn a_wrong_placement_is_noticed() {
    let model = tiny_collections();
    let (bytes, meta) = model.write(FILE, PLAIN).unwrap();
    let parts = parts(&bytes);
    let properties = parts[parts.len() - 2].clone();
    for (name, placement, kind) in [
        ("lists", Placement::Single as u8, ErrorKind::Corrupt),
        ("names", Placement::Collection as u8, ErrorKind::Corrupt),
        ("maps", 0, ErrorKind::Incompatible),
        ("maps", 3, ErrorKind::Incompatible),
    ] {
        let mut bad = bytes.clone();
        forge(&mut bad, properties.clone(), PartKind::Properties, |part| {
            let at = part.windows(name.len()).position(|text| text == name.as_bytes()).unwrap();
            part[at + name.len()] = placement;
        });
        let checked = open(&bad, true, &meta).and_then(|table| table.verify());
        // The hash of the whole file would tell as well.
        let unknown = TableReader::open_any(source(&bad, true)).and_then(|table| table.verify());
        for error in [checked.unwrap_err(), unknown.unwrap_err()] {
            assert_eq!(error.kind(), kind, "{name} {placement}: {error}");
        }
        assert!(all_answers(&bad, true, &meta, &model).is_err() || placement == 1);
    }
}

#[test]
fn entry_names_that_do_not_add_up_are_corrupt() {
    // Written as single values, so that the writer lets anything pass, and
    // turned into collections afterwards.
    for (number, bad) in [
        &[][..],
        &[0],
        &[0, 0, 0],
        &[0, 7],
        &[5, b'n', 1],
        &[0x80, 0x80, 0x80, 0x80, 1],
        &[0xff; 11],
    ]
    .into_iter()
    .enumerate()
    {
        let out = MemFile::default();
        let max = MaxParallelism::new(4).unwrap();
        let mut writer = TableWriter::new(Box::new(out.clone()), FILE, max, PLAIN).unwrap();
        writer.begin_state("lists").unwrap();
        let (group, hash) = KeyRef::new(b"k").namespace(bad).locate(max);
        writer.add(group, hash, b"k", bad, Some(b"v")).unwrap();
        let meta = writer.finish().unwrap();
        let mut bytes = out.0.lock().unwrap().clone();
        let parts = parts(&bytes);
        forge(&mut bytes, parts[parts.len() - 2].clone(), PartKind::Properties, |part| {
            let at = part.windows(5).position(|text| text == b"lists").unwrap();
            part[at + 5] = Placement::Collection as u8;
        });
        for mapped in [false, true] {
            let table = open(&bytes, mapped, &meta).unwrap();
            let error = collect(table.scan(max.all_groups())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "name {number}: {error}");
            assert!(error.to_string().contains("data block at offset 40"), "{error}");
            let at = PlacedKey { group, hash, key: b"k", namespace: b"n" };
            let error = table.scan_collection(0, at, None).and_then(collect).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "name {number}: {error}");
            let unknown = TableReader::open_any(source(&bytes, mapped)).unwrap();
            assert_eq!(unknown.verify().unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
