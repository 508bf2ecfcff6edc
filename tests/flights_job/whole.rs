//! The whole job, as a process.

use std::fs;

use crate::example::cli::JobOptions;
use crate::example::event::CheckpointLine;
use crate::example::rules::Rules;
use crate::{
    CANCELLED, HEADER, ON_TIME, Random, assert_fails_saying, both, cut, flights, latest, restart,
    stdout, str, write_lines,
};

#[test]
fn every_total_and_result_is_right_after_sigkill_on_another_number_of_workers() {
    for seed in 1..=8 {
        let mut random = Random(seed);
        let workers = 1 + random.below(4);
        let rescale_to = 1 + (workers + random.below(4)) % 5;
        let kill_at = 0.05 + random.below(90) as f64 / 100.0;
        let repeat = 20 + random.below(60);
        let interval_ms = 1 + random.below(20);
        let spread = random.below(2) == 1;
        let lateness = [0, 1, 180, 5000][random.below(4) as usize];
        let dir = tempfile::tempdir().expect("a temporary directory");
        let input = cut(dir.path(), 700, random.below(2) == 1);

        let mut words = vec![
            "--input".to_owned(),
            input.display().to_string(),
            format!("--workers={workers}"),
            format!("--rescale-to={rescale_to}"),
            format!("--kill-at={kill_at}"),
            format!("--repeat={repeat}"),
            format!("--interval-ms={interval_ms}"),
            format!("--lateness-min={lateness}"),
            format!("--out-of-orderness-min={}", random.below(100)),
            format!("--session-gap-min={}", 1 + random.below(2000)),
            format!("--idle-days={}", 1 + random.below(10)),
            format!("--top={}", 1 + random.below(10)),
        ];
        if spread {
            words.push("--spread".into());
        }
        let case = format!("seed {seed}: flights {}", words.join(" "));
        let output = flights(&words);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{case}\n{}", both(&output));
        for expected in [
            "everything equals a plain computation over the file: yes".to_owned(),
            "killed       with SIGKILL at record ".to_owned(),
            "restarted    from checkpoint ".to_owned(),
            format!(", {workers} -> {rescale_to} workers, "),
            format!("700 flights x {repeat} = "),
            "records that the killed process had read after that checkpoint".to_owned(),
            "rolled back  to savepoint \"on-the-way\", checkpoint ".to_owned(),
        ] {
            assert!(text.contains(&expected), "{case}\nno `{expected}` in\n{}", both(&output));
        }
    }
}

#[test]
fn every_total_and_result_is_right_after_all_of_several_processes_were_killed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 700, true);
    let words = ["--input", str(&input), "--repeat=30", "--interval-ms=5", "--spread"];
    let numbers = ["--processes=2", "--workers=2", "--rescale-to=1"];
    let output = flights(words.into_iter().chain(numbers));
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    for expected in [
        "everything equals a plain computation over the file: yes",
        "killed       with SIGKILL at record ",
        ", 4 -> 2 workers, ",
        " on 2 workers in 2 processes ",
        "rolled back  to savepoint \"on-the-way\", checkpoint ",
        ", 4 -> 4 workers, ",
        " on 4 workers in 2 processes ",
    ] {
        assert!(text.contains(expected), "no `{expected}` in\n{}", both(&output));
    }
}

#[test]
fn more_workers_than_key_groups_are_refused() {
    let output = flights(["--workers=33", "--processes=4"]);
    assert_fails_saying(&output, &["more workers than key groups", "at most 128", "found 132"]);
}

#[test]
fn three_weeks_of_flights_have_late_dropped_and_merged_ones_and_all_are_right() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 19_000, true);
    let words = ["--input", str(&input), "--repeat=2", "--interval-ms=20", "--lateness-min=360"];
    let output = flights(words.into_iter().chain(["--workers=3", "--rescale-to=2"]));
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let text = stdout(&output);
    for what in [
        "late for an hour",
        "too late for an hour",
        "late for a session",
        "too late for a session",
        "sessions merged",
        "coming into service",
        "busiest routes, by day",
        "cancelled",
        "still in service",
    ] {
        let line = text.lines().find(|line| line.starts_with(what)).expect(what);
        let numbers: Vec<&str> = line[24..].split_whitespace().collect();
        assert_eq!(numbers[1], "0", "wrong: {line}");
        assert_ne!(numbers[2], "0", "nothing of it: {line}");
    }
}

