//! Fuzz targets: functions that feed untrusted bytes to a parser and assert properties that hold for any input.
//! `tests/fuzz` has a target for each, `tests/tests/database/corpus.rs` replays the corpus.
//! Not part of the API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use crate::config;
use crate::config::Config;
use crate::database::Database;
use crate::file::name::Named;
use crate::model::delta;
use crate::model::error::{Cause, Result};
use crate::model::log_entry::{Changes, LogEntry, Piece, PiecesAsked, Undo};
use crate::model::page::PageNo;
use crate::model::undo::{Deltas, PageList, UndoBuilder};
use crate::model::version::{CommitId, Snapshot, Version};
use crate::sqlite::api::Api;
use crate::sqlite::memory::Memory;
use crate::sqlite::value::Affinity;
use crate::store::redis::base::{Read, read};
use crate::store::redis::commit::LogMark;
use crate::store::redis::keys;
use crate::store::redis::keys::Keys;
use crate::store::redis::replies;
use crate::store::{Bid, Fetched, Heard, Leased, Store};
use crate::vtab::declare::{Definition, UTF8, omitted_columns};
use crate::vtab::layout::keys::TYPES;
use crate::vtab::layout::row as rows;

/// One target: its name, which is also that of its corpus, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("delta", delta),
    ("undo", undo),
    ("pages", pages),
    ("pieces", pieces),
    ("log", log),
    ("history", history),
    ("metadata", metadata),
    ("settings", settings),
    ("names", names),
    ("virtual_table", virtual_table),
    ("row", row),
    ("wire", wire),
];

/// A delta between any two pages restores the first; any bytes as a delta are applied or refused.
pub fn delta(data: &[u8]) {
    let (old, new) = data.split_at(data.len() / 2);
    let new = &new[..old.len()];
    let mut encoded = Vec::new();
    delta::encode(old, new, &mut encoded);
    let mut page = new.to_vec();
    assert_eq!(delta::apply(&encoded, &mut page), Some(()));
    assert_eq!(page, old);
    assert_eq!(encoded.is_empty(), old == new);

    let mut page = vec![0; 512];
    // Succeeds or fails, but stays within the page.
    let _ = delta::apply(data, &mut page);
    assert_eq!(page.len(), 512);
}

/// Undo data is taken in ascending order of pages, or refused; what was taken can be written again
/// and reads the same.
pub fn undo(data: &[u8]) {
    let Some(pages) = delta::parse_undo(data) else { return };
    assert!(pages.is_sorted_by(|(one, _), (next, _)| one < next));
    let mut again = UndoBuilder::new(u64::MAX);
    let mut expected = Vec::new();
    for (page, delta) in pages {
        let mut old = vec![0; 512];
        if delta::apply(delta, &mut old).is_some() {
            again.page(page, &old, &[0; 512]);
            expected.push((page, old));
        }
    }
    let (listed, written) = match again.finish() {
        Undo::Deltas(deltas) => (None, vec![deltas]),
        Undo::Pieces { pages, pieces } => (Some(pages), pieces.into_iter().map(|piece| piece.deltas).collect()),
        Undo::Barrier => return,
    };
    let mut reread = Vec::new();
    for deltas in &written {
        reread.extend(delta::parse_undo(deltas).expect("what was written can be read"));
    }
    if let Some(listed) = listed {
        let listed = PageList::parse(&listed).expect("what was written can be read");
        assert!(listed.iter().eq(reread.iter().map(|(page, _)| *page)));
    }
    assert_eq!(reread.len(), expected.len());
    for ((page, delta), (expected, old)) in reread.into_iter().zip(expected) {
        let mut content = vec![0; 512];
        delta::apply(delta, &mut content).expect("what was written can be applied");
        assert_eq!((page, content), (expected, old));
    }
}

/// A list of pages is taken, or refused; what was taken can be written again and reads the same.
pub fn pages(data: &[u8]) {
    let Some(list) = PageList::parse(data) else { return };
    let first: Vec<PageNo> = list.iter().take(1000).collect();
    assert!(first.is_sorted_by(|one, next| one < next));
    assert!(first.iter().all(|page| list.contains(*page)) && first.len() as u64 <= list.count());
    assert_eq!(list.count() == 0, first.is_empty());
    let again = PageList::parse(&list.encode()).expect("what was written can be read");
    assert_eq!(again, list);
}

