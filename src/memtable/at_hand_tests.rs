//! What one look at the likely place may settle of lists, maps and timers, and
//! what it must leave to the long way.

use std::ops::Bound;
use std::sync::Arc;

use super::maps::{MapAt, SMALL_NAME, SmallName};
use super::{Below, Holds, Memtable};
use crate::base::KeyGroup;
use crate::env::pages::PagePool;

const GROUP: KeyGroup = KeyGroup(3);

fn memtable(holds: Holds, below: Below) -> Memtable {
    let mut memtable = Memtable::new(Arc::new(PagePool::new(0)), below, 7);
    memtable.hold(holds);
    memtable
}

fn elements(memtable: &Memtable) -> Vec<Vec<u8>> {
    let list = memtable.list(&memtable.probe(GROUP, b"key", b"")).unwrap();
    list.elements().iter().map(|element| element.value.to_vec()).collect()
}

fn append(memtable: &mut Memtable, element: &[u8]) {
    let probe = memtable.probe(GROUP, b"key", b"");
    memtable.append_to_list(&probe, &[element]).unwrap();
}

fn put(memtable: &mut Memtable, entry: &[u8], value: &[u8]) {
    let mut at = MapAt::new(GROUP, b"key", b"", Vec::new());
    memtable.map_put(&mut at, entry, value).unwrap();
}

fn entries(memtable: &Memtable) -> Vec<(Vec<u8>, Vec<u8>)> {
    let hit = memtable.map_at_hand(None, b"key", SMALL_NAME).unwrap();
    let map = memtable.whole_map_of(hit, b"key", SMALL_NAME);
    let live = map.live_from(Bound::Unbounded);
    live.map(|entry| (entry.key.to_vec(), entry.value.unwrap().to_vec())).collect()
}

#[test]
fn a_list_of_a_frozen_epoch_is_not_changed_where_it_is() {
    let mut memtable = memtable(Holds::Lists, Below::Nothing);
    append(&mut memtable, b"before");
    assert!(memtable.append_at_hand(None, b"key", b"", b"as well"));
    let frozen = memtable.freeze().unwrap();
    assert!(!memtable.append_at_hand(None, b"key", b"", b"after"), "the epoch has ended");
    assert!(memtable.append_to_any_epoch(None, b"key", b"", &[b"after", b"that"]));
    assert!(memtable.append_at_hand(None, b"key", b"", b"!"), "the copy is current");

    let run = frozen.extract();
    let of_barrier: Vec<_> = run.records().map(|record| record.value.unwrap()).collect();
    assert_eq!(of_barrier.len(), 1);
    let found = of_barrier[0].windows(5).filter(|bytes| *bytes == b"after").count();
    assert_eq!(found, 0, "what came after the barrier is in its delta");
    assert_eq!(elements(&memtable), [&b"before"[..], b"as well", b"after", b"that", b"!"]);
}

#[test]
fn a_list_grows_at_hand_only_into_room_that_is_its_own() {
    let mut memtable = memtable(Holds::Lists, Below::Nothing);
    let neighbour = memtable.probe(GROUP, b"neighbour", b"");
    append(&mut memtable, b"0");
    memtable.append_to_list(&neighbour, &[b"its own"]).unwrap();
    let mut expected = vec![b"0".to_vec()];
    let mut refused = 0;
    for number in 0..200_u32 {
        let element = vec![number as u8; number as usize];
        if !memtable.append_at_hand(None, b"key", b"", &element) {
            refused += 1;
            append(&mut memtable, &element);
        }
        expected.push(element);
    }
    assert!((3..40).contains(&refused), "moved {refused} times");
    assert_eq!(elements(&memtable), expected);
    let list = memtable.list(&memtable.probe(GROUP, b"neighbour", b"")).unwrap();
    assert!(list.elements().iter().map(|element| element.value).eq([b"its own"]));
}

#[test]
fn a_map_of_a_frozen_epoch_is_not_changed_where_it_is() {
    let mut memtable = memtable(Holds::Maps, Below::Nothing);
    put(&mut memtable, b"entry", b"before");
    let barrier = memtable.freeze().unwrap();
    let overwrite = |memtable: &mut Memtable, value: &[u8]| {
        memtable.map_put_at_hand(None, b"key", SMALL_NAME, b"entry", value)
    };
    assert!(!overwrite(&mut memtable, b"behind"), "the epoch has ended");
    assert!(memtable.map_put_of_any_epoch(None, b"key", SMALL_NAME, b"entry", b"behind"));
    assert!(overwrite(&mut memtable, b"BEHIND"), "the copy is current");
    assert!(!overwrite(&mut memtable, b"longer than before"));
    assert!(!memtable.map_put_at_hand(None, b"key", SMALL_NAME, b"other", b"BEHIND"));
    assert_eq!(entries(&memtable), [(b"entry".to_vec(), b"BEHIND".to_vec())]);

    let run = barrier.extract();
    let mut values = run.records().map(|record| record.value.unwrap());
    assert!(values.next().unwrap().windows(6).any(|bytes| bytes == b"before"));
}

