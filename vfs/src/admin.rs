//! What operators do with whole databases: list, describe, remove, import.

use std::sync::Arc;

use redis::{Cmd, Value, cmd};

use crate::config::Config;
use crate::database;
use crate::model::error::{Cause, Error, Result};
use crate::model::version::{Snapshot, check_shape};
use crate::store::redis::keys;
use crate::store::redis::keys::Keys;
use crate::store::redis::replies;
use crate::store::redis::stage::Stage;
use crate::wire::link::Link;
use crate::wire::reply::checked;
use crate::wire::reply::{array, text};
use crate::wire::request::Request;
use crate::wire::scan::Scan;
use crate::wire::server::Server;
use crate::wire::servers;

mod import;
mod status;

use crate::admin::import::Target;

pub use crate::admin::import::{Import, ImportOptions};
pub use crate::admin::status::{ReplicaState, ReplicaStatus, Status};

/// Fields that the server looks at to estimate the memory of a key. The default of 5 may hit
/// metadata only, and take a database of megabytes for one of some hundred bytes.
const SAMPLES: usize = 1000;

/// A server, and the databases under one key prefix on it.
pub struct Admin {
    config: Config,
}

/// What there is to say about a database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Number of its last commit.
    pub version: u64,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages that it has.
    pub page_count: u32,
    /// Memory that its pages take in Redis, in bytes (`MEMORY USAGE`, an estimate by samples).
    pub redis_bytes: u64,
    /// Who holds the write lease, if anyone does.
    pub lease: Option<Holder>,
    /// Commits in the log.
    pub log_length: u64,
    /// Memory that the log takes in Redis, its undo data included, in bytes.
    pub log_bytes: u64,
}

/// Who holds a write lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Host, process id and a random number: `host/1234/00ab…`.
    pub token: String,
    /// Milliseconds until it ends unless it is renewed.
    pub ttl_ms: u64,
}

impl Admin {
    pub(crate) fn with(config: Config) -> Self {
        // What it says of a replica, it says of it as such.
        Admin { config: config.with_any_role() }
    }

    /// The server that has these keys.
    fn server(&self, keys: &Keys) -> Arc<Server> {
        servers::server(&self.config, &keys.hash)
    }

    /// The server, without user and password.
    pub fn server_name(&self) -> String {
        self.config.server_name()
    }

    fn at<T>(&self, name: &str, result: Result<T>) -> Result<T> {
        result.map_err(|error: Error| error.at(&database::place(&self.config, name)))
    }

    fn keys(&self, name: &str) -> Result<Keys> {
        Ok(Keys::new(&self.config.prefix, keys::database_name(name)?))
    }

    /// Names of all databases, in order.
    ///
    /// # Errors
    /// The server can't be asked.
    pub fn names(&self) -> Result<Vec<String>> {
        self.scan().map_err(|error| error.at(&self.server_name().into()))
    }

    fn scan(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let any = servers::server(&self.config, "");
        for mut node in any.nodes()? {
            self.scan_node(&mut node, &mut names)?;
        }
        names.sort();
        // SCAN may answer with a key twice.
        names.dedup();
        Ok(names)
    }

