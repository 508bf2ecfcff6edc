//! The example job `flights`, run as people run it, on a small cut of its data.
//!
//! What could break: an aggregate that loses or repeats records over a kill
//! and a change of shards; a restart from the wrong place; a damaged
//! checkpoint that is passed over in silence; bad input that panics, or fails
//! without saying where. The job checks its aggregates against a plain single
//! pass itself; these tests check what it says and how it exits, and the
//! parts of it that read bytes.
#![allow(clippy::disallowed_methods, reason = "these tests run real processes over real files")]

#[path = "../examples/flights/aggregate.rs"]
mod aggregate;
#[path = "../examples/flights/checkpoint_file.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod checkpoint_file;
#[path = "../examples/flights/event.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod event;
#[path = "../examples/flights/input.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod input;
#[path = "../examples/flights/oracle.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod oracle;
#[path = "../examples/flights/store.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod store;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use aggregate::{Aggregate, AggregateCodec};
use alluvium::base::checksum::ContentHash;
use alluvium::base::{ErrorKind, MaxParallelism, SnapshotId};
use alluvium::codec::Codec;
use checkpoint_file::{CompletedCheckpoint, Costs, JobIdentity, Position, ShardSnapshot};
use event::{CheckpointLine, Event, Restored, Verdict};
use input::{FlightReader, InputIdentity, Outcome};
use oracle::Oracle;
use store::{Operator, Store};

const HEADER: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,\
arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour";
const ON_TIME: &str = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,x";
const CANCELLED: &str = "2013,1,1,NA,1630,,NA,1815,NA,EV,4308,N18120,EWR,RDU,,416,16,30,x";
const FLOWN: Outcome =
    Outcome { cancelled: false, departure_delay: Some(2), arrival_delay: Some(11), miles: 1400 };
const NAMELESS: &str = "2013,1,2,NA,1545,NA,,1910,,AA,133,NA,JFK,LAX,NA,2475,15,45,x";

// The whole job, as a process.

#[test]
fn every_aggregate_is_right_after_sigkill_on_another_number_of_shards() {
    for seed in 1..=6 {
        let mut random = Random(seed);
        let shards = 1 + random.below(4);
        let rescale_to = 1 + (shards + random.below(4)) % 5;
        let kill_at = 0.05 + random.below(90) as f64 / 100.0;
        let repeat = 20 + random.below(60);
        let interval_ms = 1 + random.below(20);
        let spread = random.below(2) == 1;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let input = cut(dir.path(), 700, random.below(2) == 1);

        let mut words = vec![
            "--input".to_owned(),
            input.display().to_string(),
            format!("--shards={shards}"),
            format!("--rescale-to={rescale_to}"),
            format!("--kill-at={kill_at}"),
            format!("--repeat={repeat}"),
            format!("--interval-ms={interval_ms}"),
        ];
        if spread {
            words.push("--spread".into());
        }
        let case = format!("seed {seed}: flights {}", words.join(" "));
        let output = flights(&words);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{case}\n{}", both(&output));
        for expected in [
            "every aggregate equals a single pass over the file: yes".to_owned(),
            "killed       with SIGKILL at record ".to_owned(),
            "restarted    from checkpoint ".to_owned(),
            format!(", {shards} -> {rescale_to} shards, "),
            format!("700 flights x {repeat} = "),
            "records that the killed process had read after that checkpoint".to_owned(),
        ] {
            assert!(text.contains(&expected), "{case}\nno `{expected}` in\n{}", both(&output));
        }
    }
}

#[test]
fn a_job_left_alone_is_right_and_ends_with_a_checkpoint_of_the_whole_input() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 300, false);
    let kept = dir.path().join("kept");
    let output = flights(["--input", str(&input), "--no-kill", "--repeat=3", "--dir", str(&kept)]);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(!stdout(&output).contains("killed"), "{}", both(&output));

    let latest = checkpoint_file::latest_completed(&kept.join("completed"))
        .expect("the kept directory is readable")
        .expect("a checkpoint was completed");
    assert_eq!(latest.position.offset, 900);
    assert_eq!(latest.shards.len(), 2);
}

