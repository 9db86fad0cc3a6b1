//! Damage by other programs, failing servers and missing rights: a client reads correct rows, or gets an error that
//! names the reason, and no commit is written in part.

use redis::cmd;
use rusqlite::Connection;
use sqlite_redis_tests::cluster::Cluster;
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::vtab::{check_keys, connect, create, table};
use sqlite_redis_tests::{Server, number, text};

const COLUMNS: &str = "i INT INDEXED, s TEXT INDEXED, f REAL, UNIQUE (s, f)";

fn filled(server: &Server, rows: i64) -> Connection {
    let one = table(server, COLUMNS);
    one.execute_batch(&insert(1, rows)).unwrap();
    one
}

fn insert(from: i64, to: i64) -> String {
    format!(
        "WITH RECURSIVE n(n) AS (VALUES ({from}) UNION ALL SELECT n + 1 FROM n WHERE n < {to}) \
         INSERT INTO t SELECT n, 'text ' || n, n / 4.0 FROM n"
    )
}

#[test]
fn a_rowid_counter_that_is_behind_overwrites_no_row() {
    let server = Server::start();
    for counter in ["3", "0", "-7"] {
        for (rows, sql) in
            [(1, insert(11, 11)), (30, insert(11, 40)), (1, format!("BEGIN; {}; COMMIT", insert(11, 11)))]
        {
            let one = filled(&server, 10);
            server.redis_cli(&["SET", "p.main.t.rowid", counter]);
            match one.execute_batch(&sql) {
                Ok(()) => {
                    assert_eq!(number(&one, "SELECT count(*) FROM t"), 10 + rows, "{counter} {sql}");
                    assert_eq!(number(&one, "SELECT count(*) FROM t WHERE rowid <= 10 AND i = rowid"), 10);
                    assert_eq!(check_keys(&server, "t") as i64, 10 + rows);
                }
                // A rowid from the counter must be positive.
                Err(error) => {
                    assert!(counter == "-7" && error.to_string().contains("p.main.t.rowid"), "{error}");
                    let _ = one.execute_batch("ROLLBACK");
                    assert_eq!(number(&one, "SELECT count(*) FROM t WHERE i = rowid"), 10);
                }
            }
            assert_eq!(number(&one, "SELECT redis_drop_data('t') > 0"), 1);
        }
    }
}

#[test]
fn a_row_deleted_between_index_and_fetch_is_skipped() {
    let server = Server::start();
    let here = filled(&server, 20);
    for (sql, left) in [
        ("SELECT * FROM t", 19),
        ("SELECT * FROM t ORDER BY rowid DESC", 18),
        ("SELECT * FROM t WHERE i BETWEEN 3 AND 9", 4),
        ("SELECT * FROM t WHERE s LIKE 'text 1%' ORDER BY s", 11),
        ("SELECT * FROM t WHERE i IN (1, 8)", 1),
    ] {
        let deleted = number(&here, "SELECT min(rowid) FROM t WHERE rowid > 4");
        let proxy = Proxy::to(&server);
        let one = connect();
        create(&one, &proxy.url(), "t", COLUMNS).unwrap();
        std::thread::scope(|scope| {
            proxy.next("HMGET", Fault::HoldRequest);
            let reader = scope.spawn(move || number(&one, &format!("SELECT count(*) FROM ({sql})")));
            proxy.wait_for_held(1);
            // The index has listed the row already.
            here.execute("DELETE FROM t WHERE rowid = ?1", [deleted]).unwrap();
            proxy.let_go();
            assert_eq!(reader.join().unwrap(), left, "{sql}");
        });
    }
    check_keys(&server, "t");
}

