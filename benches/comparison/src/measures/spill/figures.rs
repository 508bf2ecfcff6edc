//! What is computed from what a child counted, apart from where it comes from.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hashbrown::HashSet;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::report::{mean, median};

/// Percentiles of single operations, as JSON; nothing of an empty histogram.
pub(crate) fn percentiles(times: &Histogram<u64>) -> Value {
    if times.is_empty() {
        return Value::Null;
    }
    json!({
        "p50": times.value_at_quantile(0.5),
        "p99": times.value_at_quantile(0.99),
        "p99.9": times.value_at_quantile(0.999),
        "worst": times.max(),
    })
}

/// Bytes uploaded by some checkpoints, against the bytes that had changed.
#[derive(Default)]
pub(crate) struct Uploads {
    /// Stored and changed bytes of each checkpoint.
    taken: Vec<(f64, f64)>,
}

impl Uploads {
    /// Adds a checkpoint that stored so many bytes for records of so many bytes.
    pub(crate) fn add(&mut self, stored_bytes: f64, dirty_bytes: f64) {
        self.taken.push((stored_bytes, dirty_bytes));
    }

    /// The middle one of the ratios.
    pub(crate) fn middle(&self) -> Option<f64> {
        median(self.taken.iter().map(|(stored, dirty)| stored / dirty))
    }

    /// All that was stored, divided by all that had changed: what counts over
    /// time, with the compactions that come only now and then.
    pub(crate) fn in_all(&self) -> Option<f64> {
        let dirty: f64 = self.taken.iter().map(|(_, dirty)| dirty).sum();
        let stored: f64 = self.taken.iter().map(|(stored, _)| stored).sum();
        (dirty > 0.0).then(|| stored / dirty)
    }
}

/// Space on disk, looked at now and then.
#[derive(Default)]
pub(crate) struct Space {
    used_bytes: Vec<f64>,
}

impl Space {
    /// Adds what one look found.
    pub(crate) fn add(&mut self, used_bytes: u64) {
        self.used_bytes.push(used_bytes as f64);
    }

    /// Bytes used per byte of live state: on average and at most.
    pub(crate) fn per_live_byte(&self, live_bytes: f64) -> (Option<f64>, Option<f64>) {
        let peak = self.used_bytes.iter().copied().reduce(f64::max);
        let of = |bytes: f64| bytes / live_bytes;
        (mean(self.used_bytes.iter().copied()).map(of), peak.map(of))
    }
}

/// What the files below a directory take on the disk. A file with several names
/// counts once; one that was deleted but is still open does not count.
pub(crate) fn disk_bytes(dir: &Path) -> u64 {
    let (mut seen, mut bytes, mut waiting) = (HashSet::new(), 0, vec![dir.to_owned()]);
    while let Some(dir) = waiting.pop() {
        // The engine goes on: what was there a moment ago may be gone.
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                waiting.push(entry.path());
            } else if seen.insert((meta.dev(), meta.ino())) {
                bytes += meta.blocks() * 512;
            }
        }
    }
    bytes
}

/// Operations in equal slices of time.
#[derive(Clone, Default)]
pub(crate) struct Timeline {
    slice_ns: u64,
    operations: Vec<u64>,
}

impl Timeline {
    /// Slices of `slice_ns` nanoseconds.
    pub(crate) fn new(slice_ns: u64) -> Self {
        Self { slice_ns, operations: Vec::new() }
    }

    /// Counts operations that ended at a time since the beginning.
    pub(crate) fn add(&mut self, at_ns: u64, operations: u64) {
        let slice = (at_ns / self.slice_ns) as usize;
        if self.operations.len() <= slice {
            self.operations.resize(slice + 1, 0);
        }
        self.operations[slice] += operations;
    }

    /// Operations per second in each slice that is over.
    pub(crate) fn per_second(&self) -> Vec<f64> {
        let over = self.operations.len().saturating_sub(1);
        let seconds = self.slice_ns as f64 / 1e9;
        self.operations[..over].iter().map(|count| *count as f64 / seconds).collect()
    }
}

/// The speed at the end (the median of the last third) and the number of slices
/// until it was reached: until two slices in a row had nine tenths of it. Nothing
/// if there was no speed at the end, as when opening took all the time.
pub(crate) fn full_speed(per_second: &[f64]) -> Option<(f64, usize)> {
    let last = &per_second[per_second.len() - per_second.len().div_ceil(3)..];
    let steady = median(last.iter().copied()).filter(|steady| *steady > 0.0)?;
    Some((steady, reached(per_second, steady)?))
}

