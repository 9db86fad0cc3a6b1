//! The keys and hash fields of a database, each spelled once. `docs/formats.md` describes them.

use crate::model::error::{Cause, Result};
use crate::model::page::PageNo;

/// Longest name of a database, in bytes.
pub(crate) const MAX_NAME: usize = 512;

/// Ends of names that SQLite gives to the files beside a database.
pub(crate) const SIDE_FILES: &[&str] = &["-journal", "-wal", "-shm"];

pub(crate) const VERSION: &str = "version";
pub(crate) const COMMIT: &str = "commit";
pub(crate) const PAGE_SIZE: &str = "page_size";
pub(crate) const PAGE_COUNT: &str = "page_count";
pub(crate) const FORMAT: &str = "format";
/// `<version> <bytes>`: where the younger half of the log begins, and how much undo it holds.
pub(crate) const LOG_MARK: &str = "log_mark";

/// Fields that every read asks for, in the order in which they are asked for.
pub(crate) const SNAPSHOT: [&str; 5] = [VERSION, COMMIT, PAGE_SIZE, PAGE_COUNT, FORMAT];

/// Fields of a log entry.
pub(crate) mod log {
    pub(crate) const COMMIT: &str = "commit";
    pub(crate) const BASE: &str = "base";
    pub(crate) const TIME: &str = "time";
    pub(crate) const PAGE_SIZE: &str = "page_size";
    pub(crate) const PAGE_COUNT: &str = "page_count";
    pub(crate) const UNDO: &str = "undo";
    pub(crate) const PAGES: &str = "pages";
}

/// The hash field of a page.
pub(crate) fn page(page: PageNo) -> String {
    ["page", itoa::Buffer::new().format(page.get())].concat()
}

/// The name of a database as users give it, checked; a `/` in front is dropped. All of them are,
/// since a name goes through here more than once on its way from SQLite.
pub(crate) fn database_name(given: &str) -> Result<&str> {
    let name = given.trim_start_matches('/');
    let refuse = |reason| Err(Cause::BadName { name: given.chars().take(80).collect(), reason }.into());
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.len() > MAX_NAME {
        return refuse("it is longer than 512 bytes");
    }
    if name.contains(['{', '}']) {
        return refuse("braces are not allowed, they mark the hash tag of the keys");
    }
    if name.contains('\0') {
        return refuse("NUL is not allowed");
    }
    if is_side_file(name) {
        return refuse("SQLite gives this ending to the journal of a database");
    }
    Ok(name)
}

/// Whether SQLite means a journal, a WAL or a super-journal by this name.
pub(crate) fn is_side_file(name: &str) -> bool {
    SIDE_FILES.iter().any(|end| name.ends_with(end)) || is_super_journal(name)
}

/// Super-journals are called `<database>-mj` and 9 hexadecimal digits (the third of them is `9`
/// by SQLite's counting), as in `sqlite3_filename_journal`'s kin `vdbeCommit`.
pub(crate) fn is_super_journal(name: &str) -> bool {
    let end = name.as_bytes().last_chunk::<12>();
    end.is_some_and(|end| end.starts_with(b"-mj") && end[3..].iter().all(u8::is_ascii_hexdigit))
}

/// The keys of one database. They share the hash tag `{name}`, so one cluster slot.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Hash: pages and metadata.
    pub hash: String,
    /// Stream: the commits, newest last.
    pub log: String,
    /// Stream: the undo data of commits that have too much of it for the log.
    pub undo: String,
    /// String: the token of whoever holds the write lease.
    pub lock: String,
    /// List: a token for each who waits for the lease.
    pub queue: String,
    /// List: the token under which the lease was passed on, until it is taken over.
    pub turn: String,
    /// Hash: pages of the last commit that have not yet moved to their place.
    pub staged: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str, name: &str) -> Self {
        let hash = format!("{prefix}:{{{name}}}");
        Keys {
            log: format!("{hash}:log"),
            undo: format!("{hash}:undo"),
            lock: format!("{hash}:lock"),
            queue: format!("{hash}:queue"),
            turn: format!("{hash}:turn"),
            staged: format!("{hash}:staged"),
            hash,
        }
    }

    /// Where an import or a large commit gathers its pages before they take their place.
    pub(crate) fn staging(&self, token: &str) -> String {
        format!("{}:import:{token}", self.hash)
    }

    /// A pattern for `SCAN` that finds the hashes of all databases.
    pub(crate) fn pattern(prefix: &str) -> String {
        let mut pattern = String::new();
        for c in prefix.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern + ":{*}"
    }

    /// The database whose hash has this key.
    pub(crate) fn name_in<'a>(prefix: &str, hash: &'a str) -> Option<&'a str> {
        let name = hash.strip_prefix(prefix)?.strip_prefix(":{")?.strip_suffix('}')?;
        database_name(name).ok().filter(|checked| *checked == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_share_the_hash_tag() {
        let keys = Keys::new("sqlite", "shop");
        assert_eq!(keys.hash, "sqlite:{shop}");
        assert_eq!(keys.log, "sqlite:{shop}:log");
        assert_eq!(keys.undo, "sqlite:{shop}:undo");
        assert_eq!(keys.lock, "sqlite:{shop}:lock");
        assert_eq!(Keys::name_in("sqlite", "sqlite:{shop}"), Some("shop"));
        assert_eq!(Keys::name_in("sqlite", "sqlite:{shop}:log"), None);
        assert_eq!(Keys::pattern("a*b"), "a\\*b:{*}");
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(database_name("/a/b.db").unwrap(), "a/b.db");
        assert_eq!(database_name("//a").unwrap(), "a");
        assert_eq!(database_name("Bücher").unwrap(), "Bücher");
        let long = "x".repeat(513);
        for name in
            ["", "/", "//", "a{b", "a}b", "a\0b", &long, "a-journal", "a-wal", "a-shm", "a-mj0123456789"[..13].as_ref()]
        {
            assert!(database_name(name).is_err(), "{name}");
        }
    }
}
