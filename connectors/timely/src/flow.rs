//! The dataflow that a worker builds.

use std::rc::Rc;

use alluvium::codec::{Codec, HasCodec};
use alluvium::format::Checkpoint;
use alluvium::{Error, KeyGroupRange, Result, Shard};
use timely::ExchangeData;
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::{Scope, StreamVec};

use crate::Either;
use crate::control::Control;
use crate::control::mail::Start;
use crate::keyed::Keyed;
use crate::metadata::{MAX_NAME_BYTES, Metadata, SourceMeta};
use crate::sink::FileSink;
use crate::source::{Source, SourceBuilder};
use crate::time::Time;

/// What a worker builds the job's dataflow with. Everything that takes part in
/// checkpoints comes from here and has a name, which its state is found by again: names
/// stay while the program changes. All of timely's own operators can stand in between, as
/// long as they keep nothing from one record to the next.
pub struct Flow<'scope> {
    scope: Scope<'scope, Time>,
    pub(crate) worker: WorkerParts,
}

/// What an operator needs of its worker.
#[derive(Clone)]
pub(crate) struct WorkerParts {
    pub(crate) control: Rc<Control>,
    start: Rc<Start>,
    checkpoint: Rc<Option<Checkpoint>>,
    metadata: Rc<Metadata>,
}

impl WorkerParts {
    /// The key groups of this worker.
    pub(crate) fn groups(&self) -> Result<KeyGroupRange> {
        let Control { index, peers, .. } = *self.control;
        self.control.process.max_parallelism.range_of_subtask(index as u32, peers as u32)
    }

    pub(crate) fn shard(&self, operator: &str) -> Result<Shard> {
        let checkpoint = (*self.checkpoint).as_ref();
        let subtask = (self.control.index as u32, self.control.peers as u32);
        self.control.process.shard(&self.start, checkpoint, operator, self.groups()?, subtask)
    }

    /// Which life of the coordinator this is.
    pub(crate) fn life(&self) -> u64 {
        self.start.life
    }

    /// Where the splits of a source had been read to.
    pub(crate) fn positions(&self, source: &str) -> Option<&SourceMeta> {
        self.metadata.sources.get(source)
    }
}

impl<'scope> Flow<'scope> {
    pub(crate) fn new(
        scope: Scope<'scope, Time>,
        control: Rc<Control>,
        start: Start,
        checkpoint: Option<Checkpoint>,
        metadata: Metadata,
    ) -> Self {
        let worker = WorkerParts {
            control,
            start: Rc::new(start),
            checkpoint: Rc::new(checkpoint),
            metadata: Rc::new(metadata),
        };
        Self { scope, worker }
    }

    /// Timely's scope, for its own operators.
    pub fn scope(&self) -> Scope<'scope, Time> {
        self.scope
    }

    /// The number of this worker, from 0.
    pub fn index(&self) -> usize {
        self.worker.control.index
    }

    /// How many workers there are, in all processes.
    pub fn peers(&self) -> usize {
        self.worker.control.peers
    }

    /// Reads a source, whose splits are divided among the workers.
    pub fn source<S: Source>(&self, name: &str, source: S) -> SourceBuilder<'scope, S> {
        SourceBuilder::new(self.scope, self.worker.clone(), name, source)
    }

    /// Brings the records of each key to the worker that owns its key group, to an
    /// operator that keeps state for keys. `key` is called twice for each record, where
    /// it comes from and where it arrives.
    pub fn keyed<R, K>(
        &self,
        name: &str,
        stream: StreamVec<'scope, Time, R>,
        key: impl Fn(&R) -> K + 'static,
    ) -> Keyed<'scope, R, K, K::Codec>
    where
        R: ExchangeData,
        K: HasCodec + 'static,
    {
        self.keyed_by(name, stream, K::Codec::default(), key)
    }

    /// As [`keyed`](Self::keyed), with keys of a type that has no ready codec. States must
    /// use the same codec for keys, or records and states would be on different workers.
    pub fn keyed_by<R, K, C>(
        &self,
        name: &str,
        stream: StreamVec<'scope, Time, R>,
        codec: C,
        key: impl Fn(&R) -> K + 'static,
    ) -> Keyed<'scope, R, K, C>
    where
        R: ExchangeData,
        K: 'static,
        C: Codec<K>,
    {
        Keyed::new(self.worker.clone(), name, stream, codec, Rc::new(key))
    }

    /// As [`keyed`](Self::keyed), of two streams: a join.
    pub fn keyed_two<L, R, K>(
        &self,
        name: &str,
        left: StreamVec<'scope, Time, L>,
        right: StreamVec<'scope, Time, R>,
        left_key: impl Fn(&L) -> K + 'static,
        right_key: impl Fn(&R) -> K + 'static,
    ) -> Keyed<'scope, Either<L, R>, K, K::Codec>
    where
        L: ExchangeData,
        R: ExchangeData,
        K: HasCodec + 'static,
    {
        let both = [left.map(Either::Left), right.map(Either::Right)];
        let both = self.scope.concatenate(both);
        self.keyed(name, both, move |record| match record {
            Either::Left(left) => left_key(left),
            Either::Right(right) => right_key(right),
        })
    }

    /// Writes a stream to files in a directory, each record exactly once: `write` appends
    /// the bytes of a record. See [`FileSink`].
    ///
    /// # Errors
    /// `Invalid` if the name is no name; `Unavailable` if the directory cannot be made.
    pub fn files<R: 'static>(
        &self,
        name: &str,
        stream: StreamVec<'scope, Time, R>,
        sink: FileSink,
        write: impl FnMut(&R, &mut Vec<u8>) + 'static,
    ) -> Result<()> {
        crate::sink::build(&self.worker, name, stream, sink, write)
    }
}

/// Refuses names that cannot be kept.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    if (1..=MAX_NAME_BYTES).contains(&name.len()) {
        return Ok(());
    }
    Err(Error::invalid(format_args!("the name of a {what} has a wrong length"))
        .at(format_args!("{name:.40?}"))
        .expected(format_args!("1 to {MAX_NAME_BYTES} bytes"))
        .found(name.len()))
}

/// Refuses a second part of one kind and name.
pub(crate) fn check_new<'a>(
    what: &str,
    name: &str,
    mut known: impl Iterator<Item = &'a str>,
) -> Result<()> {
    check_name(what, name)?;
    if known.any(|known| known == name) {
        return Err(Error::invalid(format_args!("a job has two {what}s of one name"))
            .at(format_args!("{name:?}"))
            .remedy("give each a name of its own"));
    }
    Ok(())
}
