//! Writing to a server that is at its memory limit (`maxmemory`, `noeviction`).
//!
//! Such a server refuses `SET`, and every command in a transaction. It refuses a command in a script only where
//! that takes memory and is the first one that changes something. So what makes a database smaller is done by
//! scripts, which compare the version as `WATCH` would.

use std::sync::LazyLock;

use redis::{Value, cmd};

use crate::config::Wait;
use crate::model::error::{Cause, Error, Result};
use crate::model::log_entry::Commit;
use crate::model::page_encoding::pack;
use crate::model::version::FORMAT;
use crate::store::redis::base::script;
use crate::store::redis::commit::{LogMark, log_fields, metadata};
use crate::store::redis::writer::RedisWriter;
use crate::store::redis::writer::attempt::Done;
use crate::store::redis::writer::in_time::Attempt;
use crate::store::redis::{keys, wait};
use crate::wire::reply::checked;
use crate::wire::reply::{bad_reply, text};
use crate::wire::request::Request;

static TAKE: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/full_take.lua")));
static COMMIT: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/full_commit.lua")));

pub(super) fn is_full(error: &Error) -> bool {
    matches!(error.cause, Cause::ServerFull(_))
}

impl RedisWriter {
    /// Takes the lease, which the server has refused for this reason. `Err(holder)` inside `Ok` when another holds it.
    pub(super) fn take_when_full(&mut self, refused: Error) -> Result<Result<(), String>> {
        let mut take = cmd("EVAL");
        take.arg(&*TAKE).arg(1).arg(&self.store.keys.lock).arg(&self.token).arg(self.life.as_millis() as u64);
        let mut replies = self.server.ask(&Request::one(&take))?;
        match checked(replies.pop().unwrap_or_default()).ok().as_ref().and_then(text) {
            Some(holder) if holder == self.token => Ok(Ok(())),
            Some(holder) => Ok(Err(holder)),
            None => Err(refused),
        }
    }

    /// Makes a commit that the server has refused for this reason.
    pub(super) fn commit_when_full(
        &mut self,
        commit: &Commit<'_>,
        wait: Wait,
        refused: Error,
    ) -> Result<Attempt<Done>> {
        let mut link = self.server.link()?;
        let mut sending = link.sending();
        let Commit { base, snapshot, .. } = commit;
        let keys = &self.store.keys;
        let removed: Vec<_> = commit.removed().collect();
        let metadata = metadata(base, snapshot, FORMAT, LogMark { begins: snapshot.version.0, bytes: 0 });
        let entry = log_fields(commit);
        let set = 2 * (metadata.len() + commit.pages.len());
        let mut eval = sending.piece().begin(11 + removed.len() + set + 2 * entry.len());
        eval.word("EVAL").word(&*COMMIT).number(3).word(&keys.hash).word(&keys.log).word(&keys.undo);
        eval.word(base.version.to_string()).word(base.commit.to_string());
        eval.number(removed.len() as u64).number(set as u64).word(format!("{}-0", snapshot.version));
        for page in removed {
            eval.word(keys::page(page));
        }
        for (field, value) in metadata {
            eval.word(field).word(value);
        }
        for &(page, bytes) in &commit.pages {
            eval.word(keys::page(page)).page(&pack(bytes, self.store.compress));
        }
        for (field, value) in entry {
            eval.word(field).word(value);
        }
        drop(eval);
        let waits = wait::commands(wait);
        waits.iter().for_each(|command| sending.piece().push(command));
        let mut replies = match sending.finish() {
            Ok(replies) => replies.into_iter(),
            Err(unanswered) => return Ok(unanswered.into()),
        };
        match replies.next().unwrap_or_default() {
            Value::Int(1) => Ok(Attempt::Done(Done { waited: replies.last(), lingers: None })),
            Value::Int(0) => Err(self.overtaken(commit)),
            Value::ServerError(_) => Err(refused),
            other => Ok(Attempt::Lost(bad_reply("EVAL", &other).to_string())),
        }
    }
}
