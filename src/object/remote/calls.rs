//! Asynchronous calls for a caller that blocks: one thread of our own, which
//! drives them all.
//!
//! The thread is started by the environment, is called `alluvium-objects`, and ends with
//! the store that it belongs to. (Looking up host names may block, which is done on
//! up to [`MOST_LOOKUPS`] threads of the same name that come and go.) What it does to
//! the network is not simulated, and neither are its time-outs and pauses.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::base::{Error, Result};
use crate::env::Env;

const THREAD_NAME: &str = "alluvium-objects";

/// Threads that look up host names at once.
const MOST_LOOKUPS: usize = 2;

/// The thread, and the way to it.
pub(super) struct Calls {
    handle: Handle,
    /// Taken when the thread is to end.
    thread: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Calls {
    pub(super) fn start(env: &dyn Env) -> Result<Self> {
        let failed = |e: io::Error| Error::io("cannot start the thread of an object store", e);
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .thread_name(THREAD_NAME)
            .max_blocking_threads(MOST_LOOKUPS)
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let body = move || {
            // Ends as well if the sender is gone.
            let _ = runtime.block_on(stopped);
            // A look-up of a host name may hang; nobody waits for it.
            runtime.shutdown_background();
        };
        let thread = env.spawn(THREAD_NAME, Box::new(body)).map_err(failed)?;
        Ok(Self { handle, thread: Mutex::new(Some((stop, thread))) })
    }

    /// Begins a call, whether anybody waits for it or not.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Pending<T> {
        let (reply, outcome) = mpsc::sync_channel(1);
        let task = self.handle.spawn(Call { call: Box::pin(call), reply });
        Pending { outcome, task: task.abort_handle() }
    }

    /// Makes a call and waits for its outcome.
    pub(super) fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        self.begin(call).wait()
    }

    /// Waits. Not through the environment: a pause between two attempts at a request is a
    /// matter of the network.
    pub(super) fn pause(&self, duration: Duration) -> Result<()> {
        // The timer wants to be made where it runs.
        self.run(async move { tokio::time::sleep(duration).await })
    }

    /// Runs something that wants to find itself within the runtime, without waiting in it.
    pub(super) fn inside<T>(&self, body: impl FnOnce() -> T) -> T {
        let _inside = self.handle.enter();
        body()
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        let Some((stop, thread)) = self.thread.get_mut().take() else { return };
        let _ = stop.send(());
        // No call holds the store, so this is not the thread itself; but to wait for
        // oneself would be for ever.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

/// A call, and who waits for its outcome. Dropped in this order, also if it has never been
/// polled: whoever hears that there will be no outcome finds that the call is over.
struct Call<F: Future> {
    call: Pin<Box<F>>,
    reply: SyncSender<F::Output>,
}

impl<F: Future> Future for Call<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.call.as_mut().poll(context).map(|outcome| {
            // Whoever has stopped waiting does not want to know.
            let _ = self.reply.send(outcome);
        })
    }
}

/// A call whose outcome is to come.
pub(super) struct Pending<T> {
    outcome: Receiver<T>,
    task: AbortHandle,
}

impl<T> Pending<T> {
    /// Waits for the outcome.
    pub(super) fn wait(self) -> Result<T> {
        self.outcome.recv().map_err(|_| ended())
    }

    /// Waits for the outcome, at most so long; `None` if there is none yet.
    pub(super) fn wait_for(&self, patience: Duration) -> Result<Option<T>> {
        match self.outcome.recv_timeout(patience) {
            Ok(outcome) => Ok(Some(outcome)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
        }
    }

    /// Has the call end where it is, and waits until it has.
    pub(super) fn cancel(self) {
        self.task.abort();
        let _ = self.outcome.recv();
    }
}

/// The call was dropped, which only a panic in it does while the store is open.
fn ended() -> Error {
    Error::internal("a call to an object store ended without an outcome").ambiguous()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::env::RealEnv;

    #[test]
    fn a_call_that_panics_is_an_error_and_the_next_one_works() {
        let calls = Calls::start(&RealEnv::new()).unwrap();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let error = calls.run(async { panic!("on purpose") }).unwrap_err();
        std::panic::set_hook(hook);
        assert!(error.may_have_happened(), "{error}");
        assert_eq!(calls.run(async { 7 }).unwrap(), 7);
    }

    #[test]
    fn calls_may_be_made_from_within_another_runtime() {
        let outer = Builder::new_current_thread().build().unwrap();
        outer.block_on(async {
            let calls = Calls::start(&RealEnv::new()).unwrap();
            assert_eq!(calls.run(async { 7 }).unwrap(), 7);
        });
    }

    #[test]
    fn a_pause_needs_no_runtime_of_the_caller() {
        let calls = Calls::start(&RealEnv::new()).unwrap();
        calls.pause(Duration::ZERO).unwrap();
    }

    #[test]
    fn patience_ends_before_a_call_that_does_not() {
        let calls = Calls::start(&RealEnv::new()).unwrap();
        let (release, released) = oneshot::channel::<()>();
        let pending = calls.begin(async move { released.await.is_ok() });
        assert!(pending.wait_for(Duration::ZERO).unwrap().is_none());
        release.send(()).unwrap();
        assert!(pending.wait().unwrap());
    }

    /// Takes its time to go.
    struct Lingers(Arc<AtomicBool>);

    impl Drop for Lingers {
        fn drop(&mut self) {
            (0..100_000).for_each(|_| std::thread::yield_now());
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_cancelled_call_is_over_when_cancelling_returns() {
        let calls = Calls::start(&RealEnv::new()).unwrap();
        for has_begun in [true, false] {
            let is_over = Arc::new(AtomicBool::new(false));
            let lingers = Lingers(Arc::clone(&is_over));
            let (begins, begun) = mpsc::channel();
            let (release, released) = mpsc::channel::<()>();
            if !has_begun {
                // Keeps the thread from it.
                drop(calls.begin(async move { released.recv() }));
            }
            let pending = calls.begin(async move {
                begins.send(()).unwrap();
                std::future::pending::<()>().await;
                drop(lingers);
            });
            if has_begun {
                begun.recv().unwrap();
            }
            pending.task.abort();
            drop(release);
            pending.cancel();
            assert!(is_over.load(Ordering::SeqCst), "begun: {has_begun}");
        }
    }
}
