//! UNIQUE constraints of the virtual table where an index entry in Redis does not decide: values that share a key,
//! indexes that are gone, and rows that are gone.

use rusqlite::Connection;
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::vtab::{connect, create, table};
use sqlite_redis_tests::{Server, code, number, text};

const BUSY_SNAPSHOT: i32 = 517;
const CONSTRAINT_UNIQUE: i32 = 2067;
const FULL: i32 = 13;

/// Runs statements on an ordinary table `o` and a virtual table `t`, and compares results and rows.
fn same_as_ordinary(columns: &str, statements: &[&str]) {
    let server = Server::start();
    let one = table(&server, columns);
    one.execute_batch(&format!("CREATE TABLE o ({columns})")).unwrap();
    for sql in statements {
        let said = ["o", "t"].map(|name| one.execute_batch(&sql.replace("TABLE", name)).is_ok());
        assert_eq!(said[0], said[1], "{columns}: {sql}");
        let rows = ["o", "t"].map(|name| text(&one, &format!("SELECT ifnull(group_concat(id), '') FROM {name}")));
        assert_eq!(rows[0], rows[1], "{columns}: {sql}");
    }
}

#[test]
fn unique_tells_values_apart_that_share_a_key() {
    let real = "id INTEGER PRIMARY KEY, v REAL UNIQUE";
    let fill = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300) \
                INSERT INTO TABLE SELECT i, 1700000000.0 + i * 1e-6 FROM n";
    same_as_ordinary(
        real,
        &[
            "INSERT INTO TABLE VALUES (1, 2460000.500000001), (2, 2460000.500000002), (3, 2460000.500000003)",
            "INSERT OR IGNORE INTO TABLE VALUES (11, 2460000.500000001), (12, 2460000.500000002), (13, 2460000.500000003)",
            "INSERT INTO TABLE VALUES (14, 2460000.500000004)",
            "INSERT INTO TABLE VALUES (15, 2460000.500000004)",
            "UPDATE TABLE SET v = 2460000.500000001 WHERE id = 2",
            "UPDATE TABLE SET v = 2460000.500000005 WHERE id = 2",
        ],
    );
    same_as_ordinary(
        real,
        &[
            fill,
            "INSERT OR REPLACE INTO TABLE SELECT id + 1000, v FROM TABLE WHERE id % 3 = 0",
            "BEGIN; DELETE FROM TABLE WHERE id % 4 = 0; INSERT INTO TABLE VALUES (5000, 1700000000.000008); COMMIT",
            "INSERT INTO TABLE VALUES (5001, 1700000000.000008)",
        ],
    );
    same_as_ordinary(
        "id INTEGER PRIMARY KEY, v UNIQUE",
        &[
            "INSERT INTO TABLE VALUES (1, 5), (2, '5'), (3, x'35')",
            "INSERT OR IGNORE INTO TABLE VALUES (11, 5), (12, '5'), (13, x'35')",
            "INSERT OR IGNORE INTO TABLE VALUES (21, x'35'), (22, '5'), (23, 5.0)",
        ],
    );
}

#[test]
fn a_concurrent_change_to_an_equal_value_under_a_shared_key_refuses_the_commit() {
    let server = Server::start();
    let columns = "id INTEGER PRIMARY KEY, v REAL UNIQUE";
    let (one, other) = (table(&server, columns), table(&server, columns));
    other.execute_batch("INSERT INTO t VALUES (1, 2460000.500000001)").unwrap();
    one.execute_batch("BEGIN; INSERT INTO t VALUES (2, 2460000.500000002)").unwrap();
    other.execute_batch("UPDATE t SET v = 2460000.500000002").unwrap();
    assert_eq!(code(one.execute_batch("COMMIT")), BUSY_SNAPSHOT);
    assert_eq!(number(&other, "SELECT count(*) FROM t"), 1);
}

const INDEXED: &str = "id INTEGER PRIMARY KEY, s TEXT UNIQUE, v INT INDEXED, a, b, UNIQUE (a, b)";

