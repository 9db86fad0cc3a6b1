//! A run: a server, a proxy, workers, faults, and the verdict.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;
use tempfile::TempDir;

use super::history::{self, Outcome};
use super::{Workload, append, bank, churn, faults::Fault, set};
use crate::proxy::Proxy;
use crate::{Server, check_integrity, eventually};

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How long faults are injected.
    pub duration: Duration,
    /// Where all choices come from.
    pub seed: u64,
    /// Workers of each workload.
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
    /// What must not be.
    pub violations: Vec<String>,
}

/// What faults are injected into.
pub struct Stage {
    /// The server.
    pub server: Server,
    /// What workers reach it through.
    pub proxy: Proxy,
    /// Life of a write lease.
    pub lease: Duration,
    directory: TempDir,
    program: PathBuf,
    workers: Vec<(Workload, u64, Child)>,
    histories: Vec<JoinHandle<std::io::Result<u64>>>,
    started: u64,
}

impl Stage {
    fn new(plan: &Plan) -> Result<Stage> {
        let persistence = ["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-min-size", "8mb"];
        let server = Server::with(persistence).start();
        let proxy = Proxy::to(&server);
        let mut stage = Stage {
            server,
            proxy,
            lease: Duration::from_millis(400),
            directory: tempfile::Builder::new().prefix("sqlite-redis-soak.").tempdir()?,
            program: plan.program.clone(),
            workers: Vec::new(),
            histories: Vec::new(),
            started: 0,
        };
        for workload in Workload::ALL {
            prepare(workload, &stage.server.open(workload.name()))?;
        }
        let mut seeds = StdRng::seed_from_u64(plan.seed);
        for workload in Workload::ALL {
            for number in 0..plan.workers {
                stage.start(workload, number, seeds.random())?;
            }
        }
        Ok(stage)
    }

    fn start(&mut self, workload: Workload, number: u64, seed: u64) -> Result<()> {
        self.started += 1;
        let id = format!("{}-{}", workload.name(), self.started);
        let mut history = File::create(self.directory.path().join(format!("{id}.jsonl")))?;
        // Past its limit on files a process gets a signal, unless it ignores that from the start.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
            .arg(&self.program)
            .args(["work", workload.name(), &self.proxy.url(), &id])
            .args([number.to_string(), seed.to_string(), self.lease.as_millis().to_string()])
            .env("TMPDIR", self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a worker")?;
        let mut lines = child.stdout.take().context("its output")?;
        self.histories.push(std::thread::spawn(move || std::io::copy(&mut lines, &mut history)));
        self.workers.push((workload, number, child));
        // A thread that has ended keeps its stack for as long as its handle is kept.
        let (ended, going) = self.histories.drain(..).partition::<Vec<_>, _>(JoinHandle::is_finished);
        self.histories = going;
        for history in ended {
            join(history)?;
        }
        Ok(())
    }

    /// The process id of some worker.
    pub fn random_pid(&self, random: &mut StdRng) -> u32 {
        self.workers[random.random_range(0..self.workers.len())].2.id()
    }

    /// Kills some worker; another takes its place.
    pub fn kill_worker(&mut self, random: &mut StdRng) {
        let at = random.random_range(0..self.workers.len());
        let (workload, number, mut child) = self.workers.swap_remove(at);
        child.kill().and_then(|()| child.wait()).expect("a worker can be killed");
        self.start(workload, number, random.random()).expect("a worker can be started");
    }

    /// Replaces workers that have ended by themselves; none should, so that is a violation.
    fn look_after_workers(&mut self, random: &mut StdRng, verdict: &mut Verdict) -> Result<()> {
        for at in (0..self.workers.len()).rev() {
            if let Some(status) = self.workers[at].2.try_wait()? {
                let (workload, number, _) = self.workers.swap_remove(at);
                verdict.violations.push(format!("a {} worker ended by itself: {status}", workload.name()));
                self.start(workload, number, random.random())?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.proxy.disarm();
        self.proxy.settle(true);
        for (_, _, child) in &mut self.workers {
            drop(child.stdin.take());
        }
        for (_, _, mut child) in self.workers.drain(..) {
            child.wait()?;
        }
        for history in self.histories.drain(..) {
            join(history)?;
        }
        Ok(())
    }
}

/// The end of a thread that takes down what a worker writes.
fn join(history: JoinHandle<std::io::Result<u64>>) -> Result<()> {
    history.join().map_err(|_| anyhow!("a history was not read"))??;
    Ok(())
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (_, _, child) in &mut self.workers {
            // They may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn prepare(workload: Workload, db: &Connection) -> rusqlite::Result<()> {
    match workload {
        Workload::Bank => bank::prepare(db),
        Workload::Append => append::prepare(db),
        Workload::Set => set::prepare(db),
        Workload::Churn => churn::prepare(db),
    }
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
    while begun.elapsed() < plan.duration {
        std::thread::sleep(Duration::from_millis(random.random_range(20..400)));
        let fault = Fault::random(&mut random);
        fault.inject(&mut stage, &mut random);
        *verdict.faults.entry(fault).or_default() += 1;
        injected += 1;
        stage.look_after_workers(&mut random, &mut verdict)?;
        progress(begun.elapsed(), injected);
    }
    stage.finish()?;
    judge(&stage, &mut verdict)?;
    Ok(verdict)
}

fn judge(stage: &Stage, verdict: &mut Verdict) -> Result<()> {
    for workload in Workload::ALL {
        let name = workload.name();
        let (operations, violations) = history::read(stage.directory.path(), name)?;
        verdict.violations.extend(violations);
        let mut counts: HashMap<Outcome, u64> = HashMap::new();
        for operation in &operations {
            *counts.entry(operation.outcome).or_default() += 1;
        }
        verdict.acknowledged += counts.get(&Outcome::Acknowledged).unwrap_or(&0);
        verdict.failed += counts.get(&Outcome::Failed).unwrap_or(&0);
        verdict.unknown += counts.get(&Outcome::Unknown).unwrap_or(&0);
        let db = stage.server.open(name);
        check_integrity(&db);
        verdict.violations.extend(match workload {
            Workload::Bank => bank::check(&db, &operations)?,
            Workload::Append => append::check(&db, &operations)?,
            Workload::Set => set::check(&db, &operations)?,
            Workload::Churn => churn::check(&db, &operations)?,
        });
        drop(db);
        eventually("leases of killed workers end", || !stage.server.is_leased(name));
        stage.server.check_stored(name);
        stage.server.check_older_versions(name, 40);
    }
    Ok(())
}
