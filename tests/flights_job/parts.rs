//! Parts of the job: state, results, time, completed checkpoints, events.

use std::fs;
use std::path::Path;

use alluvium::base::{ErrorKind, MaxParallelism, SnapshotId, SnapshotMode};
use alluvium::codec::Codec;
use alluvium::format::{Checkpoint, CheckpointKind, ShardCosts, ShardPart};

use crate::example::departure::{self, Departure, KeyedBy};
use crate::example::event::{CheckpointLine, Event, Restored, Verdict};
use crate::example::input::{Date, Flight, FlightReader};
use crate::example::job_data::JobData;
use crate::example::operators::{Grouping, SessionSet, SessionSetCodec, Totals, TotalsCodec};
use crate::example::results::{self, Kind, Results};
use crate::example::store::{self, ShardStore, Store};
use crate::example::time::{EventTime, Watermarks};
use crate::{HEADER, ON_TIME, RULES, Random, sample, write_lines};

#[test]
fn totals_survive_its_44_bytes_and_no_other_number_of_them() {
    let totals = Totals {
        flights: 1,
        cancelled: u64::MAX,
        departure_delay_sum_minutes: i64::MIN,
        arrival_delay_sum_minutes: -2,
        miles: 1 << 40,
        longest_delay_minutes: Totals::NO_DELAY,
    };
    let mut bytes = Vec::new();
    TotalsCodec.encode(&totals, &mut bytes).expect("all totals have an encoding");
    assert_eq!(TotalsCodec.fixed_len(), Some(bytes.len()));
    assert_eq!(TotalsCodec.decode(&bytes).expect("sound"), totals);
    bytes.push(0);
    for len in (0..=bytes.len()).filter(|&len| len != 44) {
        let error = TotalsCodec.decode(&bytes[..len]).expect_err("another length");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes: {error}");
    }
}

