//! What must be so after a kill, found out by another process on the directory itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use alluvium::Backend;
use alluvium::coordinator::{
    CheckpointSettings, Coordinator, Depth, JobView, RestoreFrom, orphans, verify,
};
use alluvium::env::RealEnv;
use alluvium::format::Checkpoint;
use alluvium::format::journal::CheckpointRef;
use alluvium::object::{LocalStore, ObjectStore};
use kills_tests::contents::Contents;
use kills_tests::job::Job;

/// What the processes of one job have said so far.
#[derive(Default, Debug)]
pub(crate) struct Said {
    /// Every checkpoint or savepoint that was begun, and at which offset.
    triggered: BTreeMap<u64, u64>,
    /// The last one that was completed, as it was said, or found.
    complete: Option<u64>,
    /// The savepoint, as long as nobody began to dispose of it.
    savepoint: Option<u64>,
    aborted: BTreeSet<u64>,
    /// Merges, early writes and evicted records of lives that were not killed.
    pub(crate) figures: [u64; 3],
    pub(crate) ended: bool,
}

impl Said {
    pub(crate) fn hear(&mut self, lines: &[String]) {
        for line in lines {
            let mut words = line.split(' ');
            let first = words.next();
            let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            match first {
                Some("restored") => {
                    let id = Some(number()).filter(|id| *id > 0);
                    assert!(id >= self.complete, "an older one was restored: {lines:?}");
                    self.complete = id;
                }
                Some("trigger") => {
                    let before = self.triggered.insert(number(), number());
                    assert_eq!(before, None, "a number was used twice: {lines:?}");
                }
                Some("complete") => self.complete = Some(number()),
                Some("savepoint") => self.savepoint = Some(number()),
                Some("aborted") => drop(self.aborted.insert(number())),
                Some("disposing") => self.savepoint = None,
                Some("figures") => self.figures.iter_mut().for_each(|figure| *figure += number()),
                Some("end") => self.ended = true,
                _ => {}
            }
        }
    }

    /// A checkpoint was found to be complete: from now on none before it will do.
    pub(crate) fn find(&mut self, latest: Option<u64>) {
        self.complete = latest;
    }

    pub(crate) fn complete(&self) -> Option<u64> {
        self.complete
    }

    /// What may have been under way: the last that was begun.
    fn last(&self) -> Option<u64> {
        self.triggered.keys().next_back().copied()
    }
}

/// What the state is at an offset, worked out once each.
#[derive(Default)]
pub(crate) struct Oracle(std::sync::Mutex<BTreeMap<u64, Arc<Contents>>>);

impl Oracle {
    fn at(&self, offset: u64) -> Arc<Contents> {
        let mut known = self.0.lock().expect("nobody panics here");
        Arc::clone(known.entry(offset).or_insert_with(|| Arc::new(Contents::at(offset))))
    }
}

/// A job's directory after a kill, or after its end.
pub(crate) struct Scene<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) said: &'a Said,
    pub(crate) oracle: &'a Oracle,
    /// Where the last process gave objects names: the checkpoint that it had begun last.
    pub(crate) stored: &'a BTreeMap<String, u64>,
    /// On how many shards checkpoints are restored.
    pub(crate) parallelism: u32,
    /// For failures.
    pub(crate) what: &'a str,
}

