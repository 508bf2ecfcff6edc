//! The simulated disk: what the system shows, and what a power cut leaves.
//!
//! The rules are those that POSIX grants and no more, because that is what a
//! program may rely on across file systems:
//!
//! 1. Bytes are durable after `sync` of their file returned without error.
//! 2. Bytes that were unsynced when a `sync` failed may be lost even if a later
//!    `sync` succeeds: the kernel has marked their pages clean.
//! 3. A name is durable after `sync_dir` of its directory. Syncing the file
//!    does not help, and a new directory is itself a name in its parent.
//! 4. Until then every change of a name is kept or lost by itself, in any
//!    combination. A rename within one directory is one change; between two
//!    directories it is two.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::rng::SimRng;

/// What a power cut does to everything that was not made durable. What was
/// made durable survives in every mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashMode {
    /// All of it had reached the disk by chance: what a killed process leaves.
    KeepUnsynced,
    /// None of it had.
    DropUnsynced,
    /// Each write and each change of a name was kept or lost by itself. A lost
    /// write before a kept one reads as zeros.
    RandomSubset,
    /// Names changed in order up to some moment. Unsynced parts of files are
    /// cut at a sector or page, and what is left of them is right, zero or
    /// garbage, sector by sector.
    Torn,
}

impl CrashMode {
    /// Every mode, for tests to loop over.
    pub const ALL: [Self; 4] =
        [Self::KeepUnsynced, Self::DropUnsynced, Self::RandomSubset, Self::Torn];
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Durable,
    Unsynced,
    /// Unsynced when a sync failed: no later sync can save it.
    Doomed,
}

/// A stretch of a file, from where the one before it ends.
#[derive(Clone, Copy, Debug)]
struct Extent {
    end: usize,
    fate: Fate,
}

/// What an inode holds.
#[derive(Debug, Default)]
pub(super) struct FileData {
    bytes: Vec<u8>,
    /// One per unsynced write; durable neighbours are joined.
    extents: Vec<Extent>,
    pub(super) locked: bool,
}

impl FileData {
    /// A file that is durable as it stands.
    fn durable(bytes: Vec<u8>) -> Self {
        let extents = match bytes.len() {
            0 => Vec::new(),
            end => vec![Extent { end, fate: Fate::Durable }],
        };
        Self { bytes, extents, locked: false }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.bytes.extend_from_slice(bytes);
            self.extents.push(Extent { end: self.bytes.len(), fate: Fate::Unsynced });
        }
    }

    pub(super) fn sync(&mut self) {
        for extent in &mut self.extents {
            if extent.fate == Fate::Unsynced {
                extent.fate = Fate::Durable;
            }
        }
        self.extents.dedup_by(|next, kept| {
            let join = next.fate == Fate::Durable && kept.fate == Fate::Durable;
            if join {
                kept.end = next.end;
            }
            join
        });
    }

    pub(super) fn fail_to_sync(&mut self) {
        for extent in &mut self.extents {
            if extent.fate == Fate::Unsynced {
                extent.fate = Fate::Doomed;
            }
        }
    }

    pub(super) fn mutate(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::mem::take(&mut self.bytes);
        change(&mut bytes);
        *self = Self { locked: self.locked, ..Self::durable(bytes) };
    }

    /// The extents as ranges.
    fn ranges(&self) -> impl Iterator<Item = (std::ops::Range<usize>, Fate)> {
        self.extents.iter().scan(0, |start, extent| {
            let range = *start..extent.end;
            *start = extent.end;
            Some((range, extent.fate))
        })
    }

    /// The file as it may be found after a power cut now.
    fn after_crash(&self, mode: CrashMode, rng: &mut SimRng) -> Vec<u8> {
        match mode {
            CrashMode::KeepUnsynced => self.bytes.clone(),
            CrashMode::DropUnsynced => self.keeping(|| false),
            CrashMode::RandomSubset => {
                let mut bytes = self.keeping(|| rng.one_in(2));
                // The new size may reach the disk although the bytes did not.
                if rng.one_in(4) {
                    bytes.resize(self.bytes.len(), 0);
                }
                bytes
            }
            CrashMode::Torn => self.torn(rng),
        }
    }

    /// The durable extents and those of the others that `keep` wants, with
    /// zeros for what is missing between them.
    fn keeping(&self, mut keep: impl FnMut() -> bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (range, fate) in self.ranges() {
            if fate == Fate::Durable || keep() {
                bytes.resize(range.start, 0);
                bytes.extend_from_slice(&self.bytes[range]);
            }
        }
        bytes
    }

    fn torn(&self, rng: &mut SimRng) -> Vec<u8> {
        let sector = if rng.one_in(2) { 512 } else { 4096 };
        let durable_end = self
            .ranges()
            .filter(|(_, fate)| *fate == Fate::Durable)
            .map(|(range, _)| range.end)
            .max()
            .unwrap_or(0);
        let len = if rng.one_in(3) {
            self.bytes.len()
        } else {
            let spare = (self.bytes.len() - durable_end) as u64;
            let cut = durable_end + rng.below(spare + 1) as usize;
            (cut / sector * sector).max(durable_end)
        };
        let mut bytes = self.bytes[..len].to_vec();
        for (range, fate) in self.ranges() {
            if fate == Fate::Durable {
                continue;
            }
            let end = range.end.min(len);
            let mut start = range.start;
            while start < end {
                let next = ((start / sector + 1) * sector).min(end);
                match rng.below(4) {
                    0 => bytes[start..next].fill(0),
                    1 => rng.fill(&mut bytes[start..next]),
                    _ => {}
                }
                start = next;
            }
        }
        bytes
    }
}

