//! Transactions that SQLite refuses after `xSync`, or rolls back to a savepoint: the rows in Redis match the outcome
//! that SQLite reports.

use std::collections::BTreeMap;

use redis::cmd;
use rusqlite::Connection;
use sqlite_redis_tests::vtab::{check_keys, connect, create, table};
use sqlite_redis_tests::{Server, code, number, text};

const COLUMNS: &str = "id INTEGER PRIMARY KEY, n INT INDEXED, s TEXT UNIQUE, a, b, UNIQUE (a, b)";
const BUSY: i32 = 5;
const BUSY_SNAPSHOT: i32 = 517;
const IOERR_FSYNC: i32 = 1034;
const ROWS: &str = "SELECT ifnull(group_concat(id || ':' || ifnull(n, '-') || ':' || s, ' '), '') FROM t";

/// An ordinary file beside a table in Redis (`one` writes both), a connection that can lock the file (`reader`), and
/// another client of the table (`other`).
struct Scene {
    server: Server,
    one: Connection,
    reader: Connection,
    other: Connection,
}

impl Scene {
    fn new() -> Scene {
        let server = Server::start();
        let other = table(&server, COLUMNS);
        let file = server.directory().join("plain.sqlite");
        let one = Connection::open(&file).unwrap();
        one.execute_batch("CREATE TABLE o (x)").unwrap();
        create(&one, &server.url(), "t", COLUMNS).unwrap();
        let reader = Connection::open(&file).unwrap();
        let waits = std::time::Duration::from_millis(10);
        [&one, &reader].iter().for_each(|connection| connection.busy_timeout(waits).unwrap());
        other
            .execute_batch(
                "INSERT INTO t VALUES (1, 10, 'one', 'x', 1), (2, NULL, 'two', NULL, 2), (3, 30, 'three', 5, 3)",
            )
            .unwrap();
        server.redis_cli(&["HSET", "p.main.t:2", "foreign", "kept"]);
        server.redis_cli(&["HSET", "p.main.t:3", "foreign", "kept as well"]);
        Scene { server, one, reader, other }
    }

    fn locked<T>(&self, action: impl FnOnce() -> T) -> T {
        self.reader.execute_batch("BEGIN; SELECT count(*) FROM o").unwrap();
        let done = action();
        self.reader.execute_batch("COMMIT").unwrap();
        done
    }

    /// Writes to the file and to the table, and asserts that `COMMIT` is refused. Call this while the file is locked.
    fn refused(&self, sql: &str) {
        self.one.execute_batch(&format!("BEGIN; INSERT INTO o VALUES (1); {sql}")).unwrap();
        assert_eq!(code(self.one.execute_batch("COMMIT")), BUSY, "{sql}");
    }
}

/// All keys and values, except commit marks, the rowid counter and times to live.
fn stored(server: &Server) -> BTreeMap<String, Vec<String>> {
    let mut redis = server.redis();
    let keys: Vec<String> = cmd("KEYS").arg("*").query(&mut redis).unwrap();
    let passes = |key: &String| key.contains(".commit:") || key.ends_with(".hold");
    let kept =
        keys.into_iter().filter(|key| !passes(key) && (!key.ends_with(".rowid") || key.ends_with(".index.rowid")));
    kept.map(|key| {
        let kind: String = cmd("TYPE").arg(&key).query(&mut redis).unwrap();
        let mut content: Vec<String> = match kind.as_str() {
            "hash" => {
                let fields: BTreeMap<String, String> = cmd("HGETALL").arg(&key).query(&mut redis).unwrap();
                fields.into_iter().map(|(field, text)| format!("{field}={text}")).collect()
            }
            "set" => cmd("SMEMBERS").arg(&key).query(&mut redis).unwrap(),
            _ => cmd("ZRANGE").arg(&key).arg(0).arg(-1).arg("WITHSCORES").query(&mut redis).unwrap(),
        };
        content.sort();
        (key, content)
    })
    .collect()
}

const CHANGES: &str = "INSERT INTO t (n, s) VALUES (40, 'four'), (41, 'five'); \
                       UPDATE t SET n = 11, s = 'first', a = 1.5 WHERE id = 1; DELETE FROM t WHERE id = 2; \
                       UPDATE t SET id = 100 WHERE id = 3";