impl Scene<'_> {
    /// Reads everything and changes nothing but what opening a store does: the last
    /// completed checkpoint is there and right. Gives its number.
    pub(crate) fn look(&self) -> Option<u64> {
        let store = self.store();
        let view = self.view(&store)?;
        self.check_kept(&view);
        self.check_orphans(&store, &view);
        view.entry().resume.as_ref().map(|latest| latest.id.0)
    }

    /// A new coordinator takes over and sweeps: then nothing is there but what is needed.
    /// Gives the number of the last completed checkpoint.
    pub(crate) fn sweep(&self) -> Option<u64> {
        let what = self.what;
        let store = self.store();
        let temporary: Vec<_> = names(&self.dir.join("store/.tmp"));
        let of_the_dead = temporary.iter().filter(|name| name.ends_with(".tmp")).count();
        assert_eq!((of_the_dead, temporary.len()), (0, 1), "{what}: {temporary:?}");
        let mut settings = CheckpointSettings::default();
        settings.interval_ms = None;
        let builder = Coordinator::builder(Arc::clone(&store), "job").settings(settings);
        let mut coordinator = builder.open().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(coordinator.deletes_nothing().is_none(), "{what}: {coordinator:?}");
        let collected = coordinator.collect(usize::MAX);
        let collected = collected.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(collected.is_done && collected.loose == 0, "{what}: {collected:?}");
        let left = orphans(&store, "job").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(left.is_empty(), "{what}: {left:?}");

        let view = coordinator.view();
        self.check_kept(&view);
        assert!(view.entry().retired.is_empty(), "{what}: {:?}", view.entry());
        let mut needed = BTreeSet::new();
        for kept in view.entry().kept() {
            let files = view.files(kept).unwrap_or_else(|error| panic!("{what}: {error}"));
            needed.extend(files.into_iter().map(|file| file.location));
        }
        let root = self.dir.join("store");
        let there: BTreeSet<_> = ["jobs/job/epochs", "jobs/job/checkpoints"]
            .into_iter()
            .flat_map(|folder| files_under(&root, folder))
            .collect();
        assert_eq!(there, needed, "{what}: what is there, and what is needed");
        view.entry().resume.as_ref().map(|latest| latest.id.0)
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        let store = LocalStore::open(Arc::new(RealEnv::new()), self.dir.join("store"));
        Arc::new(store.unwrap_or_else(|error| panic!("{}: {error}", self.what)))
    }

    fn view(&self, store: &Arc<dyn ObjectStore>) -> Option<JobView> {
        let what = self.what;
        let view = JobView::open(Arc::clone(store), "job");
        let view = view.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(view.is_some() || self.said.complete.is_none(), "{what}: the job is not there");
        view
    }

    /// What the journal keeps is what was completed, whole, and right.
    fn check_kept(&self, view: &JobView) {
        let (what, said) = (self.what, self.said);
        let latest = view.entry().resume.as_ref();
        let id = latest.map(|latest| latest.id.0);
        let expected = [said.complete, said.last()];
        assert!(
            expected.contains(&id),
            "{what}: the latest checkpoint is {id:?}, and not {expected:?}"
        );
        if said.ended {
            assert_eq!(id, said.complete, "{what}");
        }
        // Of what was begun last and never announced nobody knows.
        if id.is_none_or(|id| !said.triggered.contains_key(&id)) {
            assert_eq!((id, said.complete), (None, None), "{what}");
        }
        for kept in view.entry().kept() {
            let checkpoint = self.whole(view, kept);
            self.check_contents(view, &checkpoint);
        }
        if let Some(savepoint) = said.savepoint {
            let found = view.find(&RestoreFrom::Savepoint("kept".to_owned()));
            let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(found.map(|found| found.id.0), Some(savepoint), "{what}");
        }
    }

    fn whole(&self, view: &JobView, kept: &CheckpointRef) -> Checkpoint {
        let what = self.what;
        let checkpoint = view.read(kept);
        let checkpoint = checkpoint.unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = verify(&checkpoint, &*view.source(), Depth::Deep, &mut |_, _| {});
        assert!(found.is_whole(), "{what}: {found:?}");
        checkpoint
    }

    /// A restored checkpoint holds what a plain computation over the input up to its offset
    /// gives.
    fn check_contents(&self, view: &JobView, checkpoint: &Checkpoint) {
        let (what, id) = (self.what, checkpoint.id);
        let offset = checkpoint.runtime.as_slice().try_into().map(u64::from_le_bytes);
        let offset = offset.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(self.said.triggered.get(&id.0), Some(&offset), "{what}: checkpoint {id}");
        let dir = self.dir.join("look");
        let restored = (|| {
            let backend = Backend::builder(&dir).background_threads(0).source(view.source());
            let job = Job::open(&backend.open()?, Some(checkpoint), self.parallelism)?;
            let present = job.were_present(checkpoint.shards.len(), offset)?;
            Ok::<_, alluvium::base::Error>((present, job.into_contents()?))
        })();
        let (present, contents) = restored.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(present, "{what}: checkpoint {id} does not know who was there");
        let expected = self.oracle.at(offset);
        assert!(
            contents == *expected,
            "{what}: checkpoint {id} at offset {offset}: {}",
            difference(&contents, &expected)
        );
        std::fs::remove_dir_all(dir).unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    /// What nobody needs is of the checkpoint under way, or of one that was given up, or what
    /// is left of one whose files are going: tables go first, so that its manifests stay.
    fn check_orphans(&self, store: &Arc<dyn ObjectStore>, view: &JobView) {
        let (what, said) = (self.what, self.said);
        let completed = view.entry().resume.as_ref().map_or(0, |latest| latest.id.0);
        let left = orphans(store, "job").unwrap_or_else(|error| panic!("{what}: {error}"));
        for orphan in left {
            let name = orphan.name.as_str();
            let of = self.stored.get(name).copied();
            let is_under_way = of.is_some_and(|of| of > completed && Some(of) == said.last());
            let is_given_up = of.is_some_and(|of| said.aborted.contains(&of));
            let is_going = view.entry().retired.iter().any(|retired| {
                let number = format!("/manifests/{:020}-", retired.id.0);
                name.contains(&number)
            });
            assert!(
                is_under_way || is_given_up || is_going,
                "{what}: {name} of checkpoint {of:?} is needed by nobody; {:?}",
                view.entry()
            );
        }
    }
}

/// Which part of the state is not as it should be.
fn difference(found: &Contents, expected: &Contents) -> String {
    macro_rules! parts {
        ($($part:ident)*) => {
            [$((stringify!($part), found.$part == expected.$part)),*]
        };
    }
    let parts = parts!(values counts lists maps sums means waiting reminders notes told);
    let wrong: Vec<_> = parts.iter().filter(|(_, same)| !same).map(|(part, _)| *part).collect();
    format!("{wrong:?} are wrong")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// The names of all files under a folder of a directory.
fn files_under(root: &Path, folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    for name in names(&root.join(folder)) {
        let path = format!("{folder}/{name}");
        if root.join(&path).is_dir() {
            files.extend(files_under(root, &path));
        } else {
            files.push(path);
        }
    }
    files
}
