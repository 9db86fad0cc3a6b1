//! The private servers of a run, their data, and the relays before them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use sqlite_redis_tests::Server;
use tempfile::TempDir;

use crate::data::{self, Sizes};
use crate::postgres::{Cluster, SOCKET};
use crate::relay::{self, Counters};
use crate::setting::Setting;
use crate::system::{Places, System};
use crate::workload::{BENCH, SCANNED};

/// All servers and relays. Dropping it stops them.
pub struct Servers {
    redis: Server,
    cluster: Option<Cluster>,
    relays: Vec<Child>,
    /// Traffic of the relays of [`Setting::Counted`].
    pub redis_counters: Arc<Counters>,
    pub postgres_counters: Arc<Counters>,
    pub places: Places,
    _directory: TempDir,
}

impl Servers {
    /// Starts the servers and relays. Redis runs as safely as PostgreSQL with `synchronous_commit=off`.
    ///
    /// # Errors
    /// A server does not start.
    pub fn start(with_postgres: bool) -> Result<Servers> {
        let directory = tempfile::Builder::new().prefix("sqlite-redis-bench.").tempdir()?;
        let safety = ["--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"];
        let redis = Server::with(safety).tcp().start();
        let cluster = if with_postgres { Some(Cluster::start()?) } else { None };
        let places = Places {
            directory: directory.path().to_owned(),
            redis_socket: redis.socket(),
            redis_port: redis.port(),
            postgres: cluster.as_ref().map_or_else(PathBuf::new, |cluster| cluster.directory().to_owned()),
        };
        let targets = [("redis.sock", places.redis_socket.clone()), (SOCKET, places.postgres.join(SOCKET))];
        let mut relays = Vec::new();
        let mut counters = HashMap::new();
        for setting in [Setting::HalfMs, Setting::TwoMs, Setting::Counted] {
            let Some(delay) = setting.delay() else { continue };
            std::fs::create_dir(places.relays(setting))?;
            for (name, target) in &targets {
                let listen = places.relays(setting).join(name);
                if delay.is_zero() {
                    counters.insert(*name, relay::start(&listen, target, delay)?);
                } else {
                    relays.push(spawn_relay(&listen, target, delay.as_micros())?);
                }
            }
        }
        let mut counters = |name| counters.remove(name).context("a relay that counts");
        let (redis_counters, postgres_counters) = (counters("redis.sock")?, counters(SOCKET)?);
        Ok(Servers { redis, cluster, relays, redis_counters, postgres_counters, places, _directory: directory })
    }

    /// The processes that belong on the server's core.
    ///
    /// # Errors
    /// The processes can't be listed.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = vec![self.redis.pid()];
        pids.extend(self.relays.iter().map(Child::id));
        if let Some(cluster) = &self.cluster {
            pids.extend(cluster.pids()?);
        }
        Ok(pids)
    }

    /// Fills the databases of a system.
    ///
    /// # Errors
    /// The system returns an error.
    pub fn build(&self, system: System, sizes: Sizes, scanned: bool) -> Result<()> {
        let places = &self.places;
        if system.is_floor() {
            return data::build_floor(&mut places.redis(system, Setting::OneCore)?, sizes);
        }
        if system == System::Memory {
            return Ok(());
        }
        places.clear(system, BENCH)?;
        let mut sql = places.open(system, Setting::OneCore, BENCH)?;
        data::build(&mut *sql, sizes)?;
        if system == System::VirtualTable {
            return Ok(());
        }
        data::copy_chinook(&mut *sql)?;
        if !scanned {
            return Ok(());
        }
        for (name, rows) in [(SCANNED.to_owned(), sizes.scanned), (format!("{SCANNED}_tenth"), sizes.tenth().scanned)] {
            places.clear(system, &name)?;
            data::build_scanned(&mut *places.open(system, Setting::OneCore, &name)?, rows)?;
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for relay in &mut self.relays {
            // The relay may have ended already.
            let _ = relay.kill();
            let _ = relay.wait();
        }
    }
}

fn spawn_relay(listen: &std::path::Path, target: &std::path::Path, delay_us: u128) -> Result<Child> {
    let mut relay = Command::new(std::env::current_exe()?)
        .args(["relay", "--delay-us", &delay_us.to_string(), "--listen"])
        .arg(listen)
        .arg("--target")
        .arg(target)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(relay.stdout.take().context("the relay's output")?).read_line(&mut line)?;
    Ok(relay)
}
