//! What the state should be, in a few bytes a key: values follow from numbers.
//!
//! A value is random bytes seeded by its state, its key and the number of the write;
//! so the oracle keeps numbers only. Those of single values are never used again,
//! in no life of the job.

use std::collections::BTreeSet;

use alluvium::KeyGroup;
use alluvium::env::sim::SimRng;

/// Entries that a map may have.
pub const ENTRIES: usize = 16;
/// Elements above which a list is replaced by a short one.
pub const LONG_LIST: u32 = 64;
/// How long what is timed by the wall clock lives, in milliseconds.
pub const CLOCK_TTL_MS: u64 = 120_000;
/// How late the engine may know what time it is: its thread that reads the clock has
/// to have had a turn.
const CLOCK_LATE_MS: u64 = 20_000;

/// A state of the job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Values,
    /// Values that expire by event time.
    ByEvent,
    /// Values that expire by the wall clock.
    ByClock,
    Lists,
    Maps,
}

impl Kind {
    pub const ALL: [Self; 5] =
        [Self::Values, Self::ByEvent, Self::ByClock, Self::Lists, Self::Maps];

    pub fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::ByEvent => "by event time",
            Self::ByClock => "by the clock",
            Self::Lists => "lists",
            Self::Maps => "maps",
        }
    }

    /// Bytes of what was written with a number under a key.
    fn bytes(self, key: u32, number: u32) -> (usize, SimRng) {
        let seed = u64::from(key) << 32 | u64::from(number);
        let mut rng = SimRng::new(seed ^ ((self as u64 + 1) << 56));
        let len = match self {
            Self::Values => match rng.below(100) {
                0..20 => 8 + rng.below(9),
                20..60 => 60 + rng.below(80),
                60..90 => 200 + rng.below(200),
                90..99 => 1_000 + rng.below(1_000),
                _ => 8_000,
            },
            Self::ByEvent | Self::ByClock => 8 + rng.below(192),
            Self::Lists => 8 + rng.below(92),
            Self::Maps => 20 + rng.below(580),
        };
        (len as usize, rng)
    }

    pub fn len(self, key: u32, number: u32) -> u64 {
        self.bytes(key, number).0 as u64
    }

    pub fn value(self, key: u32, number: u32) -> Vec<u8> {
        let (len, mut rng) = self.bytes(key, number);
        let mut value = vec![0; len];
        rng.fill(&mut value);
        value
    }
}

/// The group that the runtime gives a key.
pub fn group_of(key: u32) -> KeyGroup {
    KeyGroup((key.wrapping_mul(0x9e37_79b1) >> 25) as u16)
}

/// A value that expires: the number of its write, 0 if there is none, and when that was.
#[derive(Clone, Copy, Default, Debug)]
pub struct Timed {
    pub number: u32,
    pub at: u32,
}

/// The elements of a list, which are numbered.
#[derive(Clone, Copy, Default, Debug)]
pub struct Span {
    pub first: u32,
    pub end: u32,
}

/// What is known of something that expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Is {
    There,
    Gone,
    EitherWay,
}

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub watermark: u32,
    /// Since the soak began.
    pub clock_ms: u32,
}

/// How many keys each state has.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub values: u32,
    pub by_event: u32,
    pub by_clock: u32,
    pub lists: u32,
    pub maps: u32,
    pub timers: usize,
    /// Ticks of event time.
    pub event_ttl: u32,
}

impl Sizes {
    /// State of twenty times so many bytes, half of it single values.
    pub fn of(budget_bytes: u64) -> Self {
        let one_per = |bytes: u64| (budget_bytes / bytes) as u32;
        Self {
            values: one_per(33),
            by_event: one_per(300),
            by_clock: one_per(1_000),
            lists: one_per(590),
            maps: one_per(825),
            timers: one_per(1_600) as usize,
            event_ttl: one_per(15),
        }
    }
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Oracle {
    pub sizes: Sizes,
    /// Numbers of writes; 0 where there is nothing.
    pub values: Vec<u32>,
    pub by_event: Vec<Timed>,
    pub by_clock: Vec<Timed>,
    pub lists: Vec<Span>,
    /// Numbers of the writes of each entry; 0 where there is none.
    pub maps: Vec<[u32; ENTRIES]>,
    /// Times and keys.
    pub timers: BTreeSet<(i64, u32)>,
    pub watermark: u32,
}

impl Oracle {
    pub fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            values: vec![0; sizes.values as usize],
            by_event: vec![Timed::default(); sizes.by_event as usize],
            by_clock: vec![Timed::default(); sizes.by_clock as usize],
            lists: vec![Span::default(); sizes.lists as usize],
            maps: vec![[0; ENTRIES]; sizes.maps as usize],
            timers: BTreeSet::new(),
            watermark: 0,
        }
    }

    /// Becomes a copy, in the memory that it has.
    pub fn copy(&mut self, other: &Self) {
        self.values.copy_from_slice(&other.values);
        self.by_event.copy_from_slice(&other.by_event);
        self.by_clock.copy_from_slice(&other.by_clock);
        self.lists.copy_from_slice(&other.lists);
        self.maps.copy_from_slice(&other.maps);
        self.timers.clone_from(&other.timers);
        self.watermark = other.watermark;
    }

    pub fn timed(&mut self, kind: Kind) -> &mut Vec<Timed> {
        match kind {
            Kind::ByEvent => &mut self.by_event,
            Kind::ByClock => &mut self.by_clock,
            _ => unreachable!("{kind:?} does not expire"),
        }
    }

    pub fn is(&self, kind: Kind, timed: Timed, now: Now) -> Is {
        if timed.number == 0 {
            return Is::Gone;
        }
        match kind {
            Kind::ByEvent if now.watermark - timed.at >= self.sizes.event_ttl => Is::Gone,
            Kind::ByEvent => Is::There,
            _ => {
                // The clock may have been read late at the write, or now.
                let age = u64::from(now.clock_ms.saturating_sub(timed.at));
                if age + CLOCK_LATE_MS < CLOCK_TTL_MS {
                    Is::There
                } else if age > CLOCK_TTL_MS + CLOCK_LATE_MS {
                    Is::Gone
                } else {
                    Is::EitherWay
                }
            }
        }
    }

    /// Bytes of keys and values that are there, what is told late to have expired
    /// included.
    pub fn live_bytes(&self, now: Now) -> u64 {
        const KEY: u64 = 4;
        let mut bytes = 0;
        for (key, &number) in (0..).zip(&self.values) {
            if number != 0 {
                bytes += KEY + Kind::Values.len(key, number);
            }
        }
        for kind in [Kind::ByEvent, Kind::ByClock] {
            let cells = if kind == Kind::ByEvent { &self.by_event } else { &self.by_clock };
            for (key, &timed) in (0..).zip(cells) {
                if self.is(kind, timed, now) != Is::Gone {
                    bytes += KEY + 8 + kind.len(key, timed.number);
                }
            }
        }
        for (key, span) in (0..).zip(&self.lists) {
            bytes += (span.first..span.end).map(|at| Kind::Lists.len(key, at)).sum::<u64>();
            bytes += if span.first < span.end { KEY } else { 0 };
        }
        for (key, map) in (0..).zip(&self.maps) {
            for &number in map.iter().filter(|&&number| number != 0) {
                bytes += 1 + Kind::Maps.len(key, number);
            }
            bytes += if map.iter().any(|&number| number != 0) { KEY } else { 0 };
        }
        bytes + self.timers.len() as u64 * (KEY + 8)
    }
}
