//! The tables of `spill`.

use std::fmt::Write as _;

use serde_json::Value;

use super::contestant::Contestant;
use super::draw::Workload;
use super::figures::{Uploads, bars, thinned};
use super::{Findings, Part, Plan};
use crate::report::{Better, Report, Section, Unit, keys_name, median};

/// Bars of the picture of the drifting set at most.
const BARS: usize = 60;

/// Adds all tables of one size to the report.
pub(super) fn add(
    plan: &Plan,
    limit: &str,
    contestants: &[Contestant],
    found: &[Findings],
    report: &mut Report,
) {
    let all = All { plan, limit, contestants, found };
    report.add(all.speed(
        "spill one at a time",
        Part::Single,
        &[
            ("ops", Unit::PerSecond),
            ("p50", Unit::Nanos),
            ("p99", Unit::Nanos),
            ("p99.9", Unit::Nanos),
            ("worst", Unit::Nanos),
            ("cpu/op", Unit::Nanos),
            ("read/op", Unit::Bytes),
            ("written/op", Unit::Bytes),
        ],
    ));
    report.add(all.speed(
        "spill in batches",
        Part::Batched,
        &[
            ("ops", Unit::PerSecond),
            ("cpu/op", Unit::Nanos),
            ("read/op", Unit::Bytes),
            ("written/op", Unit::Bytes),
        ],
    ));
    report.add(all.speed(
        "spill with checkpoints",
        Part::Checkpointed,
        &[
            ("ops", Unit::PerSecond),
            ("p50", Unit::Nanos),
            ("p99", Unit::Nanos),
            ("p99.9", Unit::Nanos),
            ("worst", Unit::Nanos),
            ("checkpoints", Unit::Count),
            ("pause p50", Unit::Nanos),
            ("pause max", Unit::Nanos),
            ("complete after", Unit::Nanos),
        ],
    ));
    report.add(all.uploads());
    report.add(all.space());
}

struct All<'a> {
    plan: &'a Plan,
    limit: &'a str,
    contestants: &'a [Contestant],
    found: &'a [Findings],
}