    fn scan_node(&self, node: &mut Link<'_>, names: &mut Vec<String>) -> Result<()> {
        let (mut cursor, mut progress) = ("0".to_owned(), Scan::default());
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(Keys::pattern(&self.config.prefix));
            scan.arg("COUNT").arg(1000).arg("TYPE").arg("hash");
            let reply = checked(node.exchange(&Request::one(&scan))?.pop().unwrap_or_default())?;
            let mut parts = array("SCAN", reply)?.into_iter();
            let next =
                progress.after(parts.next().as_ref(), || match node.exchange(&Request::one(&cmd("DBSIZE"))) {
                    Ok(replies) => replies.first().map(count),
                    Err(_) => None,
                })?;
            for key in array("SCAN", parts.next().unwrap_or_default())? {
                let key = text(&key);
                names.extend(key.as_deref().and_then(|key| Keys::name_in(&self.config.prefix, key)).map(str::to_owned));
            }
            let Some(next) = next else { return Ok(()) };
            cursor = next;
        }
    }

    /// A database, or `None` if there is none of this name.
    ///
    /// # Errors
    /// The server can't be asked, or what it has under this name is damaged.
    pub fn info(&self, name: &str) -> Result<Option<Info>> {
        self.at(name, self.describe(name))
    }

    fn describe(&self, name: &str) -> Result<Option<Info>> {
        let keys = self.keys(name)?;
        let mut request = Request::default();
        request.push(&snapshot_command(&keys));
        request.push(cmd("MEMORY").arg("USAGE").arg(&keys.hash).arg("SAMPLES").arg(SAMPLES));
        request.push(cmd("MEMORY").arg("USAGE").arg(&keys.log).arg("SAMPLES").arg(SAMPLES));
        request.push(cmd("MEMORY").arg("USAGE").arg(&keys.undo).arg("SAMPLES").arg(SAMPLES));
        request.push(cmd("XLEN").arg(&keys.log));
        request.push(cmd("GET").arg(&keys.lock));
        request.push(cmd("PTTL").arg(&keys.lock));
        let replies: Vec<Value> = self.server(&keys).ask(&request)?.into_iter().map(checked).collect::<Result<_>>()?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let snapshot = replies::snapshot(&array("HMGET", next())?)?.0;
        if snapshot == Snapshot::EMPTY {
            return Ok(None);
        }
        let (redis_bytes, log_bytes) = (count(&next()), count(&next()) + count(&next()));
        let log_length = count(&next());
        let lease = holder(&next(), &next());
        Ok(Some(Info {
            name: keys::database_name(name)?.to_owned(),
            version: snapshot.version.0,
            page_size: snapshot.page_size,
            page_count: snapshot.page_count,
            redis_bytes,
            lease,
            log_length,
            log_bytes,
        }))
    }

    /// All databases, in order of their names. One that is damaged comes with the reason.
    ///
    /// # Errors
    /// The server can't be asked.
    pub fn list(&self) -> Result<Vec<(String, Result<Info>)>> {
        let mut all = Vec::new();
        for name in self.names()? {
            match self.info(&name) {
                Ok(Some(info)) => all.push((name, Ok(info))),
                // Removed meanwhile.
                Ok(None) => {}
                Err(error) => all.push((name, Err(error))),
            }
        }
        Ok(all)
    }

    /// Removes a database; `false` if there was none. Whoever is writing to it is refused at
    /// commit, whoever reads it gets `SQLITE_BUSY_SNAPSHOT` for pages not cached.
    ///
    /// # Errors
    /// The server can't be asked or refuses.
    pub fn remove(&self, name: &str) -> Result<bool> {
        self.at(name, self.try_remove(name))
    }

    fn try_remove(&self, name: &str) -> Result<bool> {
        let keys = self.keys(name)?;
        // One command, so all of it goes at once.
        let unlink = cmd("UNLINK").arg(&keys.hash).arg(&keys.log).arg(&keys.undo).arg(&keys.staged).to_owned();
        let reply = self.server(&keys).ask(&Request::one(&unlink))?.pop();
        Ok(count(&checked(reply.unwrap_or_default())?) > 0)
    }

    /// Begins to import pages under a name. Others see nothing of them until [`Import::finish`], which then replaces a
    /// database of this name if `options` allow that.
    ///
    /// # Errors
    /// There is a database of this name and it must not be replaced; the page size is not one that SQLite has; the server
    /// can't be asked.
    pub fn import(&self, name: &str, options: ImportOptions) -> Result<Import<'_>> {
        self.at(name, self.begin_import(name, options))
    }

    fn begin_import(&self, name: &str, options: ImportOptions) -> Result<Import<'_>> {
        let ImportOptions { page_size, page_count, overwrite } = options;
        let keys = self.keys(name)?;
        check_shape(page_size.into(), page_count.into())?;
        let server = self.server(&keys);
        let exists = server.ask_checked(&Request::one(cmd("EXISTS").arg(&keys.hash)))?.pop();
        let exists = checked(exists.unwrap_or_default())?;
        if count(&exists) > 0 && !overwrite {
            return Err(Cause::Exists.into());
        }
        let stage = Stage::new(server.clone(), &keys, self.config.compress)?;
        let target = Target { server, name: name.to_owned(), keys, page_size, page_count, overwrite };
        Ok(Import::new(self, target, stage))
    }
}

/// Asks for the snapshot of a database.
fn snapshot_command(keys: &Keys) -> Cmd {
    let mut hmget = cmd("HMGET");
    hmget.arg(&keys.hash);
    for field in keys::SNAPSHOT {
        hmget.arg(field);
    }
    hmget
}

/// The holder of a lease, from the replies to `GET` and `PTTL`.
fn holder(token: &Value, ttl: &Value) -> Option<Holder> {
    text(token).map(|token| Holder { token, ttl_ms: count(ttl) })
}

/// A number among the replies; nothing counts as 0.
fn count(value: &Value) -> u64 {
    match value {
        Value::Int(number) => u64::try_from(*number).unwrap_or(0),
        _ => 0,
    }
}
