//! An S3 server on the loopback interface, in the process of the test, which loses
//! replies, refuses, delays and cuts short when it is told to.
//!
//! What is behind it are the crates `s3s` (the protocol, signatures included) and
//! `s3s-fs` (files in a temporary directory), which share no code with the engine or with the client
//! that it uses. [`strict`] makes of them what Amazon S3 promises where they fall short.

pub mod strict;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use alluvium::env::Env;
use alluvium::object::{RemoteOptions, RemoteStore};
use bytes::Bytes;
use futures_util::TryStreamExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use self::strict::{Strict, Uploads};

/// The bucket that there is.
pub const BUCKET: &str = "bucket";

const ACCESS_KEY: &str = "access";
const SECRET_KEY: &str = "secret";

/// What may happen to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It never arrives; the connection ends.
    LoseRequest,
    /// It has its effect; the connection ends before the reply.
    LoseReply,
    /// It is answered with this status and has no effect.
    Refuse(u16),
    /// It has its effect and is answered with this status.
    Deny(u16),
    /// It is answered, and the connection ends in the middle of the body.
    Cut,
    /// It has its effect, and is never answered.
    Hang,
    /// It has no effect, and is never answered.
    Swallow,
    /// It has its effect and is answered, and in the middle of the body nothing more comes;
    /// if there is no body, it is never answered.
    Stall,
    /// It is answered a little later.
    Delay,
}

impl Fault {
    /// All that there are, but for the one that takes as long as a client waits.
    pub const QUICK: [Self; 13] = [
        Self::LoseRequest,
        Self::LoseReply,
        Self::Refuse(403),
        Self::Refuse(409),
        Self::Refuse(412),
        Self::Refuse(429),
        Self::Refuse(500),
        Self::Refuse(503),
        Self::Deny(409),
        Self::Deny(500),
        Self::Deny(503),
        Self::Cut,
        Self::Delay,
    ];
}

/// Which requests are to suffer.
#[derive(Clone, Copy, Debug)]
struct Plan {
    fault: Fault,
    /// Counted from one.
    first: usize,
    /// And all after it.
    sticky: bool,
}

/// Requests that are answered when so many are there, then so many others, and so on.
#[derive(Clone, Default, Debug)]
struct Trips {
    sizes: Vec<usize>,
    arrived: usize,
    /// Requests that waited in vain for the others of their trip.
    alone: usize,
}

impl Trips {
    /// How many must have arrived before the one of this number is answered; `None` if it
    /// belongs to no trip.
    fn wanted(&self, number: usize) -> Option<usize> {
        let mut sum = 0;
        self.sizes.iter().find_map(|size| {
            sum += size;
            (number <= sum).then_some(sum)
        })
    }
}

#[derive(Default)]
struct Happened {
    requests: Vec<String>,
    plan: Option<Plan>,
    suffered: usize,
    trips: Option<Trips>,
}

