//! What a caller names a record by.

use crate::base::hash::{group_of_hash, hash_key, with_namespace};
use crate::base::{KeyGroup, MaxParallelism};

/// The encoded key of a record, its namespace (usually a window; empty when
/// there is none) and, if the runtime has its own way to choose one, its key
/// group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyRef<'a> {
    group: Option<KeyGroup>,
    key: &'a [u8],
    namespace: &'a [u8],
}

impl<'a> KeyRef<'a> {
    /// A key whose group follows from its hash, without a namespace.
    #[inline]
    pub const fn new(key: &'a [u8]) -> Self {
        Self { group: None, key, namespace: &[] }
    }

    /// A key in the group that the runtime chose, without a namespace.
    ///
    /// The same key must always come with the same group: a record is looked
    /// for only in the group that is named. A state whose keys come with groups
    /// other than their hashes say is slow for those that come without.
    #[inline]
    pub const fn in_group(group: KeyGroup, key: &'a [u8]) -> Self {
        Self { group: Some(group), key, namespace: &[] }
    }

    /// The same key within `namespace`.
    #[inline]
    #[must_use]
    pub const fn namespace(self, namespace: &'a [u8]) -> Self {
        Self { namespace, ..self }
    }

    /// The key group, if the caller chose it.
    #[inline]
    pub const fn group(self) -> Option<KeyGroup> {
        self.group
    }

    /// The bytes of the key.
    #[inline]
    pub const fn key_bytes(self) -> &'a [u8] {
        self.key
    }

    /// The bytes of the namespace, empty if there is none.
    #[inline]
    pub const fn namespace_bytes(self) -> &'a [u8] {
        self.namespace
    }

    /// The group if it was chosen, the key and the namespace.
    #[inline(always)]
    pub(crate) fn parts(self) -> (Option<KeyGroup>, &'a [u8], &'a [u8]) {
        (self.group, self.key, self.namespace)
    }

    /// The key group, chosen or computed, and the hash of key and namespace
    /// that places the record in a table. Costs one hash of the key, and one of the
    /// namespace if there is one.
    #[inline(always)]
    pub fn locate(self, max_parallelism: MaxParallelism) -> (KeyGroup, u64) {
        let key_hash = hash_key(self.key);
        let group = self.group.unwrap_or_else(|| group_of_hash(key_hash, max_parallelism));
        (group, with_namespace(key_hash, self.namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_moves_the_hash_but_not_the_group() {
        let max = MaxParallelism::DEFAULT;
        let plain = KeyRef::new(b"user:17");
        let scoped = plain.namespace(b"window 3");
        assert_eq!(plain.locate(max).0, scoped.locate(max).0);
        assert_ne!(plain.locate(max).1, scoped.locate(max).1);
        assert_eq!(
            (scoped.key_bytes(), scoped.namespace_bytes()),
            (&b"user:17"[..], &b"window 3"[..])
        );
    }

    #[test]
    fn a_chosen_group_wins_over_the_computed_one() {
        let max = MaxParallelism::DEFAULT;
        let computed = KeyRef::new(b"k").locate(max);
        let other = KeyGroup(computed.0.0 ^ 1);
        assert_eq!(KeyRef::in_group(other, b"k").locate(max), (other, computed.1));
    }
}
