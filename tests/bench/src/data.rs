//! The data of the workloads, the same in every system.

use std::path::PathBuf;

use anyhow::Result;
use redis::{Connection, pipe};
use rusqlite::OpenFlags;
use serde::{Deserialize, Serialize};

use crate::client::{Param, Sql};

/// Numbers of rows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Sizes {
    /// Rows of `item`, which is only read, and of `stock`, a copy of it that is updated.
    pub items: i64,
    /// Rows of 1,000 bytes for YCSB.
    pub records: i64,
    /// Rows of 1,000 bytes to scan and to vacuum; 100,000 are 100 MB.
    pub scanned: i64,
    /// Rows of the bulk load.
    pub loaded: i64,
}

impl Sizes {
    pub const FULL: Sizes = Sizes { items: 100_000, records: 10_000, scanned: 100_000, loaded: 1_000_000 };
    pub const QUICK: Sizes = Sizes { items: 1_000, records: 200, scanned: 1_000, loaded: 1_000 };

    /// Smaller tables, for settings in which each round trip takes milliseconds.
    pub fn tenth(self) -> Sizes {
        Sizes { scanned: self.scanned / 10, loaded: self.loaded / 10, ..self }
    }
}

/// Number of rows in each category.
pub const PER_CATEGORY: i64 = 10;

/// Text of a given length that compresses about as well as prose.
pub fn text(seed: i64, length: usize) -> String {
    const WORDS: [&str; 8] = ["river ", "stone ", "early ", "copper ", "window ", "seven ", "garden ", "quiet "];
    let mut state = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = format!("{seed} ");
    while text.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push_str(WORDS[(state >> 61) as usize]);
    }
    text.truncate(length);
    text
}

fn item(id: i64) -> Vec<Param> {
    let name = Param::Text(text(id, 20));
    vec![Param::Int(id), name, Param::Int(id / PER_CATEGORY), Param::Real(id as f64 / 8.0), Param::Text(text(id, 60))]
}

fn record(id: i64) -> Vec<Param> {
    vec![Param::Text(key(id)), Param::Text(text(id, 1000))]
}

/// The key of a YCSB record.
pub fn key(id: i64) -> String {
    format!("user{id:012}")
}

/// One row of the bulk load.
fn loaded(id: i64) -> Vec<Param> {
    vec![Param::Int(id), Param::Text(text(id, 20)), Param::Real(id as f64)]
}

/// The tables of the database `bench`, with their columns.
pub const TABLES: &[(&str, &str)] = &[
    ("item", "id INTEGER PRIMARY KEY, name TEXT, category INTEGER, price DOUBLE PRECISION, note TEXT"),
    ("stock", "id INTEGER PRIMARY KEY, name TEXT, category INTEGER, price DOUBLE PRECISION, note TEXT"),
    ("entry", "id INTEGER PRIMARY KEY, body TEXT"),
    ("gone", "id INTEGER PRIMARY KEY, body TEXT"),
    ("usertable", "k TEXT PRIMARY KEY, v TEXT"),
];

/// Creates and fills the tables of the database `bench`.
///
/// # Errors
/// The system returns an error.
pub fn build(sql: &mut dyn Sql, sizes: Sizes) -> Result<()> {
    TABLES.iter().try_for_each(|(table, columns)| sql.create(table, columns))?;
    sql.load("item", &mut (0..sizes.items).map(item))?;
    sql.load("stock", &mut (0..sizes.items).map(item))?;
    sql.load("usertable", &mut (0..sizes.records).map(record))?;
    sql.index("item", "category")
}

/// Creates the table that is scanned and vacuumed.
///
/// # Errors
/// The system returns an error.
pub fn build_scanned(sql: &mut dyn Sql, rows: i64) -> Result<()> {
    sql.create("scanned", "id INTEGER PRIMARY KEY, body TEXT")?;
    sql.load("scanned", &mut (0..rows).map(|id| vec![Param::Int(id), Param::Text(text(id, 985))]))
}

pub const LOADED_COLUMNS: &str = "id INTEGER PRIMARY KEY, name TEXT, value DOUBLE PRECISION";

/// The bulk load: creates a table and inserts its rows, in one transaction each.
///
/// # Errors
/// The system returns an error.
pub fn bulk_load(sql: &mut dyn Sql, rows: i64) -> Result<()> {
    sql.create("loaded", LOADED_COLUMNS)?;
    sql.load("loaded", &mut (0..rows).map(loaded))
}

/// Fills Redis, for the workloads without SQL, with values of the size of a row.
///
/// # Errors
/// The server returns an error.
pub fn build_floor(connection: &mut Connection, sizes: Sizes) -> Result<()> {
    for first in (0..sizes.items).step_by(1000) {
        let mut batch = pipe();
        for id in first..(first + 1000).min(sizes.items) {
            batch.set(format!("row:{id}"), text(id, 100)).ignore().hset("rows", id, text(id, 100)).ignore();
        }
        batch.exec(connection)?;
    }
    for id in 0..sizes.records {
        redis::cmd("SET").arg(format!("record:{id}")).arg(text(id, 1000)).exec(connection)?;
    }
    Ok(())
}

/// The tables of Chinook that the join reads, with their columns.
const CHINOOK: [(&str, &str, &str); 4] = [
    ("artist", "artistid INTEGER PRIMARY KEY, name TEXT", "ArtistId, Name"),
    ("album", "albumid INTEGER PRIMARY KEY, title TEXT, artistid INTEGER", "AlbumId, Title, ArtistId"),
    ("track", "trackid INTEGER PRIMARY KEY, name TEXT, albumid INTEGER", "TrackId, Name, AlbumId"),
    (
        "invoiceline",
        "invoicelineid INTEGER PRIMARY KEY, trackid INTEGER, unitprice DOUBLE PRECISION, quantity INTEGER",
        "InvoiceLineId, TrackId, UnitPrice, Quantity",
    ),
];

/// The path of the Chinook database, if it lies beside the project.
pub fn chinook() -> Option<PathBuf> {
    sqlite_redis_tests::chinook()
}

/// Copies the tables of Chinook, and lets the system analyze them.
///
/// # Errors
/// The system returns an error.
pub fn copy_chinook(sql: &mut dyn Sql) -> Result<()> {
    let Some(file) = chinook() else { return Ok(()) };
    let source = rusqlite::Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    for (table, definition, columns) in CHINOOK {
        sql.create(table, definition)?;
        let mut select = source.prepare(&format!("SELECT {columns} FROM {table}"))?;
        let width = select.column_count();
        let rows = select.query_map([], |row| (0..width).map(|column| Ok(param(row.get_ref(column)?))).collect())?;
        let rows: Vec<Vec<Param>> = rows.collect::<rusqlite::Result<_>>()?;
        sql.load(table, &mut rows.into_iter())?;
    }
    sql.batch("ANALYZE")
}

fn param(value: rusqlite::types::ValueRef<'_>) -> Param {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Integer(number) => Param::Int(number),
        ValueRef::Real(number) => Param::Real(number),
        ValueRef::Text(text) | ValueRef::Blob(text) => {
            Param::Text(String::from_utf8_lossy(text).replace(['\t', '\n', '\\'], " "))
        }
        ValueRef::Null => Param::Text(String::new()),
    }
}
