//! The largest things the engine accepts, each with the reason for its size.

use super::error::{Error, Result};

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

/// Most bytes of all operator states of a shard together: 256 MiB, each element,
/// key and value counted with its length.
///
/// They are written whole with every snapshot, into its manifest, and read whole
/// by every shard that is restored from it. A write that would exceed this is
/// refused. What a restore brings together from several shards may be larger; it
/// can then be read and made smaller, not larger.
pub const MAX_OPERATOR_STATE_BYTES: u64 = 256 * 1024 * 1024;

/// Refuses a key or namespace that is too long.
///
/// # Errors
/// `Invalid`, naming the limit.
#[inline]
pub fn check_key(key: &[u8], namespace: &[u8]) -> Result<()> {
    if key.len() <= MAX_KEY_BYTES && namespace.len() <= MAX_NAMESPACE_BYTES {
        return Ok(());
    }
    let (what, limit, found) = if key.len() > MAX_KEY_BYTES {
        ("the key is too long", MAX_KEY_BYTES, key.len())
    } else {
        ("the namespace is too long", MAX_NAMESPACE_BYTES, namespace.len())
    };
    Err(too_long(what, limit, found)
        .remedy("use a digest as the key and keep the rest in the value"))
}

/// Refuses a value that is too long.
///
/// # Errors
/// `Invalid`, naming the limit.
#[inline]
pub fn check_value(value: &[u8]) -> Result<()> {
    if value.len() <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(too_long("the value is too long", MAX_VALUE_BYTES, value.len())
        .remedy("split it over several keys"))
}

#[cold]
fn too_long(what: &str, limit: usize, found: usize) -> Error {
    Error::invalid(what)
        .expected(format_args!("at most {limit} bytes"))
        .found(format_args!("{found} bytes"))
}