#[test]
fn declared_indexes_are_rebuilt_after_the_server_lost_them() {
    let server = Server::start();
    let file = server.directory().join("plain.sqlite");
    let open = || {
        sqlite_redis::register().unwrap();
        Connection::open(&file).unwrap()
    };
    let one = open();
    create(&one, &server.url(), "t", INDEXED).unwrap();
    let again = open();
    for connection in [&one, &again] {
        for transaction in ["", "BEGIN"] {
            server.redis_cli(&["FLUSHALL"]);
            connection.execute_batch(transaction).unwrap();
            let insert = |s: &str, a: i64| {
                connection.execute_batch(&format!("INSERT INTO t (s, v, a, b) VALUES ('{s}', 1, {a}, 1)"))
            };
            insert("x", 1).unwrap();
            if !transaction.is_empty() {
                connection.execute_batch("COMMIT").unwrap();
            }
            assert_eq!(code(insert("x", 2)), CONSTRAINT_UNIQUE);
            assert_eq!(code(insert("y", 1)), CONSTRAINT_UNIQUE);
            insert("z", 3).unwrap();
            assert_eq!(number(connection, "SELECT count(*) FROM t WHERE v = 1"), 2);
        }
    }
}

#[test]
fn any_first_write_rebuilds_an_index_that_the_server_lost() {
    let server = Server::start();
    let one = table(&server, "id INTEGER PRIMARY KEY, s TEXT UNIQUE, v INT INDEXED");
    for first in [
        "INSERT INTO t VALUES (1, 'x', 1)",
        "INSERT INTO t (s, v) VALUES ('x', 1)",
        "BEGIN; INSERT INTO t VALUES (1, 'x', 1); COMMIT",
        "WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 200) INSERT INTO t SELECT n, 'x' || n, n FROM n; \
         UPDATE t SET s = 'x', v = 1 WHERE id = 1",
    ] {
        server.redis_cli(&["FLUSHALL"]);
        one.execute_batch(first).unwrap();
        assert_eq!(code(one.execute_batch("INSERT INTO t (s) VALUES ('x')")), CONSTRAINT_UNIQUE, "{first}");
        let mut names: Vec<String> =
            server.redis_cli(&["SMEMBERS", "p.main.t.indices"]).lines().map(str::to_owned).collect();
        names.sort();
        assert_eq!(names, ["s", "v"], "{first}");
        assert_eq!(number(&one, "SELECT count(*) FROM t WHERE v = 1"), 1, "{first}");
    }
}

#[test]
fn indexes_that_another_client_dropped_are_rebuilt_from_the_stored_rows() {
    let server = Server::start();
    let one = table(&server, INDEXED);
    one.execute_batch("INSERT INTO t (s, v, a, b) VALUES ('x', 1, 1, 1), ('y', 2, 2, 2)").unwrap();
    let drop_all = || {
        let other = table(&server, "s TEXT, v INT, a, b");
        number(&other, "SELECT redis_drop_index('t', 's')");
        number(&other, "SELECT redis_drop_index('t', 'v')");
        let names = server.redis_cli(&["KEYS", "p.main.t.unique:*"]);
        names.lines().for_each(|key| assert_eq!(server.redis_cli(&["DEL", key]), "1"));
        server.redis_cli(&["DEL", "p.main.t.indices.unique"]);
        other
    };
    drop_all();
    assert_eq!(code(one.execute_batch("INSERT INTO t (s) VALUES ('x')")), CONSTRAINT_UNIQUE);
    drop_all();
    assert_eq!(code(one.execute_batch("INSERT INTO t (a, b) VALUES (2, 2)")), CONSTRAINT_UNIQUE);
    drop_all();
    one.execute_batch("UPDATE t SET v = 3 WHERE s = 'x'").unwrap();
    assert_eq!(text(&one, "SELECT group_concat(s) FROM (SELECT s FROM t WHERE v > 1 ORDER BY v)"), "y,x");
    // Rows that violate a constraint are named as the reason.
    drop_all().execute_batch("INSERT INTO t VALUES ('x', 9, 9, 9)").unwrap();
    let error = one.execute_batch("INSERT INTO t (s) VALUES ('new')").unwrap_err().to_string();
    assert!(error.contains("`s` can't be UNIQUE"), "{error}");
}

