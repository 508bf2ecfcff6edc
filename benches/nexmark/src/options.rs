//! What the command line says.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use nexmark_comparison::generate::Settings;
use nexmark_comparison::queries::Query;

/// NEXMark on timely dataflow, with state in Alluvium, hash maps and RocksDB.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Runs queries on stores, one after the other, and compares them.
    Run(Run),
}

/// What state is kept in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Store {
    /// Alluvium, with checkpoints.
    Alluvium,
    /// Hash maps, without.
    Map,
    /// RocksDB, without checkpoints.
    #[cfg(feature = "rocksdb")]
    Rocksdb,
}

impl Store {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Alluvium => "alluvium",
            Self::Map => "map",
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => "rocksdb",
        }
    }
}

#[derive(Args)]
pub(crate) struct Run {
    /// Which queries.
    #[arg(long, value_delimiter = ',', default_value = "0,4,5,7,8,11,18,20")]
    pub(crate) query: Vec<Query>,
    /// On which stores.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "alluvium,map")]
    pub(crate) store: Vec<Store>,
    /// How many events there are.
    #[arg(long, default_value_t = 2_000_000)]
    pub(crate) events: u64,
    /// Workers, all in this process.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Time between checkpoints, in milliseconds; 0 for none but the last.
    #[arg(long, default_value_t = 1000)]
    pub(crate) interval_ms: u64,
    /// The memory that state may have, in MiB: Alluvium's budget, RocksDB's cache and write
    /// buffers. Maps have no limit. Without it neither has Alluvium, and RocksDB has 512.
    #[arg(long)]
    pub(crate) memory_budget_mb: Option<u64>,
    /// Rounds that the stores take turns in; the median counts.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Splits of the source.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) splits: u32,
    /// Events in a second of event time.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// Auctions that are open at a time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) auctions_in_flight: u32,
    /// Persons that bid and sell at a time.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) active_people: u32,
    /// Groups of so many events come in an order of chance.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) disorder: u32,
    /// Records that a source reads before other operators have their turn.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: u32,
    /// Makes events while the queries run instead of before, when they do not fit memory.
    #[arg(long)]
    pub(crate) live: bool,
    /// Where results go, in `QUERY-STORE-ROUND` each; they are only counted without it.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Where checkpoints and working files go while it runs. Default: the system's
    /// temporary directory.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Run {
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            events: self.events,
            splits: self.splits,
            rate: self.rate as usize,
            auctions_in_flight: self.auctions_in_flight as usize,
            active_people: self.active_people as usize,
            disorder: self.disorder as usize,
            ..Settings::default()
        }
    }
}
