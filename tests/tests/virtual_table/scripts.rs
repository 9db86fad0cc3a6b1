//! The commit script of the virtual table. Its text is sent once, and again after the server has lost it (`NOSCRIPT`).
//! A commit is made exactly once in every case.

use redis::cmd;
use rusqlite::Connection;
use sqlite_redis_tests::cluster::Cluster;
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::vtab::{check_keys, connect, create, table};
use sqlite_redis_tests::{Server, number, text};

const COLUMNS: &str = "id INTEGER PRIMARY KEY, n INT INDEXED, s TEXT UNIQUE";

/// Commits of different kinds, and `count(*)` and `sum(n)` after each.
const WORK: [(&str, &str); 5] = [
    ("INSERT INTO t (n, s) VALUES (1, 'one')", "1 1"),
    ("BEGIN; INSERT INTO t VALUES (2, 2, 'two'); UPDATE t SET n = n + 10; COMMIT", "2 23"),
    (
        "WITH RECURSIVE n(n) AS (VALUES (3) UNION ALL SELECT n + 1 FROM n WHERE n < 150) \
         INSERT INTO t SELECT n, n, 's' || n FROM n",
        "150 11345",
    ),
    ("UPDATE t SET n = n + 1", "150 11495"),
    ("DELETE FROM t WHERE id > 2", "2 25"),
];

fn rows(connection: &Connection) -> String {
    text(connection, "SELECT count(*) || ' ' || sum(n) FROM t")
}

fn flush(server: &Server) {
    assert_eq!(server.redis_cli(&["SCRIPT", "FLUSH"]), "OK");
}

/// Number of `EVAL` and of `EVALSHA` calls so far.
fn calls(server: &Server) -> (u64, u64) {
    (server.calls("eval"), server.calls("evalsha"))
}

#[test]
fn the_script_text_is_sent_once_per_process() {
    let server = Server::start();
    let one = table(&server, COLUMNS);
    one.execute_batch("INSERT INTO t VALUES (-1, 0, 'first'); DELETE FROM t").unwrap();
    let before = calls(&server);
    // A second connection of the process knows that the server has the script.
    for one in [&one, &table(&server, COLUMNS)] {
        for (sql, expected) in WORK {
            one.execute_batch(sql).unwrap();
            assert_eq!(rows(one), expected, "{sql}");
            check_keys(&server, "t");
        }
        one.execute_batch("SELECT redis_drop_data('t')").unwrap();
    }
    let after = calls(&server);
    // Dropping the data calls the script twice; the first call locks the table.
    assert_eq!((after.0 - before.0, after.1 - before.1), (0, 2 * (WORK.len() as u64 + 2)));
}

#[test]
fn a_flushed_script_is_sent_again() {
    let server = Server::start();
    let one = table(&server, COLUMNS);
    for (sql, expected) in WORK {
        flush(&server);
        one.execute_batch(sql).unwrap();
        assert_eq!(rows(&one), expected, "{sql}");
        check_keys(&server, "t");
    }
    assert_eq!(number(&one, "SELECT redis_drop_data('t')"), 2);
    // The server loses the script between its load and the commit.
    let proxy = Proxy::to(&server);
    let mut through = connect();
    create(&through, &proxy.url(), "t", COLUMNS).unwrap();
    through.execute_batch("INSERT INTO t VALUES (-1, 0, 'first'); DELETE FROM t").unwrap();
    for (sql, expected) in WORK {
        proxy.next("EXEC", Fault::HoldRequest);
        let before = calls(&server);
        let commit = std::thread::spawn(move || {
            through.execute_batch(sql).unwrap();
            through
        });
        proxy.wait_for_held(1);
        flush(&server);
        proxy.let_go();
        through = commit.join().unwrap();
        assert_eq!(rows(&through), expected, "{sql}");
        let after = calls(&server);
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1), "{sql}");
        check_keys(&server, "t");
    }
}

