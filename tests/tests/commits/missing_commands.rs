//! Servers and proxies that lack, rename or forbid a command. The library uses another command, or fails with an
//! error that names the missing one. No connection stays inside `MULTI`, and no lease stays held.

use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis::admin::{Admin, ImportOptions};
use sqlite_redis_tests::failures::failure;
use sqlite_redis_tests::proxy::Proxy;
use sqlite_redis_tests::vtab::{connect, create};
use sqlite_redis_tests::{Server, check_integrity, code, number};

const BUSY: i32 = 5;

/// A server with a table, and a proxy in front of the server.
fn scene() -> (Server, Proxy) {
    let server = Server::start();
    server.open("shop").execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let proxy = Proxy::to(&server);
    (server, proxy)
}

/// Asserts that reads work on this connection and on pooled sockets. A socket left inside `MULTI` would answer
/// `QUEUED`.
fn assert_reads(connection: &Connection, proxy: &Proxy, rows: i64) {
    for _ in 0..3 {
        assert_eq!(number(connection, "SELECT count(*) FROM t"), rows);
        assert_eq!(number(&proxy.options("shop").open().unwrap(), "SELECT count(*) FROM t"), rows);
    }
}

fn assert_free(server: &Server) {
    assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{shop}:lock"]), "0", "the lease is released");
}

#[test]
fn a_write_fails_and_names_the_missing_transaction_command() {
    let (server, proxy) = scene();
    let connection = proxy.options("shop").open().unwrap();
    for command in ["WATCH", "MULTI", "EXEC"] {
        proxy.lacks(&[command]);
        for _ in 0..2 {
            let (_, said) = failure(&connection, "INSERT INTO t VALUES (2)");
            let expected = format!("have a command or has renamed it: ERR unknown command '{command}'");
            assert!(said.contains(&expected), "{said}");
            assert_free(&server);
            assert_reads(&connection, &proxy, 1);
        }
        proxy.answer_none();
        connection.execute_batch("INSERT INTO t VALUES (2); DELETE FROM t WHERE x = 2").unwrap();
    }
    check_integrity(&connection);
}

#[test]
fn a_wrong_reply_to_multi_fails_the_write() {
    let (server, proxy) = scene();
    let connection = proxy.options("shop").open().unwrap();
    proxy.answer("MULTI", "+QUEUED\r\n");
    let (_, said) = failure(&connection, "INSERT INTO t VALUES (2)");
    assert!(said.contains("MULTI was answered with"), "{said}");
    assert_free(&server);
    assert_reads(&connection, &proxy, 1);
}

#[test]
fn a_rollback_without_discard_leaves_no_open_multi() {
    let (server, proxy) = scene();
    let connection = proxy.options("shop").open().unwrap();
    for answer in ["-ERR unknown command 'DISCARD', with args beginning with: \r\n", "+QUEUED\r\n"] {
        proxy.answer("DISCARD", answer);
        connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2); ROLLBACK").unwrap();
        assert_free(&server);
        assert_reads(&connection, &proxy, 1);
    }
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_reads(&connection, &proxy, 2);
}

#[test]
fn a_commit_over_two_databases_fails_and_names_missing_exec() {
    let (server, proxy) = scene();
    let connection = proxy.options("shop").open().unwrap();
    connection.execute("ATTACH ?1 AS other", [proxy.options("other").uri()]).unwrap();
    connection.execute_batch("CREATE TABLE other.u (x)").unwrap();
    proxy.lacks(&["EXEC"]);
    connection.execute_batch("BEGIN; INSERT INTO t VALUES (2); INSERT INTO u VALUES (2)").unwrap();
    let (_, said) = failure(&connection, "COMMIT");
    assert!(said.contains("unknown command 'EXEC'"), "{said}");
    let _ = connection.execute_batch("ROLLBACK");
    assert_free(&server);
    assert_reads(&connection, &proxy, 1);
    assert_eq!(number(&connection, "SELECT count(*) FROM u"), 0);
}

#[test]
fn an_import_without_exec_or_rename_names_the_command_and_leaves_no_key() {
    let (server, proxy) = scene();
    let admin = Admin::connect(&proxy.options("")).unwrap();
    for command in ["EXEC", "RENAME"] {
        proxy.lacks(&[command]);
        let mut import = admin.import("copy", ImportOptions::new(512, 1).overwrite(true)).unwrap();
        import.page(vec![0; 512]).unwrap();
        let said = import.finish().unwrap_err().to_string();
        assert!(said.contains(&format!("unknown command '{command}'")), "{said}");
        assert_eq!(server.redis_cli(&["KEYS", "*copy*"]), "");
        assert_reads(&proxy.options("shop").open().unwrap(), &proxy, 1);
        proxy.answer_none();
    }
}

