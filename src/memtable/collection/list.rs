//! A list: its elements one after the other, and from where on they are new.
//!
//! ```text
//! list:     | word a u32 | word b u32 | mark bytes u32 | mark elements u32 | since u32 | elements |
//!           0            4            8                12                  16          20
//! word a:   bits 0..30 number of elements; bit 30 TIMED; bit 31 TAIL
//! word b:   bits 0..31 epoch of the mark; bit 31 REPLACED
//! ```
//!
//! - The *mark* is the end of what earlier epochs have: the elements behind it
//!   were appended in the mark's epoch. The first change in a new epoch moves it
//!   to the end, so an append costs the same however long the list is, and what
//!   an epoch adds to a list is one slice of its bytes.
//! - `REPLACED`: in the mark's epoch everything older was given up. The mark is
//!   at the start then, and whoever reads the change forgets what is below.
//! - `TAIL`: older elements may lie in tables. They have to be
//!   [put in front](ListMut::prepend_older) before the list is read. They are those of
//!   epochs before `since`, in which the tail began.
//! - `TIMED`: every element has a stamp.
//!
//! What an element looks like is drawn in [`elements`](super::elements).

use crate::base::limits::MAX_VALUE_BYTES;
use crate::base::{Epoch, Result};

use super::elements::{
    Elements, ElementsBuf, MAX_ELEMENTS_BYTES, STAMP_BYTES, check_elements_len, element_len,
    put_len,
};
use super::{Buffer, NEVER, get_u32, put_u32};

/// Bytes of a list without elements.
pub(crate) const LIST_HEADER_BYTES: usize = 20;

const WORD_A_AT: usize = 0;
const WORD_B_AT: usize = 4;
const MARK_BYTES_AT: usize = 8;
const MARK_ELEMENTS_AT: usize = 12;
const SINCE_AT: usize = 16;

const TAIL: u32 = 1 << 31;
const TIMED: u32 = 1 << 30;
const COUNT: u32 = TIMED - 1;
const REPLACED: u32 = 1 << 31;

const _: () = assert!(LIST_HEADER_BYTES + MAX_ELEMENTS_BYTES <= MAX_VALUE_BYTES);
// Every element takes a byte or more, so the count has room.
const _: () = assert!(MAX_ELEMENTS_BYTES <= COUNT as usize);

/// What lies below a list that begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    /// Nothing.
    Whole,
    /// Perhaps older elements, which belong to it.
    Tail,
    /// Perhaps older elements, which do not: it was cleared or replaced.
    Replacing,
}

/// What an epoch did to a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ListChanges<'a> {
    /// Whatever older tables have of the list does not count.
    pub(crate) replaces_older: bool,
    /// The elements that it got.
    pub(crate) elements: Elements<'a>,
}

impl ListChanges<'_> {
    /// Whether nothing happened that tables have to know.
    pub(crate) fn is_nothing(&self) -> bool {
        !self.replaces_older && self.elements.count == 0
    }
}

