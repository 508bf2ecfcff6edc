//! The keyed stateful operator: what it is made of, and the functions of the user.
//!
//! The operator itself is in `operator`, what it does at barriers in `snapshots`.

mod operator;
mod snapshots;

use std::rc::Rc;

use alluvium::codec::{Codec, KeyRef};
use alluvium::{Error, KeyGroupRange, MaxParallelism, Result, Shard, Timer, TimerStore, Timers};
use timely::ExchangeData;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;

use self::operator::{Firing, Operator, Parts};
use self::snapshots::Snapshots;
use crate::flow::{WorkerParts, check_new};
use crate::process::Process;
use crate::time::Time;

/// What a function of the user gets beside its states, key and record.
pub struct Context<'a, S, Out> {
    pub(crate) store: &'a mut S,
    pub(crate) out: &'a mut Vec<Out>,
    pub(crate) process: &'a Process,
    pub(crate) time: i64,
    pub(crate) watermark: Option<i64>,
}

impl<S, Out> Context<'_, S, Out> {
    /// The store that the states are in: the first argument of their methods.
    #[inline]
    pub fn store(&mut self) -> &mut S {
        self.store
    }

    /// Sends a record on, at the [time](Self::time) of what is being worked on.
    #[inline]
    pub fn emit(&mut self, record: Out) {
        self.out.push(record);
    }

    /// The event time of the record's [`Time`], which is a lower bound of its own, or
    /// that of the timer. For a timer of the processing time, the event time that the
    /// operator has come to: the least that it may send anything at.
    #[inline]
    pub fn time(&self) -> i64 {
        self.time
    }

    /// The event time up to which, itself included, timers have fired; a timer at or
    /// before it is refused, and a record at or before it is late. `None` before the
    /// first.
    #[inline]
    pub fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    /// What the clock shows now, in milliseconds since 1970: that of the job's
    /// [environment](crate::Job::env), which is read by each call. It may jump, back too,
    /// and each process has its own.
    ///
    /// When a timer of the processing time fires this is not before its time, unless the
    /// clock was set back just then.
    #[inline]
    pub fn processing_time(&self) -> i64 {
        self.process.now()
    }
}

/// A stream by key, which wants to know its states; from
/// [`Flow::keyed`](crate::Flow::keyed).
#[must_use]
pub struct Keyed<'scope, R, K, C> {
    worker: WorkerParts,
    name: String,
    stream: StreamVec<'scope, Time, R>,
    codec: C,
    key: Rc<dyn Fn(&R) -> K>,
}

impl<'scope, R: ExchangeData, K: 'static, C: Codec<K>> Keyed<'scope, R, K, C> {
    pub(crate) fn new(
        worker: WorkerParts,
        name: &str,
        stream: StreamVec<'scope, Time, R>,
        codec: C,
        key: Rc<dyn Fn(&R) -> K>,
    ) -> Self {
        Self { worker, name: name.to_owned(), stream, codec, key }
    }

    /// Keeps the operator's state in Alluvium: opens this worker's shard, restored if the
    /// job goes on from a checkpoint, and has `register` register states and timers in
    /// it.
    ///
    /// # Errors
    /// `Invalid` if another operator has the name; whatever opening the shard or
    /// `register` fail with.
    pub fn state<St>(
        self,
        register: impl FnOnce(&mut Shard) -> Result<St>,
    ) -> Result<Stateful<'scope, R, K, C, Shard, St>> {
        let plan = &self.worker.control.plan;
        check_new("stateful operator", &self.name, plan.borrow().operators.iter().map(|n| &**n))?;
        let shard = self.worker.shard(&self.name)?;
        plan.borrow_mut().operators.push(self.name.clone());
        self.stateful(shard, Some(Snapshots::OF_SHARD), register)
    }

    /// Keeps the operator's state in a store of another kind, which `open` opens for the
    /// key groups of this worker. **It is no part of checkpoints**: this is for comparing
    /// stores under the same functions, which are generic over
    /// [`TimerStore`] then.
    ///
    /// # Errors
    /// What `open` or `register` fail with.
    pub fn state_in<S: TimerStore + 'static, St>(
        self,
        open: impl FnOnce(MaxParallelism, KeyGroupRange) -> Result<S>,
        register: impl FnOnce(&mut S) -> Result<St>,
    ) -> Result<Stateful<'scope, R, K, C, S, St>> {
        let store = open(self.worker.control.process.max_parallelism, self.worker.groups()?)?;
        self.stateful(store, None, register)
    }

    fn stateful<S: TimerStore + 'static, St>(
        self,
        mut store: S,
        snapshots: Option<Snapshots<S>>,
        register: impl FnOnce(&mut S) -> Result<St>,
    ) -> Result<Stateful<'scope, R, K, C, S, St>> {
        let name = self.name.clone();
        let states = register(&mut store).map_err(|e| e.at(format_args!("operator {name:?}")))?;
        Ok(Stateful { keyed: self, store, snapshots, states })
    }
}