#[test]
fn every_statement_notices_that_another_client_dropped_its_index() {
    let columns = "id INTEGER PRIMARY KEY, a INT, b INT";
    for (sql, dropped) in [
        ("SELECT group_concat(id) FROM t WHERE a = 1 AND b = 2", "b"),
        ("SELECT group_concat(id) FROM t WHERE a = 1 AND b = 2", "a"),
        ("SELECT group_concat(id) FROM (SELECT id FROM t WHERE b IN (1, 2) ORDER BY id)", "b"),
    ] {
        let server = Server::start();
        let (one, other) = (table(&server, columns), table(&server, columns));
        for name in ["a", "b"] {
            assert_eq!(number(&one, &format!("SELECT redis_create_index('t', '{name}')")), 1);
        }
        one.execute_batch(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200) \
             INSERT INTO t SELECT i, i % 5, i % 7 FROM n",
        )
        .unwrap();
        let mut cached = one.prepare(sql).unwrap();
        let before: String = cached.query_row([], |row| row.get(0)).unwrap();
        assert_eq!(number(&other, &format!("SELECT redis_drop_index('t', '{dropped}')")), 1);
        let after: String = cached.query_row([], |row| row.get(0)).unwrap();
        assert_eq!(after, before, "{sql} without {dropped}");
    }
}

