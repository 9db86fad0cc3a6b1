//! What faults are injected into: a primary and its replica, proxies before both, and workers.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::eras::Eras;
use super::run::Plan;
use super::worker::Role;
use super::{Workload, rows};
use crate::Server;
use crate::proxy::Proxy;

/// Each server may become the primary, and is killed as one.
const PERSISTENCE: [&str; 8] = [
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--auto-aof-rewrite-min-size",
    "8mb",
    "--repl-diskless-sync-delay",
    "0",
];

/// A process that works.
struct Process {
    workload: Workload,
    role: Role,
    number: u64,
    child: Child,
}

/// See the [module](self).
pub struct Stage {
    /// The primary.
    pub server: Server,
    /// Its replica.
    pub replica: Server,
    /// What workers reach the primary through.
    pub proxy: Proxy,
    /// What workers reach the replica through.
    pub way_to_replica: Proxy,
    /// Until when the replica gets nothing.
    pub replica_lags_until: Option<Instant>,
    /// Life of a write lease.
    pub lease: Duration,
    /// What has become of each place so far, see [`Workload::places`].
    eras: HashMap<&'static str, Eras>,
    /// What must not be.
    pub violations: Vec<String>,
    directory: TempDir,
    program: PathBuf,
    processes: Vec<Process>,
    histories: Vec<JoinHandle<std::io::Result<u64>>>,
    started: u64,
}

/// A server that becomes the replica of another.
pub fn replica_of(primary: &Server) -> Server {
    Server::with(PERSISTENCE).replica_of(primary)
}

impl Stage {
    /// Starts all of it.
    ///
    /// # Errors
    /// Something does not start.
    pub fn new(plan: &Plan) -> Result<Stage> {
        let server = Server::with(PERSISTENCE).tcp().start();
        let replica = replica_of(&server);
        let mut stage = Stage {
            proxy: Proxy::to(&server),
            way_to_replica: Proxy::to(&replica),
            server,
            replica,
            replica_lags_until: None,
            lease: Duration::from_millis(400),
            eras: HashMap::new(),
            violations: Vec::new(),
            directory: tempfile::Builder::new().prefix("sqlite-redis-soak.").tempdir()?,
            program: plan.program.clone(),
            processes: Vec::new(),
            histories: Vec::new(),
            started: 0,
        };
        stage.prepare()?;
        let mut seeds = StdRng::seed_from_u64(plan.seed);
        for workload in Workload::ALL {
            for number in 0..plan.workers {
                // Nobody waits in the other workloads: where the replica is behind, that takes long.
                let waits = workload == Workload::Set && number == 1;
                let role = if waits { Role::Waiting } else { Role::Primary };
                stage.start(workload, role, number, seeds.random())?;
            }
            if !matches!(workload, Workload::Set | Workload::Pair | Workload::Rows) {
                stage.start(workload, Role::Replica, plan.workers, seeds.random())?;
                // Odd ones: they read more than others.
                stage.start(workload, Role::Relaxed, 2 * plan.workers + 1, seeds.random())?;
                stage.start(workload, Role::Session, 2 * plan.workers + 3, seeds.random())?;
            }
        }
        Ok(stage)
    }

    /// The eras of a place.
    pub fn eras_of(&mut self, place: &'static str) -> &mut Eras {
        let eras = self.eras.entry(place).or_default();
        eras.takes_back = place == rows::TABLE;
        eras
    }

    /// Makes the tables of all workloads.
    ///
    /// # Errors
    /// A database fails.
    pub fn prepare(&self) -> Result<()> {
        for workload in Workload::ALL {
            for name in workload.databases() {
                workload.prepare(&self.server.open(name))?;
            }
        }
        Ok(())
    }

