//! Which columns an `INSERT` leaves out. SQLite hands NULL to xUpdate for those as for NULL
//! itself, so the statement's text has to tell: `INTO table (columns)`.

use crate::vtab::declare::token::{Token, tokens};

/// The columns that a statement names when it inserts into a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listed {
    /// No list: every column is given.
    All,
    These(Vec<String>),
}

/// What a statement says; `None` if it does not insert into the table, or more than once.
pub(crate) fn listed(sql: &str, table: &str) -> Option<Listed> {
    let all = tokens(sql);
    let mut found = None;
    for (n, _) in all.iter().enumerate().filter(|(_, token)| token.is("INTO")) {
        let mut rest = &all[n + 1..];
        if rest.get(1).is_some_and(|token| token.text == ".") {
            rest = &rest[2..];
        }
        if !rest.first().is_some_and(|token| token.name().eq_ignore_ascii_case(table)) {
            continue;
        }
        if found.is_some() {
            return None;
        }
        found = Some(list(&rest[1..]));
    }
    found
}

fn list(mut rest: &[Token<'_>]) -> Listed {
    if rest.first().is_some_and(|token| token.is("AS")) {
        rest = rest.get(2..).unwrap_or_default();
    }
    match rest.first() {
        Some(open) if open.text == "(" => {
            let inner = rest[1..].iter().take_while(|token| token.text != ")");
            Listed::These(inner.filter(|token| token.text != ",").map(Token::name).collect())
        }
        Some(word) if word.is("DEFAULT") => Listed::These(Vec::new()),
        _ => Listed::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_found() {
        let these = |names: &[&str]| Some(Listed::These(names.iter().map(|name| (*name).to_owned()).collect()));
        assert_eq!(listed("INSERT INTO t (a, \"b c\") VALUES (1, 2)", "t"), these(&["a", "b c"]));
        assert_eq!(listed("insert or replace into main.[T] as x(a) select 1", "t"), these(&["a"]));
        assert_eq!(listed("INSERT INTO t DEFAULT VALUES", "t"), these(&[]));
        assert_eq!(listed("REPLACE INTO t VALUES (1, 2)", "t"), Some(Listed::All));
        assert_eq!(listed("INSERT INTO u VALUES ('INTO t (a)')", "t"), None);
        assert_eq!(listed("INSERT INTO", "t"), None);
    }
}