#[test]
fn a_scan_fails_when_its_index_is_dropped_midway() {
    let server = Server::start();
    let (one, other) = (table(&server, "a INT INDEXED"), table(&server, "a INT"));
    one.execute_batch(
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i FROM n",
    )
    .unwrap();
    let mut statement = one.prepare("SELECT a FROM t WHERE a > 0 ORDER BY a").unwrap();
    let mut rows = statement.query([]).unwrap();
    rows.next().unwrap().unwrap();
    number(&other, "SELECT redis_drop_index('t', 'a')");
    let mut count = 1;
    let error = loop {
        match rows.next() {
            Ok(Some(_)) => count += 1,
            Ok(None) => panic!("the scan ended after {count} rows without an error"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.sqlite_error().unwrap().extended_code, BUSY_SNAPSHOT);
}

#[test]
fn a_deleted_row_that_the_transaction_read_refuses_the_commit() {
    let server = Server::start();
    let columns = "id INTEGER PRIMARY KEY, v INT";
    let (one, other) = (table(&server, columns), table(&server, columns));
    for write in
        ["UPDATE t SET v = 8 WHERE id = 2", "INSERT INTO t VALUES (1, 101)", "UPDATE t SET id = 1 WHERE id = 2"]
    {
        // The row as this project writes it, and as another program does, without our `\0types` field.
        for row in ["1, 100", "1, NULL"] {
            other.execute_batch(&format!("DELETE FROM t; INSERT INTO t VALUES ({row}), (2, 7)")).unwrap();
            if row.ends_with("NULL") {
                server.redis_cli(&["HSET", "p.main.t:1", "foreign", "1"]);
                redis::cmd("HDEL").arg("p.main.t:1").arg("\0types").exec(&mut server.redis()).unwrap();
            }
            one.execute_batch("BEGIN; SELECT v FROM t WHERE id = 1").unwrap();
            assert_eq!(number(&one, "SELECT count(*) FROM t WHERE id = 1"), 1);
            other.execute_batch("DELETE FROM t WHERE id = 1").unwrap();
            let said = one.execute_batch(write).and_then(|()| one.execute_batch("COMMIT"));
            assert_eq!(code(said), BUSY_SNAPSHOT, "{write} {row}");
            if !one.is_autocommit() {
                one.execute_batch("ROLLBACK").unwrap();
            }
        }
    }
}

#[test]
fn a_wrong_value_for_a_generated_column_is_refused() {
    let server = Server::start();
    let one = table(&server, "id INTEGER PRIMARY KEY, a INT, b INT AS (a * 2) STORED, c");
    one.execute_batch("INSERT INTO t (id, a) VALUES (1, 5)").unwrap();
    for refused in [
        "UPDATE t SET b = 7",
        "UPDATE t SET b = NULL",
        "UPDATE t SET a = 6, b = 13",
        "INSERT INTO t VALUES (2, 5, 7, 0)",
    ] {
        let error = one.execute_batch(refused).unwrap_err();
        assert!(error.to_string().contains("generated column \"b\""), "{refused}: {error}");
    }
    for done in [
        "UPDATE t SET a = 6",
        "UPDATE t SET c = 1",
        "UPDATE t SET a = a + n FROM (SELECT 1 AS n)",
        "INSERT INTO t VALUES (2, 5, 10, 0)",
        "INSERT INTO t SELECT id + 10, a, b, c FROM t",
    ] {
        one.execute_batch(done).unwrap_or_else(|error| panic!("{done}: {error}"));
    }
    assert_eq!(text(&one, "SELECT group_concat(id || ':' || b, ' ') FROM t"), "1:14 2:10 11:14 12:10");
}

#[test]
fn a_table_is_full_after_the_largest_rowid() {
    let server = Server::start();
    let one = table(&server, "x");
    for transaction in ["", "BEGIN"] {
        one.execute_batch("INSERT INTO t VALUES ('first')").unwrap();
        server.redis_cli(&["SET", "p.main.t.rowid", "9223372036854775802"]);
        one.execute_batch(transaction).unwrap();
        for _ in 0..5 {
            one.execute_batch("INSERT INTO t VALUES ('one of the last')").unwrap();
        }
        assert_eq!(code(one.execute_batch("INSERT INTO t VALUES ('too many')")), FULL);
        if !one.is_autocommit() {
            one.execute_batch("COMMIT").unwrap();
        }
        assert_eq!(number(&one, "SELECT count(*) FROM t"), if transaction.is_empty() { 6 } else { 1 }, "{transaction}");
        one.execute_batch("DELETE FROM t").unwrap();
        server.redis_cli(&["SET", "p.main.t.rowid", "7"]);
    }
}

#[test]
fn table_names_whose_keys_could_collide_are_refused() {
    let server = Server::start();
    let one = table(&server, "x, y, UNIQUE (x, y)");
    for name in ["\"t.unique\"", "\"x.y\"", "\"t.index\""] {
        let error = create(&one, &server.url(), name, "z").unwrap_err().to_string();
        assert!(error.contains("keys"), "{name}: {error}");
        let error = one.execute_batch(&format!("ALTER TABLE t RENAME TO {name}")).unwrap_err().to_string();
        assert!(error.contains("keys"), "{name}: {error}");
    }
    // A row of such a table, as another version of this project stored it.
    server.redis_cli(&["HSET", "p.main.t.unique:1", "z", "kept"]);
    one.execute_batch("INSERT INTO t VALUES (1, 2)").unwrap();
    assert_eq!(number(&one, "SELECT redis_drop_data('t')"), 1);
    assert_eq!(server.redis_cli(&["KEYS", "p.main.t.unique:*"]), "p.main.t.unique:1");
}

#[test]
fn a_server_that_may_evict_keys_is_refused() {
    let server = Server::with(["--maxmemory-policy", "allkeys-lru"]).start();
    let one = connect();
    let error = create(&one, &server.url(), "t", "x").unwrap_err().to_string();
    assert!(error.contains("maxmemory-policy"), "{error}");
    server.redis_cli(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
    create(&one, &server.url(), "t", "x").unwrap();
    one.execute_batch("INSERT INTO t VALUES (1)").unwrap();
}

#[test]
fn a_lost_reply_with_a_missing_commit_mark_is_an_unknown_outcome() {
    let server = Server::start();
    let proxy = Proxy::to(&server);
    let mut one = connect();
    create(&one, &proxy.url(), "t", "x").unwrap();
    for sql in ["INSERT INTO t VALUES (1)", "BEGIN; INSERT INTO t VALUES (2), (3); COMMIT"] {
        for fault in [Fault::HoldRequest, Fault::HoldReply] {
            proxy.next("EXEC", fault);
            let client = std::thread::spawn(move || (one.execute_batch(sql), one));
            proxy.wait_for_held(1);
            let marks = server.redis_cli(&["KEYS", "p.main.t.commit:*"]);
            assert!(!marks.is_empty(), "no mark was stored before the commit");
            server.redis_cli(&["DEL", &marks]);
            proxy.cut_clients();
            let (said, connection) = client.join().unwrap();
            proxy.cut_held();
            one = connection;
            let error = said.expect_err(sql);
            assert!(error.to_string().contains("unknown whether the transaction was written"), "{error}");
            assert!(one.is_autocommit());
        }
    }
}
