//! Changes of many keys at once, outside of SQLite's transactions: all of them, or none when what
//! they rest on has changed meanwhile.

use redis::{Cmd, Value as Reply, cmd};

use super::commit::{CHUNK, PATIENCE};
use super::keys::Keys;
use super::place::checked_reply;
use super::scripted::{self, Scripted, words};
use super::table::Table;
use crate::error::{Cause, Result};
use crate::ffi::interrupt;
use crate::store::protocol::bad_reply;
use crate::store::request::Request;
use crate::store::script::By;
use crate::store::server::{Link, checked};

/// How often it is tried. From the second time on, nobody writes who waits when asked to.
const ATTEMPTS: u32 = 10;

/// A connection that watches what is read through it.
pub(super) struct Watch<'a> {
    link: Link<'a>,
}

impl Watch<'_> {
    /// Watches keys, and then asks: replies are what holds until the changes are done, or they are
    /// not done.
    pub(super) fn ask(&mut self, keys: &[Vec<u8>], questions: &[Cmd]) -> Result<Vec<Reply>> {
        if keys.is_empty() && questions.is_empty() {
            return Ok(Vec::new());
        }
        let mut request = Request::default();
        for chunk in keys.chunks(CHUNK) {
            request.push(cmd("WATCH").arg(chunk));
        }
        questions.iter().for_each(|question| request.push(question));
        let watches = keys.len().div_ceil(CHUNK);
        let mut replies = self.link.exchange(&request)?.into_iter();
        replies.by_ref().take(watches).try_for_each(|reply| checked(reply).map(|_| ()))?;
        let each = replies.zip(questions);
        each.map(|(reply, question)| checked_reply(reply, || words(question).map(<[u8]>::to_vec).collect())).collect()
    }

    /// Whether the changes were done, in the transaction that is open. Of keys that are removed or
    /// renamed, no type is wrong; where others are among the changes, the types of all that is written
    /// have been asked. Otherwise the script asks.
    fn execute(&mut self, keys: &Keys, changes: &[Cmd]) -> Result<bool> {
        let mut request = Request::default();
        let of_script = |change: &Cmd| matches!(words(change).next(), Some(b"SADD" | b"SREM" | b"ZADD"));
        let scripted = changes.iter().all(of_script);
        if scripted {
            let mut script = Scripted::default();
            changes.iter().for_each(|change| script.push(change));
            script.write(keys, By::Text, &mut request);
        } else {
            changes.iter().for_each(|change| request.push(change));
        }
        request.push(&cmd("EXEC"));
        let mut replies = self.link.exchange(&request)?;
        let done = replies.pop().unwrap_or_default();
        replies.into_iter().try_for_each(|reply| checked(reply).map(|_| ()))?;
        match checked(done)? {
            Reply::Nil => Ok(false),
            Reply::Array(results) if scripted => scripted::changed(results).map(|changed| changed.is_none()),
            Reply::Array(results) => {
                results.into_iter().try_for_each(|reply| checked(reply).map(|_| ()))?;
                Ok(true)
            }
            other => Err(bad_reply("EXEC", &other).into()),
        }
    }
}

impl Table {
    /// Does at once what `plan` says after a look, and returns what it returns beside. When another
    /// client has changed what it looked at, it looks again, and asks others to wait.
    ///
    /// # Errors
    /// Those of `plan`; and `SQLITE_BUSY` when others don't wait.
    pub(super) fn at_once<T>(&self, mut plan: impl FnMut(&mut Watch<'_>) -> Result<(Vec<Cmd>, T)>) -> Result<T> {
        let hold = self.keys().hold();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                let ask_to_wait = cmd("SET").arg(&hold).arg(1).arg("EX").arg(PATIENCE.as_secs()).to_owned();
                self.place.ask(&Request::one(&ask_to_wait))?;
            }
            let done = self.try_at_once(&mut plan);
            if attempt > 0 {
                interrupt::never(|| self.place.ask(&Request::one(cmd("UNLINK").arg(&hold))))?;
            }
            if let Some(outcome) = done? {
                return Ok(outcome);
            }
        }
        Err(Cause::Conflict(format!("the table `{}`, again and again,", self.keys().base())).into())
    }

    /// `None` when it has to be tried again.
    fn try_at_once<T>(&self, plan: &mut impl FnMut(&mut Watch<'_>) -> Result<(Vec<Cmd>, T)>) -> Result<Option<T>> {
        let server = self.place.fit_server()?;
        let mut watch = Watch { link: server.link()? };
        // `MULTI` is sent first, so that a server that refuses it does not carry out the rest.
        let planned = plan(&mut watch).and_then(|planned| watch.ask(&[], &[cmd("MULTI")]).map(|_| planned));
        let done = match planned {
            Ok((changes, outcome)) => {
                // Whether it was done must be told.
                let done = interrupt::never(|| watch.execute(&self.keys(), &changes));
                done.map(|done| done.then_some(outcome))
            }
            Err(error) if server.is_elsewhere(&error.cause) => {
                watch.link.close();
                Ok(None)
            }
            Err(error) => Err(error),
        };
        if done.is_err() {
            // What it watches, and the transaction that it may have opened, end with it.
            watch.link.close();
        }
        done
    }

    /// Changes that make the commits of others look again which have looked already.
    pub(super) fn recall(&self) -> [Cmd; 2] {
        let hold = self.keys().hold();
        [cmd("SET").arg(&hold).arg(1).to_owned(), cmd("DEL").arg(&hold).to_owned()]
    }
}
