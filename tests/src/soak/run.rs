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
use super::{Workload, append, faults::Fault, pair, rows};
use crate::vtab::check_rows;
use crate::{check_integrity, eventually};

/// The parameters of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Minimum time of fault injection. Every kind of fault comes at least once.
    pub duration: Duration,
    /// Seed of all random choices.
    pub seed: u64,
    /// Number of writing workers per workload.
    pub workers: u64,
    /// Program that runs a worker when started as `PROGRAM work …`.
    pub program: PathBuf,
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Transactions reported as committed.
    pub acknowledged: u64,
    /// Committed transactions by workload.
    pub acknowledged_by: BTreeMap<&'static str, u64>,
    /// Transactions reported as failed.
    pub failed: u64,
    /// Transactions with an unknown outcome, or whose worker was killed.
    pub unknown: u64,
    /// How often each fault was injected.
    pub faults: BTreeMap<Fault, u64>,
    /// Recorded read transactions.
    pub read: u64,
    /// Violated guarantees.
    pub violations: Vec<String>,
}

/// Executes a run. Calls `progress` after each fault with the elapsed time and the number of faults.
///
/// # Errors
/// The run itself failed, which is no violation.
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

/// All faults in random order. Network faults are cheap and come as often as all others together. Faults that lose
/// data are rare after the first round, so that databases grow in between.
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
        let acknowledged = operations.iter().filter(|one| one.outcome == Outcome::Acknowledged).count() as u64;
        verdict.acknowledged_by.insert(name, acknowledged);
        for operation in &operations {
            *match operation.outcome {
                Outcome::Acknowledged => &mut verdict.acknowledged,
                Outcome::Failed => &mut verdict.failed,
                Outcome::Unknown => &mut verdict.unknown,
                Outcome::Read => &mut verdict.read,
            } += 1;
        }
        let mut held = BTreeMap::new();
        for database in workload.databases() {
            let db = stage.server.open(database);
            check_integrity(&db);
            verdict.violations.extend(workload.wrong(&db)?.map(|wrong| format!("{database}: at the end, {wrong}")));
            held.insert(*database, workload.lists(&db)?);
        }
        match workload {
            Workload::Pair => verdict.violations.extend(pair::torn(&held[pair::MAIN], &held[pair::OTHER])),
            Workload::Rows => {
                let rows = rows::of(&stage.server)?;
                verdict.violations.extend(rows::wrong(&rows));
                held.insert(rows::TABLE, rows::lists(&rows));
                check_rows(&stage.server, rows::KEYS);
            }
            Workload::Bank | Workload::Append | Workload::Set | Workload::Churn => {}
        }
        for (place, lists) in held {
            let eras = stage.eras_of(place);
            eras.end(lists);
            verdict.violations.extend(eras.check_presence(place, &operations));
            verdict.violations.extend(append::check(eras, &operations));
        }
        for database in workload.databases() {
            eventually("leases of killed workers end", || !stage.server.is_leased(database));
            stage.server.check_stored(database);
            stage.server.check_older_versions(database, 40);
        }
    }
    Ok(())
}
