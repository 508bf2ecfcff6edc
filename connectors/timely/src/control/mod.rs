//! What the operators of one worker share: orders of the master, reports to it.
//!
//! Messages travel in a dataflow of their own, beside that of the job, point to point:
//! timely delivers what one worker sends another in order, and what is sent without
//! anybody waiting for a frontier. Every operator of the job that takes part in
//! checkpoints is a [`Member`] with an inbox; it is activated when something lies in it.
//!
//! Promises that every member of a worker gets the orders in the order in which the
//! master gave them.

pub(crate) mod mail;
pub(crate) mod watch;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use alluvium::{Error, Result};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::{Activator, SyncActivator};
use timely::worker::Worker;

use self::mail::{Failure, Mail, Order, Plan, Report, Start, Trigger};
use crate::process::{Process, Shape};

/// The worker that the master's messages come through.
pub(crate) const MASTER: u64 = 0;

/// An order, as a member gets it.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Trigger(Trigger),
    AllPassed(u64),
    Completed(u64),
    Aborted(u64),
}

/// How the job ended, as this worker knows it.
#[derive(Clone, Debug)]
pub(crate) enum Over {
    Finished { checkpoint: Option<u64>, savepoint: Option<String> },
    Failed(Failure),
}

/// One operator that takes part in checkpoints.
pub(crate) struct Member {
    activator: Activator,
    inbox: RefCell<VecDeque<Notice>>,
    /// Things that must be done before the worker may end.
    pub(crate) owed: Cell<usize>,
    /// When its next timer of the processing time is due: it is activated then.
    pub(crate) due: Cell<Option<i64>>,
    /// Whether barriers pass it: sources send them instead.
    is_passed: bool,
}

impl Member {
    pub(crate) fn next(&self) -> Option<Notice> {
        self.inbox.borrow_mut().pop_front()
    }

    pub(crate) fn activator(&self) -> &Activator {
        &self.activator
    }

    fn is_settled(&self) -> bool {
        self.inbox.borrow().is_empty() && self.owed.get() == 0
    }
}

/// The worker's part of the job.
pub(crate) struct Control {
    pub(crate) index: usize,
    pub(crate) peers: usize,
    pub(crate) process: Arc<Process>,
    outbox: RefCell<Vec<(u64, Mail)>>,
    activator: RefCell<Option<Activator>>,
    members: RefCell<Vec<Rc<Member>>>,
    /// How many members each barrier has passed.
    passed: RefCell<BTreeMap<u64, usize>>,
    pub(crate) plan: RefCell<Plan>,
    start: RefCell<Option<Start>>,
    /// When this worker beats next, by the clock that only goes on.
    beats_at_ns: Cell<u64>,
    /// The master waits to hear that nothing is owed any more.
    is_settling: Cell<bool>,
    over: RefCell<Option<Over>>,
}

/// The ends of the master's thread that the first worker holds.
pub(crate) struct ToMaster {
    pub(crate) orders: Receiver<Order>,
    pub(crate) reports: Sender<Report>,
    pub(crate) attach: Sender<SyncActivator>,
}

impl Control {
    /// Builds the dataflow of messages. `master` is there in the first worker.
    pub(crate) fn build(
        worker: &mut Worker,
        process: Arc<Process>,
        master: Option<ToMaster>,
    ) -> Rc<Self> {
        let control = Rc::new(Self {
            index: worker.index(),
            peers: worker.peers(),
            process,
            outbox: RefCell::default(),
            activator: RefCell::default(),
            members: RefCell::default(),
            passed: RefCell::default(),
            plan: RefCell::default(),
            start: RefCell::default(),
            beats_at_ns: Cell::new(0),
            is_settling: Cell::new(false),
            over: RefCell::default(),
        });
        let peers = worker.peers() as u64;
        let (orders, attach, reports) = match master {
            Some(ToMaster { orders, reports, attach }) => {
                (Some(orders), Some(attach), Some(reports))
            }
            None => (None, None, None),
        };
        worker.dataflow_named::<u64, _, _>("Control", |scope| {
            let mut builder = OperatorBuilder::new("Post".to_owned(), scope);
            let (output, stream) = builder.new_output::<Vec<(u64, Mail)>>();
            let mut output =
                OutputBuilder::<_, CapacityContainerBuilder<Vec<(u64, Mail)>>>::from(output);
            let address = builder.operator_info().address;
            *control.activator.borrow_mut() = Some(scope.activator_for(Rc::clone(&address)));
            if let Some(attach) = attach {
                // If the master has ended its failure is the process's.
                let _ = attach.send(scope.worker().sync_activator_for(address.to_vec()));
            }
            let shared = Rc::clone(&control);
            builder.build(move |mut capabilities| {
                let capability = capabilities.remove(0);
                move |_| {
                    let mut mails = shared.outbox.take();
                    for order in orders.iter().flat_map(Receiver::try_iter) {
                        mails.extend((0..peers).map(|to| (to, Mail::Order(order.clone()))));
                    }
                    if !mails.is_empty() {
                        let mut output = output.activate();
                        output.session(&capability).give_iterator(mails.into_iter());
                    }
                }
            });

            let mut builder = OperatorBuilder::new("Delivery".to_owned(), scope);
            let pact = Exchange::new(|mail: &(u64, Mail)| mail.0);
            let mut input = builder.new_input(stream, pact);
            let shared = Rc::clone(&control);
            builder.build(move |_| {
                move |_| {
                    input.for_each(|_, mails| {
                        for (_, mail) in mails.drain(..) {
                            match (mail, &reports) {
                                (Mail::Order(order), _) => shared.obey(order),
                                (Mail::Report(report), Some(reports)) => {
                                    // As above.
                                    let _ = reports.send(report);
                                }
                                (Mail::Report(_), None) => {}
                                (Mail::Beat { process }, _) => shared.process.hear(process),
                            }
                        }
                    });
                }
            });
        });
        control
    }

