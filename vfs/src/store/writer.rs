//! The one who writes: lease, watch, commit, and what became of a commit whose reply was lost.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::{Cmd, Value, cmd};

use crate::config::Wait;
use crate::error::{Cause, Result};
use crate::fault::{self, Point};
use crate::store::commit::LogMark;
use crate::store::protocol::{self, array, bad_reply, text};
use crate::store::redis::{RedisStore, snapshot};
use crate::store::request::Request;
use crate::store::script::By;
use crate::store::server::{Kept, Link, Server, checked};
use crate::store::stage::Stage;
use crate::store::turn::{KEEP, RELEASE};
use crate::store::{
    After, Bid, Commit, CommitId, Ending, Lingers, LogEntry, News, PageNo, Snapshot, Store, Version, Writer, keys, wait,
};

/// The holder of the write lease, and the connection that watches the hash for it.
pub(crate) struct RedisWriter {
    pub(super) server: Arc<Server>,
    pub(super) store: RedisStore,
    pub(super) token: String,
    pub(super) life: Duration,
    /// How long it stands in line for a lease that another holds.
    patience: Duration,
    /// See [`Bid`].
    pub(super) known: Version,
    pub(super) pages: Vec<PageNo>,
    /// What came with a lease that was waited for.
    pub(super) news: Option<News>,
    /// The lease was passed on by another.
    pub(super) passed: bool,
    /// Kept from the `WATCH` to the `EXEC`, which belong to one connection.
    pub(super) connection: Option<Kept>,
    /// Whether the lease was got, and not given back since.
    pub(super) leased: bool,
    /// Whether `connection` watches the hash and has a transaction open for the commit. `MULTI`
    /// goes ahead of the commit, because pages must never be sent to a server that has refused
    /// it: it would take each command by itself, past the watch.
    pub(super) open: bool,
    /// The version that the hash was at when it was watched.
    at: Option<(Version, CommitId)>,
    /// The log's size as it was when the hash was watched.
    log_mark: LogMark,
    /// The pages of a large commit, watched as well.
    pub(super) stage: Option<Stage>,
}

/// Watches a hash, and the pages staged for a commit; asks for the version, for the log's size and how
/// many pages are staged; opens the transaction.
pub(super) fn watching(hash: &str, stage: Option<&str>) -> Request {
    let mut request = Request::one(cmd("WATCH").arg(hash).arg(stage));
    ask_version(&mut request, hash, stage);
    request.push(&cmd("MULTI"));
    request
}

/// Asks for a version, for the log's size and how many pages are staged.
pub(super) fn ask_version(request: &mut Request, hash: &str, stage: Option<&str>) {
    request.push(cmd("HMGET").arg(hash).arg(&keys::SNAPSHOT).arg(keys::LOG_MARK));
    if let Some(stage) = stage {
        request.push(cmd("HLEN").arg(stage));
    }
}

/// How an attempt to commit ended short of a failure.
enum Attempt {
    Done {
        /// What `WAIT` answered.
        waited: Option<Value>,
        lingers: Option<Lingers>,
    },
    /// The reply was lost.
    Lost(String),
}

impl RedisWriter {
    pub(super) fn new(store: &RedisStore, bid: Bid<'_>) -> Self {
        RedisWriter {
            server: store.server.clone(),
            store: store.clone(),
            token: bid.token.to_owned(),
            life: bid.life,
            patience: bid.patience,
            known: bid.known,
            pages: bid.pages.to_vec(),
            news: None,
            passed: false,
            connection: None,
            leased: false,
            open: false,
            at: None,
            log_mark: LogMark::default(),
            stage: None,
        }
    }