#[test]
fn a_used_directory_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 100, false);
    let kept = dir.path().join("kept");
    let words = ["--input", str(&input), "--repeat=2", "--interval-ms=5", "--dir", str(&kept)];
    let first = flights(words);
    assert_eq!(first.status.code(), Some(0), "{}", both(&first));
    let before = checkpoint_file::latest_completed(&kept.join("completed")).expect("readable");

    let second = flights(words);
    assert_fails_saying(
        &second,
        &[str(&kept), "not empty", "an earlier run with a completed checkpoint", "--dir"],
    );
    let after = checkpoint_file::latest_completed(&kept.join("completed")).expect("readable");
    assert_eq!(before, after);
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 10, false);
    let file = dir.path().join("a-file");
    fs::write(&file, "not a directory").expect("a file");
    for unusable in [file.clone(), file.join("below")] {
        let output = flights(["--input", str(&input), "--dir", str(&unusable)]);
        assert_fails_saying(&output, &[str(&unusable), "cannot use the directory", "--dir"]);
    }

    let holds_other_files = dir.path().join("other");
    fs::create_dir(&holds_other_files).expect("a directory");
    fs::write(holds_other_files.join("thesis.txt"), "precious").expect("a file");
    let output = flights(["--input", str(&input), "--dir", str(&holds_other_files)]);
    assert_fails_saying(&output, &[str(&holds_other_files), "not empty", "found other files"]);
    assert_eq!(fs::read_dir(&holds_other_files).expect("a directory").count(), 1);
}

#[test]
fn a_malformed_line_is_an_error_with_file_and_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = dir.path().join("bad.csv");
    write_lines(&input, &[HEADER, ON_TIME, CANCELLED, &ON_TIME.replace(",2,830", ",soon,830")]);
    let output = flights(["--input", str(&input)]);
    let place = format!("{}:4", input.display());
    assert_fails_saying(
        &output,
        &[&place, "dep_delay", "expected a whole number", "found `soon`", "correct or remove"],
    );
}

#[test]
fn input_that_cannot_be_read_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let missing = dir.path().join("missing.csv");
    let output = flights(["--input", str(&missing)]);
    assert_fails_saying(&output, &[str(&missing), "cannot read the input", "--input"]);

    let output = flights(["--input", str(dir.path())]);
    assert_fails_saying(&output, &[str(dir.path()), "found a directory", "--input"]);

    let whole = fs::read(cut(dir.path(), 2000, true)).expect("a file");
    let short = dir.path().join("short.csv.gz");
    fs::write(&short, &whole[..whole.len() / 2]).expect("a file");
    let output = flights(["--input", str(&short)]);
    assert_fails_saying(&output, &[str(&short), "cut short or damaged"]);
}

#[test]
fn a_restart_never_passes_over_a_damaged_latest_checkpoint() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 200, false);
    let kept = dir.path().join("kept");
    // The second checkpoint comes at the end; the first one stays behind it.
    let words = ["--input", str(&input), "--repeat=2", "--interval-ms=5", "--dir", str(&kept)];
    let output = flights(words);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let completed = kept.join("completed");
    let ids = checkpoint_file::completed_ids(&completed).expect("readable");
    assert!(ids.len() > 1, "one completed checkpoint only: {ids:?}");

    let restart = |input: &Path| {
        let options = ["--shards=2", "--interval-ms=5", "--repeat=2", "--restore"];
        let paths = ["job", "--input", str(input), "--dir", str(&kept)].map(str::to_owned);
        flights(paths.into_iter().chain(options.map(str::to_owned)))
    };
    let healthy = restart(&input);
    assert_eq!(healthy.status.code(), Some(0), "{}", both(&healthy));

    let other_input = dir.path().join("other.csv");
    write_lines(&other_input, &[HEADER, ON_TIME]);
    let foreign = restart(&other_input);
    assert_eq!(foreign.status.code(), Some(1), "{}", both(&foreign));
    assert!(stdout(&foreign).contains("over another input"), "{}", both(&foreign));

    let latest =
        *checkpoint_file::completed_ids(&completed).expect("readable").last().expect("one");
    let path = checkpoint_file::path_of(&completed, latest);
    let mut bytes = fs::read(&path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).expect("a file");
    let damaged = restart(&input);
    assert_eq!(damaged.status.code(), Some(1), "{}", both(&damaged));
    let text = stdout(&damaged);
    for expected in ["checksum", str(path.file_name().expect("a name").as_ref()), "remove it"] {
        assert!(text.contains(expected), "no `{expected}` in {}", both(&damaged));
    }
}

