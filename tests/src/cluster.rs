//! A Redis Cluster of real server processes.

use sqlite_redis::Options;

use crate::{Server, eventually, following, program};

/// A Cluster of three primaries with one replica each.
pub struct Cluster {
    /// All nodes. Failovers change which of them are primaries.
    pub nodes: Vec<Server>,
}

impl Cluster {
    /// Starts six nodes; returns when all slots are served and all replicas are in step.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn new() -> Cluster {
        let cluster = Cluster { nodes: (0..6).map(|_| node()).collect() };
        let places: Vec<_> = cluster.nodes.iter().map(place).collect();
        let create = ["--cluster", "create"].into_iter().map(str::to_owned).chain(places);
        let options = ["--cluster-replicas", "1", "--cluster-yes"].map(str::to_owned);
        let made = program::server().cli().args(create.chain(options)).output().expect("redis-cli");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        cluster.in_step();
        cluster
    }

    /// The URL for clients. It names two nodes; clients discover the others.
    pub fn url(&self) -> String {
        format!("redis+cluster://{},{}", place(&self.nodes[0]), place(&self.nodes[1]))
    }

    /// Options for a database in this Cluster.
    pub fn options(&self, name: &str) -> Options {
        following(&self.url(), name)
    }

    /// Waits until every node sees all slots served, and each primary has a connected replica.
    ///
    /// # Panics
    /// After two minutes.
    pub fn in_step(&self) {
        eventually("the cluster is complete", || {
            self.nodes.iter().all(|node| {
                let replication = node.redis_cli(&["INFO", "replication"]);
                node.redis_cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && !node.redis_cli(&["CLUSTER", "NODES"]).contains("fail")
                    && (replication.contains("state=online") || replication.contains("master_link_status:up"))
            })
        });
    }

    /// Index of the node that claims the slot of a database.
    ///
    /// # Panics
    /// When no node claims it.
    pub fn owner(&self, name: &str) -> usize {
        let slot = self.slot(name);
        let owns = |node: &Server| {
            let nodes = node.redis_cli(&["CLUSTER", "NODES"]);
            let own = nodes.lines().find(|line| line.contains("myself,master")).unwrap_or_default().to_owned();
            own.split(' ').skip(8).any(|range| in_range(range, slot))
        };
        self.nodes.iter().position(owns).expect("the slot is served")
    }

    /// Index of a node's replica.
    ///
    /// # Panics
    /// When the node has no replica.
    pub fn replica(&self, node: usize) -> usize {
        let port = format!("master_port:{}\r\n", self.nodes[node].port());
        let is_its = |other: &Server| other.redis_cli(&["INFO", "replication"]).contains(&port);
        self.nodes.iter().position(is_its).expect("a replica")
    }

    /// The hash slot of a database.
    ///
    /// # Panics
    /// When no node answers.
    pub fn slot(&self, name: &str) -> u16 {
        let key = format!("sqlite:{{{name}}}");
        let answers = self.nodes.iter().map(|node| node.redis_cli(&["CLUSTER", "KEYSLOT", &key]));
        answers.filter_map(|answer| answer.parse().ok()).next().expect("a slot")
    }

    /// The id of a node.
    pub fn id(&self, node: usize) -> String {
        self.nodes[node].redis_cli(&["CLUSTER", "MYID"])
    }

    /// Begins to move a slot. No key moves yet.
    ///
    /// # Panics
    /// When a node refuses.
    pub fn begin_to_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        self.ok(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        self.ok(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]);
    }

    /// Moves one key of a slot that is being moved.
    ///
    /// # Panics
    /// When the node refuses.
    pub fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].port().to_string();
        let moved = self.nodes[from].redis_cli(&["MIGRATE", "127.0.0.1", &port, key, "0", "20000"]);
        assert!(moved == "OK" || moved == "NOKEY", "{moved}");
    }

    /// Moves the remaining keys of a slot, and assigns the slot to its new node.
    ///
    /// # Panics
    /// When a node refuses.
    pub fn finish_to_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        loop {
            let keys = self.nodes[from].redis_cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                break;
            }
            for key in keys.lines() {
                self.move_key(key, from, to);
            }
        }
        let id = self.id(to);
        self.ok(to, &["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        self.ok(from, &["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
    }

    fn ok(&self, node: usize, command: &[&str]) {
        assert_eq!(self.nodes[node].redis_cli(command), "OK", "{command:?}");
    }

    /// Indexes of the primaries that serve slots.
    pub fn primaries(&self) -> Vec<usize> {
        let is_primary = |n: &usize| {
            let nodes = self.nodes[*n].redis_cli(&["CLUSTER", "NODES"]);
            nodes.lines().any(|line| line.contains("myself,master") && line.split(' ').count() > 8)
        };
        (0..self.nodes.len()).filter(is_primary).collect()
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster::new()
    }
}

fn node() -> Server {
    Server::with(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"])
        .cluster_bus()
        .with(["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0", "--appendonly", "yes"])
        .tcp()
        .start()
}

fn place(node: &Server) -> String {
    format!("127.0.0.1:{}", node.port())
}

/// Whether a slot is in a range such as `5461-10922` or `7`.
fn in_range(range: &str, slot: u16) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    first.parse().is_ok_and(|first: u16| first <= slot) && last.parse().is_ok_and(|last: u16| slot <= last)
}
