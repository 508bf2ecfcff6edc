//! What the tests of tables share: files in memory, a small random number
//! generator, and a model of a table.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use alluvium::TimeDomain;
use alluvium::base::{FileId, KeyGroup, KeyGroupRange, MaxParallelism, Result};
use alluvium::codec::KeyRef;
use alluvium::env::{ReadAt, WriteFile};
use alluvium::format::collection::{EntryName, Subkey};
use alluvium::format::{Placement, TableMeta};
use alluvium::table::{TableOptions, TableReader, TableWriter};

/// A file being written to memory.
#[derive(Clone, Default)]
pub struct MemFile(pub Arc<Mutex<Vec<u8>>>);

impl WriteFile for MemFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file in memory, read as if mapped or as if not.
pub struct MemSource {
    pub bytes: Vec<u8>,
    pub mapped: bool,
}

impl std::fmt::Debug for MemSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes in memory", self.bytes.len())
    }
}

impl ReadAt for MemSource {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        match self.bytes.get(start..start + buf.len()) {
            Some(bytes) => buf.copy_from_slice(bytes),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        self.mapped.then_some(&self.bytes)
    }
}

pub fn source(bytes: &[u8], mapped: bool) -> Arc<dyn ReadAt> {
    Arc::new(MemSource { bytes: bytes.to_vec(), mapped })
}

/// splitmix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

pub const FILE: FileId = FileId { incarnation: 0xa11a_0000_0000_0001, number: 3 };

/// (group, hash, key, namespace) to value, tombstones being `None`.
pub type Records = BTreeMap<(KeyGroup, u64, Vec<u8>, Vec<u8>), Option<Vec<u8>>>;

/// What a table should hold.
#[derive(Clone, Default, Debug)]
pub struct Model {
    pub max_parallelism: MaxParallelism,
    pub states: BTreeMap<String, Records>,
    /// The names of those of collections.
    pub collections: BTreeSet<String>,
    /// Of states whose values have stamps in front: of which time, and the newest.
    pub stamps: BTreeMap<String, (TimeDomain, Option<u64>)>,
}

impl Model {
    pub fn insert(&mut self, state: &str, key: &[u8], namespace: &[u8], value: Option<&[u8]>) {
        let (group, hash) = KeyRef::new(key).namespace(namespace).locate(self.max_parallelism);
        self.states
            .entry(state.to_owned())
            .or_default()
            .insert((group, hash, key.to_vec(), namespace.to_vec()), value.map(<[u8]>::to_vec));
    }

    /// Puts a record of a collection; the state is then one of collections.
    pub fn insert_named(
        &mut self,
        state: &str,
        key: &[u8],
        name: EntryName<'_>,
        value: Option<&[u8]>,
    ) {
        let (group, hash) = KeyRef::new(key).namespace(name.namespace).locate(self.max_parallelism);
        self.collections.insert(state.to_owned());
        self.states
            .entry(state.to_owned())
            .or_default()
            .insert((group, hash, key.to_vec(), encoded(name)), value.map(<[u8]>::to_vec));
    }

    pub fn placement(&self, state: &str) -> Placement {
        match self.collections.contains(state) {
            true => Placement::Collection,
            false => Placement::Single,
        }
    }

    pub fn records(&self) -> u64 {
        self.states.values().map(|records| records.len() as u64).sum()
    }

    pub fn raw_bytes(&self) -> u64 {
        let mut bytes = 0;
        for ((_, _, key, namespace), value) in self.states.values().flatten() {
            bytes += key.len() + namespace.len() + value.as_ref().map_or(0, Vec::len);
        }
        bytes as u64
    }

    pub fn write(&self, file: FileId, options: TableOptions) -> Result<(Vec<u8>, TableMeta)> {
        let out = MemFile::default();
        let mut writer =
            TableWriter::new(Box::new(out.clone()), file, self.max_parallelism, options)?;
        for (state, records) in &self.states {
            writer.begin_placed_state(state, self.placement(state))?;
            for ((group, hash, key, namespace), value) in records {
                writer.add(*group, *hash, key, namespace, value.as_deref())?;
            }
            if let Some((time, newest)) = self.stamps.get(state) {
                writer.set_stamps(Some(*time))?;
                writer.set_newest_stamp(*newest)?;
            }
        }
        let meta = writer.finish()?;
        let bytes = std::mem::take(&mut *out.0.lock().unwrap());
        Ok((bytes, meta))
    }

    /// Everything of `groups` as a scan should lend it.
    pub fn scan(&self, groups: KeyGroupRange) -> Vec<Row> {
        let mut rows = Vec::new();
        for (state, (name, records)) in self.states.iter().enumerate() {
            for ((group, hash, key, namespace), value) in records {
                assert_eq!(*hash, self.placement(name).hash(key, namespace).unwrap());
                if groups.contains(*group) {
                    rows.push(Row {
                        state: state as u16,
                        group: *group,
                        hash: *hash,
                        key: key.clone(),
                        namespace: namespace.clone(),
                        value: value.clone(),
                    });
                }
            }
        }
        rows
    }
}

