//! The store that is a Redis server: one hash, one stream, one lock for each database.

use std::sync::{Arc, LazyLock};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use redis::{Cmd, Connection, Value, cmd};

use crate::config::Config;
use crate::error::{Cause, Result};
use crate::store::keys::{self, Keys};
use crate::store::protocol::{self, array, bad_reply, text};
use crate::store::server::{Link, Request, Server, checked};
use crate::store::{
    Commit, CommitId, FORMAT, Fetched, Leased, LogEntry, Page, PageNo, Snapshot, Store, Undo, Version, Writer,
};

/// Pages in one `HSET` of a commit, and entries in one `XRANGE`.
const BATCH: usize = 256;

/// Bytes of undo data in one log entry at most, whatever `log_bytes` allows: a server takes no
/// value larger than its `proto-max-bulk-len`, by default 512 MB.
const MOST_UNDO: u64 = 256 << 20;

/// Lua without the comment lines, which nobody reads on the wire.
static RELEASE: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/release.lua")));
static RENEW: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/renew.lua")));

fn script(source: &str) -> String {
    source.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n")
}

/// The pages of one database on one server.
#[derive(Clone)]
pub(crate) struct RedisStore {
    server: Arc<Server>,
    keys: Arc<Keys>,
    timeout: Duration,
    log_commits: u64,
    log_bytes: u64,
}

impl RedisStore {
    pub(crate) fn new(server: Arc<Server>, config: &Config, name: &str) -> Self {
        RedisStore {
            server,
            keys: Arc::new(Keys::new(&config.prefix, name)),
            timeout: config.timeout,
            log_commits: config.log_commits,
            log_bytes: config.log_bytes,
        }
    }

    /// Refuses servers and keys that can't serve; fetches pages like [`Store::fetch`].
    pub(crate) fn open(&self, pages: &[PageNo]) -> Result<Fetched> {
        self.server.check()?;
        let mut request = Request::default();
        request.push(cmd("TYPE").arg(&self.keys.hash));
        request.push(cmd("TYPE").arg(&self.keys.log));
        request.push(&self.hmget(pages));
        let mut replies = self.server.ask(&request)?.into_iter();
        for (key, expected) in [(&self.keys.hash, "hash"), (&self.keys.log, "stream")] {
            let reply = checked(replies.next().unwrap_or_default())?;
            match text(&reply) {
                Some(found) if found == expected || found == "none" => {}
                Some(found) => return Err(Cause::ForeignKey { key: key.clone(), found, expected }.into()),
                None => return Err(bad_reply("TYPE", &reply).into()),
            }
        }
        fetched(replies.next().unwrap_or_default(), pages)
    }

    fn hmget(&self, pages: &[PageNo]) -> Cmd {
        let mut command = cmd("HMGET");
        command.arg(&self.keys.hash);
        for field in keys::SNAPSHOT {
            command.arg(field);
        }
        for &page in pages {
            command.arg(keys::page(page));
        }
        command
    }

    fn release_command(&self, token: &str) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(RELEASE.as_str()).arg(1).arg(&self.keys.lock).arg(token);
        command
    }

    fn xrange(&self, first: Version, last: Version) -> Cmd {
        let mut command = cmd("XRANGE");
        command.arg(&self.keys.log).arg(format!("{first}-0")).arg(format!("{last}-0")).arg("COUNT").arg(BATCH);
        command
    }
}

/// Snapshot and pages out of the reply to an `HMGET`.
pub(crate) fn fetched(reply: Value, pages: &[PageNo]) -> Result<Fetched> {
    let mut values = array("HMGET", checked(reply)?)?;
    if values.len() != keys::SNAPSHOT.len() + pages.len() {
        return Err(Cause::BadReply(format!("HMGET was answered with {} values", values.len())).into());
    }
    let contents = values.split_off(keys::SNAPSHOT.len());
    let at = protocol::snapshot(&values)?;
    let pages = pages
        .iter()
        .zip(contents)
        .map(|(&page, value)| Ok(protocol::page(page, value, &at)?.map(Page::new)))
        .collect::<Result<_>>()?;
    Ok(Fetched { at, pages })
}

