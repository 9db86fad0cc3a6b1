//! Money moves between the accounts of two databases, in one transaction on both. At each moment both have a
//! transfer or neither has, and in each the ledger explains each balance. Both shrink with commits.

use std::collections::BTreeSet;

use anyhow::Result;
use rand::RngExt;
use rusqlite::Connection;
use serde_json::json;

use super::eras::Lists;
use super::worker::{Worker, read, transact};

/// The main database.
pub const MAIN: &str = "pair";
/// The attached one.
pub const OTHER: &str = "other";

const ACCOUNTS: i64 = 10;
const BALANCE: i64 = 1000;

/// Makes the tables of one of the databases.
///
/// # Errors
/// The database fails.
pub fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE transfer (operation TEXT PRIMARY KEY, account INTEGER NOT NULL REFERENCES account, amount INTEGER);
         CREATE INDEX by_account ON transfer (account);
         CREATE TABLE filler (v BLOB);
         CREATE TABLE filled (rows INTEGER NOT NULL, bytes INTEGER NOT NULL);
         INSERT INTO filled VALUES (0, 0);
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ACCOUNTS})
         INSERT INTO account SELECT n, {BALANCE} FROM n;"
    ))
}

/// One transfer between the databases, or for odd workers now and then a look at both.
///
/// # Errors
/// The history can't be written.
pub fn step(worker: &mut Worker) -> Result<()> {
    if worker.looks(4) {
        return look(worker);
    }
    let (account, amount) = (worker.random.random_range(1..=ACCOUNTS), worker.random.random_range(-50..50));
    let filler = worker.random.random_range(0..6);
    let undo = worker.random.random_ratio(1, 3);
    let id = worker.history.begin(&json!({"account": account, "amount": amount}))?;
    let (outcome, _) = transact(&worker.connection, |db| {
        for (schema, amount) in [("main", amount), (OTHER, -amount)] {
            db.execute(
                &format!("UPDATE {schema}.account SET balance = balance + ?1 WHERE id = ?2"),
                (amount, account),
            )?;
            db.execute(&format!("INSERT INTO {schema}.transfer VALUES (?1, ?2, ?3)"), (&id, account, amount))?;
            if filler < 2 {
                fill(db, schema, filler)?;
            }
        }
        if undo {
            db.execute_batch(&format!(
                "SAVEPOINT s; DELETE FROM {OTHER}.filler; DELETE FROM main.account; UPDATE {OTHER}.account SET balance = 0;
                 ROLLBACK TO s; RELEASE s"
            ))?;
        }
        Ok(())
    });
    worker.history.end(&id, outcome, &json!(null))
}

/// Adds pages, or removes all that were added, so that the commit cuts them off.
fn fill(db: &Connection, schema: &str, kind: i32) -> rusqlite::Result<()> {
    let change = match kind {
        0 => format!("INSERT INTO {schema}.filler VALUES (randomblob(30000)), (randomblob(700))"),
        _ => format!("DELETE FROM {schema}.filler"),
    };
    db.execute_batch(&format!(
        "{change}; UPDATE {schema}.filled
             SET (rows, bytes) = (SELECT count(*), coalesce(sum(length(v)), 0) FROM {schema}.filler)"
    ))
}

fn look(worker: &mut Worker) -> Result<()> {
    let wrong = read(&worker.connection, |db| Ok([wrong(db, "main")?, wrong(db, OTHER)?]));
    for wrong in wrong.into_iter().flatten().flatten() {
        worker.history.violation(&wrong)?;
    }
    Ok(())
}

/// What does not add up in one of the databases.
///
/// # Errors
/// The database fails.
pub fn wrong(db: &Connection, schema: &str) -> rusqlite::Result<Option<String>> {
    let wrong = db.query_row(
        &format!(
            "SELECT group_concat(what) FROM (
                 SELECT 'account ' || id || ' has ' || balance AS what FROM {schema}.account WHERE balance <> ?1 + (
                     SELECT coalesce(sum(amount), 0) FROM {schema}.transfer WHERE account = id)
                 UNION ALL SELECT 'there are fewer accounts' WHERE (SELECT count(*) FROM {schema}.account) <> {ACCOUNTS}
                 UNION ALL SELECT 'the filler is not what was said of it' FROM {schema}.filled WHERE (rows, bytes) <> (
                     SELECT count(*), coalesce(sum(length(v)), 0) FROM {schema}.filler))"
        ),
        [BALANCE],
        |row| row.get::<_, Option<String>>(0),
    )?;
    Ok(wrong.map(|wrong| format!("{schema}: {wrong}")))
}

/// The transfers that one database has at a moment and the other has not.
pub fn torn(main: &Lists, other: &Lists) -> Option<String> {
    let [main, other] = [main, other].map(|lists| lists.values().flatten().collect::<BTreeSet<_>>());
    let torn: Vec<_> = main.symmetric_difference(&other).collect();
    (!torn.is_empty()).then(|| format!("pair: only one of the databases has {torn:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_database_lacks_is_found() {
        let lists = |ids: &[&str]| Lists::from([(0, ids.iter().map(|id| (*id).to_owned()).collect())]);
        assert_eq!(torn(&lists(&["a", "b"]), &lists(&["b", "a"])), None);
        assert!(torn(&lists(&["a", "b"]), &lists(&["a"])).unwrap().contains("\"b\""));
        assert!(torn(&Lists::new(), &lists(&["c"])).unwrap().contains("\"c\""));
    }

    #[test]
    fn a_ledger_that_does_not_add_up_is_found() {
        let db = Connection::open_in_memory().unwrap();
        prepare(&db).unwrap();
        fill(&db, "main", 0).unwrap();
        db.execute_batch("INSERT INTO transfer VALUES ('a', 1, 5); UPDATE account SET balance = 1005 WHERE id = 1")
            .unwrap();
        assert_eq!(wrong(&db, "main").unwrap(), None);
        for damage in
            ["UPDATE account SET balance = 0 WHERE id = 2", "DELETE FROM account WHERE id = 2", "DELETE FROM filler"]
        {
            db.execute_batch(&format!("SAVEPOINT s; {damage}")).unwrap();
            assert!(wrong(&db, "main").unwrap().is_some(), "{damage}");
            db.execute_batch("ROLLBACK TO s").unwrap();
        }
    }
}
