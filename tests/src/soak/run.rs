//! A run: the stage, the faults, and the verdict.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::history::{self, Outcome};
use super::stage::Stage;
use super::{Workload, append, faults::Fault};
use crate::{check_integrity, eventually};

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How long faults are injected, at least; each kind comes once in any case.
    pub duration: Duration,
    /// Where all choices come from.
    pub seed: u64,
    /// Workers of each workload that write.
    pub workers: u64,
    /// The program that is a worker when started as `PROGRAM work …`.
    pub program: PathBuf,
}

/// What a run has shown.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Transactions reported as committed.
    pub acknowledged: u64,
    /// Transactions reported as failed.
    pub failed: u64,
    /// Transactions whose worker could not be told, or was killed.
    pub unknown: u64,
    /// How often each fault was injected.
    pub faults: BTreeMap<Fault, u64>,
    /// Reads that were written down.
    pub read: u64,
    /// What must not be.
    pub violations: Vec<String>,
}

/// Runs it. `progress` is told now and then how far it is.
///
/// # Errors
/// The run itself failed, which says nothing about what it was to test.
pub fn run(plan: &Plan, progress: impl Fn(Duration, u64)) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let mut stage = Stage::new(plan)?;
    let mut random = StdRng::seed_from_u64(plan.seed ^ 0x5eed);
    let begun = Instant::now();
    let mut injected = 0;
    let mut round = 0;
    while begun.elapsed() < plan.duration || round == 0 {
        for fault in a_round(round, &mut random) {
            std::thread::sleep(Duration::from_millis(random.random_range(20..400)));
            fault.inject(&mut stage, &mut random)?;
            *verdict.faults.entry(fault).or_default() += 1;
            injected += 1;
            stage.look_after_workers(&mut random)?;
            progress(begun.elapsed(), injected);
        }
        round += 1;
    }
    stage.end_lag();
    stage.finish()?;
    judge(&mut stage, &mut verdict)?;
    Ok(verdict)
}

/// Each fault once in any order. Those of the network, which are cheap, come as often as all others
/// together; those that lose data seldom, so that there is much to lose.
fn a_round(number: u64, random: &mut StdRng) -> Vec<Fault> {
    let mut faults = Vec::new();
    for fault in Fault::ALL {
        if !fault.loses_data() || number == 0 || random.random_ratio(1, 8) {
            faults.push(fault);
        }
    }
    faults.extend(vec![Fault::Network; Fault::ALL.len()]);
    faults.shuffle(random);
    faults
}

fn judge(stage: &mut Stage, verdict: &mut Verdict) -> Result<()> {
    verdict.violations.append(&mut stage.violations);
    for workload in Workload::ALL {
        let name = workload.name();
        let (operations, violations) = history::read(stage.directory(), name)?;
        verdict.violations.extend(violations);
        for operation in &operations {
            *match operation.outcome {
                Outcome::Acknowledged => &mut verdict.acknowledged,
                Outcome::Failed => &mut verdict.failed,
                Outcome::Unknown => &mut verdict.unknown,
                Outcome::Read => &mut verdict.read,
            } += 1;
        }
        let db = stage.server.open(name);
        check_integrity(&db);
        verdict.violations.extend(workload.wrong(&db)?.map(|wrong| format!("{name}: at the end, {wrong}")));
        let eras = stage.eras.entry(workload).or_default();
        eras.end(workload.lists(&db)?);
        verdict.violations.extend(eras.check_presence(name, &operations));
        verdict.violations.extend(append::check(eras, &operations));
        drop(db);
        eventually("leases of killed workers end", || !stage.server.is_leased(name));
        stage.server.check_stored(name);
        stage.server.check_older_versions(name, 40);
    }
    Ok(())
}
