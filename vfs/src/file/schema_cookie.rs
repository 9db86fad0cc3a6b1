//! The schema cookie: the number in page 1 by which SQLite finds out whether the schema that it has
//! parsed is still that of the database
//! (<https://sqlite.org/fileformat2.html#schema_cookie>).
//!
//! Each change of the schema counts it up, so within one history a number is never used for two
//! schemas. Two histories may well use one number for two: a failover loses `CREATE TABLE a`, and
//! then another client makes table `b`. SQLite would go on with the schema of the lost history and
//! read one table for another. So for each history that a connection meets, it is shown the number
//! with something added; what it writes is stored with the same taken away.
//!
//! What is added is the same all through a transaction, and SQLite's page cache is only good for
//! transactions that have the same added ([`crate::file::PagerCache`]): a page 1 that was shown with one
//! number and stored with another would change the schema cookie of the database.

use crate::reading::cache::Epoch;

/// Where page 1 has it, as a big-endian number.
const PLACE: std::ops::Range<usize> = 40..44;

/// What is added for each further history: more than the changes that a schema sees in its life.
const STEP: u32 = 1 << 20;

/// What one connection is shown.
#[derive(Debug, Default)]
pub(super) struct SchemaCookie {
    /// The history of the schema that SQLite may have; `None` before it has seen or made one.
    history: Option<Epoch>,
    /// The history of this transaction.
    entered: Option<Epoch>,
    /// What that history is shown with.
    of_history: u32,
    /// What is added in this transaction.
    added: u32,
}

impl SchemaCookie {
    /// A transaction begins to read this history. One that can't be told is another each time. Where
    /// there is no page 1 yet, SQLite begins to count by itself.
    pub(super) fn enter(&mut self, history: Epoch, empty: bool) {
        if self.history.is_some_and(|last| last != history || last == Epoch::NONE) {
            self.of_history = self.of_history.wrapping_add(STEP);
        }
        if self.history.is_some() || !empty {
            self.history = Some(history);
        }
        self.entered = Some(history);
        self.added = if empty { 0 } else { self.of_history };
    }

    /// In a forked child, histories are counted anew.
    pub(super) fn forked(&mut self) {
        self.history = self.history.map(|_| Epoch::NONE);
    }

    /// What is added in this transaction.
    pub(super) fn added(&self) -> u32 {
        self.added
    }

    /// Turns what is stored into what is shown.
    pub(super) fn show(&self, offset: u64, buffer: &mut [u8]) {
        shift(offset, buffer, self.added);
    }

    /// Turns what SQLite writes into what is to be stored; `None` when that is the same.
    pub(super) fn stored(&mut self, offset: u64, data: &[u8]) -> Option<Vec<u8>> {
        if offset != 0 {
            return None;
        }
        self.history = self.history.or(self.entered);
        if self.added == 0 {
            return None;
        }
        let mut stored = data.to_vec();
        shift(offset, &mut stored, self.added.wrapping_neg());
        Some(stored)
    }
}

fn shift(offset: u64, page: &mut [u8], by: u32) {
    if offset == 0
        && by != 0
        && let Some(place) = page.get_mut(PLACE)
        && let Ok(bytes) = <[u8; 4]>::try_from(&*place)
    {
        place.copy_from_slice(&u32::from_be_bytes(bytes).wrapping_add(by).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::version::Snapshot;
    use crate::reading::cache::Cache;

    /// Two histories.
    fn histories() -> [Epoch; 2] {
        let cache = Cache::new(1 << 20);
        let lost = cache.head().1;
        cache.removed(std::time::Instant::now());
        cache.admit(&Snapshot { version: crate::model::version::Version(7), ..Snapshot::EMPTY });
        [lost, cache.head().1]
    }

    fn page(cookie: u32) -> Vec<u8> {
        let mut page = vec![0; 100];
        page[PLACE].copy_from_slice(&cookie.to_be_bytes());
        page
    }

    #[test]
    fn a_connection_that_has_seen_no_schema_is_shown_what_is_stored() {
        let [one, other] = histories();
        let mut cookie = SchemaCookie::default();
        cookie.enter(one, true);
        cookie.enter(other, false);
        assert_eq!(cookie.added(), 0);
        cookie.enter(one, false);
        assert_eq!(cookie.added(), STEP);
    }

    #[test]
    fn a_schema_that_the_connection_has_made_is_told_from_that_of_another_history() {
        let [one, other] = histories();
        let mut cookie = SchemaCookie::default();
        cookie.enter(one, true);
        assert_eq!(cookie.stored(0, &page(1)), None);
        cookie.enter(one, false);
        assert_eq!(cookie.added(), 0);
        let mut cookie = SchemaCookie::default();
        cookie.enter(one, true);
        assert_eq!(cookie.stored(0, &page(1)), None);
        cookie.enter(other, false);
        let mut shown = page(1);
        cookie.show(0, &mut shown);
        assert_eq!(shown, page(1 + STEP));
    }
}
