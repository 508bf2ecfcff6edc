//! A job whose process is killed, for the test beside it: what it reads ([`input`]), what
//! it keeps in the engine ([`job`]), and what that should be ([`contents`]), worked out
//! with ordered maps and nothing of the engine. `src/main.rs` is the process.

pub mod contents;
pub mod input;
pub mod job;
