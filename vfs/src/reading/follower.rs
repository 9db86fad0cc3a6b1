//! Follows the log of one database on one server, so that connections that don't insist on the
//! newest version learn of commits without asking.
//!
//! One thread for each process, database and server, while a connection wants it. It waits in
//! `XREAD` for the next commit, and after a while of silence it asks again: an answer, also an
//! empty one, proves what the server had after the question was sent. Without answers nothing is
//! proved, and connections go back to asking by themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::model::error::Result;
use crate::model::version::Snapshot;
use crate::process::sync::Mutex;
use crate::reading::cache::Epoch;
use crate::reading::read_server::Source;
use crate::store::Heard;

/// The longest silence before the server is asked again.
const LONGEST: Duration = Duration::from_secs(5);
/// The shortest.
const SHORTEST: Duration = Duration::from_millis(5);
/// After news: commits that follow each other fast are heard of together, this process's own among them.
const GATHER: Duration = Duration::from_millis(20);
/// Between tries while the server does not answer.
const PAUSE: Duration = Duration::from_millis(50);

/// What wants to know of commits: a database.
pub(crate) trait Listener: Send + Sync + 'static {
    /// For messages.
    fn place(&self) -> &str;

    /// The newest snapshot that is known, and since when.
    fn head(&self) -> (Snapshot, Epoch, Instant);

    /// Takes in what a server has said, which was asked at that instant. Whether it proves what the newest version is.
    fn heard(&self, source: &Source, asked: Instant, heard: &Heard) -> Result<bool>;
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Follower {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The ages that connections tolerate, and how many do.
    wanted: BTreeMap<Duration, usize>,
    running: bool,
    /// The server does not allow it.
    forbidden: bool,
    /// When the last question was sent that was answered.
    heard: Option<Instant>,
}

/// A connection's wish to be told of commits; over when dropped.
pub(crate) struct Following {
    follower: Arc<Follower>,
    bound: Duration,
}

impl Following {
    /// Begins to follow a server, for one that tolerates this age.
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

    /// Whether the server has been heard of within the time.
    pub(crate) fn is_live(&self) -> bool {
        self.follower.state.lock().heard.is_some_and(|heard| heard.elapsed() < self.bound)
    }

    /// Whether this is the wish to follow that server, with that bound.
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
    /// How long to wait for the next commit before asking again, so that nobody who is content
    /// with what is heard has to ask: often enough that one late answer does no harm.
    fn patience(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        let bound = state.wanted.keys().next().copied();
        // Under the same lock as the look, or one who comes now would wait in vain.
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

    /// Listens once; `false` when it makes no sense to go on.
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
        // A log that does not belong to the hash answers at once, each time.
        let pause = if news { patience.min(GATHER) } else { patience.saturating_sub(asked.elapsed()) };
        std::thread::sleep(pause);
        true
    }
}
