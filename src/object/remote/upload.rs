//! Creating objects: by one request, or in parts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use object_store::{
    Attribute, Attributes, MultipartUpload, ObjectStore as Service, PutMode, PutMultipartOptions,
    PutOptions, PutPayload,
};

use super::calls::Pending;
use super::{Core, GetRange, HASH, MARK, Seen, fetch, is_refusal};
use crate::base::checksum::ContentHasher;
use crate::base::{Error, Result};
use crate::env::ReadAt;
use crate::object::{
    COPY_STEP_BYTES, Contents, ObjectName, already_exists, cancelled, copy_checked, not_as_expected,
};

/// How long to wait for a part before the caller is asked again whether to go on.
const ASKED_EVERY: Duration = Duration::from_millis(100);

/// Creates an object from bytes that are at hand.
pub(super) fn create(core: &Core, name: &ObjectName, bytes: &[u8]) -> Result<()> {
    let contents = Contents::of(bytes);
    if bytes.len() <= core.options.part_bytes {
        return at_once(core, name, Bytes::copy_from_slice(bytes), &contents);
    }
    let source = Slice(bytes);
    in_parts(core, name, &source, &contents, &mut |_| true)
}

/// Creates an object from what can be read.
pub(super) fn create_from(
    core: &Core,
    name: &ObjectName,
    source: &dyn ReadAt,
    expected: &Contents,
    keep_going: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    if source.len() > core.options.part_bytes as u64 {
        return in_parts(core, name, source, expected, keep_going);
    }
    let mut bytes = Vec::with_capacity(source.len() as usize);
    copy_checked(name, source, expected, keep_going, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    at_once(core, name, bytes.into(), expected)
}

/// What an attempt to create an object came to.
enum Outcome {
    Created,
    /// Somebody else's object has the name.
    Taken,
    /// Nobody's: the attempt had no effect, as far as can be seen.
    Nothing,
}

/// Creates an object by one request.
fn at_once(core: &Core, name: &ObjectName, bytes: Bytes, contents: &Contents) -> Result<()> {
    let mark = new_mark(core);
    // Whether an attempt may yet have its effect, though none is to be seen.
    let mut uncertain = false;
    let mut failures = 0;
    loop {
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: attributes(core, &mark, contents),
            ..PutOptions::default()
        };
        let marked = !options.attributes.is_empty();
        let (service, path) = (Arc::clone(&core.service), core.path(name));
        let payload = PutPayload::from_bytes(bytes.clone());
        let put = async move { service.put_opts(&path, payload, options).await };
        let Err(e) = core.calls.run(put)? else { return Ok(()) };
        if marked && is_not_supported(&e) {
            core.keeps_marks.store(false, Ordering::Relaxed);
            continue;
        }
        let refused = is_refusal(&e);
        let exists = is_conflict(&e);
        uncertain |= !refused && !exists;
        // What the service refused for now, and not for a conflict, was repeated already.
        let most = if exists { core.options.retries } else { 1 };
        let error = core.failed("cannot create an object", name, e);
        let error = if uncertain { error.ambiguous() } else { error };
        if refused && !uncertain {
            return Err(error);
        }
        match settle(core, name, &mark, contents, uncertain) {
            Ok(Outcome::Created) => return Ok(()),
            Ok(Outcome::Taken) => return Err(already_exists(name)),
            // What the service took for a conflict is over, or it lost the request. To ask
            // once more replaces nothing.
            Ok(Outcome::Nothing) if failures < most && !refused => {
                core.calls.pause(core.options.pause(failures, core.env.random_u64()))?;
                failures += 1;
            }
            Ok(Outcome::Nothing) => return Err(error),
            Err(unsettled) => {
                tracing::debug!(%name, error = %unsettled, "could not read back what was created");
                return Err(error.ambiguous());
            }
        }
    }
}

/// Reads back what became of a create.
fn settle(
    core: &Core,
    name: &ObjectName,
    mark: &str,
    contents: &Contents,
    uncertain: bool,
) -> Result<Outcome> {
    let Some(seen) = core.look(name)? else { return Ok(Outcome::Nothing) };
    Ok(match &seen.mark {
        Some(found) if found == mark => {
            check_bytes(name, &seen, contents)?;
            Outcome::Created
        }
        Some(_) => Outcome::Taken,
        // No mark: of another's making, or one by a service that keeps none. If a create
        // of ours may have had an effect, and these are its bytes, this is it.
        None if uncertain && holds(core, name, &seen, contents)? => Outcome::Created,
        None => Outcome::Taken,
    })
}

