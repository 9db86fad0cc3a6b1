//! Waiting for the write lease. Whoever gives it back passes it on to the one who waits longest, so
//! nobody asks again and again, and nobody is overtaken.
//!
//! Those who wait put a token in the queue and block on the turn, a list (`BLPOP`, which serves in
//! order of arrival). To pass the lease on is to hold it under a new token and to push that there.
//! Nothing rests on this: a lease that is lost on the way ends by itself.

use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::{Cmd, Value, cmd};

use crate::error::{Cause, Result};
use crate::lease;
use crate::store::Snapshot;
use crate::store::protocol::{bad_reply, text};
use crate::store::redis::{RedisStore, script};
use crate::store::request::Request;
use crate::store::server::checked;
use crate::store::writer::RedisWriter;

/// Life of a lease while it is passed on, or lingers. Whoever dies then costs others no more than this.
pub(crate) const HANDOVER: Duration = Duration::from_secs(1);

static RELEASE: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/release.lua")));
static KEEP: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/keep.lua")));
static ASK: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/ask.lua")));
static CLAIM: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/claim.lua")));

impl RedisStore {
    pub(super) fn release_command(&self, token: &str) -> Result<Cmd> {
        let mut command = cmd("EVAL");
        command.arg(RELEASE.as_str()).arg(1).arg(&self.keys.lock);
        command.arg(token).arg(lease::token()?).arg(HANDOVER.as_millis() as u64);
        command.arg(&self.keys.queue).arg(&self.keys.turn);
        Ok(command)
    }

    pub(super) fn keep_command(&self, token: &str, life: Duration) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(KEEP.as_str()).arg(1).arg(&self.keys.lock);
        command.arg(token).arg(life.as_millis() as u64).arg(&self.keys.queue);
        command
    }

    /// How many wait for the lease.
    pub(super) fn waiting_command(&self) -> Cmd {
        cmd("LLEN").arg(&self.keys.queue).to_owned()
    }

    pub(super) fn claim_command(&self, passed: &str, token: &str, life: Duration) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(CLAIM.as_str()).arg(1).arg(&self.keys.lock);
        command.arg(passed).arg(token).arg(life.as_millis() as u64).arg(&self.keys.queue);
        command
    }
}

impl RedisWriter {
    /// Another holds the lease: one round trip that ends when it was passed on, or after `patience`;
    /// then another, to take it over or to leave the queue.
    pub(super) fn wait_for_turn(&mut self, patience: Duration) -> Result<Result<Snapshot, String>> {
        let (pass, replies) = self.stand_in_line(patience)?;
        let mut replies = replies.into_iter();
        let holder = checked(replies.next().unwrap_or_default())?;
        let turn = checked(replies.next().unwrap_or_default())?;
        let holder = text(&holder).ok_or_else(|| bad_reply("EVAL", &holder))?;
        self.store.contended.store(holder != pass && holder != self.token, Relaxed);
        match turn {
            Value::Array(turn) => match turn.get(1).and_then(text) {
                Some(passed) => self.try_begin(Some(&passed)),
                None => Err(Cause::BadReply("BLPOP".into()).into()),
            },
            Value::Nil if holder == self.token => self.try_begin(None),
            Value::Nil => {
                let mut leave = cmd("LREM");
                leave.arg(&self.store.keys.queue).arg(0).arg(&self.token);
                self.leave(Some(&leave))?;
                Ok(Err(holder))
            }
            other => Err(bad_reply("BLPOP", &other).into()),
        }
    }

    /// Asks for the lease and blocks, in the round trip that closes the transaction opened for the
    /// commit. Returns the token under which a lease that nobody holds is passed on, and the replies: the
    /// token of its holder, and what came of the wait.
    fn stand_in_line(&mut self, patience: Duration) -> Result<(String, Vec<Value>)> {
        let keys = self.store.keys.clone();
        let mut ask = cmd("EVAL");
        ask.arg(ASK.as_str()).arg(3).arg(&keys.lock).arg(&keys.queue).arg(&keys.turn);
        let life = self.life + patience;
        let pass = lease::token()?;
        ask.arg(&self.token).arg(&pass).arg(HANDOVER.as_millis() as u64).arg(life.as_millis() as u64);
        let mut wait = cmd("BLPOP");
        wait.arg(&keys.turn).arg(patience.as_secs_f64());
        if std::mem::take(&mut self.open) {
            let mut request = Request::one(&cmd("DISCARD"));
            request.push(&ask);
            request.push(&wait);
            let mut link = self.link()?;
            let mut replies = link.exchange(&request)?.into_iter();
            if replies.next().is_some_and(|discarded| checked(discarded).is_ok()) {
                self.connection = link.detach();
                return Ok((pass, replies.collect()));
            }
            // Forbidden: what followed was queued in the transaction, which ends with the connection.
            link.close();
        }
        let mut request = Request::one(&ask);
        request.push(&wait);
        let mut link = self.link()?;
        let replies = link.exchange(&request)?;
        self.connection = link.detach();
        Ok((pass, replies))
    }
}

#[cfg(test)]
mod tests;
