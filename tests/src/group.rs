//! A primary, its replicas and their Sentinels, all real processes. Each server is behind a [`Relay`], and announces
//! the relay's address.

use std::time::{Duration, Instant};

use sqlite_redis::Options;

use crate::relay::{Passage, Relay, SERVERS};
use crate::{Server, following, program, within};

/// The Sentinels' name of the primary.
pub const SERVICE: &str = "shop";

/// See the [module](self).
pub struct Group {
    /// The servers. Failovers change which one is the primary.
    pub servers: Vec<Server>,
    /// The relay of each server.
    pub relays: Vec<Relay>,
    /// The Sentinels.
    pub sentinels: Vec<Server>,
}

/// `down-after-milliseconds`: silence after which a Sentinel regards a server as down.
const DOWN_AFTER: u64 = 2000;

/// Maximum wait for a change of the group.
const PATIENCE: Duration = Duration::from_secs(120);

impl Group {
    /// Starts a primary, two replicas and three Sentinels; returns when all are in step.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn new() -> Group {
        Group::with(&[])
    }

    /// Like [`Group::new`], with options for the servers.
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

    /// The URL for clients.
    pub fn url(&self) -> String {
        url(&self.sentinels)
    }

    /// Options for a database on the current primary.
    pub fn options(&self, name: &str) -> Options {
        following(&self.url(), name)
    }

    /// Index of the server that most Sentinels name as primary.
    ///
    /// # Panics
    /// Never: a group has three servers.
    pub fn primary(&self) -> usize {
        let named: Vec<_> = self.sentinels.iter().map(|one| self.named_by(one)).collect();
        let most = (0..3).max_by_key(|&n| named.iter().filter(|one| **one == Some(n)).count());
        most.expect("three servers")
    }

    /// Index of the server that a Sentinel names as primary.
    pub fn named_by(&self, sentinel: &Server) -> Option<usize> {
        let answer = sentinel.redis_cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
        let port: u16 = answer.lines().nth(1)?.parse().ok()?;
        self.relays.iter().position(|relay| relay.port() == port)
    }

    /// Waits until a Sentinel names a primary other than `old`. Returns the time.
    ///
    /// # Panics
    /// When none does.
    pub fn first_named_instead_of(&self, old: usize) -> Instant {
        within(PATIENCE, "a Sentinel names another primary", || {
            self.sentinels.iter().any(|one| self.named_by(one).is_some_and(|named| named != old))
        });
        Instant::now()
    }

    /// Hands over from the primary to a replica that is in step (`FAILOVER`). Returns the time of the switch. The
    /// Sentinels do not monitor the group meanwhile: half a minute later they would see a failure, and promote another
    /// server while the new primary accepts writes.
    ///
    /// # Panics
    /// When the replica does not become the primary.
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

    /// Waits until all Sentinels name the same primary other than `old`. Returns its index.
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

    /// Waits until the Sentinels agree on the primary, the other servers are replicas in step, and all Sentinels know
    /// each other. Only then can a failover succeed.
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

    /// Cuts a server off, or connects it again.
    pub fn set(&self, server: usize, passage: Passage) {
        self.relays[server].set(passage);
    }
}

impl Default for Group {
    fn default() -> Self {
        Group::new()
    }
}

/// The URL of the primary that these Sentinels monitor.
pub fn url<'a>(sentinels: impl IntoIterator<Item = &'a Server>) -> String {
    let places: Vec<_> = sentinels.into_iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
    format!("sentinel://{SERVICE}@{}", places.join(","))
}

/// Starts a server behind `relay`. It is a replica of the server behind `primary`, unless that is its own relay.
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

/// The Sentinels' settings for the service.
fn options() -> [(&'static str, String); 3] {
    [
        ("down-after-milliseconds", DOWN_AFTER.to_string()),
        ("failover-timeout", "10000".to_owned()),
        ("parallel-syncs", "2".to_owned()),
    ]
}

/// Starts a Sentinel that monitors the primary at this port, with additional lines of configuration.
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
