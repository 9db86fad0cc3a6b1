//! Follows the log of one database on one server, so that connections that don't need the newest
//! version learn of commits without a round trip.
//!
//! There is one thread per process, database and server, while a connection needs it. It waits in
//! `XREAD` for the next commit, and repeats that after a timeout. Each reply, even an empty one,
//! proves which version the server had after the request was sent. Without replies nothing is
//! proven, and connections ask the server themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::model::error::Result;
use crate::model::version::Snapshot;
use crate::process::sync::Mutex;
use crate::reading::cache::Epoch;
use crate::reading::read_server::Source;
use crate::store::Heard;

/// Maximum timeout of one `XREAD`.
const LONGEST: Duration = Duration::from_secs(5);
/// Minimum timeout of one `XREAD`.
const SHORTEST: Duration = Duration::from_millis(5);
/// Pause after a commit, so that one reply reports several commits in quick succession, including this process's own.
const GATHER: Duration = Duration::from_millis(20);
/// Pause between retries while the server does not answer.
const PAUSE: Duration = Duration::from_millis(50);

/// A database that learns of commits from a follower.
pub(crate) trait Listener: Send + Sync + 'static {
    /// Database and server, for messages.
    fn place(&self) -> &str;

    /// The newest known snapshot, its epoch, and the time since when it is known.
    fn head(&self) -> (Snapshot, Epoch, Instant);

    /// Takes in the reply to a request sent at `asked`. Returns whether it proves which version is the newest.
    fn heard(&self, source: &Source, asked: Instant, heard: &Heard) -> Result<bool>;
}

/// The follower of one server. See the [module](self).
#[derive(Default)]
pub(crate) struct Follower {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The staleness bounds of connections, with the number of connections for each.
    wanted: BTreeMap<Duration, usize>,
    running: bool,
    /// The server refuses the command.
    forbidden: bool,
    /// When the last request was sent that got a reply.
    heard: Option<Instant>,
}

/// A connection's subscription to a follower. It ends when dropped.
pub(crate) struct Following {
    follower: Arc<Follower>,
    bound: Duration,
}

impl Following {
    /// Subscribes a connection whose reads may be `bound` old, and starts the follower's thread if necessary.
    pub(crate) fn begin<L: Listener>(database: &Arc<L>, source: &Arc<Source>, bound: Duration) -> Following {
        let follower = source.follower.clone();
        let mut state = follower.state.lock();
        *state.wanted.entry(bound).or_default() += 1;
        if !state.running && !state.forbidden {
            let (database, source) = (Arc::downgrade(database), source.clone());
            let run = move || source.follower.clone().run(&database, &source);
            match std::thread::Builder::new().name("sqlite-redis-follow".into()).spawn(run) {
                Ok(_) => state.running = true,
                Err(error) => crate::process::log::log(&format!("the log can't be followed: {error}")),
            }
        }
        drop(state);
        Following { follower, bound }
    }

    /// Whether the server has answered a request that was sent within the bound.
    pub(crate) fn is_live(&self) -> bool {
        self.follower.state.lock().heard.is_some_and(|heard| heard.elapsed() < self.bound)
    }

    /// Whether this subscription is for that server and bound.
    pub(crate) fn is(&self, source: &Source, bound: Duration) -> bool {
        Arc::ptr_eq(&self.follower, &source.follower) && self.bound == bound
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut state = self.follower.state.lock();
        if let Some(count) = state.wanted.get_mut(&self.bound) {
            *count -= 1;
            if *count == 0 {
                state.wanted.remove(&self.bound);
            }
        }
    }
}

impl Follower {
    /// The timeout of the next `XREAD`; `None` if no connection is subscribed, and the thread must end. A quarter of the
    /// smallest bound, so that one late reply does not exceed it.
    fn patience(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        let bound = state.wanted.keys().next().copied();
        // Under the same lock as the check: otherwise a new subscriber could rely on a thread that is about to end.
        state.running = bound.is_some();
        bound.map(|bound| (bound / 4).clamp(SHORTEST, LONGEST))
    }

    fn run<L: Listener>(&self, database: &Weak<L>, source: &Arc<Source>) {
        while let Some(patience) = self.patience() {
            if !self.listen(database, source, patience) {
                self.state.lock().running = false;
                return;
            }
        }
    }

    /// Waits for one reply; `false` if the thread must end.
    fn listen<L: Listener>(&self, database: &Weak<L>, source: &Arc<Source>, patience: Duration) -> bool {
        let Some(before) = database.upgrade().map(|database| database.head()) else { return false };
        let asked = Instant::now();
        let heard = source.store.listen(before.0.version, patience);
        let Some(database) = database.upgrade() else { return false };
        match heard.and_then(|heard| database.heard(source, asked, &heard)) {
            Ok(true) => self.state.lock().heard = Some(asked),
            Ok(false) => {}
            Err(error) => {
                crate::process::log::log(&format!("{}: following {}: {}", database.place(), source.name, error.cause));
                let forbidden = error.cause.is_refusal();
                self.state.lock().forbidden = forbidden;
                std::thread::sleep(PAUSE);
                return !forbidden;
            }
        }
        let news = database.head() != before;
        drop(database);
        // The pause also limits the rate with a log that does not belong to the hash: its `XREAD` never blocks.
        let pause = if news { patience.min(GATHER) } else { patience.saturating_sub(asked.elapsed()) };
        std::thread::sleep(pause);
        true
    }
}