#[test]
fn every_option_is_explained() {
    let output = flights(["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for option in [
        "--input <FILE>",
        "--shards <N>",
        "--rescale-to <N>",
        "--interval-ms <N>",
        "--dir <DIR>",
        "--repeat <N>",
        "--spread",
        "--kill-at <FRACTION>",
        "--no-kill",
    ] {
        assert!(stdout(&output).contains(option), "no `{option}` in {}", stdout(&output));
    }
    assert!(!stdout(&output).contains("Commands:"), "the inner command is hidden");
}

// The data and its reader.

#[test]
fn the_bundled_data_is_what_its_source_says() {
    let oracle = Oracle::single_pass(&bundled()).expect("the bundled data is sound");
    assert_eq!(oracle.flights, 336_776);
    assert_eq!(oracle.by_route.len(), 224);
    assert_eq!(oracle.by_aircraft.len(), 4_043 + 1);
    assert_eq!(oracle.by_aircraft["(none)"].total, 2_512);
    let carriers: std::collections::BTreeSet<_> =
        oracle.by_carrier_day.keys().filter_map(|key| key.split(' ').next()).collect();
    assert_eq!(carriers.len(), 16);
    let cancelled: u64 = oracle.by_route.values().map(|route| route.total - route.flown).sum();
    assert_eq!(cancelled, 8_255);
}

#[test]
fn a_cancelled_flight_counts_and_adds_neither_delay_nor_miles() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = dir.path().join("three.csv");
    write_lines(&input, &[HEADER, ON_TIME, CANCELLED, NAMELESS]);
    let oracle = Oracle::single_pass(&input).expect("sound");
    let cancelled = oracle.by_route["EWR-RDU"];
    assert_eq!((cancelled.total, cancelled.flown, cancelled.miles_flown), (1, 0, 0));
    assert_eq!(cancelled.worst_minutes, None);
    let flown = oracle.by_carrier_day["UA 2013-01-01"];
    assert_eq!((flown.minutes_late_leaving, flown.minutes_late_arriving), (2, 11));
    assert_eq!((flown.worst_minutes, flown.miles_flown), (Some(11), 1400));
    assert_eq!(oracle.by_aircraft["(none)"].total, 1);
}

#[test]
fn every_field_that_is_wrong_is_named_with_its_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = dir.path().join("bad.csv");
    for (column, wrong) in [
        (0, ""),
        (1, "13"),
        (2, "0"),
        (3, "25:00"),
        (5, "1e3"),
        (8, "32768"),
        (9, "U A"),
        (11, "N-1"),
        (12, "NA"),
        (13, "ABCDEFGHIJKL"),
        (15, "-1"),
    ] {
        let mut fields: Vec<&str> = ON_TIME.split(',').collect();
        fields[column] = wrong;
        write_lines(&input, &[HEADER, ON_TIME, &fields.join(",")]);
        let name = HEADER.split(',').nth(column).expect("a column");
        let error = input::count_flights(&input).expect_err(name);
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        assert!(text.contains("bad.csv:3)"), "{text}");
        assert!(text.contains(&format!("`{name}`")), "{text}");
    }
}

#[test]
fn skipping_flights_leads_to_the_same_place_as_reading_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 50, true);
    for count in [0, 1, 49, 50] {
        let mut read = FlightReader::open(&input).expect("sound");
        for _ in 0..count {
            read.next().expect("sound").expect("a flight");
        }
        let mut skipped = FlightReader::open(&input).expect("sound");
        skipped.skip(count).expect("there are as many");
        assert_eq!(read.next().expect("sound"), skipped.next().expect("sound"), "after {count}");
    }
    let too_far = FlightReader::open(&input).expect("sound").skip(51).expect_err("there are 50");
    assert_eq!(too_far.kind(), ErrorKind::Incompatible);
}

// State.

#[test]
fn an_aggregate_survives_its_44_bytes_and_no_other_number_of_them() {
    let aggregate = Aggregate {
        flights: 1,
        cancelled: u64::MAX,
        departure_delay_sum_minutes: i64::MIN,
        arrival_delay_sum_minutes: -2,
        miles: 1 << 40,
        longest_delay_minutes: Aggregate::NO_DELAY,
    };
    let mut bytes = Vec::new();
    AggregateCodec.encode(&aggregate, &mut bytes).expect("every aggregate has an encoding");
    assert_eq!(AggregateCodec.fixed_len(), Some(bytes.len()));
    assert_eq!(AggregateCodec.decode(&bytes).expect("sound"), aggregate);
    bytes.push(0);
    for len in (0..=bytes.len()).filter(|&len| len != 44) {
        let error = AggregateCodec.decode(&bytes[..len]).expect_err("another length");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes: {error}");
    }
}

