//! Where client and server run, and what lies between them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// One arrangement of client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Client and server share one core: a round trip is two switches of context.
    OneCore,
    /// Each has a core of its own: a round trip wakes another core twice.
    TwoCores,
    /// As before, with 0.5 ms added to each round trip.
    HalfMs,
    /// As before, with 2 ms added to each round trip.
    TwoMs,
    /// Through a relay that counts; nothing is timed here.
    Counted,
}

impl Setting {
    /// Those in which time is measured.
    pub const TIMED: [Setting; 4] = [Setting::OneCore, Setting::TwoCores, Setting::HalfMs, Setting::TwoMs];

    pub fn name(self) -> &'static str {
        match self {
            Setting::OneCore => "one core",
            Setting::TwoCores => "two cores",
            Setting::HalfMs => "+0.5 ms",
            Setting::TwoMs => "+2 ms",
            Setting::Counted => "counted",
        }
    }

    /// Time that a relay adds to each direction; `None` where there is no relay.
    pub fn delay(self) -> Option<Duration> {
        match self {
            Setting::OneCore | Setting::TwoCores => None,
            Setting::HalfMs => Some(Duration::from_micros(250)),
            Setting::TwoMs => Some(Duration::from_millis(1)),
            Setting::Counted => Some(Duration::ZERO),
        }
    }

    /// Pins this process to the client's core, and others to the server's.
    pub fn arrange(self, servers: &[u32]) -> Result<()> {
        pin(std::process::id(), "0")?;
        let core = if self == Setting::OneCore { "0" } else { "1" };
        servers.iter().try_for_each(|&pid| pin(pid, core))
    }

    /// Whether this machine has the cores for it.
    pub fn possible(self) -> bool {
        self == Setting::OneCore || std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1)
    }
}

/// All threads of a process to one core; what it starts later inherits that.
fn pin(pid: u32, core: &str) -> Result<()> {
    let output = Command::new("taskset").args(["-a", "-c", "-p", core, &pid.to_string()]).output()?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