#[test]
fn a_rollback_after_a_refused_commit_restores_every_key() {
    let scene = Scene::new();
    let before = stored(&scene.server);
    scene.locked(|| {
        scene.refused(CHANGES);
        scene.one.execute_batch("ROLLBACK").unwrap();
    });
    assert_eq!(stored(&scene.server), before);
    // The next transaction works as usual. Rowid 100 raised the counter, which keeps its value.
    scene.one.execute_batch(CHANGES).unwrap();
    assert_eq!(text(&scene.other, ROWS), "1:11:first 100:30:three 101:40:four 102:41:five");
    assert_eq!(scene.server.redis_cli(&["HGET", "p.main.t:100", "foreign"]), "kept as well");
}

#[test]
fn a_rollback_after_a_refused_large_commit_restores_every_key() {
    let scene = Scene::new();
    let before = stored(&scene.server);
    scene.locked(|| {
        scene.refused(
            "DELETE FROM t; WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 3000) \
             INSERT INTO t SELECT n, n % 7, 's' || n, n, n FROM n",
        );
        scene.one.execute_batch("ROLLBACK").unwrap();
    });
    assert_eq!(stored(&scene.server), before);
}

#[test]
fn a_refused_autocommit_statement_leaves_no_rows_on_any_retry() {
    let scene = Scene::new();
    let before = stored(&scene.server);
    // A trigger may write to a virtual table only in the schema `temp`.
    create(&scene.one, &scene.server.url(), "temp.u", "n INT").unwrap();
    scene
        .one
        .execute_batch("CREATE TEMP TRIGGER tr AFTER INSERT ON o BEGIN INSERT INTO u VALUES (new.x); END")
        .unwrap();
    scene.locked(|| {
        for _ in 0..3 {
            assert_eq!(code(scene.one.execute_batch("INSERT INTO o VALUES (7)")), BUSY);
            assert_eq!(stored(&scene.server), before);
        }
    });
    scene.one.execute_batch("INSERT INTO o VALUES (7)").unwrap();
    assert_eq!(number(&scene.one, "SELECT count(*) FROM u WHERE n = 7"), 1);
    assert_eq!(scene.server.redis_cli(&["KEYS", "p.temp.u:*"]).lines().count(), 1);
    check_keys_of_rows(&scene);
}

/// Checks that rows and the rowid index agree, by the stored keys.
fn check_keys_of_rows(scene: &Scene) {
    scene.other.execute_batch("DELETE FROM t WHERE id IN (1, 2, 3)").unwrap();
    number(&scene.other, "SELECT redis_drop_index('t', 'n')");
    check_keys(&scene.server, "t");
}

#[test]
fn a_commit_that_a_hook_refuses_leaves_no_rows() {
    let mut scene = Scene::new();
    let before = stored(&scene.server);
    scene.one.commit_hook(Some(|| true)).unwrap();
    assert_eq!(
        code(scene.one.execute_batch("BEGIN; INSERT INTO o VALUES (1); INSERT INTO t (n) VALUES (5); COMMIT")),
        531
    );
    assert!(scene.one.is_autocommit());
    assert_eq!(code(scene.one.execute_batch("INSERT INTO t (n) VALUES (6)")), 531);
    assert_eq!(stored(&scene.server), before);
    scene.one.commit_hook(None::<fn() -> bool>).unwrap();
    scene.one.execute_batch("INSERT INTO t (n) VALUES (6)").unwrap();
    assert_eq!(number(&scene.other, "SELECT count(*) FROM t"), 4);
}

