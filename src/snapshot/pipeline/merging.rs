//! Merging a shard's tables, a step at a time, beside its snapshots.
//!
//! After every snapshot the [plan](crate::version::plan) says whether there is a
//! step to be taken. One is taken at a time, as idle work that breathes; when it is
//! done the version changes, and the next one, if it has been granted, goes to the
//! end of the queue, so that shards take turns. A step that fails leaves everything
//! as it was, and the next snapshot tries again.
//!
//! Before that, what is spent leaves the version, unread: tables of deletions with
//! nothing beneath, and of values that have all expired
//! ([`Version::without_spent`](crate::version::Version::without_spent)).
//!
//! What a step may do to values goes by the newest snapshot that was done when it
//! was planned (see [`MigrationsNow`](crate::shard::migration::MigrationsNow)).
//!
//! The local file of a table goes when no version has any slice of it, be it the
//! present one or one that a snapshot under way is made of, and no view has it open.

use std::sync::Arc;

use super::{Pipeline, own_table};
use crate::base::{Error, Result};
use crate::env::executor::Priority;
use crate::env::ledger::MemoryComponent;
use crate::shard::compact;
use crate::shard::migration::MigrationsThen;
use crate::table::TableReader;
use crate::version::merge::MergeSource;
use crate::version::plan::{MergeLimits, MergePlan, MergePlanner, StepResult};

/// How far the merges of a shard are.
pub(super) struct Merging {
    planner: MergePlanner,
    /// A step is waiting or under way.
    busy: bool,
    /// Snapshots were done meanwhile.
    due: bool,
    newest_done: Option<Done>,
}

/// A snapshot that was done.
#[derive(Clone)]
struct Done {
    migrations: MigrationsThen,
    watermark: Option<i64>,
}

/// A step, and the snapshot that it goes by.
struct Step {
    plan: MergePlan,
    after: Done,
}

impl Merging {
    pub(super) fn new(limits: MergeLimits) -> Self {
        Self { planner: MergePlanner::new(limits), busy: false, due: false, newest_done: None }
    }

    /// Whether a step is under way, whose inputs must stay where they are.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// A delta of so many bytes has become a table.
    pub(super) fn delta_written(&mut self, bytes: u64) {
        self.planner.delta_written(bytes);
    }

    /// A snapshot was published.
    pub(super) fn published(&mut self) {
        self.planner.published();
    }

    fn snapshot_done(&mut self, migrations: MigrationsThen, watermark: Option<i64>) {
        let before = self.newest_done.take();
        if !before.is_some_and(|before| Arc::ptr_eq(&before.migrations, &migrations)) {
            // There may be codecs now that bring together what did not fit.
            self.planner.forget_apart();
        }
        self.newest_done = Some(Done { migrations, watermark });
        self.due = true;
    }

    /// Records of states were dropped.
    pub(super) fn states_dropped(&mut self) {
        self.planner.forget_apart();
    }
}

impl Pipeline {
    /// Has tables merged, if it is time for it, after a snapshot was done.
    pub(super) fn merge_if_needed(
        self: &Arc<Self>,
        migrations: MigrationsThen,
        watermark: Option<i64>,
    ) {
        self.tables.lock().merging.snapshot_done(migrations, watermark);
        self.take_next_step();
    }

    /// Queues the next step, unless there is none or one is under way.
    fn take_next_step(self: &Arc<Self>) {
        let (step, is_changed) = {
            let tables = &mut *self.tables.lock();
            let merging = &mut tables.merging;
            if merging.busy {
                return;
            }
            let Some(after) = merging.newest_done.clone() else { return };
            let mut is_changed = false;
            if std::mem::take(&mut merging.due) {
                let migrations = self.config.migrations.since(&after.migrations, after.watermark);
                let spent = tables.version.without_spent(|state| migrations.have_expired(state));
                if let Some((version, gone)) = spent {
                    tables.replaced.extend(version.files_gone(&gone));
                    tables.version = version;
                    is_changed = true;
                }
                merging.planner.begin(&tables.version);
            }
            let plan = merging.planner.step(&tables.version);
            merging.busy = plan.is_some();
            (plan.map(|plan| Step { plan, after }), is_changed)
        };
        if is_changed {
            self.publish_view(Ok(()));
        }
        let Some(step) = step else { return };
        let this = Arc::clone(self);
        self.config.executor.spawn(Priority::Idle, move || {
            let outcome = {
                let _busy = Busy(&this);
                this.merge(&step)
            };
            // What it was made of is needed no more.
            drop(step);
            match outcome {
                Ok(()) => {
                    this.publish_view(Ok(()));
                    this.tables_changed();
                    this.take_next_step();
                }
                // The tables are as they were; the next snapshot tries again.
                Err(error) => {
                    tracing::warn!(shard = %this, %error, "tables could not be merged");
                }
            }
        });
    }

