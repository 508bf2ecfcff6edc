//! Finding out whether a checkpoint is whole, and what is wrong if it is not.

use std::collections::BTreeSet;

use crate::base::{Error, ErrorKind, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::manifest::TableRef;
use crate::restore::read_manifest;
use crate::snapshot::sink::SnapshotSource;
use crate::table::TableReader;

/// How closely a checkpoint is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Depth {
    /// Manifests are read, and of each table its ends, index and filter.
    #[default]
    Shallow,
    /// Every byte of every table is read as well, twice.
    Deep,
}

/// Something that is wrong with a checkpoint.
#[derive(Debug)]
pub struct Problem {
    /// The object that is concerned.
    pub location: String,
    /// What is wrong. `Unavailable` means that nobody knows yet.
    pub error: Error,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Manifests and tables that were looked at.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong; nothing if the checkpoint can be restored.
    pub problems: Vec<Problem>,
}

impl Verified {
    /// Whether the checkpoint can be restored, as far as was looked.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }

    fn note(&mut self, location: &str, outcome: Result<()>) {
        self.files += 1;
        if let Err(error) = outcome {
            self.problems.push(Problem { location: location.to_owned(), error });
        }
    }
}

/// Looks at everything that a checkpoint needs, and goes on where something is wrong.
/// `progress` is told after each file how many were looked at, and their bytes.
pub fn verify(
    checkpoint: &Checkpoint,
    source: &dyn SnapshotSource,
    depth: Depth,
    progress: &mut dyn FnMut(usize, u64),
) -> Verified {
    let mut found = Verified::default();
    // Shards may share tables.
    let mut seen = BTreeSet::new();
    for shard in &checkpoint.shards {
        let handle = &shard.handle;
        match read_manifest(source, handle) {
            Ok(manifest) => {
                found.bytes += handle.manifest_bytes();
                found.note(handle.manifest(), Ok(()));
                progress(found.files, found.bytes);
                for table in &manifest.tables {
                    if seen.insert(table.location.clone()) {
                        let outcome = verify_table(table, source, depth);
                        found.bytes += table.meta.bytes;
                        found.note(&table.location, outcome);
                        progress(found.files, found.bytes);
                    }
                }
            }
            Err(error) => found.note(handle.manifest(), Err(error)),
        }
    }
    found
}

fn verify_table(table: &TableRef, source: &dyn SnapshotSource, depth: Depth) -> Result<()> {
    let bytes = source.open(&table.location)?;
    let reader = TableReader::open(bytes, &table.meta)?;
    match depth {
        Depth::Shallow => Ok(()),
        Depth::Deep => reader.verify(),
    }
}

/// Whether anything that was found is positively wrong, not just out of reach.
pub fn is_damaged(found: &Verified) -> bool {
    found.problems.iter().any(|problem| problem.error.kind() != ErrorKind::Unavailable)
}
