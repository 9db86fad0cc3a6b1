//! Rows of the virtual table: written, read, changed, in transactions.

use rusqlite::Connection;
use sqlite_redis_tests::{Server, code, number, text};

/// A connection with a table `t` on a server.
fn open(server: &Server, columns: &str) -> Connection {
    let connection = connect();
    create(&connection, server, "t", columns);
    connection
}

fn connect() -> Connection {
    sqlite_redis::register().unwrap();
    Connection::open_in_memory().unwrap()
}

fn create(connection: &Connection, server: &Server, name: &str, columns: &str) {
    let sql = format!("CREATE VIRTUAL TABLE {name} USING redis('{}', p, {columns})", server.url());
    connection.execute_batch(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[test]
fn rows_are_written_read_changed_and_deleted() {
    let server = Server::start();
    let one = open(&server, "a INT, b TEXT");
    one.execute_batch("INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, NULL)").unwrap();
    assert_eq!(one.last_insert_rowid(), 3);
    assert_eq!(text(&one, "SELECT group_concat(rowid || a || ifnull(b, '-'), ' ') FROM t"), "11x 22y 33-");
    assert_eq!(text(&one, "SELECT b FROM t WHERE rowid = 2"), "y");
    one.execute_batch("UPDATE t SET b = b || '!' WHERE a < 3; DELETE FROM t WHERE a = 1").unwrap();
    assert_eq!(text(&one, "SELECT group_concat(rowid || a || ifnull(b, '-'), ' ') FROM t"), "22y! 33-");
    assert_eq!(server.redis_cli(&["HGETALL", "p.main.t:2"]), "a\n2\nb\ny!");
    assert_eq!(server.redis_cli(&["EXISTS", "p.main.t:1"]), "0");
    assert_eq!(server.redis_cli(&["ZRANGE", "p.main.t.index.rowid", "0", "-1"]), "2\n3");
    let two = open(&server, "a INT, b TEXT");
    assert_eq!(number(&two, "SELECT count(*) FROM t"), 2);
    two.execute("INSERT INTO t VALUES (4, 'z')", []).unwrap();
    assert_eq!(two.last_insert_rowid(), 4);
    assert_eq!(number(&one, "SELECT count(*) FROM t"), 3);
}

#[test]
fn a_transaction_reads_its_writes_and_others_do_not() {
    let server = Server::start();
    let (one, two) = (open(&server, "a INT"), open(&server, "a INT"));
    one.execute_batch("INSERT INTO t VALUES (1), (2); BEGIN; INSERT INTO t VALUES (3); DELETE FROM t WHERE a = 1")
        .unwrap();
    one.execute_batch("UPDATE t SET a = 20 WHERE a = 2").unwrap();
    assert_eq!(text(&one, "SELECT group_concat(a) FROM t"), "20,3");
    assert_eq!(text(&two, "SELECT group_concat(a) FROM t"), "1,2");
    one.execute_batch("COMMIT").unwrap();
    assert_eq!(text(&two, "SELECT group_concat(a) FROM t"), "20,3");
}

#[test]
fn rollback_and_savepoints_leave_nothing_behind() {
    let server = Server::start();
    let one = open(&server, "a INT");
    one.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let before = server.redis_cli(&["DEBUG", "DIGEST"]);
    one.execute_batch("BEGIN; INSERT INTO t VALUES (2), (3); UPDATE t SET a = 9; DELETE FROM t; ROLLBACK").unwrap();
    let markless = || {
        let _ = server.redis_cli(&[
            "EVAL",
            "for _, k in ipairs(redis.call('KEYS', '*.commit:*')) do redis.call('DEL', k) end",
            "0",
        ]);
        server.redis_cli(&["DEBUG", "DIGEST"])
    };
    let _ = before;
    let before = markless();
    one.execute_batch("BEGIN; INSERT INTO t VALUES (2), (3); UPDATE t SET a = 9; DELETE FROM t; ROLLBACK").unwrap();
    assert_eq!(markless(), before);
    one.execute_batch(
        "BEGIN; INSERT INTO t VALUES (2); SAVEPOINT s; INSERT INTO t VALUES (3); UPDATE t SET a = a + 10;
         SAVEPOINT u; DELETE FROM t; ROLLBACK TO u; RELEASE u; ROLLBACK TO s; INSERT INTO t VALUES (4); COMMIT",
    )
    .unwrap();
    assert_eq!(text(&one, "SELECT group_concat(a) FROM t"), "1,2,4");
}

#[test]
fn a_conflict_with_another_client_is_busy_and_rolls_back() {
    let server = Server::start();
    let (one, two) = (open(&server, "a INT"), open(&server, "a INT"));
    one.execute_batch("INSERT INTO t VALUES (1), (2)").unwrap();
    one.execute_batch("BEGIN; UPDATE t SET a = 10 WHERE rowid = 1; INSERT INTO t VALUES (3)").unwrap();
    two.execute_batch("UPDATE t SET a = 11 WHERE rowid = 1").unwrap();
    let refused = one.execute_batch("COMMIT");
    assert!(refused.as_ref().unwrap_err().to_string().contains("another client"), "{refused:?}");
    assert_eq!(code(refused) & 0xff, 5);
    assert!(one.is_autocommit());
    assert_eq!(text(&one, "SELECT group_concat(a) FROM t"), "11,2");
    // Other rows are no conflict.
    one.execute_batch("BEGIN; UPDATE t SET a = 12 WHERE rowid = 1").unwrap();
    two.execute_batch("UPDATE t SET a = 22 WHERE rowid = 2; INSERT INTO t VALUES (4)").unwrap();
    one.execute_batch("COMMIT").unwrap();
    assert_eq!(text(&one, "SELECT group_concat(a) FROM t"), "12,22,4");
}

#[test]
fn a_statement_that_fails_halfway_leaves_nothing_of_itself() {
    let server = Server::start();
    let one = open(&server, "a INT CHECK (a < 10), b TEXT UNIQUE");
    one.execute_batch("INSERT INTO t VALUES (1, 'x')").unwrap();
    assert!(one.execute_batch("INSERT INTO t VALUES (2, 'y'), (30, 'z')").is_err());
    let error = one.execute_batch("INSERT INTO t VALUES (2, 'y'), (3, 'x')").unwrap_err().to_string();
    assert!(error.contains("UNIQUE constraint failed: t.b"), "{error}");
    one.execute_batch("BEGIN; INSERT INTO t VALUES (5, 'v')").unwrap();
    assert!(one.execute_batch("INSERT INTO t VALUES (6, 'w'), (7, 'v')").is_err());
    assert!(one.execute_batch("UPDATE t SET b = 'x'").is_err());
    one.execute_batch("COMMIT").unwrap();
    assert_eq!(text(&one, "SELECT group_concat(a || b) FROM t"), "1x,5v");
}

#[test]
fn two_tables_commit_together() {
    let server = Server::start();
    let one = open(&server, "a INT");
    create(&one, &server, "u", "b INT");
    let execs = server.calls("exec");
    one.execute_batch("BEGIN; INSERT INTO t VALUES (1); INSERT INTO u VALUES (2); COMMIT").unwrap();
    assert_eq!(server.calls("exec") - execs, 1);
    assert_eq!(number(&one, "SELECT a + b FROM t, u"), 3);
}
