//! Typed views of keyed state, and of operator states.
//!
//! A typed state is a small handle: the number of the state in its shard, and
//! the codecs. It holds no reference to the shard, which every call is given;
//! so it can live in the user's struct beside the shard, without a lifetime.
//!
//! Methods whose names end in `_in` are given a namespace (a window, say), the
//! others are for states without. Codecs and functions of the user run before
//! anything is written: if one of them fails or panics, the error names the
//! state, which is then as it was.

mod aggregating;
mod broadcast;
mod keyed;
mod list;
mod map;
mod operator;
mod options;
mod reducing;
mod rekey;
mod timers;
mod value;

pub use self::aggregating::{Aggregate, AggregatingState};
pub use self::broadcast::BroadcastState;
pub use self::list::ListState;
pub use self::map::MapState;
pub use self::operator::OperatorListState;
pub use self::options::StateOptions;
pub use self::reducing::ReducingState;
pub use self::timers::{Timer, Timers};
pub use self::value::ValueState;
