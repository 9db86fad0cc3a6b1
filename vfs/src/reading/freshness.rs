//! The maximum age of a version, without synchronised clocks.
//!
//! A request is sent to the primary at an instant of this process's clock, and the reply contains a
//! version. That version includes every commit that was acknowledged, to any client, before the
//! instant. So a reader of that version, or of a later one, misses no commit older than the instant.

use std::time::Instant;

use crate::model::version::{Snapshot, Version};
use crate::process::sync::Mutex;
use crate::reading::cache::Epoch;

/// Minimum number of statements to keep, enough to know the age of a slightly lagging replica's version.
const STATEMENTS: usize = 256;

/// The primary's statements about the version of one database.
#[derive(Default)]
pub(crate) struct Freshness {
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    /// The history of the statements.
    epoch: Option<Epoch>,
    /// Ascending, both by instant and by version. A statement is dropped if another implies it, with the same or a later
    /// instant and the same or an older version.
    statements: Vec<(Instant, Version)>,
    /// The reply to the request that was sent last.
    last: Option<(Instant, Snapshot)>,
}

impl Freshness {
    /// Adds a statement: the primary had this snapshot after `asked`.
    pub(crate) fn said(&self, epoch: Epoch, asked: Instant, snapshot: &Snapshot) {
        let version = snapshot.version;
        let mut said = self.said.lock();
        if said.epoch != Some(epoch) {
            // A late reply about a history that the cache has dropped.
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
        // Replaces the statements that the new one implies: those of earlier instants with the same or newer versions.
        let kept = statements.partition_point(|&(_, had)| had < version);
        let later = statements.partition_point(|&(instant, _)| instant <= asked);
        statements.splice(kept..later, [(asked, version)]);
        if statements.len() == 2 * STATEMENTS {
            statements.drain(..STATEMENTS);
        }
    }

    /// The older version to which the primary went back, if it did: its reply to a request sent after `since`, when
    /// `head` was known already.
    pub(crate) fn went_back(&self, epoch: Epoch, head: Version, since: Instant) -> Option<Snapshot> {
        let said = self.said.lock();
        let (asked, snapshot) = said.last.filter(|_| said.epoch == Some(epoch))?;
        (asked > since && snapshot.version < head).then_some(snapshot)
    }

    /// The latest instant such that a reader of `version` provably misses no commit acknowledged before it. `None` if
    /// there is no proof.
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
