//! Virtual tables on private servers, and checks of their keys.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Cmd, FromRedisValue, cmd};
use rusqlite::Connection;

use crate::Server;

/// A connection with the module `redis`.
///
/// # Panics
/// When the module can't be registered.
pub fn connect() -> Connection {
    sqlite_redis::register().expect("the module");
    Connection::open_in_memory().expect("a connection")
}

/// Creates a virtual table with the prefix `p`.
///
/// # Errors
/// Those of `CREATE VIRTUAL TABLE`.
pub fn create(connection: &Connection, url: &str, name: &str, columns: &str) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("CREATE VIRTUAL TABLE {name} USING redis('{url}', p, {columns})"))
}

/// A connection with a table `t`.
///
/// # Panics
/// When the table can't be created.
pub fn table(server: &Server, columns: &str) -> Connection {
    let connection = connect();
    create(&connection, &server.url(), "t", columns).unwrap_or_else(|error| panic!("{columns}: {error}"));
    connection
}

/// Asserts that the rows and indexes of a table agree, by reading its keys. Works for columns of numbers or text whose
/// values have the same form in the hash and in keys. Returns the number of rows.
///
/// # Panics
/// When they don't.
pub fn check_keys(server: &Server, table: &str) -> usize {
    check_rows(server, &format!("p.main.{table}"))
}

/// Like [`check_keys`], for a table whose keys begin with `base`.
///
/// # Panics
/// When rows and indexes don't agree.
pub fn check_rows(server: &Server, base: &str) -> usize {
    let mut redis = server.redis();
    let rowids: BTreeSet<String> = ask(&mut redis, cmd("ZRANGE").arg(format!("{base}.index.rowid")).arg(0).arg(-1));
    let keys: BTreeSet<String> = ask(&mut redis, cmd("KEYS").arg(format!("{base}*")));
    let rows: BTreeSet<String> =
        keys.iter().filter_map(|key| key.strip_prefix(&format!("{base}:"))).map(str::to_owned).collect();
    assert_eq!(rowids, rows, "the rowids of {base} and its rows");
    let counter: Option<i64> = ask(&mut redis, cmd("GET").arg(format!("{base}.rowid")));
    let greatest = rowids.iter().filter_map(|rowid| rowid.parse::<i64>().ok()).max();
    assert!(counter.unwrap_or(0) >= greatest.unwrap_or(0), "the counter {counter:?} is below {greatest:?}");
    let indices: Vec<String> = ask(&mut redis, cmd("SMEMBERS").arg(format!("{base}.indices")));
    for column in &indices {
        check_index(&mut redis, base, column, &keys, &rows);
    }
    // No key of a dropped index is left.
    let of_index = keys.iter().filter_map(|key| key.strip_prefix(&format!("{base}.index:")));
    for rest in of_index {
        let column = rest.split(':').next().unwrap_or_default();
        assert!(indices.iter().any(|index| index == column), "{rest} belongs to no index of {base}");
    }
    rows.len()
}

fn check_index(
    redis: &mut redis::Connection,
    base: &str,
    column: &str,
    keys: &BTreeSet<String>,
    rows: &BTreeSet<String>,
) {
    let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut nulls = BTreeSet::new();
    for row in rows {
        match ask::<Option<String>>(redis, cmd("HGET").arg(format!("{base}:{row}")).arg(column)) {
            Some(value) => expected.entry(value).or_default().insert(row.clone()),
            None => nulls.insert(row.clone()),
        };
    }
    let mut found = BTreeMap::new();
    for key in keys {
        if let Some(value) = key.strip_prefix(&format!("{base}.index:{column}:")) {
            found.insert(value.to_owned(), ask::<BTreeSet<String>>(redis, cmd("SMEMBERS").arg(key)));
        }
    }
    assert_eq!(found, expected, "rowids by value of {column} in {base}, and the rows");
    let values: BTreeSet<String> = ask(redis, cmd("ZRANGE").arg(format!("{base}.index:{column}")).arg(0).arg(-1));
    assert_eq!(values, expected.into_keys().collect(), "values of {column} in {base}");
    let in_set: BTreeSet<String> = ask(redis, cmd("SMEMBERS").arg(format!("{base}.index.null:{column}")));
    assert_eq!(in_set, nulls, "rows with NULL in {column} of {base}");
}

fn ask<T: FromRedisValue>(redis: &mut redis::Connection, command: &mut Cmd) -> T {
    command.query(redis).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
