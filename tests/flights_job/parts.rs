//! Parts of the job: state, results, time, completed checkpoints, events.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use alluvium::base::ErrorKind;
use alluvium::codec::Codec;
use alluvium::format::ShardCosts;

use crate::example::cli::JobOptions;
use crate::example::departure::KeyedBy;
use crate::example::event::{CheckpointLine, Event, Restored, Verdict};
use crate::example::input::{Date, Flight, FlightReader};
use crate::example::job::fingerprint;
use crate::example::operators::{SessionSet, SessionSetCodec, Totals, TotalsCodec};
use crate::example::results::{self, Kind};
use crate::example::rules::Rules;
use crate::example::survey::InputIdentity;
use crate::example::text::Text;
use crate::example::time::{self, EventTime, Watermarks};
use crate::{HEADER, ON_TIME, RULES, Random, cut, restart, write_lines};

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
fn a_job_over_another_input_or_by_other_rules_has_another_fingerprint() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 3, false);
    let job = restart(&input, dir.path(), 2);
    let identity = InputIdentity::of_file(&input).expect("readable");
    let of = |job: &JobOptions| fingerprint(job, &identity);
    let same = JobOptions { workers: 3, interval_ms: 7, restore: false, ..job.clone() };
    assert_eq!(of(&same), of(&job));
    let mut all = vec![
        of(&job),
        of(&JobOptions { repeat: 3, ..job.clone() }),
        of(&JobOptions { spread: true, ..job.clone() }),
    ];
    for rules in [
        Rules { out_of_orderness_min: 31, ..RULES },
        Rules { lateness_min: 181, ..RULES },
        Rules { session_gap_min: 481, ..RULES },
        Rules { idle_days: 31, ..RULES },
        Rules { top: 4, ..RULES },
    ] {
        all.push(of(&JobOptions { rules, ..job.clone() }));
    }
    for flights in [2, 4] {
        let other = InputIdentity::of_file(&cut(dir.path(), flights, false)).expect("readable");
        all.push(fingerprint(&job, &other));
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn a_flight_has_five_keys_and_each_repetition_its_own_if_they_are_spread() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let flight = flight_of(dir.path(), ON_TIME);
    let keys = |repetition| KeyedBy::ALL.map(|by| by.key(&flight, repetition).to_string());
    assert_eq!(keys(None), ["N14228", "EWR", "UA", "UA 2013-01-01", "EWR-IAH"]);
    assert_eq!(keys(Some(4)), ["N14228#4", "EWR#4", "UA#4", "UA 2013-01-01#4", "EWR-IAH#4"]);
    let longest = "ABCDEFGHIJK";
    let long = ON_TIME.replace("EWR,IAH", &format!("{longest},{longest}"));
    let flight = flight_of(dir.path(), &long);
    let key = KeyedBy::Route.key(&flight, Some(u32::MAX));
    assert_eq!(key.as_str(), format!("{longest}-{longest}#{}", u32::MAX));
}