    /// Where the histories of workers are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn start(&mut self, workload: Workload, role: Role, number: u64, seed: u64) -> Result<()> {
        self.started += 1;
        let id = format!("{}-{}", workload.name(), self.started);
        let mut history = File::create(self.directory.path().join(format!("{id}.jsonl")))?;
        let (primary, replica) = (self.proxy.url(), self.way_to_replica.url());
        let (server, replicas) = match role {
            Role::Replica => (replica, None),
            Role::Session => (primary, Some(replica)),
            Role::Primary | Role::Waiting | Role::Relaxed => (primary, None),
        };
        // Past its limit on files a process gets a signal, unless it ignores that from the start.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
            .arg(&self.program)
            .args(["work", workload.name(), role.name(), &id])
            .args([number.to_string(), seed.to_string(), self.lease.as_millis().to_string(), server])
            .args(replicas)
            .env("TMPDIR", self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a worker")?;
        let mut lines = child.stdout.take().context("its output")?;
        self.histories.push(std::thread::spawn(move || std::io::copy(&mut lines, &mut history)));
        self.processes.push(Process { workload, role, number, child });
        // A thread that has ended keeps its stack for as long as its handle is kept.
        let (ended, going) = self.histories.drain(..).partition::<Vec<_>, _>(JoinHandle::is_finished);
        self.histories = going;
        ended.into_iter().try_for_each(join)
    }

    fn restart(&mut self, process: &Process, random: &mut StdRng) -> Result<()> {
        self.start(process.workload, process.role, process.number, random.random())
    }

    /// The process id of some worker.
    pub fn random_pid(&self, random: &mut StdRng) -> u32 {
        self.processes[random.random_range(0..self.processes.len())].child.id()
    }

    /// Tells some worker what is to go wrong in it, see [`super::worker::work`].
    pub fn tell(&mut self, random: &mut StdRng, what: &str) {
        let at = random.random_range(0..self.processes.len());
        if let Some(stdin) = &mut self.processes[at].child.stdin {
            // A worker that has just ended can't be told, which is looked after elsewhere.
            let _ = writeln!(stdin, "{what}");
        }
    }

    /// Kills some worker; another takes its place.
    ///
    /// # Panics
    /// When either fails.
    pub fn kill_worker(&mut self, random: &mut StdRng) {
        let at = random.random_range(0..self.processes.len());
        let mut process = self.processes.swap_remove(at);
        process.child.kill().and_then(|()| process.child.wait()).expect("a worker can be killed");
        self.restart(&process, random).expect("a worker can be started");
    }

    /// Replaces workers that have ended by themselves; none should, so that is a violation.
    ///
    /// # Errors
    /// A worker can't be started.
    pub fn look_after_workers(&mut self, random: &mut StdRng) -> Result<()> {
        for at in (0..self.processes.len()).rev() {
            if let Some(status) = self.processes[at].child.try_wait()? {
                let process = self.processes.swap_remove(at);
                self.violations.push(format!("a {} worker ended by itself: {status}", process.workload.name()));
                self.restart(&process, random)?;
            }
        }
        Ok(())
    }

    /// Lets all workers end, and waits for them.
    ///
    /// # Errors
    /// A history could not be written.
    pub fn finish(&mut self) -> Result<()> {
        for proxy in [&self.proxy, &self.way_to_replica] {
            proxy.disarm();
            proxy.settle(true);
        }
        for process in &mut self.processes {
            drop(process.child.stdin.take());
        }
        for mut process in self.processes.drain(..) {
            let status = process.child.wait()?;
            if !status.success() {
                let (workload, role) = (process.workload.name(), process.role.name());
                self.violations.push(format!("a {workload} worker ({role}) did not end by itself: {status}"));
            }
        }
        self.histories.drain(..).try_for_each(join)
    }
}

/// The end of a thread that takes down what a worker writes.
fn join(history: JoinHandle<std::io::Result<u64>>) -> Result<()> {
    history.join().map_err(|_| anyhow!("a history was not read"))??;
    Ok(())
}

impl Drop for Stage {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // They may have ended already.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}
