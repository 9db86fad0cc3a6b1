//! The mark of a commit: a key that shows, after a lost reply, whether the commit was made.

use std::time::{Duration, Instant};

use redis::{Value as Reply, cmd};

use crate::model::error::{Cause, Error, Result};
use crate::vtab::commit::scripted::eval;
use crate::vtab::layout::keys::shown;
use crate::vtab::table::{Mark, Session, Table};
use crate::wire::reply::bad_reply;
use crate::wire::request::Request;

/// Time to live of a mark, in seconds. Longer than [`PATIENCE`].
pub(crate) const MARK_SECONDS: u64 = 60;
/// How long the outcome of a commit is looked up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The error for a commit whose reply was lost, and whose mark can't be read.
pub(super) fn unknown(mark: Mark, table: &Table, lost: &str, second: &str) -> Error {
    Cause::RowsUnknown(format!(
        "{lost}; and then: {second}; look for its effects, or for `{}` = {}, before running it again",
        shown(&table.keys().commit(mark.client)),
        mark.number
    ))
    .into()
}

/// Whether the mark says that the commit was made; `None` if the mark is gone. If the commit was not made, this
/// changes the mark. The commit watches the mark, so an `EXEC` that arrives later is refused.
pub(super) fn is_decided(mark: Mark, table: &Table) -> Result<Option<bool>> {
    let mut decide = cmd("decide");
    decide.arg(table.keys().commit(mark.client)).arg(mark.number).arg(MARK_SECONDS);
    let reply = table.place.ask(&Request::one(&eval(&decide)))?.pop().unwrap_or_default();
    match reply {
        Reply::Int(1) => Ok(Some(true)),
        Reply::Int(0) => Ok(Some(false)),
        Reply::Int(-1) => Ok(None),
        other => Err(bad_reply("EVAL", &other).into()),
    }
}

impl Session {
    /// Adds a command that writes a mark, unless the last commit has left a fresh one. Returns whether it was added.
    pub(super) fn write_mark(&self, key: &[u8], request: &mut Request) -> bool {
        let fresh = Duration::from_secs(MARK_SECONDS) - 2 * PATIENCE;
        let marked = self.marked.borrow();
        if marked.as_ref().is_some_and(|(marked, when)| marked == key && when.elapsed() < fresh) {
            return false;
        }
        request.push(cmd("SET").arg(key).arg("ready").arg("EX").arg(MARK_SECONDS));
        true
    }

    /// Remembers that the mark exists, if `reply` confirms it. If not, the commit will report the reason.
    pub(super) fn note_mark(&self, key: &[u8], reply: &Reply) {
        let written = matches!(reply, Reply::Okay);
        *self.marked.borrow_mut() = written.then(|| (key.to_vec(), Instant::now()));
    }
}
