//! The example job `flights`, run as people run it, on a small cut of its data.
//!
//! What could break: a total or a result that is lost or repeated over a kill
//! and a change of workers; a late flight that is dropped too early or taken too
//! late; a restart from the wrong place; a damaged checkpoint that is passed
//! over in silence; a comparison that cannot fail; bad input that panics, or
//! fails without saying where. The job compares itself with a plain computation;
//! these tests check what it says and how it exits (`whole`), what it says of
//! flights that were thought out by hand (`by_hand`), and the parts of it that
//! read bytes (`data`, `parts`).
#![allow(clippy::disallowed_methods, reason = "these tests run real processes over real files")]

mod by_hand;
mod data;
#[path = "../../examples/flights/main.rs"]
#[allow(dead_code, reason = "the tests look at parts of it, and run the rest as a process")]
mod example;
mod parts;
mod whole;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use alluvium::coordinator::{JobView, RestoreFrom};
use alluvium::format::{Checkpoint, CheckpointRef};

use crate::example::cli::JobOptions;
use crate::example::rules::Rules;
use crate::example::store;
use crate::example::survey::Extent;

const HEADER: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,\
arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour";
const ON_TIME: &str = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,x";
const CANCELLED: &str = "2013,1,1,NA,1630,,NA,1815,NA,EV,4308,N18120,EWR,RDU,,416,16,30,x";
const NAMELESS: &str = "2013,1,2,NA,1545,NA,,1910,,AA,133,NA,JFK,LAX,NA,2475,15,45,x";

const RULES: Rules = Rules {
    out_of_orderness_min: 30,
    lateness_min: 180,
    session_gap_min: 480,
    idle_days: 30,
    top: 3,
};

/// What the supervisor tells the job: to read `input` so many times, one day after the
/// other, and to go on from its latest checkpoint.
fn restart(input: &Path, kept: &Path, repeat: u32) -> JobOptions {
    let extent = Extent::of_file(input).expect("sound");
    JobOptions {
        input: input.to_owned(),
        dir: kept.to_owned(),
        workers: 2,
        process: 0,
        addresses: Vec::new(),
        interval_ms: 5,
        repeat,
        flights: extent.flights,
        span_days: 1,
        latest_min: extent.latest.minutes(),
        spread: false,
        restore: true,
        rollback_to: None,
        savepoint_at_record: None,
        await_kill: false,
        rules: RULES,
    }
}

/// The checkpoint that the job in this directory would go on from.
fn latest(kept: &Path) -> (CheckpointRef, Checkpoint) {
    let checkpoints = store::object_store(&kept.join("checkpoints")).expect("a directory");
    let view = JobView::open(checkpoints, store::JOB).expect("readable").expect("a job");
    let latest = view.find(&RestoreFrom::Latest).expect("readable").expect("one was completed");
    let checkpoint = view.read(&latest).expect("whole");
    (latest, checkpoint)
}

/// The example's program, brought up to date first: `cargo test` has just
/// built it, but `cargo test --test flights_job` has not, and a stale program
/// beside a new test proves nothing.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of this test");
        let profile_dir = test.parent().and_then(Path::parent).expect("<profile>/deps/<test>");
        let program =
            profile_dir.join("examples").join(format!("flights{}", std::env::consts::EXE_SUFFIX));
        if !is_up_to_date(&program) {
            build_program(profile_dir);
        }
        assert!(program.exists(), "there is no {}", program.display());
        program
    })
}

/// Whether the program is younger than all that it was made of. Cargo, asked for it alone,
/// would choose other features than for all tests together, and compile everything again.
fn is_up_to_date(program: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified());
    let Ok(sources) = std::fs::read_to_string(program.with_extension("d")) else { return false };
    let Some((_, sources)) = sources.split_once(": ") else { return false };
    // A space in a path is escaped, and such a half of a path is not there: built anew.
    changed(program).is_ok_and(|built| {
        sources
            .split_ascii_whitespace()
            .all(|source| changed(Path::new(source)).is_ok_and(|source| source <= built))
    })
}

fn build_program(profile_dir: &Path) {
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    // Whoever built this test has all that the example needs.
    let status = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--offline", "--example", "flights"])
        .args(["--profile", profile, "--target-dir"])
        .arg(profile_dir.parent().expect("<target>/<profile>"))
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "cannot build the example");
}

fn flights<W: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = W>) -> Output {
    Command::new(program()).args(words).output().expect("the example can be started")
}

fn assert_fails_saying(output: &Output, facts: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{}", both(output));
    let text = String::from_utf8_lossy(&output.stderr);
    for fact in facts {
        assert!(text.contains(fact), "no `{fact}` in {}", both(output));
    }
    assert!(!text.contains("panicked"), "{}", both(output));
    assert!(output.stdout.is_empty(), "{}", both(output));
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn both(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("--- stdout\n{}--- stderr\n{errors}--- {}", stdout(output), output.status)
}

fn str(path: &Path) -> &str {
    path.to_str().expect("a temporary path is plain text")
}

fn write_lines(path: &Path, lines: &[&str]) {
    fs::write(path, lines.join("\n") + "\n").expect("a file");
}

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights/flights.csv.gz")
}

/// The first `flights` flights of the bundled data, plain or compressed.
fn cut(dir: &Path, flights: usize, compressed: bool) -> PathBuf {
    let data = fs::File::open(bundled()).expect("the bundled data");
    let lines = BufReader::new(flate2::read::GzDecoder::new(data)).lines().take(flights + 1);
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.expect("the bundled data is sound"));
        text.push('\n');
    }
    // The name says nothing: the reader has to look at the content.
    let path = dir.join(format!("cut-{flights}"));
    let mut file = fs::File::create(&path).expect("a file");
    if compressed {
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).expect("a file");
        encoder.finish().expect("a file");
    } else {
        file.write_all(text.as_bytes()).expect("a file");
    }
    path
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