#[test]
fn the_script_is_sent_again_after_a_restart() {
    let mut server = Server::with(["--appendonly", "yes", "--appendfsync", "always"]).start();
    let one = table(&server, COLUMNS);
    for (sql, expected) in WORK {
        server.kill();
        server.restart();
        one.execute_batch(sql).unwrap();
        assert_eq!(rows(&one), expected, "{sql}");
        check_keys(&server, "t");
    }
}

#[test]
fn a_lost_noscript_reply_does_not_repeat_a_commit() {
    let server = Server::start();
    let proxy = Proxy::to(&server);
    let one = connect();
    create(&one, &proxy.url(), "t", COLUMNS).unwrap();
    one.execute_batch("INSERT INTO t VALUES (-1, 0, 'first'); DELETE FROM t").unwrap();
    for (sql, expected) in WORK {
        flush(&server);
        // The lost reply is `NOSCRIPT`: nothing was written.
        proxy.next("EXEC", Fault::LoseReply);
        let done = one.execute_batch(sql);
        assert!(!proxy.is_armed());
        if let Err(error) = done {
            panic!("{sql}: {error}");
        }
        assert_eq!(rows(&one), expected, "{sql}");
        check_keys(&server, "t");
    }
}

#[test]
fn the_script_is_sent_to_the_node_that_takes_over_the_slot() {
    let cluster = Cluster::new();
    let (from, slot) = (cluster.owner("vt"), cluster.slot("vt"));
    let to = cluster.primaries().into_iter().find(|node| *node != from).unwrap();
    let one = connect();
    one.execute_batch(&format!("CREATE VIRTUAL TABLE t USING redis('{}', '{{vt}}', {COLUMNS})", cluster.url()))
        .unwrap();
    one.execute_batch("INSERT INTO t VALUES (-1, 0, 'first'); DELETE FROM t").unwrap();
    let (mut from, mut to) = (from, to);
    for (sql, expected) in &WORK[..3] {
        flush(&cluster.nodes[to]);
        cluster.begin_to_move(slot, from, to);
        cluster.finish_to_move(slot, from, to);
        one.execute_batch(sql).unwrap();
        assert_eq!(rows(&one), *expected, "{sql}");
        (from, to) = (to, from);
    }
}

#[test]
fn falls_back_to_eval_when_evalsha_is_forbidden() {
    let server = Server::start();
    let rules = ["ACL", "SETUSER", "some", "on", ">Secret-9", "~*", "+@all", "-evalsha"];
    cmd(rules[0]).arg(&rules[1..]).exec(&mut server.redis()).unwrap();
    let one = connect();
    create(&one, &format!("{}?user=some&pass=Secret-9", server.url()), "t", COLUMNS).unwrap();
    let before = calls(&server);
    for (sql, expected) in WORK {
        one.execute_batch(sql).unwrap();
        assert_eq!(rows(&one), expected, "{sql}");
        check_keys(&server, "t");
    }
    let after = calls(&server);
    assert_eq!((after.0 - before.0, after.1 - before.1), (WORK.len() as u64, 0));
    // `EVALSHA` was tried once.
    let log = server.redis_cli(&["ACL", "LOG"]);
    assert_eq!(log.lines().filter(|line| *line == "evalsha").count(), 1, "{log}");
}

#[test]
fn a_commit_with_more_keys_than_one_command_takes_is_atomic() {
    let server = Server::start();
    let one = table(&server, "a INT INDEXED, b INT INDEXED, c INT INDEXED");
    let insert = "WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 17000) \
                  INSERT INTO t (rowid, a, b, c) SELECT n, n, n, n FROM n";
    // The index sets are checked first, in the order of the columns, so this key is beyond the limit of one command.
    let wrong = "p.main.t.index:c:17000";
    server.redis_cli(&["XADD", wrong, "1-1", "a", "b"]);
    let error = one.execute_batch(insert).unwrap_err().to_string();
    assert!(error.contains(&format!("`{wrong}`")), "{error}");
    // The list of indexes, this client's commit mark, and the key of a wrong type.
    assert_eq!(server.redis_cli(&["DBSIZE"]), "3");
    server.redis_cli(&["DEL", wrong]);
    one.execute_batch(insert).unwrap();
    assert_eq!(check_keys(&server, "t"), 17_000);
}