impl Store for RedisStore {
    fn fetch(&self, pages: &[PageNo]) -> Result<Fetched> {
        let mut replies = self.server.ask(&Request::one(&self.hmget(pages)))?;
        fetched(replies.pop().unwrap_or_default(), pages)
    }

    fn history(&self, after: Version, through: Version) -> Result<Vec<LogEntry>> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut first = after.next();
        while first <= through {
            let mut replies = self.server.ask(&Request::one(&self.xrange(first, through)))?;
            let batch = protocol::log_entries(checked(replies.pop().unwrap_or_default())?)?;
            let Some(last) = batch.last() else { break };
            if last.version < first {
                return Err(Cause::BadReply("XRANGE answered with entries that were not asked for".into()).into());
            }
            first = last.version.next();
            entries.extend(batch);
        }
        Ok(entries)
    }

    fn lease(&self, token: &str, life: Duration) -> Result<Leased> {
        let mut writer = RedisWriter {
            server: self.server.clone(),
            store: self.clone(),
            token: token.to_owned(),
            life,
            connection: None,
            leased: false,
            open: false,
            log_mark: LogMark::default(),
        };
        match writer.begin()? {
            Ok(snapshot) => Ok(Leased::Held(Box::new(writer), snapshot)),
            Err(holder) => Ok(Leased::ByAnother(holder)),
        }
    }

    fn renew(&self, token: &str, life: Duration) -> Result<bool> {
        let mut command = cmd("EVAL");
        command.arg(RENEW.as_str()).arg(1).arg(&self.keys.lock).arg(token).arg(life.as_millis() as u64);
        let mut replies = self.server.ask(&Request::one(&command))?;
        match checked(replies.pop().unwrap_or_default())? {
            Value::Int(renewed) => Ok(renewed == 1),
            other => Err(bad_reply("EVAL", &other).into()),
        }
    }

    fn leased(&self) -> Result<bool> {
        let mut replies = self.server.ask(&Request::one(cmd("EXISTS").arg(&self.keys.lock)))?;
        match checked(replies.pop().unwrap_or_default())? {
            Value::Int(found) => Ok(found > 0),
            other => Err(bad_reply("EXISTS", &other).into()),
        }
    }
}

/// The holder of the write lease, and the connection that watches the hash for it.
struct RedisWriter {
    server: Arc<Server>,
    store: RedisStore,
    token: String,
    life: Duration,
    /// Kept from the `WATCH` to the `EXEC`, which belong to one connection.
    connection: Option<Connection>,
    /// Whether the lease was got, and not given back since.
    leased: bool,
    /// Whether `connection` watches the hash and has a transaction open for the commit. `MULTI`
    /// goes ahead of the commit, because pages must never be sent to a server that has refused
    /// it: it would take each command by itself, past the watch.
    open: bool,
    /// The log's size as it was when the hash was watched.
    log_mark: LogMark,
}

/// Bounds the log's bytes, which a stream can't do by itself. The log has two halves; when the
/// younger has got its share, the older is dropped and the younger takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogMark {
    /// Version with which the younger half begins.
    pub begins: u64,
    /// Bytes of undo data in the younger half.
    pub bytes: u64,
}

impl LogMark {
    /// A mark that does not parse only costs a late trim, so it is no reason to refuse a commit.
    pub(crate) fn parse(value: &Value) -> LogMark {
        let parse = || {
            let text = text(value)?;
            let (begins, bytes) = text.split_once(' ')?;
            Some(LogMark { begins: begins.parse().ok()?, bytes: bytes.parse().ok()? })
        };
        parse().unwrap_or_default()
    }

    /// The mark after a commit, and the first version to keep if the older half is to go.
    fn add(self, version: Version, bytes: u64, share: u64) -> (LogMark, Option<u64>) {
        let total = self.bytes.saturating_add(bytes);
        if self.bytes > 0 && total > share {
            (LogMark { begins: version.0, bytes }, Some(self.begins))
        } else {
            (LogMark { begins: self.begins.max(1), bytes: total }, None)
        }
    }
}

/// How an attempt to commit ended short of a failure.
enum Attempt {
    Done,
    /// The reply was lost.
    Lost(String),
}

