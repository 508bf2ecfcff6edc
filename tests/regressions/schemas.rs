//! What wrote a value is known, and is not mistaken for something else.

use alluvium::codec::{Codec, CodecId, Evolving, Primitive, StringCodec, TupleCodec};
use alluvium::{ErrorKind, KeyedStore, Result, SnapshotHandle, SnapshotId, StateSpec, ValueState};

use crate::common::{OPERATOR, backend_on, manifest_of, range_of, store_on};
use crate::{CHECKPOINTS, machine, space};

type ByNumber<V, C> = ValueState<u64, V, (), Primitive<u64>, C, Primitive<()>>;

fn register<V: 'static, C: Codec<V>>(
    shard: &mut alluvium::Shard,
    name: &str,
    codec: C,
) -> Result<ByNumber<V, C>> {
    ByNumber::with_codecs(shard, name, Primitive::default(), Primitive::default(), codec)
}

fn take(shard: &mut alluvium::Shard, id: u64) -> SnapshotHandle {
    shard.snapshot(SnapshotId(id), b"").unwrap().wait().unwrap().handle
}

/// FLINK-11087, FLINK-12064: the serializers of two states, or of a key and a
/// value, are exchanged, and nobody notices while their types are alike.
#[test]
fn bug_28_codecs_of_the_same_type_are_not_taken_for_each_other() {
    // Two ways to write one and the same type, in the same number of bytes.
    #[derive(Clone)]
    struct Little;
    impl Codec<u64> for Little {
        fn id(&self) -> CodecId {
            CodecId::new("little-endian u64", 1)
        }
        fn encode(&self, value: &u64, out: &mut Vec<u8>) -> Result<()> {
            out.extend_from_slice(&value.to_le_bytes());
            Ok(())
        }
        fn decode(&self, bytes: &[u8]) -> Result<u64> {
            Ok(u64::from_le_bytes(alluvium::codec::decode_exact("little-endian u64", bytes)?))
        }
    }
    let (env, space) = (machine(), space(1));
    let backend = backend_on(&env, &space).open().unwrap();
    let mut shard = backend.shard(OPERATOR, range_of(0, 1, 128)).open().unwrap();
    let little = register(&mut shard, "little", Little).unwrap();
    let big = register(&mut shard, "big", Primitive::<u64>::default()).unwrap();
    little.put(&mut shard, &1, &2).unwrap();
    big.put(&mut shard, &1, &3).unwrap();
    let handle = take(&mut shard, 1);

    let restored = || {
        let shard = backend.shard(OPERATOR, range_of(0, 1, 128)).restore([handle.clone()]);
        shard.open().unwrap()
    };
    let mut shard = restored();
    // Exchanged, also one level down.
    for error in [
        register(&mut shard, "big", Little).map(drop).unwrap_err(),
        register(&mut shard, "little", Primitive::<u64>::default()).map(drop).unwrap_err(),
        register(&mut shard, "big", TupleCodec((Little, Little))).map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    }
    // In the right order they are themselves, and a codec that has grown out of
    // either is told which one it is.
    let both = || {
        Evolving::new(StringCodec)
            .older(Little, |number: u64| format!("little {number}"))
            .older(Primitive::<u64>::default(), |number| number)
    };
    let little = register(&mut shard, "little", both()).unwrap();
    let big = register(&mut shard, "big", both()).unwrap();
    assert_eq!(little.get(&mut shard, &1).unwrap(), Some("little 2".to_owned()));
    assert_eq!(big.get(&mut shard, &1).unwrap(), Some("little 3".to_owned()));
}

/// FLINK-11094: state that nobody touched after a restore has lost its
/// serializers when the next snapshot is taken.
#[test]
fn bug_29_untouched_state_keeps_its_schemas_through_many_snapshots() {
    let (env, space) = (machine(), space(1));
    let backend = backend_on(&env, &space).max_tables_per_shard(1).open().unwrap();
    let mut shard = backend.shard(OPERATOR, range_of(0, 1, 128)).open().unwrap();
    let old = register(&mut shard, "untouched", Primitive::<u32>::default()).unwrap();
    old.put(&mut shard, &1, &10).unwrap();
    old.put(&mut shard, &2, &20).unwrap();
    let mut handles = vec![take(&mut shard, 1)];
    let text = || Evolving::new(StringCodec).older(Primitive::<u32>::default(), |n| format!("{n}"));
    let mut shard = {
        let shard = backend.shard(OPERATOR, range_of(0, 1, 128)).restore(handles);
        shard.open().unwrap()
    };
    let new = register(&mut shard, "untouched", text()).unwrap();
    new.put(&mut shard, &2, &"two".to_owned()).unwrap();
    handles = vec![take(&mut shard, 2)];
    let store = store_on(&env, CHECKPOINTS).unwrap();
    let states = manifest_of(&store, &handles[0]).unwrap().states;
    assert_eq!(states[0].older_value_schemas.len(), 1);
    drop(shard);

    for (id, parallelism) in [(3, 2), (4, 5), (5, 1), (6, 3)] {
        let mut taken = Vec::new();
        for index in 0..parallelism {
            let groups = range_of(index, parallelism, 128);
            let shard = backend.shard(OPERATOR, groups).restore(handles.clone());
            let mut shard = shard.open().unwrap();
            shard.register(StateSpec::value("another")).unwrap();
            taken.push(take(&mut shard, id));
            while backend.run_background() {}
        }
        handles = taken;
        for handle in &handles {
            let mut found = manifest_of(&store, handle).unwrap().states;
            found.retain(|state| state.name == "untouched");
            // What its tables no longer need may have gone.
            assert_eq!(found[0].value_schema, states[0].value_schema);
            assert_eq!(found[0].key_schema, states[0].key_schema);
        }
    }
    let shard = backend.shard(OPERATOR, range_of(0, 1, 128)).restore(handles);
    let mut shard = shard.open().unwrap();
    let new = register(&mut shard, "untouched", text()).unwrap();
    assert_eq!(new.get(&mut shard, &1).unwrap(), Some("10".to_owned()));
    assert_eq!(new.get(&mut shard, &2).unwrap(), Some("two".to_owned()));
}
