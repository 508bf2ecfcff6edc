//! Typed views of keyed state.
//!
//! A typed state is a small handle: the number of the state in its shard, and
//! the codecs. It holds no reference to the shard, which every call is given;
//! so it can live in the user's struct beside the shard, without a lifetime.

mod timers;
mod value;

pub use self::timers::{Timer, Timers};
pub use self::value::ValueState;
