//! A primary with replicas that a test can make lag.

use rusqlite::Connection;
use sqlite_redis::{Consistency, Options};

use crate::{Server, eventually, text};

/// See the [module](self).
pub struct Replicated {
    /// The server that commits go to.
    pub primary: Server,
    /// Its replicas.
    pub replicas: Vec<Server>,
}

impl Replicated {
    /// Starts a primary and this many replicas, in step with the primary.
    ///
    /// # Panics
    /// When they don't start.
    pub fn with(replicas: usize) -> Replicated {
        let primary = Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start();
        let replicas = (0..replicas).map(|_| Server::replica_of(&primary)).collect();
        Replicated { primary, replicas }
    }

    /// Options that name the primary and all replicas.
    pub fn options(&self, name: &str, consistency: Consistency) -> Options {
        let options = self.primary.options(name).consistency(consistency);
        self.replicas.iter().fold(options, |options, replica| options.replica(replica.url()))
    }

    /// Stops the replication to this replica, which still answers reads.
    ///
    /// # Panics
    /// When it can't be told so.
    pub fn hold(&self, replica: usize) {
        let replica = &self.replicas[replica];
        assert_eq!(replica.redis_cli(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
    }

    /// Resumes replication.
    ///
    /// # Panics
    /// When it can't be told so.
    pub fn release(&self, replica: usize) {
        let port = self.primary.port().to_string();
        assert_eq!(self.replicas[replica].redis_cli(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    }

    /// Waits until a replica's copy of a database equals the primary's.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn in_step(&self, replica: usize, name: &str) {
        let there = &self.replicas[replica];
        eventually("the replica is in step", || {
            // A replica that is loading answers `INFO` only.
            let linked = there.redis_cli(&["INFO", "replication"]).contains("master_link_status:up");
            linked && self.primary.stored(name) == there.stored(name)
        });
    }

    /// Starts a full resynchronisation of a replica. Returns while the replica is loading.
    ///
    /// # Panics
    /// When it does not.
    pub fn load_slowly(&self, replica: usize) {
        assert_eq!(self.primary.redis_cli(&["CONFIG", "SET", "rdbcompression", "no"]), "OK");
        let mut redis = self.primary.redis();
        for n in 0..600 {
            redis::cmd("SET").arg(format!("key{n}")).arg("x".repeat(1000)).exec(&mut redis).expect("a key");
        }
        let there = &self.replicas[replica];
        for (setting, value) in [("key-load-delay", "2500"), ("loading-process-events-interval-bytes", "1024")] {
            assert_eq!(there.redis_cli(&["CONFIG", "SET", setting, value]), "OK");
        }
        self.release(replica);
        eventually("the replica is loading", || there.redis_cli(&["GET", "x"]).contains("LOADING"));
    }
}

/// One field of `PRAGMA redis_snapshot`.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn told(connection: &Connection, field: &str) -> String {
    let all = text(connection, "PRAGMA redis_snapshot");
    let mut pairs = all.split(' ').filter_map(|pair| pair.split_once('='));
    let value = pairs.find_map(|(name, value)| (name == field).then(|| value.to_owned()));
    value.unwrap_or_else(|| panic!("no {field} in {all}"))
}
