//! What leaves a version because it says nothing any more.
//!
//! What could break: something goes that hides an older record, which then comes
//! back; or it goes from a version that a snapshot under way is made of, where
//! something older is beneath.

use std::sync::Arc;

use super::{Places, TableEntry, Version};
use crate::base::checksum::ContentHash;
use crate::base::{FileId, KeyGroup, KeyGroupRange, TimeDomain};
use crate::format::properties::StateProperties;
use crate::format::table::TableMeta;

fn range(first: u16, last: u16) -> KeyGroupRange {
    KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap()
}

/// Values, up to a stamp; or deletions only.
fn state(name: &str, newest: Option<u64>) -> StateProperties {
    StateProperties {
        name: name.into(),
        stamps: Some(TimeDomain::Event),
        newest_stamp: newest,
        records: 10,
        tombstones: if newest.is_some() { 3 } else { 10 },
        value_bytes: 100,
        ..Default::default()
    }
}

/// Values with stamps of which nobody knows the newest.
fn unknown(name: &str) -> StateProperties {
    StateProperties { tombstones: 9, ..state(name, None) }
}

fn table(number: u64, slice: KeyGroupRange, states: &[StateProperties]) -> Arc<TableEntry> {
    let meta = TableMeta {
        file: FileId { incarnation: 1, number },
        bytes: 1000,
        hash: ContentHash(0),
        records: 10 * states.len() as u64,
        tombstones: 0,
        raw_bytes: 100 * states.len() as u64,
        groups: range(0, 9),
    };
    TableEntry::new(meta, slice, states.to_vec(), &[], Places::default())
}

/// Numbers of the tables, slices, and the states whose records do not count.
fn shown(version: &Version) -> Vec<(u64, KeyGroupRange, Vec<String>)> {
    let tables = version.tables().iter();
    tables.map(|table| (table.meta.file.number, table.slice, table.dropped())).collect()
}

fn numbers(version: &Version) -> Vec<u64> {
    version.tables().iter().map(|table| table.meta.file.number).collect()
}

/// The version without what is spent at this cutoff, of states whose names begin with
/// "t", and the numbers of the files that are gone.
fn at(version: &Version, cutoff: u64) -> Option<(Version, Vec<u64>)> {
    let have_expired = |state: &StateProperties| {
        state.name.starts_with('t') && state.newest_stamp.is_some_and(|newest| newest <= cutoff)
    };
    let (left, gone) = version.without_spent(have_expired)?;
    let files = left.files_gone(&gone);
    Some((left, files.iter().map(|file| file.meta.file.number).collect()))
}

#[test]
fn deletions_go_unless_something_of_their_state_lies_beneath_in_their_groups() {
    let all = range(0, 9);
    for (beneath, goes) in [
        (table(1, range(3, 4), &[state("a", Some(1))]), false),
        (table(1, range(3, 4), &[state("a", Some(1)), state("b", None)]), false),
        (table(1, range(3, 4), &[state("b", Some(1))]), true),
    ] {
        let version = Version::new(vec![beneath, table(2, all, &[state("a", None)])]);
        let left = at(&version, 0);
        assert_eq!(left.is_some_and(|(left, gone)| numbers(&left) == [1] && gone == [2]), goes);
    }
    // Beneath, but of other groups.
    let apart = [table(1, range(0, 4), &[state("a", Some(1))])];
    let version =
        Version::new([&apart[..], &[table(2, range(5, 9), &[state("a", None)])]].concat());
    let (left, gone) = at(&version, 0).unwrap();
    assert_eq!((numbers(&left), gone), (vec![1], vec![2]));
    // Deletions beneath go first, and what was above them after them.
    let deletions = |number| table(number, all, &[state("a", None)]);
    let version = Version::new(vec![deletions(1), deletions(2), deletions(3)]);
    let (left, gone) = at(&version, 0).unwrap();
    assert_eq!((numbers(&left), gone), (vec![], vec![1, 2, 3]));
}

