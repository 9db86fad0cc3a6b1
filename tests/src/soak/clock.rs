//! The clock of a worker, which may jump, and the one that no jump reaches, for the histories.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Seconds that the wall clock is ahead of the truth.
static WALL: AtomicI64 = AtomicI64::new(0);
/// Seconds that the clock which only goes forward is ahead of the truth.
static FORWARD: AtomicI64 = AtomicI64::new(0);

/// Seconds by which this process is wrong about a clock: the wall clock, or one that only goes forward.
pub fn ahead(wall: bool) -> i64 {
    if wall { WALL.load(Relaxed) } else { FORWARD.load(Relaxed) }
}

/// Lets the clocks of this process jump: the wall clock by any number of seconds, the other forward,
/// as if the process had slept. Whether the standard library noticed. (What a thread has asked the
/// kernel to wake it at is a time of the true clock, so from then on it may sleep for too long, too.)
pub fn jump(wall: i64, forward: u32) -> bool {
    let (time, instant) = (SystemTime::now(), Instant::now());
    WALL.fetch_add(wall, Relaxed);
    FORWARD.fetch_add(forward.into(), Relaxed);
    let off = |seconds: u64| Duration::from_secs(seconds.saturating_sub(1));
    let jumped = match SystemTime::now().duration_since(time) {
        Ok(later) => wall >= 0 && later >= off(wall.unsigned_abs()),
        Err(earlier) => wall < 0 && earlier.duration() >= off(wall.unsigned_abs()),
    };
    jumped && instant.elapsed() >= off(forward.into())
}

/// Nanoseconds since the machine started, for all processes. The kernel is asked past the C library,
/// where clocks jump.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