#[test]
fn a_short_text_keeps_what_fits_and_refuses_the_rest_whole() {
    let mut text = Text::<5>::EMPTY;
    assert!(text.write_str("ab").is_ok() && text.write_str("cdef").is_err());
    assert_eq!(text.as_str(), "ab");
    assert!(text.write_str("é").is_ok() && text.write_str("x").is_ok());
    assert_eq!((text.as_str(), Text::of("abéx")), ("abéx", Some(text)));
    assert_eq!(Text::<5>::of("abcdef"), None);
    let json = serde_json::to_string(&text).expect("a string");
    assert_eq!(json, "\"abéx\"");
    assert_eq!(serde_json::from_str::<Text<5>>(&json).expect("it fits"), text);
    assert!(serde_json::from_str::<Text<4>>(&json).is_err());
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
        Restored { checkpoint: 9, savepoint: savepoint.clone(), from_workers: 2, restore_us: 77 };
    let verdict = Verdict {
        what: "carrier and day".into(),
        keys: 5,
        values: 6,
        wrong_keys: 1,
        note: "of \"everything\"".into(),
        first_difference: "N1: expected Expected { total: 1 }, found \"no\\ne\"".into(),
    };
    for event in [
        Event::Started { workers: 3, offset: 0, restored: None },
        Event::Started { workers: 3, offset: 12, restored: Some(restored) },
        Event::Progress { offset: 1, elapsed_us: 2 },
        Event::Checkpoint(CheckpointLine { id: 7, savepoint, workers: 3, offset: 8, costs }),
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
fn only_what_is_committed_is_a_result() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let undone = dir.path().join("undone");
    fs::create_dir(&undone).expect("a directory");
    let write = |name: &str, airport| {
        let line = results::line(Kind::Hour, format_args!("{airport},7"));
        write_lines(&dir.path().join(name), &[&line, "routes,UA,x"]);
    };
    write("part-00000000000000000010-00000", "JFK");
    write("part-00000000000000000009-00001", "EWR");
    write(".pending-0000000001-00000-0000000003", "LGA");
    write("undone/0000000002-part-00000000000000000011-00000", "LGA");
    let mut found = Vec::new();
    results::read_committed(dir.path(), |kind, key, line| {
        found.push((kind, key.to_owned(), line.to_owned()));
    })
    .expect("readable");
    let result = |kind, key: &str, line: &str| (kind, key.to_owned(), line.to_owned());
    let expected = [
        result(Kind::Hour, "EWR", "hour,EWR,7"),
        result(Kind::Routes, "UA", "routes,UA,x"),
        result(Kind::Hour, "JFK", "hour,JFK,7"),
        result(Kind::Routes, "UA", "routes,UA,x"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_line_that_is_no_result_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let part = dir.path().join("part-00000000000000000001-00000");
    for wrong in ["hour,EWR", "hour", "", "minute,EWR,1", "hour,EWR,1\nhour,EWR,2"] {
        fs::write(&part, format!("hour,EWR,0\n{wrong}")).expect("a file");
        let read = results::read_committed(dir.path(), |_, _, _| {});
        // An empty end is no line at all.
        let Err(error) = read else {
            assert_eq!(wrong, "");
            continue;
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("part-00000000000000000001-00000:"), "{error}");
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
        let (mut told, mut latest) = (EventTime::START, EventTime::START);
        let mut time = -1000;
        for _ in 0..500 {
            time += random.below(20) as i64 - 8;
            let event = EventTime::from_minutes(time);
            if random.below(10) == 0 {
                resumed = Watermarks::resume(bound, latest);
            }
            latest = latest.max(event);
            never_stopped.observe(event);
            resumed.observe(event);
            let next = never_stopped.current();
            assert_eq!(resumed.current(), next, "seed {seed}");
            assert_eq!(Watermarks::after(bound, latest), next, "seed {seed}");
            assert!(next >= told, "seed {seed}: {next:?} after {told:?}");
            told = next;
            let behind = latest.minutes() - told.minutes();
            assert!((bound + 1..bound + 11).contains(&behind), "seed {seed}: {behind} behind");
        }
    }
}

#[test]
fn a_flight_that_left_after_midnight_was_due_the_day_before() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let late = ON_TIME.replace("517,515,2,", "30,2345,45,");
    let scheduled = |line: &str| {
        let flight = flight_of(dir.path(), line);
        (time::scheduled(&flight).to_string(), flight)
    };
    let (due, flight) = scheduled(&late);
    assert_eq!(due, "2012-12-31T23:45", "{flight:?}");
    assert_eq!(scheduled(&ON_TIME.replace("517,515,2,", "2400,2359,1,")).0, "2013-01-01T23:59");
    let (due, flight) = scheduled(&ON_TIME.replace("517,515,2,830,819,11", "NA,515,,,,"));
    assert_eq!(due, "2013-01-01T05:15");
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

fn flight_of(dir: &Path, line: &str) -> Flight {
    let path = dir.join("one.csv");
    write_lines(&path, &[HEADER, line]);
    FlightReader::open(&path).expect("sound").next().expect("sound").expect("one")
}
