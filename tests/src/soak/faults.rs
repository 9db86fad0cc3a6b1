//! The faults that a run injects, one at a time and mixed.

use std::process::Command;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::run::Stage;
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
    /// One command or reply is lost, cut or held, wherever it happens to be.
    Network,
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
    /// The server forgets its scripts.
    FlushScripts,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 12] = [
        Fault::KillWorker,
        Fault::StopWorker,
        Fault::NoDescriptors,
        Fault::NoFiles,
        Fault::Network,
        Fault::Partition,
        Fault::KillClients,
        Fault::KillServer,
        Fault::Shutdown,
        Fault::ServerSleeps,
        Fault::OutOfMemory,
        Fault::FlushScripts,
    ];

    /// One of them; those that are cheap come more often.
    pub fn random(random: &mut StdRng) -> Fault {
        if random.random_ratio(1, 2) {
            return Fault::Network;
        }
        Fault::ALL[random.random_range(0..Fault::ALL.len())]
    }

    /// Lets it happen, and puts right what does not right itself.
    pub fn inject(self, stage: &mut Stage, random: &mut StdRng) {
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
            Fault::Network => stage.proxy.after(random.random_range(0..30), network(random)),
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
            Fault::OutOfMemory => {
                stage.server.redis_cli(&["CONFIG", "SET", "maxmemory", "1"]);
                std::thread::sleep(some(random, 300));
                stage.server.redis_cli(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::FlushScripts => {
                stage.server.redis_cli(&["SCRIPT", "FLUSH"]);
            }
        }
        // Whatever the proxy holds goes on or is cut after a while.
        stage.proxy.settle(random.random_ratio(1, 2));
    }
}

fn network(random: &mut StdRng) -> proxy::Fault {
    use proxy::Fault::*;
    [LoseRequest, CutRequest, LoseReply, CutReply, HoldRequest, HoldReply][random.random_range(0..6)]
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
