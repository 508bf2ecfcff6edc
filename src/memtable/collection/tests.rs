//! Random lives beside the [models](super::model), and the corners that random
//! ones seldom reach.

use std::ops::Bound;

use super::elements::{Element, Elements, ElementsBuf};
use super::list::{List, ListMut, Start};
use super::map::{MAX_PAGE_BYTES, MapPage, MapPageMut, TARGET_PAGE_BYTES};
use super::root::{MapRoot, MapRootMut};
use super::{Buffer, NEVER, model};
use crate::base::limits::MAX_KEY_BYTES;
use crate::base::{Epoch, ErrorKind};
use crate::memtable::Below;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Names the seed of a run that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

fn live(seeds: std::ops::Range<u64>, kind: u8, bytes: usize) {
    for seed in seeds {
        let named = Seed(seed);
        let mut rng = Rng(seed);
        let len = 1 + rng.next() as usize % bytes;
        let mut script: Vec<_> = (0..len).map(|_| rng.next() as u8).collect();
        script[0] = kind;
        model::run(&script);
        drop(named);
    }
}

#[test]
fn lists_say_what_vectors_say_and_each_epoch_what_it_changed() {
    live(0..4000, 0, 400);
    live(4000..4100, 0, 5000);
}

#[test]
fn maps_say_what_ordered_maps_say_and_each_epoch_what_it_changed() {
    live(0..3000, 1, 400);
    live(3000..3050, 1, 4000);
}

const E1: Epoch = Epoch(1);
const E2: Epoch = Epoch(2);

fn list(timed: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    ListMut::create(&mut bytes, E1, timed, Start::Whole).unwrap();
    bytes
}

fn page() -> Vec<u8> {
    let mut bytes = Vec::new();
    MapPageMut::create(&mut bytes).unwrap();
    bytes
}

fn put(page: &mut Vec<u8>, epoch: Epoch, key: &[u8], value: &[u8]) -> bool {
    MapPageMut::new(page).put(epoch, key, value, NEVER, Below::Nothing).unwrap()
}

fn keys(page: &[u8]) -> Vec<Vec<u8>> {
    MapPage::new(page).iter().map(|entry| entry.key.to_vec()).collect()
}

#[test]
fn a_list_of_70000_elements_of_any_length_reads_back() {
    let mut bytes = list(false);
    let value = |i: usize| vec![i as u8; i % 300];
    for i in 0..70_000 {
        let epoch = if i < 69_990 { E1 } else { E2 };
        ListMut::new(&mut bytes).append(epoch, &value(i), NEVER).unwrap();
    }
    let list = List::new(&bytes);
    assert_eq!(list.count(), 70_000);
    assert!(
        list.elements().iter().map(|element| element.value.to_vec()).eq((0..70_000).map(value))
    );
    let new = list.changes_in(E2).elements;
    assert!(new.iter().map(|element| element.value.to_vec()).eq((69_990..70_000).map(value)));
    assert!(list.changes_in(Epoch(3)).is_nothing());
}

#[test]
fn empty_elements_are_elements() {
    let mut bytes = list(true);
    for _ in 0..3 {
        ListMut::new(&mut bytes).append(E1, b"", 7).unwrap();
    }
    let elements = List::new(&bytes).elements();
    assert!(elements.iter().eq([Element { value: b"", stamp: 7 }; 3]));
}

#[test]
fn elements_become_timed_and_untimed() {
    let mut old = list(false);
    ListMut::new(&mut old).append(E1, b"a", NEVER).unwrap();
    ListMut::new(&mut old).append(E2, b"b", NEVER).unwrap();
    let same = |value: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(value);
        Ok(())
    };
    let mut timed = Vec::new();
    List::new(&old).convert(true, &mut timed, same).unwrap();
    assert!(List::new(&timed).is_timed());
    let new = List::new(&timed).changes_in(E2).elements;
    assert!(new.iter().eq([Element { value: b"b", stamp: NEVER }]));
    let mut untimed = b"anything".to_vec();
    List::new(&timed).convert(false, &mut untimed, same).unwrap();
    assert_eq!(untimed, old);
}

#[test]
fn damaged_elements_are_corrupt_at_every_length_and_never_panic() {
    for timed in [false, true] {
        let mut buf = ElementsBuf::new(timed);
        let expires = if timed { 9 } else { NEVER };
        let mut ends = vec![0];
        buf.push(b"forgotten", expires).unwrap();
        buf.reset(timed);
        for len in [0, 1, 5, 127, 128, 300] {
            buf.push(&vec![7; len], expires).unwrap();
            ends.push(buf.elements().bytes().len());
        }
        let bytes = buf.elements().bytes().to_vec();
        for len in 0..=bytes.len() {
            match Elements::parse(&bytes[..len], timed) {
                Ok(elements) => assert_eq!(ends[elements.count()], len),
                Err(error) => {
                    assert!(!ends.contains(&len), "{error}");
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                }
            }
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(elements) = Elements::parse(&flipped, timed) {
                    assert_eq!(elements.iter().count(), elements.count());
                }
            }
        }
    }
    let too_long = Elements::parse(&[0xff, 0xff, 0xff, 0xff, 0x0f], false).unwrap_err();
    assert_eq!(too_long.kind(), ErrorKind::Corrupt);
}

