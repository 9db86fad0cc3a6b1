//! Faults that lose data, as they may: everything is removed, or a replica that lacks the last
//! commits takes over. What was there before and what is there afterwards is checked at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use redis::Value;
use rusqlite::Connection;

use super::clock::now;
use super::eras::{Cut, Lists};
use super::rows::Rows;
use super::stage::{Stage, replica_of};
use super::{Workload, pair, rows};
use crate::stored::{Stored, write_file};
use crate::{Server, eventually, proxy};

/// All that a server has at one moment.
struct Image {
    stored: BTreeMap<&'static str, Stored>,
    rows: Rows,
}

/// What each place holds.
type Held = BTreeMap<&'static str, Lists>;

impl Stage {
    /// `FLUSHALL`, after which the workloads begin anew.
    ///
    /// # Errors
    /// The server or a database fails.
    pub fn flush(&mut self) -> Result<()> {
        let ends = now();
        let left = image(&self.server, Some("FLUSHALL"))?;
        self.record((ends, now()), &left, None)?;
        self.prepare()
    }

    /// The replica takes over without the commits that it lacks, and gets a replica of its own.
    ///
    /// # Errors
    /// A server or a database fails.
    pub fn fail_over(&mut self, random: &mut StdRng) -> Result<()> {
        self.end_lag();
        eventually("the replica is in step", || self.replica.is_replica_in_step());
        // Until it has rewritten its append-only file, it would start again with what it had before.
        eventually("the replica has written down what it has", || {
            let state = self.replica.redis_cli(&["INFO", "persistence"]);
            state.contains("aof_rewrite_in_progress:0") && state.contains("aof_rewrite_scheduled:0")
        });
        self.replica.redis_cli(&["REPLICAOF", "NO", "ONE"]);
        let kept = image(&self.replica, None)?;
        // Commits are acknowledged that the replica lacks; of some the reply is lost or comes late.
        std::thread::sleep(Duration::from_millis(random.random_range(10..300)));
        for fault in [proxy::Fault::LoseReply, proxy::Fault::HoldReply, proxy::Fault::HoldRequest] {
            self.proxy.after(random.random_range(0..10), fault);
        }
        std::thread::sleep(Duration::from_millis(random.random_range(10..100)));
        let ends = now();
        self.proxy.turn(&self.replica);
        let begins = now();
        // What clients have sent is not carried out any more.
        self.server.redis_cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        let left = image(&self.server, None)?;
        for (name, kept) in &kept.stored {
            if !self.server.had(name, kept)? {
                self.violations.push(format!("{name}: the replica has what its primary never had"));
            }
        }
        self.record((ends, begins), &left, Some(&kept))?;
        let next = replica_of(&self.replica);
        self.way_to_replica.turn(&next);
        self.server = std::mem::replace(&mut self.replica, next);
        Ok(())
    }

    /// From now on the replica gets nothing, until [`Stage::end_lag`].
    pub fn begin_lag(&mut self) {
        // Nobody listens there; it goes on to answer readers.
        self.replica.redis_cli(&["REPLICAOF", "127.0.0.1", "1"]);
    }

    /// The replica follows its primary again.
    pub fn end_lag(&mut self) {
        if self.replica_lags_until.take().is_some() {
            self.replica.follow(&self.server);
        }
    }

    /// Writes down the end of an era between two times, and checks what it has left.
    fn record(&mut self, (ends, begins): (u64, u64), left: &Image, kept: Option<&Image>) -> Result<()> {
        let failover = kept.is_some();
        let mut left = self.look_at_all(left)?;
        let mut kept = kept.map(|kept| self.look_at_all(kept)).transpose()?.unwrap_or_default();
        for place in Workload::ALL.into_iter().flat_map(Workload::places) {
            let (left, kept) = (left.remove(place).unwrap_or_default(), kept.remove(place).unwrap_or_default());
            self.eras_of(place).cut(Cut { ends, begins, left, kept, failover });
        }
        Ok(())
    }

