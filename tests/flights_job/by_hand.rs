//! What the job says of a few flights, worked out by hand: neither the job nor
//! its plain computation is asked what is right.

use std::fs;
use std::path::Path;

use crate::{HEADER, both, flights, str, write_lines};

/// A flight of 1 January: its carrier, aircraft and route, and when it left
/// with how many minutes of delay; an arrival five minutes better than that.
fn flown(day: u8, carrier: &str, aircraft: &str, route: &str, left: &str, delay: i32) -> String {
    let (origin, dest) = route.split_once('-').expect("two airports");
    let arrival = delay - 5;
    format!(
        "2013,1,{day},{left},0,{delay},0,0,{arrival},{carrier},1,{aircraft},{origin},{dest},60,100,0,0,x"
    )
}

fn cancelled(day: u8, carrier: &str, aircraft: &str, route: &str, due: &str) -> String {
    let (origin, dest) = route.split_once('-').expect("two airports");
    format!("2013,1,{day},NA,{due},NA,NA,0,NA,{carrier},1,{aircraft},{origin},{dest},NA,100,0,0,x")
}

/// Runs the job and gives its results, sorted, without the common parts of
/// their times.
fn results_of(dir: &Path, lines: &[String], options: &[&str]) -> Vec<String> {
    let input = dir.join("flights.csv");
    let kept = dir.join("kept");
    let lines: Vec<&str> =
        std::iter::once(HEADER).chain(lines.iter().map(String::as_str)).collect();
    write_lines(&input, &lines);
    let words = ["--input", str(&input), "--dir", str(&kept), "--no-kill", "--repeat=1"];
    let output = flights(words.iter().chain(options));
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));

    let mut results = Vec::new();
    for part in fs::read_dir(kept.join("results")).expect("a directory") {
        let part = part.expect("a file");
        // The rest is what the job said after the savepoint that it was rolled back to.
        if part.file_name().to_str().is_some_and(|name| name.starts_with("part-")) {
            let part = fs::read_to_string(part.path()).expect("a part");
            results.extend(part.lines().map(|line| line.replace("2013-01-", "")));
        }
    }
    results.sort_unstable();
    results
}

#[test]
fn windows_sessions_and_routes_of_a_morning_are_what_they_should_be() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rules =
        ["--out-of-orderness-min=30", "--lateness-min=60", "--session-gap-min=120", "--top=1"];
    let flights = [
        flown(1, "AA", "N1", "JFK-LAX", "600", 0),
        // The watermark is then 7:29: the hour from 6:00 is complete, not over.
        flown(1, "AA", "N2", "JFK-BOS", "800", 0),
        // Due at 6:50: late, and allowed.
        flown(1, "AA", "N3", "JFK-LAX", "805", 75),
        // Two hours and more after 6:00: a new session of N1. The watermark is
        // then 8:49: that from 6:00 to 8:00 is complete, not over.
        flown(1, "AA", "N1", "JFK-LAX", "920", 0),
        // Near to both of them: they are one.
        cancelled(1, "AA", "N1", "JFK-BOS", "740"),
        // Due at 6:50: too late for its hour, late for its session.
        flown(1, "UA", "N4", "EWR-ORD", "925", 155),
        // Due at 6:40: the same; its session would be over at 9:39.
        flown(1, "UA", "N5", "EWR-ORD", "930", 170),
        // Nobody knows which aircraft.
        flown(1, "AA", "NA", "JFK-LAX", "931", 1),
    ];
    let expected = [
        "hour,JFK,01T06:00,01T07:00,late,2,75,75",
        "hour,JFK,01T06:00,01T07:00,on time,1,0,0",
        "hour,JFK,01T08:00,01T09:00,on time,1,0,0",
        "hour,JFK,01T09:00,01T10:00,on time,2,1,1",
        "routes,AA,01T00:00,02T00:00,on time,JFK-LAX 4",
        "routes,UA,01T00:00,02T00:00,on time,EWR-ORD 2",
        "service,N1,01T06:00",
        "service,N2,01T08:00",
        "service,N3,01T06:50",
        "service,N4,01T06:50",
        "service,N5,01T06:40",
        "session,N1,01T06:00,01T08:00,on time,1,0,JFK-LAX",
        "session,N1,01T06:00,01T11:20,on time,3,1,JFK-LAX JFK-BOS JFK-LAX",
        "session,N2,01T08:00,01T10:00,on time,1,0,JFK-BOS",
        "session,N3,01T06:50,01T08:50,on time,1,0,JFK-LAX",
        "session,N4,01T06:50,01T08:50,late,1,0,EWR-ORD",
        "session,N5,01T06:40,01T08:40,late,1,0,EWR-ORD",
    ];
    assert_eq!(results_of(dir.path(), &flights, &rules), expected);
}