/// Any reply to the `XRANGE` that reads undo data is parsed or refused. Parsed data belongs to the requested version,
/// and is applied to a page or refused.
pub fn pieces(data: &[u8]) {
    let Some(pieces) = reply(data).and_then(|reply| replies::pieces(reply, PIECES_OF).ok()) else { return };
    for (_, piece) in pieces {
        let Some(deltas) = Deltas::of(piece.deltas) else { continue };
        let mut page = vec![0; 512];
        if let Some(delta) = deltas.get(piece.last) {
            assert!(deltas.last() >= Some(piece.last));
            let _ = delta::apply(delta, &mut page);
        }
        assert_eq!(page.len(), 512);
    }
}

/// The version that the corpus of [`pieces`] is about.
const PIECES_OF: Version = Version(5);

/// A reply as the server may send it, or nothing when it is not one.
fn reply(data: &[u8]) -> Option<Value> {
    redis::parse_redis_value(data).ok()
}

/// Any reply to `XRANGE` is understood or refused; what is understood leaves the cache usable.
pub fn log(data: &[u8]) {
    let Some(entries) = reply(data).and_then(|reply| replies::log_entries(reply).ok()) else { return };
    assert!(entries.iter().all(|entry| entry.version.next() > entry.version));
    let cache = crate::reading::cache::Cache::new(1 << 16);
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
    let before = Snapshot { version: Version(first.version.0.saturating_sub(1)), commit: first.base, ..SMALL };
    let after = Snapshot { version: last.version, commit: last.commit, ..SMALL };
    cache.admit(&before);
    let (epoch, _) = cache.admit_with(&after, &entries);
    cache.insert(epoch, after.version, &[after], [(PageNo::FIRST, Arc::new(vec![1; 512]))]);
    assert!(cache.has(PageNo::FIRST, after.version, epoch));
    if before.version < after.version {
        assert!(!cache.has(PageNo::FIRST, before.version, epoch), "a page is not older than it was said to be");
    }
}

const SMALL: Snapshot = Snapshot { page_size: 512, page_count: 8, ..Snapshot::EMPTY };

/// A server that answers page reads and log reads with what the fuzzer has made.
struct Scripted {
    now: Fetched,
    entries: Vec<LogEntry>,
    undo: Value,
}

impl Store for Scripted {
    fn fetch(&self, pages: &[PageNo]) -> Result<Fetched> {
        let pages = pages.iter().map(|page| self.now.pages.get(page.get() as usize - 1).cloned().flatten()).collect();
        Ok(Fetched { at: self.now.at, pages })
    }

    fn history(&self, _after: Version, _through: Version) -> Result<Vec<LogEntry>> {
        Ok(self.entries.clone())
    }

    /// The same for each question, whatever was asked.
    fn undo(&self, asked: &[PiecesAsked]) -> Result<Vec<Vec<(CommitId, Piece)>>> {
        asked.iter().map(|asked| replies::pieces(self.undo.clone(), asked.version)).collect()
    }

    fn listen(&self, _after: Version, _patience: Duration) -> Result<Heard> {
        Ok(Heard { entries: self.entries.clone(), at: self.now.at, as_primary: false })
    }

    fn lease(&self, _bid: Bid<'_>) -> Result<Leased> {
        Ok(Leased::ByAnother(String::new()))
    }

    fn renew(&self, _token: &str, _life: Duration) -> Result<bool> {
        Ok(false)
    }

    fn leased(&self) -> Result<bool> {
        Ok(false)
    }
}