    fn look_at_all(&mut self, image: &Image) -> Result<Held> {
        let mut held = Held::new();
        for workload in Workload::ALL {
            for name in workload.databases() {
                held.insert(name, self.look_at(workload, name, &image.stored[name])?);
            }
        }
        held.insert(rows::TABLE, rows::lists(&image.rows));
        self.violations.extend(rows::wrong(&image.rows));
        self.violations.extend(pair::torn(&held[pair::MAIN], &held[pair::OTHER]));
        Ok(held)
    }

    /// What a database holds, as stock SQLite reads it.
    fn look_at(&mut self, workload: Workload, name: &str, stored: &Stored) -> Result<Lists> {
        if stored.fields.is_empty() {
            return Ok(Lists::new());
        }
        let path = self.directory().join("stored.db");
        write_file(stored, &path);
        match what_is_in(workload, &path) {
            Ok(lists) => Ok(lists),
            Err(wrong) => {
                self.violations.push(format!("{name}: at the end of an era, {wrong:#}"));
                self.keep_evidence(&path)?;
                Ok(Lists::new())
            }
        }
    }

    /// Copies a database that is not as it should be, and what its server has written to disk.
    fn keep_evidence(&self, path: &Path) -> Result<()> {
        let kept = tempfile::Builder::new().prefix("sqlite-redis-soak-evidence.").tempdir()?.keep();
        eprintln!("soak: what is wrong is kept in {}", kept.display());
        let sources = [path, self.server.directory(), self.replica.directory()];
        let copied = Command::new("cp").arg("-r").args(sources).arg(&kept).status()?;
        // Sockets can't be copied, which it reports.
        eprintln!("soak: cp: {copied}");
        Ok(())
    }
}

/// What a database file holds that is sound.
fn what_is_in(workload: Workload, path: &Path) -> Result<Lists> {
    let db = Connection::open(path)?;
    let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(sound == "ok", "{sound}");
    if let Some(wrong) = workload.wrong(&db)? {
        bail!(wrong);
    }
    Ok(workload.lists(&db)?)
}

/// All that there is at one moment, the one before a command is carried out.
fn image(server: &Server, before: Option<&str>) -> Result<Image> {
    let databases: Vec<_> = Workload::ALL.into_iter().flat_map(Workload::databases).copied().collect();
    let mut pipe = redis::pipe();
    pipe.atomic();
    for name in &databases {
        pipe.hgetall(format!("sqlite:{{{name}}}")).hgetall(format!("sqlite:{{{name}}}:staged"));
    }
    rows::ask(&mut pipe);
    if let Some(command) = before {
        pipe.cmd(command);
    }
    let mut replies = pipe.query::<Vec<Value>>(&mut server.redis()).context("the databases")?.into_iter();
    let mut stored = BTreeMap::new();
    for name in databases {
        let mut fields = || redis::from_redis_value(replies.next().unwrap_or_default());
        stored.insert(name, Stored { fields: fields()? }.with_staged(fields()?));
    }
    Ok(Image { stored, rows: rows::answer(replies.next().unwrap_or_default())? })
}

impl Server {
    /// Whether a version was once that of a database, as far as its log reaches.
    fn had(&self, name: &str, version: &Stored) -> Result<bool> {
        if version.fields.is_empty() {
            return Ok(true);
        }
        let number = version.number("version");
        let log = format!("sqlite:{{{name}}}:log");
        let mut xrange = redis::cmd("XRANGE");
        xrange.arg(log).arg(format!("{number}-0")).arg("+").arg("COUNT").arg(1);
        type Entry = (String, BTreeMap<String, Vec<u8>>);
        let entries: Vec<Entry> = xrange.query(&mut self.redis())?;
        let Some((id, entry)) = entries.into_iter().next() else { return Ok(false) };
        Ok(id != format!("{number}-0") || entry.get("commit") == version.fields.get("commit"))
    }
}