#[test]
fn a_transaction_continues_after_a_refused_commit() {
    for (later, rows) in [
        ("", "1:10:one 2:-:two 3:30:three 4:40:four"),
        ("INSERT INTO t (n, s) VALUES (50, 'five')", "1:10:one 2:-:two 3:30:three 4:40:four 5:50:five"),
        ("UPDATE t SET n = n + 1 WHERE id IN (1, 4)", "1:11:one 2:-:two 3:30:three 4:41:four"),
        ("DELETE FROM t WHERE id >= 3", "1:10:one 2:-:two"),
        ("ROLLBACK TO s", "1:10:one 2:-:two 3:30:three"),
        ("ROLLBACK TO s; INSERT INTO t (id, n, s) VALUES (9, 9, 'four')", "1:10:one 2:-:two 3:30:three 9:9:four"),
        ("SAVEPOINT u; DELETE FROM t; ROLLBACK TO u", "1:10:one 2:-:two 3:30:three 4:40:four"),
    ] {
        let scene = Scene::new();
        let before = stored(&scene.server);
        scene.locked(|| scene.refused("SAVEPOINT s; INSERT INTO t (n, s) VALUES (40, 'four')"));
        scene.one.execute_batch(later).unwrap();
        assert_eq!(text(&scene.one, ROWS), rows, "{later}: as the transaction sees them");
        // The open transaction has left no trace in Redis.
        assert_eq!(stored(&scene.server), before, "{later}");
        scene.one.execute_batch("COMMIT").unwrap();
        assert_eq!(text(&scene.other, ROWS), rows, "{later}");
        assert_eq!(number(&scene.other, "SELECT count(*) FROM t WHERE n = 40"), i64::from(rows.contains(":40:")));
    }
}

#[test]
fn a_refused_commit_is_retried_or_rolled_back_by_close() {
    let scene = Scene::new();
    let before = stored(&scene.server);
    scene.locked(|| {
        scene.refused(CHANGES);
        assert_eq!(code(scene.one.execute_batch("COMMIT")), BUSY);
    });
    scene.one.execute_batch("COMMIT").unwrap();
    assert_eq!(text(&scene.other, ROWS), "1:11:first 4:40:four 5:41:five 100:30:three");
    drop(scene);
    let scene = Scene::new();
    scene.locked(|| {
        scene.refused(CHANGES);
    });
    let Scene { server, one, .. } = scene;
    one.close().unwrap();
    assert_eq!(stored(&server), before);
}

#[test]
fn a_rollback_keeps_and_reports_rows_that_others_changed() {
    let scene = Scene::new();
    scene.locked(|| {
        scene.refused(CHANGES);
        scene
            .other
            .execute_batch("UPDATE t SET n = 12 WHERE id = 1; INSERT INTO t (id, n, s) VALUES (7, 7, 'two')")
            .unwrap();
        scene.one.execute_batch("ROLLBACK").unwrap();
    });
    let said = text(&scene.one, "SELECT redis_last_error()");
    for part in ["rolled back", "`p.main.t:1`", "`p.main.t:2`", "changed"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("p.main.t:3`") && !said.contains("p.main.t:4`"), "{said}");
    // Row 2 can't be restored, because another client took its unique value.
    assert_eq!(text(&scene.other, ROWS), "1:12:first 3:30:three 7:7:two");
    check_keys_of_rows(&scene);
}

#[test]
fn a_continued_transaction_is_refused_when_others_changed_its_rows() {
    // The second statement replaces a row that the transaction has not read.
    for write in ["UPDATE t SET n = 11 WHERE id = 1", "INSERT OR REPLACE INTO t (id, n, s) VALUES (1, 11, 'one')"] {
        let scene = Scene::new();
        scene.locked(|| scene.refused(write));
        scene.other.execute_batch("UPDATE t SET n = n + 1 WHERE id = 1").unwrap();
        assert_eq!(code(scene.one.execute_batch("INSERT INTO t (n) VALUES (8)")), BUSY_SNAPSHOT, "{write}");
        assert_eq!(code(scene.one.execute_batch("COMMIT")), BUSY_SNAPSHOT, "{write}");
        assert!(scene.one.is_autocommit());
        assert_eq!(text(&scene.other, ROWS), "1:12:one 2:-:two 3:30:three", "{write}");
    }
}

#[test]
fn rows_that_can_not_be_rolled_back_are_reported() {
    let mut scene = Scene::new();
    scene.locked(|| scene.refused("INSERT INTO t (n) VALUES (8)"));
    scene.server.kill();
    scene.one.execute_batch("ROLLBACK").unwrap();
    let said = text(&scene.one, "SELECT redis_last_error()");
    assert!(said.contains("rolled back, but its rows are still in Redis"), "{said}");
}

