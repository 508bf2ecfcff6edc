//! The files of a sink: written by one thread for each worker, and put right when a job
//! begins or goes on.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use alluvium::env::{Env, Fs, WriteFile};
use alluvium::{Error, Result, SnapshotId};
use timely::scheduling::SyncActivator;

use crate::control::mail::Part;

const PENDING: &str = ".pending-";
const COMMITTED: &str = "part-";
const UNDONE: &str = "undone";

/// What the writer is to do.
pub(super) enum Command {
    Write(Vec<u8>),
    /// The barrier of a checkpoint.
    Prepare(u64),
    /// A checkpoint is complete.
    Commit(u64),
}

/// What it has done.
pub(super) enum Done {
    Prepared { id: u64, parts: Vec<Part> },
    Committed,
    Failed(Error),
}

/// Writes the files of one sink and worker.
pub(super) struct Writer {
    pub(super) env: Arc<dyn Env>,
    pub(super) dir: PathBuf,
    pub(super) life: u64,
    pub(super) worker: usize,
    pub(super) commands: Receiver<Command>,
    pub(super) done: Sender<Done>,
    pub(super) activator: SyncActivator,
    /// Bytes that wait to be written.
    pub(super) backlog: Arc<AtomicUsize>,
}

/// What the writer has under way.
#[derive(Default)]
struct Files {
    open: Option<(String, Box<dyn WriteFile>)>,
    number: u64,
    /// Durable, by the first checkpoint that commits them.
    prepared: Vec<(u64, Part)>,
}

impl Writer {
    /// Works until the operator has gone.
    pub(super) fn run(self) {
        let mut files = Files::default();
        while let Ok(command) = self.commands.recv() {
            let done = match command {
                Command::Write(bytes) => {
                    let written = self.write(&mut files, &bytes);
                    self.backlog.fetch_sub(bytes.len(), Ordering::AcqRel);
                    written.map(|()| None)
                }
                Command::Prepare(id) => {
                    self.prepare(&mut files, id).map(|parts| Some(Done::Prepared { id, parts }))
                }
                Command::Commit(id) => self.commit(&mut files, id).map(|()| Some(Done::Committed)),
            };
            let failed = done.is_err();
            // The operator may have gone: then the job is over.
            if let Some(done) = done.unwrap_or_else(|error| Some(Done::Failed(error)))
                && self.done.send(done).is_err()
            {
                return;
            }
            let _ = self.activator.activate();
            if failed {
                return;
            }
        }
    }

    fn write(&self, files: &mut Files, bytes: &[u8]) -> Result<()> {
        let (name, file) = match &mut files.open {
            Some(open) => open,
            None => {
                let name =
                    format!("{PENDING}{:010}-{:05}-{:010}", self.life, self.worker, files.number);
                files.number += 1;
                let path = self.dir.join(&name);
                let file = self.env.fs().create_new(&path).map_err(|e| cannot_write(&path, e))?;
                files.open.insert((name, file))
            }
        };
        file.write_all(bytes).map_err(|e| cannot_write(&self.dir.join(name), e))
    }

    fn prepare(&self, files: &mut Files, id: u64) -> Result<Vec<Part>> {
        if let Some((pending, mut file)) = files.open.take() {
            let path = self.dir.join(&pending);
            file.sync().map_err(|e| cannot_write(&path, e))?;
            self.env.fs().sync_dir(&self.dir).map_err(|e| cannot_write(&self.dir, e))?;
            let committed = name_of(id, self.worker);
            files.prepared.push((id, Part { pending, committed }));
        }
        Ok(files.prepared.iter().map(|(_, part)| part.clone()).collect())
    }

    fn commit(&self, files: &mut Files, completed: u64) -> Result<()> {
        let due = |(id, _): &(u64, Part)| *id <= completed;
        if files.prepared.iter().any(due) {
            for (_, part) in files.prepared.iter().filter(|part| due(part)) {
                commit(self.env.fs(), &self.dir, part)?;
            }
            files.prepared.retain(|part| !due(part));
            self.env.fs().sync_dir(&self.dir).map_err(|e| cannot_write(&self.dir, e))?;
        }
        Ok(())
    }
}

/// Gives a pending file the name under which it counts, unless it has it already.
fn commit(fs: &dyn Fs, dir: &Path, part: &Part) -> Result<()> {
    let (from, to) = (dir.join(&part.pending), dir.join(&part.committed));
    match fs.rename(&from, &to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs.file_len(&to).is_ok() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::corrupt("results that a checkpoint commits are missing")
                .at(from.display())
                .expected(format_args!("this file, or {}", part.committed))
                .remedy("put it back from a copy, or go on from an older checkpoint"))
        }
        Err(error) => Err(cannot_write(&to, error)),
    }
}

