//! The loop without a store.

use std::hint::black_box;
use std::path::Path;

use super::{Contents, ENTRY_BYTES, Lists, Maps, Store, Timers, Windows};
use crate::Result;
use crate::engines::Settings;
use crate::engines::bare::Bare;

impl Store for Bare {
    fn create(_: &Settings, _: &Path) -> Result<Self> {
        Ok(Self)
    }
}

impl<const K: usize, const V: usize> Lists<K, V> for Bare {
    #[inline]
    fn append(&mut self, key: &[u8; K], element: &[u8; V]) -> Result<()> {
        black_box((key, element));
        Ok(())
    }

    #[inline]
    fn read(&mut self, key: &[u8; K], _: impl FnMut(&[u8])) -> Result<()> {
        black_box(key);
        Ok(())
    }

    fn clear(&mut self, key: &[u8; K]) -> Result<()> {
        black_box(key);
        Ok(())
    }
}

impl<const K: usize, const V: usize> Maps<K, V> for Bare {
    #[inline]
    fn put(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES], value: &[u8; V]) -> Result<()> {
        black_box((key, entry, value));
        Ok(())
    }

    #[inline]
    fn get(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES]) -> Result<Option<u64>> {
        black_box((key, entry));
        Ok(Some(0))
    }

    #[inline]
    fn scan(&mut self, key: &[u8; K], _: impl FnMut(&[u8], &[u8])) -> Result<()> {
        black_box(key);
        Ok(())
    }
}

impl<const K: usize> Timers<K> for Bare {
    #[inline]
    fn register(&mut self, time: u64, key: &[u8; K]) -> Result<()> {
        black_box((time, key));
        Ok(())
    }

    #[inline]
    fn fire(&mut self, until: u64, _: impl FnMut(u64, &[u8])) -> Result<()> {
        black_box(until);
        Ok(())
    }
}

impl<const K: usize, const V: usize> Windows<K, V> for Bare {
    #[inline]
    fn add(&mut self, _: Contents, key: &[u8; K], window: u64, event: &[u8; V]) -> Result<()> {
        black_box((key, window, event));
        Ok(())
    }

    #[inline]
    fn fire_window(&mut self, _: Contents, window: u64, _: impl FnMut(&[u8], &[u8])) -> Result<()> {
        black_box(window);
        Ok(())
    }
}
