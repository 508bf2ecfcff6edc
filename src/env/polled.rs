//! Reads of single pieces of a file that look again instead of sleeping.
//!
//! Who waits for one piece of a fast disk (30 to 100 us) loses a good part of that time to
//! going to sleep, to the interrupt and to being woken up. Here the thread asks for the
//! piece, and then looks whether it is there, giving way between two looks to whoever else
//! wants the processor.
//!
//! It sleeps all the same, as any read does,
//!
//! - if so many threads are looking as leave one processor to others, of those that this
//!   process may use: in a container with one processor nobody looks;
//! - if another thread wanted the processor: whoever gives way waits for milliseconds, where
//!   one that slept is served first. After that nobody looks for some pieces, the more the
//!   more often it happens ([`LONGEST_REST`]);
//! - if the piece has not come after [`PATIENCE`]; then the disk is slow or has much to do,
//!   and the next [`SLEPT_AFTER_ONE_IN_VAIN`] pieces of the file are not looked for either;
//! - if the file system cannot say whether a read would wait, as some cannot.

#![allow(
    clippy::disallowed_methods,
    reason = "the clock tells how long the real disk has been waited for, and decides nothing else"
)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a piece is looked for. What takes longer gains little by it.
const PATIENCE: Duration = Duration::from_micros(200);

/// Pieces of a file that are not looked for after one that did not come in time.
const SLEPT_AFTER_ONE_IN_VAIN: u32 = 15;

/// Between two looks so much time passes only if another thread had the processor.
const GAVE_WAY: Duration = Duration::from_micros(100);

/// Pieces that nobody looks for after one thread gave way to another, when that has not
/// happened for long, and at most: some thousands cost as much as giving way once.
const SHORTEST_REST: u32 = 64;
const LONGEST_REST: u32 = 16 * 1024;

/// Each piece that was found makes the next rest shorter by one part in so many.
const REST_FADES_BY: u32 = 64;

/// Instead of a number of pieces: none is ever looked for.
const NEVER: u32 = u32::MAX;

/// The threads of this process that may look at once: one processor is left to others.
static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    Places::new(processors - 1)
});

/// A file of which single pieces are waited for.
#[derive(Debug)]
pub(super) struct PolledFile {
    file: File,
    slept: AtomicU32,
}