/// A list, to be read.
#[derive(Clone, Copy)]
pub(crate) struct List<'a> {
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    /// The list in the bytes of a record.
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        debug_assert!(bytes.len() >= LIST_HEADER_BYTES);
        Self { bytes }
    }

    /// Number of elements in memory, expired ones included.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        (get_u32(self.bytes, WORD_A_AT) & COUNT) as usize
    }

    /// Whether older elements may lie in tables.
    #[inline]
    pub(crate) fn is_tail(&self) -> bool {
        get_u32(self.bytes, WORD_A_AT) & TAIL != 0
    }

    /// In which epoch it began, if older elements may lie in tables.
    pub(crate) fn tail_since(&self) -> Option<Epoch> {
        self.is_tail().then(|| Epoch(get_u32(self.bytes, SINCE_AT)))
    }

    /// Whether elements have stamps.
    #[inline]
    pub(crate) fn is_timed(&self) -> bool {
        get_u32(self.bytes, WORD_A_AT) & TIMED != 0
    }

    /// The elements in memory, oldest first.
    #[inline]
    pub(crate) fn elements(&self) -> Elements<'a> {
        let bytes = &self.bytes[LIST_HEADER_BYTES..];
        Elements { bytes, count: self.count() as u32, timed: self.is_timed() }
    }

    /// What happened to the list in an epoch, which is its last or later.
    pub(crate) fn changes_in(&self, epoch: Epoch) -> ListChanges<'a> {
        let all = self.elements();
        let word = get_u32(self.bytes, WORD_B_AT);
        if Epoch(word & !REPLACED) != epoch {
            let elements = Elements { bytes: &[], count: 0, timed: all.timed };
            return ListChanges { replaces_older: false, elements };
        }
        let elements = Elements {
            bytes: &all.bytes[get_u32(self.bytes, MARK_BYTES_AT) as usize..],
            count: all.count - get_u32(self.bytes, MARK_ELEMENTS_AT),
            timed: all.timed,
        };
        ListChanges { replaces_older: word & REPLACED != 0, elements }
    }

    /// The header and the elements of a list that says the same of an epoch and
    /// has nothing else: what has to be copied to know the changes.
    pub(crate) fn only_changes_in(&self, epoch: Epoch) -> ([u8; LIST_HEADER_BYTES], &'a [u8]) {
        let ListChanges { elements, .. } = self.changes_in(epoch);
        let mut header = [0; LIST_HEADER_BYTES];
        header.copy_from_slice(&self.bytes[..LIST_HEADER_BYTES]);
        let flags = get_u32(&header, WORD_A_AT) & !COUNT;
        put_u32(&mut header, WORD_A_AT, flags | elements.count);
        put_u32(&mut header, MARK_BYTES_AT, 0);
        put_u32(&mut header, MARK_ELEMENTS_AT, 0);
        (header, elements.bytes)
    }

    /// Makes `new` a list of the same elements in another form, and the same of
    /// them new: `convert` appends what an element's bytes become. If elements
    /// become timed, those that were not never expire.
    ///
    /// # Errors
    /// Those of `convert`; `Invalid` if the list becomes too long; if there is
    /// no memory. `new` is then what it was.
    pub(crate) fn convert(
        &self,
        timed: bool,
        new: &mut impl Buffer,
        mut convert: impl FnMut(&[u8], &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mark_elements = get_u32(self.bytes, MARK_ELEMENTS_AT);
        let mut converted = ElementsBuf::new(timed);
        let mut mark_bytes = 0;
        let mut scratch = Vec::new();
        for element in self.elements().iter() {
            scratch.clear();
            convert(element.value, &mut scratch)?;
            converted.push(&scratch, if timed { element.stamp } else { NEVER })?;
            if converted.elements().count == mark_elements {
                mark_bytes = converted.elements().bytes.len() as u32;
            }
        }
        let converted = converted.elements();
        new.splice(0, new.bytes().len(), LIST_HEADER_BYTES + converted.bytes.len())?;
        let (header, elements) = new.bytes_mut().split_at_mut(LIST_HEADER_BYTES);
        header.copy_from_slice(&self.bytes[..LIST_HEADER_BYTES]);
        let flags = get_u32(header, WORD_A_AT) & TAIL | if timed { TIMED } else { 0 };
        put_u32(header, WORD_A_AT, flags | converted.count);
        put_u32(header, MARK_BYTES_AT, mark_bytes);
        elements.copy_from_slice(converted.bytes);
        Ok(())
    }
}

/// A list, to be changed.
pub(crate) struct ListMut<'b, B> {
    buffer: &'b mut B,
}

impl<'b, B: Buffer> ListMut<'b, B> {
    /// The list in the bytes of a record.
    #[inline]
    pub(crate) fn new(buffer: &'b mut B) -> Self {
        debug_assert!(buffer.bytes().len() >= LIST_HEADER_BYTES);
        Self { buffer }
    }

    /// Replaces whatever the buffer holds by a list without elements. One that
    /// comes from a table begins in [`Epoch::CLEAN`], and so do its elements.
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn create(
        buffer: &'b mut B,
        epoch: Epoch,
        timed: bool,
        start: Start,
    ) -> Result<Self> {
        buffer.splice(0, buffer.bytes().len(), LIST_HEADER_BYTES)?;
        let bytes = buffer.bytes_mut();
        bytes.fill(0);
        put_header(bytes, epoch, timed, start);
        Ok(Self { buffer })
    }

