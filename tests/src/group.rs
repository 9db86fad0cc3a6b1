//! A primary, its replicas, and the Sentinels that watch over them: real processes, each server
//! behind a [`Relay`] that everybody knows as its address.

use std::time::{Duration, Instant};

use sqlite_redis::Options;

use crate::relay::{Passage, Relay, SERVERS};
use crate::{Server, following, program, within};

/// The name under which the Sentinels know it.
pub const SERVICE: &str = "shop";

/// See the [module](self).
pub struct Group {
    /// The servers; which of them is the primary, changes.
    pub servers: Vec<Server>,
    /// The way into each server.
    pub relays: Vec<Relay>,
    /// The Sentinels.
    pub sentinels: Vec<Server>,
}

/// For how long a server must be silent before a Sentinel takes it for down, in milliseconds.
const DOWN_AFTER: u64 = 2000;

/// For how long the servers are waited for.
const PATIENCE: Duration = Duration::from_secs(120);

impl Group {
    /// A primary, two replicas and three Sentinels, all in step.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn new() -> Group {
        Group::with(&[])
    }

    /// The same, with options for the servers.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn with(options: &[&str]) -> Group {
        let relays: Vec<Relay> = (0..3).map(|_| Relay::new()).collect();
        let servers = relays.iter().map(|relay| server(relay, &relays[0], options)).collect();
        let group = Group { servers, relays, sentinels: Vec::new() };
        let sentinels = (0..3).map(|_| sentinel(group.relays[0].port(), "")).collect();
        let group = Group { sentinels, ..group };
        group.in_step();
        group
    }

    /// The URL that a client is given.
    pub fn url(&self) -> String {
        url(&self.sentinels)
    }

    /// Options for a database on whichever is the primary.
    pub fn options(&self, name: &str) -> Options {
        following(&self.url(), name)
    }

    /// The server that most of the Sentinels name.
    ///
    /// # Panics
    /// When they name none of ours.
    pub fn primary(&self) -> usize {
        let named: Vec<_> = self.sentinels.iter().map(|one| self.named_by(one)).collect();
        let most = (0..3).max_by_key(|&n| named.iter().filter(|one| **one == Some(n)).count());
        most.expect("three servers")
    }

    /// The server that a Sentinel names.
    pub fn named_by(&self, sentinel: &Server) -> Option<usize> {
        let answer = sentinel.redis_cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
        let port: u16 = answer.lines().nth(1)?.parse().ok()?;
        self.relays.iter().position(|relay| relay.port() == port)
    }

    /// Waits until a Sentinel names another primary than this one; returns when it did.
    ///
    /// # Panics
    /// When none does.
    pub fn first_named_instead_of(&self, old: usize) -> Instant {
        within(PATIENCE, "a Sentinel names another primary", || {
            self.sentinels.iter().any(|one| self.named_by(one).is_some_and(|named| named != old))
        });
        Instant::now()
    }

    /// Lets the primary hand over to a replica that has everything (`FAILOVER`). Returns when it
    /// had. The Sentinels are told to look away meanwhile: they would take it for a failure half
    /// a minute later, and promote whom they like while the new primary takes writes.
    ///
    /// # Panics
    /// When it does not.
    pub fn hand_over(&self) -> Instant {
        let old = self.primary();
        let new = (old + 1) % 3;
        let port = self.relays[new].port().to_string();
        let tell = |server: &Server, command: &[&str]| assert_eq!(server.redis_cli(command), "OK", "{command:?}");
        self.sentinels.iter().for_each(|one| tell(one, &["SENTINEL", "REMOVE", SERVICE]));
        tell(&self.servers[old], &["FAILOVER", "TO", "127.0.0.1", &port]);
        within(PATIENCE, "the replica is the primary", || self.servers[new].redis_cli(&["ROLE"]).starts_with("master"));
        let switched = Instant::now();
        tell(&self.servers[(new + 1) % 3], &["REPLICAOF", "127.0.0.1", &port]);
        for sentinel in &self.sentinels {
            tell(sentinel, &["SENTINEL", "MONITOR", SERVICE, "127.0.0.1", &port, "2"]);
            for (option, value) in options() {
                tell(sentinel, &["SENTINEL", "SET", SERVICE, option, &value]);
            }
        }
        switched
    }

    /// Waits until all Sentinels name another primary than this one.
    ///
    /// # Panics
    /// When they don't.
    pub fn switched_from(&self, old: usize) -> usize {
        let mut new = None;
        within(PATIENCE, "all Sentinels name the same other primary", || {
            let named: Vec<_> = self.sentinels.iter().map(|one| self.named_by(one)).collect();
            new = named[0].filter(|one| *one != old && named.iter().all(|other| *other == Some(*one)));
            new.is_some()
        });
        new.expect("a primary")
    }

    /// Waits until the Sentinels agree, every other server is a replica in step, and everybody
    /// knows everybody, so that a failover can go well.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn in_step(&self) {
        within(PATIENCE, "the group is complete", || {
            let primary = self.primary();
            let replicas = self.servers[primary].redis_cli(&["INFO", "replication"]).matches("state=online").count();
            replicas == 2 && self.sentinels.iter().all(|one| self.is_content(one, primary))
        });
    }

    fn is_content(&self, sentinel: &Server, primary: usize) -> bool {
        let master = sentinel.redis_cli(&["SENTINEL", "MASTER", SERVICE]);
        let field = |name: &str| {
            let mut lines = master.lines();
            lines.find(|line| *line == name).and_then(|_| lines.next()).unwrap_or_default().to_owned()
        };
        let replicas = sentinel.redis_cli(&["SENTINEL", "REPLICAS", SERVICE]);
        self.named_by(sentinel) == Some(primary)
            && field("flags") == "master"
            && (field("num-other-sentinels"), field("num-slaves")) == ("2".into(), "2".into())
            && replicas.matches("flags\nslave\n").count() == 2
            && replicas.matches("master-link-status\nok").count() == 2
    }

    /// Cuts a server off, or lets it in again.
    pub fn set(&self, server: usize, passage: Passage) {
        self.relays[server].set(passage);
    }
}

