//! The data and its reader.

use alluvium::base::ErrorKind;

use crate::example::input::FlightReader;
use crate::example::oracle::PlainTotals;
use crate::example::survey::Extent;
use crate::{CANCELLED, HEADER, NAMELESS, ON_TIME, bundled, cut, write_lines};

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
