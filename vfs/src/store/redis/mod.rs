//! The store that is a Redis server: one hash, one stream, one lock for each database.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::{Value, cmd};

use crate::model::error::{Cause, Result};
use crate::model::log_entry::{Commit, LogEntry, Piece, PiecesAsked};
use crate::model::page::PageNo;
use crate::model::version::{CommitId, Snapshot, Version};
use crate::store::redis::base::{HANDOVER, Read, RedisStore, contents, read, script, snapshot};
use crate::store::redis::log_batch::{ENTRY, REPLY, most_log, size};
use crate::store::redis::stage::Stage;
use crate::store::redis::writer::RedisWriter;
use crate::store::{Ahead, Bid, Ending, Fetched, Heard, Held, Leased, Lingers, News, Store, Writer};
use crate::wire::link::Kept;
use crate::wire::pace::Pace;
use crate::wire::reply::checked;
use crate::wire::reply::{array, bad_reply, text};
use crate::wire::request::Request;

pub(crate) mod base;
pub(crate) mod commit;
mod full;
pub(crate) mod keys;
mod lease_by_watch;
pub(crate) mod lease_queue;
mod log_batch;
pub(crate) mod replies;
pub(crate) mod stage;
pub(crate) mod together;
pub(crate) mod undo_stream;
pub(crate) mod wait;
pub(crate) mod writer;

/// Entries in one `XREAD`. Mostly there is one, the commit that was waited for.
const NEWS: usize = 16;

static RENEW: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/renew.lua")));

/// What opening has found.
pub(crate) struct Opened {
    pub(crate) fetched: Fetched,
    /// The pages that are likely to be needed.
    pub(crate) others: Option<Fetched>,
    /// When the server removes the database, if somebody has set that.
    pub(crate) expires: Option<Duration>,
}

impl RedisStore {
    /// Refuses servers and keys that can't serve; fetches pages like [`Store::fetch`]. Others that are
    /// `likely` to be needed come in the same trip, if nothing is wrong with them.
    pub(crate) fn open(&self, pages: &[PageNo], likely: &[PageNo]) -> Result<Opened> {
        let mut request = Request::default();
        request.push(cmd("TYPE").arg(&self.keys.hash));
        request.push(cmd("TYPE").arg(&self.keys.log));
        request.push(cmd("TYPE").arg(&self.keys.undo));
        request.push(cmd("PTTL").arg(&self.keys.hash));
        request.push(&self.hmget(pages));
        if !likely.is_empty() {
            request.push(&self.hmget(likely));
        }
        let mut replies = self.server.ask_checked(&request)?.into_iter();
        for (key, expected) in [(&self.keys.hash, "hash"), (&self.keys.log, "stream"), (&self.keys.undo, "stream")] {
            let reply = checked(replies.next().unwrap_or_default())?;
            match text(&reply) {
                Some(found) if found == expected || found == "none" => {}
                Some(found) => return Err(Cause::ForeignKey { key: key.clone(), found, expected }.into()),
                None => return Err(bad_reply("TYPE", &reply).into()),
            }
        }
        // Where access rules forbid to ask, it is taken to have none, as it should.
        let expires = match replies.next() {
            Some(Value::Int(left)) => u64::try_from(left).ok().map(Duration::from_millis),
            _ => None,
        };
        let fetched = self.whole(read(replies.next().unwrap_or_default(), pages)?, pages)?;
        let others = match replies.next().map(|reply| read(reply, likely)) {
            Some(Ok(Read::Whole(others))) => Some(others),
            Some(Ok(Read::Staged(..)) | Err(_)) | None => None,
        };
        Ok(Opened { fetched, others, expires })
    }

    /// Takes the time to live away from the database.
    pub(crate) fn persist(&self) -> Result<()> {
        let mut replies = self.server.ask(&Request::one(cmd("PERSIST").arg(&self.keys.hash)))?;
        checked(replies.pop().unwrap_or_default()).map(|_| ())
    }

    /// Pages where some may be staged: both places in one trip. The staged ones are asked for
    /// first, so a page that moves in between is found in one place or in both; and if the hash is
    /// at the commit that the staged ones belong to, it was when they were read.
    fn fetch_staged(&self, pages: &[PageNo]) -> Result<Fetched> {
        let mut staged = cmd("HMGET");
        staged.arg(&self.keys.staged).arg(keys::COMMIT);
        for &page in pages {
            staged.arg(keys::page(page));
        }
        let mut request = Request::one(&staged);
        request.push(&self.hmget(pages));
        let mut tries = 3;
        loop {
            let mut replies = self.server.ask(&request)?.into_iter();
            let staged = array("HMGET", checked(replies.next().unwrap_or_default())?)?;
            let (at, mut values) = match read(replies.next().unwrap_or_default(), pages)? {
                Read::Whole(fetched) => {
                    self.staged.store(false, Relaxed);
                    return Ok(fetched);
                }
                Read::Staged(at, values) => (at, values),
            };
            self.staged.store(true, Relaxed);
            if stage::overlay(&at, &mut values, staged)? {
                return contents(at, pages, values);
            }
            tries -= 1;
            if tries == 0 {
                return Err(stage::missing(&at));
            }
        }
    }

