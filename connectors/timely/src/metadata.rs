//! What the job keeps with a checkpoint beside its shards: how far its sources had been
//! read, which files its sinks are to commit, and where and when it was taken. The latter
//! stays as it was when a savepoint comes into a job from elsewhere, and so has a new number
//! there: the files of sinks have the old ones.
//!
//! ```text
//! | version u8: 2 | origin | sources | source ... | sinks | sink ... |
//! origin:  | job | store | life u64 | id u64 |          version 1 has none
//! source:  | name | fingerprint u64 | splits | split ... |       split n is the nth
//! split:   | at u64 | latest u64 | ended u8: 0 or 1 |
//! sink:    | name | parts | part ... |
//! part:    | pending | committed |
//! ```
//!
//! Names are a varint length and UTF-8, counts are varints, the rest is little-endian;
//! `latest` is the two's complement of a signed number. Alluvium's coordinator checks the
//! hash of it all.

use std::collections::BTreeMap;

use alluvium::codec::{Reader, varint};
use alluvium::format::Checkpoint;
use alluvium::{Error, Result};

use crate::control::mail::{Part, Position};

const VERSION: u8 = 2;
/// As it is without an origin.
const VERSION_1: u8 = 1;

/// Longest name of a source or a sink, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 256;
/// Most splits of a source.
pub(crate) const MAX_SPLITS: usize = 1 << 16;
const MAX_COUNT: usize = 1 << 20;
const SPLIT_BYTES: usize = 17;
/// Most bytes that are kept of the name of a job, or the identity of its store.
const MAX_ORIGIN_BYTES: usize = 1024;

/// How far the sources of a job had been read when a checkpoint was taken: the
/// [positions](crate::Reader::position) of their splits, by the name of the source.
///
/// For tools and people: whoever [views](alluvium::coordinator::JobView) the job can say
/// what a checkpoint covers. A restored job finds its places by itself.
///
/// # Errors
/// `Corrupt` if the job's part of the checkpoint cannot be read, `Incompatible` if another
/// runtime took the checkpoint.
pub fn source_positions(checkpoint: &Checkpoint) -> Result<BTreeMap<String, Vec<u64>>> {
    let Metadata { sources, .. } = Metadata::decode(&checkpoint.runtime)?;
    let positions = |source: SourceMeta| source.splits.iter().map(|split| split.at).collect();
    Ok(sources.into_iter().map(|(name, source)| (name, positions(source))).collect())
}

/// Where and when a checkpoint was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub(crate) job: String,
    /// The identity of the job's store.
    pub(crate) store: String,
    /// Which life of the job's coordinator it was.
    pub(crate) life: u64,
    /// The number that it had there.
    pub(crate) id: u64,
}

impl Origin {
    /// What the checkpoints of one life have in common.
    pub(crate) fn new(job: &str, store: &str, life: u64) -> Self {
        let kept = |text: &str| {
            let end = (0..=text.len().min(MAX_ORIGIN_BYTES)).rfind(|at| text.is_char_boundary(*at));
            text[..end.unwrap_or(0)].to_owned()
        };
        Self { job: kept(job), store: kept(store), life, id: 0 }
    }

    /// Whether another job took it, or one in another store.
    pub(crate) fn is_of_another_job(&self, own: &Self) -> bool {
        (&self.job, &self.store) != (&own.job, &own.store)
    }

    /// Whether a checkpoint that says this of itself has come from elsewhere since.
    pub(crate) fn is_adopted(&self, checkpoint: &Checkpoint) -> bool {
        let mut shards = checkpoint.shards.iter();
        (self.life, self.id) != (checkpoint.epoch, checkpoint.id.0)
            || shards.any(|shard| shard.handle.snapshot() != checkpoint.id)
    }
}

/// One source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SourceMeta {
    /// What the splits were then.
    pub(crate) fingerprint: u64,
    /// In their order.
    pub(crate) splits: Vec<Position>,
}

/// See the [module documentation](self).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Metadata {
    /// Nothing if it is of version 1.
    pub(crate) origin: Option<Origin>,
    /// By name.
    pub(crate) sources: BTreeMap<String, SourceMeta>,
    /// By name.
    pub(crate) sinks: BTreeMap<String, Vec<Part>>,
}

