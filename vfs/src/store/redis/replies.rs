//! Replies of the server, read with suspicion: nothing in them is believed before it is checked.

use redis::Value;

use crate::model::error::{Cause, Result};
use crate::model::log_entry::{Changes, LogEntry, Piece};
use crate::model::page::PageNo;
use crate::model::page_encoding;
use crate::model::version::{CommitId, FORMAT, STAGED_FORMAT, Snapshot, Version, check_shape};
use crate::store::redis::keys;
use crate::wire::reply::{array, bad_reply};

/// The snapshot from the values of [`keys::SNAPSHOT`], in that order, and whether some of its
/// pages are still staged.
///
/// A hash without any of them is not there; one with some of them is damaged.
pub(crate) fn snapshot(fields: &[Value]) -> Result<(Snapshot, bool)> {
    let [version, commit, page_size, page_count, format] = fields else {
        return Err(Cause::BadReply(format!("{} snapshot fields", fields.len())).into());
    };
    if fields.iter().all(|field| matches!(field, Value::Nil)) {
        return Ok((Snapshot::EMPTY, false));
    }
    let format = bytes(keys::FORMAT, format)?;
    let staged = match parse_number(format) {
        Some(number) if number == u64::from(FORMAT) => false,
        Some(number) if number == u64::from(STAGED_FORMAT) => true,
        _ => return Err(Cause::UnknownFormat(lossy(format)).into()),
    };
    let version = number(keys::VERSION, version)?;
    if !is_version(version) {
        return Err(damaged(keys::VERSION, &version.to_string()));
    }
    let commit = bytes(keys::COMMIT, commit)?;
    let commit = CommitId::parse(commit).ok_or_else(|| damaged(keys::COMMIT, &lossy(commit)))?;
    let (page_size, page_count) =
        check_shape(number(keys::PAGE_SIZE, page_size)?, number(keys::PAGE_COUNT, page_count)?)?;
    Ok((Snapshot { version: Version(version), commit, page_size, page_count }, staged))
}

fn bytes<'a>(field: &str, value: &'a Value) -> Result<&'a [u8]> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::Nil => Err(Cause::Damaged(format!("the hash field {field} is missing")).into()),
        other => Err(bad_reply("HMGET", other).into()),
    }
}

fn number(field: &str, value: &Value) -> Result<u64> {
    let digits = bytes(field, value)?;
    parse_number(digits).ok_or_else(|| damaged(field, &lossy(digits)))
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    // `parse` alone would take a sign.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Whether it can be the number of a commit, with room for those that follow.
fn is_version(number: u64) -> bool {
    (1..u64::MAX / 2).contains(&number)
}

fn damaged(field: &str, value: &str) -> crate::model::error::Error {
    let value: String = value.chars().take(40).collect();
    Cause::Damaged(format!("the hash field {field} is `{value}`")).into()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()
}

/// One page out of the hash, of a version with these numbers.
pub(crate) fn page(page: PageNo, value: Value, at: &Snapshot) -> Result<Option<Vec<u8>>> {
    match value {
        Value::BulkString(_) | Value::Nil if !at.has(page) => Ok(None),
        Value::BulkString(bytes) => {
            let (length, page_size) = (bytes.len(), at.page_size);
            let content = page_encoding::unpack(bytes, page_size as usize).ok_or_else(|| {
                Cause::Damaged(format!(
                    "the hash field {} has {length} bytes, no page of {page_size}",
                    keys::page(page)
                ))
            })?;
            Ok(Some(content))
        }
        Value::Nil => Err(Cause::Damaged(format!("the hash field {} is missing", keys::page(page))).into()),
        other => Err(bad_reply("HMGET", &other).into()),
    }
}

/// The log entries that `XRANGE` answered.
pub(crate) fn log_entries(value: Value) -> Result<Vec<LogEntry>> {
    array("XRANGE", value)?
        .into_iter()
        .map(|item| log_entry(&item).ok_or_else(|| bad_reply("XRANGE", &item).into()))
        .collect()
}

/// The log entries that `XREAD` of one stream answered; none when its time was up.
pub(crate) fn news(value: Value) -> Result<Vec<LogEntry>> {
    if matches!(value, Value::Nil) {
        return Ok(Vec::new());
    }
    let mut streams = array("XREAD", value)?;
    match streams.as_mut_slice() {
        [Value::Array(stream)] if stream.len() == 2 => log_entries(stream.pop().unwrap_or_default()),
        _ => Err(bad_reply("XREAD", &Value::Array(streams)).into()),
    }
}

/// The pieces of one commit's undo data that `XRANGE` answered.
pub(crate) fn pieces(value: Value, version: Version) -> Result<Vec<(CommitId, Piece)>> {
    array("XRANGE", value)?
        .into_iter()
        .map(|item| piece(&item, version).ok_or_else(|| bad_reply("XRANGE", &item).into()))
        .collect()
}

fn piece(item: &Value, version: Version) -> Option<(CommitId, Piece)> {
    let (id, pairs) = stream_item(item)?;
    let last = id.strip_prefix(version.to_string().as_bytes())?.strip_prefix(b"-")?;
    let last = PageNo::new(u32::try_from(parse_number(last)?).ok()?)?;
    let commit = CommitId::parse(field(pairs, keys::log::COMMIT)?)?;
    Some((commit, Piece { last, deltas: field(pairs, keys::log::UNDO)?.to_vec() }))
}

/// Id, and fields and values, of an item in a stream.
fn stream_item(item: &Value) -> Option<(&[u8], &[Value])> {
    let Value::Array(item) = item else { return None };
    let [Value::BulkString(id), Value::Array(pairs)] = item.as_slice() else { return None };
    Some((id, pairs))
}

fn field<'a>(pairs: &'a [Value], name: &str) -> Option<&'a [u8]> {
    pairs.as_chunks::<2>().0.iter().find_map(|[key, value]| match (key, value) {
        (Value::BulkString(key), Value::BulkString(value)) if key == name.as_bytes() => Some(value.as_slice()),
        _ => None,
    })
}

