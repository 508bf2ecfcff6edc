//! Reading an object over the network, where each request costs the same however
//! little it is for.
//!
//! - The end of an object comes along when it is opened. A table is opened by reading
//!   its end, so that is often all.
//! - What is [asked for](ReadAt::will_need) is fetched while others are asked for.
//! - Who reads in order has the next piece fetched while this one is read. How much grows
//!   from read to read, so that two neighbouring blocks are no reason to fetch a
//!   megabyte.
//!
//! Nothing is kept for long: a piece goes when its last byte was read, or when too many came
//! after it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use object_store::GetRange;
use object_store::path::Path;
use parking_lot::{Condvar, Mutex};

use super::{Core, Fetched, fetch, quoted};
use crate::base::Result;
use crate::env::ReadAt;
use crate::object::ObjectName;

/// Most pieces of one object that are kept or on their way.
const MAX_PIECES: usize = 64;

/// Most bytes of them, unless the options have larger ones read ahead: then three such.
const MAX_PIECES_BYTES: u64 = 8 << 20;

/// Readers of one object that are recognised as reading in order.
const MAX_READERS: usize = 8;

/// What the first read in order has fetched ahead.
const FIRST_AHEAD_BYTES: u64 = 128 << 10;

/// An object that is open.
pub(super) struct RemoteObject {
    core: Arc<Core>,
    path: Path,
    len: u64,
    /// The version that was opened: another would be another object.
    version: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last bytes, from `tail_at` on.
    tail: Bytes,
    tail_at: u64,
    /// Oldest first.
    pieces: VecDeque<Piece>,
    /// Who reads in order, most recent last.
    readers: VecDeque<Reader>,
}

/// A range that is on its way, or here.
#[derive(Clone)]
struct Piece {
    range: Range<u64>,
    arrival: Arc<Arrival>,
}

#[derive(Default)]
struct Arrival {
    /// `Some(None)` if it failed: whoever wants it asks again and hears why.
    outcome: Mutex<Option<Option<Bytes>>>,
    arrived: Condvar,
}

/// Somebody who reads in order.
struct Reader {
    /// Where the next read begins if it goes on.
    next: u64,
    /// Up to where there are pieces for it.
    ahead: u64,
    /// How much to fetch next.
    step: u64,
}

/// Where some bytes can be had.
enum Source {
    Tail(Bytes),
    Piece(Piece),
    /// Nowhere but in the service, up to this offset.
    Service(u64),
}

