//! Commits of the virtual table that reach the server after the client's connection was cut. Once the client has
//! reported an outcome, the rows no longer change.

use rusqlite::Connection;
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::vtab::{check_keys, connect, create, table};
use sqlite_redis_tests::{Server, eventually, number, text};

const COLUMNS: &str = "id INTEGER PRIMARY KEY, n INT INDEXED, s TEXT UNIQUE";

/// Statements that each take another path through the commit.
fn work() -> [String; 9] {
    let rows = |from: i64, to: i64| {
        format!(
            "WITH RECURSIVE n(n) AS (VALUES ({from}) UNION ALL SELECT n + 1 FROM n WHERE n < {to}) \
             SELECT n, n, 's' || n FROM n"
        )
    };
    [
        "INSERT INTO t (n, s) VALUES (1, 'new')".to_owned(),
        "INSERT INTO t VALUES (1000, 1, 'new')".to_owned(),
        "BEGIN; INSERT INTO t (n, s) VALUES (1, 'new'); COMMIT".to_owned(),
        format!("INSERT INTO t {}", rows(1000, 1110)),
        format!("BEGIN; INSERT INTO t {}; DELETE FROM t WHERE id = 1; COMMIT", rows(1000, 1110)),
        "UPDATE t SET n = n + 1 WHERE id = 1".to_owned(),
        "UPDATE t SET n = n + 1".to_owned(),
        "DELETE FROM t WHERE id = 1".to_owned(),
        "DELETE FROM t".to_owned(),
    ]
}

struct Scene {
    server: Server,
    here: Connection,
}

impl Scene {
    fn new() -> Scene {
        let server = Server::start();
        let here = table(&server, COLUMNS);
        Scene { server, here }
    }

    fn fill(&self) {
        let fill = "DELETE FROM t; WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 120) \
                    INSERT INTO t SELECT n, n, 'old ' || n FROM n";
        self.here.execute_batch(fill).unwrap();
    }

    /// Runs `sql` while the proxy holds its commit, or the reply to it, and calls `meanwhile`. Then restores the rows
    /// and lets the held commit arrive. Returns the client's result, and the rows before the statement, after it,
    /// and after the late arrival.
    fn late(&self, sql: &str, fault: Fault, meanwhile: impl FnOnce(&Proxy)) -> (rusqlite::Result<()>, [String; 3]) {
        self.fill();
        let before = self.rows();
        let one = connect();
        let proxy = Proxy::to(&self.server);
        create(&one, &proxy.url(), "t", COLUMNS).unwrap();
        proxy.next("EXEC", fault);
        let (said, one) = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let said = one.execute_batch(sql);
                if !one.is_autocommit() {
                    one.execute_batch("ROLLBACK").unwrap();
                }
                // The connection stays open: closing it would remove its commit mark.
                (said, one)
            });
            proxy.wait_for_held(1);
            meanwhile(&proxy);
            client.join().unwrap()
        });
        let then = self.rows();
        self.fill();
        proxy.let_go();
        eventually("the late commit has arrived", || {
            self.server.redis_cli(&["CLIENT", "LIST"]).lines().all(|client| client.contains(" multi=-1 "))
        });
        check_keys(&self.server, "t");
        drop(one);
        (said, [before, then, self.rows()])
    }

    fn rows(&self) -> String {
        text(&self.here, "SELECT ifnull(group_concat(id || ':' || n || ':' || s), 'none') FROM t")
    }
}

#[test]
fn a_commit_that_arrives_after_the_client_gave_up_is_refused() {
    let scene = Scene::new();
    for sql in work() {
        let (said, [before, then, after]) = scene.late(&sql, Fault::HoldRequest, |proxy| {
            proxy.answer("MULTI", "-ERR not now\r\n");
            proxy.cut_clients();
        });
        let error = said.expect_err(&sql).to_string();
        assert!(error.contains("not now"), "{sql}: {error}");
        assert_eq!(then, before, "{sql}");
        assert_eq!(after, before, "{sql}: the commit took effect after the client reported a failure");
    }
}

#[test]
fn a_commit_whose_connection_is_cut_is_made_once() {
    let scene = Scene::new();
    for fault in [Fault::HoldRequest, Fault::HoldReply] {
        for sql in work() {
            let (said, [before, then, after]) = scene.late(&sql, fault, Proxy::cut_clients);
            said.expect(&sql);
            assert_ne!(then, before, "{sql}");
            assert_eq!(after, before, "{sql}: the commit was made twice");
        }
    }
}

#[test]
fn a_malformed_reply_to_a_commit_does_not_hide_its_outcome() {
    let server = Server::start();
    let proxy = Proxy::to(&server);
    let one = connect();
    create(&one, &proxy.url(), "t", "n INT INDEXED").unwrap();
    one.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    proxy.answer("EXEC", "+done\r\n");
    let error = one.execute_batch("INSERT INTO t VALUES (2)").unwrap_err().to_string();
    assert!(error.contains("not what the protocol allows"), "{error}");
    // The commit was not made, and can't arrive any more.
    let other = connect();
    create(&other, &server.url(), "t", "n INT INDEXED").unwrap();
    assert_eq!(number(&other, "SELECT count(*) FROM t"), 1);
    assert_eq!(check_keys(&server, "t"), 1);
}
