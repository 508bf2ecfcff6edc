//! Objects in the object store of a cloud, or in whatever the crate `object_store` has an
//! implementation for.
//!
//! ```text
//! <prefix>/<name>     an object; nothing else is kept
//! ```
//!
//! # How an object comes to be
//!
//! Each create draws a *mark*, a random number that is kept with the object as metadata.
//!
//! - What fits one part is created by one request that says: only if there is no such
//!   object.
//! - What is larger is sent in parts, some at once, and exists when the upload is completed.
//!   Whether the name is free is asked before the first part, and again by the completion
//!   itself where the service can do so (Amazon S3 and most that speak like it), else just
//!   before it: then, of two creators of one name who complete at the same time, the later
//!   one wins. Names are unique, so there are none.
//! - An upload that fails or is cancelled is aborted. One whose process dies leaves its
//!   parts, which nobody sees and the service keeps: have it remove them, by a rule of the bucket for
//!   incomplete uploads.
//!
//! # What an error means
//!
//! Requests that a service refuses for now are repeated, so a request may have had
//! its effect when a later attempt says "it exists". Whoever hears that, or hears nothing at
//! all, reads the object's metadata: if it has the mark, the create has succeeded. Only if it
//! has another does "it exists" mean what it says. What cannot be decided so is marked as
//! ambiguous. (Services that keep no metadata, such as HDFS, have the bytes compared instead.)
//!
//! "It is not there" is believed when the service says so and the bucket can be listed; else a missing
//! bucket would look like one that is empty.
//!
//! # What a service does not have
//!
//! - A removed object cannot be read to its end by who has it open: reading fails as
//!   `NotFound`. One that somebody replaced, around the engine, fails as well.
//! - HDFS has objects of up to [`part_bytes`](RemoteOptions::part_bytes) written under a name of their
//!   own, which begins with a dot, and renamed, never over another; larger ones over
//!   whatever has come to be there since the name was looked for. A writer that dies
//!   leaves the first name. "Durable" is what HDFS takes for it: on three machines, and not
//!   synced to their disks.

mod address;
mod calls;
mod options;
mod read;
mod upload;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path as LocalPath;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::TryStreamExt;
use object_store::path::{Path, PathPart};
use object_store::{Attribute, GetOptions, GetRange, ObjectStore as Service, ObjectStoreExt};

pub use options::{MAX_PART_BYTES, MIN_PART_BYTES, RemoteOptions};

use self::address::Address;
use self::calls::Calls;
use self::read::RemoteObject;
use super::name::{check_prefix, parent_of};
use super::{Contents, ObjectName, ObjectStore, missing};
use crate::base::{Error, Result};
use crate::env::{Env, ReadAt};

/// The name under which a service keeps the mark of a create. (Azure allows no hyphen.)
const MARK: &str = "alluviumcreate";

/// The name under which it keeps the hash of the bytes, for people.
const HASH: &str = "alluviumhash";

/// Objects that are created by one request each are best created so many at a time: they
/// wait, and take as much memory as a few large ones, at most.
const SMALL_AT_ONCE: usize = 8;

/// Longest text of a service that is repeated in an error.
const MAX_QUOTED_BYTES: usize = 1000;

/// An [`ObjectStore`] in Amazon S3, Google Cloud Storage, Azure, HDFS, or anywhere else
/// that the crate `object_store` reaches.
///
/// Costs: an object of up to [`part_bytes`](RemoteOptions::part_bytes) is created by one
/// request; a larger one by one for each part and four more. Opening one takes a request,
/// which brings its end along, and reading another for each range that is not at hand.
///
/// All calls block, also within an asynchronous runtime, which they do not use.
pub struct RemoteStore {
    core: Arc<Core>,
}

/// What objects that are open share with their store.
struct Core {
    env: Arc<dyn Env>,
    service: Arc<dyn Service>,
    prefix: Path,
    identity: String,
    options: RemoteOptions,
    /// The service keeps metadata, as far as is known.
    keeps_marks: AtomicBool,
    /// The service knows what the last bytes of an object are, as far as is known.
    knows_tails: AtomicBool,
    /// Last: it is joined when nobody needs it any more.
    calls: Calls,
}

/// What a service says about an object.
struct Seen {
    bytes: u64,
    mark: Option<String>,
}

