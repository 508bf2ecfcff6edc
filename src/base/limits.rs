//! The largest things the engine accepts, each with the reason for its size.

/// Longest key, in bytes: 64 KiB.
///
/// A key is hashed and compared on every access and is stored beside its
/// value; a longer one is a document, and belongs in the value.
pub const MAX_KEY_BYTES: usize = 64 * 1024;

/// Longest namespace, in bytes: 64 KiB, for the same reason as a key.
pub const MAX_NAMESPACE_BYTES: usize = 64 * 1024;

/// Longest value, in bytes: 1 GiB.
///
/// A record lives in one piece in memory and in one block in a table, so both
/// must be able to hold it whole.
pub const MAX_VALUE_BYTES: usize = 1 << 30;

/// Longest name of a state, in bytes. Names are stored once per table.
pub const MAX_STATE_NAME_BYTES: usize = 1024;

/// Most bytes a runtime may attach to one snapshot (source offsets, watermark,
/// sink commit data).
pub const MAX_USER_META_BYTES: usize = 16 * 1024 * 1024;
