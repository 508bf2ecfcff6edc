//! The sink of one worker: turns records into bytes, and hands them to its writer.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use alluvium::{Error, Result};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::FileSink;
use super::files::{Command, Done, Writer};
use crate::align::Alignment;
use crate::control::mail::Report;
use crate::control::{Control, Member, Notice};
use crate::flow::WorkerParts;
use crate::time::{self, Time};

/// Bytes that go to the writer at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// After which the backlog is looked at again.
const BACKLOG_INTERVAL: Duration = Duration::from_millis(2);

struct Operator<R, W> {
    control: Rc<Control>,
    member: Rc<Member>,
    name: String,
    alignment: Alignment<R>,
    write: W,
    chunk: Vec<u8>,
    commands: Sender<Command>,
    done: Receiver<Done>,
    backlog: Arc<AtomicUsize>,
    backlog_bytes: usize,
}

pub(super) fn build<R: 'static>(
    worker: &WorkerParts,
    name: &str,
    stream: StreamVec<'_, Time, R>,
    sink: FileSink,
    write: impl FnMut(&R, &mut Vec<u8>) + 'static,
) -> Result<()> {
    let control = Rc::clone(&worker.control);
    let env = Arc::clone(&control.process.env);
    env.fs().create_dir_all(&sink.dir).map_err(|e| {
        Error::io("the directory of a sink cannot be made", e).at(sink.dir.display())
    })?;
    let scope = stream.scope();
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let mut input = builder.new_input(stream, Pipeline);
    let address = builder.operator_info().address;
    let (command, commands) = channel();
    let (finished, done) = channel();
    let backlog = Arc::new(AtomicUsize::new(0));
    let writer = Writer {
        env: Arc::clone(&env),
        dir: sink.dir.clone(),
        life: worker.life(),
        worker: control.index,
        commands,
        done: finished,
        activator: scope.worker().sync_activator_for(address.to_vec()),
        backlog: Arc::clone(&backlog),
    };
    let spawned = env.spawn("alluvium-sink", Box::new(move || writer.run()));
    let member = control.join(scope.activator_for(address), true);
    let mut operator = Operator {
        control: Rc::clone(&control),
        member,
        name: name.to_owned(),
        alignment: Alignment::new(),
        write,
        chunk: Vec::new(),
        commands: command,
        done,
        backlog,
        backlog_bytes: sink.backlog_bytes,
    };
    builder.build(move |_| {
        move |frontiers| {
            control.guard(|| {
                operator.hear()?;
                let mut outcome = Ok(());
                input.for_each(|capability, records| {
                    if outcome.is_ok() {
                        let records = std::mem::take(records);
                        outcome = operator.take_in(capability.stamp().elements(), records);
                    }
                });
                outcome?;
                operator.go_on(time::least(&frontiers[0].frontier()))
            });
        }
    });
    // The operator is in its place whatever happens.
    spawned.map(|_| ()).map_err(|e| Error::io("no thread for a sink", e))
}

impl<R, W: FnMut(&R, &mut Vec<u8>)> Operator<R, W> {
    fn hear(&mut self) -> Result<()> {
        while let Some(notice) = self.member.next() {
            match notice {
                Notice::Trigger(barrier) => self.alignment.expect(barrier),
                Notice::Completed(id) => {
                    self.member.owed.set(self.member.owed.get() + 1);
                    self.tell(Command::Commit(id))?;
                }
                Notice::Aborted(_) | Notice::AllPassed(_) => {}
            }
        }
        while let Ok(done) = self.done.try_recv() {
            match done {
                Done::Prepared { id, parts } => {
                    self.control.report(Report::Prepared { sink: self.name.clone(), id, parts });
                }
                Done::Committed => self.member.owed.set(self.member.owed.get() - 1),
                Done::Failed(error) => {
                    return Err(error.at(format_args!("sink {:?}", self.name)));
                }
            }
        }
        Ok(())
    }

    fn take_in(&mut self, stamp: &[Time], records: Vec<R>) -> Result<()> {
        match self.alignment.admit(time::single(stamp)?, records) {
            Some(batch) => self.work(&batch.records),
            None => Ok(()),
        }
    }

    fn work(&mut self, records: &[R]) -> Result<()> {
        for record in records {
            (self.write)(record, &mut self.chunk);
            if self.chunk.len() >= CHUNK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn go_on(&mut self, frontier: Time) -> Result<()> {
        if self.backlog.load(Ordering::Acquire) > self.backlog_bytes {
            self.member.activator().activate_after(BACKLOG_INTERVAL);
            return Ok(());
        }
        while let Some(barrier) = self.alignment.next_barrier(frontier) {
            self.flush()?;
            let is_elsewhere = barrier.place.is_some();
            self.tell(Command::Prepare { id: barrier.id, is_elsewhere })?;
            let waiting = self.alignment.pass(barrier.id);
            self.control.passed(barrier.id);
            for batch in waiting {
                self.work(&batch.records)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        self.backlog.fetch_add(chunk.len(), Ordering::AcqRel);
        self.tell(Command::Write(chunk))
    }

    fn tell(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| {
            Error::closed("the writer of a sink has ended").at(format_args!("sink {:?}", self.name))
        })
    }
}
