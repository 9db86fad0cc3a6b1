//! Where client and server run, and the latency between them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// A placement of client and server, with added latency or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Client and server share one core: a round trip costs two context switches.
    OneCore,
    /// Client and server have a core each: a round trip wakes the other core twice.
    TwoCores,
    /// Two cores, with 0.5 ms added to each round trip.
    HalfMs,
    /// Two cores, with 2 ms added to each round trip.
    TwoMs,
    /// Through a relay that counts traffic; times are not measured.
    Counted,
}

impl Setting {
    /// The settings in which time is measured.
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

    /// The latency that a relay adds in each direction; `None` without a relay.
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

    /// Whether this machine has enough cores for the setting.
    pub fn possible(self) -> bool {
        self == Setting::OneCore || std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1)
    }
}

/// Pins all threads of a process to one core. Threads and children that it starts later inherit that.
fn pin(pid: u32, core: &str) -> Result<()> {
    let output = Command::new("taskset").args(["-a", "-c", "-p", core, &pid.to_string()]).output()?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
