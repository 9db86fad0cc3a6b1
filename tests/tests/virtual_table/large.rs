//! Large commits of virtual tables. No script blocks the server for long, and clients of this project see the whole
//! commit or nothing of it, wherever the writer stops.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use rusqlite::Connection;
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::vtab::{check_keys, connect, create, table};
use sqlite_redis_tests::{Server, code, number, text};

const COLUMNS: &str = "id INTEGER PRIMARY KEY, n INT INDEXED, s TEXT UNIQUE";
const ROWS: i64 = 1500;
const BUSY: i32 = 5;

fn insert(table: &str, from: i64, to: i64) -> String {
    format!(
        "WITH RECURSIVE n(n) AS (VALUES ({from}) UNION ALL SELECT n + 1 FROM n WHERE n < {to}) \
         INSERT INTO {table} SELECT n, n, 's' || n FROM n"
    )
}

fn filled(server: &Server, rows: i64) -> Connection {
    let one = table(server, COLUMNS);
    one.execute_batch(&insert("t", 1, rows)).unwrap();
    one
}

/// How often `UPDATE t SET n = n + 1` ran. Asserts that all rows agree.
fn offset(connection: &Connection) -> i64 {
    let offsets = "SELECT min(n - id) || ' ' || max(n - id) || ' ' || count(*) FROM t";
    let found = text(connection, offsets);
    let (least, rest) = found.split_once(' ').unwrap();
    assert_eq!(rest, format!("{least} {ROWS}"), "rows of two states");
    least.parse().unwrap()
}

/// Runs `work` and returns the number of commands in the longest script that the server ran.
fn longest_script(server: &Server, work: impl FnOnce()) -> usize {
    let mut monitor = UnixStream::connect(server.socket()).unwrap();
    monitor.write_all(b"MONITOR\r\n").unwrap();
    let mut lines = BufReader::new(monitor).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "+OK");
    work();
    server.redis_cli(&["ECHO", "that is all"]);
    let (mut longest, mut now) = (0, 0);
    for line in lines {
        let line = line.unwrap();
        if line.contains("\"that is all\"") {
            break;
        }
        // `MONITOR` shows `lua` in place of the client's address for a command that a script calls.
        now = if line.contains(" lua] ") { now + 1 } else { 0 };
        longest = longest.max(now);
    }
    longest
}

#[test]
fn large_commits_run_in_short_scripts() {
    let server = Server::start();
    let one = table(&server, "id INTEGER PRIMARY KEY, n INT INDEXED, s TEXT, x INT UNIQUE, UNIQUE (n, s)");
    let fill = "WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 12000) \
         INSERT INTO t SELECT n, n, 's' || n, n * 4 FROM n";
    let longest = |sql: &str| {
        let longest = longest_script(&server, || one.execute_batch(sql).unwrap());
        println!("{longest} commands: {sql}");
        assert!(longest <= 8000, "{longest} commands of one script: {sql}");
    };
    longest(fill);
    longest("UPDATE t SET n = n + 1, s = 'x' || s");
    longest("SELECT redis_create_index('t', 's')");
    longest("SELECT redis_drop_index('t', 's')");
    longest("BEGIN; SELECT count(s), sum(n) FROM t; UPDATE t SET n = -n WHERE id = 3; COMMIT");
    longest("BEGIN; DELETE FROM t WHERE id > 100; ROLLBACK; ALTER TABLE t RENAME TO u");
    longest("DELETE FROM u WHERE id > 6000");
    assert_eq!(number(&one, "SELECT count(*) FROM u WHERE n IN (5, 6, 7) OR x = 40"), 4);
    assert_eq!(check_keys(&server, "u"), 6000);
    longest("SELECT redis_drop_data('u')");
    let left = server.redis_cli(&["KEYS", "*"]);
    for key in left.lines().filter(|key| !key.contains(".commit:") && !key.ends_with(".hold")) {
        assert!(key.ends_with(".indices") || key.ends_with(".indices.unique"), "{key}");
    }
}

#[test]
fn readers_see_all_or_nothing_of_a_large_commit_that_stops_anywhere() {
    let server = Server::start();
    let reader = filled(&server, ROWS);
    let proxy = Proxy::to(&server);
    let mut writer = connect();
    create(&writer, &proxy.url(), "t", COLUMNS).unwrap();
    let update = "UPDATE t SET n = n + 1";
    writer.execute_batch(update).unwrap();
    let before = proxy.commands().len();
    writer.execute_batch(update).unwrap();
    let commands = proxy.commands().split_off(before);
    let scripts: Vec<u64> = (0u64..).zip(&commands).filter(|(_, name)| *name == "EVAL").map(|(n, _)| n).collect();
    assert!(scripts.len() >= 8, "{}", scripts.len());
    let mut expected = 2;
    for script in scripts {
        for fault in [Fault::HoldRequest, Fault::HoldReply] {
            proxy.after(script, fault);
            let commit = std::thread::spawn(move || {
                writer.execute_batch(update).unwrap();
                writer
            });
            proxy.wait_for_held(1);
            let now = offset(&reader);
            assert!(now == expected || now == expected + 1, "{script} {fault:?}: {now}");
            assert_eq!(offset(&reader), now);
            proxy.let_go();
            writer = commit.join().unwrap();
            expected += 1;
            assert_eq!(offset(&reader), expected, "{script} {fault:?}");
        }
    }
    check_keys(&server, "t");
}

