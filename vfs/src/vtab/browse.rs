//! The table-valued functions to look around with: `redis_keys(url, pattern)`,
//! `redis_hash(url, key)`, `redis_zset(url, key)`.

use std::collections::{HashSet, VecDeque};

use redis::{Value as Reply, cmd};

use crate::model::error::{Cause, Error, Result};
use crate::sqlite::value::{FNV, Value, fnv};
use crate::vtab::declare::address;
use crate::vtab::layout::replies::bulk;
use crate::vtab::location::Place;
use crate::wire::reply::{array, text};
use crate::wire::request::Request;
use crate::wire::scan::Scan;

/// Keys, fields or members asked for at once.
const BATCH: usize = 500;

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Keys,
    Hash,
    Zset,
}

impl Look {
    pub(crate) const ALL: [Look; 3] = [Look::Keys, Look::Hash, Look::Zset];

    /// For `sqlite3_declare_vtab`: the columns, the two arguments last.
    pub(crate) fn declaration(self) -> &'static std::ffi::CStr {
        match self {
            Look::Keys => c"CREATE TABLE x(key, type TEXT, ttl_ms INTEGER, url HIDDEN, pattern HIDDEN)",
            Look::Hash => c"CREATE TABLE x(field, value, url HIDDEN, key HIDDEN)",
            Look::Zset => c"CREATE TABLE x(member, score REAL, url HIDDEN, key HIDDEN)",
        }
    }

    pub(crate) fn name(self) -> &'static std::ffi::CStr {
        match self {
            Look::Keys => c"redis_keys",
            Look::Hash => c"redis_hash",
            Look::Zset => c"redis_zset",
        }
    }

    /// Columns before the arguments.
    pub(crate) fn columns(self) -> usize {
        match self {
            Look::Keys => 3,
            Look::Hash | Look::Zset => 2,
        }
    }
}

/// A look that is going on.
pub(crate) struct View {
    look: Look,
    place: Place,
    arguments: [Value; 2],
    rows: VecDeque<Vec<Value>>,
    /// Where `SCAN` or `HSCAN` goes on; `None` when it is through.
    cursor: Option<String>,
    scan: Scan,
    /// Members of a sorted set that were read.
    offset: usize,
    /// Hashes of what was seen: `SCAN` may answer with a key twice.
    seen: HashSet<u64>,
    pub number: i64,
}

impl View {
    /// Begins to look. NULL as an argument shows nothing.
    pub(crate) fn new(look: Look, url: &Value, subject: &Value) -> Result<Option<View>> {
        let (Value::Text(address), Some(key)) = (url, subject.key_text()) else { return Ok(None) };
        let server = address::parse(&String::from_utf8_lossy(address))?;
        let mut view = View {
            look,
            place: Place::new(server, &String::from_utf8_lossy(&key)),
            arguments: [url.clone(), subject.clone()],
            rows: VecDeque::new(),
            cursor: Some("0".into()),
            scan: Scan::default(),
            offset: 0,
            seen: HashSet::new(),
            number: 0,
        };
        view.fill().map_err(|error| view.told(error))?;
        Ok(Some(view))
    }

