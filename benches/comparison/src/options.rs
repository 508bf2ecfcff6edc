//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::engines::{Compression, Kind, MAX_BATCH, Settings};
use crate::measures::spill::draw::Workload;

/// Alluvium beside RocksDB, fjall and hash maps: the same work, one run.
///
/// Figures are medians over rounds that alternate between the engines.
/// Without options each measure uses the sizes that README.md names.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) measure: Measure,

    /// Engines, separated by commas [default: all that were compiled in].
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) engines: Option<Vec<Kind>>,

    /// A run of seconds that shows that everything works; its figures mean little.
    #[arg(long, global = true)]
    pub(crate) quick: bool,

    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Where engines keep their files; must be on the disk to be measured.
    #[arg(long, global = true, default_value_os_t = std::env::temp_dir())]
    pub(crate) dir: PathBuf,

    /// Numbers of keys, separated by commas [default: the measure's].
    #[arg(long, global = true, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=2_000_000_000))]
    pub(crate) keys: Option<Vec<u64>>,

    /// Bytes per key: 8 or 16.
    #[arg(long, global = true, default_value_t = 16, value_parser = one_of(&[8, 16]))]
    pub(crate) key_bytes: usize,

    /// Bytes per value, separated by commas: 8, 32 or 100 [default: the measure's].
    #[arg(long, global = true, value_delimiter = ',', value_parser = one_of(&[8, 32, 100]))]
    pub(crate) value_bytes: Option<Vec<usize>>,

    /// Rounds per engine that count; one more goes first to warm up.
    #[arg(long, global = true)]
    pub(crate) rounds: Option<usize>,

    /// Length of one engine's round of `rmw`, `spill`, `reopen` and of the measures
    /// of kinds, in milliseconds.
    #[arg(long, global = true)]
    pub(crate) round_ms: Option<u64>,

    /// Keys per batch.
    #[arg(long, global = true, default_value_t = 32, value_parser = batch_size)]
    pub(crate) batch: usize,

    /// Milliseconds between checkpoints, separated by commas [default: 1000,10000].
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) interval_ms: Option<Vec<u64>>,

    /// Checkpoints per round of `checkpoint`; in all, of uploads in `spill`.
    #[arg(long, global = true)]
    pub(crate) checkpoints: Option<u64>,

    /// Snapshots that `pause` takes of each state.
    #[arg(long, global = true)]
    pub(crate) snapshots: Option<u64>,

    /// Operations between two snapshots of `pause`, or uploads of `spill`.
    #[arg(long, global = true)]
    pub(crate) dirty: Option<usize>,

    /// Distributions of the keys, separated by commas [default: both].
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) distribution: Option<Vec<crate::workload::Distribution>>,

    /// Memory of each engine in `spill`, `reopen` and `rescale`, in MiB [default: 256]. Its
    /// process may use a quarter more, file pages included (not in `rescale`).
    #[arg(long, global = true, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) budget_mb: Option<u64>,

    /// State of `spill` in multiples of that memory, separated by commas [default: 10].
    #[arg(long, global = true, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) times: Option<Vec<u64>>,

    /// Workloads of `spill`, separated by commas [default: all].
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) workload: Option<Vec<Workload>>,

    /// State of `reopen` and `rescale`, in MiB [default: 1024].
    #[arg(long, global = true, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) state_mb: Option<u64>,

    /// The memory cgroup below which `spill` and `reopen` make theirs [default:
    /// the one this program runs in].
    #[arg(long, global = true)]
    pub(crate) cgroup: Option<PathBuf>,

    /// Block cache and write buffers together, for RocksDB and fjall.
    #[arg(long, global = true, default_value_t = 512, value_parser = clap::value_parser!(u64).range(64..))]
    pub(crate) memory_mb: u64,

    /// Whether RocksDB and fjall keep Bloom filters.
    #[arg(long, global = true, default_value_t = true, action = ArgAction::Set)]
    pub(crate) bloom: bool,

    /// Have RocksDB copy the files of a checkpoint when it restores, not link them.
    #[arg(long, global = true, hide = true)]
    pub(crate) copied: bool,

    /// How Alluvium, RocksDB and fjall compress blocks.
    #[arg(long, global = true, default_value = "lz4")]
    pub(crate) compression: Compression,

    /// Threads that write Alluvium's checkpoints.
    #[arg(long, global = true, default_value_t = 1)]
    pub(crate) background_threads: usize,

    /// Has Alluvium sleep until what it needs of the disk is there, instead of looking again.
    #[arg(long, global = true)]
    pub(crate) without_polling: bool,

    /// Seed of everything random.
    #[arg(long, global = true, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// What can be measured.