impl RemoteObject {
    /// Opens an object; `None` if there is none, or no bucket.
    pub(super) fn open(core: &Arc<Core>, name: &ObjectName) -> Result<Option<Self>> {
        let path = core.path(name);
        let tail_bytes = core.options.tail_bytes as u64;
        let get = |range, version| {
            core.calls.run(fetch(Arc::clone(&core.service), path.clone(), range, version))
        };
        if tail_bytes > 0 && core.knows_tails.load(Ordering::Relaxed) {
            match get(GetRange::Suffix(tail_bytes), None)? {
                Ok(tail) => return Ok(Some(Self::new(core, path, tail))),
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(object_store::Error::NotSupported { .. }) => {
                    core.knows_tails.store(false, Ordering::Relaxed);
                }
                // Of an empty object there is no such range, for one.
                Err(_) => {}
            }
        }
        let Some(seen) = core.look_quickly(name)? else { return Ok(None) };
        let start = seen.bytes.saturating_sub(tail_bytes);
        if start == seen.bytes {
            let nothing = Fetched { total: start, start, bytes: Bytes::new(), version: None };
            return Ok(Some(Self::new(core, path, nothing)));
        }
        match get(GetRange::Bounded(start..seen.bytes), None)? {
            Ok(tail) => Ok(Some(Self::new(core, path, tail))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(core.failed("cannot open an object", name, e)),
        }
    }

    fn new(core: &Arc<Core>, path: Path, found: Fetched) -> Self {
        let Fetched { total, start, bytes, version } = found;
        let state = State { tail: bytes, tail_at: start, ..State::default() };
        Self { core: Arc::clone(core), path, len: total, version, state: Mutex::new(state) }
    }

    fn check(&self, offset: u64, bytes: usize) -> io::Result<u64> {
        let end = offset.checked_add(bytes as u64).filter(|end| *end <= self.len);
        end.ok_or_else(|| {
            let text = format!("{bytes} bytes at offset {offset} of an object of {}", self.len);
            io::Error::new(io::ErrorKind::UnexpectedEof, text)
        })
    }

    /// Fills `buf` from wherever its bytes are.
    fn fill(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let end = offset + buf.len() as u64;
            let source = self.state.lock().source(offset, end);
            let found = match source {
                Source::Tail(bytes) => bytes,
                Source::Piece(piece) => {
                    let bytes = piece.arrival.wait();
                    let last = piece.range.end <= end;
                    if last || bytes.is_none() {
                        self.state.lock().forget(&piece);
                    }
                    let Some(bytes) = bytes else { continue };
                    bytes.slice((offset - piece.range.start) as usize..)
                }
                Source::Service(end) => self.get(offset..end)?,
            };
            let (now, rest) = buf.split_at_mut(found.len().min(buf.len()));
            now.copy_from_slice(&found[..now.len()]);
            offset += now.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    fn get(&self, range: Range<u64>) -> io::Result<Bytes> {
        let call = self.fetch(range);
        let got = self.core.calls.run(call).map_err(io::Error::other)?;
        got.map(|got| got.bytes).map_err(|e| self.read_error(&e))
    }

    fn fetch(
        &self,
        range: Range<u64>,
    ) -> impl Future<Output = object_store::Result<Fetched>> + Send + use<> {
        let service = Arc::clone(&self.core.service);
        fetch(service, self.path.clone(), GetRange::Bounded(range), self.version.clone())
    }

    fn read_error(&self, e: &object_store::Error) -> io::Error {
        use object_store::Error as E;
        let kind = match e {
            E::NotFound { .. } => io::ErrorKind::NotFound,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                io::ErrorKind::PermissionDenied
            }
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, format!("{} in {}: {}", self.path, self.core.identity, quoted(e)))
    }

    /// Has a range fetched, if it is not at hand or on its way.
    fn ask(&self, state: &mut State, range: Range<u64>) {
        let range = range.start..range.end.min(state.tail_at);
        if range.is_empty() || state.pieces.iter().any(|piece| piece.range.contains(&range.start)) {
            return;
        }
        let arrival = Arc::new(Arrival::default());
        let most = MAX_PIECES_BYTES.max(3 * self.core.options.read_ahead_bytes as u64);
        state.keep(Piece { range: range.clone(), arrival: Arc::clone(&arrival) }, most);
        let call = self.fetch(range);
        let arriving = Arriving(arrival);
        // Nobody waits for the call itself.
        drop(self.core.calls.begin(async move {
            let got = call.await;
            arriving.0.set(got.ok().map(|got| got.bytes));
        }));
    }

    /// Notes a read in order, and has what follows it fetched.
    fn read_ahead(&self, offset: u64, end: u64) {
        let most = self.core.options.read_ahead_bytes as u64;
        let mut state = self.state.lock();
        let known = state.readers.iter().position(|reader| reader.next == offset);
        let Some(mut reader) = known.and_then(|known| state.readers.remove(known)) else {
            if state.readers.len() == MAX_READERS {
                state.readers.pop_front();
            }
            state.readers.push_back(Reader { next: end, ahead: end, step: FIRST_AHEAD_BYTES });
            return;
        };
        reader.next = end;
        reader.ahead = reader.ahead.max(end);
        // While one step is read the next is on its way.
        let step = reader.step.min(most);
        if step > 0 && reader.ahead < self.len && reader.ahead < end.saturating_add(step) {
            let until = reader.ahead.saturating_add(step).min(self.len);
            self.ask(&mut state, reader.ahead..until);
            reader.ahead = until;
            reader.step = step.saturating_mul(2);
        }
        state.readers.push_back(reader);
    }
}

impl ReadAt for RemoteObject {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf.len())?;
        self.fill(offset, buf)
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes).min(self.len);
        if offset < end && bytes <= MAX_PIECES_BYTES {
            self.ask(&mut self.state.lock(), offset..end);
        }
    }

    fn read_through(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = self.check(offset, buf.len())?;
        self.read_ahead(offset, end);
        self.fill(offset, buf)
    }

    fn read_singly(&self, _offset: u64, _bytes: u64) {
        // Whoever read the end has done so.
        let mut state = self.state.lock();
        if state.tail_at > 0 {
            state.tail = Bytes::new();
            state.tail_at = self.len;
        }
    }
}

impl fmt::Debug for RemoteObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}, {} bytes", self.path, self.core.identity, self.len)
    }
}

impl State {
    /// Where the bytes from `offset` on can be had, which are wanted up to `end`.
    fn source(&self, offset: u64, end: u64) -> Source {
        if offset >= self.tail_at {
            let start = (offset - self.tail_at) as usize;
            if start < self.tail.len() {
                return Source::Tail(self.tail.slice(start..));
            }
            return Source::Service(end);
        }
        if let Some(piece) = self.pieces.iter().find(|piece| piece.range.contains(&offset)) {
            return Source::Piece(piece.clone());
        }
        let next = self.pieces.iter().map(|piece| piece.range.start);
        let next = next.filter(|start| *start > offset).min().unwrap_or(end);
        Source::Service(end.min(next).min(self.tail_at))
    }

    fn keep(&mut self, piece: Piece, most_bytes: u64) {
        let bytes = |piece: &Piece| piece.range.end - piece.range.start;
        let mut kept: u64 = self.pieces.iter().map(bytes).sum();
        while !self.pieces.is_empty()
            && (self.pieces.len() >= MAX_PIECES || kept + bytes(&piece) > most_bytes)
        {
            kept -= self.pieces.pop_front().as_ref().map_or(0, bytes);
        }
        self.pieces.push_back(piece);
    }

    fn forget(&mut self, gone: &Piece) {
        self.pieces.retain(|piece| !Arc::ptr_eq(&piece.arrival, &gone.arrival));
    }
}

impl Arrival {
    fn set(&self, outcome: Option<Bytes>) {
        let mut known = self.outcome.lock();
        if known.is_none() {
            *known = Some(outcome);
            self.arrived.notify_all();
        }
    }

    fn wait(&self) -> Option<Bytes> {
        let mut known = self.outcome.lock();
        loop {
            if let Some(outcome) = &*known {
                return outcome.clone();
            }
            self.arrived.wait(&mut known);
        }
    }
}

/// Sees to it that nobody waits for a call that was dropped.
struct Arriving(Arc<Arrival>);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
