//! Decodes replies into rows and sets.

use std::collections::HashMap;

use redis::Value as Reply;

use crate::model::error::Result;
use crate::sqlite::value::{FNV, Value};
use crate::wire::reply::{array, text};

/// The values of a row, one per column.
pub(crate) type Row = Vec<Value>;

/// All fields of a row.
pub(crate) type Hash = HashMap<Vec<u8>, Vec<u8>>;

/// A 64-bit FNV-1a hash of a row. Different rows have different hashes, but for accidents of 1 in 2^64.
pub(crate) fn digest(row: &[Value]) -> u64 {
    row.iter().fold(FNV, |hash, value| value.digest(hash))
}

/// The bytes of a bulk reply.
pub(crate) fn bulk(reply: Option<&Reply>) -> Option<&[u8]> {
    match reply {
        Some(Reply::BulkString(bytes)) => Some(bytes),
        _ => None,
    }
}

/// A number in a reply; 0 for anything else.
pub(crate) fn count(reply: &Reply) -> u64 {
    match reply {
        Reply::Int(number) => u64::try_from(*number).unwrap_or(0),
        _ => 0,
    }
}

/// The members of a set of column names. A member that is not UTF-8 can't be one, and is ignored.
pub(crate) fn names(reply: Reply) -> Result<Vec<String>> {
    let mut names: Vec<String> = array("SMEMBERS", reply)?.iter().filter_map(text).collect();
    names.sort();
    Ok(names)
}

/// The members of a set of rowids. A member that is no number can't be one, and is ignored.
pub(crate) fn rowids(reply: Reply) -> Result<Vec<i64>> {
    let members = array("SMEMBERS", reply)?;
    let mut rowids: Vec<i64> = members.iter().filter_map(|member| text(member)?.parse().ok()).collect();
    rowids.sort_unstable();
    Ok(rowids)
}

/// All fields of a row, from the reply to `HGETALL`.
pub(crate) fn hash(reply: Reply) -> Result<Hash> {
    let items = array("HGETALL", reply)?;
    let pairs = items.as_chunks::<2>().0.iter();
    Ok(pairs.filter_map(|[field, text]| Some((bulk(Some(field))?.to_vec(), bulk(Some(text))?.to_vec()))).collect())
}
