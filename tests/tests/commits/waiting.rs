//! Waiting for the write lease: as long as the application's busy timeout, and only for writers.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use sqlite_redis_tests::{Server, code, eventually, number};

const BUSY: i32 = 5;
/// Above the delay of a busy machine, and below the extra wait when attempts are not counted.
const SLACK: Duration = Duration::from_millis(1200);

/// A database with a row, and a connection that holds the write lease.
fn held() -> (Server, Connection) {
    let server = Server::start();
    let holder = server.open_apart("shop", 1);
    holder.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1); BEGIN IMMEDIATE").unwrap();
    (server, holder)
}

/// Time until the statement fails with `SQLITE_BUSY`.
fn refused_after(db: &Connection, sql: &str) -> Duration {
    let begun = Instant::now();
    assert_eq!(code(db.execute_batch(sql)), BUSY, "{sql}");
    begun.elapsed()
}

#[test]
fn a_busy_timeout_is_as_long_as_it_says() {
    let (server, _holder) = held();
    for sql in ["BEGIN IMMEDIATE", "INSERT INTO t VALUES (2)"] {
        for timeout in [Duration::ZERO, Duration::from_millis(1500)] {
            let db = server.open("shop");
            db.busy_timeout(timeout).unwrap();
            for _ in 0..2 {
                let waited = refused_after(&db, sql);
                assert!(waited >= timeout && waited < timeout + SLACK, "{sql}: {waited:?} for {timeout:?}");
            }
        }
    }
}

#[test]
fn connections_of_one_process_each_wait_their_busy_timeout() {
    let (server, _holder) = held();
    let timeout = Duration::from_millis(1500);
    std::thread::scope(|scope| {
        let wait = || {
            let db = server.open("shop");
            db.busy_timeout(timeout).unwrap();
            refused_after(&db, "INSERT INTO t VALUES (2)")
        };
        let waiters: Vec<_> = (0..4).map(|_| scope.spawn(wait)).collect();
        for waiter in waiters {
            let waited = waiter.join().unwrap();
            assert!(waited >= timeout && waited < timeout + SLACK, "{waited:?}");
        }
    });
}

#[test]
fn an_attached_database_waits_as_long_as_the_busy_timeout_says() {
    let (server, _holder) = held();
    let directory = tempfile::tempdir().unwrap();
    let db = Connection::open(directory.path().join("main.db")).unwrap();
    db.execute("ATTACH ?1 AS red", [server.options("shop").uri()]).unwrap();
    let timeout = Duration::from_millis(1500);
    db.busy_timeout(timeout).unwrap();
    let waited = refused_after(&db, "INSERT INTO red.t VALUES (2)");
    assert!(waited >= timeout && waited < timeout + SLACK, "{waited:?}");
}

#[test]
fn a_custom_busy_handler_is_called_without_extra_waiting() {
    let (server, _holder) = held();
    let mut db = server.open("shop");
    db.busy_handler(Some(|calls| {
        std::thread::sleep(Duration::from_millis(10));
        calls < 50
    }))
    .unwrap();
    let waited = refused_after(&db, "BEGIN IMMEDIATE");
    assert!(waited >= Duration::from_millis(500) && waited < Duration::from_millis(500) + SLACK, "{waited:?}");
}

#[test]
fn a_busy_timeout_is_spent_in_the_lease_queue() {
    let (server, holder) = held();
    let db = server.open("shop");
    db.busy_timeout(Duration::from_secs(60)).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || db.execute_batch("INSERT INTO t VALUES (2)"));
        // By then, SQLite's handler sleeps 100 ms at a time.
        std::thread::sleep(Duration::from_secs(1));
        let in_line = |_: &i32| {
            std::thread::sleep(Duration::from_millis(10));
            server.redis_cli(&["LLEN", "sqlite:{shop}:queue"]) == "1"
        };
        let seen = (0..50).filter(in_line).count();
        assert!(seen >= 15, "in the queue {seen} of 50 times");
        holder.execute_batch("COMMIT").unwrap();
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(number(&holder, "SELECT count(*) FROM t"), 2);
}

#[test]
fn a_transaction_that_only_reads_this_database_keeps_no_lease() {
    let server = Server::start();
    let other = server.open_apart("shop", 1);
    other.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    other.busy_timeout(Duration::from_secs(3)).unwrap();
    let db = server.open("shop");
    db.execute("ATTACH ?1 AS aside", [server.options("aside").uri()]).unwrap();
    db.execute_batch("CREATE TABLE aside.u (a); CREATE TEMP TABLE x (a)").unwrap();
    let writes = [
        "CREATE TEMP TABLE y AS SELECT * FROM t",
        "INSERT INTO temp.x SELECT a FROM t",
        // Reads page 1 only.
        "INSERT INTO temp.x SELECT name FROM main.sqlite_schema",
        "INSERT INTO aside.u SELECT a FROM t",
    ];
    for sql in writes {
        // With all pages in SQLite's own cache, and with none.
        for shrink in ["", "PRAGMA shrink_memory;"] {
            db.execute_batch(&format!("{shrink} BEGIN; {sql}")).unwrap();
            other.execute("INSERT INTO t VALUES (2)", []).unwrap_or_else(|error| panic!("{sql}: {error}"));
            db.execute_batch("ROLLBACK").unwrap();
        }
    }
    db.execute("VACUUM main INTO ?1", [server.options("copy").uri()]).unwrap();
    assert!(!server.is_leased("shop"));
    db.execute_batch("BEGIN; INSERT INTO temp.x SELECT a FROM t; INSERT INTO t VALUES (3); COMMIT").unwrap();
    assert_eq!(number(&other, "SELECT count(*) FROM t WHERE a = 3"), 1);
    server.check_stored("shop");
}

#[test]
fn an_open_that_meets_a_busy_server_is_finished_by_the_first_statement() {
    let server = Server::with(["--lua-time-limit", "50"]).start();
    server.open("shop").execute_batch("PRAGMA page_size=1024; CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    let main = server.open("main");
    main.busy_timeout(Duration::from_secs(60)).unwrap();
    std::thread::scope(|scope| {
        let script = scope.spawn(|| redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut server.redis()));
        eventually("the server is busy", || server.redis_cli(&["GET", "x"]).contains("BUSY"));
        // Other settings, so these connections share no cache.
        let options = |n| server.options("shop").log_commits(n);
        let db = options(78).open().unwrap();
        db.busy_timeout(Duration::ZERO).unwrap();
        assert_eq!(code(db.execute_batch("SELECT * FROM t")), BUSY);
        assert_eq!(code(db.execute_batch("PRAGMA redis_version")), BUSY);
        let missing = server.options("missing").create(false).open().unwrap();
        missing.busy_timeout(Duration::from_secs(60)).unwrap();
        let ender = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            server.redis_cli(&["SCRIPT", "KILL"])
        });
        main.execute("ATTACH ?1 AS red", [options(79).uri()]).unwrap();
        main.execute_batch("CREATE TABLE red.u (a); INSERT INTO red.u SELECT a FROM red.t").unwrap();
        assert!(missing.execute_batch("SELECT * FROM t").is_err(), "the database does not exist");
        ender.join().unwrap();
        script.join().unwrap().expect_err("it was killed");
        assert_eq!(number(&db, "SELECT count(*) FROM u"), 1);
        assert_eq!(number(&db, "PRAGMA page_size"), 1024);
    });
    assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{missing}"]), "0");
    server.check_stored("shop");
}
