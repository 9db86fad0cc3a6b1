//! The hold of a table: a key that every change of this project looks at first.
//!
//! ```text
//! no key, or `done ID`    free
//! `wait ID`, 8 s to live  a client changes much, in several steps: others wait
//! `apply COUNT STAGED`    a change is decided: whoever sees this finishes it (see `decided`)
//! ```
//!
//! `done ID` is what a finished change leaves for a minute, so that readers notice one that came and went
//! between two looks.

use std::cell::Cell;
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::{Cmd, Value as Reply, cmd};

use crate::model::error::{Cause, Error, Result};
use crate::model::unique;
use crate::sqlite::interrupt;
use crate::vtab::commit::held::{Decided, Hold};
use crate::vtab::commit::mark::{MARK_SECONDS, PATIENCE, is_decided};
use crate::vtab::commit::scripted::{Scripted, Sink, run};
use crate::vtab::commit::slices::{Slice, Slices, packed_words};
use crate::vtab::layout::keys::{Keys, shown};
use crate::vtab::layout::replies::bulk;
use crate::vtab::table::{Mark, Table};
use crate::wire::request::Request;

/// How long others wait for a client that says nothing more.
pub(crate) const HELD: Duration = Duration::from_secs(8);
/// How often a lock is renewed at least, while its client works.
const RENEWED: Duration = Duration::from_secs(1);
/// Slices sent in one request.
pub(crate) const SLICES: usize = 16;

/// A lock on some tables of one server: nobody else of this project changes them while it lasts.
pub(crate) struct Lock<'a> {
    table: &'a Table,
    keys: Keys,
    holds: Vec<Vec<u8>>,
    /// The commit that it is for, by whose mark it is known afterwards whether it was made.
    mark: Mark,
    id: String,
    renewed: Cell<Instant>,
    /// The change is made, and the lock has ended with that.
    used: Cell<bool>,
}

impl<'a> Lock<'a> {
    /// Waits for the lock of some tables, which are on the server of `table`.
    ///
    /// # Errors
    /// `SQLITE_BUSY` when others keep it.
    pub(crate) fn acquire(table: &'a Table, of: &[Keys], mark: Mark) -> Result<Lock<'a>> {
        let mut holds: Vec<Vec<u8>> = of.iter().map(Keys::hold).collect();
        holds.sort();
        holds.dedup();
        let keys = table.keys();
        let id = format!("{:016x}", unique()?);
        let lock = Lock { table, keys, holds, mark, id, renewed: Cell::new(Instant::now()), used: Cell::new(false) };
        let (deadline, mut pause) = (Instant::now() + PATIENCE, Duration::from_millis(1));
        let own = table.known().hold;
        let guess = |hold: &Vec<u8>| own.clone().filter(|_| *hold == lock.keys.hold());
        let mut seen: Vec<Reply> =
            lock.holds.iter().map(|hold| guess(hold).map_or(Reply::Nil, Reply::BulkString)).collect();
        while !lock.try_acquire(&seen)? {
            seen = table.place.ask(&lock.looks())?;
            if seen.iter().all(|reply| lock.is_own(reply)) {
                break;
            }
            for reply in &seen {
                match Hold::of(reply) {
                    Hold::Free => {}
                    Hold::Decided(decided) => table.settle(&decided)?,
                    Hold::Locked(_) if Instant::now() > deadline => {
                        return Err(Cause::Conflict(format!("the table `{}`", lock.keys.base())).into());
                    }
                    Hold::Locked(_) => {
                        interrupt::sleep(pause)?;
                        pause = (pause * 2).min(Duration::from_millis(100));
                    }
                }
            }
        }
        Ok(lock)
    }

    /// `false` if a hold is not as it was seen.
    fn try_acquire(&self, seen: &[Reply]) -> Result<bool> {
        let mut script = Scripted::default();
        for (hold, seen) in self.holds.iter().zip(seen) {
            if Hold::of(seen) != Hold::Free {
                return Ok(false);
            }
            script.rest_on(&[(cmd("GET").arg(hold).to_owned(), seen.clone())]);
            script.push(cmd("SET").arg(hold).arg(self.value()).arg("PX").arg(HELD.as_millis() as u64));
        }
        script.push(cmd("SET").arg(self.mark_key()).arg(self.ready()).arg("EX").arg(MARK_SECONDS));
        Ok(self.run(&[script])?.is_empty())
    }

    fn run(&self, scripts: &[Scripted]) -> Result<Vec<Vec<u8>>> {
        run(&self.table.place, &self.keys, scripts, &[]).map(|ran| ran.changed)
    }

    fn looks(&self) -> Request {
        let mut request = Request::default();
        self.holds.iter().for_each(|hold| request.push(cmd("GET").arg(hold)));
        request
    }

    /// What its holds say.
    fn value(&self) -> String {
        format!("wait {}", self.id)
    }

    /// What the mark says before the commit.
    fn ready(&self) -> String {
        format!("ready {}", self.id)
    }

    fn mark_key(&self) -> Vec<u8> {
        self.keys.commit(self.mark.client)
    }

    fn staged(&self) -> Vec<u8> {
        self.keys.staged(&self.id)
    }

    /// Whether a hold is this lock's.
    pub(crate) fn is_own(&self, hold: &Reply) -> bool {
        bulk(Some(hold)) == Some(self.value().as_bytes())
    }

    /// What its scripts rest on: the lock is there.
    fn claims(&self) -> Vec<(Cmd, Reply)> {
        let there = Reply::BulkString(self.value().into_bytes());
        self.holds.iter().map(|hold| (cmd("GET").arg(hold).to_owned(), there.clone())).collect()
    }

    fn prolong(&self, script: &mut Scripted) {
        script.rest_on(&self.claims());
        for hold in &self.holds {
            script.push(cmd("PEXPIRE").arg(hold).arg(HELD.as_millis() as u64));
        }
        script.push(cmd("PEXPIRE").arg(self.mark_key()).arg(1000 * MARK_SECONDS));
    }

    /// Makes the lock last, if that was not done just now.
    ///
    /// # Errors
    /// `SQLITE_BUSY` when it has run out.
    pub(crate) fn renew(&self) -> Result<()> {
        if self.renewed.get().elapsed() < RENEWED {
            return Ok(());
        }
        let mut script = Scripted::default();
        self.prolong(&mut script);
        self.renewed_by(self.run(&[script])?)
    }

    fn renewed_by(&self, changed: Vec<Vec<u8>>) -> Result<()> {
        self.renewed.set(Instant::now());
        match changed.first() {
            None => Ok(()),
            Some(key) => Err(lost(key)),
        }
    }

    /// Takes the change that the lock is for.
    pub(crate) fn staging(&self) -> Staging<'_> {
        Staging { lock: self, slices: Slices::default(), count: 0, failure: None }
    }