#[test]
fn a_shard_takes_the_keys_that_are_routed_to_it_and_refuses_all_others() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let max = MaxParallelism::DEFAULT;
    let store = Store::open(&dir.path().join("state"), &dir.path().join("snapshots"), max)
        .expect("a new directory");
    for count in [1, 2, 3, 7] {
        let mut shards: Vec<_> = (0..count)
            .map(|index| {
                let groups = max.range_of_subtask(index, count).expect("one of the subtasks");
                store.shard(groups, &[]).expect("an empty shard")
            })
            .collect();
        for key in ["", "N14228", "EWR-IAH", "UA 2013-01-01#4", "(none)", "é"] {
            let owner = max.subtask_of_group(store::group_of_key(key, max), count) as usize;
            for (index, shard) in shards.iter_mut().enumerate() {
                let done = shard.update(Operator::Route, key, &FLOWN);
                let expected = (index != owner).then_some(ErrorKind::Invalid);
                assert_eq!(done.err().map(|e| e.kind()), expected, "{key:?} on {index}/{count}");
            }
        }
    }
}

#[test]
fn only_snapshots_of_the_recorded_checkpoint_and_position_are_restored() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let max = MaxParallelism::DEFAULT;
    let store = Store::open(&dir.path().join("state"), &dir.path().join("snapshots"), max)
        .expect("a new directory");
    let mut shard = store.shard(max.all_groups(), &[]).expect("an empty shard");
    shard.update(Operator::Aircraft, "N14228", &FLOWN).expect("in memory");

    let mut checkpoint = sample(9);
    let ticket = shard.snapshot(checkpoint.id, checkpoint.position).expect("frozen");
    checkpoint.shards = vec![ticket.wait().expect("durable")];
    let snapshots = store.snapshots_of(&checkpoint).expect("they belong together");
    let mut restored = store.shard(max.all_groups(), &snapshots).expect("restored");
    let aggregate = restored.get(Operator::Aircraft, "N14228").expect("readable");
    assert_eq!(aggregate.map(|a| (a.flights, a.miles)), Some((1, 1400)));
    assert_eq!(restored.get(Operator::Route, "N14228").expect("readable"), None);

    let mut elsewhere = checkpoint.clone();
    elsewhere.position.record += 1;
    let mut another = checkpoint.clone();
    another.id = SnapshotId(10);
    let mut damaged = checkpoint;
    damaged.shards[0].handle[30] ^= 1;
    for (wrong, facts) in [
        (elsewhere, ["does not belong", "taken at record 9000", "shard 0 of checkpoint 9"]),
        (another, ["does not belong", "found 9", "shard 0 of checkpoint 10"]),
        (damaged, ["", "", "shard 0 of checkpoint 9"]),
    ] {
        let error = store.snapshots_of(&wrong).expect_err("one of them is not what it should be");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        for fact in facts {
            assert!(error.to_string().contains(fact), "no `{fact}` in {error}");
        }
    }
}

// Completed checkpoints.

#[test]
fn a_completed_checkpoint_reads_back_as_written() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    assert_eq!(checkpoint_file::latest_completed(dir.path()).expect("empty"), None);
    for id in [1, 2, 10] {
        sample(id).publish(dir.path()).expect("published");
    }
    let latest = checkpoint_file::latest_completed(dir.path()).expect("readable");
    assert_eq!(latest, Some(sample(10)));

    let twice = sample(10).publish(dir.path()).expect_err("ten exists already");
    assert!(twice.to_string().contains("already complete"), "{twice}");

    checkpoint_file::forget_before(dir.path(), SnapshotId(10)).expect("removed");
    assert_eq!(checkpoint_file::completed_ids(dir.path()).expect("readable"), [SnapshotId(10)]);
}

#[test]
fn an_unfinished_checkpoint_is_none_and_a_missing_directory_is_an_error() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    sample(4).publish(dir.path()).expect("published");
    let half = dir.path().join("checkpoint-0000000005.unfinished");
    fs::write(half, &sample(5).encode()[..40]).expect("a file");
    let latest = checkpoint_file::latest_completed(dir.path()).expect("readable");
    assert_eq!(latest, Some(sample(4)));

    let missing = checkpoint_file::latest_completed(&dir.path().join("missing"));
    assert_eq!(missing.expect_err("not the same as none").kind(), ErrorKind::Unavailable);
}

