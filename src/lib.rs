//! Alluvium keeps the state of stream processors.
#![doc = ""]

pub mod base;
pub mod env;
pub mod object;
