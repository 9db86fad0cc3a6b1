//! Sets of rowids. One can have as many members as the table has rows, so it is read in pieces, between which the
//! server serves others.

use redis::{Cmd, Value as Reply, cmd};

use crate::model::error::Result;
use crate::vtab::layout::replies::rowids;
use crate::vtab::query::row_source::Keys;
use crate::vtab::table::Table;
use crate::wire::reply::array;
use crate::wire::request::Request;
use crate::wire::scan::Scan;

/// Members in one piece. A smaller set takes one round trip.
const PIECE: usize = 5000;

/// Reads a set from its beginning, or all of an intersection.
pub(super) fn command(sets: &Keys) -> Cmd {
    match sets.as_slice() {
        [set] => from(set, "0"),
        sets => cmd("SINTER").arg(sets).to_owned(),
    }
}

fn from(set: &[u8], cursor: &str) -> Cmd {
    cmd("SSCAN").arg(set).arg(cursor).arg("COUNT").arg(PIECE).to_owned()
}

impl Table {
    /// The rowids in some sets, in order, after the reply to [`command`].
    pub(super) fn rowids_in(&self, sets: &Keys, reply: Reply) -> Result<Vec<i64>> {
        let [set] = sets.as_slice() else { return rowids(reply) };
        let (mut all, mut reply, mut progress) = (Vec::new(), reply, Scan::default());
        loop {
            let mut parts = array("SSCAN", reply)?.into_iter();
            let next = progress.after(parts.next().as_ref(), || self.place.size(cmd("SCARD").arg(set)))?;
            all.extend(rowids(parts.next().unwrap_or_default())?);
            let Some(cursor) = next else { break };
            reply = self.ask(&Request::one(&from(set, &cursor)))?.pop().unwrap_or_default();
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}
