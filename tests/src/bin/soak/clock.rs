//! Takes the place of the C library's clock in this program, so that it can jump.

use sqlite_redis_tests::soak::clock::ahead;

/// <https://man7.org/linux/man-pages/man3/clock_gettime.3.html>
///
/// # Safety
/// As that of the C library: `time` points to a `timespec`, or is invalid as a whole.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the arguments are those of the system call; the kernel checks the pointer.
    let failed = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if failed != 0 {
        return -1;
    }
    let ahead = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => ahead(true),
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_MONOTONIC_RAW | libc::CLOCK_BOOTTIME => {
            ahead(false)
        }
        _ => 0,
    };
    // SAFETY: the kernel has just written there, and the caller lends it to us.
    unsafe { (*time).tv_sec += ahead };
    0
}