#[derive(Subcommand, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Measure {
    /// Throughput of read-modify-write, one at a time and in batches.
    Rmw,
    /// Pauses, throughput and bytes with a checkpoint every interval.
    Checkpoint,
    /// Pauses of many checkpoints of small and large states.
    Pause,
    /// The time of each insert while the state grows.
    Grow,
    /// Resident memory per byte of state.
    Memory,
    /// Time to the first read and to all reads after a restore.
    Restore,
    /// Appending to lists and reading them.
    Lists,
    /// Scanning maps, getting and putting their entries.
    Maps,
    /// Windows that are added to, fired and purged, and what they leave behind.
    Windows,
    /// Timers that are registered and fired.
    Timers,
    /// What a namespace costs a value.
    Scopes,
    /// State larger than memory: speed, checkpoints, space.
    Spill,
    /// State larger than memory, restored: the time until it is fast again.
    Reopen,
    /// State of two shards, restored on three: the time until they work, and what it writes.
    Rescale,
    /// Everything above.
    All,
    /// One engine in a process of its own, for `memory`.
    #[command(hide = true)]
    MemoryChild {
        /// The engine.
        #[arg(long)]
        engine: Kind,
        /// Number of keys.
        #[arg(long)]
        keys: u64,
    },
    /// One shard in a process of its own, for `rescale`.
    #[command(hide = true)]
    RescaleChild {
        /// The engine.
        #[arg(long)]
        engine: Kind,
    },
    /// One engine in a process of its own, for `spill` and `reopen`.
    #[command(hide = true)]
    SpillChild {
        /// The engine.
        #[arg(long)]
        engine: Kind,
    },
}

impl Cli {
    /// The engines asked for, or all of them.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.engines.clone().unwrap_or_else(|| Kind::value_variants().to_vec())
    }

    /// The numbers of keys asked for, or those of the measure.
    pub(crate) fn keys_or(&self, full: &[u64], quick: &[u64]) -> Vec<u64> {
        let default = if self.quick { quick } else { full };
        self.keys.clone().unwrap_or_else(|| default.to_vec())
    }

    /// The value sizes asked for, or those of the measure.
    pub(crate) fn value_bytes_or(&self, full: &[usize], quick: &[usize]) -> Vec<usize> {
        let default = if self.quick { quick } else { full };
        self.value_bytes.clone().unwrap_or_else(|| default.to_vec())
    }

    /// The rounds asked for, or those of the measure.
    pub(crate) fn rounds_or(&self, full: usize) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { full }).max(1)
    }

    /// The distributions asked for, or both.
    pub(crate) fn distributions(&self) -> Vec<crate::workload::Distribution> {
        self.distribution.clone().unwrap_or_else(|| crate::workload::Distribution::ALL.to_vec())
    }

    /// Operations drawn per ring: enough that a turn of it is long.
    pub(crate) fn ring_length(&self) -> usize {
        if self.quick { 1 << 18 } else { 1 << 24 }
    }

    /// What engines are told.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            memory_bytes: self.memory_mb << 20,
            bloom: self.bloom,
            copied: self.copied,
            compression: self.compression,
            background_threads: self.background_threads,
            without_polling: self.without_polling,
            budget_bytes: None,
        }
    }

    /// Memory of each engine where the state is larger.
    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_mb.unwrap_or(if self.quick { 48 } else { 256 }) << 20
    }

    /// What engines are told where the state is larger than memory.
    pub(crate) fn settings_of_spill(&self) -> Settings {
        let budget_bytes = self.budget_bytes();
        Settings { memory_bytes: budget_bytes, budget_bytes: Some(budget_bytes), ..self.settings() }
    }
}

fn one_of(allowed: &'static [usize]) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        text.parse()
            .ok()
            .filter(|number| allowed.contains(number))
            .ok_or_else(|| format!("expected one of {allowed:?}"))
    }
}

fn batch_size(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|size| (1..=MAX_BATCH).contains(size))
        .ok_or_else(|| format!("expected 1 to {MAX_BATCH}"))
}
