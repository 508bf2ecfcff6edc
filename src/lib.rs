//! Alluvium keeps the state of stream processors.

pub mod base;
pub mod env;
mod memtable;