impl PolledFile {
    /// A file whose pieces are looked for, or, unless it `looks`, slept for as ever.
    pub(super) fn new(file: File, looks: bool) -> Self {
        Self { file, slept: AtomicU32::new(if looks { 0 } else { NEVER }) }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buf` from `offset`.
    pub(super) fn read_piece(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let done = look_for(&self.file, &self.slept, &PLACES, offset, buf);
        match &mut buf[done..] {
            [] => Ok(()),
            rest => self.file.read_exact_at(rest, offset + done as u64),
        }
    }

    /// Waits until the page that has this offset is in memory, or as long as that is worth
    /// while.
    pub(super) fn await_page(&self, offset: u64) {
        look_for(&self.file, &self.slept, &PLACES, offset, &mut [0]);
    }
}

/// Places for threads that look.
#[derive(Debug)]
struct Places {
    most: usize,
    taken: AtomicUsize,
    /// Pieces that nobody looks for until somebody does again.
    resting: AtomicU32,
    /// How long the last rest was, or less if all went well since.
    rest: AtomicU32,
}

// Counts that order nothing else; two threads may count one piece.
impl Places {
    fn new(most: usize) -> Self {
        Self {
            most,
            taken: AtomicUsize::new(0),
            resting: AtomicU32::new(0),
            rest: AtomicU32::new(0),
        }
    }

    /// A place, until the returned value is dropped, if there is one.
    fn take(&self) -> Option<Place<'_>> {
        let resting = self.resting.load(Ordering::Relaxed);
        if resting > 0 {
            self.resting.store(resting - 1, Ordering::Relaxed);
            return None;
        }
        let place = Place(self);
        (self.taken.fetch_add(1, Ordering::Relaxed) < self.most).then_some(place)
    }

    /// Who looked had to give way to another thread.
    fn note_gave_way(&self) {
        let rest = self.rest.load(Ordering::Relaxed).saturating_mul(2);
        let rest = rest.clamp(SHORTEST_REST, LONGEST_REST);
        self.rest.store(rest, Ordering::Relaxed);
        self.resting.store(rest, Ordering::Relaxed);
    }

    /// Who looked found it.
    fn note_found(&self) {
        let rest = self.rest.load(Ordering::Relaxed);
        if rest > 0 {
            self.rest.store(rest - rest.div_ceil(REST_FADES_BY), Ordering::Relaxed);
        }
    }
}

struct Place<'a>(&'a Places);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a look at a piece came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    /// So many bytes of it are there, and have been read; more than none.
    Some(usize),
    /// The disk has to be waited for.
    NotYet,
    /// Something is wrong, or there is nothing: a read that sleeps will say what.
    Unknown,
    /// Nobody can ever say.
    Never,
}

/// What can be looked at without waiting.
trait Look {
    /// Reads what is in memory of a piece.
    fn look(&self, offset: u64, buf: &mut [u8]) -> Seen;

    /// Has a piece brought into memory; returns at once.
    fn ask_for(&self, offset: u64, bytes: usize);

    /// The time.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Lets another thread have the processor that wants it.
    fn give_way(&self) {
        thread::yield_now();
    }
}

/// Looks for a piece, and says how much of it was read. `slept` is how many of the next
/// pieces are not looked for; two threads may count one, and nothing depends on it.
fn look_for(
    file: &impl Look,
    slept: &AtomicU32,
    places: &Places,
    offset: u64,
    buf: &mut [u8],
) -> usize {
    let sleeps = slept.load(Ordering::Relaxed);
    let mut done = 0;
    if sleeps == NEVER {
        return done;
    }
    // When it began, and when it looked last.
    let mut looking: Option<(Place<'_>, Instant, Instant)> = None;
    while done < buf.len() {
        let (at, rest) = (offset + done as u64, &mut buf[done..]);
        let seen = file.look(at, rest);
        match (seen, &mut looking) {
            (Seen::Some(bytes), _) => done += bytes,
            (Seen::Unknown, _) => break,
            (Seen::Never, _) => {
                slept.store(NEVER, Ordering::Relaxed);
                break;
            }
            // What is in memory has cost no more than that one look.
            (Seen::NotYet, None) if sleeps > 0 => {
                slept.store(sleeps - 1, Ordering::Relaxed);
                break;
            }
            (Seen::NotYet, None) => {
                let Some(place) = places.take() else { break };
                file.ask_for(at, rest.len());
                let now = file.now();
                looking = Some((place, now, now));
            }
            (Seen::NotYet, Some((_, since, last))) => {
                let now = file.now();
                if now - *last >= GAVE_WAY {
                    places.note_gave_way();
                    return done;
                }
                if now - *since >= PATIENCE {
                    slept.store(SLEPT_AFTER_ONE_IN_VAIN, Ordering::Relaxed);
                    break;
                }
                *last = now;
                file.give_way();
            }
        }
    }
    if let Some((_, _, last)) = looking {
        if file.now() - last >= GAVE_WAY {
            places.note_gave_way();
        } else if done == buf.len() {
            places.note_found();
        }
    }
    done
}

#[cfg(target_os = "linux")]
impl Look for File {
    fn look(&self, offset: u64, buf: &mut [u8]) -> Seen {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};

        match preadv2(self, &mut [io::IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            Ok(0) => Seen::Unknown,
            Ok(bytes) => Seen::Some(bytes),
            Err(Errno::AGAIN) => Seen::NotYet,
            // The file system, or a kernel before 4.14.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Seen::Never,
            Err(_) => Seen::Unknown,
        }
    }

    fn ask_for(&self, offset: u64, bytes: usize) {
        use rustix::fs::{Advice, fadvise};

        // Newer kernels have begun to read with the first look, older ones have not. Only
        // advice: without it the read that sleeps brings the piece.
        let _ = fadvise(self, offset, std::num::NonZeroU64::new(bytes as u64), Advice::WillNeed);
    }
}

#[cfg(not(target_os = "linux"))]
impl Look for File {
    fn look(&self, _offset: u64, _buf: &mut [u8]) -> Seen {
        Seen::Never
    }

    fn ask_for(&self, _offset: u64, _bytes: usize) {}
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A file whose looks come to what was written down for them, the last again and again.
    struct Told {
        looks: RefCell<Vec<Seen>>,
        seen: Cell<usize>,
        asked: Cell<usize>,
        /// How long each look takes, another thread that has the processor included.
        takes: Duration,
        now: Cell<Instant>,
    }

    impl Told {
        fn new(looks: &[Seen]) -> Self {
            let looks = looks.iter().rev().copied().collect();
            let (seen, asked) = Default::default();
            let (takes, now) = (Duration::from_micros(1), Cell::new(Instant::now()));
            Self { looks: RefCell::new(looks), seen, asked, takes, now }
        }

        /// Looks for a piece of ten bytes.
        fn look_for(&self, slept: &AtomicU32, places: &Places) -> usize {
            look_for(self, slept, places, 0, &mut [0; 10])
        }
    }

    impl Look for Told {
        fn look(&self, _: u64, buf: &mut [u8]) -> Seen {
            self.seen.set(self.seen.get() + 1);
            self.now.set(self.now.get() + self.takes);
            let mut looks = self.looks.borrow_mut();
            let seen = if looks.len() > 1 { looks.pop().unwrap() } else { looks[0] };
            if let Seen::Some(bytes) = seen {
                assert!(bytes <= buf.len());
            }
            seen
        }

        fn ask_for(&self, _: u64, _: usize) {
            self.asked.set(self.asked.get() + 1);
        }

        fn now(&self) -> Instant {
            self.now.get()
        }

        fn give_way(&self) {}
    }

    #[test]
    fn what_is_in_memory_takes_one_look_and_is_not_asked_for() {
        for most in [0, 1] {
            let (file, slept) = (Told::new(&[Seen::Some(10)]), AtomicU32::new(3));
            assert_eq!(file.look_for(&slept, &Places::new(most)), 10);
            assert_eq!((file.seen.get(), file.asked.get()), (1, 0));
            assert_eq!(slept.into_inner(), 3, "nothing was waited for");
        }
    }

    #[test]
    fn a_piece_is_asked_for_once_and_looked_for_until_all_of_it_is_there() {
        let looks = [Seen::NotYet, Seen::NotYet, Seen::Some(4), Seen::NotYet, Seen::Some(6)];
        let (file, slept, places) = (Told::new(&looks), AtomicU32::new(0), Places::new(1));
        assert_eq!(file.look_for(&slept, &places), 10);
        assert_eq!((file.seen.get(), file.asked.get()), (5, 1));
        assert_eq!((slept.into_inner(), places.taken.into_inner()), (0, 0));
    }

    #[test]
    fn after_a_piece_that_does_not_come_the_next_ones_are_slept_for() {
        let (slept, places) = (AtomicU32::new(0), Places::new(1));
        let file = Told::new(&[Seen::Some(3), Seen::NotYet]);
        let start = file.now();
        assert_eq!(file.look_for(&slept, &places), 3);
        assert!(file.now() - start >= PATIENCE);
        for _ in 0..SLEPT_AFTER_ONE_IN_VAIN {
            let next = Told::new(&[Seen::NotYet]);
            assert_eq!(next.look_for(&slept, &places), 0);
            assert_eq!((next.seen.get(), next.asked.get()), (1, 0));
        }
        let next = Told::new(&[Seen::NotYet, Seen::Some(10)]);
        assert_eq!(next.look_for(&slept, &places), 10);
    }

    #[test]
    fn nobody_looks_who_finds_no_place_and_places_are_given_back() {
        let (file, slept, places) = (Told::new(&[Seen::NotYet]), AtomicU32::new(0), Places::new(1));
        let place = places.take();
        assert!(place.is_some() && places.take().is_none());
        assert_eq!(file.look_for(&slept, &places), 0);
        assert_eq!((file.seen.get(), file.asked.get()), (1, 0));
        drop(place);
        assert!(places.take().is_some());
        assert!(places.take().is_some(), "one that was refused holds no place");
    }

    #[test]
    fn who_gave_way_to_another_thread_rests_the_longer_the_more_often_it_happens() {
        let places = Places::new(1);
        let piece = |looks: &[Seen], takes| {
            let file = Told { takes, ..Told::new(looks) };
            file.look_for(&AtomicU32::new(0), &places);
            file.asked.get() == 1
        };
        let there = [Seen::NotYet, Seen::Some(10)];
        // As many as are not looked for before one is again.
        let rest = || (0..).take_while(|_| !piece(&there, Duration::ZERO)).count() as u32;
        assert_eq!(rest(), 0);
        let mut expected = SHORTEST_REST;
        for looks in [&there[..], &[Seen::NotYet], &there] {
            assert!(piece(looks, 2 * GAVE_WAY));
            assert_eq!(rest(), expected);
            // One was found at the end of the rest.
            expected = 2 * (expected - expected.div_ceil(REST_FADES_BY));
        }
        (0..20).for_each(|_| places.note_gave_way());
        assert_eq!(rest(), LONGEST_REST);
        assert!((0..1000).all(|_| piece(&there, Duration::ZERO)));
        places.note_gave_way();
        assert_eq!(rest(), SHORTEST_REST, "when it has not happened for long");
    }

    #[test]
    fn where_nobody_can_say_what_would_wait_it_is_asked_once() {
        let (slept, places) = (AtomicU32::new(0), Places::new(1));
        assert_eq!(Told::new(&[Seen::Never]).look_for(&slept, &places), 0);
        let file = Told::new(&[Seen::Some(10)]);
        assert_eq!(file.look_for(&slept, &places), 0);
        assert_eq!(file.seen.get(), 0);
    }

    #[test]
    fn looking_and_sleeping_read_the_same_and_fail_alike() {
        use std::io::Write;

        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        for looks in [false, true] {
            let file = PolledFile::new(file.try_clone().unwrap(), looks);
            for (offset, len) in [(0, 1), (4095, 2), (8192, 4096), (12_000, 90_000), (399_999, 1)] {
                #[cfg(target_os = "linux")]
                rustix::fs::fadvise(file.file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
                let mut buf = vec![1; len];
                file.await_page(offset);
                file.read_piece(offset, &mut buf).unwrap();
                assert_eq!(buf, bytes[offset as usize..offset as usize + len], "{offset}, {len}");
            }
            file.await_page(400_000);
            let error = file.read_piece(399_000, &mut [0; 1001]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
