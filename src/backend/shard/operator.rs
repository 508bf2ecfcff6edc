//! The part of a shard that is not about keys.

use std::ops::{Bound, ControlFlow};

use super::Shard;
use crate::base::Result;
use crate::shard::operator::store::{
    OperatorStateId, OperatorStateInfo, OperatorStateSpec, OperatorStore,
};

impl OperatorStore for Shard {
    fn open_operator_state(&mut self, spec: OperatorStateSpec) -> Result<OperatorStateId> {
        self.core.open_operator_state(&spec)
    }

    fn drop_operator_state(&mut self, name: &str) -> Result<bool> {
        Ok(self.core.operator_mut().drop(name))
    }

    fn operator_states(&self) -> Vec<OperatorStateInfo> {
        self.core.operator().infos()
    }

    fn operator_state_len(&self, state: OperatorStateId) -> Result<u64> {
        self.core.operator().len(state)
    }

    fn operator_state_clear(&mut self, state: OperatorStateId) -> Result<()> {
        self.core.operator_mut().clear(state)
    }

    fn operator_list_read(
        &self,
        state: OperatorStateId,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.core.operator().read(state, visit)
    }

    fn operator_list_add(&mut self, state: OperatorStateId, elements: &[&[u8]]) -> Result<()> {
        self.core.operator_mut().add_all(state, elements)
    }

    fn operator_list_replace(&mut self, state: OperatorStateId, elements: &[&[u8]]) -> Result<()> {
        self.core.operator_mut().replace(state, elements)
    }

    fn broadcast_get(&self, state: OperatorStateId, key: &[u8]) -> Result<Option<&[u8]>> {
        self.core.operator().get(state, key)
    }

    fn broadcast_put(&mut self, state: OperatorStateId, key: &[u8], value: &[u8]) -> Result<()> {
        self.core.operator_mut().put(state, key, value)
    }

    fn broadcast_remove(&mut self, state: OperatorStateId, key: &[u8]) -> Result<bool> {
        self.core.operator_mut().remove(state, key)
    }

    fn broadcast_scan(
        &self,
        state: OperatorStateId,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.core.operator().scan(state, from, visit)
    }
}
