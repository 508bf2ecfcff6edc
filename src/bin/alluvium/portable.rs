//! `export --canonical`, `import --canonical`, `migrate --max-parallelism`, `upgrade --name`:
//! state out of the engine's own layout and back into it.
//!
//! A savepoint that is imported is read to its end before anything is written into the
//! store: one that is damaged or cut short leaves the job as it was, and not even taken
//! over.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use alluvium::coordinator::{Coordinator, JobView};
use alluvium::env::{Env, RealEnv};
use alluvium::format::canonical::Head;
use alluvium::format::checkpoint::check_job_name;
use alluvium::format::{CheckpointRef, Compression};
use alluvium::object::{Contents, ObjectStore};
use alluvium::savepoint::{Export as Exporter, ExportReport, Import as Importer, SavepointReader};
use alluvium::{
    Error, MaxParallelism, Result, SnapshotHandle, SnapshotId, SnapshotSink, StoreSink, TableUpload,
};
use serde_json::json;

use crate::args::{Change, Export, Import, Migrate, Rewritten};
use crate::canonical;
use crate::change::would;
use crate::failure::Failure;
use crate::out::{self, Out};
use crate::scratch::{NewFile, STANDARD, Scratch, open_stream, parent_of};
use crate::store::{Access, Chosen, choose, open_store, path_of, take_over};
use crate::transfer::{imported, pinned};

pub(crate) fn export(args: &Export, chosen: &Chosen, out: &mut Out) -> Result<u8, Failure> {
    let compression = if args.stored { Compression::None } else { Compression::Lz4 };
    if args.dest == STANDARD {
        if io::stdout().is_terminal() {
            return Err(Error::invalid("a canonical savepoint is nothing for a terminal")
                .remedy("name a file, or send the output somewhere")
                .into());
        }
        let scratch = Scratch::of_system(args.work.as_deref())?;
        let mut stdout = BufWriter::new(io::stdout().lock());
        let report = pinned(chosen, || write(chosen, scratch.dir(), compression, &mut stdout))?;
        stdout.flush()?;
        out::note(told(&report, &chosen.title(), "the standard output"));
        return Ok(0);
    }
    let path = path_of(&args.dest)?;
    let mut file = NewFile::create(&path)?;
    let scratch = Scratch::open(args.work.as_deref(), &parent_of(&path))?;
    let report = pinned(chosen, || write(chosen, scratch.dir(), compression, &mut file))?;
    file.finish()?;
    if out.is_json() {
        out.json(&json!({
            "checkpoint": chosen.checkpoint.id.0,
            "job": chosen.checkpoint.job,
            "dest": args.dest,
            "canonical": true,
            "entries": report.entries,
            "entry_bytes": report.entry_bytes,
            "bytes": report.bytes,
            "hash": report.hash.to_string(),
        }))?;
    } else {
        out.line(told(&report, &chosen.title(), &args.dest))?;
    }
    Ok(0)
}

fn told(report: &ExportReport, title: &str, dest: &str) -> String {
    format!(
        "{title} is in {dest}: {} entries, {}, hash {}",
        out::count(report.entries),
        out::bytes(report.bytes),
        report.hash
    )
}

/// Writes the canonical savepoint of a checkpoint.
fn write(
    chosen: &Chosen,
    work: &Path,
    compression: Compression,
    out: &mut dyn Write,
) -> Result<ExportReport, Failure> {
    let checkpoint = &chosen.checkpoint;
    let handles: Vec<SnapshotHandle> =
        checkpoint.shards.iter().map(|shard| shard.handle.clone()).collect();
    let bar = out::progress(None, "records exported:");
    let mut keep_going = |records: u64| {
        bar.set_position(records);
        true
    };
    let report = Exporter::new(Arc::new(RealEnv::new()), work, &*chosen.source)
        .job(&checkpoint.job, &checkpoint.runtime)
        .compression(compression)
        .keep_going(&mut keep_going)
        .write(&handles, out)?;
    bar.finish_and_clear();
    for (operator, state) in &report.differing_broadcasts {
        out::note(format!(
            "the subtasks of operator {operator:?} do not agree about broadcast state {state:?}: \
             what the first one had was taken"
        ));
    }
    Ok(report)
}

