//! Reading a canonical savepoint, entry by entry, front to back.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::base::checksum::{ContentHash, ContentHasher};
use crate::base::hash::{group_of_hash, hash_key};
use crate::base::{Error, FileId, KeyGroup, MaxParallelism, Result};
use crate::env::ReadAt;
use crate::format::canonical::{
    Block, End, Entry, Head, MAX_FRAME_BYTES, Name, PIECE_BYTES, PerPlace, Section, Shape, identity,
};
use crate::format::frame::{FRAME_HEADER_BYTES, PartKind, checksum_matches, decode_frame};

/// Bytes of the head by which its length is known.
const FIRST_BYTES: usize = 16;
/// Buffers larger than this are given back.
const KEPT_BYTES: usize = 4 << 20;

/// Lends the entries of a canonical savepoint in order.
///
/// Everything is checked on the way: each frame against its checksum, the order of the
/// entries, and at last the counts and the hash of everything. *Until
/// [`next`](Self::next) has returned `None` nobody knows whether something is missing*:
/// whoever builds something of what was read throws it away after an error.
///
/// Holds one frame, and one value if that is long; the head is as large as there are
/// states and schemas. Reads about a megabyte at most beyond what it lends.
///
/// ```no_run
/// # fn main() -> alluvium::Result<()> {
/// use alluvium::savepoint::SavepointReader;
///
/// # #[allow(clippy::disallowed_methods)]
/// let file = std::fs::File::open("job.savepoint").unwrap();
/// let mut savepoint = SavepointReader::open(std::io::BufReader::new(file))?;
/// for section in savepoint.head().sections() {
///     let operator = &section.operator().name;
///     println!("{operator} {}: {} entries", section.name(), section.entries());
/// }
/// while let Some((section, entry)) = savepoint.next()? {
///     println!("section {section}: {:?}", entry.key);
/// }
/// # Ok(())
/// # }
/// ```
pub struct SavepointReader<R> {
    input: R,
    offset: u64,
    file: FileId,
    head: Head,
    shapes: Vec<Seen>,
    hasher: ContentHasher,
    /// The current frame as stored, and decompressed if it had to be.
    frame: Vec<u8>,
    raw: Vec<u8>,
    is_raw: bool,
    block: Option<Block>,
    /// The section of the last block.
    section: Option<u32>,
    last: Option<Last>,
    long: Vec<u8>,
    frames: u64,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Reading,
    Ended(End),
    Failed,
}

/// A section, and what was seen of it.
struct Seen {
    shape: Shape,
    groups: u32,
    wanted: (u64, u64),
    entries: u64,
    bytes: u64,
    /// The entries of each part of an operator state, which part the last entry was in,
    /// and how many there are up to the end of it.
    parts: Vec<u64>,
    part: usize,
    behind: u64,
}

/// The entry that the next one must follow.
#[derive(Default)]
struct Last {
    key: Vec<u8>,
    namespace: Vec<u8>,
    group: Option<KeyGroup>,
    name: Vec<u8>,
    time: Option<i64>,
}

impl<R: io::Read> SavepointReader<R> {
    /// Reads and checks the head.
    ///
    /// # Errors
    /// `Corrupt` if no savepoint begins so, `Incompatible` if it is one of another
    /// version, `Unavailable` if the stream fails.
    pub fn open(mut input: R) -> Result<Self> {
        let mut bytes = Vec::new();
        read_to(&mut input, &mut bytes, FIRST_BYTES)?;
        let len = Head::encoded_len(&bytes)?;
        read_to(&mut input, &mut bytes, len)?;
        let head = Head::decode(&bytes)?;
        let stored: [u8; 16] = *bytes.last_chunk().expect("an envelope ends with its hash");
        let mut hasher = ContentHasher::new();
        hasher.update(&bytes);
        let shapes = head.sections().map(|section| Seen::of(&section)).collect();
        Ok(Self {
            input,
            offset: bytes.len() as u64,
            file: identity(ContentHash(u128::from_le_bytes(stored))),
            head,
            shapes,
            hasher,
            frame: Vec::new(),
            raw: Vec::new(),
            is_raw: false,
            block: None,
            section: None,
            last: None,
            long: Vec::new(),
            frames: 0,
            progress: Progress::Reading,
        })
    }

