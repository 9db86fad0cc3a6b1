//! A server that a database is read from: its primary or a replica.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::error::Error;
use crate::process::sync::Mutex;
use crate::reading::follower::Follower;
use crate::store::Store;

/// How long a failed replica is not asked.
const REST: Duration = Duration::from_secs(1);

/// A server to read from, with its follower.
pub(crate) struct Source {
    /// Its address, for messages.
    pub name: String,
    pub store: Arc<dyn Store>,
    pub is_primary: bool,
    pub follower: Arc<Follower>,
    rest: Duration,
    /// Not asked until this instant, after a failure.
    rests_until: Mutex<Option<Instant>>,
}

impl Source {
    pub(crate) fn new(name: String, store: Arc<dyn Store>, is_primary: bool) -> Self {
        Source { name, store, is_primary, follower: Arc::default(), rest: REST, rests_until: Mutex::new(None) }
    }

    /// A replica that is retried immediately after a failure.
    #[cfg(test)]
    pub(crate) fn restless(name: &str, store: Arc<dyn Store>) -> Self {
        Source { rest: Duration::ZERO, ..Source::new(name.to_owned(), store, false) }
    }

    /// Whether the server may be asked.
    pub(crate) fn is_ready(&self) -> bool {
        self.rests_until.lock().is_none_or(|until| until <= Instant::now())
    }

    /// Stops asking this server for a while, after a failure. Logs the reason, once per series of failures.
    pub(crate) fn rest(&self, reason: &str) {
        let was_resting = self.rests_until.lock().replace(Instant::now() + self.rest);
        let lasts = was_resting.is_some_and(|until| until + self.rest > Instant::now());
        if !lasts {
            crate::process::log::log(&format!(
                "the replica {} failed and is not used for a while: {reason}",
                self.name
            ));
        }
    }

    /// The same, with the reason from an error.
    pub(crate) fn failed(&self, error: &Error) {
        self.rest(&error.cause.to_string());
    }
}