pub(crate) fn import(args: &Import, job: &str, out: &mut Out) -> Result<u8, Failure> {
    let max = args.max_parallelism.map(MaxParallelism::new).transpose()?;
    let access = if args.change.yes { Access::Change } else { Access::Read };
    let store = open_store(&args.of.store, access)?;
    let next = check_name_is_free(&store, job, &args.name)?;
    let input = open_stream(&args.src, &path_of(&args.src)?)?;
    if !args.change.yes {
        let savepoint = SavepointReader::open(input)?;
        let what = format!(
            "bring {} into job {job} as savepoint {}",
            canonical::title(savepoint.head()),
            args.name
        );
        return would(&what, true, out);
    }
    let scratch = Scratch::of_system(args.work.as_deref())?;
    let wanted = Wanted { max, shards: args.shards, of_operators: Vec::new() };
    let place = Place { store, job, name: &args.name, next };
    let reference = read(input, wanted, place, scratch.dir())?;
    imported(job, &args.name, reference.id, out)
}

pub(crate) fn migrate(
    args: &Migrate,
    groups: u32,
    name: &str,
    out: &mut Out,
) -> Result<u8, Failure> {
    check_job_name("name of the savepoint", name)?;
    let max = MaxParallelism::new(groups)?;
    if let Some(state) = &args.state {
        return Err(Error::invalid("all states of an operator have the same key groups")
            .at(format_args!("state {state:?}"))
            .remedy("leave --state out")
            .into());
    }
    let how = How { rewritten: &args.rewritten, change: &args.change, max: Some(max) };
    let chosen = choose(&args.at, how.access())?;
    rewrite(&chosen, &args.at.of.store, name, &how, out)
}

/// How all state of a checkpoint is written anew.
pub(crate) struct How<'a> {
    pub(crate) rewritten: &'a Rewritten,
    pub(crate) change: &'a Change,
    /// The key groups that each operator gets; as it has, without.
    pub(crate) max: Option<MaxParallelism>,
}

impl How<'_> {
    pub(crate) fn access(&self) -> Access {
        if self.change.yes { Access::Change } else { Access::Read }
    }
}

/// Makes savepoint `name` of a checkpoint of a job, by way of a canonical one.
pub(crate) fn rewrite(
    chosen: &Chosen,
    at: &str,
    name: &str,
    how: &How<'_>,
    out: &mut Out,
) -> Result<u8, Failure> {
    check_job_name("name of the savepoint", name)?;
    let Some((view, _)) = &chosen.of_job else {
        return Err(Error::invalid("an exported savepoint is not changed")
            .at(at)
            .remedy("export it with --canonical, and import that")
            .into());
    };
    let job = view.entry().job.clone();
    if !how.rewritten.writer.job_is_stopped {
        return Err(Error::invalid("only the state of a stopped job is written anew")
            .at(format_args!("job {job:?}"))
            .remedy("stop the job, and say --job-is-stopped: its journal is taken over")
            .into());
    }
    let store = open_store(at, how.access())?;
    let next = check_name_is_free(&store, &job, name)?;
    let groups = how.max.map_or_else(String::new, |max| format!(" with {max} key groups"));
    if !how.change.yes {
        let what = format!("make savepoint {name}{groups} of {}", chosen.title());
        return would(&what, true, out);
    }
    let scratch = Scratch::of_system(how.rewritten.work.as_deref())?;
    let env = RealEnv::new();
    let path = scratch.dir().join(format!("{:016x}.canonical", env.random_u64()));
    let mut file = NewFile::create(&path)?;
    pinned(chosen, || write(chosen, scratch.dir(), Compression::Lz4, &mut file))?;
    file.finish()?;
    let _gone = Remove(&path);
    // As many shards as before, as far as there are key groups for them.
    let most = how.max.map_or(u32::MAX, MaxParallelism::get);
    let shards_of = |operator: &str| {
        let shards = chosen.checkpoint.handles(operator).len() as u32;
        (operator.to_owned(), shards.clamp(1, most))
    };
    let of_operators = chosen.checkpoint.operators().map(shards_of).collect();
    let wanted = Wanted { max: how.max, shards: 1, of_operators };
    let input = open_stream("", &path)?;
    let place = Place { store, job: &job, name, next };
    let reference = read(input, wanted, place, scratch.dir())?;
    let with = how.max.map_or_else(String::new, |max| format!(", with max_parallelism {max}"));
    out::note(format!("restore the job from savepoint {name}{with}"));
    imported(&job, name, reference.id, out)
}

