//! Savepoints as earlier versions wrote them still open, and today's code still writes
//! them byte for byte.
//!
//! A difference means that the format changed: give it a new version and a new file.
//! Only a file that was never released may be written again, with
//! `REGENERATE_GOLDEN=1 cargo test --test canonical golden`.

#![allow(clippy::disallowed_methods, reason = "golden files lie on the real disk")]

use std::path::Path;
use std::time::Duration;

use alluvium::codec::{CodecId, Schema};
use alluvium::env::SimEnv;
use alluvium::format::Compression;
use alluvium::{
    KeyGroup, KeyRef, KeyedStore, OperatorStateSpec, OperatorStore, SnapshotHandle, StateSpec,
    StoreSink, TimeDomain, TimerSpec, TimerStore, Ttl,
};

use crate::plain::{self, Codec, Entry, Items, Name, Savepoint};
use crate::{backend_on, export, export_by, handles_of, import, memory, open, ranges};
use crate::{snapshots, store_of};

pub const MAX: u32 = 128;

/// The snapshots of a small job that has something of everything.
pub fn small_job() -> (StoreSink, Vec<SnapshotHandle>) {
    let env = SimEnv::new(7);
    let backend = backend_on(&env, MAX).open().unwrap();
    let mut shards = open(&backend, "orders", &ranges(2, MAX), &[]);
    let schema = Schema::new(CodecId::new("amount", 2), *b"cents");
    let ttl = Ttl::after(Duration::from_secs(3_600)).time(TimeDomain::Event);
    for shard in &mut shards {
        let all = shard.groups();
        let amount = StateSpec::value("amount").value_codec(schema.clone());
        let amount = shard.register(amount).unwrap();
        let lines = shard.register(StateSpec::list("lines").ttl(ttl)).unwrap();
        let prices = StateSpec::map("prices").entry_codec(CodecId::new("article", 1));
        let prices = shard.register(prices).unwrap();
        let due = shard.open_timers(TimerSpec::new("due", TimeDomain::Event)).unwrap();
        shard.register(StateSpec::value("empty")).unwrap();
        let spec = OperatorStateSpec::list("offsets").value_codec(CodecId::new("offset", 1));
        let offsets = shard.open_operator_state(spec).unwrap();
        let spec = OperatorStateSpec::broadcast("rules").key_codec(CodecId::new("rule", 3));
        let rules = shard.open_operator_state(spec).unwrap();
        shard.open_operator_state(OperatorStateSpec::union_list("seen")).unwrap();
        for key in [&b"order 1"[..], b"order 2", b"order 10", b""] {
            let at = KeyRef::new(key);
            if shard.put(amount, at, &[key, b" costs 17"].concat()).is_err() {
                continue;
            }
            shard.list_append(lines, at.namespace(b"w1"), &[b"first"]).unwrap();
            shard.map_put(prices, at, b"nut", b"3").unwrap();
            shard.map_put(prices, at, b"bolt", b"").unwrap();
            shard.register_timer(due, -5, at).unwrap();
            shard.register_timer(due, 5, at.namespace(b"w1")).unwrap();
        }
        let chosen = KeyGroup(100);
        if all.contains(chosen) {
            shard.put(amount, KeyRef::in_group(chosen, b"chosen"), b"by the runtime").unwrap();
        }
        shard.advance_watermark(86_400_000);
        for key in [&b"order 1"[..], b"order 2"] {
            let at = KeyRef::new(key).namespace(b"w1");
            let _ = shard.list_append(lines, at, &[b"", b"second"]);
        }
        let first = all.first().0;
        shard.operator_list_add(offsets, &[&first.to_be_bytes(), b"end"]).unwrap();
        shard.broadcast_put(rules, b"b", b"2").unwrap();
        shard.broadcast_put(rules, b"a", b"1").unwrap();
    }
    let mut handles = snapshots(&mut shards, 1);
    let mut other = open(&backend, "no state", &ranges(1, MAX), &[]);
    handles.extend(snapshots(&mut other, 1));
    (store_of(&env), handles)
}

fn codec(name: &str, version: u64, detail: &[u8]) -> Codec {
    (name.to_owned(), version, detail.to_vec())
}

