//! The arguments of `CREATE VIRTUAL TABLE ... USING redis(...)`, and what they declare.

use crate::config::Config;
use crate::model::error::{Cause, Result};
use crate::sqlite::api::Api;
use crate::sqlite::value::{Affinity, Value};
use crate::vtab::declare::address::unquoted;
use crate::vtab::declare::shadow_table::Judge;
use crate::vtab::declare::token::{quoted, tokens};
use crate::vtab::layout::index::unique_text;
use crate::vtab::layout::keys::Keys;

pub(crate) mod address;
pub(crate) mod omitted_columns;
pub(crate) mod shadow_table;
pub(crate) mod token;

/// What `PRAGMA encoding` answers where text is UTF-8.
pub(crate) const UTF8: &str = "UTF-8";

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub name: String,
    pub declared: String,
    pub affinity: Affinity,
    pub collation: String,
    /// Computed from others; never given.
    pub generated: bool,
    /// Has a `DEFAULT`.
    pub default: bool,
    pub not_null: bool,
}

impl Column {
    pub(crate) fn is_binary(&self) -> bool {
        self.collation.eq_ignore_ascii_case("BINARY")
    }
}

/// A `UNIQUE` or `PRIMARY KEY` constraint other than the rowid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unique {
    /// Columns, each with its collation.
    pub columns: Vec<(usize, String)>,
    /// What its `ON CONFLICT` clause says.
    pub on_conflict: Option<Conflict>,
}

impl Unique {
    /// Its name among [`Keys::uniques`]: `a,b NOCASE`. Commas and blanks in names make it longer,
    /// never equal to another's.
    pub(crate) fn name(&self, columns: &[Column]) -> String {
        let parts: Vec<String> = self
            .columns
            .iter()
            .map(|(column, collation)| {
                let name = quoted(&columns[*column].name);
                if collation.eq_ignore_ascii_case("BINARY") { name } else { format!("{name} {collation}") }
            })
            .collect();
        parts.join(",")
    }

    /// The column whose index serves it.
    pub(crate) fn indexed_column(&self) -> Option<usize> {
        match self.columns.as_slice() {
            [(column, collation)] if collation.eq_ignore_ascii_case("BINARY") => Some(*column),
            _ => None,
        }
    }
}

/// What to do about a row that violates a constraint (<https://sqlite.org/lang_conflict.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Conflict {
    Rollback,
    Ignore,
    Fail,
    Abort,
    Replace,
}

impl Conflict {
    fn named(word: &str) -> Option<Conflict> {
        let all = [
            ("ROLLBACK", Conflict::Rollback),
            ("IGNORE", Conflict::Ignore),
            ("FAIL", Conflict::Fail),
            ("ABORT", Conflict::Abort),
            ("REPLACE", Conflict::Replace),
        ];
        all.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, conflict)| conflict)
    }
}

/// A table as declared.
pub(crate) struct Definition {
    pub schema: String,
    pub table: String,
    pub prefix: String,
    pub server: Config,
    /// Text in the database is UTF-8, so that its order is that of an index.
    pub utf8: bool,
    pub columns: Vec<Column>,
    /// The `INTEGER PRIMARY KEY`.
    pub alias: Option<usize>,
    /// What its `ON CONFLICT` clause says.
    pub alias_conflict: Option<Conflict>,
    pub uniques: Vec<Unique>,
    /// Columns declared `INDEXED`, or `UNIQUE` where their index serves that.
    pub indexed: Vec<usize>,
}