    /// A value of the row at which it stands; `None` past the last row.
    pub(crate) fn value(&self, column: usize) -> Option<&Value> {
        let row = self.rows.front()?;
        Some(row.get(column).or_else(|| self.arguments.get(column - row.len())).unwrap_or(&Value::Null))
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn next(&mut self) -> Result<()> {
        self.rows.pop_front();
        self.number += 1;
        self.fill().map_err(|error| self.told(error))
    }

    /// A failure as whoever looks is told of it: what is under the key need not be what was expected.
    fn told(&self, error: Error) -> Error {
        let told = match (&error.cause, self.look) {
            (Cause::Damaged(_), Look::Hash) => Cause::Server("WRONGTYPE, the key holds no hash".into()).into(),
            (Cause::Damaged(_), Look::Zset) => Cause::Server("WRONGTYPE, the key holds no sorted set".into()).into(),
            _ => error,
        };
        told.at(&self.place.name().into())
    }

    fn ask(&self, command: &redis::Cmd) -> Result<Reply> {
        Ok(self.place.ask(&Request::one(command))?.pop().unwrap_or_default())
    }

    fn fill(&mut self) -> Result<()> {
        while self.rows.is_empty()
            && let Some(cursor) = self.cursor.take()
        {
            let subject = self.arguments[1].key_text().unwrap_or_default();
            match self.look {
                Look::Keys => self.keys(&cursor, &subject)?,
                Look::Hash => self.hash(&cursor, &subject)?,
                Look::Zset => self.zset(&subject)?,
            }
        }
        Ok(())
    }

    /// The items of a reply to `SCAN` or `HSCAN`; remembers where to go on.
    fn scanned(&mut self, reply: Reply, size: &redis::Cmd) -> Result<Vec<Reply>> {
        let mut parts = array("SCAN", reply)?.into_iter();
        self.cursor = self.scan.after(parts.next().as_ref(), || self.place.size(size))?;
        array("SCAN", parts.next().unwrap_or_default())
    }

    fn keys(&mut self, cursor: &str, pattern: &[u8]) -> Result<()> {
        let reply = self.ask(cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(BATCH))?;
        let mut keys: Vec<Vec<u8>> =
            self.scanned(reply, &cmd("DBSIZE"))?.iter().filter_map(|key| bulk(Some(key)).map(<[u8]>::to_vec)).collect();
        keys.retain(|key| self.seen.insert(fnv(FNV, key)));
        let mut request = Request::default();
        for key in &keys {
            request.push(cmd("TYPE").arg(key));
            request.push(cmd("PTTL").arg(key));
        }
        let replies = if keys.is_empty() { Vec::new() } else { self.place.ask(&request)? };
        for (key, [kind, ttl]) in keys.into_iter().zip(replies.as_chunks::<2>().0) {
            let kind = text(kind).unwrap_or_default();
            // Gone meanwhile.
            if kind == "none" {
                continue;
            }
            let ttl = match ttl {
                Reply::Int(ttl) if *ttl >= 0 => Value::Integer(*ttl),
                _ => Value::Null,
            };
            self.rows.push_back(vec![shown(key), Value::Text(kind.into_bytes()), ttl]);
        }
        Ok(())
    }

    fn hash(&mut self, cursor: &str, key: &[u8]) -> Result<()> {
        let reply = self.ask(cmd("HSCAN").arg(key).arg(cursor).arg("COUNT").arg(BATCH))?;
        let items = self.scanned(reply, cmd("HLEN").arg(key))?;
        for [field, value] in items.as_chunks::<2>().0 {
            let (Some(field), Some(value)) = (bulk(Some(field)), bulk(Some(value))) else { continue };
            if self.seen.insert(fnv(FNV, field)) {
                self.rows.push_back(vec![shown(field.to_vec()), shown(value.to_vec())]);
            }
        }
        Ok(())
    }

    fn zset(&mut self, key: &[u8]) -> Result<()> {
        let last = self.offset + BATCH - 1;
        let reply = self.ask(cmd("ZRANGE").arg(key).arg(self.offset).arg(last).arg("WITHSCORES"))?;
        let members = crate::vtab::query::row_source::members(crate::vtab::layout::index::Part::Numbers, reply)?;
        self.offset += members.len();
        self.cursor = (members.len() == BATCH).then(String::new);
        self.rows.extend(members.into_iter().map(|(member, score)| vec![shown(member), Value::Real(score)]));
        Ok(())
    }
}

/// Bytes of Redis as SQL sees them: text where they are UTF-8.
fn shown(bytes: Vec<u8>) -> Value {
    if std::str::from_utf8(&bytes).is_ok_and(|text| !text.contains('\0')) {
        Value::Text(bytes)
    } else {
        Value::Blob(bytes)
    }
}
