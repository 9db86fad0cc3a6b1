//! The one who writes: lease, watch, commit, and what became of a commit whose reply was lost.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::{Cmd, Value, cmd};

use crate::model::error::{Cause, Result};
use crate::model::log_entry::Commit;
use crate::model::page::PageNo;
use crate::model::version::{CommitId, Snapshot, Version};
use crate::process::fault;
use crate::process::fault::Point;
use crate::sqlite::interrupt;
use crate::store::data::{After, Bid, Ending, Lingers, News};
use crate::store::redis::base::{RedisStore, watching};
use crate::store::redis::commit::LogMark;
use crate::store::redis::full::is_full;
use crate::store::redis::lease_queue::RELEASE;
use crate::store::redis::replies;
use crate::store::redis::stage;
use crate::store::redis::stage::Stage;
use crate::wire::link::{Kept, Link};
use crate::wire::reply::checked;
use crate::wire::reply::{array, bad_reply, text};
use crate::wire::request::Request;
use crate::wire::script::By;
use crate::wire::server::Server;

pub(crate) use crate::store::redis::writer::resolve::{answer, is_done, is_open_to, unknown};

use crate::store::redis::writer::in_time::{Attempt, Attempts};

/// The holder of the write lease, and the connection that watches the hash for it.
pub(crate) struct RedisWriter {
    pub(crate) server: Arc<Server>,
    pub(crate) store: RedisStore,
    pub(crate) token: String,
    pub(crate) life: Duration,
    /// How long it stands in line for a lease that another holds.
    patience: Duration,
    /// See [`Bid`].
    pub(crate) known: Version,
    pub(crate) pages: Vec<PageNo>,
    /// What came with a lease that was waited for.
    pub(crate) news: Option<News>,
    /// The lease was passed on by another.
    pub(crate) passed: bool,
    /// Kept from the `WATCH` to the `EXEC`, which belong to one connection.
    pub(crate) connection: Option<Kept>,
    /// How often staged pages were moved to their place since it began to take the lease.
    promotions: u32,
    /// Whether the lease was got, and not given back since.
    pub(crate) leased: bool,
    /// Whether `connection` watches the hash and has a transaction open for the commit. `MULTI`
    /// goes ahead of the commit, because pages must never be sent to a server that has refused
    /// it: it would take each command by itself, past the watch.
    pub(crate) open: bool,
    /// The version that the hash was at when it was watched.
    at: Option<(Version, CommitId)>,
    /// The log's size as it was when the hash was watched.
    log_mark: LogMark,
    /// The pages of a large commit, watched as well.
    pub(crate) stage: Option<Stage>,
}

/// How often staged pages are moved to their place before the lease is taken. Once is enough, unless another
/// has committed in spite of the lease.
const MOST_PROMOTIONS: u32 = 3;

/// Checks the reply to `MULTI`. What follows an untrue one would be carried out command by command.
pub(crate) fn opened(reply: Value) -> Result<()> {
    match checked(reply)? {
        Value::Okay => Ok(()),
        other => Err(bad_reply("MULTI", &other).into()),
    }
}