/// The bytes of a name.
pub fn encoded(name: EntryName<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    name.encode(&mut out);
    out
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub state: u16,
    pub group: KeyGroup,
    pub hash: u64,
    pub key: Vec<u8>,
    pub namespace: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// A value with a stamp in front.
pub fn stamped(stamp: u64, value: &[u8]) -> Vec<u8> {
    [&stamp.to_le_bytes()[..], value].concat()
}

/// A small table of values that expire, by either time: with the newest stamp, without
/// it, and deletions alone.
pub fn small_timed() -> Model {
    let mut model = Model { max_parallelism: MaxParallelism::new(4).unwrap(), ..Model::default() };
    for i in 0..12u64 {
        model.insert("clock", &i.to_be_bytes(), b"", Some(&stamped(1000 + i, b"value")));
        model.insert("unsaid", &i.to_be_bytes(), b"w", Some(&stamped(i, b"")));
        model.insert("zzz deleted", &[i as u8], b"", None);
        let (entry, value) = (i.to_be_bytes(), stamped(u64::MAX - i, b"entry"));
        let name = EntryName::entry(b"ns", &entry);
        model.insert_named("event", b"map", name, (i % 5 != 1).then_some(&value));
    }
    model.insert("clock", b"gone", b"", None);
    model.insert("plain", b"k", b"", Some(b"v"));
    for (state, time, newest) in [
        ("clock", TimeDomain::Processing, Some(1011)),
        ("event", TimeDomain::Event, Some(u64::MAX)),
        ("unsaid", TimeDomain::Processing, None),
        ("zzz deleted", TimeDomain::Event, None),
    ] {
        model.stamps.insert(state.to_owned(), (time, newest));
    }
    model
}

/// Everything a scan lends.
pub fn collect(mut scan: alluvium::table::TableScan) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    while let Some(record) = scan.next()? {
        rows.push(Row {
            state: record.state,
            group: record.group,
            hash: record.hash,
            key: record.key.to_vec(),
            namespace: record.namespace.to_vec(),
            value: record.value.map(<[u8]>::to_vec),
        });
    }
    Ok(rows)
}

pub fn open(bytes: &[u8], mapped: bool, meta: &TableMeta) -> Result<Arc<TableReader>> {
    TableReader::open(source(bytes, mapped), meta).map(Arc::new)
}

pub fn groups(first: u16, last: u16) -> KeyGroupRange {
    KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap()
}

/// A small table with a bit of everything: several states, fixed and variable
/// lengths, namespaces, tombstones, empty keys and values.
pub fn small_model() -> Model {
    let mut model = Model { max_parallelism: MaxParallelism::DEFAULT, ..Model::default() };
    for i in 0..40u64 {
        model.insert("counts", &i.to_be_bytes(), b"", Some(&(i * i).to_be_bytes()));
    }
    for i in 0..12usize {
        let key = "user:".repeat(i);
        let value = (i % 4 != 1).then(|| "x".repeat(i * i));
        model.insert("profiles", key.as_bytes(), b"", value.as_deref().map(str::as_bytes));
    }
    for i in 0..15u16 {
        let window = if i % 5 == 0 { vec![] } else { vec![i as u8; usize::from(i % 3) + 1] };
        model.insert("windows", &(i / 3).to_be_bytes(), &window, Some(&[i as u8]));
    }
    for i in 0..9u8 {
        model.insert("zzz deleted", &[i], b"", None);
    }
    model
}

/// A small table of collections beside single values: cleared ones, replaced
/// ones, some in one block and one in several.
pub fn small_collections() -> Model {
    let mut model = Model { max_parallelism: MaxParallelism::DEFAULT, ..Model::default() };
    for i in 0..10u64 {
        model.insert("counts", &i.to_be_bytes(), b"w", Some(&(i * i).to_be_bytes()));
    }
    for key in 0..6u8 {
        let namespace = vec![b'w'; usize::from(key % 3)];
        if key % 2 == 0 {
            let value = (key == 4).then_some(&b"kept"[..]);
            model.insert_named("lists", &[key], EntryName::marker(&namespace), value);
        }
        for chunk in 0..u64::from(key) {
            let entry = chunk.to_be_bytes();
            let name = EntryName::entry(&namespace, &entry);
            model.insert_named("lists", &[key], name, Some(&vec![key; 3 * usize::from(key)]));
        }
    }
    for i in 0..80u8 {
        let entry = vec![i; usize::from(i % 4)];
        let name = EntryName { namespace: b"ns", subkey: Subkey::Entry(&entry) };
        let value = (i % 7 != 3).then(|| vec![i; 20]);
        model.insert_named("maps", b"large", name, value.as_deref());
        model.insert_named("maps", &[i % 10], EntryName::entry(b"", &entry), Some(b"v"));
    }
    model
}