    /// With the pages that are staged.
    fn whole(&self, hash: Read, pages: &[PageNo]) -> Result<Fetched> {
        match hash {
            Read::Whole(fetched) => Ok(fetched),
            Read::Staged(at, _) if pages.is_empty() => Ok(Fetched { at, pages: Vec::new() }),
            Read::Staged(..) => self.fetch_staged(pages),
        }
    }
}

/// Whether `ROLE` says that the server is a primary. Where that may not be asked, it is taken for what
/// it was named as.
fn is_primary(role: Value) -> Result<bool> {
    match checked(role) {
        Ok(Value::Array(role)) => Ok(role.first().and_then(text).is_some_and(|role| role == "master")),
        Ok(other) => Err(bad_reply("ROLE", &other).into()),
        Err(error) if error.cause.is_refusal() => Ok(false),
        Err(error) => Err(error),
    }
}

impl Store for RedisStore {
    fn fetch(&self, pages: &[PageNo]) -> Result<Fetched> {
        if self.staged.load(Relaxed) && !pages.is_empty() {
            return self.fetch_staged(pages);
        }
        let mut replies = match pages {
            [] => self.server.ask(&self.packed.metadata)?,
            _ => self.server.ask(&Request::one(&self.hmget(pages)))?,
        };
        self.whole(read(replies.pop().unwrap_or_default(), pages)?, pages)
    }

    /// `ROLE` comes after `HMGET`: what was a replica then was one when it answered that.
    fn fetch_as_replica(&self, pages: &[PageNo]) -> Result<Option<Fetched>> {
        let mut request = Request::one(&self.hmget(pages));
        request.push(&cmd("ROLE"));
        let mut replies = self.server.ask(&request)?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let (hash, role) = (read(next(), pages)?, next());
        if is_primary(role)? {
            return Ok(None);
        }
        self.whole(hash, pages).map(Some)
    }

    fn ahead(&self) -> Result<Option<Box<dyn Ahead>>> {
        let kept = self.server.link()?.detach();
        Ok(Some(Box::new(RedisAhead { store: self.clone(), kept, asked: VecDeque::new() })))
    }

    fn history(&self, after: Version, through: Version) -> Result<Vec<LogEntry>> {
        Ok(self.news(after, through, &[])?.entries)
    }

