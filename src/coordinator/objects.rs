//! Reading and creating the small objects of a job, whole and without doubt.

use crate::base::{Error, ErrorKind, Result};
use crate::object::{ObjectName, ObjectStore};

/// Longest object that is read whole, in bytes: metadata of a million shards is less.
const MAX_OBJECT_BYTES: u64 = 2 << 30;

/// The bytes of an object; `None` if the store positively does not have it.
///
/// # Errors
/// `Unavailable` if the store cannot tell, `Corrupt` if no sound object is so large.
pub(super) fn read(store: &dyn ObjectStore, name: &ObjectName) -> Result<Option<Vec<u8>>> {
    let Some(len) = store.len_of(name)? else { return Ok(None) };
    let object = match store.open(name) {
        Ok(object) => object,
        // It has gone since.
        Err(error) if error.kind() == ErrorKind::Corrupt && store.len_of(name)?.is_none() => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if len > MAX_OBJECT_BYTES {
        return Err(Error::corrupt("an object is too large to be metadata")
            .at(name)
            .expected(format_args!("at most {MAX_OBJECT_BYTES} bytes"))
            .found(format_args!("{len} bytes"))
            .remedy("put it back from a copy"));
    }
    let mut bytes = vec![0; object.len().min(MAX_OBJECT_BYTES) as usize];
    object
        .read_at(0, &mut bytes)
        .map_err(|source| Error::io("an object could not be read", source).at(name))?;
    Ok(Some(bytes))
}

/// What came of an attempt to create an object.
#[derive(Debug)]
pub(super) enum Created {
    /// It is there, with these bytes, by this attempt or an earlier one.
    Ours,
    /// An object of this name is there, with other bytes.
    Others(Vec<u8>),
}

/// Creates an object, or finds that it is there. An attempt whose outcome is not known
/// is repeated with the same bytes, and what is there read back.
///
/// # Errors
/// `Unavailable` if the store fails; [ambiguous](Error::may_have_happened) if the object
/// may be there nevertheless, or may yet come to be.
pub(super) fn create(store: &dyn ObjectStore, name: &ObjectName, bytes: &[u8]) -> Result<Created> {
    const ATTEMPTS: usize = 3;
    let mut in_doubt = false;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let Err(error) = store.create(name, bytes) else { return Ok(Created::Ours) };
        let exists = error.kind() == ErrorKind::Invalid;
        in_doubt |= error.may_have_happened();
        if !exists && !in_doubt {
            return Err(error);
        }
        match read(store, name) {
            Ok(Some(found)) if found == bytes => return Ok(Created::Ours),
            Ok(Some(found)) => return Ok(Created::Others(found)),
            Ok(None) if attempt < ATTEMPTS => {}
            // It was there and has gone again, or may yet come.
            Ok(None) => {
                return Err(Error::unavailable("an object could not be created")
                    .source(error)
                    .ambiguous());
            }
            // Whose it is that is there cannot be told now.
            Err(unread) => {
                return Err(Error::unavailable("a new object could not be read back")
                    .source(unread)
                    .ambiguous());
            }
        }
    }
}
