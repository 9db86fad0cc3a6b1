//! The keys of one table, each spelled once. `docs/virtual-table-format.md` describes them.

use crate::model::error::{Cause, Result};

/// Hash field that tells values apart whose text is not enough; no column can be called so.
pub(crate) const TYPES: &[u8] = b"\0types";

/// The names of a table's keys in Redis. All begin with `prefix.db.table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    base: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str, schema: &str, table: &str) -> Self {
        Keys { base: format!("{prefix}.{schema}.{table}") }
    }

    /// What all of them begin with.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    fn with(&self, end: &str) -> Vec<u8> {
        format!("{}{end}", self.base).into_bytes()
    }

    /// Hash: one row.
    pub(crate) fn row(&self, rowid: i64) -> Vec<u8> {
        format!("{}:{rowid}", self.base).into_bytes()
    }

    /// What the keys of rows begin with, which end with the rowid.
    pub(crate) fn rows(&self) -> Vec<u8> {
        self.with(":")
    }

    /// String: the counter from which rowids come.
    pub(crate) fn counter(&self) -> Vec<u8> {
        self.with(".rowid")
    }

    /// Sorted set: every rowid, scored by itself.
    pub(crate) fn rowids(&self) -> Vec<u8> {
        self.with(".index.rowid")
    }

    /// Set: names of indexed columns.
    pub(crate) fn indices(&self) -> Vec<u8> {
        self.with(".indices")
    }

    /// Set: names of columns whose index is being built: kept up to date, not yet used.
    pub(crate) fn building(&self) -> Vec<u8> {
        self.with(".indices.building")
    }

    /// Set: the `UNIQUE` constraints that one column's index can't serve.
    pub(crate) fn uniques(&self) -> Vec<u8> {
        self.with(".indices.unique")
    }

    /// Sorted set: the values of a column, numbers or text, whichever its type calls for.
    pub(crate) fn values(&self, column: &str) -> Vec<u8> {
        self.with(&format!(".index:{column}"))
    }

    /// Set: rowids of the rows with a value in a column.
    pub(crate) fn rows_with(&self, column: &str, value: &[u8]) -> Vec<u8> {
        let mut key = self.with(&format!(".index:{column}:"));
        key.extend_from_slice(value);
        key
    }

    /// Sorted set, lexical: the values of a column that [`Keys::values`] has no place for.
    pub(crate) fn others(&self, column: &str) -> Vec<u8> {
        self.with(&format!(".index.other:{column}"))
    }

    /// Set: rowids of the rows with NULL in a column.
    pub(crate) fn nulls(&self, column: &str) -> Vec<u8> {
        self.with(&format!(".index.null:{column}"))
    }

    /// Set: the rowid of the row with these values in the columns of a `UNIQUE` constraint.
    pub(crate) fn unique(&self, constraint: &str, values: &[u8]) -> Vec<u8> {
        let mut key = self.with(&format!(".unique:{constraint}:"));
        key.extend_from_slice(values);
        key
    }

    /// String with a time to live: the last commit of one client, by which it learns what became
    /// of a commit whose reply was lost.
    pub(crate) fn commit(&self, client: u64) -> Vec<u8> {
        self.with(&format!(".commit:{client:016x}"))
    }

    /// Hash: the slices of a large change until it is done. With a time to live until it is decided.
    pub(crate) fn staged(&self, change: &str) -> Vec<u8> {
        self.with(&format!(".staged:{change}"))
    }

    /// String: what every change looks at first; see [`hold`](crate::vtab::commit::hold).
    pub(crate) fn hold(&self) -> Vec<u8> {
        self.with(".hold")
    }

    /// Never there.
    pub(crate) fn nothing(&self) -> Vec<u8> {
        self.with(".index.nothing")
    }
}

/// What stands between the base of a table and `:` in its keys, beside those of its rows.
const PARTS: [&str; 6] = [".index", ".index.other", ".index.null", ".unique", ".commit", ".staged"];

/// Refuses names whose keys could also be keys of another table.
///
/// # Errors
/// A dot in the name of the table or schema: `prefix.db.table` could be cut in another place. Or the keys begin
/// as those of an index, a constraint or a commit of another table do.
pub(crate) fn refuse_ambiguous(prefix: &str, schema: &str, table: &str) -> Result<()> {
    let base = Keys::new(prefix, schema, table).base;
    let refuse = |why: String| Err(Cause::Declaration(why).into());
    for (kind, name) in [("table", table), ("schema", schema)] {
        if name.contains('.') {
            return refuse(format!(
                "the {kind} `{name}` can't have a dot in its name: the keys `{base}` could be those of another table"
            ));
        }
    }
    let is_of_another = |part: &str| {
        base.match_indices(part).any(|(at, _)| {
            let rest = &base[at + part.len()..];
            (rest.is_empty() || rest.starts_with(':')) && base[..at].matches('.').count() >= 2
        })
    };
    match PARTS.into_iter().find(|part| is_of_another(part)) {
        Some(part) => refuse(format!(
            "`{part}` in the keys `{base}` could make them those of another table; choose another name or prefix"
        )),
        None => Ok(()),
    }
}

/// A key for messages.
pub(crate) fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(&key[..key.len().min(120)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_published_layout() {
        let keys = Keys::new("p", "main", "idx");
        assert_eq!(keys.row(-3), b"p.main.idx:-3");
        assert_eq!(keys.counter(), b"p.main.idx.rowid");
        assert_eq!(keys.rowids(), b"p.main.idx.index.rowid");
        assert_eq!(keys.indices(), b"p.main.idx.indices");
        assert_eq!(keys.values("f"), b"p.main.idx.index:f");
        assert_eq!(keys.rows_with("f", b"1.5"), b"p.main.idx.index:f:1.5");
    }

    #[test]
    fn names_whose_keys_could_be_another_tables_are_refused() {
        for (prefix, schema, table) in [
            ("p", "main", "a.unique"),
            ("p", "main", "x.y"),
            ("p", "main.x", "y"),
            ("p.main", "a", "index"),
            ("p.main", "a", "index:x"),
            ("p.main", "a", "unique"),
            ("p.main", "a", "commit"),
            ("p.main", "a", "staged"),
            ("p.main.a", "index", "null"),
            ("p.main.a", "index", "other"),
            ("p.main.a.index:x", "main", "t"),
        ] {
            assert!(refuse_ambiguous(prefix, schema, table).is_err(), "{prefix} {schema} {table}");
        }
        for (prefix, schema, table) in [
            ("p", "main", "t"),
            ("p", "main", "index"),
            ("shop.v1", "main", "orders"),
            ("app:shop", "main", "a:b"),
            ("p.main", "a", "indexes"),
            ("a.index", "main", "t"),
        ] {
            refuse_ambiguous(prefix, schema, table).unwrap();
        }
    }
}