impl Definition {
    /// Reads what SQLite passes to xCreate: module, schema, table, and the arguments as written. The
    /// `encoding` is the database's.
    pub(crate) fn parse(api: &'static Api, encoding: &str, arguments: &[String]) -> Result<(Definition, Judge)> {
        let [_, schema, table, arguments @ ..] = arguments else {
            return Err(Cause::Internal("xCreate without a table".into()).into());
        };
        let usage = "expected USING redis(SERVER, PREFIX, COLUMN, ...)";
        let [address, prefix, columns @ ..] = arguments else {
            let missing = if arguments.is_empty() { "no server" } else { "no prefix" };
            return declaration(format!("{missing}: {usage}"));
        };
        let server = address::parse(address)?;
        let prefix = unquoted(prefix);
        if prefix.is_empty() || prefix.contains('\0') || (prefix.contains(char::is_whitespace) && columns.is_empty()) {
            return declaration(format!("`{prefix}` can't be the prefix of keys: {usage}"));
        }
        if columns.iter().all(|column| column.trim().is_empty()) {
            return declaration(format!("no columns: {usage}"));
        }
        let mut definition = Definition {
            schema: schema.clone(),
            table: table.clone(),
            prefix,
            server,
            utf8: encoding == UTF8,
            columns: Vec::new(),
            alias: None,
            alias_conflict: None,
            uniques: Vec::new(),
            indexed: Vec::new(),
        };
        let written: Vec<Written> = columns.iter().map(|column| Written::read(column)).collect();
        let sql: Vec<&str> = written.iter().map(|written| written.sql.as_str()).collect();
        let judge = Judge::new(api, encoding, table, &sql.join("\n,"))?;
        definition.columns = judge.columns()?;
        definition.alias = judge.alias(&definition.columns)?;
        definition.uniques = judge.uniques(&definition.columns)?;
        definition.add_what_is_written(&written);
        Ok((definition, judge))
    }

    fn add_what_is_written(&mut self, written: &[Written]) {
        let find = |columns: &[Column], name: &str| columns.iter().position(|c| c.name.eq_ignore_ascii_case(name));
        for written in written {
            let names: Vec<usize> = written.names.iter().filter_map(|name| find(&self.columns, name)).collect();
            if written.indexed {
                self.indexed.extend(&names);
            }
            let Some(conflict) = written.on_conflict else { continue };
            if self.alias.is_some_and(|alias| names == [alias]) {
                self.alias_conflict = Some(conflict);
            }
            for unique in &mut self.uniques {
                if unique.columns.iter().map(|(column, _)| *column).eq(names.iter().copied()) {
                    unique.on_conflict = Some(conflict);
                }
            }
        }
        self.indexed.extend(self.uniques.iter().filter_map(Unique::indexed_column));
        self.indexed.sort_unstable();
        self.indexed.dedup();
        self.indexed.retain(|column| Some(*column) != self.alias);
    }

    /// Names of the uniqueness constraints that have keys of their own.
    pub(crate) fn own_uniques(&self) -> impl Iterator<Item = String> {
        let with_keys = self.uniques.iter().filter(|unique| unique.indexed_column().is_none());
        with_keys.map(|unique| unique.name(&self.columns))
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys::new(&self.prefix, &self.schema, &self.table)
    }

    /// What `sqlite3_declare_vtab` is told. Constraints are not its business, and `DEFAULT` and
    /// `GENERATED` it would misunderstand. `NOT NULL` is said for `min()`: SQLite tells a virtual
    /// table of the order that it wants only where NULL can't come first.
    pub(crate) fn declaration(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(n, column)| {
                let not_null = if column.not_null || self.alias == Some(n) { " NOT NULL" } else { "" };
                let collation =
                    if column.is_binary() { String::new() } else { format!(" COLLATE {}", quoted(&column.collation)) };
                // In quotes, because a type may be anything that was in quotes.
                let declared =
                    if column.declared.is_empty() { String::new() } else { format!(" {}", quoted(&column.declared)) };
                format!("{}{declared}{collation}{not_null}", quoted(&column.name))
            })
            .collect();
        format!("CREATE TABLE x({})", columns.join(", "))
    }

    /// A column by its name, in any case.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))
    }
}

fn declaration<T>(message: String) -> Result<T> {
    Err(Cause::Declaration(message).into())
}

/// One argument: a column or a table constraint, as SQLite will understand it.
struct Written {
    /// Without our own word `INDEXED`.
    sql: String,
    indexed: bool,
    /// The columns that a uniqueness in it is about.
    names: Vec<String>,
    on_conflict: Option<Conflict>,
}

