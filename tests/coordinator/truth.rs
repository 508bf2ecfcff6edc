//! What is so, by the store alone: follows every change of it, and knows of each
//! checkpoint what it must hold. Uses the engine's decoders and nothing else of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use alluvium::coordinator::CheckpointSettings;
use alluvium::format::{Checkpoint, CheckpointRef, JournalEntry, Manifest};

use crate::shard::Value;
use crate::sim::State;
use crate::store::{Change, Late};

pub type Files = Arc<HashSet<String>>;
pub type ShardKey = (&'static str, u16);

/// What was said of a checkpoint when it was begun.
#[derive(Debug, Default)]
pub struct Begun {
    pub shards: BTreeMap<ShardKey, Value>,
    pub runtime: Vec<u8>,
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

    /// The value of all shards of a checkpoint.
    pub fn value_of(&self, reference: &CheckpointRef) -> BTreeMap<&'static str, Value> {
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
                self.created(&name, &bytes);
            }
            Change::Remove(name) => {
                let own = format!("jobs/{}/", self.truths[job].name);
                assert!(name.starts_with(&own), "{name} is removed by {own}");
                if self.objects.contains_key(&name) {
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

    fn created(&mut self, name: &str, bytes: &[u8]) {
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
        self.truths[at].top = Some(entry);
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
            truth.files.insert(kept.location.clone(), Arc::new(files));
            truth.accepted.insert(kept.id.0, entry.number);
        }
    }

    /// An entry follows from the one before.
    fn check_step(&self, at: usize, entry: &JournalEntry) {
        let truth = &self.truths[at];
        let nothing = JournalEntry {
            checkpoints: vec![],
            savepoints: vec![],
            retired: vec![],
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
            let begun = &truth.begun.get(&(epoch, *id));
            assert!(begun.is_some(), "checkpoint {id} of epoch {epoch} was never begun");
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
            let told = truth.disposing.contains(&(epoch, name.clone()));
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