#[test]
fn a_large_commit_without_rename_names_the_command_and_keeps_the_old_version() {
    let (server, proxy) = scene();
    let connection = proxy.options("shop").stage_bytes(0).open().unwrap();
    connection.execute("ATTACH ?1 AS other", [proxy.options("other").stage_bytes(0).uri()]).unwrap();
    connection.execute_batch("CREATE TABLE ballast AS SELECT zeroblob(20000); CREATE TABLE other.u (x)").unwrap();
    proxy.lacks(&["RENAME"]);
    // A commit of some pages, of all pages, and of two databases.
    for sql in
        ["INSERT INTO t VALUES (2)", "VACUUM", "BEGIN; INSERT INTO t VALUES (2); INSERT INTO u VALUES (2); COMMIT"]
    {
        let (_, said) = failure(&connection, sql);
        assert!(said.contains("unknown command 'RENAME'"), "{sql}: {said}");
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK").unwrap();
        }
        assert_free(&server);
        assert_reads(&connection, &proxy, 1);
        check_integrity(&connection);
        server.check_stored("shop");
    }
    assert_eq!(server.redis_cli(&["KEYS", "*:import:*"]), "");
}

/// Sets of missing commands. Each has a fallback for release, renewal or waiting.
const OF_LEASES: [&[&str]; 4] = [&["EVALSHA"], &["EVAL", "EVALSHA"], &["BLPOP"], &["EVAL", "EVALSHA", "BLPOP"]];

/// Longer than any test, so that no lease expires.
const LONG: Duration = Duration::from_secs(600);

#[test]
fn writers_work_and_release_the_lease_without_scripts_or_blpop() {
    for missing in OF_LEASES {
        for linger in [Duration::ZERO, Duration::from_secs(60)] {
            let (server, proxy) = scene();
            proxy.lacks(missing);
            let options = proxy.options("shop").lease(LONG).linger(linger);
            let [one, other] = [options.clone(), options.log_commits(77)].map(|options| options.open().unwrap());
            for _ in 0..3 {
                for connection in [&one, &other] {
                    connection.busy_timeout(Duration::from_secs(20)).unwrap();
                    connection.execute_batch("INSERT INTO t VALUES (2); INSERT INTO t VALUES (3)").unwrap();
                    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (4); ROLLBACK").unwrap();
                }
            }
            drop((one, other));
            assert_free(&server);
            assert_reads(&proxy.options("shop").open().unwrap(), &proxy, 13);
        }
    }
}

#[test]
fn a_lease_is_renewed_and_waited_for_without_scripts_or_blpop() {
    for missing in OF_LEASES {
        let (server, proxy) = scene();
        proxy.lacks(missing);
        let options = proxy.options("shop").lease(Duration::from_millis(300));
        let [holder, waiter] = [options.clone(), options.log_commits(77)].map(|options| options.open().unwrap());
        holder.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2)").unwrap();
        std::thread::sleep(Duration::from_secs(1));
        waiter.busy_timeout(Duration::ZERO).unwrap();
        assert_eq!(
            code(waiter.execute_batch("INSERT INTO t VALUES (3)")),
            BUSY,
            "{missing:?}: the lease was not renewed"
        );
        waiter.busy_timeout(Duration::from_secs(20)).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(move || waiter.execute_batch("INSERT INTO t VALUES (3)"));
            std::thread::sleep(Duration::from_millis(300));
            holder.execute_batch("COMMIT").unwrap();
            waits.join().unwrap().unwrap();
        });
        assert_free(&server);
        assert_eq!(number(&holder, "SELECT count(*) FROM t"), 3, "{missing:?}");
        assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{shop}:queue", "sqlite:{shop}:turn"]), "0", "{missing:?}");
    }
}

#[test]
fn a_large_commit_without_scripts_is_not_staged() {
    let (server, proxy) = scene();
    proxy.lacks(&["EVAL", "EVALSHA"]);
    let connection = proxy.options("shop").stage_bytes(0).open().unwrap();
    connection.execute_batch("CREATE TABLE u AS SELECT zeroblob(20000)").unwrap();
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert!(!proxy.commands().contains(&"RENAME".to_owned()));
    assert_free(&server);
    server.check_stored("shop");
}

#[test]
fn a_database_is_opened_without_info() {
    let (_server, proxy) = scene();
    proxy.lacks(&["INFO", "ROLE"]);
    let connection = proxy.options("shop").open().unwrap();
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_reads(&connection, &proxy, 2);
}

#[test]
fn a_virtual_table_without_exec_refuses_writes_and_still_reads() {
    let (_server, proxy) = scene();
    let one = connect();
    create(&one, &proxy.url(), "v", "x INT").unwrap();
    one.execute_batch("INSERT INTO v VALUES (1)").unwrap();
    for answer in ["-ERR unknown command 'EXEC', with args beginning with: \r\n", "+OK\r\n", "*0\r\n"] {
        proxy.answer("EXEC", answer);
        let refused = one.execute_batch("INSERT INTO v VALUES (2)").unwrap_err().to_string();
        assert!(!refused.contains("QUEUED"), "{refused}");
        assert!(answer.starts_with('+') || answer.starts_with('*') || refused.contains("'EXEC'"), "{refused}");
        for _ in 0..3 {
            assert_eq!(number(&one, "SELECT count(*) FROM v"), 1, "{answer}");
        }
    }
    proxy.answer_none();
    one.execute_batch("INSERT INTO v VALUES (2)").unwrap();
    assert_eq!(number(&one, "SELECT count(*) FROM v"), 2);
}
