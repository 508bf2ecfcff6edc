//! The source of one worker: reads its splits in turn, and sends barriers.
//!
//! A barrier of a source is a step of its capability to the next epoch: what it reads
//! from then on is after the barrier. It notes where its splits were, which goes into the
//! checkpoint. The source of every worker keeps its capability until the job is over, if
//! it has splits or not, so no frontier passes a barrier of which some worker has not
//! heard.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use alluvium::{Error, Result};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};

use super::{Clock, Next, Reader, Source, SourceBuilder};
use crate::control::mail::{Position, Report, Stop, Trigger};
use crate::control::{Control, Member, Notice};
use crate::flow::check_new;
use crate::metadata::MAX_SPLITS;
use crate::time::Time;

/// After which a source is asked again that had nothing.
const IDLE_INTERVAL: Duration = Duration::from_millis(5);

struct Split<R> {
    number: u32,
    reader: R,
    latest: i64,
    ended: bool,
}

struct Operator<S: Source> {
    control: Rc<Control>,
    member: Rc<Member>,
    name: String,
    splits: Vec<Split<S::Reader>>,
    clock: Option<Clock<S::Item>>,
    batch: usize,
    lead: u64,
    capability: Capability<Time>,
    /// The split whose turn it is.
    turn: usize,
    /// Barriers that some worker has not let pass yet.
    on_the_way: BTreeSet<u64>,
    /// Records read since the last barrier.
    since_barrier: u64,
    /// The barrier with which the job is to stop, and how: nothing is read after it.
    stopped: Option<(u64, Stop)>,
    has_said_the_end: bool,
    records: Vec<S::Item>,
}

pub(super) fn build<'scope, S: Source>(
    builder: SourceBuilder<'scope, S>,
) -> Result<StreamVec<'scope, Time, S::Item>> {
    let SourceBuilder { scope, worker, name, source, clock, batch } = builder;
    let control = Rc::clone(&worker.control);
    let (splits, fingerprint) = (source.splits()?, source.fingerprint()?);
    {
        let mut plan = control.plan.borrow_mut();
        check_new("source", &name, plan.sources.iter().map(|(name, ..)| name.as_str()))?;
        plan.sources.push((name.clone(), splits, fingerprint));
    }
    let at = || format!("source {name:?}");
    if splits == 0 || splits as usize > MAX_SPLITS {
        return Err(Error::invalid("a source has an impossible number of splits")
            .at(at())
            .expected(format_args!("1 to {MAX_SPLITS}"))
            .found(splits));
    }
    let restored = worker.positions(&name);
    if let Some(restored) = restored
        && restored.splits.len() != splits as usize
    {
        return Err(Error::incompatible("a source has another number of splits than before")
            .at(at())
            .expected(restored.splits.len())
            .found(splits)
            .remedy("read it with as many splits as before"));
    }
    if let Some(restored) = restored
        && restored.fingerprint != fingerprint
    {
        return Err(Error::incompatible("a source is not what it was before")
            .at(at())
            .expected(format_args!("fingerprint {}", restored.fingerprint))
            .found(fingerprint)
            .remedy("read what was read before: a file must not have changed"));
    }
    let mut own = Vec::new();
    for number in (0..splits).filter(|number| *number as usize % control.peers == control.index) {
        let from = restored.and_then(|restored| restored.splits.get(number as usize));
        let reader = source.open(number, from.map(|from| from.at)).map_err(|e| e.at(at()))?;
        let latest = from.map_or(i64::MIN, |from| from.latest);
        own.push(Split { number, reader, latest, ended: from.is_some_and(|from| from.ended) });
    }

    let mut builder = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = builder.new_output();
    let mut output = OutputBuilder::from(output);
    let activator = scope.activator_for(builder.operator_info().address);
    let member = control.join(activator, false);
    builder.build(move |mut capabilities| {
        let lead = control.process.lead;
        let shared = Rc::clone(&control);
        let mut operator: Operator<S> = Operator {
            control,
            member,
            name,
            splits: own,
            clock,
            batch,
            lead,
            capability: capabilities.remove(0),
            turn: 0,
            on_the_way: BTreeSet::new(),
            since_barrier: 0,
            stopped: None,
            has_said_the_end: false,
            records: Vec::new(),
        };
        operator.advance();
        operator.member.activator().activate();
        move |_| {
            let mut session = output.activate();
            shared.guard(|| operator.run(&mut session));
        }
    });
    Ok(stream)
}

