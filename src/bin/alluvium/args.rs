//! What the tool may be asked, and the help that says so.

use clap::{Args, Parser, Subcommand};

use crate::out::Format;

const EXIT_CODES: &str = "\
STORE is a directory or a file:// URL: a checkpoint store, or, where reading is enough,
a savepoint that was exported. `list`, `show`, `states`, `scan` and `verify` also take a
canonical savepoint: a file, or - for the standard input.

Built with the feature object-store, STORE, and the folder of a savepoint, may also be
s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX; with the feature hdfs
hdfs://NAME_NODE:PORT/PREFIX. Credentials come from the environment: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL (and AWS_ALLOW_HTTP=true for one
without encryption), GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_NAME,
AZURE_STORAGE_ACCOUNT_KEY and so on. With --job a store is not listed to find the job.

Data goes to the standard output, everything else to the standard error output. With
--format json each verb writes one JSON value; `scan` and `diff --records` write one a line.
Sizes are in bytes, times in milliseconds since 1970.

Exit codes:
  0  fine
  1  wrong usage, or something is asked for that is not there
  2  something is damaged; a check failed
  3  the store cannot be reached, or nobody answered in time
  4  refused because incompatible: another format version, other key groups
  5  get: there is no such key
  6  a mistake in alluvium itself: please report it";

/// Looks into Alluvium's checkpoint stores, without the job or its code.
#[derive(Parser, Debug)]
#[command(name = "alluvium", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// Tables are for people, JSON is for scripts.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// List the jobs of a store, their checkpoints and savepoints.
    List(List),
    /// Show one checkpoint: operators, shards, states, costs.
    Show(Show),
    /// List the files of a checkpoint, and who shares them.
    Files(Files),
    /// List the states of a checkpoint: schemas, records, bytes.
    States(States),
    /// Show what a state has for one key.
    Get(Get),
    /// Show the records of a state, key group by key group.
    Scan(Scan),
    /// Show in which records two checkpoints differ.
    Diff(Diff),
    /// Find out whether a checkpoint is whole.
    Verify(Verify),
    /// Have a checkpoint taken now.
    Checkpoint(Checkpoint),
    /// Take a savepoint now, or keep a checkpoint as one.
    Savepoint(Savepoint),
    /// Give up a savepoint.
    Dispose(Dispose),
    /// Copy a checkpoint into a folder of its own, or into one canonical stream.
    Export(Export),
    /// Copy an exported savepoint into a job's store.
    Import(Import),
    /// Copy an exported savepoint, or prove that a moved one is whole.
    Relocate(Relocate),
    /// List, and delete, what no checkpoint needs.
    Gc(Gc),
    /// Show what each subtask would read if the operator ran on another number of them.
    Rescale(Rescale),
    /// Say which format versions are stored, and rewrite older ones.
    Upgrade(Upgrade),
    /// Divide the keys among another number of key groups, as a new savepoint.
    Migrate(Migrate),
}

/// Which job of a store.
#[derive(Args, Debug, Clone)]
pub(crate) struct OfJob {
    /// The checkpoint store: a directory or a URL.
    pub(crate) store: String,
    /// The job, if the store has several.
    #[arg(long, value_name = "NAME")]
    pub(crate) job: Option<String>,
}

/// Which checkpoint.
#[derive(Args, Debug, Clone)]
pub(crate) struct At {
    #[command(flatten)]
    pub(crate) of: OfJob,
    /// The completed checkpoint of this number, instead of the latest.
    #[arg(long, value_name = "ID", conflicts_with = "savepoint")]
    pub(crate) checkpoint: Option<u64>,
    /// The savepoint of this name, instead of the latest checkpoint.
    #[arg(long, value_name = "NAME")]
    pub(crate) savepoint: Option<String>,
}

/// Doing something that changes the store.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Change {
    /// Do it. Without this the tool only says what it would do.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) of: OfJob,
    /// Also what came of the last checkpoints, failures included.
    #[arg(long)]
    pub(crate) history: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) at: At,
}

#[derive(Args, Debug)]
pub(crate) struct Files {
    #[command(flatten)]
    pub(crate) at: At,
}

#[derive(Args, Debug)]
pub(crate) struct States {
    #[command(flatten)]
    pub(crate) at: At,
    /// Only this operator.
    #[arg(long, value_name = "NAME")]
    pub(crate) operator: Option<String>,
    /// Also how the bytes are spread over the key groups, by the tables' indexes.
    #[arg(long)]
    pub(crate) key_groups: bool,
}