impl RedisWriter {
    pub(crate) fn new(store: &RedisStore, bid: Bid<'_>) -> Self {
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
            promotions: 0,
            connection: None,
            leased: false,
            open: false,
            at: None,
            log_mark: LogMark::default(),
            stage: None,
        }
    }

    pub(crate) fn link(&mut self) -> Result<Link<'_>> {
        match self.connection.take() {
            Some(connection) => Ok(self.server.attach(connection)),
            None => self.server.link(),
        }
    }

    /// One round trip: take the lease unless it is held already, watch the hash, read the version,
    /// open the transaction.
    /// `Err(holder)` inside `Ok` when another holds the lease.
    pub(crate) fn begin(&mut self) -> Result<Result<Snapshot, String>> {
        self.promotions = 0;
        // Where others wait, there is no use in asking before one stands in line.
        let in_line = self.stands_in_line() && !self.leased && self.store.contended.load(Relaxed);
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

    pub(crate) fn try_begin(&mut self) -> Result<Result<Snapshot, String>> {
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
            Err(error) if is_full(&error) => {
                self.leave(None)?;
                return match self.take_when_full(error)? {
                    Ok(()) => {
                        self.leased = true;
                        self.try_begin()
                    }
                    Err(holder) => Ok(Err(holder)),
                };
            }
            Err(error) => return Err(self.give_up(error)),
        }
        self.found(found)
    }

    /// What comes of the version that was found with the lease: where pages are staged, they are moved to
    /// their place first.
    pub(crate) fn found(&mut self, found: Result<(Snapshot, bool)>) -> Result<Result<Snapshot, String>> {
        match found.and_then(|found| fault::at(Point::AfterLease).map(|()| found)) {
            Ok((at, false)) => Ok(Ok(at)),
            Ok((at, true)) if self.promotions == MOST_PROMOTIONS => Err(self.give_up(stage::missing(&at))),
            Ok((at, true)) => match self.leave(None).and_then(|_| self.store.promote(&at)) {
                Ok(()) => {
                    self.promotions += 1;
                    self.try_begin()
                }
                Err(error) => Err(self.give_up(error)),
            },
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// What watches the hash, reads its version, and opens the transaction for the commit.
    pub(crate) fn watching(&self) -> Cow<'_, Request> {
        match &self.stage {
            None => Cow::Borrowed(&self.store.packed.watching),
            Some(stage) => Cow::Owned(watching(&self.store.keys.hash, Some(&stage.key))),
        }
    }

    /// What came of it, on this connection: the version found, and whether pages of it are staged.
    pub(crate) fn watched(
        &mut self,
        connection: Option<Kept>,
        mut replies: impl Iterator<Item = Value>,
    ) -> Result<(Snapshot, bool)> {
        let mut next = || replies.next().unwrap_or_default();
        let watched = checked(next());
        let mut metadata = checked(next()).and_then(|reply| array("HMGET", reply));
        let mark = metadata.as_mut().ok().and_then(Vec::pop);
        self.log_mark = mark.map(|mark| LogMark::parse(&mark)).unwrap_or_default();
        let snapshot = metadata.and_then(|metadata| replies::snapshot(&metadata));
        let gathered = self.stage.as_ref().map_or(Ok(()), |stage| stage.check(next()));
        let opened = checked(next()).and_then(opened);
        self.at = snapshot.as_ref().ok().filter(|(_, staged)| !staged).map(|(at, _)| at.identity());
        // Otherwise the connection is closed: it may watch the hash, or have the transaction open.
        self.open = watched.is_ok() && opened.is_ok();
        self.connection = connection.filter(|_| self.open);
        watched.and(opened).and(gathered).and(snapshot)
    }

    /// Gives back the lease that is held.
    fn give_back(&mut self) -> Result<()> {
        let server = self.server.clone();
        if !server.scripts().are_refused() {
            match self.leave(Some(&self.store.release_command(&self.token, By::Text)?)) {
                Ok(reply) => {
                    server.scripts().is_called(&RELEASE, By::Text, &reply);
                    return Ok(());
                }
                Err(error) if server.scripts().are_refused_by(&error.cause) => {}
                Err(error) => return Err(error),
            }
        }
        self.leave(None)?;
        self.store.release_by_watch(&self.token)
    }

    /// Cleans up after a failure, which is the one to report whatever comes of this. After an interrupt, see
    /// [`RedisWriter::abandon`].
    pub(crate) fn give_up(&mut self, error: crate::model::error::Error) -> crate::model::error::Error {
        if !matches!(error.cause, Cause::Interrupted)
            && let Err(second) = interrupt::never(|| self.release())
        {
            crate::process::log::log(&format!("after a failure ({error}), giving back the lease failed too: {second}"));
        }
        error
    }

    /// Whether it stands in line for a lease that another holds, which takes a script and `BLPOP`.
    fn stands_in_line(&self) -> bool {
        let has_line = !self.server.scripts().are_refused() && !self.store.lacks_line.load(Relaxed);
        !self.patience.is_zero() && has_line
    }

    /// Gives back what it may have got of the lease, or its place in line, without waiting for the server.
    pub(crate) fn abandon(mut self) {
        self.leased = true;
        crate::store::release_later(move || {
            let stand = cmd("LREM").arg(&self.store.keys.queue).arg(0).arg(&self.token).to_owned();
            let left = self.leave(Some(&stand));
            self.release().and(left.map(|_| ()))
        });
    }

    /// Another holds the lease, or an earlier try of ours whose reply was lost: then it is ours.
    fn refused(&mut self) -> Result<Result<Snapshot, String>> {
        if self.stands_in_line() {
            let patience = std::mem::take(&mut self.patience);
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
    pub(crate) fn leave(&mut self, last: Option<&Cmd>) -> Result<Value> {
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
                if replies.into_iter().all(|discarded| discarded == Value::Okay) {
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

    /// See `Writer::commit`.
    pub(super) fn commit(
        &mut self,
        commit: &Commit<'_>,
        stage: Option<Stage>,
        ending: Ending,
    ) -> Result<Option<Lingers>> {
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

    /// Gives the lease back, if it is still held.
    pub(super) fn release(&mut self) -> Result<()> {
        if !self.leased && !self.open {
            return Ok(());
        }
        fault::at(Point::BeforeRelease)?;
        if std::mem::take(&mut self.leased) {
            self.give_back()?;
        } else {
            self.leave(None)?;
        }
        fault::at(Point::AfterRelease)
    }
}

/// A commit, and how it is to end.
struct Commits<'a, 'c> {
    writer: &'a mut RedisWriter,
    commit: &'a Commit<'c>,
    ending: Ending,
}

impl Attempts for Commits<'_, '_> {
    type Done = attempt::Done;

    fn attempt(&mut self) -> Result<Attempt<attempt::Done>> {
        self.writer.watch(&self.commit.base)?;
        match self.writer.attempt(self.commit, self.ending) {
            Err(error) if is_full(&error) && self.commit.shrinks && self.writer.stage.is_none() => {
                self.writer.commit_when_full(self.commit, self.ending.wait, error)
            }
            outcome => outcome,
        }
    }

    fn resolve(&mut self) -> Result<bool> {
        self.writer.resolve(self.commit)
    }

    fn unknown(&self, reason: String) -> crate::model::error::Error {
        unknown(self.commit, reason)
    }
}

impl RedisWriter {
    fn commit_in_time(&mut self, commit: &Commit<'_>, ending: Ending) -> Result<Option<Lingers>> {
        let patience = self.store.patience;
        match in_time::commit(&mut Commits { writer: self, commit, ending }, patience)? {
            Some(attempt::Done { waited, lingers }) => {
                self.settle(commit, lingers.is_some() || ending.lease == After::Keep);
                self.check_wait(commit, ending.wait, waited.map(checked)).map(|()| lingers)
            }
            None => {
                self.settle(commit, ending.lease == After::Keep);
                self.wait_again(commit, ending.wait).map(|()| None)
            }
        }
    }
}

impl RedisWriter {
    /// One round trip: removes the database, if it is still at this version.
    pub(super) fn remove_at(&mut self, at: &Snapshot) -> Result<()> {
        self.watch(at)?;
        let keys = self.store.keys.clone();
        let mut request = Request::one(cmd("DEL").arg(&keys.hash).arg(&keys.log).arg(&keys.undo).arg(&keys.staged));
        request.push(&cmd("EXEC"));
        self.open = false;
        let mut link = self.link()?;
        let replies = link.exchange(&request);
        // A connection on which EXEC failed may be in the transaction still.
        link.close();
        drop(link);
        let exec = match replies {
            Ok(mut replies) => replies.pop().unwrap_or_default(),
            // It may be done all the same.
            Err(lost) => {
                let now = self.store.newest().map_err(|_| lost.clone())?;
                return if now == Snapshot::EMPTY { Ok(()) } else { Err(lost) };
            }
        };
        match checked(exec)? {
            Value::Array(_) => Ok(()),
            Value::Nil => Err(Cause::Stale { snapshot: at.version, found: at.version.next() }.into()),
            other => Err(bad_reply("EXEC", &other).into()),
        }
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

pub(crate) mod attempt;
pub(crate) mod in_time;
mod resolve;
#[cfg(test)]
mod tests;
