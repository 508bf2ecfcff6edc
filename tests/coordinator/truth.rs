//! What is so, by the store alone: follows every change of it, and knows of each
//! checkpoint what it must hold. Uses the engine's decoders and nothing else of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use alluvium::SnapshotId;
use alluvium::coordinator::CheckpointSettings;
use alluvium::format::{Checkpoint, CheckpointRef, JournalEntry, Manifest, Pin, SavepointRef};

use crate::shard::Value;
use crate::sim::{ASKED_FOR, State};
use crate::store::{Change, Late};

pub type Files = Arc<HashSet<String>>;
pub type ShardKey = (&'static str, u16);

/// What was said of a checkpoint when it was begun.
#[derive(Debug, Default)]
pub struct Begun {
    pub shards: BTreeMap<ShardKey, Value>,
    pub runtime: Vec<u8>,
}

/// What a checkpoint is that was taken over from elsewhere.
#[derive(Debug)]
struct Origin {
    value: BTreeMap<&'static str, Value>,
    runtime: Vec<u8>,
}

/// A pin in the store.
#[derive(Debug)]
pub struct Pinned {
    /// The job that made it.
    pub by: usize,
    /// The job whose checkpoint it keeps.
    pub of: usize,
    pub id: u64,
    pub files: Files,
}

/// What is known of one job.
#[derive(Debug)]
pub struct Truth {
    pub name: String,
    pub settings: CheckpointSettings,
    /// The last entry of the journal.
    pub top: Option<JournalEntry>,
    /// When a checkpoint was first kept: the number of the entry.
    pub accepted: HashMap<u64, u64>,
    /// What a coordinator, by its epoch, is about to go back to.
    pub restoring: HashMap<u64, u64>,
    /// Savepoints that a coordinator, by its epoch, was told to give up.
    pub disposing: HashSet<(u64, String)>,
    pub cancelling: HashSet<u64>,
    pub triggered: HashSet<u64>,
    /// By epoch and id.
    pub begun: HashMap<(u64, u64), Begun>,
    pub finished: HashMap<(u64, ShardKey), Value>,
    /// Coordinators, by their epoch, that were told to begin with another job's state.
    pub forking: HashSet<(u64, usize)>,
    /// Savepoints from elsewhere that a coordinator, by its epoch, was told to bring in.
    pub importing: HashSet<(u64, String)>,
    /// What became a checkpoint without barriers, by epoch and id.
    adopted: HashMap<(u64, u64), Origin>,
    /// Savepoints that others asked for and have not heard of.
    pub owed: HashSet<String>,
    /// Savepoints that others asked to be given up.
    pub asked_to_dispose: HashSet<String>,
    /// Names and ids of all savepoints that ever were.
    pub named: HashSet<(String, u64)>,
    /// The last entry with which a savepoint of this name went.
    pub left: HashMap<String, u64>,
    /// The epoch whose shards read it, and its files.
    pub base: Option<(u64, Files)>,
    files: HashMap<String, Files>,
}

impl Truth {
    pub fn new(name: String, settings: CheckpointSettings) -> Self {
        Self {
            name,
            settings,
            top: None,
            accepted: HashMap::new(),
            restoring: HashMap::new(),
            disposing: HashSet::new(),
            cancelling: HashSet::new(),
            triggered: HashSet::new(),
            begun: HashMap::new(),
            finished: HashMap::new(),
            forking: HashSet::new(),
            importing: HashSet::new(),
            adopted: HashMap::new(),
            owed: HashSet::new(),
            asked_to_dispose: HashSet::new(),
            named: HashSet::new(),
            left: HashMap::new(),
            base: None,
            files: HashMap::new(),
        }
    }

    pub fn epoch(&self) -> u64 {
        self.top.as_ref().map_or(0, |top| top.epoch)
    }

    pub fn files_of(&self, reference: &CheckpointRef) -> Files {
        Arc::clone(&self.files[&reference.location])
    }

    /// Whether somebody who asked for this savepoint has not heard of it.
    pub fn is_owed(&self, name: &str) -> bool {
        self.owed.contains(name)
    }

    /// The runtime's data in a checkpoint.
    pub fn runtime_of(&self, reference: &CheckpointRef) -> &[u8] {
        let key = (reference.epoch, reference.id.0);
        match self.adopted.get(&key) {
            Some(origin) => &origin.runtime,
            None => &self.begun[&key].runtime,
        }
    }

    /// The value of all shards of a checkpoint.
    pub fn value_of(&self, reference: &CheckpointRef) -> BTreeMap<&'static str, Value> {
        if let Some(origin) = self.adopted.get(&(reference.epoch, reference.id.0)) {
            return origin.value.clone();
        }
        let begun = &self.begun[&(reference.epoch, reference.id.0)];
        let mut whole: BTreeMap<&'static str, Value> = BTreeMap::new();
        let finished = self.finished.iter().filter(|((epoch, key), _)| {
            *epoch == reference.epoch && !begun.shards.contains_key(key)
        });
        let parts = begun.shards.iter().chain(finished.map(|((_, key), value)| (key, value)));
        for ((operator, _), value) in parts {
            whole.entry(operator).or_default().extend(value.clone());
        }
        whole
    }

    /// Whether something that is kept needs an object.
    fn needs(&self, name: &str) -> Option<String> {
        let top = self.top.as_ref()?;
        if let Some(kept) = top.kept().find(|kept| self.files[&kept.location].contains(name)) {
            return Some(format!("checkpoint {} of {:?}", kept.id, self.name));
        }
        if let Some((epoch, files)) = &self.base
            && *epoch == top.epoch
            && files.contains(name)
        {
            return Some(format!("shards of {:?} that were restored from it", self.name));
        }
        None
    }
}

