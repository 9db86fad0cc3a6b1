//! The stream of undo data: pieces of the commits that have too much of it for their log entry.
//!
//! A piece has the id `<version>-<last page in it>`. So the piece with page `p` of version `v` is the first
//! one from `v-p` on, and the stream is trimmed by version like the log.

use redis::cmd;

use crate::model::error::Result;
use crate::model::log_entry::{Commit, Piece, PiecesAsked, Undo};
use crate::model::version::CommitId;
use crate::store::redis::base::RedisStore;
use crate::store::redis::{keys, replies};
use crate::wire::link::Sending;
use crate::wire::reply::checked;
use crate::wire::request::Request;

/// What a commit keeps of its undo data.
#[derive(Clone, Copy)]
pub(crate) struct KeptUndo<'a> {
    /// The field for the log's entry.
    pub field: Option<(&'static str, &'a [u8])>,
    /// For the stream of undo data.
    pub pieces: &'a [Piece],
}

impl<'a> KeptUndo<'a> {
    pub(crate) const NONE: KeptUndo<'static> = KeptUndo { field: None, pieces: &[] };

    /// What is kept where a commit may have `most` bytes of deltas.
    pub(crate) fn of(undo: &'a Undo, most: u64) -> Self {
        match undo {
            Undo::Deltas(deltas) if deltas.len() as u64 <= most => {
                KeptUndo { field: Some((keys::log::UNDO, deltas)), pieces: &[] }
            }
            Undo::Pieces { pages, pieces } => {
                let bytes: u64 = pieces.iter().map(|piece| piece.deltas.len() as u64).sum();
                let pieces = if bytes <= most { pieces.as_slice() } else { &[] };
                KeptUndo { field: Some((keys::log::PAGES, pages)), pieces }
            }
            Undo::Deltas(_) | Undo::Barrier => KeptUndo::NONE,
        }
    }

    /// Bytes that count against `log_bytes`. A list of pages without pieces does not: it is part of a log
    /// entry, and `log_commits` limits those.
    pub(crate) fn bytes(&self) -> u64 {
        let in_entry = match self.field {
            Some((keys::log::PAGES, _)) if self.pieces.is_empty() => 0,
            Some((_, bytes)) => bytes.len(),
            None => 0,
        };
        (in_entry + self.pieces.iter().map(|piece| piece.deltas.len()).sum::<usize>()) as u64
    }
}

impl RedisStore {
    /// Trims the stream up to the version that the log is trimmed to, and adds a commit's pieces.
    pub(crate) fn send_pieces(
        &self,
        commit: &Commit<'_>,
        pieces: &[Piece],
        trim: Option<u64>,
        sending: &mut Sending<'_, '_>,
    ) {
        let version = commit.snapshot.version;
        if let Some(first) = trim {
            let mut xtrim = cmd("XTRIM");
            xtrim.arg(&self.keys.undo).arg("MINID").arg(format!("{first}-0"));
            sending.piece().push(&xtrim);
        }
        // The log keeps `log_commits` entries, so older pieces are of no use.
        let oldest = format!("{}-0", version.0.saturating_sub(self.log_commits));
        for piece in pieces {
            let mut xadd = sending.piece().begin(10);
            xadd.word("XADD").word(&self.keys.undo).word("MINID").word("~").word(&oldest);
            xadd.word(format!("{version}-{}", piece.last));
            xadd.word(keys::log::COMMIT).word(commit.snapshot.commit.to_string());
            xadd.word(keys::log::UNDO).word(&piece.deltas);
        }
    }

    /// See `Store::undo`.
    pub(crate) fn fetch_pieces(&self, asked: &[PiecesAsked]) -> Result<Vec<Vec<(CommitId, Piece)>>> {
        let mut request = Request::default();
        for PiecesAsked { version, from, count } in asked {
            let mut xrange = cmd("XRANGE");
            xrange.arg(&self.keys.undo).arg(format!("{version}-{from}")).arg(version.to_string());
            request.push(xrange.arg("COUNT").arg(count));
        }
        let replies = self.server.ask(&request)?;
        asked.iter().zip(replies).map(|(asked, reply)| replies::pieces(checked(reply)?, asked.version)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::page::PageNo;

    #[test]
    fn what_is_more_than_it_may_be_is_not_kept() {
        let deltas = Undo::Deltas(vec![0; 100]);
        let piece = |last| Piece { last: PageNo::new(last).unwrap(), deltas: vec![0; 60] };
        let pieces = Undo::Pieces { pages: vec![1, 2], pieces: vec![piece(3), piece(4)] };
        let kept = |undo: &Undo, most| {
            let kept = KeptUndo::of(undo, most);
            (kept.field.map(|(name, _)| name), kept.pieces.len(), kept.bytes())
        };
        assert_eq!(kept(&deltas, 100), (Some("undo"), 0, 100));
        assert_eq!(kept(&deltas, 99), (None, 0, 0));
        assert_eq!(kept(&pieces, 120), (Some("pages"), 2, 122));
        assert_eq!(kept(&pieces, 119), (Some("pages"), 0, 0));
        assert_eq!(kept(&Undo::Barrier, 120), (None, 0, 0));
    }
}
