//! What operators do with whole databases: list, describe, remove, import.

use std::sync::Arc;

use redis::{Cmd, Value, cmd};

use crate::config::Config;
use crate::database;
use crate::error::{Cause, Error, Result};
use crate::options::Options;
use crate::process::Process;
use crate::store::commit::{LogMark, metadata};
use crate::store::keys::{self, Keys};
use crate::store::protocol::{self, array, bad_reply, text};
use crate::store::redis::RedisStore;
use crate::store::request::Request;
use crate::store::server::{Link, Server, checked};
use crate::store::stage::Stage;
use crate::store::undo::KeptUndo;
use crate::store::{Commit, CommitId, FORMAT, PageNo, Snapshot, Undo, check_shape};

mod status;

pub use status::{ReplicaState, ReplicaStatus, Status};

/// Pages that an import gathers before it sends them.
const BATCH: usize = 64;
/// Fields that the server looks at to estimate the memory of a key. The default of 5 may hit
/// metadata only, and take a database of megabytes for one of some hundred bytes.
const SAMPLES: usize = 1000;
/// A server, and the databases under one key prefix on it.
pub struct Admin {
    config: Config,
}

/// What there is to say about a database.
#[derive(Debug, Clone, PartialEq, Eq)]
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
pub struct Holder {
    /// Host, process id and a random number: `host/1234/00ab…`.
    pub token: String,
    /// Milliseconds until it ends unless it is renewed.
    pub ttl_ms: u64,
}

impl Admin {
    /// The server and prefix of these options; their database name does not matter.
    ///
    /// # Errors
    /// A setting that makes no sense. The server is not asked yet.
    pub fn connect(options: &Options) -> Result<Self> {
        Ok(Admin::with(options.config()?))
    }

    pub(crate) fn with(config: Config) -> Self {
        // What it says of a replica, it says of it as such.
        Admin { config: config.with_any_role() }
    }

    /// The server that has these keys.
    fn server(&self, keys: &Keys) -> Arc<Server> {
        Process::current().server(&self.config, &keys.hash)
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
        let any = Process::current().server(&self.config, "");
        for mut node in any.nodes()? {
            self.scan_node(&mut node, &mut names)?;
        }
        names.sort();
        // SCAN may answer with a key twice.
        names.dedup();
        Ok(names)
    }

    fn scan_node(&self, node: &mut Link<'_>, names: &mut Vec<String>) -> Result<()> {
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(Keys::pattern(&self.config.prefix));
            scan.arg("COUNT").arg(1000).arg("TYPE").arg("hash");
            let reply = checked(node.exchange(&Request::one(&scan))?.pop().unwrap_or_default())?;
            let mut parts = array("SCAN", reply)?.into_iter();
            cursor = parts.next().as_ref().and_then(text).unwrap_or_default();
            for key in array("SCAN", parts.next().unwrap_or_default())? {
                let key = text(&key);
                names.extend(key.as_deref().and_then(|key| Keys::name_in(&self.config.prefix, key)).map(str::to_owned));
            }
            if cursor == "0" || cursor.is_empty() {
                return Ok(());
            }
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
        let snapshot = protocol::snapshot(&array("HMGET", next())?)?.0;
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

    /// Begins to import pages under a name. Nothing is to be seen of them until
    /// [`Import::finish`]. With `overwrite`, a database of this name is replaced then.
    ///
    /// # Errors
    /// There is a database of this name and `overwrite` is not set; the server can't be asked.
    pub fn import(&self, name: &str, page_size: u32, page_count: u32, overwrite: bool) -> Result<Import<'_>> {
        self.at(name, self.begin_import(name, page_size, page_count, overwrite))
    }

    fn begin_import(&self, name: &str, page_size: u32, page_count: u32, overwrite: bool) -> Result<Import<'_>> {
        let keys = self.keys(name)?;
        check_shape(page_size.into(), page_count.into())?;
        let server = self.server(&keys);
        let exists = server.ask_checked(&Request::one(cmd("EXISTS").arg(&keys.hash)))?.pop();
        let exists = checked(exists.unwrap_or_default())?;
        if count(&exists) > 0 && !overwrite {
            return Err(Cause::Exists.into());
        }
        Ok(Import {
            admin: self,
            name: name.to_owned(),
            stage: Stage::new(server.clone(), &keys, self.config.compress)?,
            server,
            keys,
            page_size,
            page_count,
            overwrite,
            batch: Vec::new(),
        })
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

/// An import on its way. Dropped before [`Import::finish`], it leaves nothing behind.
pub struct Import<'a> {
    admin: &'a Admin,
    server: Arc<Server>,
    name: String,
    keys: Keys,
    stage: Stage,
    page_size: u32,
    page_count: u32,
    overwrite: bool,
    batch: Vec<Vec<u8>>,
}

