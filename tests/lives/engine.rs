//! One shard and what is registered on it.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use alluvium::codec::{BytesCodec, CodecSpec};
use alluvium::{
    AggregatingState, KeyedStore, OperatorStateId, ReducingState, Shard, StateId, StateOptions,
    StateSpec, TimerSpec, TimerStore, TimersId, Ttl,
};

use crate::model::{Kind, Place, STATES};
use crate::runtime::Door;
use crate::thing::{Numbers, Thing, ThingCodec, codec, reduced};

type Bytes = Vec<u8>;
pub type Reducing = ReducingState<Bytes, Thing, Bytes, BytesCodec, ThingCodec, BytesCodec>;
pub type Aggregating = AggregatingState<Bytes, Numbers, Bytes, BytesCodec, ThingCodec, BytesCodec>;

/// What a state is called by.
pub enum Open {
    Plain(StateId),
    Reducing(Reducing),
    Aggregating(Aggregating),
    Timers(TimersId),
}

pub struct Running {
    pub shard: Shard,
    pub open: Vec<Option<Open>>,
    /// What timers were told last, in this life.
    pub told: Vec<Option<i64>>,
    pub operator: Vec<Option<OperatorStateId>>,
}

impl Running {
    pub fn new(shard: Shard, operator_states: usize) -> Self {
        Self {
            shard,
            open: STATES.iter().map(|_| None).collect(),
            told: vec![None; STATES.len()],
            operator: vec![None; operator_states],
        }
    }

    pub fn owns(&self, place: &Place) -> bool {
        self.shard.groups().contains(alluvium::KeyGroup(place.group))
    }

    pub fn register(
        &mut self,
        state: usize,
        name: &str,
        ttl: Option<Ttl>,
        (version, door): (u8, &Arc<Door>),
    ) {
        let shard = &mut self.shard;
        let options = match ttl {
            Some(ttl) => StateOptions::new(name).ttl(ttl),
            None => StateOptions::new(name),
        };
        let values = codec(version, door);
        let plain = match STATES[state].0 {
            Kind::Value => StateSpec::value(name),
            Kind::List => StateSpec::list(name),
            Kind::Map => StateSpec::map(name),
            Kind::Reducing => {
                let reduce = move |old: Thing, new: Thing| {
                    let number = reduced(old.number, new.number);
                    Thing { number, by: version, steps: 0 }
                };
                let opened =
                    Reducing::with_codecs(shard, options, BytesCodec, BytesCodec, values, reduce);
                self.open[state] = Some(Open::Reducing(opened.unwrap()));
                return;
            }
            Kind::Aggregating => {
                let numbers = Numbers(version);
                let opened = Aggregating::with_codecs(
                    shard, options, BytesCodec, BytesCodec, values, numbers,
                );
                self.open[state] = Some(Open::Aggregating(opened.unwrap()));
                return;
            }
            Kind::Timers(time) => {
                let opened = shard.open_timers(TimerSpec::new(name, time)).unwrap();
                self.open[state] = Some(Open::Timers(opened));
                self.told[state] = None;
                return;
            }
        };
        let plain = plain.value_codec(CodecSpec::of(&values));
        let plain = match ttl {
            Some(ttl) => plain.ttl(ttl),
            None => plain,
        };
        self.open[state] = Some(Open::Plain(shard.register(plain).unwrap()));
    }

    pub fn id(&self, state: usize) -> StateId {
        match self.open[state].as_ref().expect("it is registered") {
            Open::Plain(id) => *id,
            Open::Reducing(state) => state.id(),
            Open::Aggregating(state) => state.id(),
            Open::Timers(_) => panic!("timers"),
        }
    }

    pub fn timers(&self, state: usize) -> TimersId {
        match self.open[state] {
            Some(Open::Timers(id)) => id,
            _ => panic!("state {state} has no timers"),
        }
    }

    pub fn get(&mut self, state: usize, place: &Place) -> Option<Bytes> {
        let id = self.id(state);
        self.shard.get(id, place.at()).unwrap().map(<[u8]>::to_vec)
    }

    pub fn list(&mut self, state: usize, place: &Place) -> Vec<Bytes> {
        let id = self.id(state);
        let mut found = Vec::new();
        let visit = &mut |element: &[u8]| found.push(element.to_vec());
        self.shard.list_read(id, place.at(), visit).unwrap();
        found
    }

    pub fn map(&mut self, state: usize, place: &Place) -> Vec<(Bytes, Bytes)> {
        let id = self.id(state);
        let mut found = Vec::new();
        let visit = &mut |entry: &[u8], value: &[u8]| {
            found.push((entry.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        self.shard.map_scan(id, place.at(), Bound::Unbounded, visit).unwrap();
        found
    }

    /// All places of a state, or those of a namespace.
    pub fn places(&mut self, state: usize, namespace: Option<&[u8]>) -> Vec<Place> {
        let id = self.id(state);
        let mut found = Vec::new();
        let visit = &mut |group: alluvium::KeyGroup, key: &[u8], namespace: &[u8]| {
            let (key, namespace) = (key.to_vec(), namespace.to_vec());
            found.push(Place { group: group.0, key, namespace });
            ControlFlow::Continue(())
        };
        self.shard.visit_keys(id, namespace, visit).unwrap();
        found
    }
}
