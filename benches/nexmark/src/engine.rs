//! What a query's state is kept in: the same functions run on all of these.

use alluvium::codec::Codec;
use alluvium::{Result, Shard, TimerStore};
use alluvium_timely::{Keyed, Stateful};
use timely::ExchangeData;

use crate::stores::map::MapStore;

/// Opens the stores of a query's operators.
pub trait Engine: Clone + Send + Sync + 'static {
    /// The store of one operator of one worker.
    type Store: TimerStore + 'static;

    /// Whether its state is part of checkpoints.
    const HAS_CHECKPOINTS: bool;

    /// Opens the store of an operator, in which `register` registers its states.
    ///
    /// # Errors
    /// What opening it or `register` fail with.
    fn states<'scope, R, K, C, St>(
        &self,
        keyed: Keyed<'scope, R, K, C>,
        register: impl FnOnce(&mut Self::Store) -> Result<St>,
    ) -> Result<Stateful<'scope, R, K, C, Self::Store, St>>
    where
        R: ExchangeData,
        K: 'static,
        C: Codec<K>;
}

/// State in Alluvium, with checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct Alluvium;

impl Engine for Alluvium {
    type Store = Shard;

    const HAS_CHECKPOINTS: bool = true;

    fn states<'scope, R, K, C, St>(
        &self,
        keyed: Keyed<'scope, R, K, C>,
        register: impl FnOnce(&mut Shard) -> Result<St>,
    ) -> Result<Stateful<'scope, R, K, C, Shard, St>>
    where
        R: ExchangeData,
        K: 'static,
        C: Codec<K>,
    {
        keyed.state(register)
    }
}

/// State in hash maps, without checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct Maps;

impl Engine for Maps {
    type Store = MapStore;

    const HAS_CHECKPOINTS: bool = false;

    fn states<'scope, R, K, C, St>(
        &self,
        keyed: Keyed<'scope, R, K, C>,
        register: impl FnOnce(&mut MapStore) -> Result<St>,
    ) -> Result<Stateful<'scope, R, K, C, MapStore, St>>
    where
        R: ExchangeData,
        K: 'static,
        C: Codec<K>,
    {
        keyed.state_in(|max, _| Ok(MapStore::new(max)), register)
    }
}
