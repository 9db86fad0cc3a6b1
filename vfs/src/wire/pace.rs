//! Time limits that grow with the amount of data: a fixed time, and more for each byte that arrives.

use std::time::{Duration, Instant};

use crate::model::error::{Cause, Result};

/// The slowest transfer that is accepted, in bytes per second.
const SLOWEST: f64 = 8192.0;

/// The time limit for this many bytes.
pub(crate) fn time_for(patience: Duration, bytes: usize) -> Duration {
    patience.saturating_add(Duration::from_secs_f64(bytes as f64 / SLOWEST))
}

/// The time limit of an exchange of several replies.
pub(crate) struct Pace {
    begun: Instant,
    patience: Duration,
    bytes: usize,
}

impl Pace {
    pub(crate) fn new(patience: Duration) -> Self {
        Pace { begun: Instant::now(), patience, bytes: 0 }
    }

    /// Adds bytes that have arrived. Returns the total.
    ///
    /// # Errors
    /// [`Cause::NoReply`] if the exchange has taken too long.
    pub(crate) fn came(&mut self, bytes: usize) -> Result<usize> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.begun.elapsed() > time_for(self.patience, self.bytes) {
            return Err(Cause::NoReply.into());
        }
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_limit_grows_with_the_bytes() {
        let mut pace = Pace::new(Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(pace.came(1 << 20).unwrap(), 1 << 20);
        let mut pace = Pace::new(Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(50));
        assert!(matches!(pace.came(7).unwrap_err().cause, Cause::NoReply));
    }
}