impl RedisWriter {
    fn link(&mut self) -> Result<Link<'_>> {
        match self.connection.take() {
            Some(connection) => Ok(self.server.attach(connection)),
            None => self.server.link(),
        }
    }

    /// One round trip: take the lease unless it is held already, watch the hash, read the version,
    /// open the transaction.
    /// `Err(holder)` inside `Ok` when another holds the lease.
    fn begin(&mut self) -> Result<Result<Snapshot, String>> {
        let outcome = match self.try_begin() {
            // The idle connection had died; nothing was asked for that can't be asked again.
            Err(error) if matches!(error.cause, Cause::ConnectionLost(_)) => self.try_begin(),
            outcome => outcome,
        };
        match outcome {
            // The lease may be ours although its reply was lost, and would keep others waiting.
            Err(error) if matches!(error.cause, Cause::ConnectionLost(_)) && !self.leased => {
                self.leased = true;
                Err(self.give_up(error))
            }
            outcome => outcome,
        }
    }

    fn try_begin(&mut self) -> Result<Result<Snapshot, String>> {
        let mut request = Request::default();
        let taking = !self.leased;
        if taking {
            let life = self.life.as_millis() as u64;
            request.push(cmd("SET").arg(&self.store.keys.lock).arg(&self.token).arg("NX").arg("PX").arg(life));
        }
        request.push(cmd("WATCH").arg(&self.store.keys.hash));
        request.push(&self.store.hmget(&[]));
        request.push(cmd("HGET").arg(&self.store.keys.hash).arg(keys::LOG_MARK));
        request.push(&cmd("MULTI"));
        let mut link = self.link()?;
        let mut replies = link.exchange(&request)?.into_iter();
        let connection = link.detach();
        let mut next = || replies.next().unwrap_or_default();
        let taken = if taking { checked(next()) } else { Ok(Value::Okay) };
        let watched = checked(next());
        let snapshot = fetched(next(), &[]);
        self.log_mark = LogMark::parse(&next());
        let opened = checked(next());
        if opened.is_err() {
            // Closed, and with it the watch.
            drop(connection);
        } else {
            (self.connection, self.open) = (connection, true);
        }
        match taken {
            Ok(Value::Okay) => self.leased = true,
            Ok(Value::Nil) => return self.refused(),
            Ok(other) => return Err(bad_reply("SET", &other).into()),
            Err(error) => return Err(self.give_up(error)),
        }
        match watched.and(opened).and(snapshot) {
            Ok(fetched) => Ok(Ok(fetched.at)),
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// Cleans up after a failure, which is the one to report whatever comes of this.
    fn give_up(&mut self, error: crate::Error) -> crate::Error {
        if let Err(second) = self.release() {
            crate::ffi::log(&format!("after a failure ({error}), giving back the lease failed too: {second}"));
        }
        error
    }

    /// Another holds the lease, or an earlier try of ours whose reply was lost: then it is ours.
    fn refused(&mut self) -> Result<Result<Snapshot, String>> {
        let get = cmd("GET").arg(&self.store.keys.lock).to_owned();
        let holder = self.leave(Some(&get))?;
        match text(&holder) {
            Some(token) if token == self.token => {
                self.leased = true;
                self.try_begin()
            }
            Some(token) => Ok(Err(token)),
            None => Ok(Err("another, who has just given it back".to_owned())),
        }
    }

    /// Closes the transaction that was opened for the commit, and asks for one thing more, which
    /// may be asked twice, in the same trip.
    fn leave(&mut self, last: Option<&Cmd>) -> Result<Value> {
        let open = std::mem::take(&mut self.open);
        if let Some(connection) = self.connection.take() {
            let mut request = Request::default();
            let discard = open.then(|| cmd("DISCARD"));
            for command in discard.iter().chain(last) {
                request.push(command);
            }
            let mut link = self.server.attach(connection);
            if let Ok(mut replies) = link.exchange(&request) {
                let reply = if last.is_some() { replies.pop() } else { None };
                if replies.into_iter().all(|discarded| checked(discarded).is_ok()) {
                    return checked(reply.unwrap_or_default());
                }
                // Forbidden: the transaction ends with the connection.
                link.close();
            }
        }
        let Some(last) = last else { return Ok(Value::Nil) };
        checked(self.server.ask(&Request::one(last))?.pop().unwrap_or_default())
    }

    /// Makes sure that the hash is watched and is at the version the commit was made from.
    fn watch(&mut self, base: &Snapshot) -> Result<()> {
        if self.open && self.connection.is_some() {
            return Ok(());
        }
        match self.begin()? {
            Ok(found) if found.identity() == base.identity() => Ok(()),
            Ok(found) => Err(Cause::Stale { snapshot: base.version, found: found.version }.into()),
            Err(holder) => Err(Cause::Busy(holder).into()),
        }
    }

    /// One round trip: the transaction, and the lease given back.
    fn attempt(&mut self, commit: &Commit<'_>, release: bool) -> Result<Attempt> {
        let mut request = self.store.transaction(commit, self.log_mark);
        if release {
            request.push(&self.store.release_command(&self.token));
        }
        let mut link = self.link()?;
        let replies = link.exchange(&request);
        let connection = link.detach();
        self.open = false;
        let mut replies = match replies {
            Ok(replies) => replies,
            Err(error) => return Ok(Attempt::Lost(error.cause.to_string())),
        };
        let released = if release { replies.pop() } else { None };
        let exec = replies.pop().unwrap_or_default();
        // Only EXEC tells what became of the commit. What tells nothing is as good as no reply, and
        // nothing that follows it on this connection is to be believed.
        let told = match &exec {
            Value::Nil | Value::ServerError(_) => true,
            Value::Array(results) => results.len() == replies.len(),
            _ => false,
        };
        if !told {
            return Ok(Attempt::Lost(bad_reply("EXEC", &exec).to_string()));
        }
        self.connection = connection;
        if let Some(released) = released {
            self.leased = false;
            if let Err(error) = checked(released) {
                crate::ffi::log(&format!("the lease on {} will end by itself: {error}", self.store.keys.hash));
            }
        }
        match exec {
            Value::Nil => Err(self.overtaken(commit)),
            Value::Array(results) => self.store.check_results(commit, results).map(|()| Attempt::Done),
            refused => {
                // A command that was refused while it was queued says why; EXEC only says that one was.
                for reply in replies.into_iter().chain([refused]) {
                    checked(reply)?;
                }
                Err(Cause::BadReply("EXEC".into()).into())
            }
        }
    }

    /// Why `EXEC` was refused: someone changed the hash since it was watched.
    fn overtaken(&self, commit: &Commit<'_>) -> crate::Error {
        match self.store.fetch(&[]) {
            Ok(now) => Cause::Stale { snapshot: commit.base.version, found: now.at.version }.into(),
            Err(_) => Cause::Stale { snapshot: commit.base.version, found: commit.base.version.next() }.into(),
        }
    }

    /// Finds out what became of a commit whose reply was lost: `true` it is there, `false` it is
    /// not and nobody else's is, so that it can be tried again.
    fn resolve(&self, commit: &Commit<'_>) -> Result<bool> {
        let at = commit.snapshot.version;
        let mut request = Request::one(&self.store.hmget(&[]));
        request.push(&self.store.xrange(at, at));
        let mut replies = self.server.ask(&request)?.into_iter();
        let now = fetched(replies.next().unwrap_or_default(), &[])?.at;
        let logged = protocol::log_entries(checked(replies.next().unwrap_or_default())?)?;
        let mine = |commit_id: CommitId| commit_id == commit.snapshot.commit;
        if now.identity() == commit.snapshot.identity() || logged.iter().any(|entry| mine(entry.commit)) {
            return Ok(true);
        }
        if now.identity() == commit.base.identity() {
            return Ok(false);
        }
        if now.version > at && logged.is_empty() {
            let reason = format!("version {} is current and the log does not reach back", now.version);
            return Err(unknown(commit, reason));
        }
        Err(Cause::Stale { snapshot: commit.base.version, found: now.version }.into())
    }

    /// Repeats [`RedisWriter::resolve`] until the server answers or the time is up.
    fn resolve_in_time(&self, commit: &Commit<'_>, lost: &str, deadline: Instant) -> Result<bool> {
        let mut pause = Duration::from_millis(5);
        loop {
            let error = match self.resolve(commit) {
                Ok(there) => return Ok(there),
                Err(error) if matches!(error.cause, Cause::Stale { .. } | Cause::OutcomeUnknown { .. }) => {
                    return Err(error);
                }
                Err(error) => error,
            };
            if !passes(&error.cause) || Instant::now() + pause >= deadline {
                return Err(unknown(commit, format!("{lost}; and then: {}", error.cause)));
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}

/// Whether a failure may be over when the same is tried again.
fn passes(cause: &Cause) -> bool {
    matches!(cause, Cause::ConnectionLost(_) | Cause::Unreachable(_) | Cause::Loading(_))
}

fn unknown(commit: &Commit<'_>, reason: String) -> crate::Error {
    Cause::OutcomeUnknown { version: commit.snapshot.version, commit: commit.snapshot.commit, reason }.into()
}

impl Writer for RedisWriter {
    /// As long as a try was not answered, it may still arrive. So from then on only the log and
    /// the hash decide: a later try that is refused may have been refused because of the first.
    fn commit(&mut self, commit: &Commit<'_>, release: bool) -> Result<()> {
        let deadline = Instant::now() + self.store.timeout.max(self.life);
        let mut lost = None;
        loop {
            let error = match self.watch(&commit.base).and_then(|()| self.attempt(commit, release)) {
                Ok(Attempt::Done) => return Ok(()),
                Ok(Attempt::Lost(reason)) => {
                    lost = Some(reason);
                    None
                }
                Err(error) => Some(error),
            };
            let Some(lost) = &lost else { return error.map_or(Ok(()), Err) };
            // A commit that is still on its way from the lost connection can't follow a second
            // one: the hash it watches will have changed.
            if self.resolve_in_time(commit, lost, deadline)? {
                if release && let Err(error) = self.release() {
                    crate::ffi::log(&format!("the lease on {} will end by itself: {error}", self.store.keys.hash));
                }
                return Ok(());
            }
            if let Some(error) = error.filter(|error| !passes(&error.cause) || Instant::now() >= deadline) {
                return Err(unknown(commit, format!("{lost}; and when it was sent again: {}", error.cause)));
            }
        }
    }

    fn release(&mut self) -> Result<()> {
        if !self.leased && !self.open {
            return Ok(());
        }
        let release = std::mem::take(&mut self.leased).then(|| self.store.release_command(&self.token));
        self.leave(release.as_ref()).map(|_| ())
    }
}

impl Drop for RedisWriter {
    fn drop(&mut self) {
        // A connection in a transaction is not for others.
        if let Some(connection) = self.connection.take() {
            let mut link = self.server.attach(connection);
            if self.open {
                link.close();
            }
        }
    }
}

impl RedisStore {
    /// What follows `MULTI` in a commit, up to `EXEC`.
    fn transaction(&self, commit: &Commit<'_>, log_mark: LogMark) -> Request {
        let mut request = Request::default();
        let Commit { base, snapshot, .. } = commit;
        let share = (self.log_bytes / 2).min(MOST_UNDO);
        let deltas = match &commit.undo {
            Undo::Deltas(deltas) if deltas.len() as u64 <= share => Some(deltas.as_slice()),
            Undo::Deltas(_) | Undo::Barrier => None,
        };
        let log_mark = if *base == Snapshot::EMPTY { LogMark::default() } else { log_mark };
        let (log_mark, trim) = log_mark.add(snapshot.version, deltas.map_or(0, <[u8]>::len) as u64, share);
        let mut hset = metadata(&self.keys.hash, snapshot, log_mark);
        for (n, (page, bytes)) in commit.pages.iter().enumerate() {
            if n % BATCH == BATCH - 1 {
                request.push(&hset);
                hset = cmd("HSET");
                hset.arg(&self.keys.hash);
            }
            hset.arg(keys::page(*page)).arg(*bytes);
        }
        request.push(&hset);
        let removed: Vec<_> = commit.removed().collect();
        for batch in removed.chunks(BATCH) {
            let mut hdel = cmd("HDEL");
            hdel.arg(&self.keys.hash);
            for &page in batch {
                hdel.arg(keys::page(page));
            }
            request.push(&hdel);
        }
        if *base == Snapshot::EMPTY {
            // What an earlier database of this name left, or its versions would be in the way.
            request.push(cmd("DEL").arg(&self.keys.log));
        }
        if let Some(first) = trim {
            request.push(cmd("XTRIM").arg(&self.keys.log).arg("MINID").arg(format!("{first}-0")));
        }
        request.push(&self.xadd(commit, deltas));
        request.push(&cmd("EXEC"));
        request
    }

    pub(crate) fn xadd(&self, commit: &Commit<'_>, deltas: Option<&[u8]>) -> Cmd {
        let mut command = cmd("XADD");
        command.arg(&self.keys.log).arg("MAXLEN").arg("~").arg(self.log_commits);
        command.arg(format!("{}-0", commit.snapshot.version));
        command.arg(keys::log::COMMIT).arg(commit.snapshot.commit.to_string());
        command.arg(keys::log::BASE).arg(commit.base.commit.to_string());
        command.arg(keys::log::TIME).arg(now_ms());
        command.arg(keys::log::PAGE_SIZE).arg(commit.base.page_size);
        command.arg(keys::log::PAGE_COUNT).arg(commit.base.page_count);
        if let Some(deltas) = deltas {
            command.arg(keys::log::UNDO).arg(deltas);
        }
        command
    }

    /// The results of an `EXEC` that was carried out. The last is the log's: if only that failed,
    /// the commit stands (the hash alone is the database), and the log is begun anew so that
    /// nobody takes what is in it for the history of this version.
    fn check_results(&self, commit: &Commit<'_>, mut results: Vec<Value>) -> Result<()> {
        let logged = results.pop().map(checked);
        for result in results {
            checked(result)?;
        }
        match logged {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => {
                crate::ffi::log(&format!(
                    "version {} of {} is committed, but its log was damaged ({error}) and is begun anew",
                    commit.snapshot.version, self.keys.hash
                ));
                let deleted = self.server.ask(&Request::one(cmd("DEL").arg(&self.keys.log)));
                if let Err(error) = deleted.and_then(|mut replies| checked(replies.pop().unwrap_or_default())) {
                    crate::ffi::log(&format!("the damaged log of {} is still there: {error}", self.keys.hash));
                }
                Ok(())
            }
            None => Err(Cause::BadReply("EXEC was answered with nothing".into()).into()),
        }
    }
}

/// Sets the fields of a hash that are not pages; pages can be added to the command.
pub(crate) fn metadata(hash: &str, snapshot: &Snapshot, log_mark: LogMark) -> Cmd {
    let mut hset = cmd("HSET");
    hset.arg(hash);
    hset.arg(keys::VERSION).arg(snapshot.version.0);
    hset.arg(keys::COMMIT).arg(snapshot.commit.to_string());
    hset.arg(keys::PAGE_SIZE).arg(snapshot.page_size);
    hset.arg(keys::PAGE_COUNT).arg(snapshot.page_count);
    hset.arg(keys::FORMAT).arg(FORMAT);
    hset.arg(keys::LOG_MARK).arg(format!("{} {}", log_mark.begins, log_mark.bytes));
    hset
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_travel_without_their_comments() {
        assert!(RELEASE.starts_with("if redis.call('GET'") && !RELEASE.contains("--"));
        assert!(RENEW.contains("PEXPIRE"));
    }

    #[test]
    fn the_log_keeps_between_half_and_all_of_its_bytes() {
        let (mut mark, mut kept) = (LogMark::default(), std::collections::VecDeque::new());
        for version in 1..1000 {
            let (next, trim) = mark.add(Version(version), 7, 50);
            kept.retain(|&(at, _)| trim.is_none_or(|first| at >= first));
            kept.push_back((version, 7));
            mark = next;
            let bytes: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
            assert!(bytes <= 100 && (version < 20 || bytes >= 43), "{bytes} at {version}");
        }
        assert_eq!(LogMark::parse(&Value::BulkString(b"12 x".to_vec())), LogMark::default());
    }
}
