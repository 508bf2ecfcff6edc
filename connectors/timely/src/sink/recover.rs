//! Puts the directory of a sink right when a job begins or goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;

use alluvium::env::Fs;
use alluvium::format::Checkpoint;
use alluvium::{Error, ErrorKind, Result};

use super::files::{PENDING, cannot_write, commit, marked_by, number_of};
use crate::control::mail::Part;
use crate::metadata::{Metadata, Origin};

const UNDONE: &str = "undone";

/// What a job goes on from, as its sinks see it.
pub(crate) struct Restored {
    /// The number under which it was taken.
    id: u64,
    /// The life of the coordinator in which that was.
    life: u64,
    /// What it commits, by sink.
    parts: BTreeMap<String, Vec<Part>>,
    /// If another job took it: which one, and the number that it has here.
    foreign: Option<(String, u64)>,
}

impl Restored {
    /// Of the checkpoint of a job whose own ones have this origin.
    pub(crate) fn new(checkpoint: &Checkpoint, metadata: Metadata, own: &Origin) -> Self {
        let Metadata { origin, sinks: parts, .. } = metadata;
        let Some(origin) = origin else {
            let (id, life) = (checkpoint.id.0, checkpoint.epoch);
            return Self { id, life, parts, foreign: None };
        };
        // The numbers of an own one are right whatever happened to the store meanwhile.
        let is_foreign = origin.is_adopted(checkpoint) && origin.is_of_another_job(own);
        let Origin { job, store, life, id } = origin;
        let foreign = is_foreign.then(|| (format!("job {job:?} in {store}"), checkpoint.id.0));
        Self { id, life, parts, foreign }
    }
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

/// The directory of a sink, as one life of the job finds it.
pub(crate) struct Directory<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    life: u64,
}

impl<'a> Directory<'a> {
    pub(crate) fn new(fs: &'a dyn Fs, dir: &'a Path, life: u64) -> Self {
        Self { fs, dir, life }
    }

    /// Puts it into the state of the checkpoint that the job goes on from (`restored`), or of
    /// the beginning. Files of this life are left alone: its workers may be writing them.
    ///
    /// A file that is set aside has the number of the life that did it before its name. A
    /// checkpoint of an earlier life had it among its results then, if its number is not
    /// later: when the job goes on from there, it comes back, and a record stays of the lives
    /// in which it was away, since their checkpoints do not have it. A pending file that a
    /// savepoint elsewhere names is set aside, too: that savepoint would have had it among its
    /// results.
    ///
    /// # Errors
    /// `Corrupt` if results are missing; `Invalid` if the job begins, or goes on from what
    /// another one took, and there are results; `Unavailable` if the directory cannot be
    /// changed.
    pub(crate) fn recover(
        &self,
        sink: &str,
        restored: Option<&Restored>,
        kept: &Kept<'_>,
    ) -> Result<()> {
        let Self { fs, dir, life } = *self;
        let failed = |e| cannot_write(dir, e);
        fs.create_dir_all(dir).map_err(failed)?;
        let parts = restored.and_then(|restored| restored.parts.get(sink));
        let parts = parts.map_or(&[][..], Vec::as_slice);
        for part in parts {
            let is_name = part.pending.starts_with(PENDING) && !part.pending.contains('/');
            if !is_name || number_of(&part.committed).is_none() {
                return Err(Error::corrupt("a checkpoint names files that no sink has written")
                    .at(format_args!("{:?}, {:?}", part.pending, part.committed)));
            }
        }
        let undone = dir.join(UNDONE);
        let names = fs.list(dir).map_err(failed)?;
        let mut is_there = names.iter().any(|name| name == UNDONE);
        let listed = if is_there { fs.list(&undone).map_err(failed)? } else { Vec::new() };
        let asides: Vec<_> = listed.iter().filter_map(|file| Aside::of(file)).collect();
        let absences: Vec<_> = listed.iter().filter_map(|file| Absence::of(file)).collect();
        // Lives of another job are not counted as those of this one.
        let taken_in = restored.filter(|of| of.foreign.is_none()).map(|of| of.life);
        let was_away = |name: &str| {
            let in_it = |of: &Absence<'_>| taken_in.is_some_and(|life| of.lives.contains(&life));
            absences.iter().any(|absence| absence.name == name && in_it(absence))
        };
        let is_named = |name: &str| parts.iter().any(|of| of.committed == name);
        if let Some((job, here)) = restored.and_then(|restored| restored.foreign.as_ref()) {
            let found = names.iter().map(String::as_str).chain(asides.iter().map(|of| of.name));
            check_is_new(dir, parts, found, (job, *here))?;
        }
        for Aside { name, by, id, file } in &asides {
            let is_later = taken_in.is_some_and(|life| *by > life);
            let was_there = is_later && restored.is_some_and(|of| *id <= of.id) && !was_away(name);
            if was_there || is_named(name) {
                if taken_in.is_some() {
                    self.record(&Absence { lives: *by..life, name })?;
                }
                fs.rename(&undone.join(file), &dir.join(name)).map_err(failed)?;
            }
        }
        for part in parts {
            if let Some(taken_in) = taken_in
                && taken_in + 1 < life
                && names.contains(&part.pending)
            {
                self.make_undone(&mut is_there)?;
                self.record(&Absence { lives: taken_in + 1..life, name: &part.committed })?;
            }
            commit(fs, dir, part).map_err(|error| missing(error, restored))?;
        }

        let set_aside = |from: &str, name: &str, is_there: &mut bool| {
            self.make_undone(is_there)?;
            let aside = undone.join(format!("{life:010}-{name}"));
            fs.rename(&dir.join(from), &aside).map_err(failed)
        };
        let own = format!("{PENDING}{life:010}-");
        let names = fs.list(dir).map_err(failed)?;
        let marks = names.iter().filter_map(|name| Some((name, marked_by(name)?)));
        let marks: Vec<_> = marks.filter(|(_, part)| !part.pending.starts_with(&own)).collect();
        for (_, part) in marks.iter().filter(|(_, part)| names.contains(&part.pending)) {
            set_aside(&part.pending, &part.committed, &mut is_there)?;
        }
        for name in fs.list(dir).map_err(failed)? {
            if name.starts_with(PENDING) && !name.starts_with(&own) && !kept.contains(&name) {
                fs.remove_file(&dir.join(&name)).map_err(failed)?;
            }
            let Some(id) = number_of(&name) else { continue };
            match restored {
                None => {
                    return Err(Error::invalid("a job that begins finds results of another one")
                        .at(dir.display())
                        .found(name)
                        .remedy("give the sink an empty directory, or restore a checkpoint"));
                }
                Some(of) if (id > of.id || was_away(&name)) && !is_named(&name) => {
                    set_aside(&name, &name, &mut is_there)?;
                }
                Some(_) => {}
            }
        }
        if is_there {
            fs.sync_dir(&undone).map_err(failed)?;
        }
        fs.sync_dir(dir).map_err(failed)?;
        // Not before what they mark is safe.
        for (mark, _) in &marks {
            fs.remove_file(&dir.join(mark)).map_err(failed)?;
        }
        Ok(())
    }

