//! Finds the server of a database, and makes all connections to it.
//!
//! A fixed address leads to one server. For other addresses, Sentinels name the primary, or a Cluster names the node
//! that has the slot, and each new connection goes to the server that they name. The *generation* counts how often
//! the server was replaced: connections of an older generation lead to the wrong server.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use redis::{ErrorKind, RedisError, Role, ServerErrorKind};

use crate::config::endpoint::{Endpoint, Password, elsewhere, host_and_port, place};
use crate::config::{Address, Config};
use crate::model::error::{Cause, Error, Result};
use crate::model::secret::hide_secrets;
use crate::process::sync::Mutex;
use crate::sqlite::interrupt;
use crate::wire::connection::{Hello, Wire};
use crate::wire::pool::{Idle, Pool};

mod cluster;
mod role;
mod sentinel;

use crate::wire::route::cluster::Cluster;
use crate::wire::route::sentinel::Sentinels;

/// Time limit for asking one Sentinel or node, and for reaching the server that it names. It is shorter than
/// `connect_ms`, so that the others can be asked as well.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    host: String,
    port: u16,
}

impl Node {
    fn parse(text: &str) -> Option<Node> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Node { host: host.trim_matches(['[', ']']).to_owned(), port: port.parse().ok()? })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_and_port(&self.host, self.port))
    }
}

/// The time limits of each step.
#[derive(Debug, Clone, Copy)]
struct Times {
    connect: Duration,
    reply: Duration,
    failover: Duration,
}

impl Times {
    /// The limits for one of several servers to ask.
    fn attempt(&self) -> Times {
        let attempt = self.connect.min(ATTEMPT);
        Times { connect: attempt, reply: attempt.min(self.reply), ..*self }
    }
}

enum Way {
    /// With `any_role`, the server may be a replica.
    Fixed {
        endpoint: Box<Endpoint>,
        any_role: bool,
    },
    Replica(Box<Endpoint>),
    Sentinel(Box<Sentinels>),
    Cluster(Box<Cluster>),
}

/// A connection and the server that it leads to, or why there is none.
type Found<E = Missed> = std::result::Result<(Idle, Node), E>;

/// Why there is no connection yet.
struct Missed {
    error: Error,
    /// Whether waiting may help, as during a failover.
    passes: bool,
}

impl Missed {
    /// Waiting does not help.
    fn for_good(error: impl Into<Error>) -> Missed {
        Missed { error: error.into(), passes: false }
    }

    fn for_now(error: impl Into<Error>) -> Missed {
        Missed { error: error.into(), passes: true }
    }
}

/// See the [module](self).
pub(crate) struct Route {
    way: Way,
    times: Times,
    generation: AtomicU64,
    /// The first part of keys in the pool: address and settings. Servers that were found add their host and port.
    base: Arc<str>,
    /// The server of the last connection, unless the address is fixed.
    found: Mutex<Arrival>,
}

/// The server that the route last found.
#[derive(Default)]
struct Arrival {
    server: Option<Node>,
    /// It must be looked for again.
    is_lost: bool,
}

/// The key in the pool of a server that was found.
fn pooled(base: &str, node: &Node) -> Arc<str> {
    format!("{base} at {node}").into()
}

impl Route {
    /// The route for a configuration. In a Cluster: to the node that has the slot of `key`.
    pub(crate) fn new(config: &Config, key: &str, pool: &Arc<Pool>) -> Route {
        let times = Times { connect: config.connect_timeout, reply: config.timeout, failover: config.failover };
        let base: Arc<str> = config.server_key().into();
        let way = match &config.server {
            Address::Fixed(endpoint) => Way::Fixed { endpoint: endpoint.clone().into(), any_role: config.any_role },
            Address::Replica(endpoint) => Way::Replica(endpoint.clone().into()),
            Address::Sentinel(service) => Way::Sentinel(Sentinels::new(service).into()),
            Address::Cluster(nodes) => Way::Cluster(Cluster::new(nodes, key, pool, &base).into()),
        };
        Route { way, times, generation: AtomicU64::new(0), base, found: Mutex::default() }
    }