#[test]
fn a_shard_takes_the_keys_that_are_routed_to_it_and_refuses_all_others() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let max = MaxParallelism::DEFAULT;
    let store = open_store(dir.path());
    let (_, flight) = a_flight(dir.path());
    for count in [1, 2, 3, 7] {
        let mut shards: Vec<ShardStore> = (0..count)
            .map(|index| {
                let groups = max.range_of_subtask(index, count).expect("one of the subtasks");
                let results = Results::new(dir.path(), index as usize, SnapshotId(1));
                store.shard(groups, &[], &RULES, results).expect("an empty shard")
            })
            .collect();
        for key in ["", "N14228", "EWR-IAH", "UA 2013-01-01#4", "(none)", "é"] {
            let owner = departure::shard_of_key(key, max, count);
            for (index, shard) in shards.iter_mut().enumerate() {
                let done = shard.process(KeyedBy::Route, key, &flight);
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
    let store = open_store(dir.path());
    let results = || Results::new(dir.path(), 0, SnapshotId(9));
    let mut shard = store.shard(max.all_groups(), &[], &RULES, results()).expect("empty");
    let (_, flight) = a_flight(dir.path());
    shard.process(KeyedBy::Aircraft, "N14228", &flight).expect("in memory");

    let position = sample().position;
    let (ticket, part) =
        shard.snapshot(SnapshotMode::Incremental, SnapshotId(9), position).expect("frozen");
    assert!(part.is_some(), "the aircraft has come into service");
    let handle = ticket.wait().expect("durable").handle;
    let checkpoint = Checkpoint {
        id: SnapshotId(9),
        epoch: 1,
        job: "flights".into(),
        kind: CheckpointKind::Checkpoint,
        mode: SnapshotMode::Incremental,
        triggered_unix_ms: 0,
        completed_unix_ms: 0,
        shards: vec![ShardPart { handle, costs: ShardCosts::default() }],
        runtime: Vec::new(),
    };
    let snapshots = store.snapshots_of(&checkpoint, position).expect("they belong together");
    let mut restored =
        store.shard(max.all_groups(), &snapshots, &RULES, results()).expect("restored");
    let mut totals = |grouping| {
        let aggregates = &restored.operators.aggregates;
        aggregates.get(&mut restored.shard, grouping, &"N14228".to_owned()).expect("readable")
    };
    let found = totals(Grouping::Aircraft).map(|totals| (totals.flights, totals.miles));
    assert_eq!(found, Some((1, 1400)));
    assert_eq!(totals(Grouping::Route), None);

    let mut elsewhere = position;
    elsewhere.record += 1;
    let error = store.snapshots_of(&checkpoint, elsewhere).expect_err("taken at another place");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    for fact in ["does not belong", "taken at record 9000", "of checkpoint 9"] {
        assert!(error.to_string().contains(fact), "no `{fact}` in {error}");
    }
}

fn open_store(dir: &Path) -> Store {
    let checkpoints = store::coordinator(&dir.join("checkpoints"), 1000).expect("a new directory");
    Store::open(&dir.join("state"), &checkpoints, MaxParallelism::DEFAULT).expect("a new directory")
}

#[test]
fn what_the_job_keeps_with_a_checkpoint_reads_back_as_written_and_nothing_else_does() {
    let bytes = sample().to_bytes();
    assert_eq!(JobData::from_bytes(&bytes).expect("sound"), sample());
    for len in 0..bytes.len() {
        let error = JobData::from_bytes(&bytes[..len]).expect_err("cut short");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {len}: {error}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(JobData::from_bytes(&longer).is_err());
    let mut newer = bytes;
    newer[0] += 1;
    let error = JobData::from_bytes(&newer).expect_err("another version");
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
}

#[test]
fn every_event_survives_its_line() {
    let costs = ShardCosts {
        pause_ns: 1,
        duration_ns: 2,
        bytes_new: 3,
        bytes_total: u64::MAX,
        records_new: 4,
    };
    let savepoint = "on \"the\" way".to_owned();
    let restored =
        Restored { checkpoint: 9, savepoint: savepoint.clone(), from_shards: 2, restore_us: 77 };
    let verdict = Verdict {
        what: "carrier and day".into(),
        keys: 5,
        values: 6,
        wrong_keys: 1,
        note: "of \"everything\"".into(),
        first_difference: "N1: expected Expected { total: 1 }, found \"no\\ne\"".into(),
    };
    for event in [
        Event::Started { shards: 3, offset: 0, restored: None },
        Event::Started { shards: 3, offset: 12, restored: Some(restored) },
        Event::Progress { offset: 1, elapsed_us: 2 },
        Event::Checkpoint(CheckpointLine { id: 7, savepoint, shards: 3, offset: 8, costs }),
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

// Results.

#[test]
fn results_count_once_a_checkpoint_of_their_number_or_a_later_one_is_completed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut results = Results::new(dir.path(), 0, SnapshotId(5));
    for id in 5..9 {
        // Nothing is said before the barrier of checkpoint 7.
        if id != 7 {
            results.line(Kind::Hour, format_args!("EWR,{id}")).expect("written");
        }
        let part = results.barrier(SnapshotId(id)).expect("closed");
        assert_eq!(part.is_some(), id != 7);
        results::make_durable(dir.path(), part.into_iter().collect()).expect("durable");
    }
    let committed = |completed| {
        let mut lines = Vec::new();
        results::read_committed(dir.path(), SnapshotId(completed), |kind, key, line| {
            assert_eq!((kind, key), (Kind::Hour, "EWR"));
            lines.push(line.to_owned());
        })
        .expect("readable");
        lines
    };
    assert_eq!(committed(4), [""; 0]);
    assert_eq!(committed(6), ["hour,EWR,5", "hour,EWR,6"]);
    assert_eq!(committed(7), ["hour,EWR,5", "hour,EWR,6"]);
    assert_eq!(committed(8), ["hour,EWR,5", "hour,EWR,6", "hour,EWR,8"]);

    results::discard_after(dir.path(), SnapshotId(5)).expect("removed");
    assert_eq!(committed(8), ["hour,EWR,5"]);
    // What is said again has its place; what counts is never written over.
    let mut again = Results::new(dir.path(), 0, SnapshotId(6));
    again.line(Kind::Hour, format_args!("EWR,6")).expect("the place is free");
    let mut twice = Results::new(dir.path(), 0, SnapshotId(5));
    let error = twice.line(Kind::Hour, format_args!("EWR,5")).expect_err("it exists");
    assert!(error.to_string().contains("part-0000000005-000.csv"), "{error}");
}

#[test]
fn a_line_that_is_no_result_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let part = dir.path().join("part-0000000001-000.csv");
    for wrong in ["hour,EWR", "hour", "", "minute,EWR,1", "hour,EWR,1\nhour,EWR,2"] {
        fs::write(&part, format!("hour,EWR,0\n{wrong}")).expect("a file");
        let read = results::read_committed(dir.path(), SnapshotId(1), |_, _, _| {});
        // An empty end is no line at all.
        let Err(error) = read else {
            assert_eq!(wrong, "");
            continue;
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("part-0000000001-000.csv:"), "{error}");
    }
}

// Time.

#[test]
fn every_day_of_four_centuries_has_its_date() {
    let mut midnight = EventTime::midnight(Date { year: 1900, month: 1, day: 1 });
    for year in 1900u16..2301 {
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let lengths = [31, 28 + u8::from(is_leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        for (month, length) in (1..).zip(lengths) {
            for day in 1..=length {
                let date = Date { year, month, day };
                assert_eq!(EventTime::midnight(date), midnight, "{date:?}");
                let text = midnight.plus_minutes(1439).to_string();
                assert_eq!(text, format!("{year:04}-{month:02}-{day:02}T23:59"));
                midnight = midnight.plus_days(1);
            }
        }
    }
    assert_eq!(EventTime::midnight(Date { year: 1970, month: 1, day: 1 }).minutes(), 0);
}

#[test]
fn watermarks_resumed_anywhere_are_those_of_a_source_that_never_stopped() {
    for seed in 1..=20 {
        let mut random = Random(seed);
        let bound = random.below(100) as i64;
        let mut never_stopped = Watermarks::resume(bound, EventTime::START);
        let mut resumed = never_stopped;
        let mut told = EventTime::START;
        let mut time = -1000;
        for _ in 0..500 {
            time += random.below(20) as i64 - 8;
            let event = EventTime::from_minutes(time);
            if random.below(10) == 0 {
                resumed = Watermarks::resume(bound, resumed.latest());
            }
            let next = never_stopped.observe(event);
            assert_eq!(resumed.observe(event), next, "seed {seed}");
            assert_eq!(resumed.current(), never_stopped.current(), "seed {seed}");
            if let Some(next) = next {
                assert!(next > told, "seed {seed}: {next:?} after {told:?}");
                told = next;
            }
            let behind = never_stopped.latest().minutes() - told.minutes();
            assert!((bound + 1..bound + 11).contains(&behind), "seed {seed}: {behind} behind");
        }
    }
}

#[test]
fn a_flight_that_left_after_midnight_was_due_the_day_before() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let late = ON_TIME.replace("517,515,2,", "30,2345,45,");
    let (text, flight) = flight_of(dir.path(), &late);
    assert_eq!(flight.scheduled.to_string(), "2012-12-31T23:45", "{text:?}");
    let (_, flight) = flight_of(dir.path(), &ON_TIME.replace("517,515,2,", "2400,2359,1,"));
    assert_eq!(flight.scheduled.to_string(), "2013-01-01T23:59");
    let (_, flight) = flight_of(dir.path(), &ON_TIME.replace("517,515,2,830,819,11", "NA,515,,,,"));
    assert_eq!(flight.scheduled.to_string(), "2013-01-01T05:15");
    assert!(flight.outcome.cancelled);
}

#[test]
fn sessions_survive_their_bytes_and_no_others() {
    let mut bytes = Vec::new();
    for number in 1..=6i64 {
        bytes.extend_from_slice(&(number * 1000).to_le_bytes());
    }
    let mut set: SessionSet = SessionSetCodec.decode(&bytes).expect("two sessions");
    let mut again = Vec::new();
    SessionSetCodec.encode(&set, &mut again).expect("every set has an encoding");
    assert_eq!(again, bytes);
    for len in (0..bytes.len()).filter(|len| len % 24 != 0) {
        let error = SessionSetCodec.decode(&bytes[..len]).expect_err("another length");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes: {error}");
    }

    // The first is [1000, 2000), the second [4000, 5000); touching is near.
    assert_eq!(set.take_near(2001, 3999), []);
    assert_eq!(set.find(4000).map(|session| session.flights), Some(6000));
    assert_eq!(set.take_near(2000, 4000).len(), 2);
    assert!(set.is_empty());
}

// Helpers.

fn flight_of(dir: &std::path::Path, line: &str) -> (Flight, Departure) {
    let path = dir.join("one.csv");
    write_lines(&path, &[HEADER, line]);
    let flight = FlightReader::open(&path).expect("sound").next().expect("sound").expect("one");
    (flight, Departure::of(&flight, 0))
}

fn a_flight(dir: &std::path::Path) -> (Flight, Departure) {
    flight_of(dir, ON_TIME)
}
