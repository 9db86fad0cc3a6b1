//! What the lease's scripts do, where the server does not call scripts: a comparison under `WATCH`, and one command in a
//! transaction.
//!
//! Without scripts nobody stands in line: a lease is given back to nobody, and SQLite's busy handler asks again.

use redis::{Cmd, Value, cmd};

use crate::model::error::Result;
use crate::store::redis::base::RedisStore;
use crate::store::redis::writer::opened;
use crate::wire::link::Link;
use crate::wire::reply::checked;
use crate::wire::reply::{bad_reply, text};
use crate::wire::request::Request;

impl RedisStore {
    /// Whether the server calls scripts. One round trip where that is not known yet.
    pub(super) fn calls_scripts(&self) -> Result<bool> {
        let scripts = self.server.scripts();
        if scripts.are_refused() || scripts.were_called() {
            return Ok(!scripts.are_refused());
        }
        let mut replies = self.server.ask(&Request::one(cmd("EVAL").arg("return 1").arg(0)))?;
        match checked(replies.pop().unwrap_or_default()) {
            Err(error) if scripts.are_refused_by(&error.cause) => Ok(false),
            outcome => outcome.map(|_| true),
        }
    }

    /// Gives the lease back, if it is still held under this token.
    pub(super) fn release_by_watch(&self, token: &str) -> Result<()> {
        self.if_held(token, cmd("DEL").arg(&self.keys.lock)).map(|_| ())
    }

    /// Carries out a command if the lease is held under this token; whether it was.
    pub(super) fn if_held(&self, token: &str, command: &Cmd) -> Result<bool> {
        let mut link = self.server.link()?;
        let held = match self.watch_lease(&mut link, token) {
            // The idle connection had died; nothing was done.
            Err(error) if self.server.is_elsewhere(&error.cause) => {
                link = self.server.link()?;
                self.watch_lease(&mut link, token)
            }
            outcome => outcome,
        };
        let done = held.and_then(|held| if held { execute(&mut link, command) } else { Ok(false) });
        if !matches!(done, Ok(true)) {
            // It watches the lease, or has the transaction open.
            link.close();
        }
        done
    }

    fn watch_lease(&self, link: &mut Link<'_>, token: &str) -> Result<bool> {
        let mut request = Request::one(cmd("WATCH").arg(&self.keys.lock));
        request.push(cmd("GET").arg(&self.keys.lock));
        request.push(&cmd("MULTI"));
        let mut replies = link.exchange(&request)?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        checked(next())?;
        let holder = checked(next())?;
        opened(next())?;
        Ok(text(&holder).is_some_and(|holder| holder == token))
    }
}

fn execute(link: &mut Link<'_>, command: &Cmd) -> Result<bool> {
    let mut request = Request::one(command);
    request.push(&cmd("EXEC"));
    let mut replies = link.exchange(&request)?.into_iter();
    let mut next = || replies.next().unwrap_or_default();
    checked(next())?;
    match checked(next())? {
        Value::Array(results) => {
            results.into_iter().try_for_each(|result| checked(result).map(|_| ()))?;
            Ok(true)
        }
        // It ended meanwhile.
        Value::Nil => Ok(false),
        other => Err(bad_reply("EXEC", &other).into()),
    }
}