impl Metadata {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.origin {
            None => out.push(VERSION_1),
            Some(Origin { job, store, life, id }) => {
                out.push(VERSION);
                put_str(&mut out, job);
                put_str(&mut out, store);
                out.extend_from_slice(&life.to_le_bytes());
                out.extend_from_slice(&id.to_le_bytes());
            }
        }
        varint::put_u64(&mut out, self.sources.len() as u64);
        for (name, SourceMeta { fingerprint, splits }) in &self.sources {
            put_str(&mut out, name);
            out.extend_from_slice(&fingerprint.to_le_bytes());
            varint::put_u64(&mut out, splits.len() as u64);
            for Position { at, latest, ended } in splits {
                out.extend_from_slice(&at.to_le_bytes());
                out.extend_from_slice(&latest.to_le_bytes());
                out.push(u8::from(*ended));
            }
        }
        varint::put_u64(&mut out, self.sinks.len() as u64);
        for (name, parts) in &self.sinks {
            put_str(&mut out, name);
            varint::put_u64(&mut out, parts.len() as u64);
            for part in parts {
                put_str(&mut out, &part.pending);
                put_str(&mut out, &part.committed);
            }
        }
        out
    }

    /// # Errors
    /// `Corrupt` if the bytes are something else, `Incompatible` if another version wrote
    /// them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("the job's part of a checkpoint", bytes);
        let version = reader.u8("version")?;
        if ![VERSION_1, VERSION].contains(&version) {
            return Err(Error::incompatible(
                "the job's part of a checkpoint is of another version",
            )
            .expected(format_args!("{VERSION_1} or {VERSION}"))
            .found(version)
            .remedy("was the checkpoint taken by a job of another runtime?"));
        }
        let mut metadata = Self::default();
        if version == VERSION {
            metadata.origin = Some(Origin {
                job: reader.str("job", MAX_ORIGIN_BYTES)?.to_owned(),
                store: reader.str("store", MAX_ORIGIN_BYTES)?.to_owned(),
                life: reader.u64("life")?,
                id: reader.u64("number")?,
            });
        }
        for _ in 0..reader.count("sources", MAX_COUNT, 2)? {
            let name = reader.str("name of a source", MAX_NAME_BYTES)?.to_owned();
            let fingerprint = reader.u64("fingerprint")?;
            let splits = reader.count("splits", MAX_SPLITS, SPLIT_BYTES)?;
            let splits = (0..splits).map(|_| decode_split(&mut reader)).collect::<Result<_>>()?;
            metadata.sources.insert(name, SourceMeta { fingerprint, splits });
        }
        for _ in 0..reader.count("sinks", MAX_COUNT, 2)? {
            let name = reader.str("name of a sink", MAX_NAME_BYTES)?.to_owned();
            let parts = reader.count("parts", MAX_COUNT, 2)?;
            let parts = (0..parts)
                .map(|_| {
                    let pending = reader.str("pending name", MAX_NAME_BYTES)?.to_owned();
                    let committed = reader.str("committed name", MAX_NAME_BYTES)?.to_owned();
                    Ok(Part { pending, committed })
                })
                .collect::<Result<_>>()?;
            metadata.sinks.insert(name, parts);
        }
        reader.finish()?;
        Ok(metadata)
    }
}

fn decode_split(reader: &mut Reader<'_>) -> Result<Position> {
    let at = reader.u64("position")?;
    let latest = reader.u64("latest time")? as i64;
    let ended = match reader.u8("end")? {
        0 => false,
        1 => true,
        other => return Err(reader.corrupt("end", "0 or 1", other)),
    };
    Ok(Position { at, latest, ended })
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    varint::put_u64(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use alluvium::format::CheckpointKind;
    use alluvium::{ErrorKind, SnapshotId, SnapshotMode};

    use super::*;

    fn example() -> Metadata {
        let splits = vec![
            Position { at: 17, latest: -3, ended: false },
            Position { at: u64::MAX, latest: i64::MIN, ended: true },
        ];
        let part = Part { pending: "pending-1".to_owned(), committed: "part-7".to_owned() };
        Metadata {
            origin: Some(Origin { life: 3, id: 7, ..Origin::new("job", "local:/store", 0) }),
            sources: BTreeMap::from([
                ("lines".to_owned(), SourceMeta { fingerprint: 1 << 40, splits }),
                ("none".to_owned(), SourceMeta::default()),
            ]),
            sinks: BTreeMap::from([("files".to_owned(), vec![part])]),
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let of_version_1 = Metadata { origin: None, ..example() };
        for metadata in [Metadata::default(), of_version_1, example()] {
            assert_eq!(Metadata::decode(&metadata.encode()).unwrap(), metadata);
        }
    }

    #[test]
    fn whoever_reads_a_checkpoint_learns_where_its_sources_were_and_no_nonsense() {
        let mut checkpoint = Checkpoint {
            id: SnapshotId(7),
            epoch: 1,
            job: "job".to_owned(),
            kind: CheckpointKind::Checkpoint,
            mode: SnapshotMode::Incremental,
            triggered_unix_ms: 0,
            completed_unix_ms: 0,
            shards: Vec::new(),
            runtime: example().encode(),
        };
        let expected = [("lines".to_owned(), vec![17, u64::MAX]), ("none".to_owned(), Vec::new())];
        assert_eq!(source_positions(&checkpoint).unwrap(), BTreeMap::from(expected));
        checkpoint.runtime = Vec::new();
        assert_eq!(source_positions(&checkpoint).unwrap_err().kind(), ErrorKind::Corrupt);
        checkpoint.runtime = b"of another runtime".to_vec();
        assert_eq!(source_positions(&checkpoint).unwrap_err().kind(), ErrorKind::Incompatible);
    }

    #[test]
    fn no_prefix_and_no_flipped_bit_brings_the_decoder_down() {
        let bytes = example().encode();
        for end in 0..bytes.len() {
            assert!(Metadata::decode(&bytes[..end]).is_err(), "{end} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // It may mean something else; it must not panic, nor ask for much memory.
            let _ = Metadata::decode(&damaged);
        }
    }
}