fn log_entry(item: &Value) -> Option<LogEntry> {
    let (id, pairs) = stream_item(item)?;
    let version = parse_number(id.strip_suffix(b"-0")?).filter(|&version| is_version(version))?;
    let field = |name| field(pairs, name);
    Some(LogEntry {
        version: Version(version),
        commit: CommitId::parse(field(keys::log::COMMIT)?)?,
        base: CommitId::parse(field(keys::log::BASE)?)?,
        page_count: u32::try_from(parse_number(field(keys::log::PAGE_COUNT)?)?).ok()?,
        changes: match (field(keys::log::UNDO), field(keys::log::PAGES)) {
            (Some(undo), _) => Changes::Deltas(undo.to_vec()),
            (None, Some(pages)) => Changes::Pages(pages.to_vec()),
            (None, None) => Changes::Unknown,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn fields(version: &str, commit: &str, size: &str, count: &str, format: &str) -> Vec<Value> {
        [version, commit, size, count, format].map(bulk).to_vec()
    }

    #[test]
    fn a_message_shows_the_beginning_of_a_reply() {
        let large = Value::Array(vec![Value::BulkString(vec![7; 10_000_000]); 10]);
        let message = bad_reply("GET", &large).to_string();
        assert!(message.contains("GET was answered with array") && message.len() < 400, "{message}");
        assert!(bad_reply("GET", &Value::SimpleString("é".repeat(1000))).to_string().len() < 400);
        assert!(bad_reply("GET", &Value::Int(5)).to_string().contains("int(5)"));
    }

    #[test]
    fn a_good_snapshot_is_read() {
        let (snapshot, staged) = snapshot(&fields("7", "00000000000000ab", "4096", "12", "1")).unwrap();
        assert!(!staged);
        assert_eq!((snapshot.version, snapshot.page_count), (Version(7), 12));
    }

    #[test]
    fn no_hash_is_the_empty_database() {
        assert_eq!(snapshot(&vec![Value::Nil; 5]).unwrap(), (Snapshot::EMPTY, false));
    }

    #[test]
    fn damaged_metadata_is_refused() {
        let id = "00000000000000ab";
        for bad in [
            fields("x", id, "4096", "12", "1"),
            fields("0", id, "4096", "12", "1"),
            fields("-1", id, "4096", "12", "1"),
            fields("+1", id, "4096", "12", "1"),
            fields("18446744073709551615", id, "4096", "12", "1"),
            fields("7", "ab", "4096", "12", "1"),
            fields("7", id, "4095", "12", "1"),
            fields("7", id, "4096", "0", "1"),
            fields("7", id, "4096", "12", "3"),
            fields("7", id, "4096", "12", ""),
        ] {
            assert!(snapshot(&bad).is_err(), "{bad:?}");
        }
        for missing in 0..5 {
            let mut some = fields("7", id, "4096", "12", "1");
            some[missing] = Value::Nil;
            assert!(snapshot(&some).is_err(), "without {missing}");
        }
        assert!(snapshot(&[Value::Int(1)]).is_err());
    }

    #[test]
    fn a_page_must_have_its_size() {
        let at = Snapshot { version: Version(1), commit: CommitId(1), page_size: 512, page_count: 2 };
        let (two, three) = (PageNo::new(2).unwrap(), PageNo::new(3).unwrap());
        assert!(page(two, Value::BulkString(vec![0; 512]), &at).unwrap().is_some());
        assert!(page(two, Value::BulkString(vec![0; 511]), &at).is_err());
        assert!(page(two, Value::Nil, &at).is_err());
        assert!(page(two, Value::Int(3), &at).is_err());
        assert!(page(three, Value::Nil, &at).unwrap().is_none());
    }

    #[test]
    fn log_entries_that_make_no_sense_are_refused() {
        let entry = |id: &str, fields: &[&str]| {
            Value::Array(vec![Value::Array(vec![bulk(id), Value::Array(fields.iter().map(|f| bulk(f)).collect())])])
        };
        let id = "00000000000000ab";
        let good = ["commit", id, "base", id, "page_count", "3", "undo", "x"];
        assert_eq!(log_entries(entry("5-0", &good)).unwrap()[0].version, Version(5));
        assert_eq!(log_entries(entry("5-0", &good[..6])).unwrap()[0].changes, Changes::Unknown);
        let listed = [&good[..6], &["pages", "x"]].concat();
        assert_eq!(log_entries(entry("5-0", &listed)).unwrap()[0].changes, Changes::Pages(b"x".to_vec()));
        assert!(log_entries(entry("5-1", &good)).is_err());
        assert!(log_entries(entry("x-0", &good)).is_err());
        assert!(log_entries(entry("0-0", &good)).is_err());
        assert!(log_entries(entry("18446744073709551615-0", &good)).is_err(), "no version could follow");
        assert!(log_entries(entry("5-0", &good[2..])).is_err());
        assert!(log_entries(entry("5-0", &good[..5])).is_err());
        let stream = |entries| Value::Array(vec![Value::Array(vec![bulk("log"), entries])]);
        assert_eq!(news(stream(entry("5-0", &good))).unwrap()[0].version, Version(5));
        assert!(news(Value::Nil).unwrap().is_empty());
        for bad in [Value::Int(1), Value::Array(vec![]), stream(Value::Nil), stream(entry("5-1", &good))] {
            assert!(news(bad).is_err());
        }
        assert!(log_entries(Value::Int(1)).is_err());
        assert!(log_entries(Value::Array(vec![Value::Nil])).is_err());
    }

    #[test]
    fn pieces_that_make_no_sense_are_refused() {
        let piece = |id: &str, fields: &[&str]| {
            Value::Array(vec![Value::Array(vec![bulk(id), Value::Array(fields.iter().map(|f| bulk(f)).collect())])])
        };
        let id = "00000000000000ab";
        let good = ["commit", id, "undo", "x"];
        let read = |value| pieces(value, Version(5));
        let expected = (CommitId(0xab), Piece { last: PageNo::new(7).unwrap(), deltas: b"x".to_vec() });
        assert_eq!(read(piece("5-7", &good)).unwrap(), [expected]);
        assert!(read(Value::Array(vec![])).unwrap().is_empty());
        for (bad, fields) in
            [("5", 4), ("5-0", 4), ("5-4294967296", 4), ("6-7", 4), ("55-7", 4), ("5-7", 2), ("5-7", 3)]
        {
            assert!(read(piece(bad, &good[..fields])).is_err(), "{bad} {fields}");
        }
        assert!(read(piece("5-7", &["commit", "x", "undo", "x"])).is_err());
        assert!(read(Value::Int(1)).is_err() && read(Value::Array(vec![Value::Nil])).is_err());
    }
}
