//! A vector on pages of its own, for what is large and lives short.
//!
//! On the heap such memory leaves holes: the allocator keeps them for what is to come,
//! and counts them to nobody. Pages go back to the system when the vector is dropped.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::slice;

use super::Pages;

/// Bytes of the first pages, unless more are asked for.
const FIRST_BYTES: usize = 64 << 10;

/// A vector on pages of its own, for what is large and lives short: they go back to the
/// system when it is dropped. Elements are plain values, without a destructor. Only pages
/// that were written are real memory.
pub struct PageVec<T> {
    pages: Option<Pages>,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Copy> PageVec<T> {
    /// Without elements, and without pages yet.
    pub const fn new() -> Self {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= 4096) };
        Self { pages: None, len: 0, elements: PhantomData }
    }

    /// Without elements, but with room for so many.
    pub fn with_capacity(elements: usize) -> Self {
        let mut new = Self::new();
        if elements > 0 {
            new.pages = Some(Self::pages_for(elements));
        }
        new
    }

    fn pages_for(elements: usize) -> Pages {
        let bytes = elements.checked_mul(size_of::<T>()).expect("as many as memory can have");
        // Only as many are made as are written, so small ones.
        Pages::on_small_pages(bytes).unwrap_or_else(|error| {
            tracing::error!(%error, bytes, "no memory for a large buffer");
            // As a vector does, for which this stands.
            handle_alloc_error(Layout::array::<T>(elements).unwrap_or(Layout::new::<T>()))
        })
    }

    /// Elements that there is room for.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.pages.as_ref().map_or(0, |pages| pages.len() / size_of::<T>())
    }

    /// Bytes of the elements: about what the vector takes, since pages that were not
    /// written do not exist.
    pub fn memory_bytes(&self) -> u64 {
        (self.len * size_of::<T>()) as u64
    }

    /// Appends an element.
    #[inline]
    pub fn push(&mut self, element: T) {
        self.extend_from_slice(slice::from_ref(&element));
    }

    /// Appends some elements.
    #[inline]
    pub fn extend_from_slice(&mut self, elements: &[T]) {
        let end = self.len + elements.len();
        if end > self.capacity() {
            self.grow(end);
        }
        if let Some(pages) = &self.pages {
            // SAFETY: there is room for `end` elements (checked above), so what is
            // written lies inside the pages, which begin at a multiple of any alignment
            // that an element has. `elements` is not a part of them: that would be
            // borrowed from `self`.
            unsafe {
                let to = pages.as_ptr().cast::<T>().add(self.len);
                std::ptr::copy_nonoverlapping(elements.as_ptr(), to, elements.len());
            }
            self.len = end;
        }
    }

    /// Has no elements from now on; the room for them stays.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    #[cold]
    fn grow(&mut self, least: usize) {
        let first = FIRST_BYTES.div_ceil(size_of::<T>());
        let mut larger = Self::with_capacity(least.max(2 * self.capacity()).max(first));
        larger.extend_from_slice(self);
        *self = larger;
    }
}

impl PageVec<u8> {
    /// Has so many bytes from now on, with whatever in them, to be overwritten. More room
    /// than four times as much is given back.
    pub fn resize_for_overwriting(&mut self, len: usize) {
        if self.capacity() < len || self.capacity() / 4 > len.next_multiple_of(FIRST_BYTES) {
            self.pages = None;
            *self = Self::with_capacity(len);
        }
        self.len = len;
    }
}

impl<T: Copy> Default for PageVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for PageVec<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match &self.pages {
            None => &[],
            // SAFETY: the first `len` elements were written, or are bytes, as which pages
            // are zeroed; they are inside the pages and aligned; nobody else has their
            // pointer, and whoever writes them borrows `self` mutably.
            Some(pages) => unsafe { slice::from_raw_parts(pages.as_ptr().cast(), self.len) },
        }
    }
}

impl<T> DerefMut for PageVec<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        match &self.pages {
            None => &mut [],
            // SAFETY: as in `deref`, and `self` is borrowed mutably.
            Some(pages) => unsafe { slice::from_raw_parts_mut(pages.as_ptr().cast(), self.len) },
        }
    }
}

impl<T> fmt::Debug for PageVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageVec({} elements)", self.len)
    }
}

// `Pages` may be sent and shared, and so may the elements be, if they may.
const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<PageVec<u64>>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_on_pages_holds_what_was_appended_however_it_grew() {
        for capacity in [0, 1, 5_000, 100_000] {
            let mut pages = PageVec::with_capacity(capacity);
            let mut heap = Vec::new();
            for at in 0..50_000_u64 {
                pages.push((at, at as u16));
                heap.push((at, at as u16));
                if at.is_multiple_of(1000) {
                    let some = heap[..at as usize].to_vec();
                    pages.extend_from_slice(&some);
                    heap.extend_from_slice(&some);
                }
            }
            assert_eq!(&*pages, &*heap);
            pages.sort_unstable();
            heap.sort_unstable();
            assert_eq!(&*pages, &*heap);
            assert!(pages.capacity() >= pages.len());
        }
    }

    #[test]
    fn bytes_to_be_overwritten_are_as_many_as_asked_for_and_keep_little_room() {
        let mut bytes = PageVec::new();
        for len in [5, FIRST_BYTES, 3, 70_000, 1 << 20, 300_000, 10] {
            bytes.resize_for_overwriting(len);
            bytes.fill(7);
            assert_eq!(bytes.len(), len);
            assert!(bytes.capacity() <= 4 * len.max(FIRST_BYTES) + 3 * FIRST_BYTES);
        }
        bytes.clear();
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_vector_without_elements_is_an_empty_slice() {
        let mut none = PageVec::<u64>::new();
        none.extend_from_slice(&[]);
        assert!(none.is_empty());
        assert_eq!((none.capacity(), none.memory_bytes()), (0, 0));
        none.sort_unstable();
    }
}