#[test]
fn a_refusal_by_one_server_rolls_back_the_commit_on_another() {
    let (first, second) = (Server::start(), Server::start());
    let one = connect();
    create(&one, &first.url(), "f", "id INTEGER PRIMARY KEY, n INT").unwrap();
    create(&one, &second.url(), "s", "id INTEGER PRIMARY KEY, n INT").unwrap();
    let other = connect();
    create(&other, &second.url(), "s", "id INTEGER PRIMARY KEY, n INT").unwrap();
    one.execute_batch("BEGIN; INSERT INTO f VALUES (1, 1); INSERT INTO s VALUES (1, 1)").unwrap();
    other.execute_batch("INSERT INTO s VALUES (1, 2)").unwrap();
    assert_eq!(code(one.execute_batch("COMMIT")), BUSY_SNAPSHOT);
    assert_eq!(number(&one, "SELECT count(*) FROM f"), 0);
    assert_eq!(number(&one, "SELECT n FROM s"), 2);
}

#[test]
fn a_commit_that_can_not_be_rolled_back_on_one_server_is_reported() {
    let (first, second) = (Server::start(), Server::start());
    first.redis_cli(&["ACL", "SETUSER", "adder", "on", ">Tulip-4471", "~*", "&*", "+@all"]);
    let one = connect();
    create(&one, &format!("{}?user=adder&pass=Tulip-4471", first.url()), "f", "id INTEGER PRIMARY KEY, n INT INDEXED")
        .unwrap();
    create(&one, &second.url(), "s", "id INTEGER PRIMARY KEY, n INT").unwrap();
    one.execute_batch("BEGIN; INSERT INTO f VALUES (1, 1); INSERT INTO s VALUES (1, 1)").unwrap();
    // From now on the user can add rows but not remove them.
    first.redis_cli(&["ACL", "SETUSER", "adder", "-zrem"]);
    second.redis_cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = one.execute_batch("COMMIT").unwrap_err();
    second.redis_cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let said = error.to_string();
    assert_eq!(code::<()>(Err(error)), IOERR_FSYNC, "{said}");
    for part in ["virtual table main.f", "its rows are still in Redis", "zrem", "main.s", "out of memory"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("nothing was written"), "{said}");
    assert_eq!(number(&one, "SELECT (SELECT count(*) FROM f) * 10 + (SELECT count(*) FROM s)"), 10);
}

#[test]
fn rollback_to_a_savepoint_before_the_first_write_undoes_all_writes() {
    let server = Server::start();
    let one = table(&server, "x INT");
    one.execute_batch("CREATE TABLE o (x INT)").unwrap();
    for steps in [
        "SAVEPOINT a; INSERT 1; SAVEPOINT b; ROLLBACK TO a; RELEASE a",
        "SAVEPOINT a; INSERT 1; SAVEPOINT b; INSERT 2; ROLLBACK TO a; INSERT 3; RELEASE a",
        "SAVEPOINT a; SAVEPOINT b; INSERT 1; SAVEPOINT c; INSERT 2; ROLLBACK TO b; INSERT 3; RELEASE a",
        "SAVEPOINT a; SAVEPOINT b; INSERT 1; SAVEPOINT c; INSERT 2; ROLLBACK TO c; ROLLBACK TO a; RELEASE a",
        "BEGIN; SAVEPOINT a; SAVEPOINT b; SAVEPOINT c; INSERT 1; SAVEPOINT d; INSERT 2; ROLLBACK TO b; INSERT 3; COMMIT",
        "BEGIN; SAVEPOINT a; INSERT 1; SAVEPOINT b; INSERT 2; SAVEPOINT c; INSERT 3; RELEASE c; ROLLBACK TO b; COMMIT",
        "BEGIN; SAVEPOINT a; INSERT 1; RELEASE a; SAVEPOINT b; INSERT 2; ROLLBACK TO b; INSERT 3; COMMIT",
        "BEGIN; INSERT 1; SAVEPOINT a; INSERT 2; ROLLBACK TO a; INSERT 3; ROLLBACK TO a; COMMIT",
    ] {
        let left = ["o", "t"].map(|name| {
            let sql = steps.split("; ").map(|step| match step.strip_prefix("INSERT ") {
                Some(value) => format!("INSERT INTO {name} (x) VALUES ({value})"),
                None => step.to_owned(),
            });
            one.execute_batch(&sql.collect::<Vec<_>>().join("; ")).unwrap();
            let left = text(&one, &format!("SELECT ifnull(group_concat(x), '') FROM {name}"));
            one.execute_batch(&format!("DELETE FROM {name}")).unwrap();
            left
        });
        assert_eq!(left[0], left[1], "{steps}");
    }
}
