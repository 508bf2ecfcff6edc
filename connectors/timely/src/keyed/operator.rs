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
//! 4. Timers of the processing time that the clock has passed fire, at the capability's
//!    time. They come last and some at a time, so that however many are due neither
//!    records nor barriers wait for all of them. Those that a snapshot found pending fire
//!    in the epoch after it, those that fired before it are in it as what they did.
//!
//! The worker activates the operator again when its next timer of the processing time is
//! due (see [`Control::wake_due`]).

use std::rc::Rc;

use alluvium::codec::Codec;
use alluvium::{Result, TimeDomain, Timer, TimerStore, Timers};
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
use crate::control::mail::Stop;
use crate::control::{Control, Member, Notice};
use crate::time::{self, Time};

/// Timers of the processing time that fire before records and barriers are looked at again.
const FIRED_AT_A_TIME: usize = 1024;

/// The user's function for records.
pub(super) type Process<R, K, S, St, Out> =
    dyn FnMut(&mut St, &mut Context<'_, S, Out>, &K, R) -> Result<()>;

type Session<'a, Out> = OutputBuilderSession<'a, Time, CapacityContainerBuilder<Vec<Out>>>;

/// Timers of one kind, and the user's function for them.
pub(super) trait Firing<S, St, Out> {
    /// Whether they wait for the watermark; for the clock, if not.
    fn is_of_event_time(&self, states: &St) -> bool;

    /// The time of the earliest.
    fn next(&self, states: &St, store: &mut S) -> Result<Option<i64>>;

    /// Fires the earliest, if it is not later than `now`.
    fn fire(
        &mut self,
        states: &mut St,
        context: &mut Context<'_, S, Out>,
        now: i64,
    ) -> Result<bool>;
}

type Kinds<S, St, Out> = Vec<Box<dyn Firing<S, St, Out>>>;

/// The earliest timer of some kinds: its time, and which kind it is.
fn earliest<S, St, Out>(
    kinds: &Kinds<S, St, Out>,
    states: &St,
    store: &mut S,
) -> Result<Option<(i64, usize)>> {
    let mut earliest = None;
    for (index, timers) in kinds.iter().enumerate() {
        let next = timers.next(states, store)?.map(|time| (time, index));
        earliest = match (earliest, next) {
            (Some(one), Some(other)) => Some(std::cmp::min(one, other)),
            (one, other) => one.or(other),
        };
    }
    Ok(earliest)
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
    fn is_of_event_time(&self, states: &St) -> bool {
        (self.timers)(states).time_domain() == TimeDomain::Event
    }

    fn next(&self, states: &St, store: &mut S) -> Result<Option<i64>> {
        (self.timers)(states).next(store)
    }

    fn fire(
        &mut self,
        states: &mut St,
        context: &mut Context<'_, S, Out>,
        now: i64,
    ) -> Result<bool> {
        match (self.timers)(states).pop_due(context.store, now)? {
            None => Ok(false),
            Some(timer) => (self.fire)(states, context, timer).map(|()| true),
        }
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
    /// Those of event time.
    pub(super) timers: Kinds<S, St, Out>,
    /// Those of processing time.
    pub(super) clocked: Kinds<S, St, Out>,
}

/// See the [module documentation](self).
pub(super) struct Operator<R, K, S, St, Out> {
    parts: Parts<R, K, S, St, Out>,
    member: Rc<Member>,
    under_way: UnderWay<S>,
    alignment: Alignment<R>,
    capability: Capability<Time>,
    out: Vec<Out>,
    /// Functions have run since it was seen which timer of the processing time is next.
    has_worked: bool,
    /// The barrier with which the job is to stop, once it has passed.
    stopped: Option<u64>,
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
                // Those that were restored are to be seen.
                has_worked: true,
                stopped: None,
            };
            // Not only when there is input.
            operator.member.activator().activate();
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
                Notice::Aborted(id) => {
                    self.under_way.abort(store, id);
                    self.stopped = self.stopped.filter(|stopped| *stopped != id);
                }
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
        self.has_worked = true;
        let Parts { control, store, states, key, process: work, name, .. } = &mut self.parts;
        let (process, time) = (&*control.process, batch.event);
        let mut context = Context { store, out: &mut self.out, process, time, watermark };
        for record in batch.records {
            let key = key(&record);
            work(states, &mut context, &key, record).map_err(at(name))?;
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
            let (id, stop) = (barrier.id, barrier.stop);
            self.under_way.begin(&mut self.parts.store, barrier, &self.parts.control)?;
            let waiting = self.alignment.pass(id);
            self.parts.control.passed(id);
            if stop != Stop::No {
                self.stopped = Some(id);
            }
            let event = self.capability.time().event;
            self.capability.downgrade(&Time::new(id, event));
            for batch in waiting {
                self.work(batch, session)?;
            }
        }
        self.follow_clock(session)?;
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
        loop {
            let Parts { store, states, timers, .. } = &mut self.parts;
            let next = earliest(timers, states, store)?;
            let Some((time, index)) = next.filter(|(time, _)| *time <= now) else { break };
            if time > at_time {
                self.send(at_time, session);
                at_time = time;
            }
            self.has_worked = true;
            let Parts { control, store, states, timers, name, .. } = &mut self.parts;
            let (process, watermark) = (&*control.process, Some(time));
            let mut context = Context { store, out: &mut self.out, process, time, watermark };
            timers[index].fire(states, &mut context, time).map_err(at(name))?;
        }
        self.send(at_time, session);
        let Parts { control, store, states, timers, .. } = &mut self.parts;
        for timers in timers {
            // Nothing is due any more; what comes now is refused up to here.
            let (process, watermark) = (&*control.process, Some(now));
            let mut context = Context { store, out: &mut self.out, process, time: now, watermark };
            timers.fire(states, &mut context, now)?;
        }
        self.capability.downgrade(&Time::new(self.alignment.epoch(), watermark));
        Ok(())
    }

    /// Fires timers of the processing time that the clock has passed, in the order of
    /// their times, and notes when to be woken for the next one. After the end of the
    /// inputs, and after the barrier that the job stops with, they only stay in the state.
    fn follow_clock(&mut self, session: &mut Session<'_, Out>) -> Result<()> {
        if self.parts.clocked.is_empty() {
            return Ok(());
        }
        let time = self.capability.time().event;
        if time == i64::MAX || self.stopped.is_some() {
            self.member.due.set(None);
            // In case it is not stopped after all.
            self.has_worked = true;
            return Ok(());
        }
        let now = self.parts.control.process.now();
        if !self.has_worked && self.member.due.get().is_none_or(|due| due > now) {
            return Ok(());
        }
        let watermark = self.watermark();
        let Parts { control, store, states, clocked, name, .. } = &mut self.parts;
        let mut left = FIRED_AT_A_TIME;
        let next = loop {
            let next = earliest(clocked, states, store)?;
            let Some((due, index)) = next.filter(|(due, _)| *due <= now && left > 0) else {
                break next;
            };
            let process = &*control.process;
            let mut context = Context { store, out: &mut self.out, process, time, watermark };
            clocked[index].fire(states, &mut context, due).map_err(at(name))?;
            left -= 1;
        };
        self.has_worked = false;
        self.member.due.set(next.map(|(due, _)| due));
        self.send(time, session);
        Ok(())
    }

    /// Sends what was emitted at an event time.
    fn send(&mut self, event: i64, session: &mut Session<'_, Out>) {
        if !self.out.is_empty() {
            let capability = self.capability.delayed(&Time::new(self.alignment.epoch(), event));
            session.session(&capability).give_iterator(self.out.drain(..));
        }
    }
}