impl Import<'_> {
    /// Adds the next page; the first is page 1.
    ///
    /// # Errors
    /// A page of another size or one too many; the server fails.
    pub fn page(&mut self, mut page: Vec<u8>) -> Result<()> {
        let number = self.stage.pages + self.batch.len() as u32 + 1;
        if page.len() != self.page_size as usize || number > self.page_count {
            let reason = format!("page {number} of {} has {} bytes", self.page_count, page.len());
            return self.admin.at(&self.name, Err(Cause::Unsupported(reason).into()));
        }
        if number == 1 {
            // "The file format write and read version": 2 is WAL, which there is none of here.
            page[18..20].fill(1);
        }
        self.batch.push(page);
        if self.batch.len() == BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let sent = self.send_batch();
        self.admin.at(&self.name, sent)
    }

    fn send_batch(&mut self) -> Result<()> {
        let pages = PageNo::range(self.stage.pages + 1, self.page_count).zip(self.batch.iter().map(Vec::as_slice));
        self.stage.add(pages)?;
        self.batch.clear();
        Ok(())
    }

    /// Puts the database in its place, in one step. Returns its version.
    ///
    /// # Errors
    /// Pages are missing; someone made or changed a database of this name meanwhile.
    pub fn finish(mut self) -> Result<u64> {
        let outcome = self.send_batch().and_then(|()| self.publish());
        self.stage.published = outcome.is_ok();
        self.admin.at(&self.name, outcome)
    }

    fn publish(&mut self) -> Result<u64> {
        if self.stage.pages != self.page_count {
            return Err(Cause::Unsupported(format!("{} of {} pages came", self.stage.pages, self.page_count)).into());
        }
        let (keys, staging) = (&self.keys, &self.stage.key);
        let mut link = self.server.link()?;
        let mut watch = Request::one(cmd("WATCH").arg(&keys.hash).arg(staging));
        watch.push(&snapshot_command(keys));
        watch.push(cmd("EXISTS").arg(&keys.hash));
        watch.push(cmd("HLEN").arg(staging));
        // A server that refuses this one would take what follows command by command.
        watch.push(&cmd("MULTI"));
        let replies: Result<Vec<Value>> = link.exchange(&watch)?.into_iter().map(checked).collect();
        // Unless it comes to the end of this, the connection is no use to others.
        let ready = replies.and_then(|replies| self.ready(&replies));
        if ready.is_err() {
            link.close();
        }
        let base = ready?;
        // Readers of what was there before must see that the version is another one.
        let snapshot = Snapshot {
            version: base.version.next(),
            commit: CommitId::draw()?,
            page_size: self.page_size,
            page_count: self.page_count,
        };
        let (commit, version) = (snapshot.commit, snapshot.version.0);
        let entry = Commit { base, snapshot, pages: Vec::new(), undo: &Undo::Barrier };
        let mut publish = Request::default();
        let log_mark = LogMark { begins: version, bytes: 0 };
        publish.push(cmd("HSET").arg(staging).arg(metadata(&Snapshot::EMPTY, &snapshot, FORMAT, log_mark)));
        publish.push(cmd("PERSIST").arg(staging));
        publish.push(cmd("UNLINK").arg(&keys.hash).arg(&keys.log).arg(&keys.undo).arg(&keys.staged));
        publish.push(cmd("RENAME").arg(staging).arg(&keys.hash));
        let store = RedisStore::new(self.server.clone(), &self.admin.config, keys::database_name(&self.name)?);
        store.xadd(&entry, KeptUndo::NONE, &mut publish);
        publish.push(&cmd("EXEC"));
        let mut replies = match link.exchange(&publish) {
            Ok(replies) => replies,
            Err(error) => return self.was_published(commit, version, error),
        };
        let exec = replies.pop().unwrap_or_default();
        for reply in replies {
            checked(reply)?;
        }
        match checked(exec)? {
            Value::Array(results) => results.into_iter().map(checked).collect::<Result<Vec<_>>>().map(|_| version),
            Value::Nil => Err(self.overtaken()),
            other => Err(bad_reply("EXEC", &other).into()),
        }
    }

    /// Checks the replies to what is asked before publishing; returns what is to be replaced.
    fn ready(&self, replies: &[Value]) -> Result<Snapshot> {
        let [_, snapshot, exists, staged, _] = replies else {
            return Err(Cause::BadReply("to WATCH".into()).into());
        };
        if count(exists) > 0 && !self.overwrite {
            return Err(Cause::Exists.into());
        }
        self.stage.check(staged.clone())?;
        // A damaged database may be replaced too.
        let fields = array("HMGET", snapshot.clone())?;
        Ok(protocol::snapshot(&fields).map_or(Snapshot::EMPTY, |(at, _)| at))
    }

    /// Why `EXEC` was refused.
    fn overtaken(&self) -> Error {
        let exists = self.server.ask(&Request::one(cmd("EXISTS").arg(&self.keys.hash)));
        let exists = exists.ok().and_then(|mut replies| replies.pop()).is_some_and(|reply| count(&reply) > 0);
        if exists && !self.overwrite { Cause::Exists.into() } else { Cause::ImportOvertaken.into() }
    }

    /// After a lost reply: whether the database is in its place.
    fn was_published(&self, commit: CommitId, version: u64, lost: Error) -> Result<u64> {
        let hget = cmd("HGET").arg(&self.keys.hash).arg(keys::COMMIT).to_owned();
        let found = checked(self.server.ask(&Request::one(&hget))?.pop().unwrap_or_default())?;
        if text(&found).is_some_and(|found| found == commit.to_string()) { Ok(version) } else { Err(lost) }
    }
}