    /// The list, to be read.
    #[inline]
    pub(crate) fn list(&self) -> List<'_> {
        List::new(self.buffer.bytes())
    }

    /// Appends one element with its stamp, or [`NEVER`].
    ///
    /// # Errors
    /// `Invalid` if the list becomes too long; if there is no memory.
    #[inline(always)]
    pub(crate) fn append(&mut self, epoch: Epoch, value: &[u8], stamp: u64) -> Result<()> {
        let at = self.buffer.bytes().len();
        let timed = self.list().is_timed();
        let len = element_len(value, timed);
        check_elements_len((at - LIST_HEADER_BYTES).saturating_add(len))?;
        self.buffer.extend(len)?;

        let bytes = self.buffer.bytes_mut();
        advance(bytes, epoch, at);
        put_element(&mut bytes[at..], value, timed, stamp);
        add_to(bytes, WORD_A_AT, 1);
        Ok(())
    }

    /// Appends elements, which must be timed if the list is.
    ///
    /// # Errors
    /// As of [`append`](Self::append).
    pub(crate) fn append_all(&mut self, epoch: Epoch, new: Elements<'_>) -> Result<()> {
        self.check_same_form(new);
        if new.count == 0 {
            return Ok(());
        }
        let at = self.buffer.bytes().len();
        check_elements_len(at - LIST_HEADER_BYTES + new.bytes.len())?;
        self.buffer.extend(new.bytes.len())?;
        let bytes = self.buffer.bytes_mut();
        advance(bytes, epoch, at);
        bytes[at..].copy_from_slice(new.bytes);
        add_to(bytes, WORD_A_AT, new.count);
        Ok(())
    }

    /// Appends elements that all have one stamp, or [`NEVER`].
    ///
    /// # Errors
    /// As of [`append`](Self::append).
    #[inline(always)]
    pub(crate) fn append_each(&mut self, epoch: Epoch, values: &[&[u8]], stamp: u64) -> Result<()> {
        match values {
            [value] => self.append(epoch, value, stamp),
            _ => self.append_several(epoch, values, stamp),
        }
    }

    fn append_several(&mut self, epoch: Epoch, values: &[&[u8]], stamp: u64) -> Result<()> {
        let timed = self.list().is_timed();
        let len = values
            .iter()
            .fold(0, |len: usize, value| len.saturating_add(element_len(value, timed)));
        let at = self.buffer.bytes().len();
        check_elements_len((at - LIST_HEADER_BYTES).saturating_add(len))?;
        self.buffer.extend(len)?;
        let bytes = self.buffer.bytes_mut();
        advance(bytes, epoch, at);
        let mut rest = &mut bytes[at..];
        for value in values {
            rest = put_element(rest, value, timed, stamp);
        }
        // Each takes a byte or more, so their number fits.
        add_to(bytes, WORD_A_AT, values.len() as u32);
        Ok(())
    }

    /// Makes these all elements of the list, whatever it had; none at all
    /// clears it.
    ///
    /// # Errors
    /// As of [`append`](Self::append).
    pub(crate) fn replace_all(&mut self, epoch: Epoch, new: Elements<'_>) -> Result<()> {
        self.check_same_form(new);
        let old_len = self.buffer.bytes().len() - LIST_HEADER_BYTES;
        self.buffer.splice(LIST_HEADER_BYTES, old_len, new.bytes.len())?;
        let bytes = self.buffer.bytes_mut();
        bytes[LIST_HEADER_BYTES..].copy_from_slice(new.bytes);
        let timed = get_u32(bytes, WORD_A_AT) & TIMED;
        put_u32(bytes, WORD_A_AT, timed | new.count);
        restate(bytes, epoch);
        Ok(())
    }

    /// Lets this epoch say the whole list again, in place of what tables have,
    /// so that a list of many small changes need not be put together from all
    /// of them.
    ///
    /// # Panics
    /// If older elements are still in tables.
    pub(crate) fn restate(&mut self, epoch: Epoch) {
        assert!(!self.list().is_tail(), "a list is restated only when it is whole");
        restate(self.buffer.bytes_mut(), epoch);
    }

    /// Puts in front what tables had of the list, oldest first, and with it the
    /// list is whole. That changes nothing which tables have to know.
    ///
    /// # Errors
    /// As of [`append`](Self::append).
    ///
    /// # Panics
    /// If the list is whole already.
    pub(crate) fn prepend_older(&mut self, older: &[Elements<'_>]) -> Result<()> {
        assert!(self.list().is_tail(), "only a tail has older elements");
        older.iter().for_each(|&older| self.check_same_form(older));
        let len: usize = older.iter().map(|older| older.bytes.len()).sum();
        check_elements_len(self.list().elements().bytes.len().saturating_add(len))?;
        self.buffer.splice(LIST_HEADER_BYTES, 0, len)?;

        let bytes = self.buffer.bytes_mut();
        let mut to = LIST_HEADER_BYTES;
        let mut count = 0;
        for older in older {
            bytes[to..to + older.bytes.len()].copy_from_slice(older.bytes);
            to += older.bytes.len();
            count += older.count;
        }
        let word = get_u32(bytes, WORD_A_AT);
        put_u32(bytes, WORD_A_AT, (word & !TAIL) + count);
        add_to(bytes, MARK_BYTES_AT, len as u32);
        add_to(bytes, MARK_ELEMENTS_AT, count);
        Ok(())
    }

    fn check_same_form(&self, elements: Elements<'_>) {
        assert_eq!(elements.timed, self.list().is_timed(), "lists of a state are timed or not");
    }
}