/// Whether an object that is ours has its size. The service has checked its bytes: each
/// request is signed over a hash of them.
fn check_bytes(name: &ObjectName, seen: &Seen, contents: &Contents) -> Result<()> {
    if seen.bytes == contents.bytes {
        return Ok(());
    }
    Err(Error::corrupt("an object is not what was sent")
        .at(name)
        .expected(contents)
        .found(format_args!("{} bytes", seen.bytes))
        .remedy("remove it; the service has lost a part of it")
        .ambiguous())
}

/// Whether an object holds just these bytes.
fn holds(core: &Core, name: &ObjectName, seen: &Seen, contents: &Contents) -> Result<bool> {
    if seen.bytes != contents.bytes {
        return Ok(false);
    }
    let mut hasher = ContentHasher::new();
    let mut done = 0;
    while done < contents.bytes {
        let end = contents.bytes.min(done + COPY_STEP_BYTES as u64);
        let (service, path) = (Arc::clone(&core.service), core.path(name));
        let range = GetRange::Bounded(done..end);
        let piece = core.calls.run(fetch(service, path, range, None))?;
        let piece = piece.map_err(|e| core.failed("cannot read an object back", name, e))?;
        hasher.update(&piece.bytes);
        done = end;
    }
    Ok(hasher.finish() == contents.hash)
}

/// Creates an object in parts.
fn in_parts(
    core: &Core,
    name: &ObjectName,
    source: &dyn ReadAt,
    expected: &Contents,
    keep_going: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    let total = source.len();
    if total != expected.bytes {
        return Err(not_as_expected(name, expected, format_args!("{total} bytes")));
    }
    if !keep_going(0) {
        return Err(cancelled(name, 0));
    }
    if core.look_quickly(name)?.is_some() {
        return Err(already_exists(name));
    }
    let mark = new_mark(core);
    let mut upload = Upload::begin(core, name, &mark, expected)?;
    let sent = upload.send(source, expected, keep_going);
    if let Err(error) = sent.and_then(|()| upload.check_free()) {
        upload.abort();
        return Err(error);
    }
    upload.complete(&mark, expected)
}

/// An object on its way, in parts.
struct Upload<'a> {
    core: &'a Core,
    name: &'a ObjectName,
    /// Taken while it is being completed or aborted.
    parts: Option<Box<dyn MultipartUpload>>,
    under_way: VecDeque<Pending<object_store::Result<()>>>,
}

impl<'a> Upload<'a> {
    fn begin(
        core: &'a Core,
        name: &'a ObjectName,
        mark: &str,
        contents: &Contents,
    ) -> Result<Self> {
        loop {
            let options = PutMultipartOptions {
                attributes: attributes(core, mark, contents),
                ..PutMultipartOptions::default()
            };
            let marked = !options.attributes.is_empty();
            let (service, path) = (Arc::clone(&core.service), core.path(name));
            let begun = async move { service.put_multipart_opts(&path, options).await };
            match core.calls.run(begun)? {
                Ok(parts) => {
                    let under_way = VecDeque::new();
                    return Ok(Self { core, name, parts: Some(parts), under_way });
                }
                Err(e) if marked && is_not_supported(&e) => {
                    core.keeps_marks.store(false, Ordering::Relaxed);
                }
                // It may have begun, but then it is no object, and never will be.
                Err(e) => return Err(core.failed("cannot begin to create an object", name, e)),
            }
        }
    }

    /// Reads all of `source`, sends it, and vouches that it was what is `expected`.
    fn send(
        &mut self,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let part_bytes = self.core.options.part_bytes_of(expected.bytes);
        let mut hasher = ContentHasher::new();
        let mut done = 0;
        while done < expected.bytes {
            let mut part = vec![0; (expected.bytes - done).min(part_bytes as u64) as usize];
            for piece in part.chunks_mut(COPY_STEP_BYTES) {
                if done > 0 && !keep_going(done) {
                    return Err(cancelled(self.name, done));
                }
                source.read_through(done, piece).map_err(|e| {
                    Error::io("cannot read what is to be stored", e).at(done).at(self.name)
                })?;
                hasher.update(piece);
                done += piece.len() as u64;
            }
            self.wait_until(self.core.options.parallel_parts - 1, done, keep_going)?;
            self.send_part(part)?;
        }
        if !keep_going(done) {
            return Err(cancelled(self.name, done));
        }
        let hash = hasher.finish();
        if hash != expected.hash {
            let found = Contents { bytes: done, hash };
            return Err(not_as_expected(self.name, expected, found));
        }
        self.wait_until(0, done, keep_going)
    }

