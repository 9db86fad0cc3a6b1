//! One attempt to commit, and what the replies to it say.

use redis::{Value, cmd};

use crate::model::error::{Cause, Result};
use crate::model::log_entry::Commit;
use crate::process::fault;
use crate::process::fault::Point;
use crate::store::data::{After, Ending, Lingers};
use crate::store::redis::lease_queue::{KEEP, RELEASE};
use crate::store::redis::wait;
use crate::store::redis::writer::RedisWriter;
use crate::store::redis::writer::in_time::Attempt;
use crate::wire::reply::bad_reply;
use crate::wire::reply::checked;

/// What the replies to a commit tell beyond that it is done.
pub(crate) struct Done {
    /// What `WAIT` answered.
    pub waited: Option<Value>,
    pub lingers: Option<Lingers>,
}

impl RedisWriter {
    /// One round trip: the transaction, and the lease given back, or kept and the hash watched anew.
    pub(crate) fn attempt(&mut self, commit: &Commit<'_>, ending: Ending) -> Result<Attempt<Done>> {
        fault::at(Point::BeforeExec)?;
        // Staged pages are moved to their place under the lease. Nothing may fail once pages are on
        // their way.
        let scripts = self.server.scripts();
        let script = match ending.lease {
            _ if scripts.are_refused() => None,
            After::Release if self.stage.is_none() => Some(&*RELEASE),
            After::Linger(Some(_)) if self.stage.is_none() => Some(&*KEEP),
            _ => None,
        };
        let script = script.map(|script| (script, scripts.way_to(script)));
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
        let about_history = self.store.transaction(commit, self.log_mark, self.stage.as_ref(), &mut sending);
        let commands = sending.count();
        let is_queued = self.stage.is_some();
        if is_queued {
            // Without the command that renames them, the pages would be lost.
            if let Err(error) = sending.queue() {
                let is_closed = link.is_replaced();
                link.close();
                drop(link);
                self.open = false;
                return Attempt::not_done(error, is_closed);
            }
            sending = link.sending();
        }
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
        let mut replies = match replies {
            Ok(replies) => match fault::at(Point::AfterExec) {
                Ok(()) => replies,
                Err(error) => return Ok(Attempt::Lost(error.cause.to_string())),
            },
            Err(unanswered) => return Ok(unanswered.into()),
        };
        let watched = replies.split_off(replies.len().saturating_sub(watching));
        let waited = replies.split_off(replies.len().saturating_sub(waits.len())).pop();
        let lease = lease.and_then(|_| replies.pop());
        let exec = replies.pop().unwrap_or_default();
        // Only EXEC tells what became of the commit. What tells nothing is as good as no reply, and
        // nothing that follows it on this connection is to be believed.
        let told = match &exec {
            Value::Nil | Value::ServerError(_) => true,
            Value::Array(results) => results.len() == commands,
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
                Ok(Value::Int(_) | Value::Nil) => self.leased = false,
                // It is still held, and given back afterwards.
                _ => {}
            }
        }
        let is_closed = connection.is_none();
        // A connection on which EXEC failed may be in the transaction still.
        let connection = connection.filter(|_| !matches!(exec, Value::ServerError(_)));
        let found = if lingers {
            self.watched(connection, watched.into_iter()).ok()
        } else {
            self.connection = connection;
            None
        };
        match exec {
            Value::Nil => Err(self.overtaken(commit)),
            Value::Array(results) => {
                self.store.check_results(commit, about_history, results)?;
                let ready = found.is_some_and(|(at, staged)| at == commit.snapshot && !staged);
                let lingers = waiting.filter(|_| ready).map(|count| Lingers { wanted: count > 0 });
                Ok(Attempt::Done(Done { waited, lingers }))
            }
            refused => Attempt::refused(replies.into_iter().chain([refused]), is_closed),
        }
    }

    /// Why `EXEC` was refused: someone changed the hash since it was watched.
    pub(crate) fn overtaken(&self, commit: &Commit<'_>) -> crate::model::error::Error {
        match self.store.newest() {
            Ok(now) => Cause::Stale { snapshot: commit.base.version, found: now.version }.into(),
            Err(_) => Cause::Stale { snapshot: commit.base.version, found: commit.base.version.next() }.into(),
        }
    }
}