/// Which state, and how it is shown.
#[derive(Args, Debug, Clone)]
pub(crate) struct OfState {
    /// The operator; the only one if it has no rival.
    #[arg(long, value_name = "NAME")]
    pub(crate) operator: Option<String>,
    /// The state.
    #[arg(long, value_name = "NAME")]
    pub(crate) state: String,
    /// Also what has expired and is still stored.
    #[arg(long)]
    pub(crate) expired: bool,
    /// Show values in full, however long they are. (JSON always does.)
    #[arg(long)]
    pub(crate) full: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) of: OfState,
    /// The key, as its codec shows it: a number, a text, 0x.. for bytes, JSON for tuples.
    #[arg(required_unless_present = "key_hex", allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
    /// The key's bytes, in hexadecimal.
    #[arg(long, value_name = "HEX", conflicts_with = "key")]
    pub(crate) key_hex: Option<String>,
    /// Only this namespace, as its codec shows it; without this, all of the key's.
    #[arg(long, allow_hyphen_values = true, conflicts_with = "namespace_hex")]
    pub(crate) namespace: Option<String>,
    /// The namespace's bytes, in hexadecimal.
    #[arg(long, value_name = "HEX")]
    pub(crate) namespace_hex: Option<String>,
    /// The key group, if the runtime puts keys elsewhere than their hashes say.
    #[arg(long, value_name = "N")]
    pub(crate) group: Option<u16>,
}

#[derive(Args, Debug)]
pub(crate) struct Scan {
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) of: OfState,
    /// Stop after so many records.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Only these key groups: A-B, or one.
    #[arg(long, value_name = "A-B")]
    pub(crate) groups: Option<String>,
    /// Only keys whose bytes begin with this text.
    #[arg(long, value_name = "TEXT", conflicts_with = "prefix_hex")]
    pub(crate) prefix: Option<String>,
    /// Only keys whose bytes begin with these, in hexadecimal.
    #[arg(long, value_name = "HEX")]
    pub(crate) prefix_hex: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Diff {
    #[command(flatten)]
    pub(crate) of: OfJob,
    /// The earlier one: the number of a checkpoint, or the name of a savepoint.
    pub(crate) before: String,
    /// The later one.
    pub(crate) after: String,
    /// Only this operator.
    #[arg(long, value_name = "NAME")]
    pub(crate) operator: Option<String>,
    /// Only this state.
    #[arg(long, value_name = "NAME")]
    pub(crate) state: Option<String>,
    /// Also the records.
    #[arg(long)]
    pub(crate) records: bool,
    /// Show values in full, however long they are.
    #[arg(long)]
    pub(crate) full: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) at: At,
    /// Read every byte of every table.
    #[arg(long)]
    pub(crate) deep: bool,
    /// All checkpoints and savepoints of the job.
    #[arg(long, conflicts_with_all = ["checkpoint", "savepoint"])]
    pub(crate) all: bool,
}

