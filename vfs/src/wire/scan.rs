//! Bounds a listing that takes many calls, such as `SCAN` (<https://redis.io/docs/latest/commands/scan/>), in case
//! the server always answers that there is more.

use redis::Value;

use crate::model::error::{Cause, Error, Result};
use crate::wire::reply::text;

/// Calls after which the number of items is asked for.
const FEW: u64 = 1000;
/// Calls allowed in addition to one per ten items. A hash table that has shrunk is mostly empty, so many calls return
/// nothing.
const MOST: u64 = 20_000;

/// Progress of a listing.
#[derive(Default)]
pub(crate) struct Scan {
    calls: u64,
    /// The most calls allowed, once the number of items is known.
    most: Option<u64>,
    /// An earlier cursor. If it is answered again, the scan runs in a circle.
    marked: String,
}

impl Scan {
    /// The cursor to continue with, or `None` at the end. `items` returns the number of items.
    ///
    /// # Errors
    /// [`Cause::BadReply`] if the scan does not end.
    pub(crate) fn after(
        &mut self,
        cursor: Option<&Value>,
        items: impl FnOnce() -> Option<u64>,
    ) -> Result<Option<String>> {
        let Some(cursor) = cursor.and_then(text).filter(|cursor| !cursor.is_empty()) else {
            return Err(Cause::BadReply("SCAN without a cursor".into()).into());
        };
        if cursor == "0" {
            return Ok(None);
        }
        self.called(items)?;
        if cursor == self.marked {
            return Err(self.has_no_end());
        }
        // With marks at powers of two, a circle is noticed within three rounds.
        if self.calls.is_power_of_two() {
            self.marked.clone_from(&cursor);
        }
        Ok(Some(cursor))
    }

    /// Counts a call after which the listing continues.
    ///
    /// # Errors
    /// As for [`Scan::after`].
    pub(crate) fn called(&mut self, items: impl FnOnce() -> Option<u64>) -> Result<()> {
        self.calls += 1;
        if self.calls == FEW {
            self.most = items().map(|items| MOST + items / 10);
        }
        if self.most.is_some_and(|most| self.calls > most) {
            return Err(self.has_no_end());
        }
        Ok(())
    }

    fn has_no_end(&self) -> Error {
        Cause::BadReply(format!("a listing has not come to its end after {} calls", self.calls)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(cursor: u64) -> Value {
        Value::BulkString(cursor.to_string().into_bytes())
    }

    /// The number of calls until the scan ends or is refused, and whether it ended.
    fn calls(items: u64, cursor: impl Fn(u64) -> u64) -> (u64, bool) {
        let mut scan = Scan::default();
        for call in 1.. {
            match scan.after(Some(&bulk(cursor(call))), || Some(items)) {
                Ok(None) => return (call, true),
                Ok(Some(next)) => assert_eq!(next, cursor(call).to_string()),
                Err(_) => return (call, false),
            }
        }
        unreachable!()
    }

    #[test]
    fn a_scan_without_end_is_given_up() {
        assert_eq!(calls(0, |call| if call < 15_000 { call } else { 0 }), (15_000, true));
        assert_eq!(calls(1_000_000, |call| if call < 100_000 { call } else { 0 }), (100_000, true));
        assert_eq!(calls(0, |_| 7), (2, false));
        assert!(matches!(calls(0, |call| 1 + call % 5), (..=20, false)));
        assert_eq!(calls(50, |call| call), (MOST + 6, false));
        for bad in [None, Some(&Value::Nil), Some(&Value::Int(1)), Some(&Value::BulkString(Vec::new()))] {
            assert!(Scan::default().after(bad, || None).is_err());
        }
    }
}
