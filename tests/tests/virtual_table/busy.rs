//! The virtual table on a server that is busy with another client's script (`-BUSY`).

use std::time::{Duration, Instant};

use rusqlite::Connection;
use sqlite_redis_tests::vtab::table;
use sqlite_redis_tests::{Server, code, eventually, number};

const BUSY: i32 = 5;
const BUSY_SNAPSHOT: i32 = 517;
const LONG: Duration = Duration::from_secs(60);

/// Runs `action` while a script blocks the server. `SCRIPT KILL` ends the script after `time`.
fn while_busy<T>(server: &Server, time: Duration, action: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let script = scope.spawn(|| redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut server.redis()));
        eventually("the server is busy", || server.redis_cli(&["GET", "x"]).contains("BUSY"));
        let ender = scope.spawn(move || {
            std::thread::sleep(time);
            server.redis_cli(&["SCRIPT", "KILL"])
        });
        let done = action();
        ender.join().unwrap();
        script.join().unwrap().expect_err("the script was killed");
        done
    })
}

fn scene() -> (Server, Connection) {
    let server = Server::with(["--lua-time-limit", "50"]).start();
    let one = table(&server, "id INTEGER PRIMARY KEY, n INT INDEXED");
    one.busy_timeout(LONG).unwrap();
    one.execute_batch("INSERT INTO t VALUES (1, 1)").unwrap();
    (server, one)
}

#[test]
fn statements_wait_for_a_busy_server_within_the_busy_timeout() {
    let (server, one) = scene();
    let short = Duration::from_millis(500);
    for sql in [
        "SELECT 1 FROM t",
        "SELECT 1 FROM t WHERE n > 0",
        "INSERT INTO t (n) VALUES (2)",
        "BEGIN; INSERT INTO t (n) VALUES (2); COMMIT",
        "UPDATE t SET n = n + 1",
    ] {
        let said = while_busy(&server, short, || one.execute_batch(sql));
        said.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    one.execute_batch("BEGIN; INSERT INTO t (n) VALUES (3)").unwrap();
    while_busy(&server, short, || one.execute_batch("COMMIT")).unwrap();
    assert_eq!(number(&one, "SELECT count(*) FROM t"), 4);
}

#[test]
fn a_busy_server_is_sqlite_busy_at_once_without_a_busy_timeout() {
    let (server, one) = scene();
    one.busy_timeout(Duration::ZERO).unwrap();
    let short = Duration::from_millis(300);
    assert_eq!(while_busy(&server, short, || code(one.execute_batch("SELECT 1 FROM t"))), BUSY);
    assert_eq!(while_busy(&server, short, || code(one.execute_batch("INSERT INTO t (n) VALUES (2)"))), BUSY);
    one.execute_batch("BEGIN; UPDATE t SET n = 5").unwrap();
    assert_eq!(while_busy(&server, short, || code(one.execute_batch("COMMIT"))), BUSY_SNAPSHOT);
    assert_eq!(number(&one, "SELECT sum(n) FROM t"), 1);
}

#[test]
fn an_interrupt_ends_the_wait_for_a_busy_server() {
    let (server, one) = scene();
    let handle = one.get_interrupt_handle();
    let waited = while_busy(&server, Duration::from_secs(3), || {
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(200));
                handle.interrupt();
            });
            let begun = Instant::now();
            one.execute_batch("SELECT 1 FROM t").expect_err("the statement was interrupted");
            begun.elapsed()
        })
    });
    assert!(waited < Duration::from_secs(2), "{waited:?}");
}
