//! The claims, each with what finds out whether a runtime keeps it.

use std::fmt;

use alluvium::ErrorKind;

use crate::Capability::{
    self, Damage, LostNotifications, Processes, Rescaling, Rollback, Savepoints, StopWithSavepoint,
    TwoInputs, UnknownState, Zombies,
};
use crate::stage::{Checked, HALF, MOST, RECORDS, SPLITS, Spec, Stage, same};
use crate::{Faults, GoesOnFrom, oracle};

/// A claim that runtimes are put to.
pub struct Check {
    /// The claim.
    pub name: &'static str,
    /// What a runtime must be able to do to be put to it.
    pub needs: &'static [Capability],
    pub(crate) run: fn(&Stage<'_>) -> Checked,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All checks, in the order in which they are made.
pub fn checks() -> &'static [Check] {
    CHECKS
}

const CHECKS: &[Check] = &[
    Check { name: "a job says the same on any number of workers", needs: &[], run: undisturbed },
    Check { name: "a record goes to the owner of its key group", needs: &[], run: routed },
    Check {
        name: "nothing is shown before its checkpoint is complete",
        needs: &[Capability::Faults],
        run: hidden,
    },
    Check {
        name: "a job killed at random moments says what an undisturbed one says",
        needs: &[],
        run: killed,
    },
    Check { name: "no record is lost or counted twice by a restore", needs: &[], run: restored },
    Check {
        name: "timers fire once and in order across a restore",
        needs: &[],
        run: timers_restored,
    },
    Check { name: "rescaling keeps all keys and timers", needs: &[Rescaling], run: rescaled },
    Check {
        name: "an aborted checkpoint commits nothing and the next one everything",
        needs: &[Capability::Faults, Savepoints],
        run: aborted,
    },
    Check {
        name: "a late acknowledgement counts for nothing",
        needs: &[Capability::Faults, Savepoints],
        run: late,
    },
    Check {
        name: "results whose completion nobody was told of are shown by a restore",
        needs: &[LostNotifications],
        run: unheard,
    },
    Check { name: "a former life cannot commit", needs: &[Zombies], run: zombie },
    Check { name: "a savepoint commits nothing", needs: &[Savepoints], run: savepoint_is_silent },
    Check {
        name: "a savepoint outlives later checkpoints and can be gone back to",
        needs: &[Savepoints, Rollback],
        run: gone_back,
    },
    Check {
        name: "a job stopped with a savepoint goes on where it was",
        needs: &[StopWithSavepoint],
        run: stopped,
    },
    Check {
        name: "state that the job does not know is refused unless allowed",
        needs: &[UnknownState],
        run: unknown,
    },
    Check {
        name: "a damaged latest checkpoint is an error and no beginning",
        needs: &[Damage],
        run: damaged,
    },
    Check { name: "a job says the same on several processes", needs: &[Processes], run: divided },
    Check {
        name: "a job that loses a process goes on from its latest checkpoint",
        needs: &[Processes],
        run: bereft,
    },
    Check {
        name: "rescaling over processes keeps all keys and timers",
        needs: &[Processes, Rescaling],
        run: redivided,
    },
    Check { name: "a barrier is aligned over two inputs", needs: &[TwoInputs], run: aligned },
    Check { name: "time is that of the slower of two inputs", needs: &[TwoInputs], run: slower },
];

fn undisturbed(stage: &Stage<'_>) -> Checked {
    for workers in [1, 2, 5] {
        let stage = stage.another(&workers.to_string());
        // The watermark is that of the splits which have not begun.
        let life = stage.start(&Spec::new(workers, 0))?;
        life.run_ahead(0)?;
        life.finish()?;
        stage.is_all_shown().map_err(|broken| format!("on {workers} workers {broken}"))?;
    }
    Ok(())
}

fn routed(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec::new(3, RECORDS))?;
    let probe = life.probe().clone();
    let finished = life.finish();
    match probe.misrouted() {
        0 => finished,
        misrouted => Err(format!("{misrouted} records came to a worker that does not own them")),
    }
}