#[test]
#[should_panic(expected = "only a tail has older elements")]
fn a_whole_list_has_nothing_put_in_front() {
    ListMut::new(&mut list(false)).prepend_older(&[]).unwrap();
}

#[test]
fn the_empty_key_and_empty_values_are_like_others() {
    let mut bytes = page();
    assert!(put(&mut bytes, E1, b"", b""));
    assert!(put(&mut bytes, E1, b"\0", b""));
    assert!(put(&mut bytes, E1, b"a", b"x"));
    assert!(!put(&mut bytes, E1, b"", b""));
    assert_eq!(keys(&bytes), [&b""[..], b"\0", b"a"]);
    let found = MapPage::new(&bytes).find(b"").expect("it is there");
    assert_eq!(found.value, Some(&b""[..]));
    let above: Vec<_> = MapPage::new(&bytes).iter_from(Bound::Excluded(b"")).collect();
    assert_eq!(above.len(), 2);
}

#[test]
fn keys_that_differ_late_or_not_at_all_in_their_heads_are_found() {
    let mut bytes = page();
    let keys: Vec<Vec<u8>> = (0..200u32)
        .map(|i| [&b"prefix\0\0\0\0"[..], &[0; 40][..(i % 40) as usize], &i.to_be_bytes()].concat())
        .collect();
    for (i, key) in keys.iter().enumerate() {
        assert!(put(&mut bytes, E1, key, &[i as u8]));
    }
    // Takes away what all had in common.
    assert!(put(&mut bytes, E1, b"pre", b""));
    for (i, key) in keys.iter().enumerate() {
        let page = MapPage::new(&bytes);
        assert_eq!(page.find(key).expect("it is there").value, Some(&[i as u8][..]));
        let shorter = &key[..key.len() - 1];
        assert_eq!(page.find(shorter).is_some(), keys.iter().any(|key| key == shorter));
    }
    let mut expected = keys;
    expected.push(b"pre".to_vec());
    expected.sort();
    assert_eq!(self::keys(&bytes), expected);
}

#[test]
fn an_entry_larger_than_a_page_ends_up_alone() {
    for giant in 0..5u8 {
        let mut pages = vec![page()];
        for i in 0..5u8 {
            let len = if i == giant { 3 * TARGET_PAGE_BYTES } else { 100 };
            put(&mut pages[0], E1, &[i], &vec![i; len]);
        }
        let mut at = 0;
        while at < pages.len() {
            if !MapPage::new(&pages[at]).wants_split() {
                at += 1;
                continue;
            }
            let mut upper = Vec::new();
            let split = MapPageMut::new(&mut pages[at]).split(&mut upper).unwrap();
            let split = split.expect("a page that wants to be split can be");
            assert!(keys(&pages[at]).iter().all(|key| &key[..] < split.separator()));
            assert!(keys(&upper).iter().all(|key| &key[..] >= split.separator()));
            pages.insert(at + 1, upper);
        }
        assert!(pages.iter().any(|page| keys(page) == [[giant]]));
        let all: Vec<_> = pages.iter().flat_map(|page| keys(page)).collect();
        assert_eq!(all, [[0], [1], [2], [3], [4]]);
    }
}

#[test]
fn a_page_of_one_entry_is_not_split() {
    let mut bytes = page();
    assert!(MapPage::new(&bytes).plan_split().is_none());
    put(&mut bytes, E1, b"k", &[1; 10_000]);
    assert!(!MapPage::new(&bytes).wants_split());
    assert!(MapPageMut::new(&mut bytes).split(&mut Vec::new()).unwrap().is_none());
    assert!(MapPage::new(&bytes).plan_split_around(b"k").is_none());
}

#[test]
fn halves_of_equal_entries_are_equal_and_the_separator_is_short() {
    let mut bytes = page();
    for i in 0..100u32 {
        put(&mut bytes, E1, format!("customer:{i:08}:orders").as_bytes(), &[0; 20]);
    }
    let mut upper = Vec::new();
    let split = MapPageMut::new(&mut bytes).split(&mut upper).unwrap().expect("it has entries");
    assert_eq!(MapPage::new(&bytes).live(), 50);
    assert_eq!(MapPage::new(&upper).live(), 50);
    assert_eq!(split.separator(), b"customer:0000005");
}

