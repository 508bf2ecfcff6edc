//! Records that are computed.

use alluvium::Result;
use timely::ExchangeData;

use super::{Next, Reader, Source};

/// Records that a function makes of a split's number and the record's number in it. The
/// function must give the same each time.
#[derive(Clone, Debug)]
pub struct Generator<F> {
    splits: u32,
    make: F,
}

impl<F> Generator<F> {
    /// `make` is given the split and the number of the record, both from 0, and ends the
    /// split with `None`.
    pub fn new<T>(splits: u32, make: F) -> Self
    where
        F: Fn(u32, u64) -> Option<T> + Clone + 'static,
    {
        Self { splits: splits.max(1), make }
    }
}

impl<T, F> Source for Generator<F>
where
    T: ExchangeData,
    F: Fn(u32, u64) -> Option<T> + Clone + 'static,
{
    type Item = T;
    type Reader = Generated<F>;

    fn splits(&self) -> Result<u32> {
        Ok(self.splits)
    }

    fn open(&self, split: u32, position: Option<u64>) -> Result<Generated<F>> {
        Ok(Generated { split, next: position.unwrap_or(0), make: self.make.clone() })
    }
}

/// Reads a split of a [`Generator`].
#[derive(Clone, Debug)]
pub struct Generated<F> {
    split: u32,
    next: u64,
    make: F,
}

impl<T, F> Reader for Generated<F>
where
    F: Fn(u32, u64) -> Option<T> + 'static,
{
    type Item = T;

    fn next(&mut self) -> Result<Next<T>> {
        let Some(record) = (self.make)(self.split, self.next) else { return Ok(Next::End) };
        self.next += 1;
        Ok(Next::Record(record))
    }

    fn position(&self) -> u64 {
        self.next
    }
}