impl State {
    pub fn names(&self, prefix: &str) -> impl Iterator<Item = &String> {
        let prefix = prefix.to_owned();
        let from = self.objects.range(prefix.clone()..).map(|(name, _)| name);
        from.take_while(move |name| name.starts_with(&prefix))
    }

    /// Has a change take effect that somebody of a job asked for.
    pub fn apply(&mut self, job: usize, change: Change) -> alluvium::Result<()> {
        let (Change::Create(name, _) | Change::Remove(name)) = &change;
        self.trace(|| {
            format!(
                "{} {name}",
                if matches!(change, Change::Remove(_)) { "removed" } else { "create" }
            )
        });
        match change {
            Change::Create(name, bytes) => {
                if self.objects.contains_key(&name) {
                    return Err(alluvium::Error::invalid("the object exists").at(name));
                }
                self.objects.insert(name.clone(), Arc::clone(&bytes));
                self.created(job, &name, &bytes);
            }
            Change::Remove(name) => {
                let own = format!("jobs/{}/", self.truths[job].name);
                let pin = self.pins.get(&name).filter(|pin| pin.by == job && pin.of != job);
                assert!(name.starts_with(&own) || pin.is_some(), "{name} is removed by {own}");
                if self.objects.contains_key(&name) {
                    if let Some(pin) = pin {
                        self.check_return(&name, pin);
                        self.tally.pins_returned += 1;
                    }
                    self.check_removal(&name);
                    self.objects.remove(&name);
                    self.tally.removed += 1;
                }
            }
        }
        Ok(())
    }

    pub fn land(&mut self, Late { job, change }: Late) {
        self.tally.late_effects += 1;
        let _ = self.apply(job, change);
    }

    fn check_removal(&self, name: &str) {
        for truth in &self.truths {
            if let Some(who) = truth.needs(name) {
                panic!("{name} was removed and is needed by {who}");
            }
            let top = truth.top.as_ref().map(|top| entry_name(&truth.name, top.number));
            assert!(
                top.as_deref() != Some(name),
                "the last entry of a journal was removed: {name}"
            );
        }
        for (_, what, files) in self.pinned.values() {
            assert!(!files.contains(name), "{name} was removed and is pinned with {what}");
        }
    }

    /// A fork gives a pin back when it needs nothing any more that only this one keeps,
    /// and no entry that names it may come to be.
    fn check_return(&self, name: &str, pin: &Pinned) {
        let (fork, other) = (&self.truths[pin.by], format!("jobs/{}/", self.truths[pin.of].name));
        let left = |file: &String| {
            self.pins.iter().any(|(pin_name, of)| {
                let is_there = pin_name != name && self.objects.contains_key(pin_name);
                is_there && of.by == pin.by && of.files.contains(file)
            })
        };
        for file in pin.files.iter().filter(|file| file.starts_with(&other)) {
            if let Some(who) = fork.needs(file) {
                assert!(left(file), "{name} keeps {file}, which is needed by {who}");
            }
        }
        for late in &self.late {
            let Change::Create(entry, bytes) = &late.change else { continue };
            let is_journal = entry_of(entry).is_some_and(|(job, _)| job == fork.name);
            if is_journal && !self.objects.contains_key(entry) {
                let entry = JournalEntry::decode(bytes).unwrap();
                let is_named = entry.borrowed.iter().any(|borrowed| borrowed.pin == name);
                // One that comes too late counts no more.
                let counts = entry.number > fork.top.as_ref().map_or(0, |top| top.number);
                assert!(
                    !is_named || !counts,
                    "{name} is gone, and an entry that names it may come"
                );
            }
        }
    }

