//! This program again as the process of one engine, told what to do line by
//! line.
//!
//! A request is one line of JSON on the child's standard input, its answer one
//! line on the child's standard output: `{"done": ...}`, or `{"failed": "why"}`
//! after which the child ends. Between two requests the child waits, with all
//! that the engine has in memory, while another engine's child works. It ends
//! when its input does, so none outlives this process.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::Result;
use crate::cgroup::MemoryGroup;

const SIGKILL: i32 = 9;

/// What came of a request.
pub(crate) enum Answer {
    /// It was done; what the child found.
    Done(Value),
    /// The child is no more: killed from outside, most likely for its memory.
    Killed,
}

/// The process of one engine.
pub(crate) struct Child {
    name: String,
    process: Process,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Child {
    /// Starts the process and moves it into its group before it does anything.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        group: Option<&MemoryGroup>,
    ) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let requests = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().ok_or("the child has no output")?);
        let child = Self { name: name.to_owned(), process, requests, answers };
        if let Some(group) = group {
            group.admit(child.process.id())?;
        }
        Ok(child)
    }

    /// Has the child do something and waits until it has.
    ///
    /// # Errors
    /// If the child says that it failed, or ended without being killed.
    pub(crate) fn ask(&mut self, request: &Value) -> Result<Answer> {
        if let Some(requests) = &mut self.requests {
            // A child that has just been killed closes the pipe: what became of
            // it is found out below.
            let _ = writeln!(requests, "{request}").and_then(|()| requests.flush());
        }
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            let status = self.process.wait()?;
            return if status.signal() == Some(SIGKILL) {
                Ok(Answer::Killed)
            } else {
                Err(format!("the process of {} ended with {status}", self.name).into())
            };
        }
        let mut answer: Value = serde_json::from_str(&line)?;
        match answer["failed"].as_str() {
            Some(reason) => Err(format!("{}: {reason}", self.name).into()),
            None => Ok(Answer::Done(answer["done"].take())),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The end of its input is the end of the child, once it has done what it
        // is doing.
        drop(self.requests.take());
        let _ = self.process.wait();
    }
}

/// Answers requests from standard input with `work` until there are no more.
pub(crate) fn serve(mut work: impl FnMut(&Value) -> Result<Value>) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = match work(&request) {
            Ok(found) => json!({ "done": found }),
            Err(error) => json!({ "failed": error.to_string() }),
        };
        let mut output = std::io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()?;
        if answer.get("failed").is_some() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Child> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Child::start("sh", command, None)
    }

    #[test]
    fn an_answer_a_failure_and_a_kill_are_told_apart() -> Result<()> {
        let mut child = shell("read line; echo '{\"done\":7}'; read line; kill -9 $$")?;
        assert!(matches!(child.ask(&json!(1))?, Answer::Done(found) if found == 7));
        assert!(matches!(child.ask(&json!(2))?, Answer::Killed));
        let failed = shell("read line; echo '{\"failed\":\"lost\"}'")?.ask(&json!(1)).err();
        assert!(failed.is_some_and(|error| error.to_string() == "sh: lost"));
        let ended = shell("read line; exit 3")?.ask(&json!(1)).err();
        assert!(ended.is_some_and(|error| error.to_string().contains("ended with exit status: 3")));
        Ok(())
    }
}