    fn send_part(&mut self, part: Vec<u8>) -> Result<()> {
        let parts = self.parts.as_mut().ok_or_else(over)?;
        let sent = self.core.calls.inside(|| parts.put_part(part.into()));
        self.under_way.push_back(self.core.calls.begin(sent));
        Ok(())
    }

    /// Waits until at most `most` parts are under way.
    fn wait_until(
        &mut self,
        most: usize,
        done: u64,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        while self.under_way.len() > most {
            match self.under_way[0].wait_for(ASKED_EVERY)? {
                Some(sent) => {
                    self.under_way.pop_front();
                    let failed =
                        |e| self.core.failed("cannot send a part of an object", self.name, e);
                    sent.map_err(failed)?;
                }
                None if keep_going(done) => {}
                None => return Err(cancelled(self.name, done)),
            }
        }
        Ok(())
    }

    /// Asks once more whether the name is free, for services whose completion cannot.
    fn check_free(&self) -> Result<()> {
        match self.core.look_quickly(self.name)? {
            None => Ok(()),
            Some(_) => Err(already_exists(self.name)),
        }
    }

    /// Has the service make an object of the parts, and looks at it.
    fn complete(mut self, mark: &str, contents: &Contents) -> Result<()> {
        let (core, name) = (self.core, self.name);
        let mut parts = self.parts.take().ok_or_else(over)?;
        let completed = core.calls.run(async move {
            let completed = parts.complete().await;
            (parts, completed)
        });
        let (parts, completed) = completed?;
        self.parts = Some(parts);
        let Err(e) = completed else { return self.look_at_it(mark, contents) };
        let error = core.failed("cannot create an object of its parts", name, e);
        match settle(core, name, mark, contents, true) {
            Ok(Outcome::Created) => Ok(()),
            Ok(Outcome::Taken) => {
                self.abort();
                Err(already_exists(name))
            }
            // The service may be at it still.
            Ok(Outcome::Nothing) => {
                self.abort();
                Err(error.ambiguous())
            }
            Err(unsettled) => {
                tracing::debug!(%name, error = %unsettled, "could not read back what was created");
                Err(error.ambiguous())
            }
        }
    }

    /// Checks that the object which the service says it has made is there, and whole.
    fn look_at_it(&self, mark: &str, contents: &Contents) -> Result<()> {
        let name = self.name;
        let seen = self.core.look_quickly(name).map_err(Error::ambiguous)?;
        let Some(seen) = seen else {
            let error = Error::unavailable("an object is not there although it was completed");
            return Err(error.at(name).ambiguous());
        };
        if seen.mark.as_ref().is_some_and(|found| found != mark) {
            return Err(already_exists(name));
        }
        check_bytes(name, &seen, contents)
    }

    /// Has the service forget the parts.
    fn abort(&mut self) {
        // A part that arrives later would stay behind.
        self.under_way.drain(..).for_each(Pending::cancel);
        let Some(mut parts) = self.parts.take() else { return };
        let aborted = self.core.calls.run(async move { parts.abort().await });
        let error = match aborted {
            Ok(Ok(())) => return,
            // It has never begun, or is over.
            Ok(Err(object_store::Error::NotFound { .. })) => return,
            Ok(Err(e)) => self.core.failed("cannot abort an upload", self.name, e),
            Err(error) => error,
        };
        tracing::warn!(name = %self.name, %error, "parts of an object that was not created stay behind");
    }
}

fn over() -> Error {
    Error::internal("an upload goes on after its end")
}

fn new_mark(core: &Core) -> String {
    format!("{:016x}{:016x}", core.env.random_u64(), core.env.random_u64())
}

fn attributes(core: &Core, mark: &str, contents: &Contents) -> Attributes {
    let mut attributes = Attributes::new();
    if core.keeps_marks.load(Ordering::Relaxed) {
        attributes.insert(Attribute::Metadata(MARK.into()), mark.to_owned().into());
        attributes.insert(Attribute::Metadata(HASH.into()), contents.hash.to_string().into());
    }
    attributes
}

fn is_not_supported(e: &object_store::Error) -> bool {
    use object_store::Error as E;
    matches!(e, E::NotImplemented { .. } | E::NotSupported { .. })
}

/// Whether the service has said that the name is taken, or in dispute (409): the same
/// to the crate `object_store`.
fn is_conflict(e: &object_store::Error) -> bool {
    use object_store::Error as E;
    matches!(e, E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. })
}

/// Bytes in memory, as something to read.
#[derive(Debug)]
struct Slice<'a>(&'a [u8]);

impl ReadAt for Slice<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).ok();
        let found = start.and_then(|start| self.0.get(start..start.checked_add(buf.len())?));
        buf.copy_from_slice(found.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