#[test]
fn what_has_expired_goes_unless_it_hides_what_has_not() {
    let all = range(0, 9);
    let of = |stamps: &[Option<u64>]| {
        let tables = stamps.iter().zip(1..);
        Version::new(tables.map(|(&s, n)| table(n, all, &[state("t", s)])).collect())
    };
    let left = |version: &Version, cutoff| at(version, cutoff).map(|(left, _)| numbers(&left));
    let version = of(&[Some(10), Some(20), None, Some(30)]);
    assert_eq!(left(&version, 9), None);
    assert_eq!(left(&version, 10), Some(vec![2, 3, 4]));
    assert_eq!(left(&version, 29), Some(vec![4]), "deletions above it go, too");
    assert_eq!(left(&version, 30), Some(vec![]));
    // A clock that went back: the older one is of a later time.
    let version = of(&[Some(30), Some(20), None]);
    assert_eq!(left(&version, 29), None);
    assert_eq!(left(&version, 30), Some(vec![]));
    // Of what nobody knows, and of a state without a time to live, nothing expires.
    let version = Version::new(vec![table(1, all, &[unknown("t")])]);
    assert!(at(&version, u64::MAX).is_none());
    let version = Version::new(vec![table(1, all, &[state("v", Some(1))])]);
    assert!(at(&version, u64::MAX).is_none());
}

#[test]
fn one_state_of_a_table_may_be_spent_and_the_others_stay() {
    let (all, left_half, right_half) = (range(0, 9), range(0, 4), range(5, 9));
    let mixed = table(1, all, &[state("t", Some(10)), state("v", Some(1))]);
    let above = table(2, all, &[state("t", None)]);
    let version = Version::new(vec![Arc::clone(&mixed), above]);
    let (left, gone) = at(&version, 10).unwrap();
    assert_eq!(shown(&left), [(1, all, vec!["t".to_owned()])]);
    assert_eq!(gone, [2]);
    assert!(at(&left, 10).is_none(), "said once");
    // A snapshot under way has what it had.
    assert_eq!(shown(&version), [(1, all, vec![]), (2, all, vec![])]);
    assert!(Arc::ptr_eq(left.tables()[0].file(), mixed.file()));
    // A merge of some groups leaves it spent in the others.
    let input = Arc::clone(&left.tables()[0]);
    let merged = left.with_merged(&[input], left_half, None).unwrap();
    assert_eq!(shown(&merged), [(1, right_half, vec!["t".to_owned()])]);
    // What is dropped besides adds to it.
    merged.drop_states(&["v".to_owned(), "another".to_owned()]);
    assert_eq!(numbers(&merged.without_dropped().unwrap().0), [0_u64; 0]);
}

#[test]
fn of_two_slices_of_one_file_each_is_spent_by_itself() {
    let whole = table(2, range(0, 9), &[state("t", Some(10))]);
    let merged = Version::new(vec![table(1, range(5, 9), &[state("t", Some(40))]), whole]);
    let middle = merged.tables()[1..].to_vec();
    let cut = merged.with_merged(&middle, range(4, 4), None).unwrap();
    let (left, gone) = at(&cut, 10).unwrap();
    assert_eq!(shown(&left), [(1, range(5, 9), vec![]), (2, range(5, 9), vec![])]);
    assert_eq!(gone, [0_u64; 0], "the file is needed for the other half");
}

#[test]
fn a_table_is_written_anew_for_what_is_spent_in_it_if_that_is_much() {
    let small = StateProperties { value_bytes: 1, ..state("t", Some(10)) };
    for (spent, is_worth) in [(state("t", Some(10)), true), (small, false)] {
        let large = StateProperties { value_bytes: 99, ..state("v", Some(1)) };
        let version = Version::new(vec![table(1, range(0, 9), &[spent, large])]);
        let (left, _) = at(&version, 10).unwrap();
        assert_eq!(left.tables()[0].has_dropped(), is_worth);
    }
}
