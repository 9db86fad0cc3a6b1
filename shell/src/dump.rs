//! `.dump`: a database as SQL that any `sqlite3` can read back.
//!
//! The output is that of `sqlite3`. Virtual tables are inserted into the schema table, because `CREATE VIRTUAL TABLE`
//! would create their shadow tables a second time. The rows of shadow tables follow as ordinary rows.

use std::io::{self, Write};

use anyhow::{Result, anyhow};
use rusqlite::{Connection, params_from_iter};

use crate::names;
use crate::output::value;

/// The options of `.dump`.
#[derive(Clone, Copy, Default)]
pub struct Content {
    /// Only the `INSERT` statements.
    pub data_only: bool,
    /// Line ends in values are not escaped.
    pub newlines: bool,
    /// No tables whose names begin with `sqlite_`.
    pub without_system: bool,
    /// With rowids, where a table has rowids that no column shows.
    pub rowids: bool,
}

/// Dumps the tables that match one of the LIKE patterns, or all tables.
pub fn dump(db: &Connection, patterns: &[String], content: Content, out: &mut dyn Write) -> Result<()> {
    if !content.data_only {
        writeln!(out, "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;")?;
    }
    // A read transaction, so that the dump shows one version. With `writable_schema`, SQLite reads as much of a
    // damaged schema as it can.
    db.execute_batch("SAVEPOINT dump; PRAGMA writable_schema=ON")?;
    let mut dump = Dump { db, content, out, writable_schema: false, errors: Vec::new() };
    let result = dump.all(patterns);
    let Dump { writable_schema, errors, .. } = dump;
    db.execute_batch("PRAGMA writable_schema=OFF; RELEASE dump")?;
    result?;
    if writable_schema {
        writeln!(out, "PRAGMA writable_schema=OFF;")?;
    }
    if !content.data_only {
        writeln!(out, "{}", if errors.is_empty() { "COMMIT;" } else { "ROLLBACK; -- due to errors" })?;
    }
    match errors.first() {
        None => Ok(()),
        Some(error) => Err(anyhow!("the dump is not complete: {error}")),
    }
}

struct Dump<'a> {
    db: &'a Connection,
    content: Content,
    out: &'a mut dyn Write,
    /// Whether `PRAGMA writable_schema=ON` was written to the output.
    writable_schema: bool,
    errors: Vec<String>,
}

impl Dump<'_> {
    fn all(&mut self, patterns: &[String]) -> Result<()> {
        let filter = filter(patterns.len());
        let tables = self.objects(
            &format!(
                "SELECT name, sql FROM sqlite_schema AS o
                 WHERE {filter} AND type = 'table' AND sql NOT NULL
                 ORDER BY tbl_name = 'sqlite_sequence', rowid"
            ),
            patterns,
        )?;
        for (name, sql) in tables {
            self.table(&name, &sql)?;
        }
        if self.content.data_only {
            return Ok(());
        }
        let others = self.objects(
            &format!(
                "SELECT name, sql FROM sqlite_schema AS o
                 WHERE {filter} AND sql NOT NULL AND type IN ('index', 'trigger', 'view')"
            ),
            patterns,
        )?;
        for (_, sql) in others {
            writeln!(self.out, "{};", closed(&sql))?;
        }
        Ok(())
    }

    fn objects(&self, sql: &str, patterns: &[String]) -> rusqlite::Result<Vec<(String, String)>> {
        let mut statement = self.db.prepare(sql)?;
        let rows = statement.query_map(params_from_iter(patterns), |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    }

    fn table(&mut self, name: &str, sql: &str) -> Result<()> {
        if self.content.without_system && name.starts_with("sqlite_") {
            return Ok(());
        }
        // Only some builds of SQLite have sqlite_stat4. ANALYZE creates it again.
        let known = name == "sqlite_sequence" || name.starts_with("sqlite_stat");
        if name == "sqlite_stat4" || (name.starts_with("sqlite_") && !known) {
            return Ok(());
        }
        if !self.content.data_only {
            if name == "sqlite_sequence" {
                writeln!(self.out, "DELETE FROM sqlite_sequence;")?;
            } else if known {
                writeln!(self.out, "ANALYZE sqlite_schema;")?;
            } else if sql.starts_with("CREATE VIRTUAL TABLE") {
                return Ok(self.virtual_table(name, sql)?);
            } else {
                writeln!(self.out, "{};", closed(&if_not_exists(sql)))?;
            }
        }
        match self.rows(name) {
            Err(error) if error.is::<rusqlite::Error>() => {
                let message = crate::database::describe(&error);
                writeln!(self.out, "/****** ERROR: {message} *******/")?;
                self.errors.push(format!("{name}: {message}"));
                Ok(())
            }
            other => other,
        }
    }

    fn virtual_table(&mut self, name: &str, sql: &str) -> io::Result<()> {
        if !self.writable_schema {
            writeln!(self.out, "PRAGMA writable_schema=ON;")?;
            self.writable_schema = true;
        }
        let name = name.replace('\'', "''");
        let sql = sql.replace('\'', "''");
        writeln!(
            self.out,
            "INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)\
             VALUES('table','{name}','{name}',0,'{sql}');"
        )
    }

    fn rows(&mut self, table: &str) -> Result<()> {
        // Generated columns are not listed, and can't be inserted.
        let columns = columns(self.db, "main", table)?;
        if columns.is_empty() {
            return Ok(());
        }
        let mut list: Vec<_> = columns.iter().map(|name| names::quoted(name)).collect();
        let mut into = names::quoted_if_needed(table);
        let rowid = if self.content.rowids { rowid_name(self.db, table, &columns)? } else { None };
        if let Some(rowid) = rowid {
            let names: Vec<_> = columns.iter().map(|name| names::quoted_if_needed(name)).collect();
            into += &format!("({rowid},{})", names.join(","));
            list.insert(0, rowid.to_owned());
        }
        let sql = format!("SELECT {} FROM main.{}", list.join(","), names::quoted(table));
        let mut statement = self.db.prepare(&sql)?;
        let mut rows = statement.raw_query();
        let head = format!("INSERT INTO {into} VALUES(");
        let literal = if self.content.newlines { value::literal_as_is } else { value::literal };
        while let Some(row) = rows.next()? {
            self.out.write_all(head.as_bytes())?;
            for i in 0..list.len() {
                self.out.write_all(if i > 0 { b"," } else { b"" })?;
                self.out.write_all(&literal(row.get_ref(i)?))?;
            }
            self.out.write_all(b");\n")?;
        }
        Ok(())
    }
}

