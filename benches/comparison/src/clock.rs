//! Clocks with a fence, and what the process has used so far.
//!
//! A processor finishes cache misses long after it has begun to run the code
//! behind them. Without a fence a timed section ends before its last misses
//! do, and a hash map looks up to half again as fast as it is.

use std::hint::black_box;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crate::Result;

/// The time, once every earlier load and store has finished and before any
/// later one begins.
#[inline]
pub(crate) fn fenced_now() -> Instant {
    fence(Ordering::SeqCst);
    let now = black_box(Instant::now());
    fence(Ordering::SeqCst);
    now
}

/// Nanoseconds of a duration, enough for five centuries.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What two fenced readings with nothing between them cost: the part of every
/// single timed operation that belongs to the clock.
pub(crate) fn clock_cost_ns() -> u64 {
    let mut samples: Vec<u64> = (0..1001)
        .map(|_| {
            let start = fenced_now();
            nanos(fenced_now() - start)
        })
        .collect();
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// What the whole process, with all its threads, has used since it started.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Processor time in user and kernel mode; counted in steps of 10 ms.
    pub(crate) cpu_ns: u64,
    /// Bytes handed to write calls, whether or not they have reached a disk.
    pub(crate) written_bytes: u64,
    /// Bytes that it caused to be fetched from a disk.
    pub(crate) disk_read_bytes: u64,
    /// Bytes of file pages that it made dirty: what a disk is to be given.
    pub(crate) disk_written_bytes: u64,
}

impl Usage {
    /// Reads the counters of this process.
    pub(crate) fn now() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // The second field is the program's name in brackets and may hold spaces.
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap_or(0))
            .sum();
        // Linux has shown 100 ticks per second to programs on every machine
        // since 2.6, whatever its internal rate.
        Ok(Self {
            cpu_ns: ticks * 10_000_000,
            written_bytes: number_in("/proc/self/io", "wchar:")?,
            disk_read_bytes: number_in("/proc/self/io", "read_bytes:")?,
            disk_written_bytes: number_in("/proc/self/io", "write_bytes:")?,
        })
    }
}

/// Resident memory of this process.
#[derive(Clone, Copy)]
pub(crate) struct Resident {
    /// Private memory: heap, anonymous maps.
    pub(crate) anonymous_bytes: u64,
    /// Mapped file pages that happen to be in memory.
    pub(crate) file_bytes: u64,
}

impl Resident {
    /// Reads the counters of this process.
    pub(crate) fn now() -> Result<Self> {
        Ok(Self {
            anonymous_bytes: number_in("/proc/self/status", "RssAnon:")? * 1024
                + number_in("/proc/self/status", "RssShmem:")? * 1024,
            file_bytes: number_in("/proc/self/status", "RssFile:")? * 1024,
        })
    }
}

/// The first number behind `label` in a file of labelled lines.
pub(crate) fn number_in(path: &str, label: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let number = text
        .lines()
        .find_map(|line| line.strip_prefix(label))
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| format!("{path} has no line {label}"))?;
    Ok(number.parse()?)
}