/// A keyed operator with states, which wants to know its functions.
#[must_use]
pub struct Stateful<'scope, R, K, C, S, St> {
    keyed: Keyed<'scope, R, K, C>,
    store: S,
    snapshots: Option<Snapshots<S>>,
    states: St,
}

impl<'scope, R, K, C, S, St> Stateful<'scope, R, K, C, S, St>
where
    R: ExchangeData,
    K: 'static,
    C: Codec<K>,
    S: TimerStore + 'static,
    St: 'static,
{
    /// Calls `process` with each record, in the order in which they arrive.
    ///
    /// # Errors
    /// None at present. An error or a panic of `process` ends the job, which goes on from
    /// its latest checkpoint when it is run again.
    pub fn process<Out: 'static>(
        self,
        process: impl FnMut(&mut St, &mut Context<'_, S, Out>, &K, R) -> Result<()> + 'static,
    ) -> Result<StreamVec<'scope, Time, Out>> {
        self.build(Vec::new(), Box::new(process))
    }

    /// As [`process`](Self::process), for an operator with timers: `timers` says which of
    /// the states they are, `fire` is called with each one whose time has come, in the
    /// order of their times. It may set further ones.
    ///
    /// Timers of the [event time](Timers::event_time) fire when the watermark has passed
    /// them; those set meanwhile in the same round, if it has passed them, too. Timers of
    /// the [processing time](Timers::processing_time) fire when the clock has; see
    /// [there](crate#processing-time).
    ///
    /// # Errors
    /// As `process`.
    pub fn process_with_timers<Out, N, KC, NC>(
        self,
        timers: impl Fn(&St) -> &Timers<K, N, KC, NC> + 'static,
        fire: impl FnMut(&mut St, &mut Context<'_, S, Out>, Timer<K, N>) -> Result<()> + 'static,
        process: impl FnMut(&mut St, &mut Context<'_, S, Out>, &K, R) -> Result<()> + 'static,
    ) -> Result<StreamVec<'scope, Time, Out>>
    where
        Out: 'static,
        N: 'static,
        KC: Codec<K>,
        NC: Codec<N>,
    {
        self.build(vec![operator::firing(timers, fire)], Box::new(process))
    }

    /// As [`process_with_timers`](Self::process_with_timers), for several kinds of timers.
    /// Those of event time fire in one order of times, and so do those of processing time;
    /// at one time, in the order given.
    ///
    /// # Errors
    /// As `process`.
    pub fn process_with_all_timers<Out: 'static, const KINDS: usize>(
        self,
        fire: [Fire<S, St, Out>; KINDS],
        process: impl FnMut(&mut St, &mut Context<'_, S, Out>, &K, R) -> Result<()> + 'static,
    ) -> Result<StreamVec<'scope, Time, Out>> {
        self.build(fire.into_iter().map(|fire| fire.0).collect(), Box::new(process))
    }

    fn build<Out: 'static>(
        self,
        timers: Vec<Box<dyn Firing<S, St, Out>>>,
        process: Box<operator::Process<R, K, S, St, Out>>,
    ) -> Result<StreamVec<'scope, Time, Out>> {
        let Keyed { worker, name, stream, codec, key } = self.keyed;
        let (max, peers) = (worker.control.process.max_parallelism, worker.control.peers as u32);
        let (of, mut bytes) = (Rc::clone(&key), Vec::new());
        let pact = Exchange::new(move |record: &R| {
            bytes.clear();
            // A key without bytes is refused by every state, wherever it arrives.
            match codec.encode(&of(record), &mut bytes) {
                Ok(()) => u64::from(max.subtask_of_group(KeyRef::new(&bytes).locate(max).0, peers)),
                Err(_) => 0,
            }
        });
        let states = self.states;
        let (timers, clocked) =
            timers.into_iter().partition(|timers| timers.is_of_event_time(&states));
        let parts = Parts {
            control: Rc::clone(&worker.control),
            name,
            store: self.store,
            snapshots: self.snapshots,
            states,
            key,
            process,
            timers,
            clocked,
        };
        Ok(Operator::build(parts, stream, pact))
    }
}

/// One kind of timers of an operator, and what is done when they fire.
#[must_use]
pub struct Fire<S, St, Out>(Box<dyn Firing<S, St, Out>>);

impl<S: TimerStore + 'static, St: 'static, Out: 'static> Fire<S, St, Out> {
    /// See [`Stateful::process_with_timers`].
    pub fn new<K, N, KC, NC>(
        timers: impl Fn(&St) -> &Timers<K, N, KC, NC> + 'static,
        fire: impl FnMut(&mut St, &mut Context<'_, S, Out>, Timer<K, N>) -> Result<()> + 'static,
    ) -> Self
    where
        K: 'static,
        N: 'static,
        KC: Codec<K>,
        NC: Codec<N>,
    {
        Self(operator::firing(timers, fire))
    }
}

/// Adds the operator's name to an error.
fn at(name: &str) -> impl Fn(Error) -> Error {
    let name = name.to_owned();
    move |error| error.at(format_args!("operator {name:?}"))
}
