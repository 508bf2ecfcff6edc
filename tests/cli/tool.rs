//! Running the tool.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The one JSON value of the output.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    /// The JSON values of the output, one a line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{self:?}");
        let lines = self.stdout.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }
}

/// Runs the tool with these arguments, to its end.
pub(crate) fn alluvium(args: &[&str]) -> Ran {
    let ran = Command::new(env!("CARGO_BIN_EXE_alluvium")).args(args).output().unwrap();
    Ran {
        code: ran.status.code().unwrap_or(-1),
        stdout: String::from_utf8(ran.stdout).unwrap(),
        stderr: String::from_utf8(ran.stderr).unwrap(),
    }
}

/// Runs a verb on a store.
pub(crate) fn on(store: &Path, verb: &str, args: &[&str]) -> Ran {
    let all = [&[verb, store.to_str().unwrap()], args].concat();
    alluvium(&all)
}

/// Runs a verb on a store for its JSON.
pub(crate) fn json(store: &Path, verb: &str, args: &[&str]) -> Value {
    on(store, verb, &[args, &["--format", "json"]].concat()).json()
}

/// Runs a verb on a store for its lines of JSON.
pub(crate) fn lines(store: &Path, verb: &str, args: &[&str]) -> Vec<Value> {
    on(store, verb, &[args, &["--format", "json"]].concat()).lines()
}
