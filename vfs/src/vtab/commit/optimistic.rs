//! Changes outside of SQLite's transactions: of some keys at once, all of them, or none when what they rest on has
//! changed meanwhile; and of a whole table, which others wait for.

use redis::{Cmd, Value as Reply, cmd};

use crate::model::error::{Cause, Result};
use crate::sqlite::interrupt;
use crate::vtab::commit::check::CHUNK;
use crate::vtab::commit::held::Hold;
use crate::vtab::commit::hold::{Lock, Staging};
use crate::vtab::commit::scripted;
use crate::vtab::commit::scripted::{Scripted, Sink, words};
use crate::vtab::layout::keys::Keys;
use crate::vtab::location::checked_reply;
use crate::vtab::table::Table;
use crate::wire::link::Link;
use crate::wire::reply::bad_reply;
use crate::wire::reply::checked;
use crate::wire::request::Request;
use crate::wire::script::By;

/// How often it is tried. From the second time on, the table is locked.
const ATTEMPTS: u32 = 10;

/// A connection that watches what is read through it.
pub(crate) struct Watch<'a> {
    link: Link<'a>,
}

impl Watch<'_> {
    /// Watches keys, and then asks: replies are what holds until the changes are done, or they are
    /// not done.
    pub(crate) fn ask(&mut self, keys: &[Vec<u8>], questions: &[Cmd]) -> Result<Vec<Reply>> {
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

    /// Whether the changes were done, in the transaction that is open.
    fn execute(&mut self, keys: &Keys, changes: &[Cmd]) -> Result<bool> {
        let mut request = Request::default();
        let mut script = Scripted::default();
        changes.iter().for_each(|change| script.push(change));
        script.write(keys, By::Text, &mut request);
        request.push(&cmd("EXEC"));
        let mut replies = self.link.exchange(&request)?;
        let done = replies.pop().unwrap_or_default();
        replies.into_iter().try_for_each(|reply| checked(reply).map(|_| ()))?;
        match checked(done)? {
            Reply::Nil => Ok(false),
            Reply::Array(results) => scripted::changed(results).map(|changed| changed.is_none()),
            other => Err(bad_reply("EXEC", &other).into()),
        }
    }
}

impl Table {
    /// Does at once what `plan` says after a look, and returns what it returns beside. When another
    /// client has changed what it looked at, it looks again, and locks the table.
    ///
    /// # Errors
    /// Those of `plan`; and `SQLITE_BUSY` when others don't wait.
    pub(crate) fn at_once<T>(&self, mut plan: impl FnMut(&mut Watch<'_>) -> Result<(Vec<Cmd>, T)>) -> Result<T> {
        if let Some(outcome) = self.try_at_once(None, &mut plan)? {
            return Ok(outcome);
        }
        for _ in 1..ATTEMPTS {
            let lock = Lock::acquire(self, &[self.keys()], self.session.next_commit()?)?;
            if let Some(outcome) = self.try_at_once(Some(&lock), &mut plan)? {
                return Ok(outcome);
            }
        }
        Err(Cause::Conflict(format!("the table `{}`, again and again,", self.keys().base())).into())
    }

    /// `None` when it has to be tried again.
    fn try_at_once<T>(
        &self,
        lock: Option<&Lock<'_>>,
        plan: &mut impl FnMut(&mut Watch<'_>) -> Result<(Vec<Cmd>, T)>,
    ) -> Result<Option<T>> {
        let server = self.place.fit_server()?;
        let mut watch = Watch { link: server.link()? };
        let done = self.plan_and_execute(&mut watch, lock, plan);
        if !matches!(done, Ok(Some(_))) {
            // What it watches, and the transaction that it may have opened, end with it.
            watch.link.close();
        }
        match done {
            Err(error) if server.is_elsewhere(&error.cause) => Ok(None),
            done => done,
        }
    }

    fn plan_and_execute<T>(
        &self,
        watch: &mut Watch<'_>,
        lock: Option<&Lock<'_>>,
        plan: &mut impl FnMut(&mut Watch<'_>) -> Result<(Vec<Cmd>, T)>,
    ) -> Result<Option<T>> {
        let hold = self.keys().hold();
        let found =
            watch.ask(std::slice::from_ref(&hold), &[cmd("GET").arg(&hold).to_owned()])?.pop().unwrap_or_default();
        let is_own = lock.is_some_and(|lock| lock.is_own(&found));
        if Hold::of(&found) != Hold::Free && !is_own {
            return Ok(None);
        }
        let (changes, outcome) = plan(watch)?;
        // `MULTI` is sent first, so that a server that refuses it does not carry out the rest.
        watch.ask(&[], &[cmd("MULTI")])?;
        // Whether it was done must be told.
        Ok(interrupt::never(|| watch.execute(&self.keys(), &changes))?.then_some(outcome))
    }

    /// Makes a change that may be large, while nobody else changes the tables that have these keys: what `plan` says,
    /// which must renew the lock from time to time. Returns what it returns.
    pub(crate) fn locked<T>(
        &self,
        of: &[Keys],
        plan: impl FnOnce(&Lock<'_>, &mut Staging<'_>) -> Result<T>,
    ) -> Result<T> {
        self.place.fit_server()?;
        let lock = Lock::acquire(self, of, self.session.next_commit()?)?;
        let mut changes = lock.staging();
        let outcome = plan(&lock, &mut changes)?;
        changes.make()?;
        Ok(outcome)
    }
}
