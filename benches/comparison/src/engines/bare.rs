//! The loop without a store: what the keys, the batches and the clock cost.

use std::hint::black_box;
use std::path::Path;

use super::{Engine, Rmw, Settings};
use crate::Result;

/// Looks at each key and does nothing with it.
pub(crate) struct Bare;

impl<const K: usize, const V: usize> Engine<K, V> for Bare {
    fn create(_: &Settings, _: &Path) -> Result<Self> {
        Ok(Self)
    }

    #[inline]
    fn insert(&mut self, key: &[u8; K], value: &[u8; V]) -> Result<()> {
        black_box((key, value));
        Ok(())
    }

    fn counter(&mut self, _: &[u8; K]) -> Result<Option<u64>> {
        Ok(None)
    }
}

impl<const K: usize, const V: usize> Rmw<K, V> for Bare {
    #[inline]
    fn rmw(&mut self, key: &[u8; K]) -> Result<()> {
        black_box(key);
        Ok(())
    }

    #[inline]
    fn rmw_batch(&mut self, keys: &[[u8; K]]) -> Result<()> {
        black_box(keys);
        Ok(())
    }
}