#[test]
fn an_entry_that_is_overwritten_at_hand_is_in_the_next_delta() {
    let mut memtable = memtable(Holds::Maps, Below::Nothing);
    put(&mut memtable, b"changed", b"1");
    put(&mut memtable, b"unchanged", b"1");
    drop(memtable.freeze().unwrap().extract());
    // The first touch makes the page current, and has to leave the other entry old.
    put(&mut memtable, b"new", b"2");
    assert!(memtable.map_put_at_hand(None, b"key", SMALL_NAME, b"changed", b"2"));
    let run = memtable.freeze().unwrap().extract();
    let bytes: Vec<u8> = run.records().flat_map(|record| record.value.unwrap()).copied().collect();
    let says = |what: &[u8]| bytes.windows(what.len()).any(|bytes| bytes == what);
    assert!(says(b"changed2"));
    assert!(!says(b"unchanged"));
}

#[test]
fn one_look_tells_nothing_of_other_groups_other_kinds_and_what_tables_may_have() {
    let mut lists = memtable(Holds::Lists, Below::Nothing);
    append(&mut lists, b"one");
    assert!(lists.list_at_hand(None, b"key", b"").is_some());
    assert!(lists.list_at_hand(Some(GROUP), b"key", b"").is_some());
    assert!(lists.list_at_hand(Some(KeyGroup(4)), b"key", b"").is_none());
    assert!(!lists.append_at_hand(Some(KeyGroup(4)), b"key", b"", b"two"));
    assert!(!lists.append_at_hand(None, b"key", b"n", b"two"));
    assert!(!lists.append_at_hand(None, b"kez", b"", b"two"));
    assert!(!lists.delete_at_hand(Holds::Values, None, b"key", b""));
    assert!(lists.map_at_hand(None, b"key", b"").is_none());
    assert!(!lists.has_at_hand(None, b"key", b""));
    lists.expect_given_groups();
    assert!(lists.list_at_hand(None, b"key", b"").is_none(), "the group may be another");
    assert!(!lists.append_at_hand(None, b"key", b"", b"two"));
    assert!(lists.append_at_hand(Some(GROUP), b"key", b"", b"two"));
    assert!(lists.delete_at_hand(Holds::Lists, Some(GROUP), b"key", b""));
    assert!(lists.list(&lists.probe(GROUP, b"key", b"")).is_none());

    let mut tail = memtable(Holds::Lists, Below::Tables);
    append(&mut tail, b"one");
    assert!(tail.list_at_hand(None, b"key", b"").is_none(), "tables may have older elements");
    assert!(!tail.append_at_hand(None, b"key", b"", b"two"));
    assert!(!tail.append_to_any_epoch(None, b"key", b"", &[b"two"]));
    assert!(!tail.delete_at_hand(Holds::Lists, None, b"key", b""));
}

#[test]
fn a_deletion_at_hand_leaves_a_tombstone_where_a_delta_has_the_record() {
    let mut memtable = memtable(Holds::Lists, Below::Nothing);
    append(&mut memtable, b"one");
    let barrier = memtable.freeze().unwrap();
    assert!(memtable.delete_at_hand(Holds::Lists, None, b"key", b""));
    assert!(!memtable.delete_at_hand(Holds::Lists, None, b"key", b""), "it is gone");
    assert_eq!(barrier.extract().records().count(), 1);
    let run = memtable.freeze().unwrap().extract();
    assert!(run.records().map(|record| record.value).eq([None]));
    append(&mut memtable, b"two");
    assert!(memtable.delete_at_hand(Holds::Lists, None, b"key", b""));
}

#[test]
fn the_names_of_small_maps_are_those_that_the_long_way_writes() {
    for namespace in [&b""[..], b"n", &[0; 39]] {
        let mut maps = memtable(Holds::Maps, Below::Nothing);
        let mut at = MapAt::new(GROUP, b"key", namespace, Vec::new());
        maps.map_put(&mut at, b"entry", b"value").unwrap();
        let name = SmallName::of(namespace).unwrap();
        assert!(maps.map_at_hand(None, b"key", name.bytes()).is_some());
        assert_eq!(maps.map_at_hand(None, b"key", SMALL_NAME).is_some(), namespace.is_empty());
    }
    assert!(SmallName::of(&[0; 40]).is_none(), "longer names take the long way");
}

#[test]
fn elements_are_shown_as_they_are_iterated_whatever_their_lengths() {
    let lengths = [0, 0, 1, 1, 1, 2, 127, 127, 128, 128, 128, 5, 300, 300, 5, 5, 0];
    for count in 0..=lengths.len() {
        let mut memtable = memtable(Holds::Lists, Below::Nothing);
        append(&mut memtable, b"first");
        for (number, &length) in lengths[..count].iter().enumerate() {
            append(&mut memtable, &vec![number as u8; length]);
        }
        let list = memtable.list_at_hand(None, b"key", b"").unwrap();
        let mut shown = Vec::new();
        list.elements().visit(|element| shown.push(element.to_vec()));
        assert_eq!(shown, elements(&memtable), "{count} elements");
        assert_eq!(shown.len(), count + 1);
    }
}
