//! Checks of a stored database: the fields of its hash and the entries of its log, read independently of the crate
//! under test.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;

use crate::{Server, check_integrity, number};

/// Fields of the hash that are not pages.
const METADATA: [&str; 6] = ["version", "commit", "page_size", "page_count", "format", "log_mark"];

/// The hash of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// All fields with their values.
    pub fields: BTreeMap<String, Vec<u8>>,
}

impl Stored {
    /// A field of the metadata as a number.
    ///
    /// # Panics
    /// When the field is missing or no number.
    pub fn number(&self, field: &str) -> u64 {
        self.text(field).parse().unwrap_or_else(|_| panic!("{field} is {}", self.text(field)))
    }

    /// Adds the staged pages of a large commit, which replace pages of the hash.
    ///
    /// # Panics
    /// When the staged pages belong to another commit.
    pub fn with_staged(mut self, staged: BTreeMap<String, Vec<u8>>) -> Stored {
        if self.fields.get("format").is_some_and(|format| format == b"2") {
            assert_eq!(staged.get("commit"), self.fields.get("commit"), "the staged pages are of another commit");
            let pages = staged.into_iter().filter(|(field, _)| field.starts_with("page") && field != "page_count");
            self.fields.extend(pages);
        }
        self
    }

    fn text(&self, field: &str) -> String {
        let value = self.fields.get(field).unwrap_or_else(|| panic!("{field} is missing"));
        String::from_utf8(value.clone()).expect("text")
    }

    /// All pages in order, which are the bytes of a database file.
    ///
    /// # Panics
    /// When a page is missing or has another size.
    pub fn bytes(&self) -> Vec<u8> {
        let size = self.number("page_size") as usize;
        let mut bytes = Vec::new();
        for page in 1..=self.number("page_count") {
            let content = self.fields.get(&format!("page{page}")).unwrap_or_else(|| panic!("page {page} is missing"));
            let content = match content.as_slice() {
                whole if whole.len() == size => whole.to_vec(),
                frame @ [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                    zstd::bulk::decompress(frame, size).unwrap_or_else(|error| panic!("page {page}: {error}"))
                }
                [rest @ .., a, b, c, d] => {
                    let [start, length] = [[*a, *b], [*c, *d]].map(|bytes| usize::from(u16::from_le_bytes(bytes)));
                    [&rest[..start], &vec![0; length + 1], &rest[start..]].concat()
                }
                short => panic!("page {page} is {short:?}"),
            };
            assert_eq!(content.len(), size, "page {page}");
            bytes.extend(content);
        }
        bytes
    }
}

impl Server {
    /// The current hash of a database.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn stored(&self, name: &str) -> Stored {
        let key = format!("sqlite:{{{name}}}");
        Stored { fields: redis::cmd("HGETALL").arg(key).query(&mut self.redis()).expect("a hash") }
    }

    /// Whether a client holds the write lease.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn is_leased(&self, name: &str) -> bool {
        redis::cmd("EXISTS").arg(format!("sqlite:{{{name}}}:lock")).query(&mut self.redis()).expect("an answer")
    }

    /// Asserts that the hash has exactly its pages and metadata, that the log ends at its version without a gap, that
    /// the lease is free, and that stock SQLite accepts the pages as a valid database file. Must be called while no
    /// client writes.
    ///
    /// # Panics
    /// When something is not so.
    pub fn check_stored(&self, name: &str) -> Stored {
        let stored = self.stored(name);
        let mut expected: Vec<String> = METADATA.iter().map(|field| (*field).to_owned()).collect();
        expected.extend((1..=stored.number("page_count")).map(|page| format!("page{page}")));
        expected.sort_unstable();
        let found: Vec<&String> = stored.fields.keys().collect();
        assert_eq!(found, expected.iter().collect::<Vec<_>>(), "fields of the hash");
        assert_eq!(stored.number("format"), 1);
        self.check_log(name, &stored);
        assert!(!self.is_leased(name), "the lease was not released");
        check_as_file(&stored);
        stored
    }

    fn check_log(&self, name: &str, stored: &Stored) {
        let mut xrange = redis::cmd("XRANGE");
        xrange.arg(format!("sqlite:{{{name}}}:log")).arg("-").arg("+");
        let log: Vec<(String, BTreeMap<String, Vec<u8>>)> = xrange.query(&mut self.redis()).expect("a log");
        let mut previous: Option<(u64, String)> = None;
        for (id, fields) in log {
            let field = |name: &str| String::from_utf8(fields[name].clone()).expect("text");
            let version = id.strip_suffix("-0").expect("version-0").parse().expect("a version");
            if let Some((before, commit)) = previous {
                assert_eq!(version, before + 1, "a hole in the log");
                assert_eq!(field("base"), commit, "version {id} follows another history");
            }
            previous = Some((version, field("commit")));
        }
        assert_eq!(previous, Some((stored.number("version"), stored.text("commit"))), "the log's end");
    }
}