/// The server. Ends when it is dropped.
pub struct Server {
    address: SocketAddr,
    happened: Arc<Mutex<Happened>>,
    uploads: Uploads,
    root: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A server with one empty bucket.
    pub fn start() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        create_dir(&root.path().join(BUCKET));
        let strict = Strict::new(root.path());
        let uploads = strict.uploads();
        let mut builder = S3ServiceBuilder::new(strict);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let happened = Arc::new(Mutex::new(Happened::default()));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::clone(&happened);
        let thread = spawn(move || {
            let serve = runtime.spawn(serve(listener, service, shared));
            let _ = runtime.block_on(stopped);
            serve.abort();
            runtime.shutdown_background();
        });
        Self { address, happened, uploads, root, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Options with which a store reaches it, and gives up soon.
    pub fn options(&self) -> RemoteOptions {
        RemoteOptions::new()
            .endpoint(self.endpoint())
            .allow_http(true)
            .region("us-east-1")
            .setting("aws_access_key_id", ACCESS_KEY)
            .setting("aws_secret_access_key", SECRET_KEY)
            .retries(3)
            .first_pause(Duration::from_millis(1))
    }

    /// A store in the bucket, under this prefix.
    pub fn store(&self, env: &Arc<dyn Env>, prefix: &str) -> RemoteStore {
        self.store_with(env, prefix, self.options())
    }

    /// The same, with other options.
    pub fn store_with(
        &self,
        env: &Arc<dyn Env>,
        prefix: &str,
        options: RemoteOptions,
    ) -> RemoteStore {
        let url = format!("s3://{BUCKET}/{prefix}");
        RemoteStore::open(Arc::clone(env), &url, options).expect("a store")
    }

    /// The client of the crate `object_store`, without the engine.
    pub fn plain_client(&self) -> object_store::aws::AmazonS3 {
        object_store::aws::AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(BUCKET)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .build()
            .expect("a client")
    }

    fn happened(&self) -> std::sync::MutexGuard<'_, Happened> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the request of this number from now on, counted from one, suffer this; if
    /// sticky, all after it as well.
    pub fn plan(&self, fault: Fault, first: usize, sticky: bool) {
        let mut happened = self.happened();
        happened.requests.clear();
        happened.suffered = 0;
        happened.plan = Some(Plan { fault, first, sticky });
    }

    /// From now on the first so many requests are answered when all of them are there, then
    /// the next so many, and so on: what is asked for at once is one round trip. Who waits for
    /// others that do not come is answered after a while.
    pub fn in_trips(&self, sizes: &[usize]) {
        let mut happened = self.happened();
        happened.requests.clear();
        happened.trips = Some(Trips { sizes: sizes.to_vec(), ..Trips::default() });
    }

    /// Ends that. Says how many requests came, and how many of them waited in vain.
    pub fn end_trips(&self) -> (usize, usize) {
        let trips = self.happened().trips.take().unwrap_or_default();
        (trips.arrived, trips.alone)
    }

    /// From now on nothing goes wrong. Says how many requests suffered.
    pub fn heal(&self) -> usize {
        let mut happened = self.happened();
        happened.plan = None;
        std::mem::take(&mut happened.suffered)
    }

    /// The requests since this was asked, or a fault planned, in short: `GET tables/7`, and
    /// `if new` behind those that ask to create only.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.happened().requests)
    }

    /// Uploads in parts that were begun and neither completed nor aborted.
    pub fn open_uploads(&self) -> BTreeSet<String> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Files of parts that belong to no object.
    pub fn orphan_parts(&self) -> usize {
        let names = file_names(self.root.path());
        names.iter().filter(|name| name.contains(".part-")).count()
    }

