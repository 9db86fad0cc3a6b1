//! Queries of the virtual table whose cost must not grow with the length of a pattern or the number of conditions.

use rusqlite::Connection;
use sqlite_redis_tests::vtab::table;
use sqlite_redis_tests::{Server, number};

/// The same rows in an ordinary table.
fn ordinary(columns: &str) -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(&format!("CREATE TABLE t ({columns})")).unwrap();
    connection
}

#[test]
fn a_long_pattern_is_looked_up_by_a_bounded_prefix() {
    let server = Server::start();
    let both = [table(&server, "x TEXT INDEXED"), ordinary("x TEXT")];
    for connection in &both {
        for end in ["", "a", "b", "ab"] {
            connection.execute("INSERT INTO t VALUES (?1)", [format!("{}{end}", "1".repeat(1000))]).unwrap();
        }
        connection.execute("INSERT INTO t VALUES (?1)", ["1".repeat(255)]).unwrap();
    }
    for pattern in ["%", "a%", "_", "c%"] {
        for length in [254, 255, 256, 257, 1000] {
            let pattern = format!("{}{pattern}", "1".repeat(length));
            for operator in ["LIKE", "GLOB"] {
                let pattern =
                    if operator == "GLOB" { pattern.replace('%', "*").replace('_', "?") } else { pattern.clone() };
                let count = |connection: &Connection| -> i64 {
                    let sql = format!("SELECT count(*) FROM t WHERE x {operator} ?1");
                    connection.query_row(&sql, [&pattern], |row| row.get(0)).unwrap()
                };
                assert_eq!(count(&both[0]), count(&both[1]), "{operator} {pattern}");
            }
        }
    }
    // SQLite refuses a pattern this long when it compares the first row. No row has this prefix, so none is compared.
    let endless = format!("{}%", "2".repeat(20_000_000));
    let count = both[0].query_row("SELECT count(*) FROM t WHERE x LIKE ?1", [endless], |row| row.get::<_, i64>(0));
    assert_eq!(count.unwrap(), 0);
}

#[test]
fn many_equality_conditions_use_a_bounded_number_of_indexes() {
    let server = Server::start();
    let names: Vec<String> = (0..40).map(|n| format!("c{n}")).collect();
    let columns: Vec<String> = names.iter().map(|name| format!("{name} INTEGER INDEXED")).collect();
    let db = table(&server, &columns.join(", "));
    for last in ["1", "2"] {
        let values = [vec!["1"; 39], vec![last]].concat();
        db.execute_batch(&format!("INSERT INTO t VALUES ({})", values.join(", "))).unwrap();
    }
    let all: Vec<String> = names.iter().map(|name| format!("{name} = 1")).collect();
    assert_eq!(number(&db, &format!("SELECT count(*) FROM t WHERE {}", all.join(" AND "))), 1);
    assert_eq!(number(&db, &format!("SELECT count(*) FROM t WHERE {}", all[..39].join(" AND "))), 2);
}