#[test]
fn a_damaged_latest_checkpoint_is_an_error_and_never_an_older_checkpoint() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    sample(6).publish(dir.path()).expect("published");
    sample(7).publish(dir.path()).expect("published");
    let path = checkpoint_file::path_of(dir.path(), SnapshotId(7));
    let whole = fs::read(&path).expect("a file");

    for len in 0..whole.len() {
        let error = CompletedCheckpoint::decode(&whole[..len]).expect_err("cut short");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {len}: {error}");
    }
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let error = CompletedCheckpoint::decode(&damaged).expect_err("damaged");
        let of_version = (8..12).contains(&(bit / 8));
        let expected = if of_version { ErrorKind::Incompatible } else { ErrorKind::Corrupt };
        assert_eq!(error.kind(), expected, "bit {bit}: {error}");
    }

    fs::write(&path, &whole[..whole.len() - 1]).expect("a file");
    let error = checkpoint_file::latest_completed(dir.path()).expect_err("7 is damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("checkpoint-0000000007.completed"), "{error}");

    fs::write(&path, sample(8).encode()).expect("a file");
    let error = checkpoint_file::latest_completed(dir.path()).expect_err("7 holds 8");
    assert!(error.to_string().contains("the name of another one"), "{error}");
}

#[test]
fn every_event_survives_its_line() {
    let costs =
        Costs { pause_ns: 1, duration_ns: 2, bytes_new: 3, bytes_total: u64::MAX, records_new: 4 };
    let restored = Restored { checkpoint: 9, from_shards: 2, restore_us: 77 };
    let verdict = Verdict {
        operator: "carrier and day".into(),
        keys: 5,
        wrong_keys: 1,
        flights: 6,
        expected_flights: 7,
        first_difference: "N1: expected Expected { total: 1 }, found \"no\\ne\"".into(),
    };
    for event in [
        Event::Started { shards: 3, offset: 0, restored: None },
        Event::Started { shards: 3, offset: 12, restored: Some(restored) },
        Event::Progress { offset: 1, elapsed_us: 2 },
        Event::Checkpoint(CheckpointLine { id: 7, shards: 3, offset: 8, costs }),
        Event::Aborted { id: 7, reason: "disk\nfull\t\u{1}".into() },
        Event::Applied { offset: 1, elapsed_us: 2 },
        Event::Verified(verdict),
        Event::Finished { right: true },
        Event::Failed { message: "a \"quoted\" \\ path, and more {}: é".into() },
    ] {
        let line = event.to_line();
        assert!(!line.contains('\n'), "{line:?}");
        assert_eq!(Event::parse(&line).expect("sound"), event, "{line}");
        for (end, _) in line.char_indices() {
            assert!(Event::parse(&line[..end]).is_err(), "{:?} was taken", &line[..end]);
        }
    }
}

#[test]
fn a_verdict_needs_every_key_right_and_every_flight_counted_once() {
    let right = Verdict {
        operator: "route".into(),
        keys: 2,
        wrong_keys: 0,
        flights: 10,
        expected_flights: 10,
        first_difference: String::new(),
    };
    assert!(right.is_right());
    assert!(!Verdict { wrong_keys: 1, ..right.clone() }.is_right());
    assert!(!Verdict { flights: 9, ..right.clone() }.is_right());
    assert!(!Verdict { flights: 11, ..right }.is_right());
}

// Helpers.

/// A checkpoint with two shards, one of them with an empty handle.
fn sample(id: u64) -> CompletedCheckpoint {
    let costs =
        Costs { pause_ns: 10, duration_ns: 20, bytes_new: 30, bytes_total: 40, records_new: 5 };
    CompletedCheckpoint {
        id: SnapshotId(id),
        max_parallelism: 128,
        job: JobIdentity {
            input: InputIdentity { file_bytes: 1234, hash: ContentHash(u128::MAX / 3) },
            repeat: 20,
            spread: true,
        },
        position: Position { offset: 1000 * id, repetition: 3, record: 17 },
        shards: vec![
            ShardSnapshot { costs, handle: vec![7; 33] },
            ShardSnapshot { costs: Costs::default(), handle: Vec::new() },
        ],
    }
}

/// The example's program, brought up to date first: `cargo test` has just
/// built it, but `cargo test --test flights_job` has not, and a stale program
/// beside a new test proves nothing.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of this test");
        let profile_dir = test.parent().and_then(Path::parent).expect("<profile>/deps/<test>");
        let target_dir = profile_dir.parent().expect("<target>/<profile>");
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
            .arg(target_dir)
            .status()
            .expect("cargo can be started");
        let name = format!("flights{}", std::env::consts::EXE_SUFFIX);
        let program = profile_dir.join("examples").join(name);
        assert!(status.success() && program.exists(), "cannot build {}", program.display());
        program
    })
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
