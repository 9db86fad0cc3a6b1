//! Large changes of a table. They take several scripts, so that the server serves others between; clients of
//! this project see all of a change or nothing.
//!
//! 1. A [`Lock`](crate::vtab::commit::hold::Lock) keeps other writers away. What the change rests on is asked.
//! 2. The commands are staged: cut into [slices](crate::vtab::commit::slices), in a hash of its own with a time to live.
//! 3. One script decides. It puts `apply`, the number of slices and the name of that hash into the hold.
//! 4. The slices are carried out in order. Each script removes its slice; the last one frees the hold.
//!
//! Before step 3, nothing has happened, and lock and slices end by themselves. After it, the change is done: whoever
//! meets the hold waits as long as slices get fewer, and otherwise carries them out, from the first one that is left.
//! A script that comes late finds its slice gone, or another hold, and does nothing.
//!
//! Readers ask for the hold before and after all that they ask. If it says `apply`, or has changed between, they ask
//! again.

use std::time::{Duration, Instant};

use redis::{Cmd, Value as Reply, cmd};

use crate::model::error::{Cause, Result};
use crate::sqlite::interrupt;
use crate::vtab::commit::held::{Decided, Hold};
use crate::vtab::commit::hold::{Change, SLICES};
use crate::vtab::commit::mark::{MARK_SECONDS, PATIENCE};
use crate::vtab::commit::scripted::{Scripted, Sink, run};
use crate::vtab::commit::slices::{Slice, unpacked_words};
use crate::vtab::layout::keys::shown;
use crate::vtab::layout::replies::{bulk, count};
use crate::vtab::location::Ahead;
use crate::vtab::table::Table;
use crate::wire::reply::array;
use crate::wire::request::Request;

/// How long a change that another client carries out may stand still.
const STILL: Duration = Duration::from_millis(200);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(10);

impl Decided {
    /// The script that carries out a slice, and nothing if that is done. `holds` are those of all tables.
    fn script(&self, hold: &[u8], n: u32, slice: &Slice, holds: &[Vec<u8>]) -> Result<Scripted> {
        let mut script = Scripted::default();
        let exists = |n: u32| cmd("HEXISTS").arg(&self.staged).arg(n).to_owned();
        script
            .rest_on(&[(cmd("GET").arg(hold).to_owned(), Reply::BulkString(self.value())), (exists(n), Reply::Int(1))]);
        if n > 1 {
            script.rest_on(&[(exists(n - 1), Reply::Int(0))]);
        }
        slice.commands()?.iter().for_each(|command| script.push(command));
        if n < self.count {
            script.push(cmd("HDEL").arg(&self.staged).arg(n));
            return Ok(script);
        }
        script.push(cmd("DEL").arg(&self.staged));
        for hold in holds {
            script.push(cmd("SET").arg(hold).arg(self.done()).arg("EX").arg(MARK_SECONDS));
        }
        Ok(script)
    }
}

impl Table {
    /// Carries out a change that its own client has decided.
    pub(crate) fn finish_change(&self, change: &Change) -> Result<()> {
        match change {
            Change::Small(_) => Ok(()),
            Change::Large(decided) => self.finish(decided, decided.count()),
        }
    }

    /// Carries out the slices of a change of which so many are left.
    fn finish(&self, decided: &Decided, left: u32) -> Result<()> {
        let keys = self.keys();
        let hold = keys.hold();
        let mut scripts = Vec::new();
        let mut next = (decided.count - left.min(decided.count)).saturating_add(1);
        loop {
            let end = decided.count.min(next.saturating_add(SLICES as u32 - 1));
            let numbers: Vec<u32> = (next..=end).collect();
            let mut fetch = cmd("HMGET");
            fetch.arg(&decided.staged).arg("tables").arg(&numbers);
            let look = cmd("GET").arg(&hold).to_owned();
            let mut replies = run(&self.place, &keys, &std::mem::take(&mut scripts), &[fetch, look])?.replies;
            let now = replies.pop().unwrap_or_default();
            if Hold::of(&now) != Hold::Decided(decided.clone()) {
                self.learn_hold(&now);
                return Ok(());
            }
            if numbers.is_empty() {
                return self.refuse_lost_slices(decided, &hold, now);
            }
            let fields = array("HMGET", replies.pop().unwrap_or_default())?;
            let holds = bulk(fields.first()).and_then(unpacked_words).unwrap_or_default();
            for (n, field) in numbers.into_iter().zip(fields.iter().skip(1)) {
                if let Some(packed) = bulk(Some(field)) {
                    scripts.push(decided.script(&hold, n, &Slice::of(packed.to_vec()), &holds)?);
                }
            }
            next = end.saturating_add(1);
        }
    }

