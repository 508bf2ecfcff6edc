//! Timely's word count and hash join, on Alluvium's state: equal to plain computations.

#![allow(clippy::disallowed_methods, reason = "inputs and results are real files")]

use std::collections::BTreeMap;
use std::path::Path;

use alluvium::{ListState, ValueState};
use alluvium_timely::{Either, FileSink, Generator, Job, Lines, Outcome};
use timely::Config;
use timely::dataflow::operators::vec::Map;

/// All lines of all committed files, sorted.
fn results(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("part-"), "{name} was left behind");
        lines.extend(std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned));
    }
    lines.sort();
    lines
}

fn count_words(dir: &Path, input: &Path, workers: usize) -> alluvium::Result<Outcome> {
    let (input, out) = (input.to_owned(), dir.join("out"));
    Job::local("words", dir)?.interval_ms(Some(20)).run(Config::process(workers), move |flow| {
        let words = flow.source("lines", Lines::new(&input)).build()?.flat_map(|line: String| {
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        });
        let counts = flow
            .keyed("count", words, String::clone)
            .state(|shard| ValueState::<String, u64>::register(shard, "counts"))?
            .process(|counts, context, word, _| {
                let mut count = 0;
                counts.update(context.store(), word, |before| {
                    count = before.unwrap_or(0) + 1;
                    Some(count)
                })?;
                context.emit((word.clone(), count));
                Ok(())
            })?;
        flow.files("out", counts, FileSink::new(&out), |(word, count), bytes| {
            bytes.extend_from_slice(format!("{word} {count}\n").as_bytes());
        })
    })
}

#[test]
fn words_are_counted_as_by_a_map_on_any_number_of_workers() {
    let text: String = (0..20_000u64)
        .map(|i| format!("w{} w{} w{}\n", i % 7, i * i % 101, i.wrapping_mul(2_654_435_761) % 997))
        .collect();
    let mut expected = Vec::new();
    let mut counts = BTreeMap::new();
    for word in text.split_whitespace() {
        let count = counts.entry(word).or_insert(0);
        *count += 1;
        expected.push(format!("{word} {count}"));
    }
    expected.sort();
    for workers in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("input");
        std::fs::write(&input, &text).unwrap();
        let outcome = count_words(dir.path(), &input, workers).unwrap();
        assert!(outcome.checkpoint.is_some() && outcome.stopped_with.is_none(), "{outcome:?}");
        assert_eq!(results(&dir.path().join("out")), expected, "{workers} workers");
        // Once more: it goes on from the end.
        count_words(dir.path(), &input, 4 - workers).unwrap();
        assert_eq!(results(&dir.path().join("out")), expected, "again after {workers} workers");
        // Another file is not gone on with.
        std::fs::write(&input, format!("{text}more\n")).unwrap();
        let refused = count_words(dir.path(), &input, workers).unwrap_err();
        assert_eq!(refused.kind(), alluvium::ErrorKind::Incompatible, "{refused}");
    }
}

#[test]
fn a_hash_join_finds_every_pair_of_equal_keys_once() {
    const KEYS: u64 = 500;
    let left = |split: u32, i: u64| (i < 3_000).then(|| (i * 31 % KEYS, i * 10 + u64::from(split)));
    let right =
        |split: u32, i: u64| (i < 2_000).then(|| (i * 17 % KEYS, i * 10 + u64::from(split)));
    let all = |splits: u32, make: fn(u32, u64) -> Option<(u64, u64)>| -> Vec<(u64, u64)> {
        (0..splits).flat_map(|s| (0..).map_while(move |i| make(s, i))).collect()
    };
    let mut expected = Vec::new();
    let mut by_key: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (key, value) in all(3, right) {
        by_key.entry(key).or_default().push(value);
    }
    for (key, one) in all(2, left) {
        expected.extend(by_key.get(&key).into_iter().flatten().map(|two| format!("{one} {two}")));
    }
    expected.sort();

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let job = Job::local("join", dir.path()).unwrap().interval_ms(Some(10));
    let sink = FileSink::new(&out);
    job.run(Config::process(2), move |flow| {
        let lefts = flow.source("left", Generator::new(2, left)).build()?;
        let rights = flow.source("right", Generator::new(3, right)).build()?;
        let pairs = flow
            .keyed_two("join", lefts, rights, |l: &(u64, u64)| l.0, |r: &(u64, u64)| r.0)
            .state(|shard| {
                let lefts = ListState::<u64, u64>::register(shard, "lefts")?;
                let rights = ListState::<u64, u64>::register(shard, "rights")?;
                Ok((lefts, rights))
            })?
            .process(|(lefts, rights), context, key, record| match record {
                Either::Left((_, one)) => {
                    for two in rights.get(context.store(), key)? {
                        context.emit((one, two));
                    }
                    lefts.add(context.store(), key, &one)
                }
                Either::Right((_, two)) => {
                    for one in lefts.get(context.store(), key)? {
                        context.emit((one, two));
                    }
                    rights.add(context.store(), key, &two)
                }
            })?;
        flow.files("pairs", pairs, sink.clone(), |(one, two), bytes| {
            bytes.extend_from_slice(format!("{one} {two}\n").as_bytes());
        })
    })
    .unwrap();
    assert_eq!(results(&out), expected);
}
