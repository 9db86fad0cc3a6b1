//! Every commit ends with a correct outcome, even if the server or a proxy keeps closing its connections.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use sqlite_redis::Options;
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::{Server, check_integrity, code, number, program};

const BUSY_SNAPSHOT: i32 = 517;
const IOERR_WRITE: i32 = 778;
const IOERR_FSYNC: i32 = 1034;

/// Limit for commits that would otherwise retry forever.
const SOON: Duration = Duration::from_secs(30);

/// Upper bound of a commit's attempts with the timeouts of [`hasty`].
const ATTEMPTS: usize = 20;

fn hasty(options: Options) -> Options {
    options.timeout(Duration::from_secs(1)).lease(Duration::from_secs(1))
}

fn table(server: &Server) {
    server.open("shop").execute_batch("CREATE TABLE t (x INTEGER, y)").unwrap();
}

/// Creates a table; returns a proxy to the server and a connection through it.
fn scene(server: &Server) -> (Proxy, Connection) {
    table(server);
    let proxy = Proxy::to(server);
    let db = hasty(proxy.options("shop")).open().unwrap();
    (proxy, db)
}

fn count(server: &Server, x: i64) -> i64 {
    let direct = server.open("shop");
    check_integrity(&direct);
    number(&direct, &format!("SELECT count(*) FROM t WHERE x = {x}"))
}

fn cause(db: &Connection) -> String {
    sqlite_redis::last_error(db).expect("a cause").to_string()
}

fn set(server: &Server, setting: &str, value: &str) {
    assert_eq!(server.redis_cli(&["CONFIG", "SET", setting, value]), "OK", "{setting}");
}