/// What a name stands for.
#[derive(Clone, Debug)]
enum Node {
    File(Arc<Mutex<FileData>>),
    /// Its contents are found by its path, since directories never move.
    Dir,
}

/// Names set or removed together, not yet durable.
#[derive(Debug)]
struct Change {
    /// Position among all changes of all directories.
    order: u64,
    names: Vec<(String, Option<Node>)>,
}

#[derive(Debug, Default)]
struct Dir {
    live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<Change>,
}

impl Dir {
    fn change(&mut self, order: u64, names: Vec<(String, Option<Node>)>) {
        apply(&mut self.live, &names);
        self.pending.push(Change { order, names });
    }

    fn sync(&mut self) {
        self.durable = self.live.clone();
        self.pending.clear();
    }
}

fn apply(entries: &mut BTreeMap<String, Node>, names: &[(String, Option<Node>)]) {
    for (name, node) in names {
        match node {
            Some(node) => entries.insert(name.clone(), node.clone()),
            None => entries.remove(name),
        };
    }
}

/// All directories by path, with `/` always among them.
#[derive(Debug)]
pub(super) struct Disk {
    dirs: BTreeMap<PathBuf, Dir>,
    next_order: u64,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self { dirs: BTreeMap::from([(PathBuf::from("/"), Dir::default())]), next_order: 0 }
    }

    fn order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        if self.dirs.contains_key(path) {
            return Ok(self.dirs.get_mut(path).expect("just found"));
        }
        Err(match path.parent().map(|parent| self.node(parent, path)) {
            Some(Ok(Some(Node::File(_)))) => io::ErrorKind::NotADirectory.into(),
            Some(Err(error)) => error,
            _ => io::ErrorKind::NotFound.into(),
        })
    }

    /// What `path` stands for in its directory `parent`.
    fn node(&mut self, parent: &Path, path: &Path) -> io::Result<Option<Node>> {
        let name = name_of(path)?;
        Ok(self.dir(parent)?.live.get(&name).cloned())
    }

    fn lookup(&mut self, path: &Path) -> io::Result<Option<Node>> {
        match path.parent() {
            None => Ok(Some(Node::Dir)),
            Some(parent) => self.node(parent, path),
        }
    }

    /// The directory and name of a path that may become or cease to be a file.
    fn split(path: &Path) -> io::Result<(&Path, String)> {
        let parent = path.parent().ok_or(io::ErrorKind::IsADirectory)?;
        Ok((parent, name_of(path)?))
    }

    pub(super) fn file(&mut self, path: &Path) -> io::Result<Arc<Mutex<FileData>>> {
        match self.lookup(path)? {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn exists(&mut self, path: &Path) -> io::Result<bool> {
        Ok(self.lookup(path)?.is_some())
    }

    /// Which of `dir` and its parents have to be made, outermost first.
    pub(super) fn missing_dirs(&mut self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for path in dir.ancestors() {
            if self.dirs.contains_key(path) {
                break;
            }
            match self.lookup(path) {
                Ok(Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => missing.push(path.to_owned()),
            }
        }
        missing.reverse();
        Ok(missing)
    }

    pub(super) fn make_dir(&mut self, path: &Path) -> io::Result<()> {
        let (parent, name) = Self::split(path)?;
        let order = self.order();
        self.dir(parent)?.change(order, vec![(name, Some(Node::Dir))]);
        self.dirs.insert(path.to_owned(), Dir::default());
        Ok(())
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Arc<Mutex<FileData>>> {
        let file = Arc::default();
        self.add(path, Node::File(Arc::clone(&file)))?;
        Ok(file)
    }

    pub(super) fn link(&mut self, existing: &Path, new: &Path) -> io::Result<()> {
        let file = self.file(existing)?;
        self.add(new, Node::File(file))
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<()> {
        if self.lookup(path)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (parent, name) = Self::split(path)?;
        let order = self.order();
        self.dir(parent)?.change(order, vec![(name, Some(node))]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.file(from)?;
        match self.lookup(to)? {
            Some(Node::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            // Two names of one file: POSIX leaves both.
            Some(Node::File(other)) if Arc::ptr_eq(&file, &other) => return Ok(()),
            _ => {}
        }
        let ((from_dir, from_name), (to_dir, to_name)) = (Self::split(from)?, Self::split(to)?);
        let (set, unset) = ((to_name, Some(Node::File(file))), (from_name, None));
        let (first, second) = (self.order(), self.order());
        if from_dir == to_dir {
            self.dir(to_dir)?.change(first, vec![set, unset]);
        } else {
            self.dir(to_dir)?.change(first, vec![set]);
            self.dir(from_dir)?.change(second, vec![unset]);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let (parent, name) = Self::split(path)?;
        let order = self.order();
        self.dir(parent)?.change(order, vec![(name, None)]);
        Ok(())
    }

    /// Removes a name as if it had never been written.
    pub(super) fn lose(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let (parent, name) = Self::split(path)?;
        let dir = self.dir(parent)?;
        dir.live.remove(&name);
        dir.durable.remove(&name);
        for change in &mut dir.pending {
            change.names.retain(|(changed, _)| *changed != name);
        }
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        self.dir(path)?.sync();
        Ok(())
    }

    pub(super) fn list(&mut self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self.dir(path)?.live.keys().cloned().collect())
    }

    pub(super) fn all_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = self
            .dirs
            .iter()
            .flat_map(|(path, dir)| {
                dir.live
                    .iter()
                    .filter(|(_, node)| matches!(node, Node::File(_)))
                    .map(|(name, _)| path.join(name))
            })
            .collect();
        files.sort_unstable();
        files
    }

    /// A disk on which everything is durable, as this one may be found after
    /// a power cut now.
    pub(super) fn after_crash(&self, mode: CrashMode, rng: &mut SimRng) -> Self {
        let mut orders: Vec<u64> =
            self.dirs.values().flat_map(|dir| &dir.pending).map(|change| change.order).collect();
        orders.sort_unstable();
        // In `Torn` mode, the last change of a name that was kept.
        let last_kept = match rng.below(orders.len() as u64 + 1) {
            0 => 0,
            n => orders[n as usize - 1],
        };
        let mut image = Self { dirs: BTreeMap::new(), next_order: self.next_order };
        // Keyed by address and only ever looked up: two names of one file stay
        // two names of one file.
        let mut files: BTreeMap<usize, Arc<Mutex<FileData>>> = BTreeMap::new();
        let mut paths = vec![PathBuf::from("/")];
        while let Some(path) = paths.pop() {
            let dir = &self.dirs[&path];
            let mut entries = dir.durable.clone();
            for change in &dir.pending {
                let keep = match mode {
                    CrashMode::KeepUnsynced => true,
                    CrashMode::DropUnsynced => false,
                    CrashMode::RandomSubset => rng.one_in(2),
                    CrashMode::Torn => change.order <= last_kept,
                };
                if keep {
                    apply(&mut entries, &change.names);
                }
            }
            for (name, node) in &mut entries {
                match node {
                    Node::Dir => paths.push(path.join(name)),
                    Node::File(file) => {
                        let found = files.entry(Arc::as_ptr(file).addr()).or_insert_with(|| {
                            let bytes = file.lock().after_crash(mode, rng);
                            Arc::new(Mutex::new(FileData::durable(bytes)))
                        });
                        *file = Arc::clone(found);
                    }
                }
            }
            let found = Dir { live: entries.clone(), durable: entries, pending: Vec::new() };
            image.dirs.insert(path, found);
        }
        image
    }
}

fn name_of(path: &Path) -> io::Result<String> {
    path.file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned)
        .ok_or_else(|| io::ErrorKind::InvalidFilename.into())
}

/// Refuses paths that are not absolute, or that take detours: on a real system
/// they depend on the working directory and on links.
pub(super) fn check(path: &Path) -> io::Result<&Path> {
    let mut parts = path.components();
    let absolute = parts.next() == Some(Component::RootDir);
    if absolute && parts.all(|part| matches!(part, Component::Normal(_))) {
        Ok(path)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the simulated file system takes absolute paths without dots",
        ))
    }
}

/// The path without its dots.
pub(super) fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}