    /// What the savepoint holds. Its counts are checked only when everything has been
    /// read.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// What the savepoint ended with, once [`next`](Self::next) has returned `None`.
    pub fn end(&self) -> Option<&End> {
        match &self.progress {
            Progress::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// The next entry and the number of its section; `None` when everything has been
    /// read and was as it should be.
    ///
    /// # Errors
    /// `Corrupt` if something is damaged, missing, out of order or too much,
    /// `Incompatible` if something is not known here, `Unavailable` if the stream fails;
    /// `Closed` after any of them.
    #[expect(clippy::should_implement_trait, reason = "an Iterator cannot lend")]
    pub fn next(&mut self) -> Result<Option<(u32, Entry<'_>)>> {
        match self.progress {
            Progress::Reading => {}
            Progress::Ended(_) => return Ok(None),
            Progress::Failed => {
                return Err(Error::closed("reading a canonical savepoint failed before")
                    .remedy("read it from its beginning, or another copy"));
            }
        }
        // Set while anything can go wrong, so that every way out is covered.
        self.progress = Progress::Failed;
        if let Some(end) = self.find_block()? {
            self.progress = Progress::Ended(end);
            return Ok(None);
        }
        let Some(block) = &mut self.block else {
            return Err(Error::internal("a savepoint has no block to lend from"));
        };
        let number = block.section();
        let at = number as usize;
        let payload = payload_of(&self.frame, &self.raw, self.is_raw);
        let shape = self.shapes[at].shape;
        let next = block.next_of(payload, &shape).map_err(|error| error.at(self.offset))?;
        let Some((mut entry, long)) = next else {
            return Err(Error::internal("a block ended before its time"));
        };
        check_order(&mut self.last, &entry, &shape, self.shapes[at].groups)
            .map_err(|why| why.at(place(&self.head, at)))?;
        if let Some(len) = long {
            // The frame is kept: the entry lies in it.
            let mut pieces = Pieces {
                input: &mut self.input,
                offset: &mut self.offset,
                file: self.file,
                hasher: &mut self.hasher,
                frames: &mut self.frames,
            };
            pieces.read(len, &mut self.long)?;
            entry.value = &self.long;
        }
        let seen = &mut self.shapes[at];
        entry.schema = seen.count(&entry).map_err(|why| why.at(place(&self.head, at)))?;
        self.progress = Progress::Reading;
        Ok(Some((number, entry)))
    }

    /// Sees to it that there is a block with an entry; or checks the end.
    fn find_block(&mut self) -> Result<Option<End>> {
        if self.block.as_ref().is_some_and(Block::has_more) {
            return Ok(None);
        }
        self.block = None;
        if self.long.capacity() > KEPT_BYTES {
            self.long = Vec::new();
        }
        let mut frames =
            Frames { input: &mut self.input, offset: &mut self.offset, file: self.file };
        let (kind, is_raw) = frames.read(&mut self.frame, &mut self.raw)?;
        self.is_raw = is_raw;
        let payload = payload_of(&self.frame, &self.raw, is_raw);
        match kind {
            PartKind::Entries => {
                self.frames += 1;
                self.hasher.update(payload);
                let block = Block::begin(payload).map_err(|error| error.at(self.offset))?;
                let section = block.section();
                if section as usize >= self.shapes.len() {
                    return Err(corrupt("a block belongs to no section")
                        .expected(format_args!("less than {}", self.shapes.len()))
                        .found(section)
                        .at(self.offset));
                }
                match self.section {
                    Some(last) if last > section => {
                        return Err(corrupt("a block is out of order")
                            .expected(format_args!("section {last} or a later one"))
                            .found(section)
                            .at(self.offset));
                    }
                    Some(last) if last == section => {}
                    _ => self.last = None,
                }
                self.section = Some(section);
                self.block = Some(block);
                Ok(None)
            }
            PartKind::End => {
                let end = End::decode(payload)?;
                self.check_end(&end)?;
                Ok(Some(end))
            }
            _ => Err(corrupt("a piece belongs to no value").at(self.offset)),
        }
    }

    fn check_end(&mut self, end: &End) -> Result<()> {
        for (at, seen) in self.shapes.iter().enumerate() {
            if seen.wanted != (seen.entries, seen.bytes) {
                let text = |(entries, bytes)| format!("{entries} entries of {bytes} bytes");
                return Err(corrupt("it does not hold what its head says")
                    .at(place(&self.head, at))
                    .expected(text(seen.wanted))
                    .found(text((seen.entries, seen.bytes))));
            }
        }
        let sum = |count: fn(&Seen) -> u64| self.shapes.iter().map(count).sum::<u64>();
        let (entries, bytes) = (sum(|seen| seen.entries), sum(|seen| seen.bytes));
        for (what, expected, found) in [
            ("frames", end.frames, self.frames),
            ("entries", end.entries, entries),
            ("bytes", end.bytes, bytes),
        ] {
            if expected != found {
                return Err(corrupt(format_args!("its end counts other {what}"))
                    .expected(expected)
                    .found(found));
            }
        }
        let hash = self.hasher.finish();
        if !checksum_matches(hash, end.hash) {
            return Err(corrupt("its hash does not match").expected(end.hash).found(hash));
        }
        let mut more = Vec::new();
        if read_some(&mut self.input, &mut more, 1)? {
            return Err(corrupt("something follows its end").at(self.offset));
        }
        Ok(())
    }
}

impl Seen {
    fn of(section: &Section<'_>) -> Self {
        let parts = match section {
            Section::State(..) => Vec::new(),
            Section::Items(_, items) => items.parts.iter().map(|(_, count)| *count).collect(),
        };
        Self {
            shape: section.shape(),
            groups: section.operator().max_parallelism.get(),
            wanted: (section.entries(), section.bytes()),
            entries: 0,
            bytes: 0,
            part: 0,
            behind: parts.first().copied().unwrap_or_default(),
            parts,
        }
    }

    /// Counts an entry, and says which schema it has.
    fn count(&mut self, entry: &Entry<'_>) -> Result<usize> {
        let number = self.entries;
        self.entries += 1;
        self.bytes += entry.bytes();
        if self.entries > self.wanted.0 {
            return Err(corrupt("there are more entries than its head says").found(self.entries));
        }
        if self.parts.is_empty() {
            return Ok(entry.schema);
        }
        while number >= self.behind {
            // The counts of all parts are those of the section.
            self.part += 1;
            self.behind += self.parts.get(self.part).copied().unwrap_or(u64::MAX >> 1);
        }
        Ok(self.part)
    }
}

fn check_order(
    last: &mut Option<Last>,
    entry: &Entry<'_>,
    shape: &Shape,
    groups: u32,
) -> Result<()> {
    if let Some(group) = entry.group {
        let max = MaxParallelism::new(groups)?;
        if u32::from(group.0) >= groups || group_of_hash(hash_key(entry.key), max) == group {
            return Err(corrupt("the key group of an entry cannot have been chosen")
                .expected(format_args!("less than {groups}, and not the one of the key"))
                .found(group));
        }
    }
    let is_first = last.is_none();
    let before = last.get_or_insert_default();
    let same_place = (&*before.key, &*before.namespace, before.group) == entry.place();
    let follows = is_first
        || if same_place {
            match shape.per_place {
                PerPlace::One => false,
                PerPlace::Sequence => true,
                PerPlace::Named => match entry.name {
                    Name::Time(time) => before.time < Some(time),
                    Name::Key(name) => &*before.name < name,
                    Name::None => false,
                },
            }
        } else {
            (&*before.key, &*before.namespace, before.group) < entry.place()
        };
    if !follows {
        return Err(corrupt("an entry is out of order, or comes twice"));
    }
    if !same_place {
        before.key.clear();
        before.key.extend_from_slice(entry.key);
        before.namespace.clear();
        before.namespace.extend_from_slice(entry.namespace);
        before.group = entry.group;
    }
    before.name.clear();
    match entry.name {
        Name::None => {}
        Name::Key(name) => before.name.extend_from_slice(name),
        Name::Time(time) => before.time = Some(time),
    }
    Ok(())
}

/// Reads one frame after the other.
struct Frames<'a, R> {
    input: &'a mut R,
    offset: &'a mut u64,
    file: FileId,
}

impl<R: io::Read> Frames<'_, R> {
    /// Reads a frame into `frame`, and decompresses it into `raw`, which is then what
    /// counts, if need be.
    fn read(&mut self, frame: &mut Vec<u8>, raw: &mut Vec<u8>) -> Result<(PartKind, bool)> {
        frame.clear();
        read_to(self.input, frame, FRAME_HEADER_BYTES).map_err(|error| error.at(&self.offset))?;
        let kind = match frame[8] {
            7 => PartKind::Entries,
            8 => PartKind::Piece,
            9 => PartKind::End,
            other => {
                return Err(corrupt("there is no frame where one should be")
                    .at(&self.offset)
                    .expected("one of kind 7 to 9")
                    .found(other));
            }
        };
        let len_at = |at: usize| {
            u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]) as usize
        };
        let (raw_len, stored_len) = (len_at(12), len_at(16));
        if raw_len.max(stored_len) > MAX_FRAME_BYTES {
            return Err(corrupt("a frame is too large")
                .at(&self.offset)
                .expected(format_args!("at most {MAX_FRAME_BYTES} bytes"))
                .found(raw_len.max(stored_len)));
        }
        let bytes = FRAME_HEADER_BYTES + stored_len;
        read_to(self.input, frame, bytes).map_err(|error| error.at(&self.offset))?;
        let payload = decode_frame(frame, self.file, kind, *self.offset, raw)?;
        // A payload that lies at the end of its frame was not decompressed.
        let stored = payload.as_ptr_range().end == frame.as_ptr_range().end;
        *self.offset += bytes as u64;
        Ok((kind, !stored))
    }
}