fn hidden(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec::new(2, HALF))?;
    life.come_to(HALF, 0)?;
    stage.is_shown(0).map_err(|broken| format!("before any checkpoint {broken}"))?;
    life.faults().hold();
    life.running()?.begin_checkpoint();
    life.wait("a table came to the store", || Ok(life.faults().waiting() > 0))?;
    stage.is_shown(0).map_err(|broken| format!("during a checkpoint {broken}"))?;
    life.faults().release();
    life.checkpoint()?;
    life.wait_until_shown(HALF)
}

/// Some rounds: each comes a little further, is perhaps amid a checkpoint, and is killed.
fn killed(stage: &Stage<'_>) -> Checked {
    let kills = u64::from(stage.options.kills);
    let mut before = 0;
    for round in 1..=kills {
        let released = RECORDS * round / (kills + 1);
        let life = stage.start(&Spec::new(1 + stage.below(4) as u32, released))?;
        // There are at least so many, wherever it began.
        let most = (released - before) * u64::from(SPLITS);
        life.wait_for_records(1 + stage.below(most))?;
        // There is always one to go on from.
        match if round == 1 { 0 } else { stage.below(3) } {
            0 => life.checkpoint()?,
            1 => life.running()?.begin_checkpoint(),
            _ => {}
        }
        life.kill();
        before = released;
    }
    stage.start(&Spec::new(2, RECORDS))?.finish()?;
    stage.is_all_shown()
}

fn restored(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec::new(2, HALF))?;
    life.come_to(HALF, 0)?;
    life.checkpoint()?;
    life.come_to(MOST, 0)?;
    life.kill();
    let life = stage.start(&Spec::new(2, RECORDS))?;
    let probe = life.probe().clone();
    life.finish()?;
    let counts = oracle::lines(stage.options.seed, SPLITS, RECORDS, false);
    same(&counts, &stage.shown_counts()?)?;
    let (expected, found) = ((RECORDS - HALF) * u64::from(SPLITS), probe.records());
    if found != expected {
        return Err(format!("{found} records came after the restore, not {expected}"));
    }
    Ok(())
}

fn timers_restored(stage: &Stage<'_>) -> Checked {
    let mut probes = Vec::new();
    let life = stage.start(&Spec::new(2, HALF))?;
    probes.push(life.probe().clone());
    life.come_to(HALF, 0)?;
    life.checkpoint()?;
    life.kill();
    let life = stage.start(&Spec::new(2, RECORDS))?;
    probes.push(life.probe().clone());
    life.finish()?;
    let out_of_order: u64 = probes.iter().map(|probe| probe.out_of_order()).sum();
    if out_of_order > 0 {
        return Err(format!("{out_of_order} timers fired after one of a later time"));
    }
    stage.is_all_shown()
}

fn rescaled(stage: &Stage<'_>) -> Checked {
    let mut before = 0;
    for (round, workers) in [2, 5, 1, 3].into_iter().enumerate() {
        let released = RECORDS * (round as u64 + 1) / 5;
        let life = stage.start(&Spec::new(workers, released))?;
        life.come_to(released, before)?;
        life.checkpoint()?;
        life.kill();
        before = released;
    }
    stage.start(&Spec::new(4, RECORDS))?.finish()?;
    stage.is_all_shown()
}

/// Makes a checkpoint fail that the job would take.
fn refuse_one(faults: &Faults, take: impl FnOnce() -> alluvium::Result<()>) -> Checked {
    faults.refuse(1);
    match take() {
        Err(_) => Ok(()),
        Ok(()) if faults.refusals_left() > 0 => {
            Err("no table came to the store that Faults::wrap gave".to_owned())
        }
        Ok(()) => Err("a checkpoint was completed though a table was refused".to_owned()),
    }
}

fn aborted(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec::new(2, HALF))?;
    life.come_to(HALF, 0)?;
    let running = life.running()?;
    refuse_one(life.faults(), || running.checkpoint().map(drop))?;
    stage.is_shown(0).map_err(|broken| format!("when it was aborted {broken}"))?;
    // What came after the abort has passed the job by when this is complete.
    life.savepoint("after")?;
    stage.is_shown(0).map_err(|broken| format!("after it was aborted {broken}"))?;
    life.come_to(MOST, 0)?;
    life.checkpoint()?;
    life.wait_until_shown(MOST)?;
    life.finish()?;
    stage.is_all_shown()
}