    /// What comes of the pages is seen when they are needed.
    fn news(&self, after: Version, through: Version, pages: &[PageNo]) -> Result<News> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut fetched = None;
        let (most_entries, most_bytes) = most_log(self.log_commits, self.log_bytes);
        if through.0.saturating_sub(after.0) > most_entries {
            // No log has them all.
            return Ok(News::default());
        }
        let mut pace = Pace::new(self.reply_time);
        let mut first = after.next();
        while first <= through {
            let mut request = Request::one(&self.xrange(first, through, self.entry_size.count(REPLY)));
            let with_pages = entries.is_empty() && !pages.is_empty();
            if with_pages {
                request.push(&self.hmget(pages));
            }
            let mut replies = self.server.ask(&request).inspect_err(|error| self.entry_size.learn_from(error))?;
            if with_pages && let Some(Ok(Read::Whole(whole))) = replies.pop().map(|reply| read(reply, pages)) {
                fetched = Some(whole);
            }
            let reply = checked(replies.pop().unwrap_or_default())?;
            self.entry_size.learn(&reply);
            let bytes = pace.came(size(&reply))?;
            let batch = replies::log_entries(reply)?;
            let Some(last) = batch.last() else { break };
            if last.version < first {
                return Err(Cause::BadReply("XRANGE answered with entries that were not asked for".into()).into());
            }
            first = last.version.next();
            entries.extend(batch);
            if bytes + entries.len() * ENTRY > most_bytes {
                let reason = format!("the log has more than {most_bytes} bytes between versions {after} and {through}");
                return Err(Cause::BadReply(reason).into());
            }
        }
        Ok(News { entries, fetched })
    }

    fn undo(&self, asked: &[PiecesAsked]) -> Result<Vec<Vec<(CommitId, Piece)>>> {
        self.fetch_pieces(asked)
    }

    /// `XREAD` holds up what follows it on the connection, so the metadata in the same trip is of
    /// the moment when the wait ended. It is what counts: after a failover, the log may be one
    /// that never gets to where this one was.
    fn listen(&self, after: Version, patience: Duration) -> Result<Heard> {
        // A reply must have come before the connection is given up.
        let block = patience.min(self.reply_time / 2).as_millis().max(1) as u64;
        let mut xread = cmd("XREAD");
        xread
            .arg("COUNT")
            .arg(self.entry_size.count(REPLY).min(NEWS))
            .arg("BLOCK")
            .arg(block)
            .arg("STREAMS")
            .arg(&self.keys.log)
            .arg(format!("{after}-0"));
        let mut request = Request::one(&xread);
        request.append(&self.packed.metadata);
        request.push(&cmd("ROLE"));
        let mut replies = self.server.ask(&request)?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let entries = replies::news(checked(next())?)?;
        Ok(Heard { entries, at: snapshot(next())?.0, as_primary: is_primary(next())? })
    }

    fn check_complete(&self, at: &Snapshot) -> Result<()> {
        let mut request = Request::one(cmd("HLEN").arg(&self.keys.hash));
        request.append(&self.packed.metadata);
        let mut replies = self.server.ask(&request)?.into_iter();
        let fields = checked(replies.next().unwrap_or_default())?;
        let Value::Int(fields) = fields else { return Err(bad_reply("HLEN", &fields).into()) };
        let now = snapshot(replies.next().unwrap_or_default())?.0;
        if now.identity() != at.identity() {
            return Err(Cause::Stale { snapshot: at.version, found: now.version }.into());
        }
        at.check_stored(u64::try_from(fields).unwrap_or(0))
    }

    fn stage(&self) -> Result<Option<Stage>> {
        // A script moves staged pages to their place.
        if !self.calls_scripts()? {
            return Ok(None);
        }
        Stage::new(self.server.clone(), &self.keys, self.compress).map(Some)
    }

    fn lease(&self, bid: Bid<'_>) -> Result<Leased> {
        // A reply that takes longer than `timeout` would count as lost.
        let patience = bid.patience.min(self.reply_time / 2);
        let mut writer = RedisWriter::new(self, Bid { patience, ..bid });
        let begun = writer.begin();
        if let Err(error) = &begun
            && matches!(error.cause, Cause::Interrupted)
        {
            writer.abandon();
            return Err(error.clone());
        }
        match begun? {
            Ok(snapshot) => {
                let (token, news) = (writer.token.clone(), writer.news.take());
                let life = if writer.passed { HANDOVER } else { bid.life };
                Ok(Leased::Held(Held { writer: Box::new(writer), snapshot, token, life, news }))
            }
            Err(holder) => Ok(Leased::ByAnother(holder)),
        }
    }

    fn renew(&self, token: &str, life: Duration) -> Result<bool> {
        let mut command = cmd("EVAL");
        command.arg(RENEW.as_str()).arg(1).arg(&self.keys.lock).arg(token).arg(life.as_millis() as u64);
        let by_watch = || {
            let mut pexpire = cmd("PEXPIRE");
            self.if_held(token, pexpire.arg(&self.keys.lock).arg(life.as_millis() as u64))
        };
        if self.server.scripts().are_refused() {
            return by_watch();
        }
        let mut replies = self.server.ask(&Request::one(&command))?;
        match checked(replies.pop().unwrap_or_default()) {
            Ok(Value::Int(renewed)) => Ok(renewed == 1),
            Ok(other) => Err(bad_reply("EVAL", &other).into()),
            Err(error) if self.server.scripts().are_refused_by(&error.cause) => by_watch(),
            Err(error) => Err(error),
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

/// The calls go to the methods of [`RedisWriter`] itself.
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
        RedisWriter::commit(self, commit, stage, ending)
    }

    fn release(&mut self) -> Result<()> {
        RedisWriter::release(self)
    }
}

/// Questions on one connection, whose answers come in order.
struct RedisAhead {
    store: RedisStore,
    /// `None` when it failed.
    kept: Option<Kept>,
    asked: VecDeque<Vec<PageNo>>,
}

impl Ahead for RedisAhead {
    fn ask(&mut self, pages: &[PageNo]) -> Result<()> {
        let Some(kept) = self.kept.take() else { return Err(Cause::ConnectionLost("it is closed".into()).into()) };
        let mut link = self.store.server.attach(kept);
        link.send(&Request::one(&self.store.hmget(pages)))?;
        self.kept = link.detach();
        self.asked.push_back(pages.to_vec());
        Ok(())
    }

    fn answer(&mut self) -> Option<Fetched> {
        let pages = self.asked.pop_front()?;
        let mut link = self.store.server.attach(self.kept.take()?);
        let reply = link.receive(1).ok()?.pop()?;
        self.kept = link.detach();
        match read(reply, &pages) {
            Ok(Read::Whole(fetched)) => Some(fetched),
            // Whoever asks in the ordinary way is told of failures.
            Ok(Read::Staged(..)) | Err(_) => None,
        }
    }
}

impl Drop for RedisAhead {
    fn drop(&mut self) {
        // A connection with answers to come is not for others.
        if let Some(kept) = self.kept.take().filter(|_| self.asked.is_empty()) {
            drop(self.store.server.attach(kept));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_travel_without_their_comments() {
        assert!(RENEW.starts_with("if redis.call('GET'") && !RENEW.contains("--"));
        assert!(RENEW.contains("PEXPIRE"));
    }
}