#[test]
fn a_page_of_tombstones_has_no_live_entries_and_is_purged_when_extracted() {
    let mut bytes = page();
    for i in 0..20u8 {
        put(&mut bytes, E1, &[b'k', i], b"value");
    }
    for i in 0..20u8 {
        assert!(MapPageMut::new(&mut bytes).remove(E2, &[b'k', i], Below::Nothing).unwrap());
        assert!(!MapPageMut::new(&mut bytes).remove(E2, &[b'k', i], Below::Nothing).unwrap());
    }
    assert!(MapPage::new(&bytes).is_empty());
    assert_eq!(MapPage::new(&bytes).changes_in(E2).count(), 20);
    assert_eq!(MapPage::new(&bytes).changes_in(E1).count(), 0);
    assert_eq!(MapPage::new(&bytes).live_from(Bound::Unbounded).count(), 0);
    MapPageMut::new(&mut bytes).purge(E2, Below::Tables).unwrap();
    MapPageMut::new(&mut bytes).purge(E1, Below::Nothing).unwrap();
    assert_eq!(MapPage::new(&bytes).entries(), 20);
    MapPageMut::new(&mut bytes).purge(E2, Below::Nothing).unwrap();
    assert_eq!(bytes, page());
}

#[test]
fn what_comes_and_goes_in_one_epoch_leaves_nothing() {
    let mut bytes = page();
    put(&mut bytes, E1, b"old", b"1");
    put(&mut bytes, E2, b"new", b"2");
    put(&mut bytes, E2, b"new", b"longer");
    MapPageMut::new(&mut bytes).remove(E2, b"new", Below::Nothing).unwrap();
    assert_eq!(keys(&bytes), [b"old"]);
    // Written again in a later epoch, it is not fresh any more.
    put(&mut bytes, E2, b"old", b"2");
    MapPageMut::new(&mut bytes).remove(E2, b"old", Below::Nothing).unwrap();
    assert_eq!(MapPage::new(&bytes).find(b"old").expect("a tombstone").value, None);
}

#[test]
fn keys_beyond_the_limit_are_refused_and_those_at_it_are_not() {
    let mut bytes = page();
    let key = vec![1; MAX_KEY_BYTES + 1];
    let before = bytes.clone();
    let error = MapPageMut::new(&mut bytes).put(E1, &key, b"", NEVER, Below::Nothing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(bytes, before);
    assert!(put(&mut bytes, E1, &key[1..], b""));
    assert!(MapPage::new(&bytes).find(&key[1..]).is_some());
    let page = MapPage::new(&bytes);
    assert!(!page.has_room(b"", MAX_PAGE_BYTES));
    assert!(page.has_room(b"", MAX_PAGE_BYTES - 2 * MAX_KEY_BYTES));
}

#[test]
fn a_root_of_many_pages_finds_each() {
    let mut bytes = b"something else".to_vec();
    MapRootMut::create(&mut bytes, 5).unwrap();
    let separator = |i: u32| i.wrapping_mul(0x9e37_79b1).to_be_bytes();
    let mut model = std::collections::BTreeMap::from([(Vec::new(), 0)]);
    for i in 1..5000 {
        assert_eq!(MapRootMut::new(&mut bytes).add_page(&separator(i)).unwrap(), i);
        model.insert(separator(i).to_vec(), i);
    }
    for i in (1..5000).step_by(3) {
        let removed = MapRootMut::new(&mut bytes).remove_page(&separator(i)).unwrap();
        assert_eq!(removed, model.remove(&separator(i)[..]));
    }
    let root = MapRoot::new(&bytes);
    assert_eq!((root.live(), root.next_page(), root.pages()), (5, 5000, model.len()));
    for i in 1..10_000 {
        let key = separator(i);
        let below = model.range(..=key.to_vec()).next_back().expect("the first is empty");
        assert_eq!(root.find_page(&key), *below.1);
    }
    // From the front, where each takes the empty separator of the one before.
    let order: Vec<_> = root.pages_from(b"").map(|(_, page)| page).collect();
    assert!(order.iter().eq(model.values()));
    for page in &order[..order.len() - 1] {
        assert_eq!(MapRootMut::new(&mut bytes).remove_page(b"").unwrap(), Some(*page));
    }
    assert_eq!(MapRootMut::new(&mut bytes).remove_page(b"").unwrap(), None);
    assert!(MapRoot::new(&bytes).pages_from(b"x").eq([(&b""[..], order[order.len() - 1])]));
}

#[test]
fn splicing_a_vector_keeps_what_is_around() {
    for (remove, insert) in [(0, 0), (0, 3), (3, 0), (2, 5), (5, 2), (4, 4)] {
        let mut bytes: Vec<u8> = (0..10).collect();
        Buffer::splice(&mut bytes, 3, remove, insert).unwrap();
        assert_eq!(bytes.len(), 10 - remove + insert);
        assert_eq!(bytes[..3], [0, 1, 2]);
        let tail: Vec<u8> = (3 + remove as u8..10).collect();
        assert_eq!(bytes[3 + insert..], tail);
    }
}
