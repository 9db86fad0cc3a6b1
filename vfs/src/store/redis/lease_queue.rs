//! Waiting for the write lease. Whoever gives it back passes it on to the one who waits longest, so
//! nobody asks again and again, and nobody is overtaken.
//!
//! Those who wait put a token in the queue and block on the turn, a list (`BLPOP`, which serves in
//! order of arrival). To pass the lease on is to set it to a new token and to push that there: whoever
//! gets it holds the lease. What it needs then is asked for behind `BLPOP`, and so comes in the same round
//! trip, which is as long as the wait. Nothing rests on this: a lease that is lost on the way ends by itself.

use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::{Cmd, Value, cmd};

use crate::model::error::{Cause, Result};
use crate::model::unique;
use crate::model::version::{Snapshot, Version};
use crate::process::fault;
use crate::process::fault::Point;
use crate::store::data::{News, token};
use crate::store::redis::base::{Read, RedisStore, read, script};
use crate::store::redis::log_batch::REPLY_WITH_LEASE;
use crate::store::redis::replies;
use crate::store::redis::writer::RedisWriter;
use crate::wire::link::Kept;
use crate::wire::reply::{bad_reply, text};
use crate::wire::reply::{checked, server_cause};
use crate::wire::request::Request;
use crate::wire::script::{By, Script};

pub(crate) static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(script(include_str!("scripts/release.lua"))));
pub(crate) static KEEP: LazyLock<Script> = LazyLock::new(|| Script::new(script(include_str!("scripts/keep.lua"))));
// Who stands in line waits behind it, so it goes by its text: nobody may wait in vain for a turn.
static ASK: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/ask.lua")));

impl RedisStore {
    pub(crate) fn release_command(&self, token: &str, by: By) -> Result<Cmd> {
        let mut command = RELEASE.command(by);
        command.arg(1).arg(&self.keys.lock);
        command.arg(token).arg(format!("{:016x}", unique()?)).arg(self.handover.as_millis() as u64);
        command.arg(&self.keys.queue).arg(&self.keys.turn);
        Ok(command)
    }

    pub(crate) fn keep_command(&self, token: &str, life: Duration, by: By) -> Cmd {
        let mut command = KEEP.command(by);
        command.arg(1).arg(&self.keys.lock);
        command.arg(token).arg(life.as_millis() as u64).arg(&self.keys.queue);
        command
    }

    /// How many wait for the lease.
    pub(crate) fn waiting_command(&self) -> Cmd {
        cmd("LLEN").arg(&self.keys.queue).to_owned()
    }
}

