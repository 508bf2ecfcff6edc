//! A snapshot handle: what a runtime keeps of a snapshot in its own checkpoint,
//! and gives back to restore it.
//!
//! ```text
//! handle:  an envelope (see envelope.rs), magic "ALVHANDL", around
//!          | snapshot u64 | max_parallelism u16 | first group u16 | last group u16 |
//!          | manifest_bytes u64 | manifest_hash u128 | operator | store | manifest |
//! ```
//!
//! `operator`, `store` and `manifest` are a varint length and UTF-8.

use super::envelope::Envelope;
use super::manifest::{MAX_LOCATION_BYTES, MAX_OPERATOR_BYTES, Manifest, encode_bytes};
use super::properties::{
    decode_groups, decode_max_parallelism, encode_groups, encode_max_parallelism,
};
use crate::base::checksum::{ContentHash, of_contents};
use crate::base::{Error, KeyGroupRange, MaxParallelism, Result, SnapshotId};

/// Longest identity text of a store, in bytes.
pub const MAX_STORE_BYTES: usize = 4096;

const ENVELOPE: Envelope = Envelope { what: "snapshot handle", magic: *b"ALVHANDL", version: 1 };

/// Finds and recognises the manifest of one shard's snapshot.
///
/// Small (a few hundred bytes), made to be stored by the runtime and shown in
/// its logs. It holds no secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHandle {
    snapshot: SnapshotId,
    operator: String,
    groups: KeyGroupRange,
    max_parallelism: MaxParallelism,
    store: String,
    manifest: String,
    manifest_bytes: u64,
    manifest_hash: ContentHash,
}

impl SnapshotHandle {
    /// The handle of a manifest whose `encoded` bytes lie in `store` under the
    /// object name `location`.
    ///
    /// # Errors
    /// `Invalid` if a text is too long, or a name empty.
    pub fn new(manifest: &Manifest, encoded: &[u8], store: &str, location: &str) -> Result<Self> {
        for (what, text, least, most) in [
            ("operator", manifest.operator.as_str(), 1, MAX_OPERATOR_BYTES),
            ("store", store, 0, MAX_STORE_BYTES),
            ("manifest name", location, 1, MAX_LOCATION_BYTES),
        ] {
            if !(least..=most).contains(&text.len()) {
                return Err(Error::invalid(format_args!("{what} does not fit a snapshot handle"))
                    .expected(format_args!("{least} to {most} bytes"))
                    .found(text.len()));
            }
        }
        Ok(Self {
            snapshot: manifest.snapshot,
            operator: manifest.operator.clone(),
            groups: manifest.groups,
            max_parallelism: manifest.max_parallelism,
            store: store.to_owned(),
            manifest: location.to_owned(),
            manifest_bytes: encoded.len() as u64,
            manifest_hash: of_contents(encoded),
        })
    }

    /// The bytes of the handle.
    pub fn encode(&self) -> Vec<u8> {
        let sealed = ENVELOPE.seal(|out| {
            out.extend_from_slice(&self.snapshot.0.to_le_bytes());
            encode_max_parallelism(self.max_parallelism, out);
            encode_groups(self.groups, out);
            out.extend_from_slice(&self.manifest_bytes.to_le_bytes());
            out.extend_from_slice(&self.manifest_hash.0.to_le_bytes());
            encode_bytes(self.operator.as_bytes(), out);
            encode_bytes(self.store.as_bytes(), out);
            encode_bytes(self.manifest.as_bytes(), out);
            Ok(())
        });
        sealed.expect("texts were bounded when the handle was made, far below 4 GiB")
    }

    /// Reads a handle.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not a handle, `Incompatible` if they are one
    /// of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = ENVELOPE.open(bytes)?;
        let snapshot = SnapshotId(reader.u64("snapshot")?);
        let max_parallelism = decode_max_parallelism(&mut reader)?;
        let groups = decode_groups(&mut reader, max_parallelism.all_groups())?;
        let manifest_bytes = reader.u64("manifest bytes")?;
        let manifest_hash = ContentHash(reader.u128("manifest hash")?);
        let operator = reader.str("operator", MAX_OPERATOR_BYTES)?.to_owned();
        let store = reader.str("store", MAX_STORE_BYTES)?.to_owned();
        let manifest = reader.str("manifest name", MAX_LOCATION_BYTES)?.to_owned();
        if operator.is_empty() || manifest.is_empty() {
            return Err(reader.corrupt("names", "an operator and a manifest", "nothing"));
        }
        reader.finish()?;
        Ok(Self {
            snapshot,
            operator,
            groups,
            max_parallelism,
            store,
            manifest,
            manifest_bytes,
            manifest_hash,
        })
    }

    /// The snapshot.
    pub fn snapshot(&self) -> SnapshotId {
        self.snapshot
    }

    /// Name of the operator whose state it is.
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// The key groups of the shard.
    pub fn groups(&self) -> KeyGroupRange {
        self.groups
    }

    /// Number of key groups of the job.
    pub fn max_parallelism(&self) -> MaxParallelism {
        self.max_parallelism
    }

    /// The store's own words for what it is, for people. May be empty.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// Object name of the manifest.
    pub fn manifest(&self) -> &str {
        &self.manifest
    }

    /// Length of the manifest.
    pub fn manifest_bytes(&self) -> u64 {
        self.manifest_bytes
    }

    /// Hash of the manifest.
    pub fn manifest_hash(&self) -> ContentHash {
        self.manifest_hash
    }

    /// Checks that `bytes` are the manifest that was meant, and reads it.
    ///
    /// # Errors
    /// `Corrupt` if they are not; what [`Manifest::decode`] returns.
    pub fn open_manifest(&self, bytes: &[u8]) -> Result<Manifest> {
        let found = of_contents(bytes);
        if bytes.len() as u64 != self.manifest_bytes
            || !super::frame::checksum_matches(found, self.manifest_hash)
        {
            return Err(Error::corrupt("not the manifest that the snapshot handle names")
                .at(format_args!("object {}", self.manifest))
                .expected(format_args!(
                    "{} bytes, hash {}",
                    self.manifest_bytes, self.manifest_hash
                ))
                .found(format_args!("{} bytes, hash {found}", bytes.len()))
                .remedy("restore from another copy, or from an older checkpoint"));
        }
        Manifest::decode(bytes).map_err(|error| error.at(format_args!("object {}", self.manifest)))
    }
}
