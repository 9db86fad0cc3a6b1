//! The faults that a run injects, one at a time and mixed.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::RngExt;
use rand::rngs::StdRng;

use super::stage::Stage;
use crate::proxy;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of a worker.
    KillWorker,
    /// A worker sleeps past its lease, and goes on where it was.
    StopWorker,
    /// A worker has no file descriptors left for a while.
    NoDescriptors,
    /// A worker can't write to files for a while, as on a full disk: its journals spill to them.
    NoFiles,
    /// The clocks of a worker jump: the wall clock by years in any direction, the one that only goes
    /// forward as if the worker had slept.
    ClockJump,
    /// A worker forks with its connection open, and both go on with it.
    Fork,
    /// One command or reply is lost, cut, held or slow, or the connection is reset or goes silent,
    /// wherever it happens to be.
    Network,
    /// Each reply is late for a while.
    Delay,
    /// Nothing goes through for a while.
    Partition,
    /// `CLIENT KILL` of all connections.
    KillClients,
    /// `kill -9` of the server, and a start from its append-only file.
    KillServer,
    /// `SHUTDOWN` of the server, and a start.
    Shutdown,
    /// The server does nothing for longer than a lease.
    ServerSleeps,
    /// The server is out of memory for a while.
    OutOfMemory,
    /// The server has room for a little more only, until that is used up.
    Full,
    /// The server closes connections that take much memory (`maxmemory-clients`).
    EvictClients,
    /// The server closes connections that have sent much (`client-query-buffer-limit`).
    QueryLimit,
    /// The server closes connections for which much is to be read (`client-output-buffer-limit`).
    OutputLimit,
    /// All connections share a link of a few megabytes a second.
    SlowLink,
    /// The server forgets its scripts.
    FlushScripts,
    /// The replica gets nothing for seconds, while it is read.
    ReplicaLags,
    /// Everything on the server is removed.
    FlushAll,
    /// The replica, which lacks the last commits, takes the primary's place.
    Failover,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 23] = [
        Fault::KillWorker,
        Fault::StopWorker,
        Fault::NoDescriptors,
        Fault::NoFiles,
        Fault::ClockJump,
        Fault::Fork,
        Fault::Network,
        Fault::Delay,
        Fault::Partition,
        Fault::KillClients,
        Fault::KillServer,
        Fault::Shutdown,
        Fault::ServerSleeps,
        Fault::OutOfMemory,
        Fault::Full,
        Fault::EvictClients,
        Fault::QueryLimit,
        Fault::OutputLimit,
        Fault::SlowLink,
        Fault::FlushScripts,
        Fault::ReplicaLags,
        Fault::FlushAll,
        Fault::Failover,
    ];

    /// Whether the server has less afterwards than it had.
    pub fn loses_data(self) -> bool {
        matches!(self, Fault::FlushAll | Fault::Failover)
    }

    /// Lets it happen, and puts right what does not right itself.
    ///
    /// # Errors
    /// It can't be injected.
    pub fn inject(self, stage: &mut Stage, random: &mut StdRng) -> Result<()> {
        if stage.replica_lags_until.is_some_and(|until| until < Instant::now()) {
            stage.end_lag();
        }
        let some = |random: &mut StdRng, most| Duration::from_millis(random.random_range(10..most));
        match self {
            Fault::KillWorker => stage.kill_worker(random),
            Fault::StopWorker => {
                let pid = stage.random_pid(random);
                signal(pid, "-STOP");
                std::thread::sleep(stage.lease + some(random, 300));
                signal(pid, "-CONT");
            }
            Fault::NoDescriptors => limited(stage, random, "--nofile=4"),
            Fault::NoFiles => limited(stage, random, "--fsize=0"),
            Fault::ClockJump => {
                let jump = clock_jump(random);
                stage.tell(random, &jump);
            }
            Fault::Fork => stage.tell(random, "fork"),
            Fault::Network => {
                let fault = proxy::Fault::ALL[random.random_range(0..proxy::Fault::ALL.len())];
                stage.proxy.after(random.random_range(0..30), fault);
            }
            Fault::Delay => {
                stage.proxy.delay(some(random, 200));
                std::thread::sleep(some(random, 400));
                stage.proxy.delay(Duration::ZERO);
            }
            Fault::Partition => {
                stage.proxy.refuse(true);
                std::thread::sleep(some(random, 400));
                stage.proxy.refuse(false);
            }
            Fault::KillClients => {
                stage.server.redis_cli(&["CLIENT", "KILL", "TYPE", "normal"]);
            }
            Fault::KillServer => {
                stage.server.kill();
                stage.server.restart();
            }
            Fault::Shutdown => {
                stage.server.redis_cli(&["SHUTDOWN"]);
                stage.server.kill();
                stage.server.restart();
            }
            Fault::ServerSleeps => {
                let seconds = (stage.lease + some(random, 200)).as_secs_f64().to_string();
                stage.server.redis_cli(&["DEBUG", "SLEEP", &seconds]);
            }
            Fault::OutOfMemory => configured(stage, "maxmemory", "1", "0", some(random, 300)),
            Fault::Full => {
                let room = used_memory(stage) + random.random_range(0..300_000);
                configured(stage, "maxmemory", &room.to_string(), "0", some(random, 1000));
            }
            Fault::EvictClients => {
                // Redis 6.2 has no such limit.
                let limit = random.random_range(100_000..2_000_000).to_string();
                configured(stage, "maxmemory-clients", &limit, "0", some(random, 400));
            }
            Fault::QueryLimit => configured(stage, "client-query-buffer-limit", "1mb", "1gb", some(random, 600)),
            Fault::OutputLimit => {
                let limit = format!("normal {} 0 0", random.random_range(20_000..500_000));
                configured(stage, "client-output-buffer-limit", &limit, "normal 0 0 0", some(random, 400));
            }
            Fault::SlowLink => {
                stage.proxy.rate(Some(random.random_range(1_000_000..10_000_000)));
                std::thread::sleep(some(random, 2000));
                stage.proxy.rate(None);
            }
            Fault::FlushScripts => {
                stage.server.redis_cli(&["SCRIPT", "FLUSH"]);
            }
            Fault::ReplicaLags => {
                stage.begin_lag();
                stage.replica_lags_until = Some(Instant::now() + some(random, 3000));
            }
            Fault::FlushAll => stage.flush()?,
            Fault::Failover => stage.fail_over(random)?,
        }
        // Whatever the proxy holds goes on or is cut after a while.
        stage.proxy.settle(random.random_ratio(1, 2));
        Ok(())
    }
}