#[test]
fn a_key_of_a_wrong_type_refuses_the_statement_and_nothing_is_written() {
    let server = Server::start();
    let one = filled(&server, 5);
    let dump = || text(&one, "SELECT group_concat(rowid || i || s) FROM t WHERE rowid < 8");
    for key in [
        "index.rowid",
        "rowid",
        "indices",
        "indices.building",
        "indices.unique",
        "index:i",
        "index:s",
        "index:i:77",
        "index:s:new",
        "index.null:i",
        "index.other:i",
        "unique:1_2:x",
        ":6",
    ] {
        let key = format!("p.main.t{}{key}", if key.starts_with(':') { "" } else { "." });
        let before = dump();
        server.redis_cli(&["RENAME", &key, "aside"]);
        // A stream: none of this project's commands works on it.
        server.redis_cli(&["XADD", &key, "*", "a", "b"]);
        for sql in [
            "INSERT INTO t VALUES (77, 'new', 0.5)",
            "INSERT INTO t VALUES (NULL, 'new', 0.5)",
            "INSERT INTO t VALUES ('word', 'new', 0.5)",
            "INSERT INTO t (rowid, i) VALUES (6, 77)",
            "BEGIN; INSERT INTO t VALUES (77, 'new', 0.5), (78, 'newer', 0.5); COMMIT",
            "UPDATE t SET i = 77, s = 'new' WHERE rowid = 1",
        ] {
            let done = one.execute_batch(sql);
            let _ = one.execute_batch("ROLLBACK");
            if let Err(error) = &done {
                let error = error.to_string();
                let named = ["holds something else", "is no number", "not an integer", "UNIQUE", "another client"];
                assert!(named.iter().any(|name| error.contains(name)), "{key}, {sql}: {error}");
            }
            let kept: String = server.redis_cli(&["TYPE", &key]);
            assert_eq!(kept, "stream", "{key}, {sql}: {done:?}");
            server.redis_cli(&["RENAME", &key, "wrong"]);
            server.redis_cli(&["RENAME", "aside", &key]);
            let rows = number(&one, "SELECT count(*) FROM t");
            if done.is_err() {
                assert_eq!(dump(), before, "{key}, {sql}");
                assert_eq!(check_keys(&server, "t") as i64, rows, "{key}, {sql}");
            } else {
                // The key was not used: undo the statement for the next one.
                one.execute_batch("DELETE FROM t WHERE rowid > 5; UPDATE t SET i = rowid, s = 'text ' || rowid")
                    .unwrap();
            }
            server.redis_cli(&["RENAME", &key, "aside"]);
            server.redis_cli(&["RENAME", "wrong", &key]);
        }
        server.redis_cli(&["DEL", &key]);
        server.redis_cli(&["RENAME", "aside", &key]);
        assert_eq!(dump(), before, "{key}");
    }
}

#[test]
fn malformed_index_entries_are_skipped_and_malformed_values_read_as_text() {
    let server = Server::start();
    let one = filled(&server, 3);
    let mut redis = server.redis();
    let fields = [("i", "seven"), ("f", ""), ("\0types", "i0123")];
    cmd("HSET").arg("p.main.t:1").arg(&fields).exec(&mut redis).unwrap();
    cmd("HSET").arg("p.main.t:2").arg("\0types").arg("not one entry").exec(&mut redis).unwrap();
    server.redis_cli(&["ZADD", "p.main.t.index.rowid", "2.5", "two and a half", "7", "", "nan", "x", "8", "9e99"]);
    server.redis_cli(&["ZADD", "p.main.t.index.rowid", "7", "", "8", "9e99", "9", "99999999999999999999"]);
    server.redis_cli(&["ZADD", "p.main.t.index:i", "2", "two", "3", "", "inf", "more"]);
    server.redis_cli(&["SADD", "p.main.t.index:i:2", "x", "", "99999999999999999999", "-0", "4711"]);
    server.redis_cli(&["ZADD", "p.main.t.index.other:i", "0", "n", "0", "nxyz", "0", "?", "0", ""]);
    assert_eq!(text(&one, "SELECT group_concat(rowid || ':' || i) FROM t"), "1:seven,2:2,3:3");
    assert_eq!(text(&one, "SELECT typeof(f) FROM t WHERE rowid = 1"), "text");
    assert_eq!(text(&one, "SELECT group_concat(rowid) FROM t WHERE i = 2"), "2");
    assert_eq!(text(&one, "SELECT group_concat(rowid) FROM t WHERE i > 1 AND i < 99"), "2,3");
    assert_eq!(text(&one, "SELECT group_concat(rowid, '') FROM (SELECT rowid FROM t ORDER BY i DESC)"), "32");
}