    pub(super) fn link(&mut self) -> Result<Link<'_>> {
        match self.connection.take() {
            Some(connection) => Ok(self.server.attach(connection)),
            None => self.server.link(),
        }
    }

    /// One round trip: take the lease unless it is held already, watch the hash, read the version,
    /// open the transaction.
    /// `Err(holder)` inside `Ok` when another holds the lease.
    pub(super) fn begin(&mut self) -> Result<Result<Snapshot, String>> {
        // Where others wait, there is no use in asking before one stands in line.
        let in_line = !self.patience.is_zero() && !self.leased && self.store.contended.load(Relaxed);
        let outcome = match if in_line { self.refused() } else { self.try_begin() } {
            // The idle connection had died, or led to a server that was replaced; nothing was asked
            // for that can't be asked again.
            Err(error) if self.server.is_elsewhere(&error.cause) => self.try_begin(),
            outcome => outcome,
        };
        match outcome {
            // The lease may be ours although its reply was lost, and would keep others waiting. (When
            // no reply came in time, a server that does not answer is not asked again.)
            Err(error) if matches!(error.cause, Cause::ConnectionLost(_)) && !self.leased => {
                self.leased = true;
                Err(self.give_up(error))
            }
            outcome => outcome,
        }
    }

    fn try_begin(&mut self) -> Result<Result<Snapshot, String>> {
        fault::at(Point::BeforeLease)?;
        let mut request = Request::with_room();
        let taking = !self.leased;
        if taking {
            let mut set = request.begin(6);
            set.word("SET").word(&self.store.keys.lock).word(&self.token).word("NX");
            set.word("PX").number(self.life.as_millis() as u64);
        }
        request.append(&self.watching());
        let mut link = self.link()?;
        let mut replies = link.exchange(&request)?.into_iter();
        let connection = link.detach();
        let taken = if taking { checked(replies.next().unwrap_or_default()) } else { Ok(Value::Okay) };
        let found = self.watched(connection, replies);
        match taken {
            Ok(Value::Okay) => self.leased = true,
            Ok(Value::Nil) => return self.refused(),
            Ok(other) => return Err(bad_reply("SET", &other).into()),
            Err(error) => return Err(self.give_up(error)),
        }
        self.found(found)
    }

    /// What comes of the version that was found with the lease: where pages are staged, they are moved to
    /// their place first.
    pub(super) fn found(&mut self, found: Result<(Snapshot, bool)>) -> Result<Result<Snapshot, String>> {
        match found.and_then(|found| fault::at(Point::AfterLease).map(|()| found)) {
            Ok((at, false)) => Ok(Ok(at)),
            Ok((at, true)) => match self.leave(None).and_then(|_| self.store.promote(&at)) {
                Ok(()) => self.try_begin(),
                Err(error) => Err(self.give_up(error)),
            },
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// What watches the hash, reads its version, and opens the transaction for the commit.
    pub(super) fn watching(&self) -> Cow<'_, Request> {
        match &self.stage {
            None => Cow::Borrowed(&self.store.packed.watching),
            Some(stage) => Cow::Owned(watching(&self.store.keys.hash, Some(&stage.key))),
        }
    }

    /// What came of it, on this connection: the version found, and whether pages of it are staged.
    pub(super) fn watched(
        &mut self,
        connection: Option<Kept>,
        mut replies: impl Iterator<Item = Value>,
    ) -> Result<(Snapshot, bool)> {
        let mut next = || replies.next().unwrap_or_default();
        let watched = checked(next());
        let mut metadata = checked(next()).and_then(|reply| array("HMGET", reply));
        let mark = metadata.as_mut().ok().and_then(Vec::pop);
        self.log_mark = mark.map(|mark| LogMark::parse(&mark)).unwrap_or_default();
        let snapshot = metadata.and_then(|metadata| protocol::snapshot(&metadata));
        let gathered = self.stage.as_ref().map_or(Ok(()), |stage| stage.check(next()));
        let opened = checked(next());
        self.at = snapshot.as_ref().ok().filter(|(_, staged)| !staged).map(|(at, _)| at.identity());
        // One that could not be opened is closed, and with it the watch.
        self.open = opened.is_ok();
        self.connection = connection.filter(|_| self.open);
        watched.and(opened).and(gathered).and(snapshot)
    }

    /// Cleans up after a failure, which is the one to report whatever comes of this.
    pub(super) fn give_up(&mut self, error: crate::Error) -> crate::Error {
        if let Err(second) = self.release() {
            crate::ffi::log(&format!("after a failure ({error}), giving back the lease failed too: {second}"));
        }
        error
    }

    /// Another holds the lease, or an earlier try of ours whose reply was lost: then it is ours.
    fn refused(&mut self) -> Result<Result<Snapshot, String>> {
        let patience = std::mem::take(&mut self.patience);
        if !patience.is_zero() {
            return self.wait_for_turn(patience);
        }
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
    pub(super) fn leave(&mut self, last: Option<&Cmd>) -> Result<Value> {
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
            if self.at == Some(base.identity()) {
                return Ok(());
            }
            // A commit that was refused has watched anew what another has made of the hash.
            self.leave(None)?;
        }
        match self.begin()? {
            Ok(found) if found.identity() == base.identity() => Ok(()),
            Ok(found) => Err(Cause::Stale { snapshot: base.version, found: found.version }.into()),
            Err(holder) => Err(Cause::Busy(holder).into()),
        }
    }

    /// One round trip: the transaction, and the lease given back, or kept and the hash watched anew.
    fn attempt(&mut self, commit: &Commit<'_>, ending: Ending) -> Result<Attempt> {
        fault::at(Point::BeforeExec)?;
        // Staged pages are moved to their place under the lease. Nothing may fail once pages are on
        // their way.
        let script = match ending.lease {
            After::Release if self.stage.is_none() => Some(&*RELEASE),
            After::Linger(Some(_)) if self.stage.is_none() => Some(&*KEEP),
            _ => None,
        };
        let script = script.map(|script| (script, self.server.scripts().way_to(script)));
        let lease = match (ending.lease, script) {
            (After::Release, Some((_, by))) => Some(self.store.release_command(&self.token, by)?),
            (After::Linger(Some(life)), Some((_, by))) => Some(self.store.keep_command(&self.token, life, by)),
            (After::Linger(None), _) if self.stage.is_none() => Some(self.store.waiting_command()),
            _ => None,
        };
        let lingers = lease.is_some() && ending.lease != After::Release;
        let connection = self.connection.take();
        let mut link =
            connection.map_or_else(|| self.server.link(), |connection| Ok(self.server.attach(connection)))?;
        if link.is_replaced() {
            return Err(Cause::Moving("its server has been replaced".into()).into());
        }
        let mut sending = link.sending();
        let undo_commands = self.store.transaction(commit, self.log_mark, self.stage.as_ref(), &mut sending);
        let request = sending.piece();
        request.push(&cmd("EXEC"));
        let waits = wait::commands(ending.wait);
        lease.iter().chain(&waits).for_each(|command| request.push(command));
        let mut watching = 0;
        if lingers {
            watching = self.watching().ends.len();
            request.append(&self.watching());
        }
        let replies = sending.finish();
        let connection = link.detach();
        self.open = false;
        let mut replies = match replies.and_then(|replies| fault::at(Point::AfterExec).map(|()| replies)) {
            Ok(replies) => replies,
            Err(error) => return Ok(Attempt::Lost(error.cause.to_string())),
        };
        let watched = replies.split_off(replies.len().saturating_sub(watching));
        let waited = replies.split_off(replies.len().saturating_sub(waits.len())).pop();
        let lease = lease.and_then(|_| replies.pop());
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
        let mut waiting = None;
        // Where the script was not called, the lease is still held, and then given back.
        let scripts = self.server.scripts();
        let called = |reply: &Value| script.is_none_or(|(script, by)| scripts.is_called(script, by, reply));
        if let Some(lease) = lease.filter(called) {
            match checked(lease) {
                Ok(Value::Int(count)) if lingers => waiting = Some(count),
                // Nothing rests on how many wait; `keep.lua` tells of none where it can't be known.
                _ if ending.lease == After::Linger(None) => waiting = Some(0),
                Ok(_) => self.leased = false,
                Err(error) => {
                    self.leased = false;
                    crate::ffi::log(&format!("the lease on {} will end by itself: {error}", self.store.keys.hash));
                }
            }
        }
        let found = if lingers {
            self.watched(connection, watched.into_iter()).ok()
        } else {
            self.connection = connection;
            None
        };
        match exec {
            Value::Nil => Err(self.overtaken(commit)),
            Value::Array(results) => {
                self.store.check_results(commit, undo_commands, results)?;
                let ready = found.is_some_and(|(at, staged)| at == commit.snapshot && !staged);
                let lingers = waiting.filter(|_| ready).map(|count| Lingers { wanted: count > 0 });
                Ok(Attempt::Done { waited, lingers })
            }
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

    /// What tells whether a commit is done: the metadata, and the log's entry of that version.
    pub(super) fn question(&self, commit: &Commit<'_>) -> Request {
        let at = commit.snapshot.version;
        let mut request = self.store.packed.metadata.clone();
        request.push(&self.store.xrange(at, at, 1));
        request
    }

    /// Finds out what became of a commit whose reply was lost: `true` it is there, `false` it is
    /// not and nobody else's is, so that it can be tried again.
    fn resolve(&self, commit: &Commit<'_>) -> Result<bool> {
        fault::at(Point::BeforeResolve)?;
        let mut replies = self.server.ask(&self.question(commit))?.into_iter();
        let (now, logged) = answer(&mut replies)?;
        if is_done(commit, &now, &logged) {
            return Ok(true);
        }
        self.is_open_to(commit, &now, &logged).map(|()| false)
    }

    /// Whether a commit that is not done can still be made.
    pub(super) fn is_open_to(&self, commit: &Commit<'_>, now: &Snapshot, logged: &[LogEntry]) -> Result<()> {
        if now.identity() == commit.base.identity() {
            return Ok(());
        }
        if now.version > commit.snapshot.version && logged.is_empty() {
            let reason = format!("version {} is current and the log does not reach back", now.version);
            return Err(unknown(commit, reason));
        }
        Err(Cause::Stale { snapshot: commit.base.version, found: now.version }.into())
    }

    /// Waits for the replicas of a commit that turned out to be done. A server waits for all that
    /// it had done by the connection's last command, so others go ahead of `WAIT`. They ask whether
    /// the commit is there: since it was found, a replica that lacks it may have become the primary.
    pub(super) fn wait_again(&self, commit: &Commit<'_>, wait: Wait) -> Result<()> {
        let waits = wait::commands(wait);
        if waits.is_empty() {
            return Ok(());
        }
        let mut request = self.question(commit);
        waits.iter().for_each(|wait| request.push(wait));
        let waited = self.server.ask(&request).and_then(|replies| {
            let mut replies = replies.into_iter();
            let (now, logged) = answer(&mut replies)?;
            if !is_done(commit, &now, &logged) {
                return Err(Cause::Server("another server has taken over, which does not have it".into()).into());
            }
            checked(replies.last().unwrap_or_default())
        });
        self.check_wait(commit, wait, Some(waited))
    }

    /// Whether enough replicas have a commit that is done. A server that has lost its replicas may
    /// be one that they have left for another primary.
    pub(super) fn check_wait(&self, commit: &Commit<'_>, wait: Wait, waited: Option<Result<Value>>) -> Result<()> {
        let checked = waited.map_or(Ok(()), |reply| wait::check(commit.snapshot.version, wait, reply));
        if checked.is_err() {
            self.server.doubt();
        }
        checked
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

/// The answer to [`RedisWriter::question`].
pub(super) fn answer(replies: &mut impl Iterator<Item = Value>) -> Result<(Snapshot, Vec<LogEntry>)> {
    let (now, _) = snapshot(replies.next().unwrap_or_default())?;
    Ok((now, protocol::log_entries(checked(replies.next().unwrap_or_default())?)?))
}

pub(super) fn is_done(commit: &Commit<'_>, now: &Snapshot, logged: &[LogEntry]) -> bool {
    now.identity() == commit.snapshot.identity() || logged.iter().any(|entry| entry.commit == commit.snapshot.commit)
}

/// Whether a failure may be over when the same is tried again.
pub(super) fn passes(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::ConnectionLost(_)
            | Cause::NoReply
            | Cause::Unreachable(_)
            | Cause::NoConnectionLeft(_)
            | Cause::IsReplica(_)
            | Cause::Loading(_)
            | Cause::Moving(_)
            | Cause::TooFewReplicas(_)
    )
}

pub(super) fn unknown(commit: &Commit<'_>, reason: String) -> crate::Error {
    Cause::OutcomeUnknown { version: commit.snapshot.version, commit: commit.snapshot.commit, reason }.into()
}

impl RedisWriter {
    /// After a commit: staged pages move to their place, and the lease is given back unless it is to
    /// be kept. Neither changes what was committed; whoever writes next promotes what is left.
    pub(super) fn settle(&mut self, commit: &Commit<'_>, keep: bool) {
        if let Some(mut stage) = self.stage.take() {
            stage.published = true;
            let promoted = fault::at(Point::BeforePromote).and_then(|()| self.store.promote(&commit.snapshot));
            if let Err(error) = promoted {
                crate::ffi::log(&format!("pages of {} stay staged: {error}", self.store.keys.hash));
            }
        }
        if !keep && let Err(error) = self.release() {
            crate::ffi::log(&format!("the lease on {} will end by itself: {error}", self.store.keys.hash));
        }
    }

    /// As long as a try was not answered, it may still arrive. So from then on only the log and
    /// the hash decide: a later try that is refused may have been refused because of the first.
    fn commit_in_time(&mut self, commit: &Commit<'_>, ending: Ending) -> Result<Option<Lingers>> {
        let deadline = Instant::now() + self.store.patience;
        let mut lost = None;
        loop {
            let error = match self.watch(&commit.base).and_then(|()| self.attempt(commit, ending)) {
                Ok(Attempt::Done { waited, lingers }) => {
                    self.settle(commit, lingers.is_some() || ending.lease == After::Keep);
                    return self.check_wait(commit, ending.wait, waited.map(checked)).map(|()| lingers);
                }
                Ok(Attempt::Lost(reason)) => {
                    lost = Some(reason);
                    None
                }
                Err(error) => Some(error),
            };
            let Some(lost) = &lost else { return error.map_or(Ok(None), Err) };
            // A commit that is still on its way from the lost connection can't follow a second
            // one: the hash it watches will have changed.
            if self.resolve_in_time(commit, lost, deadline)? {
                self.settle(commit, ending.lease == After::Keep);
                return self.wait_again(commit, ending.wait).map(|()| None);
            }
            if let Some(error) = error.filter(|error| !passes(&error.cause) || Instant::now() >= deadline) {
                return Err(unknown(commit, format!("{lost}; and when it was sent again: {}", error.cause)));
            }
        }
    }
}

impl RedisWriter {
    /// One round trip: removes the database, if it is still at this version.
    fn remove_at(&mut self, at: &Snapshot) -> Result<()> {
        self.watch(at)?;
        let keys = self.store.keys.clone();
        let mut request = Request::one(cmd("DEL").arg(&keys.hash).arg(&keys.log).arg(&keys.undo).arg(&keys.staged));
        request.push(&cmd("EXEC"));
        let mut link = self.link()?;
        let replies = link.exchange(&request);
        self.connection = link.detach();
        self.open = false;
        match checked(replies?.pop().unwrap_or_default())? {
            Value::Array(_) => Ok(()),
            Value::Nil => Err(Cause::Stale { snapshot: at.version, found: at.version.next() }.into()),
            other => Err(bad_reply("EXEC", &other).into()),
        }
    }
}

impl Writer for RedisWriter {
    fn as_redis(&mut self) -> Option<&mut RedisWriter> {
        Some(self)
    }

    fn joins(&self) -> Option<String> {
        self.server.transaction_place()
    }

    fn remove(&mut self, at: &Snapshot) -> Result<()> {
        self.remove_at(at)
    }

    fn commit(&mut self, commit: &Commit<'_>, stage: Option<Stage>, ending: Ending) -> Result<Option<Lingers>> {
        if stage.is_some() {
            // These are to be watched, too.
            self.leave(None)?;
            self.stage = stage;
            fault::at(Point::Staged)?;
        }
        let outcome = self.commit_in_time(commit, ending);
        if let (Some(mut stage), Err(error)) = (self.stage.take(), &outcome) {
            // A try that may still arrive needs them; its watch would notice if they were gone.
            stage.published = matches!(error.cause, Cause::OutcomeUnknown { .. });
        }
        outcome
    }

    fn release(&mut self) -> Result<()> {
        if !self.leased && !self.open {
            return Ok(());
        }
        fault::at(Point::BeforeRelease)?;
        if std::mem::take(&mut self.leased) {
            let reply = self.leave(Some(&self.store.release_command(&self.token, By::Text)?))?;
            self.server.scripts().is_called(&RELEASE, By::Text, &reply);
        } else {
            self.leave(None)?;
        }
        fault::at(Point::AfterRelease)
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

#[cfg(test)]
mod tests;
