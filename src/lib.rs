//! Alluvium keeps the state of stream processors.
#![doc = ""]

pub mod base;
pub mod codec;
pub mod env;
pub mod format;
pub mod table;
