//! The operator: records, timers, barriers, in this order, again and again.
//!
//! It holds one capability, at its epoch and watermark: what it may still send is never
//! earlier. Records of later epochs wait (see `align`) and hold the watermark back.
//!
//! 1. Records of the operator's epoch are worked on as they arrive.
//! 2. The watermark is the least event time of the frontier, or of what waits. Timers
//!    before it fire, each at its own time.
//! 3. If the frontier has passed the next barrier, everything before it has been worked
//!    on: the shard is frozen, the capability goes on to the next epoch, and what has
//!    waited for it is worked on.

use std::rc::Rc;

use alluvium::codec::Codec;
use alluvium::{Result, Timer, TimerStore, Timers};
use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::ParallelizationContract;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};

use super::snapshots::{POLL_INTERVAL, Snapshots, UnderWay};
use super::{Context, at};
use crate::align::{Alignment, Batch};
use crate::control::{Control, Member, Notice};
use crate::time::{self, Time};

/// The user's function for records.
pub(super) type Process<R, K, S, St, Out> =
    dyn FnMut(&mut St, &mut Context<'_, S, Out>, &K, R) -> Result<()>;

type Session<'a, Out> = OutputBuilderSession<'a, Time, CapacityContainerBuilder<Vec<Out>>>;

/// Timers of one kind, and the user's function for them.
pub(super) trait Firing<S, St, Out> {
    /// The time of the earliest.
    fn next(&self, states: &St, store: &mut S) -> Result<Option<i64>>;

    /// Fires the earliest, if it is not later than `now`.
    fn fire(
        &mut self,
        states: &mut St,
        store: &mut S,
        out: &mut Vec<Out>,
        now: i64,
    ) -> Result<bool>;
}

struct TimersOf<T, F, K, N, KC, NC> {
    timers: T,
    fire: F,
    types: std::marker::PhantomData<fn(&K, &N, &KC, &NC)>,
}

pub(super) fn firing<S, St, Out, K, N, KC, NC>(
    timers: impl Fn(&St) -> &Timers<K, N, KC, NC> + 'static,
    fire: impl FnMut(&mut St, &mut Context<'_, S, Out>, Timer<K, N>) -> Result<()> + 'static,
) -> Box<dyn Firing<S, St, Out>>
where
    S: TimerStore + 'static,
    K: 'static,
    N: 'static,
    KC: Codec<K>,
    NC: Codec<N>,
{
    Box::new(TimersOf { timers, fire, types: std::marker::PhantomData })
}

impl<S, St, Out, K, N, KC, NC, T, F> Firing<S, St, Out> for TimersOf<T, F, K, N, KC, NC>
where
    S: TimerStore + 'static,
    K: 'static,
    N: 'static,
    KC: Codec<K>,
    NC: Codec<N>,
    T: Fn(&St) -> &Timers<K, N, KC, NC>,
    F: FnMut(&mut St, &mut Context<'_, S, Out>, Timer<K, N>) -> Result<()>,
{
    fn next(&self, states: &St, store: &mut S) -> Result<Option<i64>> {
        (self.timers)(states).next(store)
    }

    fn fire(
        &mut self,
        states: &mut St,
        store: &mut S,
        out: &mut Vec<Out>,
        now: i64,
    ) -> Result<bool> {
        let Some(timer) = (self.timers)(states).pop_due(store, now)? else { return Ok(false) };
        let time = timer.timestamp;
        let mut context = Context { store, out, time, watermark: Some(now) };
        (self.fire)(states, &mut context, timer)?;
        Ok(true)
    }
}

/// What an operator is made of.
pub(super) struct Parts<R, K, S, St, Out> {
    pub(super) control: Rc<Control>,
    pub(super) name: String,
    pub(super) store: S,
    pub(super) snapshots: Option<Snapshots<S>>,
    pub(super) states: St,
    pub(super) key: Rc<dyn Fn(&R) -> K>,
    pub(super) process: Box<Process<R, K, S, St, Out>>,
    pub(super) timers: Vec<Box<dyn Firing<S, St, Out>>>,
}

/// See the [module documentation](self).
pub(super) struct Operator<R, K, S, St, Out> {
    parts: Parts<R, K, S, St, Out>,
    member: Rc<Member>,
    under_way: UnderWay<S>,
    alignment: Alignment<R>,
    capability: Capability<Time>,
    out: Vec<Out>,
}

impl<R, K, S, St, Out> Operator<R, K, S, St, Out>
where
    R: ExchangeData,
    K: 'static,
    S: TimerStore + 'static,
    St: 'static,
    Out: 'static,
{
    pub(super) fn build<'scope, P>(
        mut parts: Parts<R, K, S, St, Out>,
        stream: StreamVec<'scope, Time, R>,
        pact: P,
    ) -> StreamVec<'scope, Time, Out>
    where
        P: ParallelizationContract<Time, Vec<R>>,
    {
        let scope = stream.scope();
        let mut builder = OperatorBuilder::new(parts.name.clone(), scope);
        let mut input = builder.new_input(stream, pact);
        let (output, results) = builder.new_output();
        let mut output = OutputBuilder::from(output);
        let activator = scope.activator_for(builder.operator_info().address);
        let control = Rc::clone(&parts.control);
        let member = control.join(activator, true);
        let under_way = UnderWay::new(parts.snapshots.take(), parts.name.clone());
        builder.build(move |mut capabilities| {
            let mut operator = Self {
                parts,
                member,
                under_way,
                alignment: Alignment::new(),
                capability: capabilities.remove(0),
                out: Vec::new(),
            };
            move |frontiers| {
                let mut session = output.activate();
                control.guard(|| {
                    operator.hear()?;
                    let mut outcome = Ok(());
                    input.for_each(|capability, records| {
                        if outcome.is_ok() {
                            let records = std::mem::take(records);
                            let stamp = capability.stamp().elements();
                            outcome = operator.take_in(stamp, records, &mut session);
                        }
                    });
                    outcome?;
                    operator.go_on(time::least(&frontiers[0].frontier()), &mut session)
                });
            }
        });
        results
    }

    /// Hears what the master has said.
    fn hear(&mut self) -> Result<()> {
        while let Some(notice) = self.member.next() {
            let store = &mut self.parts.store;
            match notice {
                Notice::Trigger(barrier) => self.alignment.expect(barrier),
                Notice::Completed(id) => {
                    self.under_way.complete(store, id, &self.parts.control)?;
                }
                Notice::Aborted(id) => self.under_way.abort(store, id),
                Notice::AllPassed(_) => {}
            }
        }
        Ok(())
    }

    fn take_in(
        &mut self,
        stamp: &[Time],
        records: Vec<R>,
        session: &mut Session<'_, Out>,
    ) -> Result<()> {
        match self.alignment.admit(time::single(stamp)?, records) {
            Some(batch) => self.work(batch, session),
            None => Ok(()),
        }
    }

    fn work(&mut self, batch: Batch<R>, session: &mut Session<'_, Out>) -> Result<()> {
        let watermark = self.watermark();
        let Parts { store, states, key, process, name, .. } = &mut self.parts;
        let mut context = Context { store, out: &mut self.out, time: batch.event, watermark };
        for record in batch.records {
            let key = key(&record);
            process(states, &mut context, &key, record).map_err(at(name))?;
        }
        self.send(batch.event, session);
        Ok(())
    }

    /// Up to which time timers have fired.
    fn watermark(&self) -> Option<i64> {
        self.capability.time().event.checked_sub(1)
    }

    fn go_on(&mut self, frontier: Time, session: &mut Session<'_, Out>) -> Result<()> {
        loop {
            self.advance(self.alignment.watermark(frontier), session)?;
            let Some(barrier) = self.alignment.next_barrier(frontier) else { break };
            self.under_way.begin(&mut self.parts.store, barrier, &self.parts.control)?;
            let waiting = self.alignment.pass(barrier);
            self.parts.control.passed(barrier.id);
            let event = self.capability.time().event;
            self.capability.downgrade(&Time::new(barrier.id, event));
            for batch in waiting {
                self.work(batch, session)?;
            }
        }
        if self.under_way.follow(&self.parts.control).map_err(at(&self.parts.name))? {
            self.member.activator().activate_after(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Fires the timers before `watermark`, in the order of their times.
    fn advance(&mut self, watermark: i64, session: &mut Session<'_, Out>) -> Result<()> {
        let before = self.capability.time().event;
        if watermark <= before {
            return Ok(());
        }
        let now = watermark - 1;
        // The end of the input is not the end of time: nothing expires by it.
        if watermark < i64::MAX {
            self.under_way.advance(&mut self.parts.store, now);
        }
        let mut at_time = before;
        while let Some((time, index)) = self.next_timer()?.filter(|(time, _)| *time <= now) {
            if time > at_time {
                self.send(at_time, session);
                at_time = time;
            }
            let Parts { store, states, timers, name, .. } = &mut self.parts;
            timers[index].fire(states, store, &mut self.out, time).map_err(at(name))?;
        }
        self.send(at_time, session);
        let Parts { store, states, timers, .. } = &mut self.parts;
        for timers in timers {
            // Nothing is due any more; what comes now is refused up to here.
            timers.fire(states, store, &mut self.out, now)?;
        }
        self.capability.downgrade(&Time::new(self.alignment.epoch(), watermark));
        Ok(())
    }

    /// The earliest timer of all kinds: its time, and which kind it is.
    fn next_timer(&mut self) -> Result<Option<(i64, usize)>> {
        let Parts { store, states, timers, .. } = &mut self.parts;
        let mut earliest = None;
        for (index, timers) in timers.iter().enumerate() {
            let next = timers.next(states, store)?.map(|time| (time, index));
            earliest = match (earliest, next) {
                (Some(one), Some(other)) => Some(std::cmp::min(one, other)),
                (one, other) => one.or(other),
            };
        }
        Ok(earliest)
    }

    /// Sends what was emitted at an event time.
    fn send(&mut self, event: i64, session: &mut Session<'_, Out>) {
        if !self.out.is_empty() {
            let capability = self.capability.delayed(&Time::new(self.alignment.epoch(), event));
            session.session(&capability).give_iterator(self.out.drain(..));
        }
    }
}
