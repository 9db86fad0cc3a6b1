//! How long a connection stands in line for the write lease before SQLite's busy handler is called.
//!
//! The handler does not count that time: `PRAGMA busy_timeout` adds up its own sleeps, and an application may count
//! calls. So it must be little, whatever the handler does: [`FIRST`] at the first try, and [`PART`] of the time
//! between the tries. While the handler sleeps, the connection may stand in line too, see [`crate::database::busy_sleep`].

use std::time::{Duration, Instant};

/// Time in line at the first try.
const FIRST: Duration = Duration::from_millis(25);
/// The part of the time between two tries that may be spent in line.
const PART: u32 = 50;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
    /// When the lease was last refused, unless it was had since.
    refused: Option<Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { left: FIRST, refused: None }
    }
}

impl Patience {
    /// What there is at a try.
    pub(super) fn at(&self, now: Instant) -> Duration {
        let between = self.refused.map_or(Duration::ZERO, |refused| now.saturating_duration_since(refused));
        (self.left + between / PART).min(FIRST)
    }

    /// A try that ends now has spent so much of it in vain.
    pub(super) fn spend(&mut self, waited: Duration, now: Instant) {
        let begun = now.checked_sub(waited).unwrap_or(now);
        self.left = self.at(begun).saturating_sub(waited);
        self.refused = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SQLite's own sleeps, as in `sqliteDefaultBusyCallback`.
    const DELAYS: [u64; 12] = [1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50, 100];

    /// How long a connection waits that is refused each time, at a handler that sleeps so long before each try.
    fn waits(sleeps: impl Iterator<Item = Duration>) -> Duration {
        let begun = Instant::now();
        let (mut now, mut patience) = (begun, Patience::default());
        let mut attempt = |now: &mut Instant| {
            let waited = patience.at(*now);
            *now += waited;
            patience.spend(waited, *now);
        };
        attempt(&mut now);
        for sleep in sleeps {
            now += sleep;
            attempt(&mut now);
        }
        now - begun
    }

    #[test]
    fn a_busy_timeout_takes_little_longer_than_it_says() {
        for timeout in [0, 1, 100, 500, 1000, 5000, 60_000] {
            let mut slept = 0;
            let sleeps = (0..).map_while(|count| {
                let delay = DELAYS[DELAYS.len().min(count + 1) - 1].min(timeout - slept);
                slept += delay;
                (delay > 0).then(|| Duration::from_millis(delay))
            });
            let waited = waits(sleeps);
            let timeout = Duration::from_millis(timeout);
            assert!(waited >= timeout);
            assert!(waited - timeout <= Duration::from_millis(40).max(timeout / 12), "{timeout:?}: {waited:?}");
        }
    }

    #[test]
    fn a_handler_that_counts_its_calls_is_not_held_up() {
        assert!(waits((0..1000).map(|_| Duration::ZERO)) <= FIRST);
        let ten = waits((0..100).map(|_| Duration::from_millis(10)));
        assert!(ten <= Duration::from_millis(1050), "{ten:?}");
    }

    #[test]
    fn a_try_after_a_long_time_has_no_more_patience_than_the_first() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        patience.spend(FIRST, now);
        assert_eq!(patience.at(now), Duration::ZERO);
        assert_eq!(patience.at(now + Duration::from_secs(3600)), FIRST);
    }
}