impl RemoteStore {
    /// Opens the store at `url`: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`,
    /// `az://CONTAINER/PREFIX` (or `abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX`),
    /// `hdfs://NAME_NODE:PORT/PREFIX` with the feature `hdfs`.
    ///
    /// Starts a thread; sends no request.
    ///
    /// # Errors
    /// `Invalid` if the URL or an option is wrong, or a credential is missing;
    /// `Unavailable` if the thread cannot be started.
    pub fn open(env: Arc<dyn Env>, url: &str, options: RemoteOptions) -> Result<Self> {
        options.check()?;
        let calls = Calls::start(&*env)?;
        let address = address::connect(url, &options, &calls)?;
        Ok(Self::new(env, address, options, calls))
    }

    /// A store in `service`, which may be anything that creates conditionally
    /// (`PutMode::Create`). All objects get names that begin with `prefix` and a slash, or
    /// with their own if it is empty. Of the options only those about parts and reading
    /// count: timeouts and repetitions are the service's own.
    ///
    /// `identity` is a stable text for the service and its bucket, without secrets. The
    /// prefix is added to it.
    ///
    /// # Errors
    /// `Invalid` if the prefix cannot be one or an option is wrong; `Unavailable` if
    /// the thread cannot be started.
    pub fn over(
        env: Arc<dyn Env>,
        service: Arc<dyn Service>,
        prefix: &str,
        identity: &str,
        options: RemoteOptions,
    ) -> Result<Self> {
        options.check()?;
        let prefix = Path::parse(prefix)
            .map_err(|e| Error::invalid("not a prefix for an object store").source(e))?;
        address::check_prefix(&prefix)?;
        let calls = Calls::start(&*env)?;
        let identity = format!("{identity}/{prefix}");
        Ok(Self::new(env, Address { service, prefix, identity }, options, calls))
    }

    fn new(env: Arc<dyn Env>, address: Address, options: RemoteOptions, calls: Calls) -> Self {
        let Address { service, prefix, identity } = address;
        let core = Core {
            env,
            service,
            prefix,
            identity,
            options,
            keeps_marks: AtomicBool::new(true),
            knows_tails: AtomicBool::new(true),
            calls,
        };
        Self { core: Arc::new(core) }
    }
}

impl Core {
    fn path(&self, name: &ObjectName) -> Path {
        let name = name.as_str().split('/').map(PathPart::from);
        self.prefix.parts().chain(name).collect()
    }

    /// The name of what is at `path`; `None` if no object can be called so.
    fn name_of(&self, path: &Path) -> Option<ObjectName> {
        let parts: Vec<_> = path.prefix_match(&self.prefix)?.collect();
        let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
        ObjectName::new(parts.join("/")).ok()
    }

    /// What there is under `name`; `None` only if that is certain.
    fn look(&self, name: &ObjectName) -> Result<Option<Seen>> {
        let seen = self.look_quickly(name)?;
        if seen.is_none() {
            self.check_present(name)?;
        }
        Ok(seen)
    }

    /// As [`look`](Self::look), but it may be the bucket that is missing.
    fn look_quickly(&self, name: &ObjectName) -> Result<Option<Seen>> {
        let (service, path) = (Arc::clone(&self.service), self.path(name));
        let options = GetOptions::new().with_head(true);
        match self.calls.run(async move { service.get_opts(&path, options).await })? {
            Ok(found) => {
                let mark = found.attributes.get(&Attribute::Metadata(MARK.into()));
                let mark = mark.map(|mark| mark.as_ref().to_owned());
                Ok(Some(Seen { bytes: found.meta.size, mark }))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed("cannot look for an object", name, e)),
        }
    }

    /// Says whether "not found" can be believed. Asks for what is beneath an object, which
    /// is nothing, so the answer is short.
    fn check_present(&self, name: &ObjectName) -> Result<()> {
        let (service, path) = (Arc::clone(&self.service), self.path(name));
        let asked = async move { service.list(Some(&path)).try_next().await };
        self.calls.run(asked)?.map(drop).map_err(|e| {
            self.failed("the place of an object store cannot be found", name, e)
                .remedy("does the bucket exist, and may it be listed?")
        })
    }

    fn failed(&self, what: &str, at: impl fmt::Display, e: object_store::Error) -> Error {
        let error = Error::unavailable(what)
            .at(format_args!("{at} in {}", self.identity))
            .source(quoted(&e));
        if is_forbidden(&e) {
            error.remedy("check the credentials and what they permit")
        } else {
            error
        }
    }
}

