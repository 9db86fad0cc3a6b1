//! Standing in line for the write lease while SQLite's busy handler sleeps.
//!
//! `sqlite3_busy_timeout` adds up its sleeps, for which it calls `xSleep` of the connection's VFS. A thread that was refused the
//! lease right before stands in line there; a lease that it gets is held for the connection, whose next try comes
//! at once. The handler does not count the tries between its sleeps, so they are made up for: a sleep ends when it would if
//! the tries had taken no time.

use std::cell::Cell;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::database::Database;
use crate::lease::Owner;
use crate::model::error::Cause;
use crate::process::generation::generation;

/// The handler is called right after the refusal, and the next try comes right after its sleep. Later, that is
/// something else.
const AT_ONCE: Duration = Duration::from_millis(100);
/// For a shorter time a place in line is not worth a round trip.
const SHORTEST: Duration = Duration::from_millis(5);
/// What leaving the line takes.
const LEAVING: Duration = Duration::from_millis(3);

/// A connection that waits for the lease.
struct Waiting {
    database: Weak<Database>,
    owner: Owner,
    /// When its last try began.
    begun: Instant,
    /// Up to when the handler has counted the time.
    counted: Instant,
    /// When the last try was refused, or the last sleep ends.
    at: Instant,
    slept: bool,
}

thread_local! {
    /// The connection of this thread that was refused last.
    static WAITING: Cell<Option<Waiting>> = const { Cell::new(None) };
}

fn take() -> Option<Waiting> {
    // While the thread ends, nobody waits.
    WAITING.try_with(Cell::take).ok().flatten()
}

fn set(waiting: Waiting) {
    let _ = WAITING.try_with(|last| last.set(Some(waiting)));
}

/// The connection, which this thread uses, was refused the lease in a try that began then.
pub(crate) fn refused(database: &Arc<Database>, owner: Owner, begun: Instant) {
    let goes_on = |last: &Waiting| {
        let is_next = last.slept && begun.saturating_duration_since(last.at) < AT_ONCE;
        last.owner == owner && (last.begun == begun || is_next)
    };
    let counted = take().filter(goes_on).map_or(begun, |last| last.counted);
    set(Waiting { database: Arc::downgrade(database), owner, begun, counted, at: Instant::now(), slept: false });
}

/// What is left to sleep of this time, which is spent in line if there is something to wait for.
pub(crate) fn sleep(time: Duration) -> Duration {
    let Some(mut waiting) = take().filter(|waiting| waiting.at.elapsed() < AT_ONCE) else { return time };
    waiting.counted += time;
    let left = |waiting: &Waiting| waiting.counted.saturating_duration_since(Instant::now());
    let in_line = left(&waiting).saturating_sub(LEAVING);
    let left = if in_line >= SHORTEST && waiting.stand(in_line) { Duration::ZERO } else { left(&waiting) };
    waiting.at = Instant::now() + left;
    waiting.slept = true;
    set(waiting);
    left
}

impl Waiting {
    /// Stands in line for this long at most; whether the lease was had.
    fn stand(&self, time: Duration) -> bool {
        let database = self.database.upgrade().filter(|database| database.generation == generation());
        let Some(database) = database else { return false };
        match database.stand_in_line(self.owner, time) {
            Ok(()) => true,
            Err(error) if matches!(error.cause, Cause::Busy(_)) => false,
            Err(error) => {
                // The next try fails in the same way, and is told.
                crate::process::log::log(&format!("{}: standing in line for the write lease: {error}", database.place));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn database() -> Arc<Database> {
        Database::on(Arc::new(MemoryStore::default()), 0)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_sleep_makes_up_for_the_tries_that_nobody_counts() {
        let (database, owner) = (database(), Owner::new());
        let _held = database.newest_to_write(Owner::new(), Duration::ZERO).unwrap();
        let begun = Instant::now();
        assert_eq!(sleep(SECOND), SECOND, "nobody waits");
        refused(&database, owner, begun.checked_sub(SECOND / 2).unwrap());
        let left = sleep(SECOND * 60);
        assert!(left <= SECOND * 119 / 2 && left > SECOND * 50, "{left:?}");
        let other = Owner::new();
        refused(&database, other, begun.checked_sub(SECOND).unwrap());
        assert_eq!(sleep(SECOND / 2), Duration::ZERO, "the try took longer");
    }

    #[test]
    fn each_wait_counts_from_its_first_try() {
        let (database, owner) = (database(), Owner::new());
        let _held = database.newest_to_write(Owner::new(), Duration::ZERO).unwrap();
        let ago = |seconds: u32| Instant::now().checked_sub(SECOND * seconds).unwrap();
        refused(&database, owner, ago(10));
        refused(&database, owner, Instant::now());
        assert!(sleep(SECOND * 60) > SECOND * 50, "the handler gave up the wait before");
        refused(&database, owner, ago(10));
        refused(&database, Owner::new(), Instant::now());
        assert!(sleep(SECOND * 60) > SECOND * 50, "another connection waits");
    }

    #[test]
    fn a_lease_that_is_had_in_line_is_held_for_the_connection() {
        let (database, owner) = (database(), Owner::new());
        refused(&database, owner, Instant::now());
        assert_eq!(sleep(SECOND * 60), Duration::ZERO, "nobody holds the lease");
        assert!(database.newest_to_write(Owner::new(), Duration::ZERO).is_err());
        assert!(database.newest_to_write(owner, Duration::ZERO).is_ok());
    }
}
