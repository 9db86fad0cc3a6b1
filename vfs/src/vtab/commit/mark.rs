//! The mark of a commit, which tells after a lost reply whether it was written.

use std::time::{Duration, Instant};

use redis::{Value as Reply, cmd};

use crate::model::error::{Cause, Error, Result};
use crate::vtab::commit::scripted::eval;
use crate::vtab::layout::keys::shown;
use crate::vtab::table::{Mark, Session, Table};
use crate::wire::reply::bad_reply;
use crate::wire::request::Request;

/// How long a mark can be asked for, in seconds. Longer than [`PATIENCE`].
pub(crate) const MARK_SECONDS: u64 = 60;
/// How long it is tried to find out what became of a commit.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The outcome of a commit whose reply was lost, when the server can't be asked about it.
pub(super) fn unknown(mark: Mark, table: &Table, lost: &str, second: &str) -> Error {
    Cause::RowsUnknown(format!(
        "{lost}; and then: {second}; look for its effects, or for `{}` = {}, before running it again",
        shown(&table.keys().commit(mark.client)),
        mark.number
    ))
    .into()
}

/// Whether the commit happened, as its mark says; `None` if the mark is gone. If it did not happen, it can't any
/// more: it watches the mark, which is changed, so an `EXEC` that is still on its way is refused.
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
    /// Writes a mark before a commit, unless the last commit has just written it. Returns whether a command was added.
    pub(super) fn write_mark(&self, key: &[u8], request: &mut Request) -> bool {
        let fresh = Duration::from_secs(MARK_SECONDS) - 2 * PATIENCE;
        let marked = self.marked.borrow();
        if marked.as_ref().is_some_and(|(marked, when)| marked == key && when.elapsed() < fresh) {
            return false;
        }
        request.push(cmd("SET").arg(key).arg("ready").arg("EX").arg(MARK_SECONDS));
        true
    }

    /// Remembers that the mark is there, if the reply to what has written it says so. If not, the commit will say why.
    pub(super) fn note_mark(&self, key: &[u8], reply: &Reply) {
        let written = matches!(reply, Reply::Okay);
        *self.marked.borrow_mut() = written.then(|| (key.to_vec(), Instant::now()));
    }
}