#[test]
fn a_result_that_is_missing_changed_or_repeated_is_found() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = cut(dir.path(), 300, false);
    let kept = dir.path().join("kept");
    let output = flights(["--input", str(&input), "--no-kill", "--repeat=2", "--dir", str(&kept)]);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));

    let again = restart(&input, &kept, 2);
    let healthy = flights(again.to_words());
    assert_eq!(healthy.status.code(), Some(0), "{}", both(&healthy));

    let mut parts: Vec<_> = fs::read_dir(kept.join("results"))
        .expect("a directory")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| !path.ends_with("undone"))
        .collect();
    parts.sort_unstable();
    let whole = fs::read_to_string(&parts[0]).expect("a part");
    let first = whole.lines().next().expect("a line");
    for (tampered, fact) in [
        (whole.replacen(&format!("{first}\n"), "", 1), format!("1 times too few: {first}")),
        (format!("{first}\n{whole}"), format!("1 times too many: {first}")),
        (whole.replacen(first, &format!("{first}9"), 1), format!("1 times too few: {first}")),
    ] {
        fs::write(&parts[0], tampered).expect("a file");
        let output = flights(again.to_words());
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        assert!(stdout(&output).contains(&fact), "no `{fact}` in {}", both(&output));
        assert!(stdout(&output).contains("\"wrong_keys\":1"), "{}", both(&output));
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

    let (_, latest) = latest(&kept);
    let line = CheckpointLine::of(&latest).expect("what the job wrote");
    assert_eq!(line.offset, 900);
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
    let before = latest(&kept);

    let second = flights(words);
    assert_fails_saying(
        &second,
        &[str(&kept), "not empty", "an earlier run with a completed checkpoint", "--dir"],
    );
    assert_eq!(before, latest(&kept));
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
    let (first, _) = latest(&kept);

    let again = restart(&input, &kept, 2);
    let healthy = flights(again.to_words());
    assert_eq!(healthy.status.code(), Some(0), "{}", both(&healthy));

    let other_input = dir.path().join("other.csv");
    write_lines(&other_input, &[HEADER, ON_TIME]);
    let other_rules = Rules { lateness_min: 7, ..again.rules };
    for foreign in [
        JobOptions { input: other_input, ..again.clone() },
        JobOptions { rules: other_rules, ..again.clone() },
        JobOptions { spread: true, ..again.clone() },
        JobOptions { repeat: 3, ..again.clone() },
    ] {
        let output = flights(foreign.to_words());
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        for expected in ["not what it was before", "the same --input and rules"] {
            assert!(stdout(&output).contains(expected), "no `{expected}` in {}", both(&output));
        }
    }

    let (latest, _) = latest(&kept);
    assert!(latest.id > first.id, "an older one is there as well");
    let path = kept.join("checkpoints").join(&latest.location);
    let mut bytes = fs::read(&path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&path).expect("a file");
    fs::write(&path, &bytes).expect("a file");
    let damaged = flights(again.to_words());
    assert_eq!(damaged.status.code(), Some(1), "{}", both(&damaged));
    let text = stdout(&damaged);
    let name = str(path.file_name().expect("a name").as_ref());
    for expected in ["hash", name, "restore another checkpoint"] {
        assert!(text.contains(expected), "no `{expected}` in {}", both(&damaged));
    }
}

#[test]
fn every_option_is_explained() {
    let output = flights(["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for option in [
        "--input <FILE>",
        "--workers <N>",
        "--rescale-to <N>",
        "--processes <N>",
        "--interval-ms <N>",
        "--dir <DIR>",
        "--repeat <N>",
        "--spread",
        "--kill-at <FRACTION>",
        "--savepoint-at <FRACTION>",
        "--no-rollback",
        "--no-kill",
        "--out-of-orderness-min <MINUTES>",
        "--lateness-min <MINUTES>",
        "--session-gap-min <MINUTES>",
        "--idle-days <DAYS>",
        "--top <N>",
    ] {
        assert!(stdout(&output).contains(option), "no `{option}` in {}", stdout(&output));
    }
    assert!(!stdout(&output).contains("Commands:"), "the inner command is hidden");
}