/// Reads the pieces of a long value.
struct Pieces<'a, R> {
    input: &'a mut R,
    offset: &'a mut u64,
    file: FileId,
    hasher: &'a mut ContentHasher,
    frames: &'a mut u64,
}

impl<R: io::Read> Pieces<'_, R> {
    fn read(&mut self, len: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let (mut frame, mut raw) = (Vec::new(), Vec::new());
        while out.len() < len {
            let Self { input, offset, file, .. } = self;
            let (kind, is_raw) =
                Frames { input, offset, file: *file }.read(&mut frame, &mut raw)?;
            let payload = payload_of(&frame, &raw, is_raw);
            let wanted = (len - out.len()).min(PIECE_BYTES);
            if kind != PartKind::Piece || payload.len() != wanted {
                return Err(corrupt("a long value is cut short")
                    .at(&self.offset)
                    .expected(format_args!("a piece of {wanted} bytes"))
                    .found(format_args!("a {} of {} bytes", kind.name(), payload.len())));
            }
            *self.frames += 1;
            self.hasher.update(payload);
            out.extend_from_slice(payload);
        }
        Ok(())
    }
}

fn payload_of<'a>(frame: &'a [u8], raw: &'a [u8], is_raw: bool) -> &'a [u8] {
    if is_raw { raw } else { frame.get(FRAME_HEADER_BYTES..).unwrap_or_default() }
}

