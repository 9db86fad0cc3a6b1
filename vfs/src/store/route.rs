//! The way to the server that has a database now. Every connection is made here.
//!
//! An address may be fixed, and then this is only a connection. Or Sentinels say which server is
//! the primary, or a Cluster which node has the slot: then each new connection is made to the
//! server that they name, and the number of changes so far, the *generation*, tells which of the
//! older connections lead to a server that has been replaced.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::{ConnectionInfo, ErrorKind, RedisError, ServerErrorKind};

use crate::config::address::{elsewhere, host_and_port, place};
use crate::config::{Address, Config};
use crate::error::{Cause, Error, Result};
use crate::store::wire::Wire;
use crate::sync::Mutex;

mod cluster;
mod sentinel;

use cluster::Cluster;
use sentinel::Sentinels;

/// Time for asking one Sentinel or node, and for reaching the server that it names: less than a
/// connection may take otherwise, since there are others to ask meanwhile.
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

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
struct Times {
    connect: Duration,
    reply: Duration,
    failover: Duration,
}

impl Times {
    /// For one of several places to ask.
    fn attempt(&self) -> Times {
        let attempt = self.connect.min(ATTEMPT);
        Times { connect: attempt, reply: attempt.min(self.reply), ..*self }
    }
}

enum Way {
    Fixed(Box<ConnectionInfo>),
    Replica(Box<ConnectionInfo>),
    Sentinel(Box<Sentinels>),
    Cluster(Box<Cluster>),
}

/// A connection to the server, which is there, or why there is none.
type Found<E = Missed> = std::result::Result<(Wire, Node), E>;

/// Why there is no connection to the server yet.
struct Missed {
    error: Error,
    /// Whether that may change by itself soon, as it does in a failover.
    passes: bool,
}

impl Missed {
    /// For as long as nothing else is done.
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
    /// Where the last connection was made to, unless the address is fixed.
    server: Mutex<Option<Node>>,
}

impl Route {
    /// The way to the server that has the slot of `key`, which matters in a Cluster only.
    pub(crate) fn new(config: &Config, key: &str) -> Route {
        let times = Times { connect: config.connect_timeout, reply: config.timeout, failover: config.failover };
        let way = match &config.server {
            Address::Fixed(info) => Way::Fixed(info.clone().into()),
            Address::Replica(info) => Way::Replica(info.clone().into()),
            Address::Sentinel(service) => Way::Sentinel(Sentinels::new(service).into()),
            Address::Cluster(nodes) => Way::Cluster(Cluster::new(nodes, key).into()),
        };
        Route { way, times, generation: AtomicU64::new(0), server: Mutex::new(None) }
    }