#[test]
fn a_large_commit_reports_its_true_outcome_after_a_lost_request_or_reply() {
    let server = Server::start();
    let reader = filled(&server, ROWS);
    let proxy = Proxy::to(&server);
    let writer = connect();
    create(&writer, &proxy.url(), "t", COLUMNS).unwrap();
    let update = "UPDATE t SET n = n + 1";
    writer.execute_batch(update).unwrap();
    let before = proxy.commands().len();
    writer.execute_batch(update).unwrap();
    let commands = proxy.commands().split_off(before);
    let first = commands.iter().position(|name| name == "EVAL").unwrap();
    let mut expected = 2;
    for (n, name) in commands.iter().enumerate().skip(first).filter(|(_, name)| *name == "EVAL" || *name == "HMGET") {
        for fault in [Fault::CutRequest, Fault::LoseReply] {
            proxy.after(n as u64, fault);
            let done = writer.execute_batch(update);
            proxy.disarm();
            expected += i64::from(done.is_ok());
            assert_eq!(offset(&reader), expected, "{n} {name} {fault:?}: {done:?}");
        }
    }
    check_keys(&server, "t");
}

#[test]
fn the_next_client_finishes_an_abandoned_large_commit() {
    let server = Server::start();
    for next in ["read", "write", "large", "index", "drop", "rename"] {
        let other = filled(&server, ROWS);
        let proxy = Proxy::to(&server);
        let writer = connect();
        create(&writer, &proxy.url(), "t", COLUMNS).unwrap();
        // Holds the commit's last script: the first slice is applied, the rest never is.
        let scripts = {
            let before = proxy.commands().len();
            writer.execute_batch("UPDATE t SET n = n + 1").unwrap();
            proxy.commands().split_off(before)
        };
        let last = scripts.iter().rposition(|name| name == "EVAL").unwrap() as u64;
        proxy.after(last, Fault::HoldRequest);
        let commit = std::thread::spawn(move || {
            writer.execute_batch("UPDATE t SET n = n + 1").unwrap();
        });
        proxy.wait_for_held(1);
        match next {
            "read" => assert_eq!(number(&other, "SELECT n FROM t WHERE id = 1500"), 1502),
            "write" => other.execute_batch("UPDATE t SET n = n WHERE id = 1500").unwrap(),
            "large" => other.execute_batch("UPDATE t SET s = s || 'x'").unwrap(),
            "index" => assert_eq!(number(&other, "SELECT redis_create_index('t', 's')"), 0),
            "drop" => assert_eq!(number(&other, "SELECT redis_drop_data('t')"), ROWS),
            _ => other.execute_batch("ALTER TABLE t RENAME TO u").unwrap(),
        }
        let table = if next == "rename" { "u" } else { "t" };
        if next != "drop" {
            assert_eq!(number(&other, &format!("SELECT min(n - id) FROM {table}")), 2, "{next}");
            assert_eq!(check_keys(&server, table) as i64, ROWS);
        }
        proxy.let_go();
        commit.join().unwrap();
        assert_eq!(check_keys(&server, table) as i64, if next == "drop" { 0 } else { ROWS });
        other.execute_batch(&format!("SELECT redis_drop_data('{table}')")).unwrap();
    }
}

#[test]
fn the_lock_of_a_dead_client_expires() {
    let server = Server::start();
    let other = filled(&server, 10);
    server.redis_cli(&["SET", "p.main.t.hold", "wait 00", "PX", "1500"]);
    assert_eq!(number(&other, "SELECT count(*) FROM t"), 10);
    other.execute_batch("UPDATE t SET n = n + 1").unwrap();
    server.redis_cli(&["SET", "p.main.t.hold", "wait 00", "PX", "1500"]);
    other.execute_batch(&insert("t", 11, ROWS)).unwrap();
    assert_eq!(check_keys(&server, "t") as i64, ROWS);
    // A lock that stays: other writers give up.
    server.redis_cli(&["SET", "p.main.t.hold", "wait 00"]);
    assert_eq!(code(other.execute_batch("UPDATE t SET n = n + 1")) & 0xff, BUSY);
    assert_eq!(code(other.execute_batch("UPDATE t SET n = n + 1 WHERE id = 3")) & 0xff, BUSY);
}

