//! A workload that appends unique values to lists. Each transaction reads the list before it appends, so the histories
//! show whether the transactions are strictly serialisable.

use std::collections::HashMap;

use anyhow::Result;
use rand::RngExt;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::eras::Eras;
use super::history::{Operation, Outcome};
use super::worker::{Role, Worker, read, transact};

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
    if worker.looks(5) {
        return look(worker, list);
    }
    let undo = worker.random.random_ratio(1, 4);
    let id = worker.history.begin(&json!({"list": list}))?;
    let (outcome, seen) = transact(&worker.connection, |db| {
        if undo {
            let never = "INSERT INTO item SELECT list, place + 1000000, 'never' FROM item WHERE list = ?1";
            db.execute_batch("SAVEPOINT s")?;
            db.execute(never, [list])?;
            db.execute_batch("ROLLBACK TO s; RELEASE s")?;
        }
        let (length, seen) = tail(db, list)?;
        db.execute("INSERT INTO item VALUES (?1, ?2, ?3)", (list, length, &id))?;
        Ok((length, seen))
    });
    look_back(worker, &id, seen.iter().map(|(length, _)| (list, length + 1)))?;
    worker.history.end(&id, outcome, &json!({"list": list, "seen": seen}))
}

/// Compares the lengths of lists with those that this connection saw before. A failed read forgets them.
fn look_back(worker: &mut Worker, id: &str, seen: impl IntoIterator<Item = (i64, i64)>) -> Result<()> {
    let seen: HashMap<i64, i64> = seen.into_iter().collect();
    for (list, length) in &seen {
        let before = worker.seen.get(list).unwrap_or(&0);
        if worker.role == Role::Session && length < before {
            worker.history.violation(&format!("{id} saw {length} items of list {list}, and before {before}"))?;
        }
    }
    match seen.is_empty() {
        true => worker.seen.clear(),
        false => worker.seen.extend(seen),
    }
    Ok(())
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
    let lengths = seen.iter().flat_map(|(first, second, _)| [(list, first.0), ((list + 1) % LISTS, second.0)]);
    look_back(worker, &id, lengths)?;
    let result = seen.map(|(first, second, _)| json!([[list, first], [(list + 1) % LISTS, second]]));
    worker.history.end(&id, Outcome::Read, &json!({"lists": result}))
}

/// The length and end of a list, as one transaction saw them.
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

/// Violations of the order of lists: reads that match no state, and reads that miss earlier commits.
pub fn check(eras: &Eras, operations: &[Operation]) -> Vec<String> {
    let mut violations = Vec::new();
    for operation in operations {
        for sight in sights(operation) {
            if !eras.shown(operation).any(|era| fits(&sight, eras.at_the_end_of(era, sight.list))) {
                violations.push(format!(
                    "append: {} saw list {} end with {:?} at {}, which it never did",
                    sight.operation.id, sight.list, sight.tail, sight.length
                ));
            }
        }
    }
    violations.extend(check_real_time(eras, operations));
    violations
}

/// Whether the read matches a prefix of the list at the end of the era.
fn fits(sight: &Sight<'_>, list: &[String]) -> bool {
    let length = usize::try_from(sight.length).unwrap_or(usize::MAX);
    list.get(length.saturating_sub(sight.tail.len())..length) == Some(&sight.tail[..])
}

/// An operation must see every commit that was acknowledged before it began, or before the oldest version that its role
/// may read.
fn check_real_time(eras: &Eras, operations: &[Operation]) -> Vec<String> {
    let ended: HashMap<&str, u64> = operations
        .iter()
        .filter(|one| one.outcome == Outcome::Acknowledged)
        .filter_map(|one| Some((one.id.as_str(), one.ended?)))
        .collect();
    let mut earliest = HashMap::new();
    let mut violations = Vec::new();
    for operation in operations {
        let shown = eras.shown(operation);
        if shown.start() != shown.end() {
            continue;
        }
        for sight in sights(operation) {
            let place = (*shown.start(), sight.list);
            let list = eras.at_the_end_of(place.0, place.1);
            let earliest = earliest.entry(place).or_insert_with(|| earliest_ends(list, &ended));
            let Ok(mut unseen) = usize::try_from(sight.length) else { continue };
            // Its own item may be missing from its read.
            unseen += usize::from(list.get(unseen) == Some(&operation.id));
            if let Some(Some((ended, missed))) = earliest.get(unseen)
                && *ended < operation.as_of()
            {
                violations.push(format!("append: {} did not see {missed}, which had ended before", operation.id));
            }
        }
    }
    violations
}

/// For each place in a list: the item at or after it whose operation ended first.
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
    use crate::soak::eras::{Cut, Lists};
    use crate::soak::worker::BOUND;

    fn append(id: &str, began: u64, ended: u64, seen: (i64, &[&str])) -> Operation {
        Operation {
            id: id.into(),
            role: Role::Primary,
            began,
            ended: Some(ended),
            outcome: Outcome::Acknowledged,
            what: json!({"list": 0}),
            result: json!({"list": 0, "seen": seen}),
        }
    }

    fn lists(list: &[&str]) -> Lists {
        Lists::from([(0, list.iter().map(|id| (*id).to_owned()).collect())])
    }

    fn violations(operations: &[Operation], list: &[&str]) -> usize {
        let mut eras = Eras::default();
        eras.end(lists(list));
        check(&eras, operations).len()
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
        let dirty = [append("a", 0, 1, (1, &["x"]))];
        assert!(violations(&dirty, &["a"]) > 0, "a saw what was never committed");
        let stale = [append("a", 0, 1, (0, &[])), append("b", 2, 3, (0, &[]))];
        assert!(violations(&stale, &["b", "a"]) > 0, "b began after a had ended and did not see it");
    }

    #[test]
    fn what_is_read_may_be_as_old_as_the_bound() {
        let bound = BOUND.as_nanos() as u64;
        let done = append("a", 0, 1, (0, &[]));
        let relaxed = |began, outcome| Operation {
            role: Role::Relaxed,
            outcome,
            result: json!({"lists": [[0, [0, []]]]}),
            ..append("b", began, began + 1, (0, &[]))
        };
        let check = |operation| violations(&[done.clone(), operation], &["a"]);
        assert_eq!(check(relaxed(bound, Outcome::Read)), 0);
        assert_eq!(check(relaxed(bound + 2, Outcome::Read)), 1, "it is older");
        assert_eq!(check(relaxed(bound, Outcome::Acknowledged)), 1, "it wrote");
    }

    #[test]
    fn two_histories_are_told_apart() {
        let mut eras = Eras::default();
        eras.cut(Cut { ends: 10, begins: 20, left: lists(&["a", "lost"]), kept: lists(&["a"]), failover: true });
        eras.end(lists(&["a", "b"]));
        let sees = |began, ended, tail: &[&str]| check(&eras, &[append("x", began, ended, (2, tail))]).len();
        assert_eq!((sees(1, 2, &["a", "lost"]), sees(21, 22, &["a", "lost"])), (0, 1), "before and after");
        assert_eq!((sees(1, 2, &["a", "b"]), sees(21, 22, &["a", "b"])), (1, 0), "before and after");
        assert_eq!((sees(9, 21, &["a", "lost"]), sees(9, 21, &["a", "b"])), (0, 0), "either, meanwhile");
        assert_eq!(sees(9, 21, &["lost", "b"]), 1, "never a mixture");
        let behind = Operation { role: Role::Replica, ..append("x", 21, 22, (2, &["a", "lost"])) };
        assert_eq!(check(&eras, &[behind]).len(), 0, "a replica may be behind");
    }
}