impl Default for Group {
    fn default() -> Self {
        Group::new()
    }
}

/// The URL of what these Sentinels watch.
pub fn url<'a>(sentinels: impl IntoIterator<Item = &'a Server>) -> String {
    let places: Vec<_> = sentinels.into_iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
    format!("sentinel://{SERVICE}@{}", places.join(","))
}

/// A server behind its relay, at first a replica of the one behind `primary`.
fn server(relay: &Relay, primary: &Relay, options: &[&str]) -> Server {
    let port = relay.port().to_string();
    let mut start =
        Server::with(["--repl-diskless-sync-delay", "0", "--repl-timeout", "5", "--repl-ping-replica-period", "1"])
            .with(["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", &port])
            .with(program::server().source_arguments(SERVERS))
            .with(options.iter().copied())
            .tcp();
    if relay.port() != primary.port() {
        start = start.with(["--replicaof", "127.0.0.1", &primary.port().to_string()]);
    }
    let server = start.start();
    relay.lead_to(&server);
    server
}

/// What the Sentinels are told of the service.
fn options() -> [(&'static str, String); 3] {
    [
        ("down-after-milliseconds", DOWN_AFTER.to_string()),
        ("failover-timeout", "10000".to_owned()),
        ("parallel-syncs", "2".to_owned()),
    ]
}

/// A Sentinel that takes the server at this port for the primary, with more lines of configuration.
///
/// # Panics
/// When it does not start.
pub fn sentinel(primary: u16, lines: &str) -> Server {
    let mut configuration =
        format!("sentinel announce-ip 127.0.0.1\nsentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n");
    for (option, value) in options() {
        configuration += &format!("sentinel {option} {SERVICE} {value}\n");
    }
    configuration += lines;
    let source = program::server().source_arguments(SERVERS);
    Server::with(["--sentinel"]).with(source).tcp().configured(&configuration).start()
}
