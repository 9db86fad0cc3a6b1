//! How long a server may take for what has no fixed size: a time to begin with, and more for each byte that comes.

use std::time::{Duration, Instant};

use crate::model::error::{Cause, Result};

/// Bytes a second that a server sends or takes at least.
const SLOWEST: f64 = 8192.0;

/// The time for this many bytes.
pub(crate) fn time_for(patience: Duration, bytes: usize) -> Duration {
    patience.saturating_add(Duration::from_secs_f64(bytes as f64 / SLOWEST))
}

/// Several replies that belong together.
pub(crate) struct Pace {
    begun: Instant,
    patience: Duration,
    bytes: usize,
}

impl Pace {
    pub(crate) fn new(patience: Duration) -> Self {
        Pace { begun: Instant::now(), patience, bytes: 0 }
    }

    /// Notes that so many bytes have come. Returns how many that makes in all.
    ///
    /// # Errors
    /// [`Cause::NoReply`] if that has taken too long.
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
    fn more_bytes_have_more_time() {
        let mut pace = Pace::new(Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(pace.came(1 << 20).unwrap(), 1 << 20);
        let mut pace = Pace::new(Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(50));
        assert!(matches!(pace.came(7).unwrap_err().cause, Cause::NoReply));
    }
}
