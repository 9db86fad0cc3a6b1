//! The keys of one table, each spelled once. `docs/virtual-table.md` describes them.

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

    /// String with a time to live: writers wait while it is there.
    pub(crate) fn hold(&self) -> Vec<u8> {
        self.with(".hold")
    }

    /// Never there.
    pub(crate) fn nothing(&self) -> Vec<u8> {
        self.with(".index.nothing")
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
}
