//! A reader and a writer of canonical savepoints by the drawing in
//! `src/format/canonical/mod.rs` alone: what they share with the engine is the hash.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

pub type Bytes = Vec<u8>;
/// A codec: name, version, detail.
pub type Codec = (String, u64, Bytes);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Savepoint {
    pub job: String,
    pub user_meta: Bytes,
    pub operators: BTreeMap<String, Operator>,
    pub hash: u128,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operator {
    pub max_parallelism: u16,
    pub watermark: Option<i64>,
    pub states: BTreeMap<String, State>,
    pub items: BTreeMap<String, Items>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub kind: u8,
    pub keys: [Codec; 2],
    pub map_keys: Option<Codec>,
    pub values: Vec<Codec>,
    /// Which time, how long, since when.
    pub ttl: Option<(u8, u64, Option<i64>)>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Items {
    pub mode: u8,
    pub keys: Option<Codec>,
    pub parts: Vec<(Codec, u64)>,
    /// Keys, of a broadcast state, and values.
    pub items: Vec<(Bytes, Bytes)>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Name {
    None,
    Key(Bytes),
    Time(i64),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub key: Bytes,
    pub namespace: Bytes,
    pub group: Option<u16>,
    pub name: Name,
    pub schema: usize,
    pub stamp: Option<i64>,
    pub value: Bytes,
}

/// A savepoint taken apart: the body of its head, and kinds and payloads of the frames.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    pub head: Bytes,
    pub frames: Vec<(u8, Bytes)>,
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> u128 {
        self.take(bytes).iter().rev().fold(0, |sum, &byte| sum << 8 | u128::from(byte))
    }

    fn varint(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        panic!("a varint does not end");
    }

    fn bytes(&mut self) -> Bytes {
        let len = self.varint() as usize;
        self.take(len).to_vec()
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    fn instant(&mut self) -> Option<i64> {
        match self.take(1)[0] {
            0 => None,
            1 => Some(self.number(8) as i64),
            other => panic!("{other} is neither none nor some"),
        }
    }

    fn codec(&mut self) -> Codec {
        (self.text(), self.varint(), self.bytes())
    }

    fn times<T>(&mut self, read: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..self.varint()).map(|_| read(self)).collect()
    }
}

fn seed(identity: u128, offset: u64, kind: u8) -> u64 {
    let (low, high) = (identity as u64, (identity >> 64) as u64);
    low.wrapping_add(high.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ offset.rotate_left(8)
        ^ u64::from(kind)
}

/// Takes a savepoint apart, checking all but the end.
pub fn take_apart(bytes: &[u8]) -> Parts {
    let mut all = Cursor(bytes);
    assert_eq!(all.take(8), b"ALVCANON");
    assert_eq!(all.number(4), 1, "version 1, and reserved zeros");
    let len = all.number(4) as usize;
    let head = all.take(len).to_vec();
    let identity = all.number(16);
    assert_eq!(identity, xxh3_128(&bytes[..16 + len]));
    let mut frames = Vec::new();
    while !all.0.is_empty() {
        let offset = (bytes.len() - all.0.len()) as u64;
        let checked = &all.0[8..];
        let checksum = all.number(8) as u64;
        let (kind, codec, reserved) = (all.number(1) as u8, all.number(1), all.number(2));
        let (raw_len, stored_len) = (all.number(4) as usize, all.number(4) as usize);
        let stored = all.take(stored_len);
        let computed = xxh3_64_with_seed(&checked[..12 + stored_len], seed(identity, offset, kind));
        assert_eq!(checksum, computed, "frame at {offset}");
        assert_eq!(reserved, 0);
        let payload = match codec {
            0 => stored.to_vec(),
            1 => lz4_flex::block::decompress(stored, raw_len).unwrap(),
            other => panic!("codec {other}"),
        };
        assert_eq!(payload.len(), raw_len);
        frames.push((kind, payload));
    }
    Parts { head, frames }
}

/// Makes a savepoint, uncompressed and with sound checksums, whatever is in it.
pub fn put_together(parts: &Parts) -> Bytes {
    let mut out = b"ALVCANON\x01\x00\x00\x00".to_vec();
    out.extend((parts.head.len() as u32).to_le_bytes());
    out.extend(&parts.head);
    let identity = xxh3_128(&out);
    out.extend(identity.to_le_bytes());
    for (kind, payload) in &parts.frames {
        let offset = out.len() as u64;
        let mut checked = vec![*kind, 0, 0, 0];
        checked.extend((payload.len() as u32).to_le_bytes());
        checked.extend((payload.len() as u32).to_le_bytes());
        checked.extend(payload);
        out.extend(xxh3_64_with_seed(&checked, seed(identity, offset, *kind)).to_le_bytes());
        out.extend(checked);
    }
    out
}

/// The end that belongs to other parts, whose counts are those of `end`.
pub fn end_of(parts: &Parts, end: &[u8]) -> Bytes {
    let mut all = put_together(&Parts { head: parts.head.clone(), frames: Vec::new() });
    let body = parts.frames.iter().filter(|(kind, _)| *kind != 9);
    body.for_each(|(_, payload)| all.extend(payload));
    let mut out = end[..24].to_vec();
    out.extend(xxh3_128(&all).to_le_bytes());
    out
}

/// Reads a savepoint; panics at whatever is not as it is drawn.
pub fn read(bytes: &[u8]) -> Savepoint {
    let parts = take_apart(bytes);
    let mut head = Cursor(&parts.head);
    let (job, user_meta) = (head.text(), head.bytes());
    let mut counts = Vec::new();
    let mut names: Vec<(String, String)> = Vec::new();
    let mut operators = BTreeMap::new();
    for _ in 0..head.varint() {
        let name = head.text();
        let (max_parallelism, watermark) = (head.number(2) as u16, head.instant());
        let mut operator = Operator {
            max_parallelism,
            watermark,
            states: BTreeMap::new(),
            items: BTreeMap::new(),
        };
        for _ in 0..head.varint() {
            let state = head.text();
            let kind = head.number(1) as u8;
            let keys = [head.codec(), head.codec()];
            let value = head.codec();
            let map_keys = (head.number(1) == 1).then(|| head.codec());
            let older = head.times(Cursor::codec);
            let ttl = match head.number(1) as u8 {
                0 => None,
                time => Some((time, head.number(8) as u64, head.instant())),
            };
            counts.push((head.varint(), head.varint()));
            names.push((name.clone(), state.clone()));
            let values = [vec![value], older].concat();
            let held = State { kind, keys, map_keys, values, ttl, entries: Vec::new() };
            assert!(operator.states.insert(state, held).is_none());
        }
        for _ in 0..head.varint() {
            let state = head.text();
            let mode = head.number(1) as u8;
            let keys = (mode == 3).then(|| head.codec());
            let parts = head.times(|head| (head.codec(), head.varint()));
            counts.push((parts.iter().map(|(_, count)| count).sum(), head.varint()));
            names.push((name.clone(), state.clone()));
            operator.items.insert(state, Items { mode, keys, parts, items: Vec::new() });
        }
        assert!(operators.insert(name, operator).is_none());
    }
    assert!(head.0.is_empty());

    let mut hashed = put_together(&Parts { head: parts.head.clone(), frames: Vec::new() });
    let mut found = vec![(0, 0); counts.len()];
    let mut frames = parts.frames.iter();
    let mut last_section = 0;
    let mut hash = None;
    while let Some((kind, payload)) = frames.next() {
        if *kind == 9 {
            let mut end = Cursor(payload);
            let sum = |of: fn(&(u64, u64)) -> u64| counts.iter().map(of).sum::<u64>();
            assert_eq!(end.number(8) as usize, parts.frames.len() - 1);
            assert_eq!(end.number(8) as u64, sum(|count| count.0));
            assert_eq!(end.number(8) as u64, sum(|count| count.1));
            let stored = end.number(16);
            assert_eq!(stored, xxh3_128(&hashed));
            assert!(end.0.is_empty() && frames.next().is_none(), "nothing follows the end");
            hash = Some(stored);
            break;
        }
        assert_eq!(*kind, 7, "a piece belongs to a value");
        hashed.extend(payload);
        let mut block = Cursor(payload);
        let section = block.number(4) as usize;
        assert!(section >= last_section);
        last_section = section;
        let (operator, state) = &names[section];
        let operator = operators.get_mut(operator).unwrap();
        let count = block.number(4);
        assert!(count > 0);
        let mut place = None;
        for _ in 0..count {
            let flags = block.number(1) as u8;
            let mut value_of = |block: &mut Cursor<'_>| {
                if flags & 8 == 0 {
                    return block.bytes();
                }
                let len = block.varint() as usize;
                assert!(block.0.is_empty(), "a long value ends its block");
                let mut value = Vec::new();
                while value.len() < len {
                    let (kind, piece) = frames.next().unwrap();
                    assert_eq!(*kind, 8);
                    assert_eq!(piece.len(), (len - value.len()).min(1 << 20));
                    hashed.extend(piece);
                    value.extend(piece);
                }
                value
            };
            let bytes;
            if let Some(state) = operator.states.get_mut(state) {
                if flags & 1 == 0 {
                    let (key, namespace) = (block.bytes(), block.bytes());
                    let group = (flags & 2 != 0).then(|| block.number(2) as u16);
                    place = Some((key, namespace, group));
                }
                let (key, namespace, group) = place.clone().expect("a place");
                let schema = if flags & 4 == 0 { 0 } else { block.varint() as usize };
                let name = match state.kind {
                    3 => Name::Key(block.bytes()),
                    6 => Name::Time(block.number(8) as i64),
                    _ => Name::None,
                };
                let stamp = state.ttl.map(|_| block.number(8) as i64);
                let value = if state.kind == 6 { Vec::new() } else { value_of(&mut block) };
                let name_len = match &name {
                    Name::None => 0,
                    Name::Key(key) => key.len(),
                    Name::Time(_) => 8,
                };
                bytes = key.len() + namespace.len() + name_len + value.len();
                state.entries.push(Entry { key, namespace, group, name, schema, stamp, value });
            } else {
                let items = operator.items.get_mut(state).unwrap();
                let key = if items.mode == 3 { block.bytes() } else { Vec::new() };
                let value = value_of(&mut block);
                bytes = key.len() + value.len();
                items.items.push((key, value));
            }
            found[section].0 += 1;
            found[section].1 += bytes as u64;
        }
        assert!(block.0.is_empty());
    }
    assert_eq!(found, counts, "what the head counts");
    let savepoint = Savepoint { job, user_meta, operators, hash: hash.expect("an end") };
    check_order(&savepoint);
    savepoint
}

fn check_order(savepoint: &Savepoint) {
    for state in savepoint.operators.values().flat_map(|operator| operator.states.values()) {
        let place = |entry: &Entry| {
            (entry.key.clone(), entry.namespace.clone(), entry.group, entry.name.clone())
        };
        for pair in state.entries.windows(2) {
            let (one, other) = (place(&pair[0]), place(&pair[1]));
            assert!(if state.kind == 2 { one <= other } else { one < other }, "{one:?} {other:?}");
        }
    }
}