/// What a person would write down after reading `small_job`.
fn check(savepoint: &Savepoint) {
    assert_eq!(savepoint.job, "job");
    assert_eq!(savepoint.user_meta, b"offset 17");
    assert_eq!(savepoint.operators.keys().collect::<Vec<_>>(), ["no state", "orders"]);
    let none = &savepoint.operators["no state"];
    assert_eq!((none.max_parallelism, none.watermark), (128, None));
    assert!(none.states.is_empty() && none.items.is_empty());
    let orders = &savepoint.operators["orders"];
    assert_eq!((orders.max_parallelism, orders.watermark), (128, Some(86_400_000)));
    let names: Vec<&String> = orders.states.keys().collect();
    assert_eq!(names, ["amount", "due", "empty", "lines", "prices"]);

    let entry = |key: &[u8], namespace: &[u8], name: Name, stamp, value: &[u8]| Entry {
        key: key.to_vec(),
        namespace: namespace.to_vec(),
        group: (key == b"chosen").then_some(100),
        name,
        schema: 0,
        stamp,
        value: value.to_vec(),
    };
    let keys = [&b""[..], b"order 1", b"order 10", b"order 2"];
    let amount = &orders.states["amount"];
    assert_eq!((amount.kind, &amount.values[..]), (1, &[codec("amount", 2, b"cents")][..]));
    let mut expected: Vec<Entry> = Vec::new();
    for key in keys {
        expected.push(entry(key, b"", Name::None, None, &[key, b" costs 17"].concat()));
        if key.is_empty() {
            expected.push(entry(b"chosen", b"", Name::None, None, b"by the runtime"));
        }
    }
    assert_eq!(amount.entries, expected);

    let due = &orders.states["due"];
    assert_eq!((due.kind, &*due.values[0].0), (6, "timers.event_time"));
    let timers = |key| {
        [entry(key, b"", Name::Time(-5), None, b""), entry(key, b"w1", Name::Time(5), None, b"")]
    };
    assert_eq!(due.entries, keys.map(timers).concat());
    assert!(orders.states["empty"].entries.is_empty());

    let lines = &orders.states["lines"];
    assert_eq!((lines.kind, lines.ttl), (2, Some((2, 3_600_000, Some(86_400_000)))));
    let mut expected = Vec::new();
    for key in keys {
        expected.push(entry(key, b"w1", Name::None, Some(i64::MIN), b"first"));
        if key == b"order 1" || key == b"order 2" {
            expected.push(entry(key, b"w1", Name::None, Some(86_400_000), b""));
            expected.push(entry(key, b"w1", Name::None, Some(86_400_000), b"second"));
        }
    }
    assert_eq!(lines.entries, expected);

    let prices = &orders.states["prices"];
    assert_eq!((prices.kind, &prices.map_keys), (3, &Some(codec("article", 1, b""))));
    let bought = |key| {
        let name = |name: &[u8]| Name::Key(name.to_vec());
        [entry(key, b"", name(b"bolt"), None, b""), entry(key, b"", name(b"nut"), None, b"3")]
    };
    assert_eq!(prices.entries, keys.map(bought).concat());

    let items = |items: &[(&[u8], &[u8])]| -> Vec<(Vec<u8>, Vec<u8>)> {
        items.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    };
    let offsets = items(&[(b"", &[0, 0]), (b"", b"end"), (b"", &[0, 64]), (b"", b"end")]);
    let parts = vec![(codec("offset", 1, b""), 4)];
    assert_eq!(orders.items["offsets"], Items { mode: 1, keys: None, parts, items: offsets });
    let rules = &orders.items["rules"];
    assert_eq!((rules.mode, &rules.keys), (3, &Some(codec("rule", 3, b""))));
    assert_eq!(rules.items, items(&[(b"a", b"1"), (b"b", b"2")]));
    assert_eq!((orders.items["seen"].mode, orders.items["seen"].items.len()), (2, 0));
    assert_eq!(orders.items.len(), 3);
}

fn golden(name: &str, written: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("REGENERATE_GOLDEN").is_some() {
        std::fs::write(&path, written).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

#[test]
fn golden_savepoints_of_version_1_open_and_are_still_written_alike() {
    let (store, handles) = small_job();
    let written = export(&store, &handles);
    let bytes = golden("canonical-v1.bin", &written);
    check(&plain::read(&bytes));
    let to = memory();
    let imported = import(&to, &bytes, 3);
    assert!(export(&to, &handles_of(&imported)) == bytes);
    assert!(bytes == written, "the format of canonical savepoints changed");
}

/// Compressed bytes may differ with the version of the compressor, so these are only
/// read.
#[test]
fn golden_savepoints_that_are_compressed_open() {
    let (store, handles) = small_job();
    let packed = export_by(&store, &handles, |export| export.compression(Compression::Lz4));
    let bytes = golden("canonical-v1-lz4.bin", &packed.unwrap());
    check(&plain::read(&bytes));
    let to = memory();
    let imported = import(&to, &bytes, 3);
    assert!(export(&to, &handles_of(&imported)) == export(&store, &handles));
}