/// Reads until `bytes` are `len`. What a damaged length says is not reserved before it
/// has come.
fn read_to(input: &mut impl io::Read, bytes: &mut Vec<u8>, len: usize) -> Result<()> {
    if read_some(input, bytes, len - bytes.len())? {
        return Ok(());
    }
    Err(corrupt("it is cut short")
        .expected(format_args!("{len} bytes"))
        .found(format_args!("{} before the end", bytes.len())))
}

/// Reads so many bytes; `false` if the end comes before.
fn read_some(input: &mut impl io::Read, bytes: &mut Vec<u8>, wanted: usize) -> Result<bool> {
    let mut wanted_only = io::Read::take(input, wanted as u64);
    let read = io::Read::read_to_end(&mut wanted_only, bytes).map_err(|source| {
        Error::io("a canonical savepoint could not be read", source)
            .remedy("read it from its beginning")
    })?;
    Ok(read == wanted)
}

/// An object, or a file, as a stream from its beginning.
#[derive(Debug)]
pub struct ObjectStream {
    source: Arc<dyn ReadAt>,
    at: u64,
}

impl ObjectStream {
    /// Of all bytes of `source`.
    pub fn new(source: Arc<dyn ReadAt>) -> Self {
        Self { source, at: 0 }
    }
}

impl io::Read for ObjectStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.source.len() - self.at;
        let read = left.min(bytes.len() as u64) as usize;
        self.source.read_through(self.at, &mut bytes[..read])?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cold]
fn corrupt(what: impl fmt::Display) -> Error {
    Error::corrupt(format_args!("canonical savepoint is damaged: {what}"))
        .remedy("use another copy of it")
}

fn place(head: &Head, at: usize) -> String {
    match head.sections().nth(at) {
        Some(section) => {
            format!("operator {:?}, state {:?}", section.operator().name, section.name())
        }
        None => format!("section {at}"),
    }
}

impl<R> fmt::Debug for SavepointReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavepointReader")
            .field("job", &self.head.job)
            .field("offset", &self.offset)
            .field("section", &self.section)
            .finish_non_exhaustive()
    }
}