    /// Takes the bucket away, or brings it back.
    pub fn hide_bucket(&self, hidden: bool) {
        let there = self.root.path().join(BUCKET);
        let away = self.root.path().join(format!("{BUCKET}-away"));
        if hidden { rename(&there, &away) } else { rename(&away, &there) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the server lives outside the engine's world")]
fn spawn(body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(body)
}

#[allow(clippy::disallowed_methods, reason = "the server lives outside the engine's world")]
fn create_dir(path: &std::path::Path) {
    std::fs::create_dir(path).expect("a directory");
}

#[allow(clippy::disallowed_methods, reason = "the server lives outside the engine's world")]
fn rename(from: &std::path::Path, to: &std::path::Path) {
    std::fs::rename(from, to).expect("another name");
}

#[allow(clippy::disallowed_methods, reason = "the server lives outside the engine's world")]
fn file_names(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

async fn serve(listener: TcpListener, service: S3Service, happened: Arc<Mutex<Happened>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        tokio::spawn(serve_one(stream, service.clone(), Arc::clone(&happened)));
    }
}

async fn serve_one(stream: TcpStream, service: S3Service, happened: Arc<Mutex<Happened>>) {
    let answer = service_fn(move |request| answer(request, service.clone(), Arc::clone(&happened)));
    // Else a small reply waits for the client to acknowledge the one before.
    let _ = stream.set_nodelay(true);
    let connection = hyper::server::conn::http1::Builder::new();
    // An error here is one that was planned, or a client that went.
    let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
}

/// Ends a connection.
#[derive(Debug)]
struct Ended;

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("planned")
    }
}

impl std::error::Error for Ended {}

async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    happened: Arc<Mutex<Happened>>,
) -> Result<Response<Body>, Ended> {
    let fault = {
        let mut happened = happened.lock().unwrap_or_else(PoisonError::into_inner);
        let path = request.uri().path().trim_start_matches('/');
        let path = path.strip_prefix(BUCKET).unwrap_or(path).trim_start_matches('/');
        let query = request.uri().query().map_or(String::new(), |query| format!("?{query}"));
        let only_if = if request.headers().contains_key("if-none-match") { " if new" } else { "" };
        happened.requests.push(format!("{} {path}{query}{only_if}", request.method()));
        let number = happened.requests.len();
        let hit =
            happened.plan.filter(|plan| number == plan.first || plan.sticky && number > plan.first);
        happened.suffered += usize::from(hit.is_some());
        hit.map(|plan| plan.fault)
    };
    meet(&happened).await;
    match fault {
        Some(Fault::LoseRequest) => return Err(Ended),
        Some(Fault::Refuse(status)) => {
            // What is left unread on a connection would be taken for the next request.
            let _ = Body::from(request.into_body()).try_collect::<Vec<Bytes>>().await;
            return Ok(error(status));
        }
        Some(Fault::Swallow) => std::future::pending::<()>().await,
        Some(Fault::Delay) => tokio::time::sleep(Duration::from_millis(3)).await,
        _ => {}
    }
    let reply = service.call(request.map(Body::from)).await.map_err(|_| Ended)?;
    match fault {
        Some(Fault::LoseReply) => Err(Ended),
        Some(Fault::Deny(status)) => Ok(error(status)),
        Some(fault @ (Fault::Cut | Fault::Stall)) => {
            let (head, body) = reply.into_parts();
            let pieces: Vec<Bytes> = body.try_collect().await.map_err(|_| Ended)?;
            let whole: Bytes = pieces.concat().into();
            let stalls = fault == Fault::Stall;
            if whole.is_empty() {
                if stalls {
                    std::future::pending::<()>().await;
                }
                return Err(Ended);
            }
            let half = Some(whole.slice(..whole.len() / 2));
            let body = HalfBody { bytes: whole.len() as u64, half, stalls };
            Ok(Response::from_parts(head, Body::http_body(body)))
        }
        Some(Fault::Hang) => {
            std::future::pending::<()>().await;
            Err(Ended)
        }
        _ => Ok(reply),
    }
}

/// Waits for the other requests of the same round trip, if there are to be any.
async fn meet(happened: &Mutex<Happened>) {
    /// Looks, a millisecond apart.
    const PATIENCE: usize = 20_000;
    let lock = || happened.lock().unwrap_or_else(PoisonError::into_inner);
    let number = lock().trips.as_mut().map(|trips| {
        trips.arrived += 1;
        trips.arrived
    });
    let Some(number) = number else { return };
    for _ in 0..PATIENCE {
        let is_there = lock()
            .trips
            .as_ref()
            .is_none_or(|trips| trips.wanted(number).is_none_or(|wanted| trips.arrived >= wanted));
        if is_there {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if let Some(trips) = &mut lock().trips {
        trips.alone += 1;
    }
}

fn error(status: u16) -> Response<Body> {
    let code = match status {
        403 => "AccessDenied",
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        503 | 429 => "SlowDown",
        _ => "InternalError",
    };
    let text = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>planned</Message></Error>"
    );
    let mut reply = Response::new(Body::from(text));
    *reply.status_mut() = StatusCode::from_u16(status).expect("a status");
    reply
}

/// The first half of a body whose length was announced in full.
struct HalfBody {
    bytes: u64,
    half: Option<Bytes>,
    /// Nothing comes after it; else the connection ends.
    stalls: bool,
}

impl HttpBody for HalfBody {
    type Data = Bytes;
    type Error = Ended;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        let next = self.half.take().filter(|half| !half.is_empty());
        match next {
            // Nobody wakes it: the client gives up.
            None if self.stalls => Poll::Pending,
            next => Poll::Ready(Some(next.map(Frame::data).ok_or(Ended))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}
