//! A server that a database is read from: its primary, or one of the replicas.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::error::Error;
use crate::process::sync::Mutex;
use crate::reading::follower::Follower;
use crate::store::Store;

/// How long a replica that could not serve is left alone.
const REST: Duration = Duration::from_secs(1);

/// See the [module](self).
pub(crate) struct Source {
    /// Its address, for messages.
    pub name: String,
    pub store: Arc<dyn Store>,
    pub is_primary: bool,
    pub follower: Arc<Follower>,
    rest: Duration,
    /// Until when it is left alone, because it could not serve.
    rests_until: Mutex<Option<Instant>>,
}

impl Source {
    pub(crate) fn new(name: String, store: Arc<dyn Store>, is_primary: bool) -> Self {
        Source { name, store, is_primary, follower: Arc::default(), rest: REST, rests_until: Mutex::new(None) }
    }

    /// One that is tried again at once.
    #[cfg(test)]
    pub(crate) fn restless(name: &str, store: Arc<dyn Store>) -> Self {
        Source { rest: Duration::ZERO, ..Source::new(name.to_owned(), store, false) }
    }

    /// Whether it is worth a try.
    pub(crate) fn is_ready(&self) -> bool {
        self.rests_until.lock().is_none_or(|until| until <= Instant::now())
    }

    /// It could not serve: others are asked for a while. The reason is logged, once while it lasts.
    pub(crate) fn rest(&self, reason: &str) {
        let was_resting = self.rests_until.lock().replace(Instant::now() + self.rest);
        let lasts = was_resting.is_some_and(|until| until + self.rest > Instant::now());
        if !lasts {
            crate::process::log::log(&format!("the replica {} is left out for a while: {reason}", self.name));
        }
    }

    /// The same, for a failure.
    pub(crate) fn failed(&self, error: &Error) {
        self.rest(&error.cause.to_string());
    }
}