/// Asserts that stock SQLite reads the pages as a valid file.
fn check_as_file(stored: &Stored) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("stored.db");
    write_file(stored, &path);
    let db = Connection::open(&path).expect("a database");
    check_integrity(&db);
    // A connection that has seen several histories adds an offset to the schema cookie. It must not be stored.
    let cookie = number(&db, "PRAGMA schema_version");
    assert!((0..1 << 20).contains(&cookie), "no test changes a schema so often: {cookie}");
}

/// Writes the pages to a file.
///
/// # Panics
/// When it can't be written.
pub fn write_file(stored: &Stored, path: &Path) {
    std::fs::write(path, stored.bytes()).expect("written");
}

impl Server {
    /// Rolls the pages back through the log, one version at a time, and asserts that stock SQLite accepts about
    /// `samples` of the older versions as valid databases. Ends at the first entry without undo data.
    ///
    /// # Panics
    /// When an older version is invalid, or the log can't be read.
    pub fn check_older_versions(&self, name: &str, samples: usize) {
        let mut xrange = redis::cmd("XREVRANGE");
        xrange.arg(format!("sqlite:{{{name}}}:log")).arg("+").arg("-");
        let log: Vec<(String, BTreeMap<String, Vec<u8>>)> = xrange.query(&mut self.redis()).expect("a log");
        let stored = self.stored(name);
        let size = stored.number("page_size") as usize;
        let mut pages: Vec<Vec<u8>> = stored.bytes().chunks(size).map(<[u8]>::to_vec).collect();
        let step = (log.len() / samples.max(1)).max(1);
        for (n, (version, entry)) in log.iter().enumerate() {
            let Some(undo) = self.undo_of(name, version, entry) else { return };
            let count: usize = String::from_utf8_lossy(&entry["page_count"]).parse().expect("a page count");
            if count == 0 {
                return;
            }
            pages.resize(pages.len().max(count), vec![0; size]);
            take_back(&undo, &mut pages);
            pages.truncate(count);
            if n % step == 0 {
                let directory = tempfile::tempdir().expect("a directory");
                let path = directory.path().join("older.db");
                std::fs::write(&path, pages.concat()).expect("written");
                let sound = crate::text(&Connection::open(&path).expect("a database"), "PRAGMA integrity_check");
                assert_eq!(sound, "ok", "before version {version}");
            }
        }
    }
}

impl Server {
    /// The undo data of a commit, from its log entry or all of its pieces; `None` if it has none.
    fn undo_of(&self, name: &str, id: &str, entry: &BTreeMap<String, Vec<u8>>) -> Option<Vec<u8>> {
        if let Some(undo) = entry.get("undo") {
            return Some(undo.clone());
        }
        let mut pages = entry.get("pages")?.as_slice();
        let version = id.strip_suffix("-0").expect("version-0");
        let mut xrange = redis::cmd("XRANGE");
        xrange.arg(format!("sqlite:{{{name}}}:undo")).arg(version).arg(version);
        let pieces: Vec<(String, BTreeMap<String, Vec<u8>>)> = xrange.query(&mut self.redis()).expect("pieces");
        assert!(pieces.iter().all(|(_, piece)| piece["commit"] == entry["commit"]), "of another commit");
        let undo = pieces.iter().flat_map(|(_, piece)| piece["undo"].iter().copied()).collect::<Vec<u8>>();
        let (mut listed, mut end) = (Vec::new(), 0);
        while !pages.is_empty() {
            let first = end + varint(&mut pages) + 1;
            end = first + varint(&mut pages) - 1;
            listed.extend(first..=end);
        }
        let (mut held, mut rest) = (Vec::new(), undo.as_slice());
        while !rest.is_empty() {
            held.push(varint(&mut rest));
            let length = varint(&mut rest);
            rest = &rest[length..];
        }
        assert!(held.is_empty() || held == listed, "version {version} lists {listed:?} and holds {held:?}");
        (held == listed).then_some(undo)
    }
}

/// Applies undo data (`docs/formats.md`), independently of the crate.
fn take_back(mut undo: &[u8], pages: &mut [Vec<u8>]) {
    while !undo.is_empty() {
        let page = varint(&mut undo);
        let length = varint(&mut undo);
        let (mut delta, rest) = undo.split_at(length);
        undo = rest;
        let content = &mut pages[page - 1];
        let mut at = 0;
        while !delta.is_empty() {
            at += varint(&mut delta);
            let length = varint(&mut delta);
            let (bytes, rest) = delta.split_at(length);
            delta = rest;
            content[at..at + length].copy_from_slice(bytes);
            at += length;
        }
    }
}

fn varint(bytes: &mut &[u8]) -> usize {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}