/// Gives the server a setting for a while.
fn configured(stage: &Stage, setting: &str, value: &str, usual: &str, time: Duration) {
    stage.server.redis_cli(&["CONFIG", "SET", setting, value]);
    std::thread::sleep(time);
    stage.server.redis_cli(&["CONFIG", "SET", setting, usual]);
}

fn used_memory(stage: &Stage) -> u64 {
    let told = stage.server.redis_cli(&["INFO", "memory"]);
    told.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok()).unwrap_or(0)
}

fn clock_jump(random: &mut StdRng) -> String {
    let years = random.random_range(-20..20);
    format!("jump {} {}", years * 365 * 86400 + random.random_range(-100..100), random.random_range(0..600))
}

fn signal(pid: u32, name: &str) {
    // A worker that has just ended can't be signalled, which is as good.
    let _ = Command::new("kill").args([name, &pid.to_string()]).status();
}

/// Takes a resource from a worker for a while.
fn limited(stage: &Stage, random: &mut StdRng, limit: &str) {
    let pid = stage.random_pid(random).to_string();
    let resource = limit.split('=').next().unwrap_or(limit);
    let prlimit = |limit: &str| Command::new("prlimit").args(["--pid", &pid, limit]).status();
    // The soft limit only, so that it can be raised again; a worker that has ended needs neither.
    let _ = prlimit(&format!("{limit}:"));
    std::thread::sleep(Duration::from_millis(random.random_range(20..200)));
    let _ = prlimit(&format!("{resource}={}:", if resource == "--nofile" { "1024" } else { "unlimited" }));
}