    fn make_undone(&self, is_there: &mut bool) -> Result<()> {
        if !*is_there {
            let made = self.fs.create_dir_all(&self.dir.join(UNDONE));
            made.map_err(|e| cannot_write(self.dir, e))?;
            *is_there = true;
        }
        Ok(())
    }

    /// Before the file is back: whoever finds both did not come further.
    fn record(&self, absence: &Absence<'_>) -> Result<()> {
        let undone = self.dir.join(UNDONE);
        let path = undone.join(absence.file());
        match self.fs.create_new(&path).and_then(|mut file| file.sync()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|e| cannot_write(&path, e))?,
        }
        self.fs.sync_dir(&undone).map_err(|e| cannot_write(&undone, e))
    }
}

/// A file that was set aside.
struct Aside<'a> {
    /// Its name now.
    file: &'a str,
    /// The life that did it.
    by: u64,
    /// Its name before.
    name: &'a str,
    /// The checkpoint that committed it.
    id: u64,
}

impl<'a> Aside<'a> {
    fn of(file: &'a str) -> Option<Self> {
        let (by, name) = file.split_once('-')?;
        let (by, id) = (by.parse().ok()?, number_of(name)?);
        Some(Self { file, by, name, id })
    }
}

/// Lives in which a file was no result, though it is back: the name of an empty file beside
/// those that were set aside.
struct Absence<'a> {
    lives: Range<u64>,
    name: &'a str,
}

impl<'a> Absence<'a> {
    fn of(file: &'a str) -> Option<Self> {
        let (lives, name) = file.split_once('-')?;
        let (from, to) = lives.split_once('~')?;
        number_of(name)?;
        Some(Self { lives: from.parse().ok()?..to.parse().ok()?, name })
    }

    fn file(&self) -> String {
        let Self { lives: Range { start, end }, name } = self;
        format!("{start:010}~{end:010}-{name}")
    }
}

/// Refuses results in the directory of a job that goes on from what another one took: their
/// numbers say nothing here. Those of its own, after it did so before, have later ones.
fn check_is_new<'a>(
    dir: &Path,
    parts: &[Part],
    mut found: impl Iterator<Item = &'a str>,
    (job, here): (&str, u64),
) -> Result<()> {
    let is_old = |name: &&str| number_of(name).is_some_and(|id| id <= here);
    match found.find(|name| is_old(name) && !parts.iter().any(|of| of.committed == *name)) {
        None => Ok(()),
        Some(other) => Err(Error::invalid(
            "a job that goes on from a savepoint of another one finds results in the directory of a sink",
        )
        .at(dir.display())
        .expected(format_args!("none before those that follow the savepoint of {job}"))
        .found(other)
        .remedy("give the sink a directory of its own; results before the savepoint stay where they are")),
    }
}

