//! Everything about the database changes: tables and indexes come and go, it is vacuumed, its
//! pages change their size, blobs and transactions are large. Readers take their time and must
//! see one version all through.

use anyhow::Result;
use rand::RngExt;
use rusqlite::Connection;
use serde_json::json;

use super::history::Outcome;
use super::worker::{Role, Worker, read, transact};

const TABLES: u32 = 5;

/// Makes the table that all others are described in.
///
/// # Errors
/// The database fails.
pub fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE done (operation TEXT PRIMARY KEY);
         CREATE TABLE content (name TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    )
}

/// One change, or for odd workers a slow look.
///
/// # Errors
/// The history can't be written.
pub fn step(worker: &mut Worker) -> Result<()> {
    if worker.number % 2 == 1 || worker.role == Role::Replica {
        return look(worker);
    }
    if worker.random.random_ratio(1, 12) {
        return vacuum(worker);
    }
    let table = format!("t{}", worker.random.random_range(0..TABLES));
    let kind = worker.random.random_range(0..10);
    let (rows, size) = (worker.random.random_range(1..200), worker.random.random_range(1..3000));
    let undo = worker.random.random_ratio(1, 6);
    let id = worker.history.begin(&json!({"table": table, "kind": kind}))?;
    let (outcome, _) = transact(&worker.connection, |db| {
        match kind {
            0 => {
                db.execute_batch(&format!("DROP TABLE IF EXISTS {table}; DELETE FROM content WHERE name = '{table}'"))?
            }
            1 => {
                ensure(db, &table)?;
                db.execute_batch(&format!(
                    "DROP INDEX IF EXISTS {table}_v; CREATE INDEX {table}_v ON {table} (length(v), v)"
                ))?;
            }
            2 => {
                ensure(db, &table)?;
                db.execute(&format!("INSERT INTO {table} (v) VALUES (randomblob(?1))"), [size * 300])?;
            }
            3 => {
                ensure(db, &table)?;
                db.execute(&format!("DELETE FROM {table} WHERE rowid % 3 = ?1"), [rows % 3])?;
            }
            4 => {
                ensure(db, &table)?;
                db.execute_batch("PRAGMA incremental_vacuum")?;
            }
            _ => {
                ensure(db, &table)?;
                let mut insert = db.prepare_cached(&format!("INSERT INTO {table} (v) VALUES (randomblob(?1))"))?;
                for _ in 0..rows {
                    insert.execute([size])?;
                }
            }
        }
        if kind != 0 {
            db.execute_batch(&format!(
                "INSERT OR REPLACE INTO content SELECT '{table}', count(*), coalesce(sum(length(v)), 0) FROM {table}"
            ))?;
        }
        if undo {
            db.execute_batch(&format!(
                "SAVEPOINT s; DELETE FROM content; DROP TABLE IF EXISTS {table}; ROLLBACK TO s"
            ))?;
        }
        db.execute("INSERT INTO done VALUES (?1)", [&id])
    });
    worker.history.end(&id, outcome, &json!(null))
}

fn ensure(db: &Connection, table: &str) -> rusqlite::Result<()> {
    db.execute_batch(&format!("CREATE TABLE IF NOT EXISTS {table} (v BLOB)"))
}

/// A vacuum changes no content, so whatever comes of it is fine.
fn vacuum(worker: &mut Worker) -> Result<()> {
    let size = 512 << worker.random.random_range(0..8);
    let mode = worker.random.random_range(0..3);
    let id = worker.history.begin(&json!({"vacuum": size}))?;
    let done =
        worker.connection.execute_batch(&format!("PRAGMA page_size = {size}; PRAGMA auto_vacuum = {mode}; VACUUM"));
    worker.history.end(&id, Outcome::Read, &json!({"vacuumed": done.is_ok()}))
}

fn look(worker: &mut Worker) -> Result<()> {
    let pause = std::time::Duration::from_millis(worker.random.random_range(0..40));
    let whole = worker.random.random_ratio(1, 10);
    sqlite_redis::forget_last_failure();
    let seen = read(&worker.connection, |db| {
        let before = summary(db)?;
        std::thread::sleep(pause);
        let after = summary(db)?;
        let sound = if whole { db.query_row("PRAGMA integrity_check", [], |row| row.get(0))? } else { "ok".to_owned() };
        Ok((before, after, sound))
    });
    let Some((before, after, sound)) = seen else { return Ok(()) };
    if let Err(wrong) = &before {
        worker.history.violation(wrong)?;
    }
    if before != after {
        worker.history.violation(&format!("one transaction saw {before:?} and {after:?}"))?;
    }
    // It reports pages that could not be read just like pages that are wrong.
    if sound != "ok" && sqlite_redis::last_failure().is_none() {
        worker.history.violation(&format!("integrity_check: {sound}"))?;
    }
    Ok(())
}

type Summary = Vec<(String, i64, i64)>;

/// What each table holds; `Err` when that is not what `content` says of it.
fn summary(db: &Connection) -> rusqlite::Result<Result<Summary, String>> {
    let mut described = db.prepare("SELECT name, rows, bytes FROM content ORDER BY name")?;
    let described: Summary =
        described.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
    for (table, rows, bytes) in &described {
        let sql = format!("SELECT count(*), coalesce(sum(length(v)), 0) FROM {table}");
        let found: (i64, i64) = db.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if found != (*rows, *bytes) {
            return Ok(Err(format!("{table} holds {found:?}, not {:?}", (rows, bytes))));
        }
    }
    Ok(Ok(described))
}

/// A table that does not hold what is said of it.
///
/// # Errors
/// The database fails.
pub fn wrong(db: &Connection) -> rusqlite::Result<Option<String>> {
    summary(db).map(Result::err)
}
