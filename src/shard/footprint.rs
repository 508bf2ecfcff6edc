//! What a shard's own memory comes to, where the backend can see it.
//!
//! The task thread says so from time to time: at every freeze, with every view of its
//! tables, when it lets records go, and with a budget as soon as it is another by
//! [`STEP_BYTES`].

use std::sync::Arc;

use super::ShardCore;
use crate::env::ledger::{Charge, MemoryComponent, MemoryLedger};

/// What memory may be another by until it is said.
pub(super) const STEP_BYTES: u64 = 64 << 10;

/// The charges of a shard.
pub(super) struct Footprint {
    records: Charge,
    gaps: Charge,
    indexes: Charge,
    queues: Charge,
    operator: Charge,
}

impl Footprint {
    pub(super) fn new(ledger: &Arc<MemoryLedger>) -> Self {
        let charge = |component| ledger.charge(component, 0);
        Self {
            records: charge(MemoryComponent::Records),
            gaps: charge(MemoryComponent::Gaps),
            indexes: charge(MemoryComponent::Indexes),
            queues: charge(MemoryComponent::Queues),
            operator: charge(MemoryComponent::OperatorStates),
        }
    }

    /// What was said last, in all.
    pub(super) fn said_bytes(&self) -> u64 {
        let Self { records, gaps, indexes, queues, operator } = self;
        [records, gaps, indexes, queues, operator].iter().map(|charge| charge.bytes()).sum()
    }
}

impl ShardCore {
    /// Says how much memory the shard has now.
    pub(crate) fn note_footprint(&mut self) {
        let memory = self.memory();
        let queues = (self.timer_queue_bytes() + self.expiry_queue_bytes()) as u64;
        let operator = self.operator.bytes();
        let Footprint { records, gaps, indexes, queues: of_queues, operator: of_operator } =
            &mut self.footprint;
        records.set(memory.arena_used_bytes);
        gaps.set(memory.arena_free_bytes);
        indexes.set(memory.index_bytes);
        of_queues.set(queues);
        of_operator.set(operator);
    }
}