    fn obey(&self, order: Order) {
        match order {
            Order::Start(start) => *self.start.borrow_mut() = Some(start),
            Order::Trigger(trigger) => {
                let id = trigger.id;
                self.tell(&Notice::Trigger(trigger));
                self.report_passed(id);
            }
            Order::AllPassed(id) => self.tell(&Notice::AllPassed(id)),
            Order::Completed(id) => self.tell(&Notice::Completed(id)),
            Order::Aborted(id) => self.tell(&Notice::Aborted(id)),
            Order::Settle => self.is_settling.set(true),
            Order::Finish { checkpoint, savepoint } => {
                let mut over = self.over.borrow_mut();
                over.get_or_insert(Over::Finished { checkpoint, savepoint });
            }
            Order::Fail(failure) => self.fail_here(failure),
        }
    }

    fn tell(&self, notice: &Notice) {
        for member in &*self.members.borrow() {
            member.inbox.borrow_mut().push_back(notice.clone());
            member.activator.activate();
        }
    }

    /// A new member, to be activated as this operator is.
    pub(crate) fn join(&self, activator: Activator, is_passed: bool) -> Rc<Member> {
        let member = Rc::new(Member {
            activator,
            inbox: RefCell::default(),
            owed: Cell::new(0),
            due: Cell::new(None),
            is_passed,
        });
        self.members.borrow_mut().push(Rc::clone(&member));
        member
    }

    /// Says that a barrier has passed one more member; when it has passed all of them the
    /// master hears of it.
    pub(crate) fn passed(&self, id: u64) {
        *self.passed.borrow_mut().entry(id).or_default() += 1;
        self.report_passed(id);
    }

    fn report_passed(&self, id: u64) {
        let of = self.members.borrow().iter().filter(|member| member.is_passed).count();
        if self.passed.borrow().get(&id).copied().unwrap_or(0) == of {
            self.passed.borrow_mut().remove(&id);
            self.report(Report::Passed { worker: self.index as u64, id });
        }
    }

    /// Sends something to the master.
    pub(crate) fn report(&self, report: Report) {
        self.outbox.borrow_mut().push((MASTER, Mail::Report(report)));
        if let Some(activator) = &*self.activator.borrow() {
            activator.activate();
        }
    }

    /// Ends the job because of an error: here at once, elsewhere as soon as it is heard.
    pub(crate) fn fail(&self, error: &Error) {
        let failure = Failure::of(error);
        self.report(Report::Failed(failure.clone()));
        self.fail_here(failure);
    }

    fn fail_here(&self, failure: Failure) {
        let mut over = self.over.borrow_mut();
        if !matches!(&*over, Some(Over::Failed(_))) {
            *over = Some(Over::Failed(failure));
        }
    }

    /// Runs a part of an operator, unless the job is over; an error ends the job.
    pub(crate) fn guard(&self, work: impl FnOnce() -> Result<()>) {
        if self.over.borrow().as_ref().is_some_and(|over| matches!(over, Over::Failed(_))) {
            return;
        }
        if let Err(error) = work() {
            self.fail(&error);
        }
    }

    /// Activates the members whose timers of the processing time are due. Gives back how
    /// long the worker may sleep before others are, at most `nap`: so no timer is late
    /// because of a nap, and nobody waits by asking again and again.
    pub(crate) fn wake_due(&self, nap: Duration) -> Duration {
        let members = self.members.borrow();
        let mut timed = members.iter().filter_map(|member| Some((member, member.due.get()?)));
        let Some(first) = timed.next() else { return nap };
        let now = self.process.now();
        std::iter::once(first).chain(timed).fold(nap, |nap, (member, due)| {
            if due <= now {
                member.activator.activate();
                return nap;
            }
            nap.min(Duration::from_millis(due.abs_diff(now)))
        })
    }

    /// Says to the other processes that this one is there, if it is time, and looks whether
    /// they are.
    ///
    /// # Errors
    /// `Unavailable` if one was not heard of for too long.
    pub(crate) fn beat(&self) -> Result<()> {
        let Some(interval) = self.process.beat_interval else { return Ok(()) };
        let now_ns = self.process.env.monotonic_ns();
        if now_ns < self.beats_at_ns.get() {
            return Ok(());
        }
        self.beats_at_ns.set(now_ns.saturating_add(interval.as_nanos() as u64));
        let Shape { process, threads, workers } = self.process.shape;
        let others = (0..workers / threads).filter(|other| *other != process);
        let beat =
            |other| ((other * threads + self.index % threads) as u64, Mail::Beat { process });
        self.outbox.borrow_mut().extend(others.map(beat));
        if let Some(activator) = &*self.activator.borrow() {
            activator.activate();
        }
        self.process.look(now_ns)
    }

    /// What the job goes on from, once it was heard.
    pub(crate) fn start(&self) -> Option<Start> {
        self.start.borrow().clone()
    }

    /// How the job ended, if it has. Before it ends well the master hears from every
    /// worker that nothing is owed any more.
    pub(crate) fn over(&self) -> Option<Over> {
        let is_settled = || self.members.borrow().iter().all(|member| member.is_settled());
        if self.is_settling.get() && is_settled() {
            self.is_settling.set(false);
            self.report(Report::Settled);
        }
        self.over.borrow().clone()
    }
}