/// What a sink's directory is to be like when a job goes on from a checkpoint.
pub(crate) struct Restored<'a> {
    pub(crate) id: SnapshotId,
    /// The life of the coordinator in which it was taken.
    pub(crate) life: u64,
    /// What it commits.
    pub(crate) parts: &'a [Part],
}

/// Pending files that are not to be removed.
pub(crate) enum Kept<'a> {
    /// Those that savepoints name, by their pending names.
    These(&'a BTreeSet<String>),
    /// All, since it is not known which ones savepoints name.
    All,
}

impl Kept<'_> {
    fn contains(&self, name: &str) -> bool {
        match self {
            Self::These(names) => names.contains(name),
            Self::All => true,
        }
    }
}

/// Puts a sink's directory into the state of the checkpoint that the job goes on from
/// (`restored`), or of the beginning. Files of this `life` are left alone: its workers may
/// be writing them.
///
/// A file that is set aside has the number of the life that did it before its name. A
/// checkpoint of an earlier life had it among its results then, if its number is not later:
/// when the job goes on from there, it comes back.
///
/// # Errors
/// `Corrupt` if results are missing; `Invalid` if the job begins and there are results;
/// `Unavailable` if the directory cannot be changed.
pub(crate) fn recover(
    fs: &dyn Fs,
    dir: &Path,
    life: u64,
    restored: Option<&Restored<'_>>,
    kept: &Kept<'_>,
) -> Result<()> {
    let failed = |e| cannot_write(dir, e);
    fs.create_dir_all(dir).map_err(failed)?;
    let undone = dir.join(UNDONE);
    let names = fs.list(dir).map_err(failed)?;
    let mut is_there = names.iter().any(|name| name == UNDONE);
    let asides = if is_there { fs.list(&undone).map_err(failed)? } else { Vec::new() };
    for aside in asides {
        let Some((by, name)) = aside.split_once('-') else { continue };
        let (Ok(by), Some(id)) = (by.parse::<u64>(), number_of(name)) else { continue };
        if restored.is_some_and(|restored| by > restored.life && id <= restored.id.0) {
            fs.rename(&undone.join(&aside), &dir.join(name)).map_err(failed)?;
        }
    }
    for part in restored.iter().flat_map(|restored| restored.parts) {
        let is_name = part.pending.starts_with(PENDING) && !part.pending.contains('/');
        if !is_name || number_of(&part.committed).is_none() {
            return Err(Error::corrupt("a checkpoint names files that no sink has written")
                .at(format_args!("{:?}, {:?}", part.pending, part.committed)));
        }
        commit(fs, dir, part)?;
    }
    let own = format!("{PENDING}{life:010}-");
    for name in fs.list(dir).map_err(failed)? {
        if name.starts_with(PENDING) && !name.starts_with(&own) && !kept.contains(&name) {
            fs.remove_file(&dir.join(&name)).map_err(failed)?;
        }
        let Some(id) = number_of(&name) else { continue };
        match &restored {
            None => {
                return Err(Error::invalid("a job that begins finds results of another one")
                    .at(dir.display())
                    .found(name)
                    .remedy("give the sink an empty directory, or restore a checkpoint"));
            }
            Some(restored) if id > restored.id.0 => {
                if !is_there {
                    fs.create_dir_all(&undone).map_err(failed)?;
                    is_there = true;
                }
                let aside = format!("{life:010}-{name}");
                fs.rename(&dir.join(&name), &undone.join(aside)).map_err(failed)?;
            }
            Some(_) => {}
        }
    }
    if is_there {
        fs.sync_dir(&undone).map_err(failed)?;
    }
    fs.sync_dir(dir).map_err(failed)
}

fn name_of(id: u64, worker: usize) -> String {
    format!("{COMMITTED}{id:020}-{worker:05}")
}

/// The checkpoint that committed a file of this name; `None` if it is no such file.
fn number_of(name: &str) -> Option<u64> {
    let (id, worker) = name.strip_prefix(COMMITTED)?.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(id) && is_number(worker)).then(|| id.parse().ok()).flatten()
}

fn cannot_write(path: &Path, source: io::Error) -> Error {
    Error::io("results cannot be written", source)
        .at(path.display())
        .remedy("check the directory of the sink, its permissions and the space left")
}

#[cfg(test)]
mod tests {
    use alluvium::ErrorKind;
    use alluvium::env::SimEnv;

    use super::*;

    const DIR: &str = "/out";

    fn part(life: u64, number: u64, id: u64) -> Part {
        let pending = format!("{PENDING}{life:010}-00000-{number:010}");
        Part { pending, committed: name_of(id, 0) }
    }