#[test]
fn rowids_with_wrong_scores_are_read_once_each() {
    let server = Server::start();
    let one = table(&server, "i INT");
    one.execute_batch(&insert(1, 2600).replace("n, 'text ' || n, n / 4.0", "n")).unwrap();
    // At the ends of read windows, and where several rowids share one score.
    for (score, rowids) in
        [("499", 500..503), ("500.5", 100..101), ("7", 990..1010), ("1500", 1490..1510), ("1e300", 3..4)]
    {
        for rowid in rowids {
            server.redis_cli(&["ZADD", "p.main.t.index.rowid", score, &rowid.to_string()]);
        }
    }
    for order in ["", "ORDER BY rowid DESC"] {
        let sql = format!("SELECT count(*) * 10000 + count(DISTINCT i) FROM (SELECT i FROM t {order} LIMIT 100000)");
        assert_eq!(number(&one, &sql), 26_002_600, "{order}");
    }
}

#[test]
fn each_missing_right_is_named_and_no_commit_is_partial() {
    let server = Server::start();
    let work = [
        "SELECT count(*) FROM t WHERE i >= 0",
        "SELECT count(*) FROM (SELECT * FROM t WHERE i = 2 AND s = 'text 2')",
        "SELECT count(*) FROM (SELECT * FROM t LIMIT 100 OFFSET 1)",
        "INSERT INTO t VALUES (100, 'one', 1)",
        "INSERT INTO t VALUES (101, 'two', 1), (102, 'three', 2), (103, 'four', 2)",
        "UPDATE t SET i = i + 1, s = NULL WHERE i = 100",
        "DELETE FROM t WHERE rowid = 3",
        "INSERT OR REPLACE INTO t (rowid, i) VALUES (50, 5), (2, 6)",
        // Enough rows that the commit runs in a script.
        &insert(200, 350),
        "UPDATE t SET i = i + 1, s = s || 'x', f = NULL",
        "DELETE FROM t WHERE i > 210",
    ];
    let mut refused = Vec::new();
    for command in [
        "hmget",
        "hgetall",
        "exists",
        "zrangebyscore",
        "zrevrange",
        "smembers",
        "sinter",
        "sdiff",
        "zcard",
        "get",
        "watch",
        "multi",
        "exec",
        "hset",
        "hdel",
        "del",
        "zadd",
        "zrem",
        "sadd",
        "srem",
        "eval",
        "evalsha",
        "incr",
        "incrby",
        "set",
    ] {
        let owner = filled(&server, 5);
        server.redis_cli(&[
            "ACL",
            "SETUSER",
            "some",
            "reset",
            "on",
            ">Secret-9",
            "~*",
            "+@all",
            &format!("-{command}"),
        ]);
        // `ACL DELUSER` has closed the connections of the round before, so none keeps its rights.
        let url = format!("{}?user=some&pass=Secret-9&db=0", server.url());
        let one = connect();
        let mut done = 0;
        match create(&one, &url, "t", COLUMNS) {
            Err(error) => refused.push((command, error.to_string())),
            Ok(()) => {
                for sql in work {
                    let before = (rows_of(&owner), check_keys(&server, "t"));
                    match one.execute_batch(sql) {
                        Ok(()) => done += 1,
                        Err(error) => {
                            refused.push((command, error.to_string()));
                            assert_eq!((rows_of(&owner), check_keys(&server, "t")), before, "{command}: {sql}");
                        }
                    }
                    check_keys(&server, "t");
                }
            }
        }
        println!("without {command}: {done} of {} done", work.len());
        assert!(command != "evalsha" || done == work.len(), "`EVAL` is enough");
        drop(one);
        assert!(number(&owner, "SELECT redis_drop_data('t')") > 0);
        server.redis_cli(&["ACL", "DELUSER", "some"]);
    }
    for (command, error) in &refused {
        assert!(error.contains("access rules"), "{command}: {error}");
    }
    for command in ["hmget", "smembers", "watch", "multi", "exec", "hset", "zadd", "sadd", "eval", "incrby", "set"] {
        assert!(refused.iter().any(|(other, _)| *other == command), "no statement failed without {command}");
    }
}

