//! Unique values are appended to lists. Each transaction reads the list that it appends to, so
//! the histories show whether there is one serial order of all of them that respects real time.

use std::collections::HashMap;

use anyhow::Result;
use rand::RngExt;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::history::{Operation, Outcome, check_presence};
use super::worker::{Worker, read, transact};

const LISTS: i64 = 6;

/// Makes the table.
///
/// # Errors
/// The database fails.
pub fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE item (list INTEGER NOT NULL, place INTEGER NOT NULL, operation TEXT NOT NULL, PRIMARY KEY (list, place))",
    )
}

/// The length of a list, and its last few items: enough to see an order, small enough to write.
fn tail(db: &Connection, list: i64) -> rusqlite::Result<(i64, Vec<String>)> {
    let length = db.query_row("SELECT count(*) FROM item WHERE list = ?1", [list], |row| row.get(0))?;
    let mut items = db.prepare_cached("SELECT operation FROM item WHERE list = ?1 ORDER BY place DESC LIMIT 5")?;
    let mut tail: Vec<String> = items.query_map([list], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    tail.reverse();
    Ok((length, tail))
}

/// One append, or a read of two lists, or of one list twice.
///
/// # Errors
/// The history can't be written.
pub fn step(worker: &mut Worker) -> Result<()> {
    let list = worker.random.random_range(0..LISTS);
    if worker.random.random_ratio(if worker.number % 2 == 1 { 5 } else { 1 }, 10) {
        return look(worker, list);
    }
    let id = worker.history.begin(&json!({"list": list}))?;
    let (outcome, seen) = transact(&worker.connection, |db| {
        let (length, seen) = tail(db, list)?;
        db.execute("INSERT INTO item VALUES (?1, ?2, ?3)", (list, length, &id))?;
        Ok((length, seen))
    });
    worker.history.end(&id, outcome, &json!({"list": list, "seen": seen}))
}

fn look(worker: &mut Worker, list: i64) -> Result<()> {
    let id = worker.history.begin(&json!({"read": list}))?;
    let seen = read(&worker.connection, |db| {
        let first = tail(db, list)?;
        let second = tail(db, (list + 1) % LISTS)?;
        Ok((first.clone(), second, tail(db, list)? == first))
    });
    if let Some((_, _, false)) = &seen {
        worker.history.violation(&format!("{id} read list {list} twice and saw two lists"))?;
    }
    let result = seen.map(|(first, second, _)| json!([[list, first], [(list + 1) % LISTS, second]]));
    // As an operation it changes nothing, which is what a failed one does.
    worker.history.end(&id, Outcome::Failed, &json!({"lists": result}))
}

/// A list as some transaction saw it.
struct Sight<'a> {
    operation: &'a Operation,
    list: i64,
    length: i64,
    tail: Vec<String>,
}

fn sights(operation: &Operation) -> Vec<Sight<'_>> {
    let sight = |list: &Value, seen: &Value| {
        Some(Sight {
            operation,
            list: list.as_i64()?,
            length: seen[0].as_i64()?,
            tail: seen[1].as_array()?.iter().map(|item| item.as_str().unwrap_or("").to_owned()).collect(),
        })
    };
    let result = &operation.result;
    let read = result["lists"].as_array().into_iter().flatten().filter_map(|part| sight(&part[0], &part[1]));
    read.chain(sight(&result["list"], &result["seen"])).collect()
}

/// What is wrong at the end: presence, order within the lists, what readers saw of them, and
/// whether the order agrees with the clock.
///
/// # Errors
/// The database fails.
pub fn check(db: &Connection, operations: &[Operation]) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare("SELECT list, operation FROM item ORDER BY list, place")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let mut lists: HashMap<i64, Vec<String>> = HashMap::new();
    for row in rows {
        let (list, operation) = row?;
        lists.entry(list).or_default().push(operation);
    }
    let found: Vec<String> = lists.values().flatten().cloned().collect();
    let writes: Vec<Operation> = operations.iter().filter(|one| one.what["list"].is_i64()).cloned().collect();
    let mut violations = check_presence("append", &writes, &found);
    let empty = Vec::new();
    for operation in operations {
        for sight in sights(operation) {
            violations.extend(check_sight(&sight, lists.get(&sight.list).unwrap_or(&empty)));
        }
    }
    violations.extend(check_real_time(operations, &lists));
    Ok(violations)
}

