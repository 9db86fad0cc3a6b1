//! The clocks of a worker, which faults can make jump, and the true clock, for the histories.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Seconds that the wall clock is ahead of the true clock.
static WALL: AtomicI64 = AtomicI64::new(0);
/// Seconds that the monotonic clock is ahead of the true clock.
static FORWARD: AtomicI64 = AtomicI64::new(0);

/// Seconds that the wall clock, or the monotonic clock, of this process is ahead.
pub fn ahead(wall: bool) -> i64 {
    if wall { WALL.load(Relaxed) } else { FORWARD.load(Relaxed) }
}

/// Makes the clocks of this process jump: the wall clock in any direction, the monotonic clock forward, as if the
/// process had slept. Returns whether the standard library sees the jump. The kernel wakes threads by the true clock,
/// so a thread may also sleep too long afterwards.
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

/// Nanoseconds since the machine started, equal in all processes. Bypasses the C library, whose clocks jump.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
