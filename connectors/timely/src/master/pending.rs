//! What has been heard of one checkpoint.

use std::collections::BTreeMap;

use alluvium::format::ShardAck;

use crate::control::mail::{Part, Plan, Position};
use crate::metadata::{Metadata, Origin, SourceMeta};

/// Gathers the parts of one checkpoint until all are there.
pub(crate) struct Pending {
    /// Reports that are still to come.
    missing: usize,
    acks: Vec<ShardAck>,
    /// By name: fingerprint and splits.
    sources: BTreeMap<String, (u64, BTreeMap<u32, Position>)>,
    sinks: BTreeMap<String, Vec<Part>>,
}

impl Pending {
    /// Each shard reports once, and each source and sink in each worker.
    pub(crate) fn new(plan: &Plan, shards: usize, workers: usize) -> Self {
        Self {
            missing: shards + (plan.sources.len() + plan.sinks.len()) * workers,
            acks: Vec::new(),
            sources: plan
                .sources
                .iter()
                .map(|(name, _, fingerprint)| (name.clone(), (*fingerprint, BTreeMap::new())))
                .collect(),
            sinks: plan.sinks.iter().map(|(name, _)| (name.clone(), Vec::new())).collect(),
        }
    }

    pub(crate) fn add_ack(&mut self, ack: ShardAck) {
        self.acks.push(ack);
        self.missing = self.missing.saturating_sub(1);
    }

    pub(crate) fn add_positions(&mut self, source: String, splits: Vec<(u32, Position)>) {
        self.sources.entry(source).or_default().1.extend(splits);
        self.missing = self.missing.saturating_sub(1);
    }

    pub(crate) fn add_parts(&mut self, sink: String, parts: Vec<Part>) {
        self.sinks.entry(sink).or_default().extend(parts);
        self.missing = self.missing.saturating_sub(1);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.missing == 0
    }

    pub(crate) fn take(self, origin: Origin) -> (Metadata, Vec<ShardAck>) {
        let source = |(name, (fingerprint, splits)): (_, (_, BTreeMap<u32, Position>))| {
            (name, SourceMeta { fingerprint, splits: splits.into_values().collect() })
        };
        let sources = self.sources.into_iter().map(source).collect();
        (Metadata { origin: Some(origin), sources, sinks: self.sinks }, self.acks)
    }
}
