//! What `.timer on` prints.

use std::mem::MaybeUninit;
use std::time::Instant;

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

    /// The line of `sqlite3`: seconds on the clock and on the processor.
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
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the pointer is valid for an rusage; one of zeros is valid
        // too, should the call fail.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Used { user: seconds(usage.ru_utime), system: seconds(usage.ru_stime) }
    }
}
