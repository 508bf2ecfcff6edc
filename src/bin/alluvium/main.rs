//! The command line tool of Alluvium: looks into checkpoint stores without the job or
//! its code, and does the little that can be done to them from outside.
//!
//! Data goes to the standard output; progress, notes and errors to the standard error
//! output. Verbs that only look open the store for reading and write nothing into it.
//! Those that change something say what they would do, until they are told `--yes`.

mod args;
mod canonical;
mod change;
mod decode;
mod failure;
mod files;
mod gc;
mod list;
#[cfg(feature = "object-store")]
mod looking;
mod out;
mod portable;
mod readonly;
mod records;
mod remote;
mod rescale;
mod scratch;
mod show;
mod states;
mod store;
mod transfer;
mod verify;
mod versions;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Verb};
use self::failure::Failure;
use self::out::Out;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Asking for help is no mistake.
            let code = if error.use_stderr() { failure::WRONG_USE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let mut out = Out::new(cli.format);
    let done = run(cli.verb, &mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match done {
        Ok(code) => ExitCode::from(code),
        // Whoever read the output has seen enough.
        Err(Failure::Hung) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = out.flush();
            let text = out::clean(&failure.to_string()).into_owned();
            let _ = writeln!(std::io::stderr(), "alluvium: {text}");
            ExitCode::from(failure.code())
        }
    }
}

fn run(verb: Verb, out: &mut Out) -> Result<u8, Failure> {
    match verb {
        Verb::List(args) => list::run(&args, out),
        Verb::Show(args) => show::run(&args, out),
        Verb::Files(args) => files::run(&args, out),
        Verb::States(args) => states::run(&args, out),
        Verb::Get(args) => records::get(&args, out),
        Verb::Scan(args) => records::scan(&args, out),
        Verb::Diff(args) => records::diff(&args, out),
        Verb::Verify(args) => verify::run(&args, out),
        Verb::Checkpoint(args) => change::checkpoint(&args, out),
        Verb::Savepoint(args) => change::savepoint(&args, out),
        Verb::Dispose(args) => change::dispose(&args, out),
        Verb::Export(args) => transfer::export(&args, out),
        Verb::Import(args) => transfer::import(&args, out),
        Verb::Relocate(args) => transfer::relocate(&args, out),
        Verb::Gc(args) => gc::run(&args, out),
        Verb::Rescale(args) => rescale::run(&args, out),
        Verb::Upgrade(args) => versions::upgrade(&args, out),
        Verb::Migrate(args) => versions::migrate(&args, out),
    }
}
