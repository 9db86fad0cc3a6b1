//! How old a version is at most, without a clock that two machines would have to share.
//!
//! The primary answers a question that was sent at some instant of this process's own clock with
//! a version. Whatever was acknowledged to anyone before that instant is part of that version. So
//! a reader of that version, or of a later one, misses nothing that is older than the instant.

use std::time::Instant;

use crate::model::version::{Snapshot, Version};
use crate::process::sync::Mutex;
use crate::reading::cache::Epoch;

/// Statements kept, at least: enough to tell the age of a replica's version that is a little behind.
const STATEMENTS: usize = 256;

/// What the primary has said of one database.
#[derive(Default)]
pub(crate) struct Freshness {
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    /// The history that the statements are about.
    epoch: Option<Epoch>,
    /// Later instants have larger versions; a statement that another implies, with an instant as late and a
    /// version no larger, is not kept.
    statements: Vec<(Instant, Version)>,
    /// The answer to the question that was sent last.
    last: Option<(Instant, Snapshot)>,
}

impl Freshness {
    /// The primary had this snapshot after `asked`.
    pub(crate) fn said(&self, epoch: Epoch, asked: Instant, snapshot: &Snapshot) {
        let version = snapshot.version;
        let mut said = self.said.lock();
        if said.epoch != Some(epoch) {
            // Statements of a history that the cache has given up come late, and are of no use.
            if said.epoch.is_some_and(|known| known.is_after(epoch)) {
                return;
            }
            *said = Said { epoch: Some(epoch), statements: Vec::new(), last: None };
        }
        if said.last.is_none_or(|(before, _)| before <= asked) {
            said.last = Some((asked, *snapshot));
        }
        let statements = &mut said.statements;
        let before = statements.partition_point(|&(instant, _)| instant < asked);
        if statements.get(before).is_some_and(|&(_, had)| had <= version) {
            return;
        }
        // Those of smaller versions stay, and those of later instants.
        let kept = statements.partition_point(|&(_, had)| had < version);
        let later = statements.partition_point(|&(instant, _)| instant <= asked);
        statements.splice(kept..later, [(asked, version)]);
        if statements.len() == 2 * STATEMENTS {
            statements.drain(..STATEMENTS);
        }
    }

    /// What the primary went back to, if it did: it had an older version than this one when it was
    /// asked after this one was known.
    pub(crate) fn went_back(&self, epoch: Epoch, head: Version, since: Instant) -> Option<Snapshot> {
        let said = self.said.lock();
        let (asked, snapshot) = said.last.filter(|_| said.epoch == Some(epoch))?;
        (asked > since && snapshot.version < head).then_some(snapshot)
    }

    /// The last instant for which it is known that a reader of this version misses nothing that
    /// was acknowledged before; `None` when none is.
    pub(crate) fn as_of(&self, epoch: Epoch, version: Version) -> Option<Instant> {
        let said = self.said.lock();
        let of_this = said.epoch == Some(epoch);
        let statement = said.statements.iter().rev().find(|(_, had)| of_this && *had <= version)?;
        Some(statement.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn said(freshness: &Freshness, asked: Instant, version: Version) {
        freshness.said(Epoch::NONE, asked, &Snapshot { version, ..Snapshot::EMPTY });
    }

    proptest! {
        /// Commits with the instants at which they were acknowledged, and questions to the
        /// primary that overlap them and each other in any order of replies.
        #[test]
        fn no_version_is_taken_for_younger_than_it_is(
            commits in prop::collection::vec(0u64..1000, 1..20),
            questions in prop::collection::vec((0u64..1000, 0u64..200), 1..30),
        ) {
            let start = Instant::now();
            let mut commits = commits;
            commits.sort_unstable();
            let version_at = |ms: u64| Version(commits.iter().filter(|&&acknowledged| acknowledged <= ms).count() as u64);
            let freshness = Freshness::default();
            for (asked, took) in questions {
                said(&freshness, start + Duration::from_millis(asked), version_at(asked + took));
            }
            for version in (0..=commits.len() as u64).map(Version) {
                // The first commit that a reader of this version misses.
                let missed = commits.get(version.0 as usize).map(|&missed| start + Duration::from_millis(missed));
                if let (Some(as_of), Some(missed)) = (freshness.as_of(Epoch::NONE, version), missed) {
                    prop_assert!(as_of < missed);
                }
            }
        }
    }

    #[test]
    fn an_age_is_that_of_the_last_question_whose_answer_was_not_newer() {
        let freshness = Freshness::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let as_of = |version| freshness.as_of(Epoch::NONE, Version(version)).map(|instant| (instant - start).as_secs());
        assert_eq!(as_of(5), None);
        said(&freshness, at(10), Version(5));
        said(&freshness, at(30), Version(7));
        assert_eq!([4, 5, 6, 7, 9].map(as_of), [None, Some(10), Some(10), Some(30), Some(30)]);
        said(&freshness, at(20), Version(5));
        said(&freshness, at(15), Version(6));
        assert_eq!([5, 6, 7].map(as_of), [Some(20), Some(20), Some(30)], "replies overtake each other");
    }

    #[test]
    fn a_primary_that_went_back_is_told_from_an_answer_that_came_late() {
        let freshness = Freshness::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let went_back =
            |head, since| freshness.went_back(Epoch::NONE, Version(head), at(since)).map(|snapshot| snapshot.version.0);
        assert_eq!(went_back(5, 0), None);
        said(&freshness, at(10), Version(4));
        assert_eq!((went_back(5, 9), went_back(5, 11), went_back(4, 9)), (Some(4), None, None));
        said(&freshness, at(8), Version(3));
        assert_eq!(went_back(5, 7), Some(4), "what was asked last counts");
    }
}