/// A list once seen is a prefix of the list at the end, or it held what was taken back.
fn check_sight(sight: &Sight<'_>, list: &[String]) -> Option<String> {
    let length = usize::try_from(sight.length).ok()?;
    let expected = list.get(length.saturating_sub(sight.tail.len())..length);
    if expected == Some(&sight.tail[..]) {
        return None;
    }
    Some(format!(
        "append: {} saw list {} end with {:?} at {length}, which it never did",
        sight.operation.id, sight.list, sight.tail
    ))
}

/// What had ended before another began comes before it: whoever begins later sees it.
fn check_real_time(operations: &[Operation], lists: &HashMap<i64, Vec<String>>) -> Vec<String> {
    let ended: HashMap<&str, u64> = operations
        .iter()
        .filter(|one| one.outcome == Outcome::Acknowledged)
        .filter_map(|one| Some((one.id.as_str(), one.ended?)))
        .collect();
    let earliest: HashMap<i64, Vec<Option<(u64, &String)>>> =
        lists.iter().map(|(&number, list)| (number, earliest_ends(list, &ended))).collect();
    let mut violations = Vec::new();
    for operation in operations {
        for sight in sights(operation) {
            let (Some(list), Some(earliest)) = (lists.get(&sight.list), earliest.get(&sight.list)) else { continue };
            let Ok(mut unseen) = usize::try_from(sight.length) else { continue };
            // What it appended itself it need not have seen.
            unseen += usize::from(list.get(unseen) == Some(&operation.id));
            if let Some(Some((ended, missed))) = earliest.get(unseen)
                && *ended < operation.began
            {
                violations.push(format!("append: {} did not see {missed}, which had ended before", operation.id));
            }
        }
    }
    violations
}

/// For each place in a list: which of the items from there on had ended first.
fn earliest_ends<'a>(list: &'a [String], ended: &HashMap<&str, u64>) -> Vec<Option<(u64, &'a String)>> {
    let mut earliest = vec![None; list.len()];
    let mut first = None;
    for (place, item) in list.iter().enumerate().rev() {
        let this = ended.get(item.as_str()).map(|&at| (at, item));
        first = first.into_iter().chain(this).min();
        earliest[place] = first;
    }
    earliest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(id: &str, began: u64, ended: u64, seen: (i64, &[&str])) -> Operation {
        Operation {
            id: id.into(),
            began,
            ended: Some(ended),
            outcome: Outcome::Acknowledged,
            what: json!({"list": 0}),
            result: json!({"list": 0, "seen": seen}),
        }
    }

    fn violations(operations: &[Operation], list: &[&str]) -> usize {
        let db = Connection::open_in_memory().unwrap();
        prepare(&db).unwrap();
        for (place, id) in list.iter().enumerate() {
            db.execute("INSERT INTO item VALUES (0, ?1, ?2)", (place as i64, id)).unwrap();
        }
        check(&db, operations).unwrap().len()
    }

    #[test]
    fn a_serial_history_is_fine() {
        let history = [append("a", 0, 1, (0, &[])), append("b", 2, 3, (1, &["a"]))];
        assert_eq!(violations(&history, &["a", "b"]), 0);
    }

    #[test]
    fn anomalies_are_found() {
        let two = [append("a", 0, 1, (0, &[])), append("b", 2, 3, (1, &["a"]))];
        assert!(violations(&two, &["b", "a"]) > 0, "another order than b saw");
        assert!(violations(&two, &["a"]) > 0, "b is lost");
        let dirty = [append("a", 0, 1, (1, &["x"]))];
        assert!(violations(&dirty, &["a"]) > 0, "a saw what was never committed");
        let stale = [append("a", 0, 1, (0, &[])), append("b", 2, 3, (0, &[]))];
        assert!(violations(&stale, &["b", "a"]) > 0, "b began after a had ended and did not see it");
    }
}
