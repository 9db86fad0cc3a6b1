//! How many log entries to ask for at once, so that a reply has about so many bytes.
//!
//! `XRANGE` can be limited by count only. Entries are small as this version writes them, but those of
//! earlier versions have all undo data in them, up to 32 MB. So the count follows from the size of the
//! entries that came last.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use redis::Value;

use crate::model::error::{Cause, Error};

/// Bytes of entries in one reply, about.
pub(crate) const REPLY: usize = 1 << 20;
/// The same where a writer waits for the reply while it holds a lease that it can't renew yet.
pub(crate) const REPLY_WITH_LEASE: usize = 128 << 10;
/// Entries in one reply at most.
const MOST: usize = 256;
/// Entries and bytes that any log may have, whatever the settings of this client are: others may keep more.
const LEAST_BOUND: (u64, u64) = (10_000, 64 << 20);
/// Memory that an entry takes beside its bytes.
pub(crate) const ENTRY: usize = 128;

/// The most that is read of a log at once: entries, and bytes. Redis trims with some slack, and `log_bytes` counts
/// undo data only.
pub(crate) fn most_log(log_commits: u64, log_bytes: u64) -> (u64, usize) {
    let entries = log_commits.max(LEAST_BOUND.0).saturating_mul(2);
    let bytes = log_bytes.max(LEAST_BOUND.1).saturating_mul(2);
    (entries, usize::try_from(bytes).unwrap_or(usize::MAX))
}
/// What an entry is taken to have as long as none has come.
const ASSUMED: usize = 8 << 10;

/// The size of a database's log entries, as they came last.
pub(crate) struct EntrySize(AtomicUsize);

impl Default for EntrySize {
    fn default() -> Self {
        EntrySize(ASSUMED.into())
    }
}

impl EntrySize {
    /// How many entries to ask for to get about so many bytes.
    pub(crate) fn count(&self, bytes: usize) -> usize {
        (bytes / self.0.load(Relaxed)).clamp(1, MOST)
    }

    /// Notes the size of the entries in a reply.
    pub(crate) fn learn(&self, reply: &Value) {
        if let Value::Array(entries) = reply
            && !entries.is_empty()
        {
            let size = entries.iter().map(size).sum::<usize>() / entries.len();
            self.0.store(size.max(1), Relaxed);
        }
    }

    /// Notes that the reply did not come. It may have been more than the server sends, so the next has one entry.
    pub(crate) fn learn_from(&self, error: &Error) {
        if matches!(error.cause, Cause::ConnectionLost(_) | Cause::NoReply) {
            self.0.store(REPLY, Relaxed);
        }
    }
}

/// The bytes in a reply.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::BulkString(bytes) => bytes.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(sizes: &[usize]) -> Value {
        let entry = |size: &usize| Value::Array(vec![Value::BulkString(vec![0; *size])]);
        Value::Array(sizes.iter().map(entry).collect())
    }

    #[test]
    fn large_entries_are_asked_for_one_by_one_and_small_ones_together() {
        let size = EntrySize::default();
        assert_eq!((size.count(REPLY), size.count(REPLY_WITH_LEASE)), (128, 16));
        size.learn(&entries(&[8 << 20, 8 << 20]));
        assert_eq!((size.count(REPLY), size.count(REPLY_WITH_LEASE)), (1, 1));
        size.learn(&entries(&[200, 300]));
        assert_eq!((size.count(REPLY), size.count(REPLY_WITH_LEASE)), (MOST, MOST));
        size.learn(&entries(&[100 << 10, 0]));
        assert_eq!((size.count(REPLY), size.count(REPLY_WITH_LEASE)), (20, 2));
        size.learn(&entries(&[]));
        assert_eq!(size.count(REPLY), 20, "nothing came");
        size.learn_from(&Cause::NoReply.into());
        assert_eq!(size.count(REPLY), 1);
        size.learn(&Value::Nil);
        size.learn(&entries(&[0]));
        assert_eq!(size.count(REPLY), MOST);
    }
}