type Session<'a, T> = OutputBuilderSession<'a, Time, CapacityContainerBuilder<Vec<T>>>;

impl<S: Source> Operator<S> {
    fn run(&mut self, session: &mut Session<'_, S::Item>) -> Result<()> {
        while let Some(notice) = self.member.next() {
            match notice {
                Notice::Trigger(barrier) => self.send_barrier(&barrier),
                Notice::AllPassed(id) => {
                    self.on_the_way.remove(&id);
                }
                Notice::Aborted(id) => self.go_on_after(id)?,
                Notice::Completed(_) => {}
            }
        }
        // Whoever wakes it later: a notice.
        let is_held_back = !self.on_the_way.is_empty() && self.since_barrier >= self.lead;
        if self.has_said_the_end || self.stopped.is_some() || is_held_back {
            return Ok(());
        }
        let is_idle = self.read(session)?;
        self.advance();
        if self.splits.iter().all(|split| split.ended) {
            self.has_said_the_end = true;
            self.control.report(Report::Exhausted);
        } else if is_idle {
            self.member.activator().activate_after(IDLE_INTERVAL);
        } else {
            self.member.activator().activate();
        }
        Ok(())
    }

    /// Reads a batch of one split, of the first that has anything. True if none has.
    fn read(&mut self, session: &mut Session<'_, S::Item>) -> Result<bool> {
        let mut is_idle = true;
        for _ in 0..self.splits.len() {
            let count = self.splits.len();
            let split = &mut self.splits[self.turn % count];
            self.turn = (self.turn + 1) % count;
            if split.ended {
                continue;
            }
            while self.records.len() < self.batch {
                let next = split.reader.next().map_err(|error| {
                    error.at(format_args!("source {:?}, split {}", self.name, split.number))
                })?;
                match next {
                    Next::Record(record) => {
                        if let Some(clock) = &self.clock {
                            split.latest = split.latest.max((clock.time_of)(&record));
                        }
                        self.records.push(record);
                    }
                    Next::Idle => break,
                    Next::End => {
                        split.ended = true;
                        break;
                    }
                }
            }
            if !self.records.is_empty() {
                is_idle = false;
                break;
            }
        }
        self.since_barrier += self.records.len() as u64;
        if !self.records.is_empty() {
            // Before the watermark goes on: none of them is before it.
            session.session(&self.capability).give_iterator(self.records.drain(..));
        }
        Ok(is_idle)
    }

    /// Brings the watermark up to what has been read.
    fn advance(&mut self) {
        let watermark = |split: &Split<S::Reader>| match (&self.clock, split.latest) {
            (Some(clock), latest) if latest > i64::MIN => {
                latest.saturating_sub(clock.out_of_orderness)
            }
            _ => i64::MIN,
        };
        let open = self.splits.iter().filter(|split| !split.ended);
        self.advance_to(open.map(watermark).min().unwrap_or(i64::MAX));
    }

    fn advance_to(&mut self, event: i64) {
        let Time { epoch, event: before } = *self.capability.time();
        if event > before {
            self.capability.downgrade(&Time::new(epoch, event));
        }
    }

    fn send_barrier(&mut self, barrier: &Trigger) {
        if barrier.stop != Stop::No {
            self.stopped = Some((barrier.id, barrier.stop));
        }
        if barrier.stop == Stop::Drain {
            self.advance_to(i64::MAX);
        }
        let event = self.capability.time().event;
        self.capability.downgrade(&Time::new(barrier.id, event));
        self.on_the_way.insert(barrier.id);
        self.since_barrier = 0;
        let splits = self.splits.iter().map(|split| {
            let Split { number, reader, latest, ended } = split;
            (*number, Position { at: reader.position(), latest: *latest, ended: *ended })
        });
        let splits = splits.collect();
        self.control.report(Report::Positions {
            source: self.name.clone(),
            id: barrier.id,
            splits,
        });
    }

    /// The checkpoint with which the job was to stop came to nothing.
    fn go_on_after(&mut self, id: u64) -> Result<()> {
        match self.stopped {
            Some((barrier, stop)) if barrier == id => {
                if stop == Stop::Drain {
                    return Err(Error::unavailable("the savepoint of a drained job failed")
                        .at(format_args!("checkpoint {id}"))
                        .remedy("run the job again; it goes on from its latest checkpoint"));
                }
                self.stopped = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