    /// Makes the change, or decides it: then it is made, although nothing of it is in its place yet. `false` if the
    /// lock has been lost. After that, or a failure, only the mark tells whether it was made.
    pub(crate) fn decide(&self, change: &Change) -> Result<bool> {
        let mut script = Scripted::default();
        script.rest_on(&self.claims());
        let ready = Reply::BulkString(self.ready().into_bytes());
        script.rest_on(&[(cmd("GET").arg(self.mark_key()).to_owned(), ready)]);
        script.push(cmd("SET").arg(self.mark_key()).arg(self.mark.number).arg("EX").arg(MARK_SECONDS));
        match change {
            Change::Small(slice) => {
                slice.commands()?.iter().for_each(|command| script.push(command));
                self.holds.iter().for_each(|hold| script.push(cmd("DEL").arg(hold)));
            }
            Change::Large(decided) => {
                let staged = Reply::Int(i64::from(decided.count()) + 1);
                script.rest_on(&[(cmd("HLEN").arg(decided.staged()).to_owned(), staged)]);
                script.push(cmd("PERSIST").arg(decided.staged()));
                self.holds.iter().for_each(|hold| script.push(cmd("SET").arg(hold).arg(decided.value())));
            }
        }
        let made = self.run(&[script])?.is_empty();
        self.used.set(made);
        Ok(made)
    }

    /// Makes or decides a change, and carries it out.
    fn make(&self, change: &Change) -> Result<()> {
        let failure = match self.decide(change) {
            Ok(true) => None,
            Ok(false) => Some(lost(&self.holds[0])),
            Err(error) => Some(error),
        };
        if let Some(failure) = failure
            && is_decided(self.mark, self.table)? != Some(true)
        {
            return Err(failure);
        }
        self.table.finish_change(change)
    }

    fn release(&self) -> Result<()> {
        let mut script = Scripted::default();
        script.rest_on(&self.claims());
        self.holds.iter().for_each(|hold| script.push(cmd("DEL").arg(hold)));
        script.push(cmd("UNLINK").arg(self.staged()));
        self.run(&[script]).map(|_| ())
    }
}