    /// Notes what a pin keeps.
    fn pinned(&mut self, job: usize, name: &str, bytes: &[u8]) {
        let pin = Pin::decode(bytes).unwrap();
        let root = |truth: &Truth| format!("jobs/{}/", truth.name);
        let of = self.truths.iter().position(|truth| name.starts_with(&root(truth))).unwrap();
        let files = self.truths[of].files_of(&pin.checkpoint);
        let id = pin.checkpoint.id.0;
        self.pins.insert(name.to_owned(), Pinned { by: job, of, id, files });
    }

    fn created(&mut self, job: usize, name: &str, bytes: &[u8]) {
        if name.contains("/pins/") {
            return self.pinned(job, name, bytes);
        }
        let Some((job, number)) = entry_of(name) else { return };
        let at = self.truths.iter().position(|truth| truth.name == job).unwrap();
        let entry = JournalEntry::decode(bytes).expect("a sound journal entry is written");
        assert_eq!(entry.number, number);
        let before = self.truths[at].top.as_ref();
        if before.is_some_and(|before| number <= before.number) {
            // In a gap, by somebody who slept. Nobody will take it for the last.
            self.tally.entries_in_gaps += 1;
            return;
        }
        assert_eq!(number, before.map_or(1, |before| before.number + 1), "a gap in the journal");
        self.learn_files(at, &entry);
        self.check_step(at, &entry);
        self.note_names(at, &entry);
        self.truths[at].top = Some(entry);
    }

    /// Savepoints that came and went. What was asked for once is there once.
    fn note_names(&mut self, at: usize, entry: &JournalEntry) {
        let truth = &mut self.truths[at];
        for SavepointRef { name, checkpoint, .. } in &entry.savepoints {
            let is_new = truth.named.insert((name.clone(), checkpoint.id.0));
            // A request that comes once more after its savepoint was given up takes another.
            let may_be_again = truth.asked_to_dispose.contains(name);
            if is_new && name.starts_with(ASKED_FOR) && !may_be_again {
                let times = truth.named.iter().filter(|(other, _)| other == name).count();
                assert_eq!(times, 1, "savepoint {name} was asked for once");
            }
        }
        for old in truth.top.iter().flat_map(|top| &top.savepoints) {
            if entry.savepoint(&old.name).is_none() {
                truth.left.insert(old.name.clone(), entry.number);
            }
        }
    }

    /// Everything that a kept checkpoint needs is there.
    fn learn_files(&mut self, at: usize, entry: &JournalEntry) {
        for kept in entry.kept() {
            if self.truths[at].files.contains_key(&kept.location) {
                continue;
            }
            let object = |name: &str| {
                let found = self.objects.get(name);
                found.unwrap_or_else(|| panic!("checkpoint {} is kept without {name}", kept.id))
            };
            let bytes = object(&kept.location);
            kept.check(bytes).unwrap();
            let checkpoint = Checkpoint::decode(bytes).unwrap();
            let origin = self.origin_of(at, entry, kept, &checkpoint);
            let mut files = HashSet::from([kept.location.clone()]);
            for shard in &checkpoint.shards {
                let bytes = object(shard.handle.manifest());
                files.insert(shard.handle.manifest().to_owned());
                let manifest: Manifest = shard.handle.open_manifest(bytes).unwrap();
                for table in manifest.tables {
                    let bytes = object(&table.location);
                    assert_eq!(bytes.len() as u64, table.meta.bytes);
                    files.insert(table.location);
                }
            }
            let truth = &mut self.truths[at];
            if let Some(origin) = origin {
                let is_new = truth.triggered.insert(kept.id.0);
                assert!(is_new, "the number {} was there before", kept.id);
                let folder = format!("jobs/{}/epochs/{:010}/", truth.name, kept.epoch);
                let own = |file: &String| *file == kept.location || file.starts_with(&folder);
                let is_import = entry.savepoints.iter().any(|s| s.checkpoint == *kept);
                let whole = files.iter().all(own);
                assert!(!is_import || whole, "files of an import are elsewhere: {files:?}");
                truth.adopted.insert((kept.epoch, kept.id.0), origin);
            }
            truth.files.insert(kept.location.clone(), Arc::new(files));
            truth.accepted.insert(kept.id.0, entry.number);
        }
    }