#[test]
fn without_lateness_a_window_is_fired_once_and_whatever_comes_later_is_dropped() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rules = ["--out-of-orderness-min=0", "--lateness-min=0", "--session-gap-min=60"];
    let flights = [
        flown(1, "AA", "N1", "JFK-LAX", "600", 0),
        flown(1, "AA", "N1", "JFK-LAX", "700", 0),
        // The watermark is 6:59 now. Due at 6:59 and 7:00.
        flown(1, "AA", "N2", "JFK-LAX", "701", 2),
        flown(1, "AA", "N3", "JFK-LAX", "702", 2),
        flown(2, "AA", "N1", "JFK-LAX", "600", 0),
        // Of the day before, which is over.
        flown(2, "AA", "N3", "JFK-LAX", "601", 722),
    ];
    let found = results_of(dir.path(), &flights, &rules);
    let expected = [
        "hour,JFK,01T06:00,01T07:00,on time,1,0,0",
        "hour,JFK,01T07:00,01T08:00,on time,2,2,2",
        "hour,JFK,02T06:00,02T07:00,on time,1,0,0",
        // Also the flight that was due at 6:59: the day was not over.
        "routes,AA,01T00:00,02T00:00,on time,JFK-LAX 4",
        "routes,AA,02T00:00,03T00:00,on time,JFK-LAX 1",
        "service,N1,01T06:00",
        "service,N2,01T06:59",
        "service,N3,01T07:00",
        // They touch, and are one.
        "session,N1,01T06:00,01T08:00,on time,2,0,JFK-LAX JFK-LAX",
        "session,N1,02T06:00,02T07:00,on time,1,0,JFK-LAX",
        "session,N2,01T06:59,01T07:59,on time,1,0,JFK-LAX",
        "session,N3,01T07:00,01T08:00,on time,1,0,JFK-LAX",
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_aircraft_is_forgotten_when_event_time_has_passed_and_not_before() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rules = ["--out-of-orderness-min=0", "--idle-days=2"];
    let flights = [
        // Before there is a watermark: as if at the first one, 5:59.
        flown(1, "AA", "N1", "JFK-LAX", "600", 0),
        // At 5:59, too; then the watermark is 11:59.
        flown(1, "AA", "N2", "JFK-LAX", "1200", 0),
        // Then it is 5:49, two days later but for ten minutes.
        flown(3, "AA", "N3", "JFK-LAX", "559", 0),
        // So this one is remembered. Then it is 5:59.
        flown(3, "AA", "N2", "JFK-LAX", "600", 0),
        // And this one is not.
        flown(3, "AA", "N1", "JFK-LAX", "605", 0),
        // Then it is 5:59 again, two days and ten minutes after N2 was seen.
        flown(5, "AA", "N4", "JFK-LAX", "600", 0),
        flown(5, "AA", "N2", "JFK-LAX", "601", 0),
    ];
    let found = results_of(dir.path(), &flights, &rules);
    let service: Vec<&String> = found.iter().filter(|line| line.starts_with("service")).collect();
    let expected = [
        "service,N1,01T06:00",
        "service,N1,03T06:05",
        "service,N2,01T12:00",
        "service,N2,05T06:01",
        "service,N3,03T05:59",
        "service,N4,05T06:00",
    ];
    assert_eq!(service, expected);
}