/// Who writes the journal.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Writer {
    /// The job is stopped: take it over and do it here. If it runs after all, its
    /// coordinator is fenced and the job fails over.
    #[arg(long)]
    pub(crate) job_is_stopped: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    pub(crate) of: OfJob,
    /// Share no file with those before: costs the size of the state.
    #[arg(long)]
    pub(crate) full: bool,
    #[command(flatten)]
    pub(crate) change: Change,
    /// How long to wait for the job's coordinator, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) timeout: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Savepoint {
    #[command(flatten)]
    pub(crate) of: OfJob,
    /// The name of the savepoint.
    pub(crate) name: String,
    /// Keep this completed checkpoint under the name, instead of taking a new savepoint.
    #[arg(long, value_name = "ID")]
    pub(crate) checkpoint: Option<u64>,
    /// Share no file with the checkpoints before: costs the size of the state.
    #[arg(long, conflicts_with_all = ["checkpoint", "job_is_stopped"])]
    pub(crate) full: bool,
    /// Have the job put it straight into this place: a folder of its own, outside the job's
    /// store, that is empty or not there yet. The same path or URL must mean the same on
    /// every machine of the job. It comes out as an export does, self-contained, and is
    /// none of the job's afterwards. A job may not be built for it, and then refuses.
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["checkpoint", "full", "job_is_stopped"])]
    pub(crate) into: Option<String>,
    #[command(flatten)]
    pub(crate) writer: Writer,
    #[command(flatten)]
    pub(crate) change: Change,
    /// How long to wait for the job's coordinator, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) timeout: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Dispose {
    #[command(flatten)]
    pub(crate) of: OfJob,
    /// The name of the savepoint.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) writer: Writer,
    #[command(flatten)]
    pub(crate) change: Change,
    /// How long to wait for the job's coordinator, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) timeout: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) at: At,
    /// The folder: empty, or left by an export of the same that was cut short. Of a
    /// canonical savepoint the file, which must not exist, or - for the standard output.
    pub(crate) dest: String,
    /// Write a canonical savepoint: one portable stream, out of the engine's own layout.
    #[arg(long)]
    pub(crate) canonical: bool,
    /// Do not compress it.
    #[arg(long, requires = "canonical")]
    pub(crate) stored: bool,
    /// The directory for what does not fit into memory: about as much as the state.
    /// Without this it is a new one beside DEST, or the system's for temporary files if
    /// that is the standard output; it is removed again.
    #[arg(long, value_name = "DIR", requires = "canonical")]
    pub(crate) work: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) of: OfJob,
    /// The folder of the exported savepoint; of a canonical one the file, or - for the
    /// standard input.
    pub(crate) src: String,
    /// The name that the savepoint gets in the job.
    #[arg(long)]
    pub(crate) name: String,
    /// SRC is a canonical savepoint.
    #[arg(long)]
    pub(crate) canonical: bool,
    /// The number of shards that each operator is divided into. It can be restored on
    /// any other number.
    #[arg(long, value_name = "N", requires = "canonical", default_value_t = 1)]
    pub(crate) shards: u32,
    /// The number of key groups that each operator gets, instead of what it had.
    #[arg(long, value_name = "M", requires = "canonical")]
    pub(crate) max_parallelism: Option<u32>,
    /// The directory for what does not fit into memory: about as much as the state.
    /// Without this it is a new one in the system's directory for temporary files.
    #[arg(long, value_name = "DIR", requires = "canonical")]
    pub(crate) work: Option<String>,
    #[command(flatten)]
    pub(crate) writer: Writer,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Args, Debug)]
pub(crate) struct Relocate {
    /// The folder of the exported savepoint.
    pub(crate) src: String,
    /// Where to copy it. Without this it is only proved that SRC is whole where it is.
    pub(crate) dest: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Gc {
    #[command(flatten)]
    pub(crate) of: OfJob,
    #[command(flatten)]
    pub(crate) writer: Writer,
    #[command(flatten)]
    pub(crate) change: Change,
    /// Remove this pin, whose owner is gone, instead.
    #[arg(long, value_name = "NAME", conflicts_with = "job_is_stopped")]
    pub(crate) remove_pin: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Rescale {
    #[command(flatten)]
    pub(crate) at: At,
    /// The operator; the only one if it has no rival.
    #[arg(long, value_name = "NAME")]
    pub(crate) operator: Option<String>,
    /// The number of subtasks.
    #[arg(long, value_name = "N")]
    pub(crate) to: u32,
    /// Accepted for clarity: there is nothing to write. Restoring the checkpoint on that
    /// many shards does it.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also the files of each subtask. (JSON always has them.)
    #[arg(long)]
    pub(crate) files: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) rewritten: Rewritten,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// A savepoint that is made of all state of another checkpoint, written anew.
#[derive(Args, Debug)]
pub(crate) struct Rewritten {
    /// The name of the new savepoint.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The directory for a copy of the state, and what does not fit into memory: about
    /// twice the state. Without this it is a new one in the system's directory for
    /// temporary files.
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<String>,
    #[command(flatten)]
    pub(crate) writer: Writer,
}

#[derive(Args, Debug)]
pub(crate) struct Migrate {
    #[command(flatten)]
    pub(crate) at: At,
    /// The state.
    #[arg(long, value_name = "NAME")]
    pub(crate) state: Option<String>,
    /// The codec that its values should have.
    #[arg(long, value_name = "CODEC")]
    pub(crate) to_codec: Option<String>,
    /// The number of key groups that each operator gets. Refused if the runtime puts
    /// keys elsewhere than their hashes say.
    #[arg(long, value_name = "M", requires = "name")]
    pub(crate) max_parallelism: Option<u32>,
    #[command(flatten)]
    pub(crate) rewritten: Rewritten,
    #[command(flatten)]
    pub(crate) change: Change,
}