    /// Where a checkpoint comes from that nobody sent barriers for: somebody was told to
    /// take it over, and it is one that some job completed.
    fn origin_of(
        &self,
        at: usize,
        entry: &JournalEntry,
        kept: &CheckpointRef,
        checkpoint: &Checkpoint,
    ) -> Option<Origin> {
        let truth = &self.truths[at];
        let of = |number: usize| {
            let eight = checkpoint.runtime[number * 8..][..8].try_into().unwrap();
            u64::from_le_bytes(eight)
        };
        let (id, epoch, job) = (of(0), of(1), of(2) as usize);
        if (id, epoch, job) == (kept.id.0, kept.epoch, at) {
            return None;
        }
        let by_import = entry.savepoints.iter().any(|savepoint| {
            let told = (kept.epoch, savepoint.name.clone());
            savepoint.checkpoint == *kept && truth.importing.contains(&told)
        });
        let by_fork = truth.forking.iter().any(|(of, _)| *of == kept.epoch)
            && entry.resume.as_ref() == Some(kept)
            && !entry.borrowed.is_empty();
        assert!(by_import || by_fork, "checkpoint {} of job {at} fell from the sky", kept.id);
        let first = &self.truths[job];
        assert!(first.accepted.contains_key(&id), "{id} of job {job} was never completed");
        let reference = CheckpointRef { id: SnapshotId(id), epoch, ..kept.clone() };
        Some(Origin { value: first.value_of(&reference), runtime: checkpoint.runtime.clone() })
    }

    /// An entry follows from the one before.
    fn check_step(&self, at: usize, entry: &JournalEntry) {
        let truth = &self.truths[at];
        let nothing = JournalEntry {
            checkpoints: vec![],
            savepoints: vec![],
            retired: vec![],
            borrowed: vec![],
            resume: None,
            epoch: 0,
            ..entry.clone()
        };
        let before = truth.top.as_ref().unwrap_or(&nothing);
        let (epoch, number) = (entry.epoch, entry.number);
        assert!(epoch >= before.epoch, "entry {number} of a coordinator that was fenced");
        assert!(
            epoch > before.epoch || entry.writer == before.writer,
            "two writers of epoch {epoch}"
        );
        let new: BTreeSet<_> = entry
            .kept()
            .filter(|kept| !before.kept().any(|other| other == *kept))
            .map(|kept| kept.id.0)
            .collect();
        assert!(new.len() <= 1, "one entry completes {new:?}");
        let resume = |entry: &JournalEntry| entry.resume.as_ref().map(|resume| resume.id.0);
        for id in &new {
            let key = (epoch, *id);
            let is_known = truth.begun.contains_key(&key) || truth.adopted.contains_key(&key);
            assert!(is_known, "checkpoint {id} of epoch {epoch} was never begun");
            let is_checkpoint = entry.checkpoints.iter().any(|kept| kept.id.0 == *id);
            assert!(!is_checkpoint || resume(entry) == Some(*id), "{id} is not resumed from");
        }
        if resume(entry) != resume(before) {
            let ok = match resume(entry) {
                None => truth.cancelling.contains(&epoch),
                Some(id) => new.contains(&id) || truth.restoring.get(&epoch) == Some(&id),
            };
            assert!(
                ok,
                "entry {number} goes on from {:?}, not {:?}",
                resume(entry),
                resume(before)
            );
        }
        let most = truth.settings.retained + 1;
        let len = entry.checkpoints.len();
        assert!(len <= most.max(before.checkpoints.len() + 1), "{len} checkpoints are kept");
        let gone: Vec<_> =
            before.checkpoints.iter().filter(|kept| !entry.checkpoints.contains(kept)).collect();
        let cancelled = truth.cancelling.contains(&epoch);
        assert!(
            gone.is_empty() || cancelled || len >= truth.settings.retained,
            "{gone:?} were given up, and {len} are left"
        );
        for old in &before.savepoints {
            let name = &old.name;
            let is_kept = entry.savepoints.contains(old);
            let told = truth.disposing.contains(&(epoch, name.clone()))
                || truth.asked_to_dispose.contains(name);
            let schedule = truth.settings.savepoints.as_ref();
            let by_schedule = schedule.is_some_and(|s| name.starts_with(&s.prefix));
            assert!(is_kept || told || by_schedule, "savepoint {name:?} went by itself");
        }
        for gone in before.kept().filter(|kept| !entry.kept().any(|other| other == *kept)) {
            assert!(entry.retired.contains(gone), "{} was forgotten, not retired", gone.id);
        }
    }
}

pub fn entry_name(job: &str, number: u64) -> String {
    format!("jobs/{job}/journal/{number:020}")
}

fn entry_of(name: &str) -> Option<(&str, u64)> {
    let (job, rest) = name.strip_prefix("jobs/")?.split_once('/')?;
    Some((job, rest.strip_prefix("journal/")?.parse().ok()?))
}
