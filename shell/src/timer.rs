//! The measurement of `.timer on`.

use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Measures one run.
pub struct Timer {
    begin: Instant,
    used: Used,
}

/// Processor time of this process in seconds.
#[derive(Clone, Copy, Default)]
struct Used {
    user: f64,
    system: f64,
}

impl Timer {
    /// Starts to measure.
    pub fn start() -> Self {
        Timer { used: Used::now(), begin: Instant::now() }
    }

    /// A line as `sqlite3` prints it: elapsed time and processor time in seconds.
    pub fn report(&self) -> String {
        let real = self.begin.elapsed().as_secs_f64();
        let now = Used::now();
        format!(
            "Run Time: real {real:.3} user {:.6} sys {:.6}",
            now.user - self.used.user,
            now.system - self.used.system
        )
    }
}

impl Used {
    fn now() -> Self {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Used::default() };
        let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        Used { user: seconds(usage.user_time()), system: seconds(usage.system_time()) }
    }
}