impl RedisWriter {
    /// Another holds the lease: one round trip that ends when it was passed on, or after `patience`.
    pub(crate) fn wait_for_turn(&mut self, patience: Duration) -> Result<Result<Snapshot, String>> {
        fault::at(Point::BeforeLease)?;
        let (pass, replies) = self.stand_in_line(patience)?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let (holder, turn, _left, lock) = (next(), next(), next(), next());
        let news = self.asks_news().then(|| (next(), next()));
        let connection = self.connection.take();
        let found = self.watched(connection, replies);
        if self.is_without_line(&pass, &holder, &turn)? {
            return self.try_begin();
        }
        match self.whose_turn(&pass, holder, turn, lock) {
            Ok(Ok(token)) => {
                self.passed = token != self.token;
                self.token = token;
                self.leased = true;
                self.news = news.and_then(|(log, pages)| self.read_news(log, pages));
                self.found(found)
            }
            Ok(Err(holder)) => {
                self.leave(None)?;
                Ok(Err(holder))
            }
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// Whether the server refuses what it takes to stand in line. That is remembered.
    fn is_without_line(&mut self, pass: &str, holder: &Value, turn: &Value) -> Result<bool> {
        let cause = |reply: &Value| match reply {
            Value::ServerError(error) => Some(server_cause(error)),
            _ => None,
        };
        let scripts = self.server.scripts();
        let no_scripts = cause(holder).is_some_and(|cause| scripts.are_refused_by(&cause));
        let no_waiting = cause(turn).is_some_and(|cause| cause.is_refusal());
        self.store.lacks_line.fetch_or(no_waiting, Relaxed);
        // There is no room for the place in line.
        let is_full = matches!(cause(holder), Some(Cause::ServerFull(_)));
        if no_scripts || no_waiting || is_full {
            self.leave(None)?;
        }
        if no_waiting && text(holder).is_some_and(|holder| holder == pass) {
            // Nobody held it, so it was passed on, and nobody can take it.
            let mut passed_on = Request::one(cmd("DEL").arg(&self.store.keys.turn));
            passed_on.push(&self.store.release_command(pass, By::Text)?);
            self.server.ask(&passed_on)?.into_iter().try_for_each(|reply| checked(reply).map(|_| ()))?;
        }
        Ok(no_scripts || no_waiting || is_full)
    }

    /// The token under which the lease is ours now, or else who holds it.
    fn whose_turn(&self, pass: &str, holder: Value, turn: Value, lock: Value) -> Result<Result<String, String>> {
        let holder = checked(holder)?;
        let holder = text(&holder).ok_or_else(|| bad_reply("EVAL", &holder))?;
        self.store.contended.store(holder != pass && holder != self.token, Relaxed);
        let token = match checked(turn)? {
            Value::Array(turn) => turn.get(1).and_then(text).ok_or_else(|| Cause::BadReply("BLPOP".into()))?,
            // It may be ours since an earlier try whose reply was lost.
            Value::Nil => self.token.clone(),
            other => return Err(bad_reply("BLPOP", &other).into()),
        };
        // It may have been passed on to one that died, and have ended meanwhile.
        match text(&checked(lock)?) {
            Some(found) if found == token => Ok(Ok(token)),
            Some(found) => Ok(Err(found)),
            None => Ok(Err(holder)),
        }
    }

    /// Whether what others have committed is worth asking for.
    fn asks_news(&self) -> bool {
        self.known != Version(0)
    }

    /// The answers to what was asked with the turn; whatever is no use is asked for again by those who
    /// need it.
    fn read_news(&self, log: Value, pages: Value) -> Option<News> {
        let log = checked(log).ok()?;
        self.store.entry_size.learn(&log);
        let entries = replies::log_entries(log).ok()?;
        let fetched = match read(pages, &self.pages) {
            Ok(Read::Whole(fetched)) => Some(fetched),
            Ok(Read::Staged(..)) | Err(_) => None,
        };
        Some(News { entries, fetched })
    }

    /// Asks for the lease and blocks, in the round trip that closes the transaction opened for the
    /// commit. Returns the token under which a lease that nobody holds is passed on, and the replies: the
    /// token of its holder; what came of the wait; whether it was still in the queue; the token of the
    /// holder then; the log and pages, if they are asked for; what [`watching`](crate::store::redis::base::watching) asks.
    fn stand_in_line(&mut self, patience: Duration) -> Result<(String, Vec<Value>)> {
        let keys = self.store.keys.clone();
        let mut request = Request::with_room();
        let life = self.life + patience;
        let pass = token()?;
        let mut ask = request.begin(10);
        ask.word("EVAL").word(&*ASK).number(3).word(&keys.lock).word(&keys.queue).word(&keys.turn);
        ask.word(&self.token)
            .word(&pass)
            .number(self.store.handover.as_millis() as u64)
            .number(life.as_millis() as u64);
        drop(ask);
        request.push(cmd("BLPOP").arg(&keys.turn).arg(patience.as_secs_f64()));
        request.push(cmd("LREM").arg(&keys.queue).arg(0).arg(&self.token));
        request.push(cmd("GET").arg(&keys.lock));
        if self.asks_news() {
            // The lease is not renewed before all of this has been read, so it must not be much.
            let count = self.store.entry_size.count(REPLY_WITH_LEASE);
            request.push(&self.store.xrange(self.known.next(), Version(u64::MAX), count));
            request.push(&self.store.hmget(&self.pages));
        }
        request.append(&self.watching());
        if std::mem::take(&mut self.open) {
            let mut behind = Request::one(&cmd("DISCARD"));
            behind.append(&request);
            let (mut replies, connection) = self.held_up(&behind, 2, patience)?;
            if replies.remove(0) == Value::Okay {
                self.connection = connection;
                return Ok((pass, replies));
            }
            // Forbidden: what followed was queued in the transaction, which ends with the connection.
            if let Some(connection) = connection {
                self.server.attach(connection).close();
            }
        }
        let (replies, connection) = self.held_up(&request, 1, patience)?;
        self.connection = connection;
        Ok((pass, replies))
    }

    /// The replies to commands, and the connection. After the `first` comes one that is held up for as long as
    /// there is patience. A server with nothing to do looks only ten times a second for clients whose time is up,
    /// but also after each command, so then it is asked something else.
    fn held_up(&mut self, request: &Request, first: usize, patience: Duration) -> Result<(Vec<Value>, Option<Kept>)> {
        let (server, lock) = (self.server.clone(), self.store.keys.lock.clone());
        let mut link = self.link()?;
        link.send(request)?;
        let nudge = || {
            if let Err(error) = server.ask(&Request::one(cmd("EXISTS").arg(&lock))) {
                crate::process::log::log(&format!("ending a wait for the lease {lock}: {error}"));
            }
        };
        let replies = link.receive_held_up(request.ends.len(), first, patience, nudge)?;
        Ok((replies, link.detach()))
    }
}

#[cfg(test)]
mod tests;
