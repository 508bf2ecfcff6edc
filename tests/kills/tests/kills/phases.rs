//! What a system call is about, by its name, the path, and what the job's main thread said
//! that it does.

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    /// Opens a file that it may make or empty.
    Create,
    Write,
    Sync,
    /// Gives a file a name: a link, a rename.
    Name,
    Remove,
    MakeDir,
    Lock,
    /// Tells the test something.
    Say,
    /// Changes nothing.
    Other,
}

/// What a path is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Class {
    Journal,
    Metadata,
    Manifest,
    StoredTable,
    LocalTable,
    Temporary,
    Lock,
    Directory,
    Said,
    Elsewhere,
    Nothing,
}

impl Class {
    pub(crate) fn of(path: &str, verb: &Verb) -> Self {
        let in_job = path.strip_prefix("store/jobs/job/");
        match in_job {
            _ if *verb == Verb::MakeDir => Self::Directory,
            _ if path == "said" => Self::Said,
            _ if path.ends_with(".lock") || path.ends_with("/LOCK") => Self::Lock,
            _ if path.starts_with("store/.tmp/") => Self::Temporary,
            Some(name) if name.starts_with("journal/") => Self::Journal,
            Some(name) if name.starts_with("checkpoints/") => Self::Metadata,
            Some(name) if name.ends_with(".manifest") => Self::Manifest,
            Some(name) if name.ends_with(".table") => Self::StoredTable,
            None if path.ends_with(".table") => Self::LocalTable,
            // The job's directories and those above.
            _ if *verb == Verb::Sync => Self::Directory,
            _ => Self::Elsewhere,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal entry",
            Self::Metadata => "checkpoint's metadata",
            Self::Manifest => "manifest",
            Self::StoredTable => "stored table",
            Self::LocalTable => "local table",
            Self::Temporary => "temporary file",
            Self::Lock => "lock",
            Self::Directory => "directory",
            Self::Said => "line said",
            Self::Elsewhere => "thing elsewhere",
            Self::Nothing => "thing that stays as it is",
        }
    }
}

/// A part of the work, in words.
pub(crate) type Phase = &'static str;

pub(crate) const TAKEN_OVER: Phase = "journal: the job is taken over";
pub(crate) const COMPLETED: Phase = "journal: a checkpoint completes and subsumes the last one";
pub(crate) const DEAD_REMOVED: Phase = "restore: local tables of the dead are removed";
pub(crate) const SNAPSHOT_TABLE: Phase = "table of a snapshot: made, written, synced";
pub(crate) const SAID: Phase = "the test is told";

/// All that must be met before it can be said that a job was killed everywhere.
pub(crate) const ALL: [Phase; 27] = [
    "restore: calls that change nothing",
    "restore: directories are made",
    "restore: locks are taken",
    DEAD_REMOVED,
    TAKEN_OVER,
    SNAPSHOT_TABLE,
    "table of an early write or a merge: made, written, synced",
    "upload: a table gets its name in the store",
    "object: temporary file made, written, synced",
    "object: temporary name removed",
    "directory synced",
    "directory made",
    "manifest gets its name",
    "metadata gets its name",
    COMPLETED,
    "journal: a savepoint completes",
    "journal: a savepoint is disposed of",
    "journal: what is gone is forgotten",
    "journal: an old entry is removed",
    "collection: a table goes",
    "collection: a manifest goes",
    "collection: metadata goes",
    "local table removed",
    SAID,
    "at work: calls that change nothing",
    "at a snapshot: calls that change nothing",
    "journal: numbers of checkpoints are reserved",
];

pub(crate) fn phase_of(verb: Verb, class: Class, mark: &str) -> Phase {
    let restores = mark == "restore";
    match (verb, class) {
        (Verb::Say, _) => SAID,
        (Verb::Other, _) if restores => ALL[0],
        (Verb::Other, _) if mark == "snapshot" => ALL[25],
        (Verb::Other, _) => ALL[24],
        (Verb::MakeDir, _) if restores => ALL[1],
        (Verb::MakeDir, _) => ALL[11],
        (Verb::Lock, _) | (_, Class::Lock) => ALL[2],
        (Verb::Remove, Class::LocalTable) if restores => DEAD_REMOVED,
        (Verb::Remove, Class::LocalTable) => ALL[22],
        (_, Class::LocalTable) if mark == "snapshot" || mark == "savepoint" => SNAPSHOT_TABLE,
        (_, Class::LocalTable) => ALL[6],
        (Verb::Name, Class::StoredTable) => ALL[7],
        (Verb::Remove, Class::Temporary) => ALL[9],
        (_, Class::Temporary) => ALL[8],
        (Verb::Sync, _) => ALL[10],
        (Verb::Name, Class::Manifest) => ALL[12],
        (Verb::Name, Class::Metadata) => ALL[13],
        (Verb::Name, Class::Journal) => match mark {
            "restore" => TAKEN_OVER,
            "begin" => ALL[26],
            "savepoint" => ALL[15],
            "dispose" => ALL[16],
            "collect" => ALL[17],
            _ => COMPLETED,
        },
        (Verb::Remove, Class::Journal) => ALL[18],
        (Verb::Remove, Class::StoredTable) => ALL[19],
        (Verb::Remove, Class::Manifest) => ALL[20],
        (Verb::Remove, Class::Metadata) => ALL[21],
        _ => "something else",
    }
}
