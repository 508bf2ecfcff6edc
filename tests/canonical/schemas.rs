//! Values of several schemas: each entry says which, and no code of the job is needed
//! to carry them.

use alluvium::codec::{Codec, CodecId, CodecSpec, Evolving};
use alluvium::env::SimEnv;
use alluvium::{Error, KeyRef, KeyedStore, Result, Shard, StateId, StateSpec};

use crate::plain;
use crate::{backend_in, backend_on, export, handles_of, import, memory, open, ranges};
use crate::{snapshots, store_of};

/// A number, in the layout of one version: so many bytes in front of it.
#[derive(Clone, Copy, Debug)]
struct Layout(u8);

impl Codec<u32> for Layout {
    fn id(&self) -> CodecId {
        CodecId::new("canonical.number", u32::from(self.0))
    }

    fn encode(&self, number: &u32, out: &mut Vec<u8>) -> Result<()> {
        out.extend(bytes_of(self.0, *number));
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<u32> {
        let number = bytes.last_chunk().copied().map(u32::from_be_bytes).unwrap_or_default();
        if bytes == bytes_of(self.0, number) {
            return Ok(number);
        }
        Err(Error::corrupt("no number of this layout").expected(self.0).found(format!("{bytes:?}")))
    }
}

fn bytes_of(version: u8, number: u32) -> Vec<u8> {
    let mut bytes = vec![version; usize::from(version)];
    bytes.extend(number.to_be_bytes());
    bytes
}

fn codec(version: u8) -> CodecSpec {
    let mut codec = Evolving::new(Layout(version));
    for older in (1..version).rev() {
        codec = codec.older(Layout(older), |number: u32| number);
    }
    CodecSpec::of(&codec)
}

fn register(shard: &mut Shard, version: u8) -> [StateId; 3] {
    [StateSpec::list("list"), StateSpec::map("map"), StateSpec::value("value")]
        .map(|spec| shard.register(spec.value_codec(codec(version))).unwrap())
}

#[test]
fn every_entry_keeps_the_schema_that_it_was_written_under() {
    const MAX: u32 = 16;
    let env = SimEnv::new(1);
    let mut handles = Vec::new();
    for version in 1..=3_u8 {
        let backend = backend_on(&env, MAX).max_tables_per_shard(100).open().unwrap();
        let mut shards = open(&backend, "op", &ranges(2, MAX), &handles);
        for shard in &mut shards {
            let [list, map, value] = register(shard, version);
            for number in 0..30_u32 {
                let key = number.to_be_bytes();
                let at = KeyRef::new(&key);
                let bytes = bytes_of(version, number);
                if shard.list_append(list, at, &[&bytes]).is_err() {
                    continue;
                }
                let entry = [version];
                shard.map_put(map, at, &entry, &bytes).unwrap();
                if number % 3 == u32::from(version) % 3 {
                    shard.put(value, at, &bytes).unwrap();
                }
            }
        }
        handles = snapshots(&mut shards, u64::from(version));
    }
    let store = store_of(&env);
    let bytes = export(&store, &handles);
    let savepoint = plain::read(&bytes);
    let states = &savepoint.operators["op"].states;
    for (name, state) in states {
        let versions: Vec<u64> = state.values.iter().map(|codec| codec.1).collect();
        assert_eq!(versions[0], 3, "{name}: the newest is the value schema");
        for entry in &state.entries {
            let version = versions[entry.schema] as u8;
            let number = u32::from_be_bytes(entry.key[..].try_into().unwrap());
            assert_eq!(entry.value, bytes_of(version, number), "{name}");
        }
        assert_eq!(state.entries.len(), if name == "value" { 30 } else { 90 });
    }
    // A list is in the order in which it was written, whatever its schemas.
    for of_key in states["list"].entries.chunks(3) {
        let versions: Vec<u8> = of_key.iter().map(|entry| entry.value[0]).collect();
        assert_eq!(versions, [1, 2, 3]);
    }

    let to = memory();
    let imported = import(&to, &bytes, 3);
    assert!(export(&to, &handles_of(&imported)) == bytes);
    let backend = backend_in(&to, MAX);
    let mut shards = open(&backend, "op", &ranges(2, MAX), &imported.operators[0].handles);
    let again = snapshots(&mut shards, 2);
    assert!(export(&to, &again) == bytes, "on shards that did not open the states");
    let mut read = 0;
    for shard in &mut shards {
        let [list, map, value] = register(shard, 3);
        for number in 0..30_u32 {
            let key = number.to_be_bytes();
            let at = KeyRef::new(&key);
            let mut elements = Vec::new();
            let visit = &mut |element: &[u8]| elements.push(element.to_vec());
            if shard.list_read(list, at, visit).is_err() {
                continue;
            }
            read += 1;
            let today = bytes_of(3, number);
            assert_eq!(elements, [&today[..], &today, &today]);
            for version in 1..=3 {
                assert_eq!(shard.map_get(map, at, &[version]).unwrap(), Some(&today[..]));
            }
            assert_eq!(shard.get(value, at).unwrap(), Some(&today[..]));
        }
    }
    assert_eq!(read, 30);
}

#[test]
fn a_schema_that_nothing_alive_is_written_under_is_not_in_the_savepoint() {
    const MAX: u32 = 16;
    let env = SimEnv::new(1);
    let mut handles = Vec::new();
    for version in 1..=3_u8 {
        let backend = backend_on(&env, MAX).max_tables_per_shard(100).open().unwrap();
        let mut shards = open(&backend, "op", &ranges(1, MAX), &handles);
        let [list, map, value] = register(&mut shards[0], version);
        let at = KeyRef::new(b"key");
        let bytes = bytes_of(version, 7);
        if version < 3 {
            shards[0].put(value, at, &bytes).unwrap();
            shards[0].list_replace(list, at, &[&bytes]).unwrap();
            shards[0].map_put(map, at, b"entry", &bytes).unwrap();
        }
        handles = snapshots(&mut shards, u64::from(version));
    }
    let savepoint = plain::read(&export(&store_of(&env), &handles));
    for (name, state) in &savepoint.operators["op"].states {
        let versions: Vec<u64> = state.values.iter().map(|codec| codec.1).collect();
        assert_eq!(versions, [3, 2], "{name}");
        assert_eq!(state.entries.len(), 1);
        assert_eq!(state.entries[0].schema, 1);
    }
}