/// With any log, a reader of an older version gets an error, or a page of its own size to which the log leads. The data
/// is the log, or an array of the log and the pieces of undo data.
pub fn history(data: &[u8]) {
    let Some((log, undo)) = reply(data).map(with_undo) else { return };
    let Ok(entries) = replies::log_entries(log) else { return };
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
    let snapshot = Snapshot { version: Version(first.version.0.saturating_sub(1)), commit: first.base, ..SMALL };
    let now = Snapshot { version: last.version, commit: last.commit, ..SMALL };
    let page = |n: u8| Some(Arc::new(vec![n; 512]));
    let fetched = Fetched { at: now, pages: (1..=8).map(page).collect() };
    let chained = crate::model::log_entry::check_chain(&snapshot, &now, &entries).is_ok();
    let touched: Vec<PageNo> = entries.iter().flat_map(pages_of).collect();
    let grown = entries.iter().map(|entry| entry.page_count).min().unwrap_or(0);
    let database = Database::on(Arc::new(Scripted { now: fetched, entries, undo }), 1 << 16);
    let crate::reading::cache::Admission::Admitted(epoch) = database.cache.admit(&snapshot) else { return };
    let mut reader = crate::reading::reader::Reader::new(snapshot, epoch);
    for n in 1..=8 {
        let number = PageNo::new(n).expect("from 1 on");
        let Ok(read) = reader.page(database.pages(), number) else { continue };
        assert!(chained || now.identity() == snapshot.identity(), "a page of another history");
        assert_eq!(read.len(), 512);
        if !touched.contains(&number) && n <= grown {
            assert_eq!(Some(read), page(n as u8), "changed although no commit changed it");
        }
    }
}

/// The log and the pieces in a reply that is the former or both.
fn with_undo(reply: Value) -> (Value, Value) {
    let nested = |item: &Value| matches!(item, Value::Array(items) if matches!(items.first(), Some(Value::Array(_))));
    match reply {
        Value::Array(mut both) if both.len() == 2 && nested(&both[0]) => {
            let undo = both.pop().unwrap_or_default();
            (both.pop().unwrap_or_default(), undo)
        }
        log => (log, Value::Array(Vec::new())),
    }
}

/// Those of the pages 1 to 8 that an entry says were changed.
fn pages_of(entry: &LogEntry) -> Vec<PageNo> {
    match &entry.changes {
        Changes::Deltas(deltas) => {
            delta::parse_undo(deltas).unwrap_or_default().into_iter().map(|(page, _)| page).collect()
        }
        Changes::Pages(pages) => {
            let listed = PageList::parse(pages).unwrap_or_default();
            PageNo::range(1, 8).filter(|page| listed.contains(*page)).collect()
        }
        Changes::Unknown => Vec::new(),
    }
}

/// Any reply to the `HMGET` that reads metadata and pages is parsed or refused. A parsed snapshot has a valid page size
/// and page count, and pages of that size.
pub fn metadata(data: &[u8]) {
    let Some(reply) = reply(data) else { return };
    let _ = crate::wire::reply::text(&reply);
    let _ = LogMark::parse(&reply);
    let _ = crate::wire::reply::bad_reply("HMGET", &reply).to_string();
    if let Value::ServerError(error) = &reply {
        assert!(!crate::wire::reply::server_cause(error).to_string().is_empty());
    }
    let wanted = [PageNo::FIRST, PageNo::new(3).expect("from 1 on")];
    let (at, pages) = match read(reply, &wanted) {
        Ok(Read::Whole(fetched)) => (fetched.at, Some(fetched.pages)),
        Ok(Read::Staged(at, _)) => (at, None),
        Err(_) => return,
    };
    if at == Snapshot::EMPTY {
        assert!(pages.is_some_and(|pages| pages.iter().all(Option::is_none)));
        return;
    }
    assert!(at.page_size.is_power_of_two() && (512..=65536).contains(&at.page_size));
    assert!(at.page_count > 0 && at.version.0 > 0 && at.version.next() > at.version);
    for (number, page) in wanted.iter().zip(pages.iter().flatten()) {
        assert_eq!(page.as_ref().map(|page| page.len()), at.has(*number).then_some(at.page_size as usize));
    }
}

