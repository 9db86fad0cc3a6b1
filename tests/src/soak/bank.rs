//! Money moves between accounts. In every snapshot the sum is what it was at the start, and the
//! ledger explains each balance.

use anyhow::Result;
use rand::RngExt;
use rusqlite::Connection;
use serde_json::json;

use super::worker::{Worker, read, transact};

const ACCOUNTS: i64 = 25;
const BALANCE: i64 = 1000;

/// Makes the tables.
///
/// # Errors
/// The database fails.
pub fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE transfer (operation TEXT NOT NULL, source INTEGER NOT NULL REFERENCES account,
             target INTEGER NOT NULL REFERENCES account, amount INTEGER NOT NULL);
         CREATE INDEX by_source ON transfer (source);
         CREATE INDEX by_target ON transfer (target);
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ACCOUNTS})
         INSERT INTO account SELECT n, {BALANCE} FROM n;"
    ))
}

/// One transfer, or for odd workers now and then a look at everything.
///
/// # Errors
/// The history can't be written.
pub fn step(worker: &mut Worker) -> Result<()> {
    if worker.looks(5) {
        return look(worker);
    }
    let (source, target) = (worker.random.random_range(1..=ACCOUNTS), worker.random.random_range(1..=ACCOUNTS));
    let amount = worker.random.random_range(1..50);
    let undo = worker.random.random_ratio(1, 4);
    let id = worker.history.begin(&json!({"from": source, "to": target, "amount": amount}))?;
    let (outcome, _) = transact(&worker.connection, |db| {
        if undo {
            db.execute_batch(
                "SAVEPOINT s; UPDATE account SET balance = -1; DELETE FROM transfer; ROLLBACK TO s; RELEASE s",
            )?;
        }
        db.execute("UPDATE account SET balance = balance - ?1 WHERE id = ?2", (amount, source))?;
        db.execute("UPDATE account SET balance = balance + ?1 WHERE id = ?2", (amount, target))?;
        db.execute("INSERT INTO transfer VALUES (?1, ?2, ?3, ?4)", (&id, source, target, amount))
    });
    worker.history.end(&id, outcome, &json!(null))
}

fn look(worker: &mut Worker) -> Result<()> {
    if let Some(Some(wrong)) = read(&worker.connection, wrong) {
        worker.history.violation(&wrong)?;
    }
    Ok(())
}

/// What does not add up.
///
/// # Errors
/// The database fails.
pub fn wrong(db: &Connection) -> rusqlite::Result<Option<String>> {
    let sum: i64 = db.query_row("SELECT sum(balance) FROM account", [], |row| row.get(0))?;
    if sum != ACCOUNTS * BALANCE {
        return Ok(Some(format!("the sum is {sum}")));
    }
    let mut unexplained = db.prepare_cached(
        "SELECT id, balance FROM account WHERE balance <> ?1
             - (SELECT coalesce(sum(amount), 0) FROM transfer WHERE source = id)
             + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE target = id)",
    )?;
    let mut rows = unexplained.query([BALANCE])?;
    match rows.next()? {
        Some(row) => Ok(Some(format!("account {} has {}", row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))),
        None => Ok(None),
    }
}