fn late(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec { timeout_ms: 500, ..Spec::new(2, HALF) })?;
    life.come_to(HALF, 0)?;
    life.faults().hold();
    if life.running()?.checkpoint().is_ok() {
        return Err("a checkpoint was completed while the store took no tables".to_owned());
    }
    stage.is_shown(0).map_err(|broken| format!("when it was given up {broken}"))?;
    life.faults().release();
    // Snapshots of a shard finish in order: the late one has by then.
    life.savepoint("after")?;
    stage.is_shown(0).map_err(|broken| format!("after the late acknowledgement {broken}"))?;
    life.kill();
    stage.start(&Spec::new(2, RECORDS))?.finish()?;
    stage.is_all_shown()
}

fn unheard(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec::new(2, HALF))?;
    life.come_to(HALF, 0)?;
    life.running()?.lose_notifications();
    life.checkpoint()?;
    life.kill();
    // What that checkpoint commits is said by nobody else.
    stage.start(&Spec::new(2, RECORDS))?.finish()?;
    stage.is_all_shown()
}

fn zombie(stage: &Stage<'_>) -> Checked {
    let former = stage.start(&Spec::new(2, HALF))?;
    former.come_to(HALF, 0)?;
    former.checkpoint()?;
    former.wait_until_shown(HALF)?;
    former.come_to(MOST, 0)?;
    let life = stage.start(&Spec::new(2, HALF))?;
    if former.running()?.checkpoint().is_ok() {
        return Err("a checkpoint of a former life was completed".to_owned());
    }
    stage.is_shown(HALF).map_err(|broken| format!("after the former life tried {broken}"))?;
    former.kill();
    stage.is_shown(HALF).map_err(|broken| format!("after the former life's end {broken}"))?;
    life.finish()?;
    stage.is_all_shown()
}

fn savepoint_is_silent(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec::new(2, HALF))?;
    life.come_to(HALF, 0)?;
    life.savepoint("one")?;
    // What follows from the first has passed the job by when this one is complete.
    life.savepoint("two")?;
    stage.is_shown(0).map_err(|broken| format!("after a savepoint {broken}"))?;
    life.kill();
    // It goes on from the latest checkpoint, of which there is none.
    stage.start(&Spec::new(2, RECORDS))?.finish()?;
    stage.is_all_shown()
}

fn gone_back(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec::new(2, HALF))?;
    life.come_to(HALF, 0)?;
    life.savepoint("half")?;
    for released in [HALF + 20, HALF + 40, MOST] {
        life.come_to(released, 0)?;
        life.checkpoint()?;
    }
    life.finish()?;
    stage.is_all_shown()?;
    let back = || Spec { from: GoesOnFrom::Savepoint("half".to_owned()), ..Spec::new(3, HALF) };
    for _ in 0..2 {
        let life = stage.start(&back())?;
        life.wait_until_shown(HALF)?;
        life.come_to(RECORDS, HALF)?;
        life.finish()?;
        stage.is_all_shown()?;
    }
    Ok(())
}

fn stopped(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec::new(2, HALF))?;
    life.come_to(HALF, 0)?;
    life.stop("end")?;
    stage.is_shown(HALF)?;
    stage.start(&Spec::new(3, RECORDS))?.finish()?;
    stage.is_all_shown()
}

fn unknown(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec::new(2, HALF))?;
    life.come_to(HALF, 0)?;
    life.checkpoint()?;
    life.kill();
    let renamed = || Spec { operator: "renamed", ..Spec::new(2, RECORDS) };
    stage.is_refused(&renamed(), ErrorKind::Incompatible)?;
    // It begins, and comes no further than where it was.
    let allowed = Spec { allow_dropped_state: true, released: HALF, ..renamed() };
    stage.start(&allowed)?.kill();
    stage.start(&Spec::new(2, RECORDS))?.finish()?;
    stage.is_all_shown()
}