fn rows_of(connection: &Connection) -> String {
    text(connection, "SELECT group_concat(rowid || coalesce(i, 'N') || coalesce(s, 'N') || coalesce(f, 'N')) FROM t")
}

#[test]
fn a_scan_fails_when_its_server_goes_away() {
    let server = Server::start();
    drop(filled(&server, 5000));
    // At several of its commands, also in a batch that was prefetched.
    for (n, fault) in [(1, Fault::CutReply), (700, Fault::LoseRequest), (1700, Fault::LoseReply), (3100, Fault::Reset)]
    {
        let proxy = Proxy::to(&server);
        let one = connect();
        create(&one, &proxy.url(), "t", COLUMNS).unwrap();
        // A lost connection is replaced, and the scan returns each row exactly once.
        proxy.after(n, fault);
        assert_eq!(number(&one, "SELECT count(*) * 10000 + count(DISTINCT i) FROM (SELECT i FROM t)"), 50_005_000);
        assert!(!proxy.is_armed());
        let mut select = one.prepare("SELECT i FROM t").unwrap();
        let mut rows = select.query([]).unwrap();
        let mut count = 0;
        let end = loop {
            match rows.next() {
                Ok(Some(_)) => count += 1,
                end => break end.map(|_| ()),
            }
            if count == n {
                proxy.refuse(true);
            }
        };
        assert!(count < 5000 && end.is_err(), "after {count} rows: {end:?}");
    }
}

#[test]
fn scans_and_transactions_follow_a_moving_slot() {
    let cluster = Cluster::new();
    let from = cluster.owner("vt");
    let to = cluster.primaries().into_iter().find(|node| *node != from).unwrap();
    let slot = cluster.slot("vt");
    let one = connect();
    let address = format!("127.0.0.1:{}", cluster.nodes[from].port());
    let more = |from: i64, to: i64| insert(from, to).replace("n, 'text ' || n, n / 4.0", "n, n / 4.0");
    one.execute_batch(&format!("CREATE VIRTUAL TABLE t USING redis({address}, '{{vt}}', i INT, f REAL)")).unwrap();
    one.execute_batch(&more(1, 1600)).unwrap();
    let sums = |one: &Connection| number(one, "SELECT count(*) * 1000 + count(DISTINCT i) FROM (SELECT i FROM t)");
    // The slot moves during a scan, and again during a transaction.
    let mut select = one.prepare("SELECT i FROM t").unwrap();
    let mut rows = select.query([]).unwrap();
    for _ in 0..600 {
        assert!(rows.next().unwrap().is_some());
    }
    cluster.begin_to_move(slot, from, to);
    for n in [5, 700, 1300, 1550] {
        cluster.move_key(&format!("{{vt}}.main.t:{n}"), from, to);
    }
    let mut left = 0;
    while rows.next().unwrap().is_some() {
        left += 1;
        if left == 500 {
            cluster.finish_to_move(slot, from, to);
        }
    }
    assert_eq!(left, 1000);
    drop(rows);
    drop(select);
    assert_eq!(sums(&one), 1_601_600);
    one.execute_batch(&format!("BEGIN; {}; UPDATE t SET f = -1 WHERE i <= 10", more(1601, 1800))).unwrap();
    cluster.begin_to_move(slot, to, from);
    cluster.finish_to_move(slot, to, from);
    one.execute_batch("COMMIT").unwrap();
    assert_eq!(sums(&one), 1_801_800);
    assert_eq!(number(&one, "SELECT count(*) FROM t WHERE f = -1"), 10);
    assert_eq!(number(&one, "SELECT redis_drop_data('t')"), 1800);
}
