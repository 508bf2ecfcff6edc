//! What the runs came to, as a table or as JSON.

use alluvium::{Error, Result};
use serde_json::{Value, json};

use nexmark_comparison::queries::Query;
use nexmark_comparison::run::{Answer, Report};

use super::options::Store;

/// What one store made of one query, in all rounds.
struct Row {
    query: Query,
    store: Store,
    reports: Vec<Report>,
}

impl Row {
    /// Seconds of the round in the middle.
    fn seconds(&self) -> f64 {
        let mut all: Vec<f64> = self.reports.iter().map(|r| r.took.as_secs_f64()).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// All pauses of all rounds, as if they were one.
    fn pauses(&self) -> Report {
        let mut pauses_ns: Vec<u64> =
            self.reports.iter().flat_map(|report| report.pauses_ns.clone()).collect();
        pauses_ns.sort_unstable();
        Report { pauses_ns, ..Report::default() }
    }

    /// Checkpoints of all rounds without those that end the jobs, and their bytes.
    fn uploads(&self) -> (usize, u64) {
        let during = self.reports.iter().flat_map(|report| {
            let last = report.uploads.len().saturating_sub(1);
            &report.uploads[..last]
        });
        during.fold((0, 0), |(count, bytes), upload| (count + 1, bytes + upload.bytes_new))
    }

    /// Bytes of the files of the last checkpoint.
    fn state_bytes(&self) -> Option<u64> {
        self.reports.last()?.uploads.last().map(|upload| upload.bytes_total)
    }
}

/// The results so far.
pub(crate) struct Results {
    events: u64,
    rows: Vec<Row>,
}

impl Results {
    pub(crate) fn new(events: u64) -> Self {
        Self { events, rows: Vec::new() }
    }

    /// Takes in what a run came to.
    ///
    /// # Errors
    /// `Internal` if another run of the query has had another answer.
    pub(crate) fn add(&mut self, query: Query, store: Store, report: Report) -> Result<()> {
        let other = self.rows.iter().filter(|row| row.query == query).find_map(|row| {
            let answer = row.reports.first()?.answer;
            (answer != report.answer).then_some((row.store, answer))
        });
        if let Some((other, expected)) = other {
            let say = |Answer { rows, checksum }| format!("{rows} rows, checksum {checksum:016x}");
            return Err(Error::internal("two runs of a query have different answers")
                .at(format_args!("{query}, {} after {}", store.name(), other.name()))
                .expected(say(expected))
                .found(say(report.answer))
                .remedy("write results with --out and compare them"));
        }
        let known = self.rows.iter_mut().find(|row| row.query == query && row.store == store);
        match known {
            Some(row) => row.reports.push(report),
            None => self.rows.push(Row { query, store, reports: vec![report] }),
        }
        Ok(())
    }

    /// The speed of a row through that of the maps.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let maps =
            self.rows.iter().find(|other| other.query == row.query && other.store == Store::Map)?;
        Some(maps.seconds() / row.seconds())
    }

    pub(crate) fn print(&self, stores: &[Store], as_json: bool) {
        if as_json {
            println!("{:#}", self.json());
            return;
        }
        println!(
            "{:<6}{:<10}{:>12}{:>8}{:>12}{:>12}{:>8}{:>12}{:>12}{:>12}",
            "query",
            "store",
            "events/s",
            "of map",
            "pause max",
            "pause p99",
            "chkpts",
            "KiB each",
            "state KiB",
            "rows"
        );
        for query in self.queries() {
            for store in stores {
                let of = |row: &&Row| row.query == query && row.store == *store;
                if let Some(row) = self.rows.iter().find(of) {
                    self.print_row(row);
                }
            }
        }
    }

    fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        for row in &self.rows {
            if !queries.contains(&row.query) {
                queries.push(row.query);
            }
        }
        queries
    }

    fn print_row(&self, row: &Row) {
        let dash = || "-".to_owned();
        let pauses = row.pauses();
        let us = |ns: Option<u64>| ns.map_or_else(dash, |ns| format!("{:.1} us", ns as f64 / 1e3));
        let kib = |bytes: u64| (bytes / 1024).to_string();
        let (checkpoints, bytes) = row.uploads();
        println!(
            "{:<6}{:<10}{:>12.0}{:>8}{:>12}{:>12}{:>8}{:>12}{:>12}{:>12}",
            row.query.to_string(),
            row.store.name(),
            self.events as f64 / row.seconds(),
            self.ratio(row).map_or_else(dash, |ratio| format!("{ratio:.2}")),
            us(pauses.pause_ns(100)),
            us(pauses.pause_ns(99)),
            if pauses.pauses_ns.is_empty() { dash() } else { checkpoints.to_string() },
            bytes.checked_div(checkpoints as u64).map_or_else(dash, kib),
            row.state_bytes().map_or_else(dash, kib),
            row.reports.first().map_or(0, |report| report.answer.rows),
        );
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let pauses = row.pauses();
            let (checkpoints, bytes) = row.uploads();
            let answer = row.reports.first().map(|report| report.answer).unwrap_or_default();
            let seconds: Vec<f64> =
                row.reports.iter().map(|report| report.took.as_secs_f64()).collect();
            json!({
                "query": row.query.to_string(),
                "store": row.store.name(),
                "seconds": seconds,
                "events_per_s": self.events as f64 / row.seconds(),
                "ratio_to_map": self.ratio(row),
                "pause_max_ns": pauses.pause_ns(100),
                "pause_p99_ns": pauses.pause_ns(99),
                "pauses": pauses.pauses_ns.len(),
                "checkpoints": checkpoints,
                "bytes_per_checkpoint": bytes.checked_div(checkpoints as u64),
                "state_bytes": row.state_bytes(),
                "rows": answer.rows,
                "checksum": format!("{:016x}", answer.checksum),
            })
        });
        json!({ "events": self.events, "results": rows.collect::<Vec<_>>() })
    }
}
