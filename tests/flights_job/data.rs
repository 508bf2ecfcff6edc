//! The data and its reader.

use std::fs;
use std::sync::Arc;

use alluvium::base::ErrorKind;
use alluvium_timely::{Next, Reader, Source};

use crate::example::departure::Reading;
use crate::example::oracle::PlainTotals;
use crate::example::source::{Course, FlightSource, Flights};
use crate::example::survey::Extent;
use crate::example::time::EventTime;
use crate::{CANCELLED, HEADER, NAMELESS, ON_TIME, bundled, cut, restart, write_lines};

#[test]
fn the_bundled_data_is_what_its_source_says() {
    let oracle = PlainTotals::single_pass(&bundled()).expect("the bundled data is sound");
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
    let oracle = PlainTotals::single_pass(&input).expect("sound");
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
        (3, "1260"),
        (4, ""),
        (4, "2401"),
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
        let error = Extent::of_file(&input).expect_err(name);
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        assert!(text.contains("bad.csv:3)"), "{text}");
        assert!(text.contains(&format!("`{name}`")), "{text}");
    }
}

fn read(flights: &mut Flights) -> Option<Reading> {
    match flights.next().expect("sound") {
        Next::Record(reading) => Some(reading),
        Next::Idle | Next::End => None,
    }
}

#[test]
fn a_source_opened_at_any_place_goes_on_as_one_that_never_stopped() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 50, true);
    let options = restart(&input, dir.path(), 3);
    let source = FlightSource::new(&options, Arc::new(Course::default())).expect("sound");
    let mut never_stopped = source.open(0, None).expect("sound");
    let mut latest = EventTime::START;
    for place in 0..=150 {
        assert_eq!(never_stopped.position(), place);
        let mut resumed = source.open(0, Some(place)).expect("there are as many");
        assert_eq!(resumed.position(), place);
        let next = read(&mut never_stopped);
        assert_eq!(read(&mut resumed), next, "after {place}");
        assert_eq!(next.is_some(), place < 150);
        let Some(next) = next else { break };
        assert_eq!(u64::from(next.repetition), place / 50);
        assert!(next.watermark < latest || place == 0, "after {place}");
        latest = latest.max(next.scheduled);
    }
    assert!(source.last_watermark() < latest && source.last_watermark() > EventTime::START);
}

#[test]
fn a_source_whose_file_has_other_flights_than_it_had_fails() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 50, false);
    let options = restart(&input, dir.path(), 2);
    let source = FlightSource::new(&options, Arc::new(Course::default())).expect("sound");
    for flights in [49, 51] {
        fs::rename(cut(dir.path(), flights, false), &input).expect("a file");
        let mut reader = source.open(0, None).expect("nothing is read yet");
        let error = (0..101).find_map(|_| reader.next().err()).expect("it has not 50 flights");
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        assert!(error.to_string().contains(&format!("found {flights}")), "{error}");
    }
    fs::rename(cut(dir.path(), 49, false), &input).expect("a file");
    // The place is the last one of the first repetition.
    assert_eq!(source.open(0, Some(49)).expect("they are there").position(), 49);
    fs::rename(cut(dir.path(), 48, false), &input).expect("a file");
    let error = source.open(0, Some(49)).err().expect("one is missing");
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
}
