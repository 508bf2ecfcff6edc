//! From typed names to bytes and back, for states that are written anew under
//! other keys.
//!
//! Promises that no panic of a codec or of the renaming passes through a store.
//! Knows no kinds, except that maps have keys of their own.

use std::marker::PhantomData;

use crate::base::Result;
use crate::codec::schema::guard;
use crate::codec::{Codec, CodecSpec};
use crate::shard::rekey::{NewKey, OldCodecs, OldKey, Rename};

/// The codecs of keys and namespaces that a state is to have, and those that it
/// had.
pub(super) struct Keys<'a, OKC, ONC, KC, NC> {
    pub(super) old_keys: &'a OKC,
    pub(super) old_namespaces: &'a ONC,
    pub(super) keys: &'a KC,
    pub(super) namespaces: &'a NC,
}

impl<OKC, ONC, KC, NC> Keys<'_, OKC, ONC, KC, NC> {
    /// What the state was written under.
    pub(super) fn old<OK: 'static, ON: 'static>(&self) -> OldCodecs
    where
        OKC: Codec<OK>,
        ONC: Codec<ON>,
    {
        let (keys, namespaces) = (self.old_keys, self.old_namespaces);
        let map_keys = None;
        OldCodecs { keys: CodecSpec::of(keys), namespaces: CodecSpec::of(namespaces), map_keys }
    }

    /// Renames bytes as `rename` does what they stand for.
    pub(super) fn renaming<OK: 'static, ON: 'static, K: 'static, N: 'static>(
        &self,
        mut rename: impl FnMut(OK, ON) -> Result<(K, N)>,
    ) -> impl FnMut(OldKey<'_>) -> Result<NewKey>
    where
        OKC: Codec<OK>,
        ONC: Codec<ON>,
        KC: Codec<K>,
        NC: Codec<N>,
    {
        move |old: OldKey<'_>| {
            guard(|| {
                let key = self.old_keys.decode(old.key)?;
                let namespace = self.old_namespaces.decode(old.namespace)?;
                let (key, namespace) = rename(key, namespace)?;
                let mut new = NewKey { key: Vec::new(), namespace: Vec::new(), group: None };
                self.keys.encode(&key, &mut new.key)?;
                self.namespaces.encode(&namespace, &mut new.namespace)?;
                Ok(new)
            })
        }
    }
}

/// Renames the keys of map entries, too.
pub(super) struct MapRenaming<'a, OUK, UK, F, R, OUC, UC> {
    keys: F,
    map_keys: R,
    codecs: (&'a OUC, &'a UC),
    types: PhantomData<fn(OUK) -> UK>,
}

impl<'a, OUK, UK, F, R, OUC, UC> MapRenaming<'a, OUK, UK, F, R, OUC, UC>
where
    R: FnMut(OUK) -> Result<UK>,
{
    /// `keys` renames keys and namespaces, `map_keys` the keys of entries.
    pub(super) fn new(keys: F, map_keys: R, codecs: (&'a OUC, &'a UC)) -> Self {
        Self { keys, map_keys, codecs, types: PhantomData }
    }
}

impl<OUK, UK, F, R, OUC, UC> Rename for MapRenaming<'_, OUK, UK, F, R, OUC, UC>
where
    OUK: 'static,
    UK: 'static,
    F: FnMut(OldKey<'_>) -> Result<NewKey>,
    R: FnMut(OUK) -> Result<UK>,
    OUC: Codec<OUK>,
    UC: Codec<UK>,
{
    fn key(&mut self, old: OldKey<'_>) -> Result<NewKey> {
        (self.keys)(old)
    }

    fn map_key(&mut self, _: OldKey<'_>, map_key: &[u8]) -> Result<Vec<u8>> {
        guard(|| {
            let mut new = Vec::new();
            let map_key = (self.map_keys)(self.codecs.0.decode(map_key)?)?;
            self.codecs.1.encode(&map_key, &mut new)?;
            Ok(new)
        })
    }
}

/// Leaves keys and namespaces as they are, in the groups that they are in.
pub(super) fn same_key(old: OldKey<'_>) -> Result<NewKey> {
    let OldKey { group, key, namespace } = old;
    Ok(NewKey { key: key.to_vec(), namespace: namespace.to_vec(), group: Some(group) })
}