/// Removes a file of ours at the end.
struct Remove<'a>(&'a Path);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        if let Err(error) = RealEnv::new().fs().remove_file(self.0) {
            out::note(format!("{} is left over: {error}", self.0.display()));
        }
    }
}

/// Sees to it that the job has no savepoint of this name, before much is done in vain;
/// and gives the number that its next checkpoint gets.
fn check_name_is_free(
    store: &Arc<dyn ObjectStore>,
    job: &str,
    name: &str,
) -> Result<SnapshotId, Failure> {
    let Some(view) = JobView::open(Arc::clone(store), job)? else { return Ok(SnapshotId(1)) };
    if view.entry().savepoint(name).is_none() {
        return Ok(view.entry().next_id);
    }
    Err(Error::invalid("the job has a savepoint of this name already")
        .at(format_args!("job {job:?}"))
        .found(format_args!("{name:?}"))
        .remedy("choose another name, or dispose of the other one first")
        .into())
}

/// How the operators of a savepoint are divided.
struct Wanted {
    max: Option<MaxParallelism>,
    shards: u32,
    of_operators: Vec<(String, u32)>,
}

/// Where a savepoint goes.
struct Place<'a> {
    store: Arc<dyn ObjectStore>,
    job: &'a str,
    name: &'a str,
    next: SnapshotId,
}

/// Makes a savepoint of the job out of a canonical one.
fn read(
    input: impl Read,
    wanted: Wanted,
    place: Place<'_>,
    work: &Path,
) -> Result<CheckpointRef, Failure> {
    let Place { store, job, name, next } = place;
    let bar = out::progress(None, "records imported:");
    let mut keep_going = |records: u64| {
        bar.set_position(records);
        true
    };
    let sink = LateSink { store, job: job.to_owned(), taken: Mutex::new(None) };
    let mut importer = Importer::new(Arc::new(RealEnv::new()), work, &sink, next)
        .shards(wanted.shards)
        .keep_going(&mut keep_going);
    if let Some(max) = wanted.max {
        importer = importer.max_parallelism(max);
    }
    for (operator, shards) in &wanted.of_operators {
        importer = importer.operator_shards(operator, *shards);
    }
    let made = importer.read(input)?;
    bar.finish_and_clear();
    let Head { user_meta, .. } = made.head;
    let handles = made.operators.into_iter().flat_map(|operator| operator.handles);
    Ok(sink.with(|coordinator| coordinator.import_shards(name, handles, user_meta))?)
}

/// Takes a job over when there is something to put into its store, and not before.
struct LateSink {
    store: Arc<dyn ObjectStore>,
    job: String,
    taken: Mutex<Option<Coordinator>>,
}

impl LateSink {
    fn with<T>(&self, work: impl FnOnce(&mut Coordinator) -> Result<T>) -> Result<T> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let coordinator = match &mut *taken {
            Some(coordinator) => coordinator,
            none => none.insert(take_over(Arc::clone(&self.store), &self.job)?),
        };
        work(coordinator)
    }

    fn sink(&self) -> Result<StoreSink> {
        self.with(|coordinator| Ok(coordinator.sink()))
    }
}

impl SnapshotSink for LateSink {
    fn identity(&self) -> String {
        self.store.identity()
    }

    fn put_table(
        &self,
        table: &TableUpload<'_>,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<String> {
        self.sink()?.put_table(table, keep_going)
    }

    fn holds_table(&self, location: &str, contents: &Contents) -> Result<bool> {
        self.sink()?.holds_table(location, contents)
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<String> {
        self.sink()?.put_manifest(name, bytes)
    }
}

impl fmt::Debug for LateSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LateSink(job {})", self.job)
    }
}