    /// Whether the server may become another one.
    pub(crate) fn follows(&self) -> bool {
        matches!(self.way, Way::Sentinel(_) | Way::Cluster(_))
    }

    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self.way, Way::Fixed(_))
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.way, Way::Cluster(_))
    }

    /// How often the server has become another one.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Host and port of the server of the last connection; nothing before the first, and nothing
    /// for a fixed address.
    pub(crate) fn server(&self) -> Option<String> {
        self.server.lock().as_ref().map(Node::to_string)
    }

    /// A new connection to the server. In a failover, waits for the next primary.
    pub(crate) fn connect(&self) -> Result<Wire> {
        let deadline = Instant::now() + self.times.failover;
        let mut pause = Duration::from_millis(20);
        loop {
            let found = match &self.way {
                Way::Fixed(info) => return connect(info, &self.times),
                Way::Replica(info) => return connect_to_replica(info, &self.times),
                Way::Sentinel(sentinels) => sentinels.connect(&self.times),
                Way::Cluster(cluster) => cluster.connect(&self.times),
            };
            let missed = match found {
                Ok((mut connection, node)) => {
                    self.arrived(node);
                    connection.set_timeout(self.times.reply).map_err(connect_cause)?;
                    return Ok(connection);
                }
                Err(missed) => missed,
            };
            if !missed.passes || Instant::now() + pause >= deadline {
                return Err(missed.error);
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn arrived(&self, node: Node) {
        let mut server = self.server.lock();
        if server.as_ref() != Some(&node) && server.replace(node).is_some() {
            self.generation.fetch_add(1, Relaxed);
        }
    }

    /// A connection to another server than the one that the way leads to, for one command.
    pub(crate) fn connect_to(&self, place: &str) -> Result<Wire> {
        match Node::parse(place) {
            Some(node) => connect(&elsewhere(self.info(), &node.host, node.port), &self.times),
            None => Err(Cause::BadReply(format!("it names the server {place}")).into()),
        }
    }

    /// User, password and TLS of the servers.
    pub(crate) fn info(&self) -> &ConnectionInfo {
        match &self.way {
            Way::Fixed(info) | Way::Replica(info) => info,
            Way::Sentinel(sentinels) => sentinels.info(),
            Way::Cluster(cluster) => cluster.info(),
        }
    }

    /// Makes sure, once a second at most, that the Sentinels still say the same. One who reaches a
    /// primary that was cut off from all others learns of the next one in this way only.
    pub(crate) fn confirm(&self) {
        if let Way::Sentinel(sentinels) = &self.way
            && sentinels.say_another(&self.times)
        {
            self.generation.fetch_add(1, Relaxed);
        }
    }

    /// To be confirmed before the server is used again.
    pub(crate) fn doubt(&self) {
        if let Way::Sentinel(sentinels) = &self.way {
            sentinels.doubt();
        }
    }

    /// What a node of a Cluster has said of where the slot is, as in `MOVED 3999 127.0.0.1:6381`.
    pub(crate) fn redirected(&self, place: &str) {
        if let (Way::Cluster(cluster), Some(node)) = (&self.way, Node::parse(place)) {
            let answering = self.server.lock().clone();
            cluster.redirected(node, answering);
        }
    }

    /// Connections to all nodes of a Cluster that have slots; otherwise to the one server.
    pub(crate) fn all(&self) -> Result<Vec<Wire>> {
        match &self.way {
            Way::Cluster(cluster) => cluster.all(&self.times),
            _ => Ok(vec![self.connect()?]),
        }
    }
}

fn connect(info: &ConnectionInfo, times: &Times) -> Result<Wire> {
    let connect = || {
        let mut connection = Wire::connect(info, times.connect)?;
        connection.set_timeout(times.reply)?;
        Ok(connection)
    };
    connect().map_err(|error| connect_cause(error).into())
}

/// A connection that a replica in a Cluster reads for.
fn connect_to_replica(info: &ConnectionInfo, times: &Times) -> Result<Wire> {
    let mut connection = connect(info, times)?;
    redis::cmd("READONLY").exec(&mut connection).map_err(connect_cause)?;
    Ok(connection)
}

/// A connection to a Sentinel or node for a question, or why there is none, with its name.
fn ask(info: &ConnectionInfo, times: &Times) -> std::result::Result<Wire, Error> {
    connect(info, &times.attempt()).map_err(|error| named(&place(info), error))
}

/// The failure with the server that it came from.
fn named(place: &str, error: Error) -> Error {
    let cause = match error.cause {
        Cause::Unreachable(message) => Cause::Unreachable(format!("{place}: {message}")),
        Cause::Authentication(message) => Cause::Authentication(format!("{place}: {message}")),
        Cause::Permission(message) => Cause::Permission(format!("{place}: {message}")),
        Cause::Loading(message) => Cause::Loading(format!("{place}: {message}")),
        other => other,
    };
    Error { cause, ..error }
}

/// The failure without the advice that goes with it.
fn reason(error: Error) -> String {
    match error.cause {
        Cause::Unreachable(message) | Cause::Loading(message) => message,
        other => other.to_string(),
    }
}

/// Why no connection came about.
fn connect_cause(error: RedisError) -> Cause {
    // What the system says of a timeout, "resource temporarily unavailable", is no help.
    let message = if error.is_timeout() { "no reply in time".to_owned() } else { error.to_string() };
    match error.kind() {
        ErrorKind::AuthenticationFailed => Cause::Authentication(message),
        ErrorKind::Server(ServerErrorKind::BusyLoading) => Cause::Loading(message),
        ErrorKind::Server(ServerErrorKind::NoPerm) => Cause::Permission(message),
        _ => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => Cause::Authentication(message),
            _ => Cause::Unreachable(message),
        },
    }
}