impl ObjectStore for RemoteStore {
    fn identity(&self) -> String {
        self.core.identity.clone()
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn creates_at_once(&self, bytes: u64) -> usize {
        if bytes <= self.core.options.part_bytes as u64 { SMALL_AT_ONCE } else { 1 }
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        upload::create(&self.core, name, bytes)
    }

    fn create_from_file(
        &self,
        name: &ObjectName,
        local: &LocalPath,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let source = self.core.env.fs().open(local).map_err(|e| {
            Error::io("cannot open the file to be stored", e).at(local.display()).at(name)
        })?;
        self.create_from_source(name, &*source, expected, keep_going)
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        upload::create_from(&self.core, name, source, expected, keep_going)
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        match RemoteObject::open(&self.core, name)? {
            Some(object) => Ok(Arc::new(object)),
            None => {
                self.core.check_present(name)?;
                Err(missing(name, self))
            }
        }
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        Ok(self.core.look(name)?.map(|seen| seen.bytes))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        check_prefix(prefix)?;
        let core = &*self.core;
        let service = Arc::clone(&core.service);
        let parent = parent_of(prefix).split('/').filter(|part| !part.is_empty());
        let within: Path = core.prefix.parts().chain(parent.map(PathPart::from)).collect();
        let listed = core.calls.run(async move {
            let within = (!within.as_ref().is_empty()).then_some(within);
            service.list(within.as_ref()).map_ok(|found| found.location).try_collect().await
        })?;
        let listed: Vec<Path> =
            listed.map_err(|e| core.failed("cannot list an object store", prefix, e))?;
        let names = listed.iter().filter_map(|path| core.name_of(path));
        let names: BTreeSet<_> = names.filter(|name| name.as_str().starts_with(prefix)).collect();
        Ok(names.into_iter().collect())
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        let core = &*self.core;
        let (service, path) = (Arc::clone(&core.service), core.path(name));
        let error = match core.calls.run(async move { service.delete(&path).await })? {
            Ok(()) => return Ok(()),
            Err(object_store::Error::NotFound { .. }) => return core.check_present(name),
            Err(e) => e,
        };
        let refused = is_refusal(&error);
        let error = core.failed("cannot remove an object", name, error);
        if refused {
            return Err(error);
        }
        // The reply may be lost, and the object gone.
        match core.look(name) {
            Ok(None) => Ok(()),
            _ => Err(error.ambiguous()),
        }
    }
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteStore({})", self.core.identity)
    }
}

/// Whether the service does not let us, as far as it has said so.
fn is_forbidden(e: &object_store::Error) -> bool {
    use object_store::Error as E;
    match e {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => true,
        // Of a list there is no more than the words.
        E::Generic { source, .. } => {
            let text = source.to_string();
            ["403 Forbidden", "401 Unauthorized"].iter().any(|status| text.contains(status))
        }
        _ => false,
    }
}

/// Whether the service has said that it did nothing, and why.
fn is_refusal(e: &object_store::Error) -> bool {
    use object_store::Error as E;
    matches!(
        e,
        E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::NotFound { .. }
            | E::NotImplemented { .. }
            | E::NotSupported { .. }
            | E::InvalidPath { .. }
            | E::UnknownConfigurationKey { .. }
    )
}

/// What a service says, cut where it gets long.
fn quoted(e: &object_store::Error) -> String {
    let mut text = e.to_string();
    if text.len() > MAX_QUOTED_BYTES {
        let end = (0..=MAX_QUOTED_BYTES).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str("...");
    }
    text
}

/// A range of an object, or its last bytes; what the whole of it is like; and its version.
struct Fetched {
    total: u64,
    start: u64,
    bytes: bytes::Bytes,
    version: Option<String>,
}

/// Reads a range, and no more of it than was asked for.
async fn fetch(
    service: Arc<dyn Service>,
    path: Path,
    range: GetRange,
    version: Option<String>,
) -> object_store::Result<Fetched> {
    let options = GetOptions::new().with_range(Some(range)).with_if_match(version);
    let found = service.get_opts(&path, options).await?;
    let (total, version, range) = (found.meta.size, found.meta.e_tag.clone(), found.range.clone());
    let wanted = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let wrong = |got: usize| object_store::Error::Generic {
        store: "response",
        source: format!("expected {wanted} bytes of {path}, found {got}").into(),
    };
    let mut pieces = found.into_stream();
    let mut first = bytes::Bytes::new();
    let mut joined = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        let got = first.len() + joined.len() + piece.len();
        if got > wanted {
            return Err(wrong(got));
        }
        if first.is_empty() && joined.is_empty() {
            first = piece;
        } else {
            if joined.is_empty() {
                joined.reserve_exact(wanted);
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&piece);
        }
    }
    let bytes = if joined.is_empty() { first } else { joined.into() };
    if bytes.len() != wanted {
        return Err(wrong(bytes.len()));
    }
    Ok(Fetched { total, start: range.start, bytes, version })
}