/// The SQL condition for objects that match the patterns, with the shadow tables of virtual tables.
fn filter(patterns: usize) -> String {
    if patterns == 0 {
        return "true".to_owned();
    }
    let one = |i| {
        format!(
            "name LIKE ?{i} ESCAPE '\\' OR EXISTS (SELECT 1 FROM sqlite_schema
               WHERE name LIKE ?{i} ESCAPE '\\' AND sql LIKE 'CREATE VIRTUAL TABLE%'
                 AND substr(o.name, 1, length(name) + 1) == (name || '_'))"
        )
    };
    let all: Vec<_> = (1..=patterns).map(one).collect();
    format!("({})", all.join(" OR "))
}

/// The columns of a table that accept values.
pub fn columns(db: &Connection, schema: &str, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare("SELECT name FROM pragma_table_info(?1, ?2)")?;
    statement.query_map([table, schema], |row| row.get(0))?.collect()
}

/// The name under which the rowid can be inserted. `None` where a column is the rowid, where there is none, or where
/// columns hide all its names.
fn rowid_name(db: &Connection, table: &str, columns: &[String]) -> rusqlite::Result<Option<&'static str>> {
    let mut statement = db.prepare("SELECT type FROM pragma_table_info(?1, 'main') WHERE pk > 0")?;
    let key: Vec<String> = statement.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    if matches!(key.as_slice(), [kind] if kind.eq_ignore_ascii_case("INTEGER")) {
        // An INTEGER PRIMARY KEY is the rowid, unless it has an index of its own.
        let index = "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?1, 'main') WHERE origin = 'pk')";
        if !db.query_row(index, [table], |row| row.get::<_, bool>(0))? {
            return Ok(None);
        }
    }
    let free = |name: &&&str| !columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    let Some(name) = ["rowid", "_rowid_", "oid"].iter().find(free) else { return Ok(None) };
    // A table WITHOUT ROWID has no such column.
    let exists = db.prepare(&format!("SELECT {name} FROM main.{}", names::quoted(table))).is_ok();
    Ok(exists.then_some(*name))
}

/// Ends the statement so that a `;` can follow: closes a comment that is still open.
pub fn closed(sql: &str) -> String {
    let ends = ["", "*/", "\n"];
    let end = ends.into_iter().find(|end| names::ends_statement(&format!("{sql}{end};")));
    format!("{sql}{}", end.unwrap_or_default())
}

/// `CREATE TABLE IF NOT EXISTS` for tables with quoted names: they may be shadow tables that their virtual table has
/// already created.
pub fn if_not_exists(sql: &str) -> String {
    match sql.strip_prefix("CREATE TABLE ") {
        Some(rest) if rest.starts_with(['\'', '"']) => format!("CREATE TABLE IF NOT EXISTS {rest}"),
        _ => sql.to_owned(),
    }
}

/// The dump of a database as text, for tests.
#[cfg(test)]
fn text(db: &Connection) -> String {
    let mut out = Vec::new();
    dump(db, &[], Content::default(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_reads_back_as_the_same_database() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b, c AS (a + 1) STORED);
             CREATE TABLE \"or der\"(\"se lect\" UNIQUE);
             CREATE VIEW v AS SELECT * FROM t;
             CREATE INDEX i ON t(b);
             CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END;
             CREATE VIRTUAL TABLE f USING fts5(text);
             CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);
             INSERT INTO t(b) VALUES ('it''s' || char(10)), (x'00ff'), (0.1), (NULL), (char(97, 0, 98));
             INSERT INTO \"or der\" VALUES (1e999);
             INSERT INTO f VALUES ('hello world');
             INSERT INTO r VALUES (1, 2, 3);",
        )
        .unwrap();
        let copy = Connection::open_in_memory().unwrap();
        copy.execute_batch(&text(&db)).unwrap();
        assert_eq!(text(&copy), text(&db));
        // Only a new connection reads the schema written by hand.
        copy.execute_batch("PRAGMA writable_schema=RESET").unwrap();
        let found =
            |db: &Connection| db.query_row("SELECT count(*) FROM f WHERE f MATCH 'world'", [], |r| r.get::<_, i64>(0));
        assert_eq!(found(&copy), Ok(1));
        let odd = "SELECT hex(b), typeof(b) FROM t WHERE a = 5";
        let value = |db: &Connection| db.query_row(odd, [], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)));
        assert_eq!(value(&copy), Ok(("610062".to_owned(), "text".to_owned())));
    }
}
