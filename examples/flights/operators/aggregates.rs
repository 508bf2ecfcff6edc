//! Running totals for ever: one value for each key, three times over.

use alluvium::{Result, Shard, ValueState};

use super::super::input::Outcome;
use super::totals::Totals;

/// What the flights are grouped by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Grouping {
    Aircraft,
    Route,
    CarrierDay,
}

impl Grouping {
    pub(crate) const ALL: [Self; 3] = [Self::Aircraft, Self::Route, Self::CarrierDay];

    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Aircraft => "aircraft",
            Self::Route => "route",
            Self::CarrierDay => "carrier and day",
        }
    }
}

pub(crate) struct Aggregates {
    by_aircraft: ValueState<String, Totals>,
    by_carrier_day: ValueState<String, Totals>,
    by_route: ValueState<String, Totals>,
}

impl Aggregates {
    pub(super) fn register(shard: &mut Shard) -> Result<Self> {
        Ok(Self {
            by_aircraft: ValueState::register(shard, "by-aircraft")?,
            by_carrier_day: ValueState::register(shard, "by-carrier-day")?,
            by_route: ValueState::register(shard, "by-route")?,
        })
    }

    fn of(&self, grouping: Grouping) -> &ValueState<String, Totals> {
        match grouping {
            Grouping::Aircraft => &self.by_aircraft,
            Grouping::Route => &self.by_route,
            Grouping::CarrierDay => &self.by_carrier_day,
        }
    }

    /// Adds a flight to the totals of its key, which begin empty.
    pub(crate) fn add(
        &self,
        shard: &mut Shard,
        grouping: Grouping,
        key: &String,
        outcome: &Outcome,
    ) -> Result<()> {
        self.of(grouping).update(shard, key, |totals| {
            let mut totals = totals.unwrap_or(Totals::EMPTY);
            totals.add(outcome);
            Some(totals)
        })
    }

    pub(crate) fn get(
        &self,
        shard: &mut Shard,
        grouping: Grouping,
        key: &String,
    ) -> Result<Option<Totals>> {
        self.of(grouping).get(shard, key)
    }
}