/// A list without elements that is not timed, of which the first epoch is `epoch`.
#[inline(always)]
pub(crate) fn empty(epoch: Epoch, start: Start) -> [u8; LIST_HEADER_BYTES] {
    let mut bytes = [0; LIST_HEADER_BYTES];
    put_header(&mut bytes, epoch, false, start);
    bytes
}

#[inline(always)]
fn put_header(bytes: &mut [u8], epoch: Epoch, timed: bool, start: Start) {
    let tail = if start == Start::Tail { TAIL } else { 0 };
    put_u32(bytes, WORD_A_AT, tail | if timed { TIMED } else { 0 });
    let replaced = if start == Start::Replacing { REPLACED } else { 0 };
    put_u32(bytes, WORD_B_AT, epoch.0 | replaced);
    put_u32(bytes, SINCE_AT, epoch.0);
}

/// Adds an element to a list that is not timed, of which the last
/// [`untimed_len`](super::elements::untimed_len) bytes were made for it.
#[inline(always)]
pub(crate) fn fill_last(bytes: &mut [u8], epoch: Epoch, value: &[u8]) {
    let at = bytes.len() - element_len(value, false);
    advance(bytes, epoch, at);
    put_element(&mut bytes[at..], value, false, NEVER);
    add_to(bytes, WORD_A_AT, 1);
}

/// Writes an element and returns what is behind it.
#[inline(always)]
fn put_element<'a>(bytes: &'a mut [u8], value: &[u8], timed: bool, stamp: u64) -> &'a mut [u8] {
    let mut rest = put_len(bytes, value.len());
    if timed {
        let (to, behind) = rest.split_at_mut(STAMP_BYTES);
        to.copy_from_slice(&stamp.to_le_bytes());
        rest = behind;
    } else {
        debug_assert_eq!(stamp, NEVER, "elements of this list have no stamps");
    }
    let (to, behind) = rest.split_at_mut(value.len());
    to.copy_from_slice(value);
    behind
}

/// Begins an epoch if this is its first change: what is there is old now.
#[inline(always)]
fn advance(bytes: &mut [u8], epoch: Epoch, end: usize) {
    if get_u32(bytes, WORD_B_AT) & !REPLACED != epoch.0 {
        let count = get_u32(bytes, WORD_A_AT) & COUNT;
        put_u32(bytes, WORD_B_AT, epoch.0);
        put_u32(bytes, MARK_BYTES_AT, (end - LIST_HEADER_BYTES) as u32);
        put_u32(bytes, MARK_ELEMENTS_AT, count);
    }
}

fn restate(bytes: &mut [u8], epoch: Epoch) {
    put_u32(bytes, WORD_B_AT, epoch.0 | REPLACED);
    put_u32(bytes, MARK_BYTES_AT, 0);
    put_u32(bytes, MARK_ELEMENTS_AT, 0);
}

#[inline(always)]
fn add_to(bytes: &mut [u8], at: usize, by: u32) {
    let sum = get_u32(bytes, at) + by;
    put_u32(bytes, at, sum);
}
