//! Names in SQL: which need quotes, and the keywords.

use std::collections::HashSet;
use std::ffi::{CString, c_char, c_int};
use std::sync::OnceLock;

use rusqlite::ffi;

/// The keywords of the SQLite that is linked in, in upper case.
pub fn keywords() -> &'static HashSet<String> {
    static KEYWORDS: OnceLock<HashSet<String>> = OnceLock::new();
    KEYWORDS.get_or_init(|| {
        // SAFETY: takes no arguments and only reads a constant.
        let count = unsafe { ffi::sqlite3_keyword_count() };
        (0..count).filter_map(keyword).collect()
    })
}

fn keyword(index: c_int) -> Option<String> {
    let mut text: *const c_char = std::ptr::null();
    let mut length: c_int = 0;
    // SAFETY: both out-parameters are valid for the call.
    let rc = unsafe { ffi::sqlite3_keyword_name(index, &raw mut text, &raw mut length) };
    if rc != ffi::SQLITE_OK || text.is_null() {
        return None;
    }
    // SAFETY: SQLite promises `length` bytes of a static string, without NUL
    // at the end, when it answers SQLITE_OK.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), usize::try_from(length).ok()?) };
    String::from_utf8(bytes.to_vec()).ok()
}

/// The name as SQL can use it: in double quotes unless it is a plain word.
pub fn quoted_if_needed(name: &str) -> String {
    let start = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let plain = start && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain && !keywords().contains(&name.to_ascii_uppercase()) { name.to_owned() } else { quoted(name) }
}

/// The name in double quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether `sql` ends with a complete statement, as SQLite itself sees it:
/// quotes, comments and the `END` of a trigger considered.
pub fn is_complete(sql: &str) -> bool {
    // Newer versions take a comment as open until its line ends. A NUL byte ends all SQL; nothing
    // can complete it any more.
    let Ok(text) = CString::new(format!("{sql}\n")) else {
        return true;
    };
    // SAFETY: a NUL-terminated string that lives through the call.
    unsafe { ffi::sqlite3_complete(text.as_ptr()) != 0 }
}

/// Whether there is nothing but white space and comments.
pub fn is_blank(sql: &str) -> bool {
    let mut rest = sql.trim_start();
    while !rest.is_empty() {
        let after = if let Some(comment) = rest.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            match comment.split_once("*/") {
                Some((_, after)) => after,
                None => return false,
            }
        } else {
            return false;
        };
        rest = after.trim_start();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_only_where_sql_needs_it() {
        for plain in ["t", "_x1", "Albums"] {
            assert_eq!(quoted_if_needed(plain), plain);
        }
        assert_eq!(quoted_if_needed("table"), "\"table\"");
        assert_eq!(quoted_if_needed("or der"), "\"or der\"");
        assert_eq!(quoted_if_needed("1a\""), "\"1a\"\"\"");
        assert_eq!(quoted_if_needed(""), "\"\"");
    }

    #[test]
    fn statements_end_where_sqlite_says() {
        for done in
            ["select 1;", "select ';';", "select 1; -- x", "create trigger a after insert on b begin select 1; end;"]
        {
            assert!(is_complete(done), "{done}");
        }
        for open in ["select 1", "select ';", "select 1 /* ;", "create trigger a after insert on b begin select 1;"] {
            assert!(!is_complete(open), "{open}");
        }
    }

    #[test]
    fn comments_are_no_statements() {
        for blank in ["", " \n", "-- x", "/* a */ -- b\n"] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for other in ["select 1", "-- x\n;", "/* open"] {
            assert!(!is_blank(other), "{other:?}");
        }
    }
}
