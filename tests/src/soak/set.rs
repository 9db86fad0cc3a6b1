//! Unique values are inserted, one a statement, outside of any transaction of their own.

use anyhow::Result;
use rusqlite::Connection;
use serde_json::json;

use super::history::Outcome;
use super::worker::{Worker, outcome_of};

/// Makes the table.
///
/// # Errors
/// The database fails.
pub fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("CREATE TABLE element (operation TEXT PRIMARY KEY) WITHOUT ROWID")
}

/// One insert.
///
/// # Errors
/// The history can't be written.
pub fn step(worker: &mut Worker) -> Result<()> {
    let id = worker.history.begin(&json!(null))?;
    let outcome = match worker.connection.execute("INSERT INTO element VALUES (?1)", [&id]) {
        Ok(_) => Outcome::Acknowledged,
        Err(error) => outcome_of(&error),
    };
    worker.history.end(&id, outcome, &json!(null))
}