impl Written {
    fn read(argument: &str) -> Written {
        let all = tokens(argument);
        let is_constraint = all.first().is_some_and(|first| {
            ["CONSTRAINT", "UNIQUE", "PRIMARY", "CHECK", "FOREIGN"].iter().any(|word| first.is(word))
        });
        let mut written = Written { sql: argument.to_owned(), indexed: false, names: Vec::new(), on_conflict: None };
        let mut about_unique = false;
        for (n, token) in all.iter().enumerate() {
            let word = token.depth == 0 && n > 0;
            if word && !is_constraint && token.is("INDEXED") {
                written.indexed = true;
                // As many blanks, so that the other tokens stay where they are.
                written.sql.replace_range(token.at.clone(), &" ".repeat(token.text.len()));
            }
            if token.depth == 0 && (token.is("UNIQUE") || token.is("PRIMARY")) {
                about_unique = true;
            } else if word && ["NOT", "CHECK", "DEFAULT", "COLLATE", "REFERENCES"].iter().any(|word| token.is(word)) {
                about_unique = false;
            }
            let conflict = all.get(n + 2).filter(|_| token.is("ON") && all[n + 1].is("CONFLICT"));
            if let Some(conflict) = conflict.filter(|_| about_unique) {
                written.on_conflict = Conflict::named(conflict.text);
            }
            let starts_name = n > 0 && token.depth == 1 && (all[n - 1].text == "(" || all[n - 1].text == ",");
            if is_constraint && about_unique && starts_name {
                written.names.push(token.name());
            }
        }
        if let Some(first) = all.first().filter(|_| !is_constraint) {
            written.names.push(first.name());
        }
        written
    }
}

/// What rows have in common that are equal under a uniqueness constraint; `None` with NULL.
pub(crate) fn unique_values(unique: &Unique, row: &[Value]) -> Option<Vec<u8>> {
    let values: Vec<(&Value, &str)> =
        unique.columns.iter().map(|(column, collation)| (&row[*column], collation.as_str())).collect();
    unique_text(&values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Definition> {
        let mut all = vec!["redis".to_owned(), "main".to_owned(), "t".to_owned()];
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Definition::parse(Api::linked(), UTF8, &all).map(|(definition, _)| definition)
    }

    #[test]
    fn columns_keep_their_ordinary_spelling() {
        let definition = parse(&[
            "localhost:6379",
            "prefix",
            "id INTEGER PRIMARY KEY ON CONFLICT REPLACE",
            "blah VARCHAR(255) NOT NULL COLLATE NOCASE DEFAULT 'a, (b'",
            "[Blah 2] INDEXED INTEGER CHECK (\"Blah 2\" > 0)",
            "mail TEXT UNIQUE ON CONFLICT IGNORE NOT NULL ON CONFLICT FAIL",
            "twice AS (\"Blah 2\" * 2) STORED",
            "UNIQUE (blah, mail) ON CONFLICT FAIL",
        ])
        .unwrap();
        let names: Vec<_> = definition.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["id", "blah", "Blah 2", "mail", "twice"]);
        assert_eq!(definition.alias, Some(0));
        assert_eq!(definition.alias_conflict, Some(Conflict::Replace));
        assert_eq!(definition.columns[1].affinity, Affinity::Text);
        assert_eq!(definition.columns[1].collation, "NOCASE");
        assert!(definition.columns[1].default && definition.columns[4].generated);
        assert_eq!(definition.indexed, [2, 3]);
        assert_eq!(definition.uniques.len(), 2);
        let two = definition.uniques.iter().find(|unique| unique.columns.len() == 2).unwrap();
        assert_eq!(two.name(&definition.columns), "\"blah\" NOCASE,\"mail\"");
        assert_eq!(two.on_conflict, Some(Conflict::Fail));
        let one = definition.uniques.iter().find(|unique| unique.columns.len() == 1).unwrap();
        assert_eq!((one.indexed_column(), one.on_conflict), (Some(3), Some(Conflict::Ignore)));
        assert!(definition.declaration().contains("\"blah\" \"VARCHAR(255)\" COLLATE \"NOCASE\" NOT NULL"));
    }

    #[test]
    fn bad_declarations_say_what_is_wrong() {
        let cases: [(&[&str], &str); 7] = [
            (&[], "no server"),
            (&["localhost"], "no prefix"),
            (&["localhost", "p"], "no columns"),
            (&["localhost", "''", "a"], "prefix"),
            (&["localhost", "p", "a", "A INT"], "duplicate column name"),
            (&["localhost", "p", "a", "CHECK (nosuch > 1)"], "nosuch"),
            (&["localhost", "p", "a INTEGER REFERENCES"], "syntax error"),
        ];
        for (arguments, part) in cases {
            let error = parse(arguments).err().unwrap().to_string();
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
}
