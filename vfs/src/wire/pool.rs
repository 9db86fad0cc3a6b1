//! The idle connections of a process, by server. All databases on a server share them, and so do all slots on a node
//! of a Cluster. A connection that stays idle too long is closed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::process::sync::Mutex;
use crate::wire::connection::Wire;
use crate::wire::request::Request;

/// The most idle connections to one server.
const MOST: usize = 16;
/// How long a connection may stay idle.
const LONGEST: Duration = Duration::from_secs(60);

/// A connection, and a buffer for its next request.
pub(crate) struct Idle {
    pub(crate) wire: Wire,
    pub(crate) room: Request,
}

impl Idle {
    /// A new connection.
    pub(crate) fn new(wire: Wire) -> Idle {
        Idle { wire, room: Request::default() }
    }
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By server: each connection with the time since which it is idle, the oldest first.
    idle: HashMap<Arc<str>, Vec<(Instant, Idle)>>,
    /// Whether a thread runs [`Pool::watch`].
    is_watched: bool,
}

impl Pool {
    /// Takes the most recently used connection to a server.
    pub(crate) fn take(&self, server: &str) -> Option<Idle> {
        let mut state = self.state.lock();
        let (since, idle) = state.idle.get_mut(server)?.pop()?;
        // If the watching thread could not be started, old connections are only found here.
        (since.elapsed() < LONGEST).then_some(idle)
    }

    /// Returns a connection to the pool.
    pub(crate) fn put(self: &Arc<Self>, server: &Arc<str>, mut idle: Idle) {
        idle.wire.is_used = true;
        let mut state = self.state.lock();
        let all = state.idle.entry(server.clone()).or_default();
        if all.len() == MOST {
            all.remove(0);
        }
        all.push((Instant::now(), idle));
        if !state.is_watched {
            let pool = self.clone();
            let spawned = std::thread::Builder::new().name("sqlite-redis-idle".into()).spawn(move || pool.watch());
            match spawned {
                Ok(_) => state.is_watched = true,
                Err(error) => {
                    crate::process::log::log(&format!("idle connections stay open until they are used: {error}"))
                }
            }
        }
    }

    /// Closes all idle connections to a server.
    pub(crate) fn clear(&self, server: &str) {
        self.state.lock().idle.remove(server);
    }

    /// Closes connections that stay idle too long. Ends when the pool is empty.
    fn watch(&self) {
        loop {
            let mut state = self.state.lock();
            let Some(next) = state.close(Instant::now(), LONGEST) else {
                state.is_watched = false;
                return;
            };
            drop(state);
            std::thread::sleep(next);
        }
    }
}

impl State {
    /// Closes connections idle for `longest` or more at `now`. Returns the time until the next one is due, or `None`
    /// if the pool is empty.
    fn close(&mut self, now: Instant, longest: Duration) -> Option<Duration> {
        self.idle.retain(|_, all| {
            all.retain(|(since, _)| now.saturating_duration_since(*since) < longest);
            !all.is_empty()
        });
        let oldest = self.idle.values().filter_map(|all| all.first()).map(|(since, _)| *since).min()?;
        Some(longest.saturating_sub(now.saturating_duration_since(oldest)).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::wire::socket::Socket;

    fn idle() -> Idle {
        let (here, _) = UnixStream::pair().unwrap();
        Idle::new(Wire::over(Socket::of(here)))
    }

    #[test]
    fn the_pool_keeps_a_limited_number_of_connections_to_each_server() {
        let pool = Arc::new(Pool::default());
        let [one, two] = ["one", "two"].map(Arc::from);
        assert!(pool.take("one").is_none());
        for _ in 0..=MOST {
            pool.put(&one, idle());
        }
        pool.put(&two, idle());
        assert!(pool.take("two").unwrap().wire.is_used);
        assert!(pool.take("two").is_none());
        for _ in 0..MOST {
            assert!(pool.take("one").is_some());
        }
        assert!(pool.take("one").is_none());
        pool.put(&one, idle());
        pool.clear("one");
        assert!(pool.take("one").is_none());
    }

    #[test]
    fn connections_that_are_idle_for_too_long_are_closed() {
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        let mut state = State::default();
        state.idle.insert("one".into(), vec![(ago(61), idle()), (ago(20), idle())]);
        state.idle.insert("two".into(), vec![(ago(60), idle())]);
        assert_eq!(state.close(now, LONGEST), Some(Duration::from_secs(40)));
        assert_eq!(state.idle.values().map(Vec::len).collect::<Vec<_>>(), [1]);
        assert_eq!(state.close(now + Duration::from_secs(40), LONGEST), None);
    }
}