    /// The last slice has freed the hold, unless somebody has removed it.
    fn refuse_lost_slices(&self, decided: &Decided, hold: &[u8], now: Reply) -> Result<()> {
        let mut script = Scripted::default();
        script.rest_on(&[(cmd("GET").arg(hold).to_owned(), now)]);
        script.push(cmd("DEL").arg(hold));
        run(&self.place, &self.keys(), &[script], &[])?;
        let staged = shown(&decided.staged);
        Err(Cause::Damaged(format!("a change is written in part: the rest, in `{staged}`, was removed")).into())
    }

    fn learn_hold(&self, hold: &Reply) {
        if Hold::of(hold) == Hold::Free {
            self.learn(|known| known.hold = bulk(Some(hold)).map(<[u8]>::to_vec));
        }
    }

    /// Waits for a change that is decided, and finishes it if nobody else does.
    ///
    /// # Errors
    /// `SQLITE_BUSY` when it takes too long; and what keeps it from being finished.
    pub(crate) fn settle(&self, decided: &Decided) -> Result<()> {
        let mut look = Request::one(cmd("GET").arg(self.keys().hold()));
        look.push(cmd("HLEN").arg(&decided.staged));
        let begun = Instant::now();
        let (mut left, mut moved) = (u64::MAX, begun);
        loop {
            let replies = self.place.ask(&look)?;
            let [hold, slices] = replies.as_slice() else { return Ok(()) };
            if Hold::of(hold) != Hold::Decided(decided.clone()) {
                return Ok(());
            }
            if count(slices) < left {
                (left, moved) = (count(slices), Instant::now());
            }
            if moved.elapsed() > STILL {
                // One field names the tables.
                match self.finish(decided, u32::try_from(left.saturating_sub(1)).unwrap_or(u32::MAX)) {
                    // Who may only read waits for others, and all wait for a slot that moves.
                    Err(error) if matches!(error.cause, Cause::Permission(_) | Cause::Moving(_)) => {}
                    outcome => return outcome,
                }
            }
            if begun.elapsed() > PATIENCE {
                return Err(Cause::Conflict(format!("the table `{}`", self.keys().base())).into());
            }
            interrupt::sleep(LOOK)?;
        }
    }

    /// Asks about rows and indexes. No reply is of the time in which a large change was carried out.
    ///
    /// # Errors
    /// `SQLITE_BUSY` when changes go on and on.
    pub(crate) fn ask(&self, request: &Request) -> Result<Vec<Reply>> {
        self.ask_whole(&self.with_looks(request))
    }

    /// Sends what [`Table::ask`] would send, and goes on.
    pub(crate) fn ask_ahead(&self, request: &Request) -> Result<Ahead> {
        self.place.ask_ahead(self.with_looks(request))
    }

    /// The replies to what was sent before.
    pub(crate) fn replies(&self, ahead: Ahead) -> Result<Vec<Reply>> {
        let (request, replies) = self.place.replies(ahead)?;
        match self.settled(replies)? {
            Some(replies) => Ok(replies),
            None => self.ask_whole(&request),
        }
    }

    fn with_looks(&self, request: &Request) -> Request {
        let look: Cmd = cmd("GET").arg(self.keys.borrow().hold()).to_owned();
        let mut whole = Request::one(&look);
        whole.append(request);
        whole.push(&look);
        whole
    }

    fn ask_whole(&self, request: &Request) -> Result<Vec<Reply>> {
        let begun = Instant::now();
        loop {
            if let Some(replies) = self.settled(self.place.ask(request)?)? {
                return Ok(replies);
            }
            if begun.elapsed() > PATIENCE {
                return Err(Cause::Conflict(format!("the table `{}`", self.keys().base())).into());
            }
        }
    }

    /// The replies between two looks at the hold, if no change was carried out then. Waits for one that is.
    fn settled(&self, mut replies: Vec<Reply>) -> Result<Option<Vec<Reply>>> {
        let after = replies.pop().unwrap_or_default();
        if let Hold::Decided(decided) = Hold::of(&after) {
            self.settle(&decided)?;
            return Ok(None);
        }
        self.learn_hold(&after);
        let mut replies = replies.into_iter();
        let before = replies.next().unwrap_or_default();
        Ok((before == after).then(|| replies.collect()))
    }
}