/// Says of results that are not there whose they are, if they are another job's.
fn missing(error: Error, restored: Option<&Restored>) -> Error {
    match restored.and_then(|restored| restored.foreign.as_ref()) {
        Some((job, _)) if error.kind() == ErrorKind::Corrupt => {
            Error::invalid("results that a savepoint of another job commits are in the directory of that one")
                .at(job)
                .remedy("copy the file from there, where it has one of these names or is set aside under the latter")
                .source(error)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use alluvium::env::{Env, SimEnv};

    use super::super::files::{mark_of, name_of};
    use super::*;

    const SINK: &str = "sink";

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
        recover(env, life, &restored(id, of, parts), &Kept::These(&kept))
    }

    fn restored(id: u64, life: u64, parts: &[Part]) -> Restored {
        let parts = BTreeMap::from([(SINK.to_owned(), parts.to_vec())]);
        Restored { id, life, parts, foreign: None }
    }

    fn recover(env: &SimEnv, life: u64, restored: &Restored, kept: &Kept<'_>) -> Result<()> {
        Directory::new(env.fs(), DIR.as_ref(), life).recover(SINK, Some(restored), kept)
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
        recover(&env, 5, &restored(7, 3, &[]), &Kept::All).unwrap();
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

    #[test]
    fn a_pending_file_that_a_savepoint_elsewhere_names_comes_back_with_it_and_with_nothing_else() {
        // Life 3 has taken 7, and 8 into another place, and was killed.
        let saved = part(3, 1, 8);
        let mark = mark_of(&saved, 8).unwrap();
        let kept = [&*saved.pending];
        for kept in [&kept[..], &[]] {
            let env = with(&[&name_of(7, 0), &saved.pending, &mark]);
            put_back(&env, 4, (7, 3), &[], kept).unwrap();
            assert_eq!(names(&env), [name_of(7, 0)]);
            // Life 4 has read the same records again, and taken 9; life 5 goes on from there.
            env.fs().create_new(&Path::new(DIR).join(name_of(9, 0))).unwrap();
            put_back(&env, 5, (9, 4), &[], kept).unwrap();
            assert_eq!(names(&env), [name_of(7, 0), name_of(9, 0)]);
            // Back and forth, as often as somebody likes.
            for life in [6, 8] {
                put_back(&env, life, (8, 3), std::slice::from_ref(&saved), kept).unwrap();
                assert_eq!(names(&env), [name_of(7, 0), name_of(8, 0)]);
                put_back(&env, life + 1, (9, 4), &[], kept).unwrap();
                assert_eq!(names(&env), [name_of(7, 0), name_of(9, 0)]);
            }
        }
    }

    #[test]
    fn marks_name_the_file_that_they_are_of() {
        let of = part(3, 1, 8);
        assert_eq!(marked_by(&mark_of(&of, 8).unwrap()), Some(of.clone()));
        for other in [&*of.pending, &*of.committed, ".saved-", ".saved-x-8", "a note"] {
            assert_eq!(marked_by(other), None, "{other}");
        }
    }

    #[test]
    fn a_job_that_goes_on_from_what_another_one_took_begins_with_its_parts_and_nothing_else() {
        let own = part(3, 1, 8);
        let of = |parts: &[Part]| Restored {
            foreign: Some(("job \"other\" in memory:1".to_owned(), 9)),
            ..restored(8, 3, parts)
        };
        let take = |env: &SimEnv, life, parts: &[Part]| {
            recover(env, life, &of(parts), &Kept::These(&BTreeSet::new()))
        };
        let parts = std::slice::from_ref(&own);
        let missing = take(&with(&[]), 1, parts).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Invalid);
        assert!(missing.to_string().contains("other"), "{missing}");
        // It has taken 12 after that.
        for there in [&own.pending, &own.committed] {
            let env = with(&[there, &name_of(12, 0)]);
            for life in [1, 2] {
                take(&env, life, parts).unwrap();
                assert_eq!(names(&env), [&*own.committed]);
            }
        }
        for old in [name_of(7, 0), name_of(9, 0)] {
            let env = with(&[&own.pending, &old]);
            assert_eq!(take(&env, 1, parts).unwrap_err().kind(), ErrorKind::Invalid);
            assert_eq!(names(&env), [&*own.pending, &*old], "nothing is changed");
        }
    }

    #[test]
    fn a_savepoint_of_the_job_is_gone_back_to_and_left_again_without_a_row_of_the_other_branch() {
        // Life 3 has taken 7 and the savepoint 8; life 4 has gone on from 7, and taken 9.
        let saved = part(3, 1, 8);
        let kept = [&*saved.pending];
        let env = with(&[&name_of(7, 0), &saved.pending, &name_of(9, 0)]);
        for life in [5, 7] {
            put_back(&env, life, (8, 3), std::slice::from_ref(&saved), &kept).unwrap();
            assert_eq!(names(&env), [name_of(7, 0), name_of(8, 0)]);
            put_back(&env, life + 1, (9, 4), &[], &kept).unwrap();
            assert_eq!(names(&env), [name_of(7, 0), name_of(9, 0)]);
        }
    }
}
