//! Which files are needed, and by whom.
//!
//! A holder is a completed checkpoint (a savepoint, one that is retired and not yet
//! gone), a checkpoint that is under way, or a shard that has come to its end. A file is needed
//! as long as somebody holds it. Names are kept once, whatever the number of holders; a holder costs four bytes
//! each time that it names a file.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::pending::ShardKey;
use crate::base::SnapshotId;

/// Who needs files.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Holder {
    /// A checkpoint that shards are acknowledging.
    Pending(SnapshotId),
    /// A shard that has come to its end: it is part of every checkpoint from now on.
    Finished(ShardKey),
    /// A completed one, by the object name of its metadata.
    Completed(String),
}

/// A file that was given up by its last holder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Released {
    pub(super) location: Arc<str>,
    pub(super) bytes: u64,
}

struct File {
    location: Arc<str>,
    bytes: u64,
    /// The oldest checkpoint that was begun here and held it; 0 if it is of before.
    since: SnapshotId,
    holders: u32,
}

/// See the [module documentation](self).
#[derive(Default)]
pub(super) struct Registry {
    numbers: HashMap<Arc<str>, u32, RandomState>,
    files: Vec<Option<File>>,
    free: Vec<u32>,
    held: HashMap<Holder, Vec<u32>, RandomState>,
}

impl Registry {
    /// Has `holder` need these files as well. What it names twice it holds twice, until
    /// it releases all.
    pub(super) fn hold<'a>(
        &mut self,
        holder: &Holder,
        files: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        let since = match holder {
            Holder::Pending(id) => *id,
            Holder::Finished(_) | Holder::Completed(_) => SnapshotId(0),
        };
        self.hold_since(holder, since, files);
    }

    /// As [`hold`](Self::hold), of files that were made for this snapshot or a later one,
    /// if nobody holds them yet: it may not have been acknowledged itself.
    pub(super) fn hold_since<'a>(
        &mut self,
        holder: &Holder,
        since: SnapshotId,
        files: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        let mut numbers = self.held.remove(holder).unwrap_or_default();
        let files = files.into_iter();
        numbers.extend(files.map(|(location, bytes)| self.number(location, bytes, since)));
        self.held.insert(holder.clone(), numbers);
    }

    /// Counts one more holder of a file.
    fn number(&mut self, location: &str, bytes: u64, since: SnapshotId) -> u32 {
        if let Some(number) = self.numbers.get(location) {
            let number = *number;
            let file = self.file(number);
            file.holders += 1;
            file.since = file.since.min(since);
            return number;
        }
        let location: Arc<str> = location.into();
        let file = Some(File { location: Arc::clone(&location), bytes, since, holders: 1 });
        let number = match self.free.pop() {
            Some(number) => {
                self.files[number as usize] = file;
                number
            }
            None => {
                self.files.push(file);
                u32::try_from(self.files.len() - 1).expect("four billion files are not counted")
            }
        };
        self.numbers.insert(location, number);
        number
    }

    fn file(&mut self, number: u32) -> &mut File {
        self.files[number as usize].as_mut().expect("held files are known")
    }

    /// Has `to` hold what `from` holds, and `from` nothing.
    pub(super) fn hand_over(&mut self, from: &Holder, to: Holder) {
        if let Some(numbers) = self.held.remove(from) {
            let before = self.held.insert(to, numbers);
            debug_assert!(before.is_none(), "nobody holds under this name yet");
        }
    }

    /// Ends what `holder` needs, and gives the files that nobody needs any more.
    pub(super) fn release(&mut self, holder: &Holder) -> Vec<Released> {
        let mut released = Vec::new();
        for number in self.held.remove(holder).unwrap_or_default() {
            let file = self.file(number);
            file.holders -= 1;
            if file.holders == 0 {
                let File { location, bytes, .. } =
                    self.files[number as usize].take().expect("it was there");
                self.numbers.remove(&location);
                self.free.push(number);
                released.push(Released { location, bytes });
            }
        }
        released
    }

    /// Whether anybody needs a file.
    pub(super) fn is_held(&self, location: &str) -> bool {
        self.numbers.contains_key(location)
    }

    /// The oldest checkpoint begun here that needed the file, of those since somebody
    /// needs it without a break; 0 if it was needed before. `None` if nobody needs it.
    pub(super) fn needed_since(&self, location: &str) -> Option<SnapshotId> {
        let number = self.numbers.get(location)?;
        self.files[*number as usize].as_ref().map(|file| file.since)
    }

    /// Whether anybody needs a file whose location does not begin so. Looks at all files.
    pub(super) fn holds_any_outside(&self, prefix: &str) -> bool {
        self.numbers.keys().any(|location| !location.starts_with(prefix))
    }

    /// Whether this holder is known.
    pub(super) fn knows(&self, holder: &Holder) -> bool {
        self.held.contains_key(holder)
    }

    /// Number of files, and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        let bytes = self.files.iter().flatten().map(|file| file.bytes).sum();
        (self.numbers.len(), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str) -> Holder {
        Holder::Completed(name.into())
    }

    fn names(released: &[Released]) -> Vec<&str> {
        let mut names: Vec<_> = released.iter().map(|file| &*file.location).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_file_is_released_by_its_last_holder() {
        let mut registry = Registry::default();
        registry.hold(&holder("one"), [("a", 1), ("b", 2)]);
        registry.hold(&holder("two"), [("b", 2), ("c", 4)]);
        assert_eq!(registry.size(), (3, 7));
        assert_eq!(names(&registry.release(&holder("one"))), ["a"]);
        assert!(registry.is_held("b") && !registry.is_held("a"));
        assert_eq!(names(&registry.release(&holder("two"))), ["b", "c"]);
        assert_eq!(registry.size(), (0, 0));
        assert!(registry.release(&holder("two")).is_empty());
    }

    #[test]
    fn a_holder_that_names_a_file_twice_releases_it_as_often() {
        let mut registry = Registry::default();
        registry.hold(&holder("one"), [("a", 1), ("a", 1)]);
        registry.hold(&holder("one"), [("a", 1), ("b", 1)]);
        registry.hold(&holder("two"), [("b", 1)]);
        assert_eq!(names(&registry.release(&holder("one"))), ["a"]);
    }

    #[test]
    fn a_file_is_as_old_as_the_oldest_checkpoint_that_held_it() {
        let mut registry = Registry::default();
        registry.hold(&Holder::Pending(SnapshotId(4)), [("a", 1), ("b", 1)]);
        registry.hold(&Holder::Pending(SnapshotId(3)), [("a", 1)]);
        assert_eq!(registry.needed_since("a"), Some(SnapshotId(3)));
        assert_eq!(registry.needed_since("b"), Some(SnapshotId(4)));
        registry.hold(&holder("from before"), [("b", 1)]);
        assert_eq!(registry.needed_since("b"), Some(SnapshotId(0)));
        assert_eq!(registry.needed_since("c"), None);
    }

    #[test]
    fn what_is_handed_over_is_held_by_the_other() {
        let mut registry = Registry::default();
        let pending = Holder::Pending(SnapshotId(1));
        registry.hold(&pending, [("a", 1)]);
        registry.hand_over(&pending, holder("one"));
        assert!(registry.release(&pending).is_empty());
        assert!(registry.knows(&holder("one")));
        assert_eq!(names(&registry.release(&holder("one"))), ["a"]);
    }
}
