//! Names in SQL: which need quotes, and the keywords.

use std::collections::HashSet;
use std::ffi::CString;
use std::sync::LazyLock;

use crate::ffi;

/// The keywords of the SQLite that is linked in, in upper case.
pub fn keywords() -> &'static HashSet<String> {
    static KEYWORDS: LazyLock<HashSet<String>> = LazyLock::new(|| ffi::keywords().collect());
    &KEYWORDS
}

/// The name for use in SQL: quoted unless it is a plain word.
pub fn quoted_if_needed(name: &str) -> String {
    let start = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let plain = start && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain && !keywords().contains(&name.to_ascii_uppercase()) { name.to_owned() } else { quoted(name) }
}

/// The name in double quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether `sql` ends with a complete statement. SQLite decides; it knows quotes, comments and the `END` of a
/// trigger.
pub fn is_complete(sql: &str) -> bool {
    // Newer versions of SQLite regard a comment as open until its line ends. A NUL byte ends all SQL, so nothing
    // could complete the statement.
    CString::new(format!("{sql}\n")).map_or(true, |text| ffi::is_complete(&text))
}

/// Whether `sql` ends after a statement, outside of quotes and comments.
pub fn ends_statement(sql: &str) -> bool {
    CString::new(sql).is_ok_and(|text| ffi::is_complete(&text))
}

/// Whether a line stands for the semicolon, as in Oracle (`/`) and SQL Server (`go`).
pub fn is_terminator(line: &str) -> bool {
    let word = line.trim();
    word == "/" || word.eq_ignore_ascii_case("go")
}

/// Whether a text begins like SQL or a dot command.
pub fn begins_statement(text: &str) -> bool {
    const FIRST: &[&str] = &[
        "ALTER",
        "ANALYZE",
        "ATTACH",
        "BEGIN",
        "COMMIT",
        "CREATE",
        "DELETE",
        "DETACH",
        "DROP",
        "END",
        "EXPLAIN",
        "INSERT",
        "PRAGMA",
        "REINDEX",
        "RELEASE",
        "REPLACE",
        "ROLLBACK",
        "SAVEPOINT",
        "SELECT",
        "UPDATE",
        "VACUUM",
        "VALUES",
        "WITH",
    ];
    let text = text.trim_start();
    let word = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    // Not a path, such as `./file` or `/file`, nor a name with a dot.
    let dot = text.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
    dot || text.starts_with("--")
        || text.starts_with("/*")
        || text.starts_with(';')
        || FIRST.iter().any(|first| word.eq_ignore_ascii_case(first))
}

/// Whether the text is only white space and comments.
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
    fn statements_are_told_from_names_of_files() {
        for statement in ["select 1", " WITH x AS (SELECT 1) SELECT 1", ".tables", "-- x\nselect 1", "values(1)"] {
            assert!(begins_statement(statement), "{statement}");
        }
        for other in ["music.sqlite", "/tmp/x", "../x", "./x", "music", "", "selection.db"] {
            assert!(!begins_statement(other), "{other}");
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