    /// Whether the server may be replaced by another.
    pub(crate) fn follows(&self) -> bool {
        matches!(self.way, Way::Sentinel(_) | Way::Cluster(_))
    }

    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self.way, Way::Fixed { .. })
    }

    /// Whether the address is fixed and must lead to a primary.
    pub(crate) fn must_be_primary(&self) -> bool {
        matches!(self.way, Way::Fixed { any_role: false, .. })
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.way, Way::Cluster(_))
    }

    /// How often the server was replaced.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Host and port of the last connection's server. `None` before the first connection, and for a fixed address.
    pub(crate) fn server(&self) -> Option<String> {
        self.found.lock().server.as_ref().map(Node::to_string)
    }

    /// The server's key in the pool, or `None` if the server must be looked for.
    pub(crate) fn pooled(&self) -> Option<Arc<str>> {
        if !self.follows() {
            return Some(self.base.clone());
        }
        let found = self.found.lock();
        found.server.as_ref().filter(|_| !found.is_lost).map(|node| pooled(&self.base, node))
    }

    /// Connects to the server. Also returns its key in the pool. During a failover, waits for the next primary. With
    /// `reused`, an idle connection may be returned.
    pub(crate) fn connect(&self, reused: bool) -> Result<(Idle, Arc<str>)> {
        let deadline = Instant::now() + self.times.failover;
        let mut pause = Duration::from_millis(20);
        loop {
            let found = match &self.way {
                Way::Fixed { endpoint, any_role } => {
                    let wire = role::connect(endpoint, *any_role, &self.times)?;
                    return Ok((Idle::new(wire), self.base.clone()));
                }
                Way::Replica(endpoint) => {
                    let hello = Hello { readonly: true, ..Hello::default() };
                    let (wire, _) = connect(endpoint, hello, &self.times)?;
                    return Ok((Idle::new(wire), self.base.clone()));
                }
                Way::Sentinel(sentinels) => sentinels.connect(&self.times),
                Way::Cluster(cluster) => cluster.connect(&self.times, reused, deadline),
            };
            let missed = match found {
                Ok((mut connection, node)) => {
                    connection.wire.set_timeout(self.times.reply).map_err(connect_cause)?;
                    let pooled = pooled(&self.base, &node);
                    self.arrived(node);
                    return Ok((connection, pooled));
                }
                Err(missed) => missed,
            };
            if !missed.passes || Instant::now() + pause >= deadline {
                return Err(missed.error);
            }
            interrupt::sleep(pause)?;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn arrived(&self, node: Node) {
        let mut found = self.found.lock();
        found.is_lost = false;
        if found.server.as_ref() != Some(&node) && found.server.replace(node).is_some() {
            self.generation.fetch_add(1, Relaxed);
        }
    }

    /// Makes the next connection look for the server again, unless the address is fixed.
    pub(crate) fn lose(&self) {
        self.found.lock().is_lost = true;
    }

    /// A connection to another node of the Cluster, for one command.
    pub(crate) fn connect_to(&self, place: &str) -> Result<(Idle, Arc<str>)> {
        match Node::parse(place) {
            Some(node) => {
                let (wire, _) = connect(&elsewhere(self.info(), &node.host, node.port), Hello::default(), &self.times)?;
                Ok((Idle::new(wire), pooled(&self.base, &node)))
            }
            None => Err(Cause::BadReply(format!("it names the server {place}")).into()),
        }
    }

    /// User, password and TLS of the servers.
    pub(crate) fn info(&self) -> &Endpoint {
        match &self.way {
            Way::Fixed { endpoint, .. } | Way::Replica(endpoint) => endpoint,
            Way::Sentinel(sentinels) => sentinels.info(),
            Way::Cluster(cluster) => cluster.info(),
        }
    }

    /// Asks the Sentinels, at most once a second, whether the primary is still the same. A client that is cut off
    /// together with an old primary learns of the new one only in this way.
    pub(crate) fn confirm(&self) {
        if let Way::Sentinel(sentinels) = &self.way
            && sentinels.say_another(&self.times)
        {
            self.lose();
            self.generation.fetch_add(1, Relaxed);
        }
    }

    /// Makes the next [`Route::confirm`] ask the Sentinels.
    pub(crate) fn doubt(&self) {
        if let Way::Sentinel(sentinels) = &self.way {
            sentinels.doubt();
        }
    }

    /// Follows a redirection of a Cluster, as in `MOVED 3999 127.0.0.1:6381`.
    pub(crate) fn redirected(&self, place: &str) {
        if let (Way::Cluster(cluster), Some(node)) = (&self.way, Node::parse(place)) {
            let answering = self.found.lock().server.clone();
            cluster.redirected(node, answering);
            self.lose();
        }
    }

    /// Connections to all nodes of a Cluster that have slots; otherwise one to the server.
    pub(crate) fn all(&self) -> Result<Vec<(Idle, Arc<str>)>> {
        match &self.way {
            Way::Cluster(cluster) => {
                let all = cluster.all(&self.times)?.into_iter();
                Ok(all.map(|(wire, node)| (Idle::new(wire), pooled(&self.base, &node))).collect())
            }
            _ => Ok(vec![self.connect(false)?]),
        }
    }
}

/// A new connection, and the server's role if it was asked for. If the server refuses a password from a file or
/// variable, the password is read again, because it may have been changed.
fn connect(endpoint: &Endpoint, hello: Hello, times: &Times) -> Result<(Wire, Option<Role>)> {
    let deadline = Instant::now() + times.connect;
    let log_in = |password: &Option<String>| {
        Wire::connect(endpoint, password.as_deref(), hello, deadline, times.reply)
            .map_err(|error| Error::from(connect_cause(error)))
    };
    let password = endpoint.password.read()?;
    let refused = match log_in(&password) {
        Err(error) if matches!(error.cause, Cause::Authentication(_)) => error,
        outcome => return outcome,
    };
    if !matches!(endpoint.password, Password::Named(_)) {
        return Err(refused);
    }
    let next = endpoint.password.read()?;
    if next == password { Err(refused) } else { log_in(&next) }
}

/// A connection to a Sentinel or node that answers a question. Errors name it.
fn ask(info: &Endpoint, times: &Times) -> std::result::Result<Wire, Error> {
    let connected = connect(info, Hello::default(), &times.attempt());
    connected.map(|(wire, _)| wire).map_err(|error| named(&place(info), error))
}

/// Adds the server's name to an error.
fn named(place: &str, error: Error) -> Error {
    let cause = match error.cause {
        Cause::Unreachable(message) => Cause::Unreachable(format!("{place}: {message}")),
        Cause::Authentication(message) => Cause::Authentication(format!("{place}: {message}")),
        Cause::Permission(message) => Cause::Permission(format!("{place}: {message}")),
        Cause::Loading(message) => Cause::Loading(format!("{place}: {message}")),
        Cause::NoConnectionLeft(message) => Cause::NoConnectionLeft(format!("{place}: {message}")),
        other => other,
    };
    Error { cause, ..error }
}

/// The message of an error without its advice.
fn reason(error: Error) -> String {
    match error.cause {
        Cause::Unreachable(message) | Cause::Loading(message) => message,
        other => other.to_string(),
    }
}

/// The cause that a failed connection stands for.
fn connect_cause(error: RedisError) -> Cause {
    if let Err(interrupted) = interrupt::check() {
        return interrupted.cause;
    }
    // The system's text for a timeout, "resource temporarily unavailable", would mislead.
    let message = if error.is_timeout() { "no reply in time".to_owned() } else { hide_secrets(&error.to_string()) };
    match error.kind() {
        ErrorKind::AuthenticationFailed => Cause::Authentication(message),
        ErrorKind::Server(ServerErrorKind::BusyLoading) => Cause::Loading(message),
        ErrorKind::Server(ServerErrorKind::NoPerm) => Cause::Permission(message),
        _ => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => Cause::Authentication(message),
            Some("BUSY") => Cause::Loading(message),
            // A server that has no connection left says so and closes this one.
            Some("ERR") if message.contains("max number of clients") => Cause::NoConnectionLeft(message),
            Some("DENIED") => Cause::Server(message),
            _ => Cause::Unreachable(message),
        },
    }
}
