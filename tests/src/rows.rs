//! Results of queries and contents of databases as comparable values.

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::Value;
use rusqlite::{Batch, Connection, Result};

/// The rows of a query, column by column.
pub type Rows = Vec<Vec<Value>>;

/// All rows of one query.
///
/// # Errors
/// The query fails.
pub fn try_rows(connection: &Connection, sql: &str) -> Result<Rows> {
    let mut statement = connection.prepare(sql)?;
    collect(&mut statement)
}

fn collect(statement: &mut rusqlite::Statement<'_>) -> Result<Rows> {
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push((0..columns).map(|column| row.get(column)).collect::<Result<_>>()?);
    }
    Ok(all)
}

/// All rows of one query.
///
/// # Panics
/// When the query fails.
pub fn rows(connection: &Connection, sql: &str) -> Rows {
    try_rows(connection, sql).unwrap_or_else(|error| {
        panic!("{sql}: {error}; {:?}", sqlite_redis::last_error(connection));
    })
}

/// The result of a script: all rows up to the first failure, and the failure's code.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// Rows of all statements, one after the other.
    pub rows: Rows,
    /// Extended result code of the failure, if there was one.
    pub code: Option<i32>,
}

/// Runs a script of any number of statements up to its first failure.
///
/// # Panics
/// When the failure has no SQLite result code.
pub fn run(connection: &Connection, sql: &str) -> Outcome {
    let mut rows = Vec::new();
    let mut all = || {
        let mut batch = Batch::new(connection, sql);
        while let Some(mut statement) = batch.next()? {
            rows.extend(collect(&mut statement)?);
        }
        Ok(())
    };
    let code = match all() {
        Ok(()) => None,
        Err(rusqlite::Error::SqliteFailure(error, _)) => Some(error.extended_code),
        Err(rusqlite::Error::SqlInputError { error, .. }) => Some(error.extended_code),
        Err(error) => panic!("{sql}: {error}"),
    };
    Outcome { rows, code }
}

/// The whole content of a schema, such as `main`, as sorted lines: like `.dump`, but independent of the order of rows.
/// Shadow tables of virtual tables are included.
///
/// # Panics
/// When it can't be read.
pub fn content(connection: &Connection, schema: &str) -> Vec<String> {
    let objects = format!("SELECT type, name, ifnull(sql, '') FROM \"{schema}\".sqlite_schema ORDER BY 1, 2, 3");
    let mut lines = Vec::new();
    for object in rows(connection, &objects) {
        let [Value::Text(kind), Value::Text(name), Value::Text(sql)] = object.as_slice() else { panic!("{object:?}") };
        lines.push(format!("{kind} {name}: {sql}"));
        if kind == "table" && !sql.starts_with("CREATE VIRTUAL") {
            let mut values = table(connection, schema, name);
            values.sort_unstable();
            lines.append(&mut values);
        }
    }
    for pragma in ["user_version", "application_id", "encoding"] {
        lines.push(format!("{pragma}: {:?}", rows(connection, &format!("PRAGMA \"{schema}\".{pragma}"))));
    }
    lines
}

fn table(connection: &Connection, schema: &str, name: &str) -> Vec<String> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut columns = connection.prepare("SELECT name FROM pragma_table_xinfo(?1, ?2)").expect("columns");
    let columns = columns.query_map([name, schema], |row| row.get::<_, String>(0)).expect("columns");
    let columns: Vec<_> = columns.map(|column| format!("quote({})", quoted(&column.expect("a column")))).collect();
    let sql = format!("SELECT {} FROM {}.{}", columns.join(" || ',' || "), quoted(schema), quoted(name));
    let values = rows(connection, &sql);
    values
        .into_iter()
        .map(|mut row| match row.pop() {
            Some(Value::Text(values)) => format!("{name}({values})"),
            other => panic!("{sql}: {other:?}"),
        })
        .collect()
}

/// Asserts that two schemas have the same content.
///
/// # Panics
/// When they differ, with the first difference.
pub fn assert_same_content(left: (&Connection, &str), right: (&Connection, &str)) {
    let (left, right) = (content(left.0, left.1), content(right.0, right.1));
    let short = |line: &String| line.chars().take(300).collect::<String>();
    for (left, right) in left.iter().zip(&right) {
        assert!(left == right, "left: {}\nright: {}", short(left), short(right));
    }
    assert_eq!(left.len(), right.len(), "one has more lines");
}
