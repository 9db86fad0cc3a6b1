//! What became of a commit whose reply was lost, and what is to be done after one.

use redis::Value;

use crate::config::Wait;
use crate::model::error::{Cause, Result};
use crate::model::log_entry::{Commit, LogEntry};
use crate::model::version::{Snapshot, Version};
use crate::process::fault;
use crate::process::fault::Point;
use crate::store::redis::base::{RedisStore, snapshot};
use crate::store::redis::writer::RedisWriter;
use crate::store::redis::{replies, wait};
use crate::wire::reply::checked;
use crate::wire::request::Request;

impl RedisWriter {
    /// Finds out what became of a commit whose reply was lost: `true` it is there, `false` it is
    /// not and nobody else's is, so that it can be tried again.
    pub(crate) fn resolve(&self, commit: &Commit<'_>) -> Result<bool> {
        fault::at(Point::BeforeResolve)?;
        let mut replies = self.server.ask(&self.store.question(commit))?.into_iter();
        let (now, logged) = answer(&mut replies)?;
        if is_done(commit, &now, &logged) {
            return Ok(true);
        }
        is_open_to(commit, &now, &logged).map(|()| false)
    }

    /// Waits for the replicas of a commit that turned out to be done. A server waits for all that
    /// it had done by the connection's last command, so others go ahead of `WAIT`. They ask whether
    /// the commit is there: since it was found, a replica that lacks it may have become the primary.
    pub(crate) fn wait_again(&self, commit: &Commit<'_>, wait: Wait) -> Result<()> {
        let waits = wait::commands(wait);
        if waits.is_empty() {
            return Ok(());
        }
        let mut request = self.store.question(commit);
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
    pub(crate) fn check_wait(&self, commit: &Commit<'_>, wait: Wait, waited: Option<Result<Value>>) -> Result<()> {
        let checked = waited.map_or(Ok(()), |reply| wait::check(commit.snapshot.version, wait, reply));
        if checked.is_err() {
            self.server.doubt();
        }
        checked
    }

    /// After a commit: staged pages move to their place, and the lease is given back unless it is to
    /// be kept. Neither changes what was committed; whoever writes next promotes what is left.
    pub(crate) fn settle(&mut self, commit: &Commit<'_>, keep: bool) {
        if let Some(mut stage) = self.stage.take() {
            stage.published = true;
            let promoted = fault::at(Point::BeforePromote).and_then(|()| self.store.promote(&commit.snapshot));
            if let Err(error) = promoted {
                crate::process::log::log(&format!("pages of {} stay staged: {error}", self.store.keys.hash));
            }
        }
        if !keep && let Err(error) = self.release() {
            crate::process::log::log(&format!("the lease on {} will end by itself: {error}", self.store.keys.hash));
        }
    }
}

impl RedisStore {
    /// What tells whether a commit is done: the metadata, and the log's entry of that version.
    pub(crate) fn question(&self, commit: &Commit<'_>) -> Request {
        let at = commit.snapshot.version;
        let mut request = self.packed.metadata.clone();
        request.push(&self.xrange(at, at, 1));
        request
    }
}

/// The answer to [`RedisStore::question`]. A log that can't be read tells nothing.
pub(crate) fn answer(replies: &mut impl Iterator<Item = Value>) -> Result<(Snapshot, Vec<LogEntry>)> {
    let (now, _) = snapshot(replies.next().unwrap_or_default())?;
    let logged = checked(replies.next().unwrap_or_default()).and_then(replies::log_entries);
    Ok((now, logged.unwrap_or_default()))
}

pub(crate) fn is_done(commit: &Commit<'_>, now: &Snapshot, logged: &[LogEntry]) -> bool {
    now.identity() == commit.snapshot.identity() || logged.iter().any(|entry| entry.commit == commit.snapshot.commit)
}

/// Whether a commit that is not done can still be made.
pub(crate) fn is_open_to(commit: &Commit<'_>, now: &Snapshot, logged: &[LogEntry]) -> Result<()> {
    if now.identity() == commit.base.identity() {
        return Ok(());
    }
    // What would tell whether it was done, the id in the hash or in the log, is not there any more.
    if logged.is_empty() && (now.version > commit.snapshot.version || *now == Snapshot::EMPTY) {
        let reason = match now.version {
            Version(0) => "the database is gone".to_owned(),
            version => format!("version {version} is current and the log does not reach back"),
        };
        return Err(unknown(commit, reason));
    }
    Err(Cause::Stale { snapshot: commit.base.version, found: now.version }.into())
}

pub(crate) fn unknown(commit: &Commit<'_>, reason: String) -> crate::model::error::Error {
    Cause::OutcomeUnknown { version: commit.snapshot.version, commit: commit.snapshot.commit, reason }.into()
}