/// The number of slices until two in a row had nine tenths of a speed.
pub(crate) fn reached(per_second: &[f64], speed: f64) -> Option<usize> {
    let mut pairs = per_second.windows(2);
    pairs.position(|two| two.iter().all(|one| *one >= 0.9 * speed)).map(|before| before + 1)
}

/// Figures as a row of bars, the largest of them eight eighths high.
pub(crate) fn bars(figures: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = figures.iter().copied().fold(0.0, f64::max);
    figures
        .iter()
        .map(|figure| {
            let eighths = if most > 0.0 { (figure / most * 8.0).ceil() as usize } else { 0 };
            BARS[eighths.clamp(1, 8) - 1]
        })
        .collect()
}

/// Figures in at most `most` groups of neighbours, each the mean of its group.
pub(crate) fn thinned(figures: &[f64], most: usize) -> Vec<f64> {
    let size = figures.len().div_ceil(most).max(1);
    figures.chunks(size).filter_map(|group| mean(group.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;

    #[test]
    fn percentiles_are_those_of_a_sorted_list() -> Result<()> {
        let mut times = Histogram::new(3)?;
        assert_eq!(percentiles(&times), Value::Null);
        for time in 1..=1000 {
            times.record(time)?;
        }
        let found = percentiles(&times);
        let expected = json!({ "p50": 500, "p99": 990, "p99.9": 999, "worst": 1000 });
        assert_eq!(found, expected);
        Ok(())
    }

    #[test]
    fn uploads_in_all_weigh_a_compaction_by_its_bytes() {
        let mut uploads = Uploads::default();
        assert_eq!((uploads.middle(), uploads.in_all()), (None, None));
        uploads.add(100.0, 100.0);
        uploads.add(50.0, 100.0);
        uploads.add(2850.0, 300.0);
        assert_eq!(uploads.middle(), Some(1.0));
        assert_eq!(uploads.in_all(), Some(6.0));
    }

    #[test]
    fn space_is_averaged_and_its_peak_kept() {
        let mut space = Space::default();
        assert_eq!(space.per_live_byte(100.0), (None, None));
        [100, 300, 200].into_iter().for_each(|bytes| space.add(bytes));
        assert_eq!(space.per_live_byte(100.0), (Some(2.0), Some(3.0)));
    }

    #[test]
    fn a_file_with_two_names_takes_its_space_once() -> Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("below"))?;
        assert_eq!(disk_bytes(dir.path()), 0);
        std::fs::write(dir.path().join("one"), vec![1; 10_000])?;
        let one = disk_bytes(dir.path());
        assert!(one >= 10_000);
        std::fs::hard_link(dir.path().join("one"), dir.path().join("below/two"))?;
        assert_eq!(disk_bytes(dir.path()), one);
        std::fs::copy(dir.path().join("one"), dir.path().join("below/three"))?;
        assert_eq!(disk_bytes(dir.path()), 2 * one);
        Ok(())
    }

    #[test]
    fn a_timeline_leaves_out_the_slice_that_is_not_over() {
        let mut timeline = Timeline::new(500_000_000);
        timeline.add(10, 3);
        timeline.add(499_999_999, 4);
        timeline.add(1_000_000_000, 5);
        timeline.add(1_500_000_000, 6);
        assert_eq!(timeline.per_second(), [14.0, 0.0, 10.0]);
        assert!(Timeline::new(1).per_second().is_empty());
    }

    #[test]
    fn full_speed_is_reached_when_two_slices_have_it() {
        // The one early slice of 95 is a stroke of luck.
        let speeds = [0.0, 10.0, 95.0, 60.0, 92.0, 99.0, 100.0, 101.0, 100.0];
        assert_eq!(full_speed(&speeds), Some((100.0, 5)));
        assert_eq!(reached(&speeds, 60.0), Some(3), "the speed of another");
        assert_eq!(reached(&speeds, 200.0), None);
        assert_eq!(full_speed(&[]), None);
        assert_eq!(full_speed(&[0.0, 0.0, 0.0]), None);
    }

    #[test]
    fn bars_are_as_high_as_their_figures() {
        assert_eq!(bars(&[0.0, 1.0, 4.0, 8.0]), "▁▁▄█");
        assert_eq!(bars(&[0.0, 0.0]), "▁▁");
        assert_eq!(thinned(&[1.0, 3.0, 5.0, 7.0, 9.0], 3), [2.0, 6.0, 9.0]);
    }
}