impl All<'_> {
    fn section(
        &self,
        measure: &'static str,
        columns: &[(&'static str, Unit)],
        better: Better,
    ) -> Section {
        let plan = self.plan;
        let title = format!(
            "state {} x memory, {} keys of {} B, values of {} B",
            plan.times,
            keys_name(plan.keys),
            plan.key_bytes,
            plan.value_bytes
        );
        Section::new(measure, title, columns, 0, better)
            .parameter("times", plan.times)
            .parameter("keys", plan.keys)
            .parameter("key_bytes", plan.key_bytes)
            .parameter("value_bytes", plan.value_bytes)
            .parameter("rounds", plan.rounds)
            .parameter("round_ms", plan.round_ms)
            .parameter("interval_ms", plan.interval_ms)
            .parameter("operations_per_checkpoint", plan.operations_per_checkpoint)
    }

    /// What is said below every table.
    fn notes(&self, section: &mut Section) {
        section.note(self.limit);
        for obituary in self.contestants.iter().filter_map(Contestant::obituary) {
            section.note(obituary);
        }
    }

    /// A table of one part of the rounds; columns by their names.
    fn speed(
        &self,
        measure: &'static str,
        part: Part,
        columns: &[(&'static str, Unit)],
    ) -> Section {
        let mut section = self.section(measure, columns, Better::Higher);
        for workload in &self.plan.workloads {
            for (contestant, found) in self.contestants.iter().zip(self.found) {
                let rounds: Vec<&Value> = found
                    .rounds
                    .iter()
                    .filter(|(of, as_part, _)| of == workload && *as_part == part)
                    .map(|(_, _, round)| round)
                    .collect();
                let cells = columns.iter().map(|(name, _)| figure(&rounds, name)).collect();
                section.row(workload.name(), &contestant.name, cells);
            }
        }
        if part == Part::Single && self.found.iter().any(|found| !found.drift.is_empty()) {
            section.note(self.picture());
        }
        if part == Part::Checkpointed {
            section.note(format!(
                "A checkpoint every {} ms. Pauses are in `ops`, not in the times of single \
                 operations. fjall has no checkpoint that could be shipped; its pause is the fsync \
                 of its journal. RocksDB's includes the flush, as the call does.",
                self.plan.interval_ms
            ));
        }
        self.notes(&mut section);
        section
    }

    /// Throughput over time while the hot set moves on.
    fn picture(&self) -> String {
        let mut text =
            "Drifting hot set, one at a time, over the rounds and the warm-up:\n".to_owned();
        let width = self.contestants.iter().map(|one| one.name.len()).max().unwrap_or(0);
        for (contestant, found) in self.contestants.iter().zip(self.found) {
            let figures = thinned(&found.drift, BARS);
            let most = figures.iter().copied().fold(0.0, f64::max);
            let _ = write!(
                text,
                "\n{:<width$}  {}  (highest: {:.1} k/s)",
                contestant.name,
                bars(&figures),
                most / 1e3
            );
        }
        text
    }

    fn uploads(&self) -> Section {
        let columns = [
            ("stored/dirty", Unit::Ratio),
            ("stored/dirty p50", Unit::Ratio),
            ("raw/dirty", Unit::Ratio),
            ("disk/dirty", Unit::Ratio),
            ("checkpoints", Unit::Count),
            ("dirty records", Unit::Count),
        ];
        let mut section = self.section("spill upload", &columns, Better::Lower);
        for workload in self.plan.workloads.iter().filter(|one| **one != Workload::Insert) {
            for (contestant, found) in self.contestants.iter().zip(self.found) {
                let upload = found.uploads.iter().find(|(of, _)| of == workload);
                let cells =
                    upload.map_or_else(|| vec![None; columns.len()], |(_, one)| per_dirty(one));
                section.row(workload.name(), &contestant.name, cells);
            }
        }
        section.note(format!(
            "{} operations in batches between two checkpoints, the same for all, after all merges \
             of what was before. `stored/dirty` is \
             all that was uploaded through the keys and values of the records that changed in \
             between; `disk/dirty` all that was written to the local disk, with what merges and \
             evictions wrote.",
            self.plan.operations_per_checkpoint
        ));
        self.notes(&mut section);
        section
    }

    fn space(&self) -> Section {
        let columns = [
            ("disk/live mean", Unit::Ratio),
            ("disk/live peak", Unit::Ratio),
            ("live", Unit::Bytes),
            ("cpu", Unit::Nanos),
            ("written", Unit::Bytes),
            ("memory peak", Unit::Bytes),
            ("private memory", Unit::Bytes),
            ("at limit", Unit::Count),
            ("killed", Unit::Count),
        ];
        let mut section = self.section("spill space", &columns, Better::Lower);
        for (contestant, found) in self.contestants.iter().zip(self.found) {
            let live_bytes = (found.live_bytes > 0.0).then_some(found.live_bytes);
            let (on_average, at_most) = live_bytes
                .map_or((None, None), |live_bytes| contestant.space.per_live_byte(live_bytes));
            let counts = contestant.counts();
            section.row(
                "",
                &contestant.name,
                vec![
                    on_average,
                    at_most,
                    live_bytes,
                    Some(contestant.cpu_ns),
                    Some(contestant.disk_written_bytes),
                    counts.peak_bytes.map(|bytes| bytes as f64),
                    Some(contestant.anonymous_bytes),
                    counts.times_at_limit.map(|times| times as f64),
                    Some(f64::from(u8::from(contestant.killed_while.is_some()))),
                ],
            );
        }
        section.note(
            "Space on disk was looked at five times a second while an engine worked, with the \
             checkpoint that it keeps; a file with several names counts once, one that was deleted \
             while open does not. `cpu` and `written` are of everything, loading included. `memory \
             peak` is what the group counted, file pages and all, so an engine that reads files \
             reaches the limit; `private memory` is what cannot be dropped, after a round.",
        );
        self.notes(&mut section);
        section
    }
}

/// One figure of a table of speed, over the rounds of one engine.
fn figure(rounds: &[&Value], name: &str) -> Option<f64> {
    let per_operation = |field: &str| {
        median(
            rounds
                .iter()
                .filter_map(|round| Some(round[field].as_f64()? / round["operations"].as_f64()?)),
        )
    };
    let of_all = |field: &str| -> Vec<f64> {
        let figures = rounds.iter().flat_map(|round| round[field].as_array().into_iter().flatten());
        figures.filter_map(Value::as_f64).collect()
    };
    match name {
        "ops" => median(rounds.iter().filter_map(|round| {
            Some(round["operations"].as_f64()? / (round["worked_ns"].as_f64()? / 1e9))
        })),
        "cpu/op" => per_operation("cpu_ns"),
        "read/op" => per_operation("disk_read_bytes"),
        "written/op" => per_operation("disk_written_bytes"),
        "checkpoints" => (!rounds.is_empty()).then(|| of_all("pauses_ns").len() as f64),
        "pause p50" => median(of_all("pauses_ns")),
        "pause max" => of_all("pauses_ns").into_iter().reduce(f64::max),
        "complete after" => median(of_all("complete_ns")),
        "worst" => rounds.iter().filter_map(|round| round["times"][name].as_f64()).reduce(f64::max),
        percentile => median(rounds.iter().filter_map(|round| round["times"][percentile].as_f64())),
    }
}

/// The figures of a table of uploads.
fn per_dirty(upload: &Value) -> Vec<Option<f64>> {
    let taken: Vec<&Value> = upload["taken"].as_array().into_iter().flatten().collect();
    let dirty = |one: &Value| one["dirty_bytes"].as_f64().unwrap_or(0.0);
    let uploads = |field: &str| {
        let mut uploads = Uploads::default();
        for one in &taken {
            if let Some(bytes) = one[field].as_f64() {
                uploads.add(bytes, dirty(one));
            }
        }
        uploads
    };
    let dirty_bytes: f64 = taken.iter().map(|one| dirty(one)).sum();
    let records = taken.iter().filter_map(|one| one["dirty_records"].as_f64());
    let (stored, raw) = (uploads("stored_bytes"), uploads("raw_bytes"));
    vec![
        stored.in_all(),
        stored.middle(),
        raw.in_all(),
        upload["disk_written_bytes"].as_f64().map(|bytes| bytes / dirty_bytes),
        Some(taken.len() as f64),
        median(records),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_medians_over_rounds_and_pauses_those_of_all_rounds() {
        let round = |operations: u64, pauses: &[u64], worst: u64| {
            json!({
                "operations": operations,
                "worked_ns": 2_000_000_000u64,
                "cpu_ns": operations * 500,
                "times": { "p99.9": worst / 2, "worst": worst },
                "pauses_ns": pauses,
            })
        };
        let rounds = [round(100, &[7, 1], 10), round(400, &[9], 90), round(200, &[], 20)];
        let rounds: Vec<&Value> = rounds.iter().collect();
        assert_eq!(figure(&rounds, "ops"), Some(100.0));
        assert_eq!(figure(&rounds, "cpu/op"), Some(500.0));
        assert_eq!(figure(&rounds, "p99.9"), Some(10.0));
        assert_eq!(figure(&rounds, "worst"), Some(90.0));
        assert_eq!(figure(&rounds, "checkpoints"), Some(3.0));
        assert_eq!(figure(&rounds, "pause p50"), Some(7.0));
        assert_eq!(figure(&rounds, "pause max"), Some(9.0));
        assert_eq!(figure(&[], "checkpoints"), None);
    }

    #[test]
    fn uploads_are_divided_by_what_changed() {
        let upload = json!({
            "disk_written_bytes": 900,
            "taken": [
                { "dirty_records": 1, "dirty_bytes": 100, "raw_bytes": 100, "stored_bytes": 60 },
                { "dirty_records": 2, "dirty_bytes": 200, "raw_bytes": 500, "stored_bytes": 240 },
            ],
        });
        let found = per_dirty(&upload);
        let expected = [1.0, 0.9, 2.0, 3.0, 2.0, 1.5].map(Some);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found.unwrap_or(0.0) - expected.unwrap_or(0.0)).abs() < 1e-12, "{found:?}");
        }
        // An engine that ships nothing has no figure, rather than a perfect one.
        let silent = json!({ "taken": [{ "dirty_bytes": 100, "stored_bytes": null }] });
        assert_eq!(per_dirty(&silent)[0], None);
    }
}
