//! One transaction writes to a virtual table, to a database in Redis and often to a file of the worker: what is
//! acknowledged is in all of them, what failed is in none.

use anyhow::{Context, Result};
use rand::RngExt;
use rusqlite::Connection;
use serde_json::json;
use sqlite_redis::Cause;

use super::eras::Lists;
use super::history::Outcome;
use super::worker::{Worker, transact_in};
use crate::Server;

/// The virtual table.
pub const TABLE: &str = "item";
/// Start of its keys.
pub const KEYS: &str = "p.temp.item";

/// Collects the rows at one moment: operations and amounts by turns.
const ROWS: &str = "
    local found = {}
    for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
        local row = redis.call('HMGET', key, 'operation', 'amount')
        found[#found + 1] = row[1] or ''
        found[#found + 1] = row[2] or ''
    end
    return found";

/// The rows of the table: operation and amount.
pub type Rows = Vec<(String, String)>;

/// Makes the table of the database. The virtual table belongs to each connection.
///
/// # Errors
/// The database fails.
pub fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("CREATE TABLE mirror (operation TEXT PRIMARY KEY)")
}

/// Makes what a worker's connection needs: the virtual table, and a file of its own.
///
/// # Errors
/// SQLite's.
pub fn begin(connection: &Connection, server: &str, id: &str) -> rusqlite::Result<()> {
    let file = std::env::temp_dir().join(format!("local-{id}.db"));
    // Without a name, it would be the main database's VFS.
    connection.execute("ATTACH ?1 AS local", [format!("file:{}?vfs=unix", file.display())])?;
    connection.execute_batch(&format!(
        "PRAGMA local.synchronous = OFF; CREATE TABLE IF NOT EXISTS local.mirror (operation TEXT PRIMARY KEY);
         CREATE VIRTUAL TABLE temp.{TABLE} USING redis('{server}', p, operation TEXT UNIQUE, amount INTEGER INDEXED)"
    ))
}

/// One transaction.
///
/// # Errors
/// The history can't be written.
pub fn step(worker: &mut Worker) -> Result<()> {
    let amount: i64 = worker.random.random_range(0..1000);
    // A file must not be used in a forked child.
    let local = !worker.forked && worker.random.random_ratio(1, 2);
    let undo = worker.random.random_ratio(1, 3);
    let other = worker.random.random_ratio(1, 4).then(|| worker.random.random_range(1..20));
    let id = worker.history.begin(&json!({"amount": amount, "local": local}))?;
    sqlite_redis::forget_last_failure();
    // Not IMMEDIATE, which would lock the file.
    let (mut outcome, _) = transact_in(&worker.connection, "BEGIN", |db| {
        db.execute("INSERT INTO item VALUES (?1, ?2)", (&id, amount))?;
        db.execute("INSERT INTO main.mirror VALUES (?1)", [&id])?;
        if local {
            db.execute("INSERT INTO local.mirror VALUES (?1)", [&id])?;
        }
        if let Some(other) = other {
            db.execute("UPDATE item SET amount = amount + 1 WHERE rowid = ?1", [other])?;
        }
        if undo {
            db.execute_batch(
                "SAVEPOINT s; INSERT INTO main.mirror VALUES ('never'); INSERT INTO item VALUES ('never', 1)",
            )?;
            db.execute("UPDATE item SET amount = -1 WHERE operation = ?1", [&id])?;
            db.execute_batch("ROLLBACK TO s; RELEASE s")?;
        }
        Ok(())
    });
    let failure = sqlite_redis::last_failure();
    let reason = json!(failure.as_ref().map(ToString::to_string));
    let told = failure.map(|error| error.cause);
    if outcome == Outcome::Failed
        && matches!(told, Some(Cause::NotTakenBack(_) | Cause::RowsUnknown(_) | Cause::OutcomeUnknown { .. }))
    {
        outcome = Outcome::Unknown;
    }
    if local && outcome != Outcome::Unknown {
        let there = "SELECT count(*) FROM local.mirror WHERE operation = ?1";
        // Without file descriptors it can't be read.
        if let Ok(there) = worker.connection.query_row(there, [&id], |row| row.get::<_, i64>(0))
            && (there == 1) != (outcome == Outcome::Acknowledged)
        {
            worker.history.violation(&format!("{outcome:?} operation {id} is {there} times in the file"))?;
        }
    }
    worker.history.end(&id, outcome, &reason)
}

/// Adds the question for all rows to a transaction.
pub fn ask(pipe: &mut redis::Pipeline) {
    pipe.cmd("EVAL").arg(ROWS).arg(0).arg(KEYS);
}

/// The answer.
///
/// # Errors
/// It is another.
pub fn answer(reply: redis::Value) -> Result<Rows> {
    let flat: Vec<String> = redis::from_redis_value(reply).context("the rows")?;
    Ok(flat.as_chunks::<2>().0.iter().map(|[operation, amount]| (operation.clone(), amount.clone())).collect())
}

/// The rows that a server has.
///
/// # Errors
/// It can't be asked.
pub fn of(server: &Server) -> Result<Rows> {
    answer(redis::cmd("EVAL").arg(ROWS).arg(0).arg(KEYS).query(&mut server.redis())?)
}

/// The operations whose rows are there.
pub fn lists(rows: &Rows) -> Lists {
    Lists::from([(0, rows.iter().map(|(operation, _)| operation.clone()).collect())])
}

/// A row that holds what was taken back.
pub fn wrong(rows: &Rows) -> Option<String> {
    let wrong = |(_, amount): &&(String, String)| amount.parse::<i64>().map_or(true, |amount| amount < 0);
    rows.iter().find(wrong).map(|(operation, amount)| format!("rows: {operation} has the amount {amount:?}"))
}