#[test]
fn a_large_commit_is_refused_when_another_client_changed_its_rows() {
    let server = Server::start();
    let one = filled(&server, ROWS);
    let two = table(&server, COLUMNS);
    for other in [
        "UPDATE t SET n = -1 WHERE id = 700",
        "DELETE FROM t WHERE id = 700",
        "INSERT INTO t VALUES (2000, 1, 'new')",
        "INSERT INTO t VALUES (2001, 1, 's2000')",
    ] {
        let more = insert("t", ROWS + 1, 2 * ROWS);
        one.execute_batch(&format!("BEGIN; UPDATE t SET n = n + 1; {more}")).unwrap();
        two.execute_batch(other).unwrap();
        let now = "SELECT count(*) || ' ' || sum(n) FROM t";
        let before = text(&two, now);
        assert_eq!(code(one.execute_batch("COMMIT")) & 0xff, BUSY, "{other}");
        assert_eq!(text(&two, now), before, "{other}");
        // The refused commit holds no lock.
        two.execute_batch("DELETE FROM t WHERE id > 1500 OR id = 700; INSERT INTO t VALUES (700, 700, 's700')")
            .unwrap();
        two.execute_batch("UPDATE t SET n = id").unwrap();
        check_keys(&server, "t");
    }
    assert_eq!(server.redis_cli(&["KEYS", "*staged*"]), "");
}

#[test]
fn a_key_of_a_wrong_type_refuses_a_large_commit_before_any_slice_is_applied() {
    let server = Server::start();
    let one = filled(&server, ROWS);
    server.redis_cli(&["SET", "p.main.t.index:n:2999", "foreign"]);
    let sql = insert("t", ROWS + 1, 2 * ROWS);
    let error = one.execute_batch(&sql).unwrap_err().to_string();
    assert!(error.contains("p.main.t.index:n:2999"), "{error}");
    assert_eq!(number(&one, "SELECT count(*) FROM t"), ROWS);
    server.redis_cli(&["DEL", "p.main.t.index:n:2999"]);
    one.execute_batch(&sql).unwrap();
    assert_eq!(check_keys(&server, "t") as i64, 2 * ROWS);
}

#[test]
fn missing_slices_of_a_large_commit_are_reported_once() {
    let server = Server::start();
    let one = filled(&server, 10);
    server.redis_cli(&["SET", "p.main.t.hold", "apply 4000000000 p.main.t.staged:12"]);
    let error = one.execute_batch("UPDATE t SET n = 5").unwrap_err().to_string();
    assert!(error.contains("p.main.t.staged:12") && error.contains("in part"), "{error}");
    one.execute_batch("UPDATE t SET n = 6").unwrap();
    // A value that is not a slice is not run.
    server.redis_cli(&["SET", "p.main.t.hold", "apply 1 p.main.t.staged:12"]);
    server.redis_cli(&["HSET", "p.main.t.staged:12", "1", "FLUSHALL", "tables", "x"]);
    let error = one.execute_batch("SELECT * FROM t").unwrap_err().to_string();
    assert!(error.contains("makes no sense"), "{error}");
    server.redis_cli(&["DEL", "p.main.t.hold"]);
    assert_eq!(number(&one, "SELECT sum(n) FROM t"), 60);
}

#[test]
fn a_large_commit_of_two_tables_is_atomic() {
    let server = Server::start();
    let one = filled(&server, ROWS);
    create(&one, &server.url(), "u", COLUMNS).unwrap();
    let proxy = Proxy::to(&server);
    let writer = connect();
    for name in ["t", "u"] {
        create(&writer, &proxy.url(), name, COLUMNS).unwrap();
    }
    let move_rows =
        |from: &str, to: &str| format!("BEGIN; INSERT INTO {to} SELECT * FROM {from}; DELETE FROM {from}; COMMIT");
    let before = proxy.commands().len();
    writer.execute_batch(&move_rows("t", "u")).unwrap();
    let commands = proxy.commands().split_off(before);
    let last = commands.iter().rposition(|name| name == "EVAL").unwrap() as u64;
    proxy.after(last, Fault::HoldRequest);
    let commit = std::thread::spawn(move || writer.execute_batch(&move_rows("u", "t")).unwrap());
    proxy.wait_for_held(1);
    // The first table that is read finishes the commit of both.
    assert_eq!(number(&one, "SELECT count(*) FROM u"), 0);
    assert_eq!(number(&one, "SELECT count(*) FROM t"), ROWS);
    proxy.let_go();
    commit.join().unwrap();
    assert_eq!((check_keys(&server, "t") as i64, check_keys(&server, "u")), (ROWS, 0));
}

#[test]
fn a_large_commit_that_a_commit_hook_refuses_is_rolled_back() {
    let server = Server::start();
    let mut one = filled(&server, ROWS);
    one.execute_batch("CREATE TABLE file (x)").unwrap();
    one.commit_hook(Some(|| true)).unwrap();
    for sql in ["UPDATE t SET n = n + 1", "DELETE FROM t", &insert("t", ROWS + 1, 2 * ROWS)] {
        assert!(one.execute_batch(&format!("BEGIN; INSERT INTO file VALUES (1); {sql}; COMMIT")).is_err());
        let _ = one.execute_batch("ROLLBACK");
        assert_eq!(offset(&one), 0, "{sql}");
        assert_eq!(check_keys(&server, "t") as i64, ROWS, "{sql}");
    }
}
