//! Worker processes: several that work at once, or one that starts with a cold cache.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::data::Sizes;
use crate::measure::{slice, warm};
use crate::setting::Setting;
use crate::system::{Places, System};
use crate::workload::{BENCH, Manner, SCANNED, Session, WORKLOADS, scanned};

/// The task of a worker, which gets it as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub workload: String,
    pub system: System,
    pub setting: Setting,
    pub sizes: Sizes,
    pub time: Duration,
    /// A number that keeps the worker's rows apart from those of others.
    pub worker: i64,
    pub places: Places,
}

/// Runs the job in several processes at once and returns the times of the operations of each. Calls `arrange` when all
/// are ready.
///
/// # Errors
/// A worker fails.
pub fn run(job: &Job, processes: u32, arrange: impl FnOnce() -> Result<()>) -> Result<Vec<Vec<u64>>> {
    let mut workers = (0..processes)
        .map(|n| start(&Job { worker: job.worker + i64::from(n), ..job.clone() }))
        .collect::<Result<Vec<_>>>()?;
    for (_, output) in &mut workers {
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line == "ready\n", "a worker failed");
    }
    arrange()?;
    for (worker, _) in &mut workers {
        worker.stdin.take().context("its input")?.write_all(b"go\n")?;
    }
    workers.into_iter().map(finish).collect()
}

fn start(job: &Job) -> Result<(Child, BufReader<ChildStdout>)> {
    let mut worker = Command::new(std::env::current_exe()?)
        .args(["worker", &serde_json::to_string(job)?])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(worker.stdout.take().context("its output")?);
    Ok((worker, output))
}

fn finish((mut worker, mut output): (Child, BufReader<ChildStdout>)) -> Result<Vec<u64>> {
    let mut times = String::new();
    output.read_to_string(&mut times)?;
    let status = worker.wait()?;
    ensure!(status.success(), "a worker ended with {status}");
    Ok(serde_json::from_str(&times)?)
}

/// The main function of a worker.
///
/// # Errors
/// The work fails.
pub fn work(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    let workload = WORKLOADS.iter().find(|workload| workload.name == job.workload).context("no such workload")?;
    let database = match workload.manner {
        Manner::Cold { database: SCANNED } => scanned(job.setting),
        Manner::Cold { database } => database.to_owned(),
        Manner::Warm | Manner::Together(_) => BENCH.to_owned(),
    };
    let mut session = Session::open(&job.places, job.system, job.setting, job.sizes, &database, job.worker)?;
    if matches!(workload.manner, Manner::Together(_)) && job.system.has_cache() {
        warm(&mut session)?;
    }
    workload.before(&mut session)?;
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    let times = slice(workload, &mut session, job.time)?;
    println!("{}", serde_json::to_string(&times)?);
    Ok(())
}