fn damaged(stage: &Stage<'_>) -> Checked {
    let life = stage.start(&Spec::new(2, HALF))?;
    life.come_to(HALF, 0)?;
    life.checkpoint()?;
    life.wait_until_shown(HALF)?;
    life.kill();
    stage.damage_latest()?;
    stage.is_refused(&Spec::new(2, RECORDS), ErrorKind::Corrupt)?;
    stage.is_shown(HALF)
}

fn divided(stage: &Stage<'_>) -> Checked {
    for (workers, processes) in [(2, 2), (4, 2), (3, 3)] {
        let stage = stage.another(&format!("{workers}-{processes}"));
        let life = stage.start(&Spec { processes, ..Spec::new(workers, 0) })?;
        life.run_ahead(0)?;
        life.finish()?;
        let shown = stage.is_all_shown();
        shown.map_err(|broken| format!("{workers} workers in {processes} processes: {broken}"))?;
    }
    Ok(())
}

/// Each process once, that with the coordinator too: whatever becomes of the job, nothing
/// is lost and nothing said twice.
fn bereft(stage: &Stage<'_>) -> Checked {
    for victim in 0..2 {
        let stage = stage.another(&victim.to_string());
        let life = stage.start(&Spec { processes: 2, ..Spec::new(4, HALF) })?;
        life.come_to(HALF, 0)?;
        life.checkpoint()?;
        life.come_to(MOST, 0)?;
        life.running()?.kill_process(victim);
        if life.outcome()?.is_err() {
            // On other processes than before.
            stage.start(&Spec { processes: 3, ..Spec::new(3, RECORDS) })?.finish()?;
        }
        stage.is_all_shown().map_err(|broken| format!("without process {victim}: {broken}"))?;
    }
    Ok(())
}

fn redivided(stage: &Stage<'_>) -> Checked {
    let mut before = 0;
    let shapes = [(2, 2), (1, 1), (6, 3), (4, 2)];
    for (round, (workers, processes)) in shapes.into_iter().enumerate() {
        let released = RECORDS * (round as u64 + 1) / 5;
        let life = stage.start(&Spec { processes, ..Spec::new(workers, released) })?;
        life.come_to(released, before)?;
        life.checkpoint()?;
        life.kill();
        before = released;
    }
    stage.start(&Spec { processes: 3, ..Spec::new(3, RECORDS) })?.finish()?;
    stage.is_all_shown()
}

/// Barriers go while records of both inputs are on their way, now more of the one and now
/// of the other, and each time the job goes on from the last of them.
fn aligned(stage: &Stage<'_>) -> Checked {
    const ROUNDS: u64 = 6;
    for round in 0..ROUNDS {
        let (less, more) = (RECORDS * round / ROUNDS, RECORDS * (round + 1) / ROUNDS);
        let (first, second) = if round % 2 == 0 { (more, less) } else { (less, more) };
        let spec = Spec { second: Some(second), ..Spec::new(1 + stage.below(3) as u32, first) };
        let life = stage.start(&spec)?;
        life.checkpoint()?;
        life.release(more);
        life.release_second(more);
        life.checkpoint()?;
        life.kill();
    }
    stage.start(&Spec { second: Some(RECORDS), ..Spec::new(2, RECORDS) })?.finish()?;
    stage.is_all_of_both_shown()
}

fn slower(stage: &Stage<'_>) -> Checked {
    for is_first_ahead in [true, false] {
        let stage = stage.another(if is_first_ahead { "first" } else { "second" });
        let life = match is_first_ahead {
            true => stage.start(&Spec { second: Some(0), ..Spec::new(2, RECORDS) })?,
            false => stage.start(&Spec { second: Some(RECORDS), ..Spec::new(2, 0) })?,
        };
        life.wait_for_records(RECORDS * u64::from(SPLITS))?;
        // Time would come to what has ended, if it did not wait for the other input.
        life.checkpoint()?;
        life.finish()?;
        stage.is_all_of_both_shown()?;
    }
    Ok(())
}