    fn merge(&self, step: &Step) -> Result<()> {
        let Step { plan, after } = step;
        loop {
            let migrations = self.config.migrations.since(&after.migrations, after.watermark);
            let mut sources = Vec::with_capacity(plan.inputs.len());
            for table in &plan.inputs {
                let reader = self.open_table(table, TableReader::open)?;
                let dropped = table.dropped();
                let slice = table.slice.intersection(plan.groups);
                let slice = slice.ok_or_else(|| Error::internal("a step without groups"))?;
                sources.push(MergeSource { reader, slice, dropped });
            }
            let left_out = sources.len() - compact::that_mix(&sources, &migrations);
            let sources = sources.split_off(left_out);
            let (apart, inputs) = plan.inputs.split_at(left_out);
            let mut result = StepResult {
                left_out: apart.iter().map(|table| table.meta.file).collect(),
                ..StepResult::default()
            };
            if inputs.len() < 2 && left_out > 0 {
                self.tables.lock().merging.planner.done(plan, result);
                return Ok(());
            }
            let left_away: Vec<_> = sources.iter().map(|source| source.dropped.clone()).collect();
            let (file, local) = self.config.local.new_file();
            let merged = compact::merge(
                sources,
                plan.to_the_bottom && left_out == 0,
                &migrations,
                self.config.env.fs(),
                local.path(),
                self.output(file, MemoryComponent::Merging, plan.to_the_bottom),
                || {
                    if self.config.executor.is_closed() {
                        return Err(Error::closed("the backend is being closed"));
                    }
                    self.config.executor.breathe(Priority::Idle);
                    Ok(())
                },
            );
            let output = match merged {
                Ok(merged) => merged.map(|merged| own_table(merged.meta, merged.states, local)),
                Err(failure) => {
                    self.config.local.abandon(local);
                    match failure {
                        compact::Failure::Tables(error) => return Err(error),
                        compact::Failure::Migration(state, error) => {
                            tracing::warn!(
                                shard = %self, %error,
                                "values of an earlier version stay apart from those of today"
                            );
                            self.config.migrations.give_up(&state);
                            continue;
                        }
                    }
                }
            };
            let mut tables = self.tables.lock();
            if let Some(output) = &output {
                // What was dropped while it was merged is in it still.
                for (input, left_away) in inputs.iter().zip(left_away) {
                    let mut since = input.dropped();
                    since.retain(|name| !left_away.contains(name));
                    output.drop_states(&since);
                }
                result.bytes = output.meta.bytes;
            }
            let Some(version) = tables.version.with_merged(inputs, plan.groups, output) else {
                return Err(Error::internal("merged tables are no longer in the version"));
            };
            tables.replaced.extend(version.files_gone(inputs));
            tables.version = version;
            let read = inputs.iter().map(|input| input.bytes_in(plan.groups)).sum();
            tables.done.note_merge(read, result.bytes);
            tables.merging.planner.done(plan, result);
            return Ok(());
        }
    }

    /// Lets go of what no version has any more, and has the local directory seen to.
    pub(super) fn tables_changed(&self) {
        // Every entry of a version has a reference.
        self.tables.lock().replaced.retain(|file| Arc::strong_count(file) > 1);
        self.config.local.tables_changed();
    }
}

/// Lets the next step start, however this one ends.
struct Busy<'a>(&'a Pipeline);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.tables.lock().merging.busy = false;
    }
}