fn calls(server: &Server, command: &str) -> usize {
    let statistics = server.redis_cli(&["INFO", "commandstats"]);
    let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[test]
fn a_commit_over_the_servers_client_limit_fails_in_time_and_names_the_limit() {
    if !program::has("maxmemory-clients", 7, 0) {
        return;
    }
    let server = Server::start();
    table(&server);
    let db = hasty(server.options("shop")).open().unwrap();
    let limit = "maxmemory-clients";
    set(&server, limit, "2mb");
    let (begun, before) = (Instant::now(), calls(&server, "watch"));
    let outcome = db.execute("INSERT INTO t VALUES (1, randomblob(4000000))", []);
    assert!(begun.elapsed() < SOON);
    let (code, said) = (code(outcome), cause(&db));
    assert!([IOERR_WRITE, IOERR_FSYNC].contains(&code), "{code}: {said}");
    assert!(said.contains(limit), "{said}");
    let attempts = calls(&server, "watch") - before;
    assert!((2..ATTEMPTS).contains(&attempts), "{attempts} attempts");
    set(&server, limit, "0");
    assert_eq!(count(&server, 1), 0);
    db.execute("INSERT INTO t VALUES (2, randomblob(4000000))", []).unwrap();
    assert_eq!(count(&server, 2), 1);
}

#[test]
fn a_commit_that_is_cut_off_before_exec_is_reported_as_not_written() {
    let server = Server::start();
    let (proxy, db) = scene(&server);
    // The pages exceed the buffers of socket and proxy, so `EXEC` cannot have been sent.
    proxy.each("HSET", Fault::LoseRequest);
    let begun = Instant::now();
    let outcome = db.execute("INSERT INTO t VALUES (1, randomblob(30000000))", []);
    assert!(begun.elapsed() < SOON);
    assert_eq!(code(outcome), IOERR_WRITE);
    assert!(cause(&db).contains("nothing was written"), "{}", cause(&db));
    let attempts = proxy.commands().iter().filter(|command| *command == "HSET").count();
    assert!((2..ATTEMPTS).contains(&attempts), "{attempts} attempts");
    proxy.disarm();
    assert_eq!(count(&server, 1), 0);
    db.execute("INSERT INTO t VALUES (2, 2)", []).unwrap();
    assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{shop}:lock"]), "0");
}

#[test]
fn a_commit_cut_off_at_every_exec_is_reported_as_unknown() {
    let server = Server::start();
    let (proxy, db) = scene(&server);
    proxy.each("EXEC", Fault::LoseRequest);
    let begun = Instant::now();
    let outcome = db.execute("INSERT INTO t VALUES (1, 1)", []);
    assert!(begun.elapsed() < SOON);
    assert_eq!(code(outcome), IOERR_FSYNC);
    assert!(cause(&db).contains("unknown whether version 2 "), "{}", cause(&db));
    let attempts = proxy.commands().iter().filter(|command| *command == "EXEC").count();
    assert!((2..ATTEMPTS).contains(&attempts), "{attempts} attempts");
    proxy.disarm();
    db.execute("INSERT INTO t VALUES (2, 2)", []).unwrap();
    assert_eq!((count(&server, 1), count(&server, 2)), (0, 1));
}

#[test]
fn a_commit_of_two_databases_cut_off_at_every_exec_is_reported_as_unknown() {
    let server = Server::start();
    let (proxy, db) = scene(&server);
    db.execute("ATTACH ?1 AS other", [hasty(proxy.options("other")).uri()]).unwrap();
    db.execute_batch("CREATE TABLE other.u (x)").unwrap();
    proxy.each("EXEC", Fault::LoseRequest);
    let begun = Instant::now();
    let outcome = db.execute_batch("BEGIN; INSERT INTO t VALUES (1, 1); INSERT INTO u VALUES (1); COMMIT");
    assert!(begun.elapsed() < SOON);
    assert!(outcome.is_err());
    assert!(cause(&db).contains("unknown whether version "), "{}", cause(&db));
    let attempts = proxy.commands().iter().filter(|command| *command == "EXEC").count();
    assert!((2..ATTEMPTS).contains(&attempts), "{attempts} attempts");
    proxy.disarm();
    if !db.is_autocommit() {
        db.execute_batch("ROLLBACK").unwrap();
    }
    db.execute_batch("BEGIN; INSERT INTO t VALUES (2, 2); INSERT INTO u VALUES (2); COMMIT").unwrap();
    assert_eq!(number(&db, "SELECT count(*) FROM u"), 1);
    assert_eq!((count(&server, 1), count(&server, 2)), (0, 1));
}

/// Loses the reply to a commit, and runs `meanwhile` before the client looks up the outcome.
fn lost_while(server: &Server, meanwhile: impl Fn(&Connection) + Sync) -> (rusqlite::Result<usize>, Connection) {
    let (proxy, db) = scene(server);
    std::thread::scope(|scope| {
        proxy.next("EXEC", Fault::HoldReply);
        let writer = scope.spawn(move || (db.execute("INSERT INTO t VALUES (1, 1)", []), db));
        proxy.wait_for_held(1);
        redis::cmd("DEL").arg("sqlite:{shop}:lock").exec(&mut server.redis()).unwrap();
        meanwhile(&server.open("shop"));
        proxy.cut_held();
        writer.join().unwrap()
    })
}

fn delete(server: &Server, keys: &[&str]) {
    redis::cmd("DEL").arg(keys).exec(&mut server.redis()).unwrap();
}

#[test]
fn a_lost_reply_without_log_or_database_is_reported_as_unknown() {
    let server = Server::start();
    let (outcome, db) = lost_while(&server, |rival| {
        rival.execute("INSERT INTO t VALUES (2, 2)", []).unwrap();
        delete(&server, &["sqlite:{shop}:log"]);
    });
    assert_eq!(code(outcome), IOERR_FSYNC, "the log was trimmed");
    assert!(cause(&db).contains("the log does not reach back"), "{}", cause(&db));
    assert_eq!((count(&server, 1), count(&server, 2)), (1, 1));
    let server = Server::start();
    let (outcome, db) =
        lost_while(&server, |_| delete(&server, &["sqlite:{shop}", "sqlite:{shop}:log", "sqlite:{shop}:undo"]));
    assert_eq!(code(outcome), IOERR_FSYNC, "the database was evicted");
    assert!(cause(&db).contains("the database is gone"), "{}", cause(&db));
}

#[test]
fn a_lost_reply_is_resolved_by_the_hash_even_with_a_damaged_log() {
    for damage in [&["SET", "sqlite:{shop}:log", "x"], &["DEL", "sqlite:{shop}:log", "y"]] {
        let server = Server::start();
        let (outcome, _db) = lost_while(&server, |_| drop(server.redis_cli(damage)));
        outcome.unwrap_or_else(|error| panic!("{damage:?}: {error}"));
        delete(&server, &["sqlite:{shop}:log"]);
        assert_eq!(count(&server, 1), 1, "{damage:?}");
    }
}

#[test]
fn a_lost_commit_is_refused_when_the_log_has_another_at_its_version() {
    let server = Server::start();
    let (proxy, db) = scene(&server);
    proxy.next("EXEC", Fault::HoldRequest);
    let outcome = std::thread::scope(|scope| {
        let writer = scope.spawn(move || db.execute("INSERT INTO t VALUES (1, 1)", []));
        proxy.wait_for_held(1);
        redis::cmd("DEL").arg("sqlite:{shop}:lock").exec(&mut server.redis()).unwrap();
        for x in [2, 3] {
            server.open("shop").execute("INSERT INTO t VALUES (?1, 0)", [x]).unwrap();
        }
        proxy.cut_held();
        writer.join().unwrap()
    });
    assert_eq!(code(outcome), BUSY_SNAPSHOT);
    assert_eq!((count(&server, 1), count(&server, 2), count(&server, 3)), (0, 1, 1));
}