    /// A directory with these files.
    fn with(names: &[&str]) -> SimEnv {
        let env = SimEnv::new(1);
        env.fs().create_dir_all(DIR.as_ref()).unwrap();
        for name in names {
            let mut file = env.fs().create_new(&Path::new(DIR).join(name)).unwrap();
            file.write_all(name.as_bytes()).unwrap();
            file.sync().unwrap();
        }
        env
    }

    fn names(env: &SimEnv) -> Vec<String> {
        let mut names = env.fs().list(DIR.as_ref()).unwrap();
        names.retain(|name| name != UNDONE);
        names
    }

    fn undone(env: &SimEnv) -> Vec<String> {
        env.fs().list(&Path::new(DIR).join(UNDONE)).unwrap()
    }

    /// Life `life` goes on from checkpoint `id`, which was taken in life `of`.
    fn put_back(
        env: &SimEnv,
        life: u64,
        (id, of): (u64, u64),
        parts: &[Part],
        kept: &[&str],
    ) -> Result<()> {
        let kept = kept.iter().map(|name| (*name).to_owned()).collect();
        let restored = Restored { id: SnapshotId(id), life: of, parts };
        recover(env.fs(), DIR.as_ref(), life, Some(&restored), &Kept::These(&kept))
    }

    #[test]
    fn a_restored_checkpoint_commits_its_parts_once_however_often_it_is_restored() {
        let (one, two) = (part(3, 0, 7), part(3, 1, 8));
        let (lost, own) = (part(3, 2, 9), part(4, 0, 9));
        let env = with(&[&one.committed, &two.pending, &lost.pending, &own.pending]);
        for _ in 0..3 {
            let parts = [one.clone(), two.clone()];
            put_back(&env, 4, (8, 3), &parts, &[]).unwrap();
            assert_eq!(names(&env), [&*own.pending, &*one.committed, &*two.committed]);
        }
        let committed = env.fs().open(&Path::new(DIR).join(&two.committed)).unwrap();
        let mut bytes = vec![0; committed.len() as usize];
        committed.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, two.pending.as_bytes(), "the file that was pending");
    }

    #[test]
    fn results_of_checkpoints_that_the_job_went_back_behind_are_set_aside() {
        let (kept, gone) = (name_of(7, 0), name_of(8, 1));
        let env = with(&[&kept, &gone, "a note"]);
        put_back(&env, 4, (7, 3), &[], &[]).unwrap();
        assert!(names(&env).contains(&kept) && names(&env).contains(&"a note".to_owned()));
        assert!(!names(&env).contains(&gone));
        assert_eq!(undone(&env), [format!("0000000004-{gone}")]);
    }

    #[test]
    fn results_that_were_set_aside_come_back_with_the_savepoint_that_they_came_before() {
        // Life 3 has taken 7, 8 and 9, life 5 has gone back to 7 and then taken 11.
        let [seven, eight, nine, eleven] = [7, 8, 9, 11].map(|id| name_of(id, 0));
        let env = with(&[&seven, &eight, &nine]);
        put_back(&env, 5, (7, 3), &[], &[]).unwrap();
        assert_eq!(names(&env), [&*seven]);
        env.fs().create_new(&Path::new(DIR).join(&eleven)).unwrap();
        // Life 6 goes on from there, life 7 back to 8, of life 3.
        put_back(&env, 6, (11, 5), &[], &[]).unwrap();
        assert_eq!(names(&env), [&*seven, &*eleven]);
        put_back(&env, 7, (8, 3), &[], &[]).unwrap();
        assert_eq!(names(&env), [&*seven, &*eight]);
    }

    #[test]
    fn pending_files_of_a_savepoint_stay_until_nothing_names_them() {
        let (saved, lost) = (part(3, 1, 8), part(3, 2, 9));
        let env = with(&[&saved.pending, &lost.pending]);
        put_back(&env, 4, (7, 3), &[], &[&saved.pending]).unwrap();
        assert_eq!(names(&env), [&*saved.pending]);
        let restored = Restored { id: SnapshotId(7), life: 3, parts: &[] };
        recover(env.fs(), DIR.as_ref(), 5, Some(&restored), &Kept::All).unwrap();
        assert_eq!(names(&env), [&*saved.pending]);
        put_back(&env, 6, (7, 3), &[], &[]).unwrap();
        assert_eq!(names(&env), [""; 0]);
    }

    #[test]
    fn missing_results_and_impossible_names_are_damage() {
        let missing = part(3, 0, 7);
        let escape = Part { pending: format!("{PENDING}/../../x"), ..missing.clone() };
        let other = Part { committed: "part-../x".to_owned(), ..missing.clone() };
        for part in [missing, escape, other] {
            let env = with(&[]);
            let refused = put_back(&env, 4, (7, 3), &[part], &[]);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
