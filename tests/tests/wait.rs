//! Commits that wait for replicas.

use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::{Server, check_integrity, code, eventually, number, text};

const IOERR_FSYNC: i32 = 1034;

fn primary_and_replica() -> (Server, Server) {
    let primary = Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start();
    let replica = Server::replica_of(&primary);
    (primary, replica)
}

fn open(primary: &Server, replicas: u32, time: Duration) -> Connection {
    primary.options("shop").wait(replicas, time).open().unwrap()
}

#[test]
fn a_commit_is_on_the_replicas_when_it_is_reported() {
    let (primary, replica) = primary_and_replica();
    let db = open(&primary, 1, Duration::from_secs(9));
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    let there = replica.options("shop").read_only(true).open().unwrap();
    for x in 1..=200 {
        db.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
        assert_eq!(number(&there, "SELECT max(x) FROM t"), x);
    }
    check_integrity(&there);
}

#[test]
fn waiting_costs_no_round_trip_of_its_own() {
    let (primary, _replica) = primary_and_replica();
    let db = open(&primary, 1, Duration::from_secs(9));
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    let trips = || -> u64 {
        let stats = text(&db, "PRAGMA redis_stats");
        stats.split(['=', ' ']).nth(1).unwrap().parse().unwrap()
    };
    let before = trips();
    db.execute("INSERT INTO t VALUES (1)", []).unwrap();
    assert_eq!(trips() - before, 3);
    assert_eq!(primary.calls("wait"), 2);
}

#[test]
fn a_commit_that_too_few_replicas_have_says_so_and_stands() {
    let (primary, replica) = primary_and_replica();
    open(&primary, 1, Duration::from_secs(9)).execute_batch("CREATE TABLE t (x)").unwrap();
    let db = open(&primary, 1, Duration::from_millis(100));
    replica.signal("STOP");
    assert_eq!(code(db.execute("INSERT INTO t VALUES (1)", [])), IOERR_FSYNC);
    let error = sqlite_redis::last_error(&db).unwrap().to_string();
    assert!(error.contains("version 2 is written and stands on the primary, but only 0 of 1 replicas"), "{error}");
    // The connection goes on, with the commit that stands.
    assert!(db.is_autocommit());
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 1);
    replica.signal("CONT");
    open(&primary, 1, Duration::from_secs(9)).execute("INSERT INTO t VALUES (2)", []).unwrap();
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 2);
    check_integrity(&db);
    assert_eq!(number(&replica.options("shop").open().unwrap(), "SELECT count(*) FROM t"), 2);
}

#[test]
fn the_number_of_replicas_can_be_changed_on_the_connection() {
    let server = Server::start();
    let db = server.options("shop").wait(1, Duration::from_millis(50)).open().unwrap();
    assert_eq!(code(db.execute_batch("CREATE TABLE t (x)")), IOERR_FSYNC, "there is no replica");
    assert_eq!(text(&db, "PRAGMA redis_wait"), "1");
    assert_eq!(text(&db, "PRAGMA redis_wait = 0"), "0");
    db.execute("INSERT INTO t VALUES (1)", []).unwrap();
    assert!(db.execute_batch("PRAGMA redis_wait = some").is_err());
    assert_eq!(text(&db, "PRAGMA redis_wait"), "0");
}

#[test]
fn a_commit_whose_reply_was_lost_waits_for_replicas_all_the_same() {
    let (primary, replica) = primary_and_replica();
    let proxy = Proxy::to(&primary);
    let patient = proxy.options("shop").wait(1, Duration::from_secs(9)).open().unwrap();
    patient.execute_batch("CREATE TABLE t (x)").unwrap();
    proxy.next("EXEC", Fault::LoseReply);
    patient.execute("INSERT INTO t VALUES (1)", []).unwrap();
    assert_eq!(number(&replica.options("shop").open().unwrap(), "SELECT count(*) FROM t"), 1);
    let db = proxy.options("shop").wait(1, Duration::from_millis(100)).open().unwrap();
    replica.signal("STOP");
    proxy.next("EXEC", Fault::LoseReply);
    assert_eq!(code(db.execute("INSERT INTO t VALUES (2)", [])), IOERR_FSYNC);
    replica.signal("CONT");
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 2);
    let there = replica.options("shop").open().unwrap();
    eventually("the replica has it", || number(&there, "SELECT count(*) FROM t") == 2);
}