/// Any URI parameters make settings or are refused, and a password is never shown.
pub fn settings(data: &[u8]) {
    const PASSWORD: &str = "xKzpWqs3cret";
    let text = String::from_utf8_lossy(data).replace("PASSWORD", PASSWORD);
    let parameters: Vec<(&str, &str)> =
        text.split('\n').map(|line| line.split_once('=').unwrap_or((line, ""))).collect();
    // A password stands before the last `@` of an address, or behind `pass=` or `password=`.
    let is_marked = |value: &str, at: usize| {
        value[..at].ends_with("pass=")
            || value[..at].ends_with("password=")
            || (value[..at].ends_with(':') && value.rfind('@').is_some_and(|end| end >= at + PASSWORD.len()))
    };
    let hidden = parameters.iter().all(|(name, value)| {
        !name.contains(PASSWORD)
            && value.match_indices(PASSWORD).all(|(at, _)| *name == config::SERVER.parameter && is_marked(value, at))
    });
    match Config::from_parameters(parameters.iter().copied()) {
        Ok(config) => {
            assert!(config.lease >= Duration::from_millis(100) && !config.prefix.contains(['{', '}', '\0']));
            let is_password = config.server.passwords().contains(&PASSWORD);
            if is_password && text.matches(PASSWORD).count() == 1 {
                assert!(!config.server_name().contains(PASSWORD), "{}", config.server_name());
            }
        }
        Err(error) => assert!(!hidden || !error.to_string().contains(PASSWORD), "{error}"),
    }
}

/// Any name makes keys of one hash tag, from which it can be told again, or is refused.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let named = crate::file::name::named(&text);
    let Ok(name) = keys::database_name(&text) else {
        if let Err(error) = keys::database_name(&text) {
            assert!(matches!(error.cause, Cause::BadName { .. }));
        }
        return;
    };
    assert_eq!(named, Named::Database(&text));
    assert_eq!(keys::database_name(name).ok(), Some(name), "a name names itself");
    let all = Keys::new("sqlite", name);
    let tag = format!("{{{name}}}");
    let distinct: BTreeMap<&str, ()> = [&all.hash, &all.log, &all.undo, &all.lock].map(|key| (key.as_str(), ())).into();
    assert_eq!(distinct.len(), 4);
    for key in distinct.keys() {
        let (start, end) = (key.find('{').expect("a tag"), key.find('}').expect("a tag"));
        assert_eq!(&key[start..=end], tag);
    }
    assert_eq!(Keys::name_in("sqlite", &all.hash), Some(name));
    assert_eq!(Keys::name_in("sqlite", &all.log), None);
    assert_eq!(Keys::name_in("sqlite", &all.undo), None);
}

/// Any arguments of `USING redis(...)`, one a line, are refused or make a table that SQLite takes.
pub fn virtual_table(data: &[u8]) {
    let text = String::from_utf8_lossy(data).replace('\0', " ");
    // As the text of an `INSERT`, it names columns or it does not.
    let _ = omitted_columns::listed(&text, "t");
    let mut arguments = ["redis", "main", "t"].map(str::to_owned).to_vec();
    arguments.extend(text.split('\n').map(str::to_owned));
    let Ok((definition, _)) = Definition::parse(Api::linked(), UTF8, &arguments) else { return };
    let columns = definition.columns.len();
    assert!(columns > 0 && definition.alias.is_none_or(|alias| alias < columns));
    assert!(definition.indexed.iter().all(|column| *column < columns));
    assert!(definition.uniques.iter().flat_map(|unique| &unique.columns).all(|(column, _)| *column < columns));
    let memory = Memory::open(Api::linked()).expect("a database in memory");
    memory.run(&definition.declaration()).expect("a declaration");
}

/// Any text in a row's hash is some value, which is written so that it reads the same again.
pub fn row(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let all = [Affinity::Integer, Affinity::Text, Affinity::Blob, Affinity::Real, Affinity::Numeric];
    let affinity = all[usize::from(*first) % all.len()];
    let (field, types) = rest.split_at(rest.len() / 2);
    for types in [None, Some(types), Some(rest)] {
        let value = rows::value("a", affinity, Some(field), &rows::Types::of(types));
        let fields = rows::fields([("a", affinity, &value)].into_iter(), types);
        let named = |name: &[u8]| fields.iter().find(|(field, _)| field == name).map(|(_, text)| text.as_slice());
        let types = rows::Types::of(named(TYPES));
        assert_eq!(rows::value("a", affinity, named(b"a"), &types), value);
    }
}

/// Any bytes are the replies that the client library reads in them, or are refused.
pub fn wire(data: &[u8]) {
    for (bytes, value) in crate::wire::connection::replies(data) {
        match redis::parse_redis_value(bytes) {
            Ok(expected) => assert_eq!(value, expected),
            Err(error) => panic!("{value:?}: the library says {error}"),
        }
    }
}