/// A change that can be made.
pub(crate) enum Change {
    /// By one script.
    Small(Slice),
    /// Its slices are in the server.
    Large(Decided),
}

/// A change on its way into the server, where nobody looks at it yet. Keys of a wrong type, and what access rules
/// forbid, are refused here.
pub(crate) struct Staging<'a> {
    lock: &'a Lock<'a>,
    slices: Slices,
    /// Slices that were sent.
    count: u32,
    failure: Option<Error>,
}

impl Sink for Staging<'_> {
    fn push(&mut self, command: &Cmd) {
        self.slices.push(command);
        let some = self.slices.take(SLICES);
        if !some.is_empty() && self.failure.is_none() {
            self.failure = self.send(some).err();
        }
    }
}

impl Staging<'_> {
    fn send(&mut self, slices: Vec<Slice>) -> Result<()> {
        let staged = self.lock.staged();
        let mut scripts = Vec::new();
        for slice in slices {
            self.count += 1;
            let mut script = Scripted::default();
            self.lock.prolong(&mut script);
            slice.commands()?.iter().for_each(|command| script.concern(command));
            script.push(cmd("HSET").arg(&staged).arg(self.count).arg(slice.packed()));
            if self.count == 1 {
                script.push(cmd("HSET").arg(&staged).arg("tables").arg(packed_words(&self.lock.holds)));
            }
            script.push(cmd("PEXPIRE").arg(&staged).arg(1000 * MARK_SECONDS));
            scripts.push(script);
        }
        self.lock.renewed_by(self.lock.run(&scripts)?)
    }

    /// The whole change. `None` if there is nothing to do.
    ///
    /// # Errors
    /// Those of all that was sent.
    pub(crate) fn finish(mut self) -> Result<Option<Change>> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let mut rest = std::mem::take(&mut self.slices).finish();
        if self.count == 0 && rest.len() < 2 {
            return Ok(rest.pop().map(Change::Small));
        }
        self.send(rest)?;
        Ok(Some(Change::Large(Decided::new(self.count, self.lock.staged()))))
    }

    /// Makes the change.
    pub(crate) fn make(self) -> Result<()> {
        let lock = self.lock;
        let Some(change) = self.finish()? else { return Ok(()) };
        // Whether it was made must be told.
        interrupt::never(|| lock.make(&change))
    }
}

impl Table {
    /// Waits until no other client has the table's lock, or until the deadline.
    ///
    /// The last `GET` removes an expired key before the commit watches it. Redis 6.2 refuses an `EXEC` if a watched key had
    /// expired before `WATCH` and is removed after it.
    pub(super) fn wait_while_locked(&self, deadline: Instant) -> Result<()> {
        let look = Request::one(cmd("GET").arg(self.keys().hold()));
        let mut pause = Duration::from_millis(1);
        while Instant::now() < deadline {
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
            let replies = self.place.ask(&look)?;
            if !replies.first().is_some_and(|reply| matches!(Hold::of(reply), Hold::Locked(_))) {
                break;
            }
        }
        Ok(())
    }
}

fn lost(key: &[u8]) -> Error {
    Cause::Conflict(format!("`{}`, by which this client kept others from the table,", shown(key))).into()
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        if self.used.get() {
            return;
        }
        // It ends by itself, too.
        if let Err(error) = interrupt::never(|| self.release()) {
            crate::process::log::log(&format!("a lock will end by itself: {}", self.table.at(error)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_says_who_may_go_on() {
        let of = |value: &str| Hold::of(&Reply::BulkString(value.into()));
        assert_eq!(Hold::of(&Reply::Nil), Hold::Free);
        assert_eq!(of("done 12"), Hold::Free);
        assert_eq!(of("wait 12"), Hold::Locked(b"wait 12".to_vec()));
        assert_eq!(of("1"), Hold::Locked(b"1".to_vec()));
        let decided = Decided::new(3, b"p.main.t.staged:00ff".to_vec());
        assert_eq!(decided.value(), b"apply 3 p.main.t.staged:00ff");
        assert_eq!(decided.done(), b"done 00ff");
        assert_eq!(of("apply 3 p.main.t.staged:00ff"), Hold::Decided(decided));
        assert_eq!(of("apply x y"), Hold::Locked(b"apply x y".to_vec()));
    }
}
