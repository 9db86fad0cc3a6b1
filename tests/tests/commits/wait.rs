//! Commits that wait for replicas or for the disk.

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
fn wait_adds_no_round_trip() {
    let (primary, _replica) = primary_and_replica();
    let db = open(&primary, 1, Duration::from_secs(9));
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    let trips = || -> u64 {
        let stats = text(&db, "PRAGMA redis_stats");
        stats.split(['=', ' ']).nth(1).unwrap().parse().unwrap()
    };
    let before = trips();
    db.execute("INSERT INTO t VALUES (1)", []).unwrap();
    assert_eq!(trips() - before, 2);
    assert_eq!(primary.calls("wait"), 2);
}

#[test]
fn a_commit_on_too_few_replicas_is_reported_and_kept() {
    let (primary, replica) = primary_and_replica();
    open(&primary, 1, Duration::from_secs(9)).execute_batch("CREATE TABLE t (x)").unwrap();
    let db = open(&primary, 1, Duration::from_millis(100));
    replica.signal("STOP");
    assert_eq!(code(db.execute("INSERT INTO t VALUES (1)", [])), IOERR_FSYNC);
    let error = sqlite_redis::last_error(&db).unwrap().to_string();
    assert!(error.contains("version 2 is written and stands on the primary, but only 0 of 1 replicas"), "{error}");
    // The connection stays usable and sees the commit.
    assert!(db.is_autocommit());
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 1);
    replica.signal("CONT");
    open(&primary, 1, Duration::from_secs(9)).execute("INSERT INTO t VALUES (2)", []).unwrap();
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 2);
    check_integrity(&db);
    assert_eq!(number(&replica.options("shop").read_only(true).open().unwrap(), "SELECT count(*) FROM t"), 2);
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
fn a_commit_whose_reply_was_lost_still_waits_for_replicas() {
    let (primary, replica) = primary_and_replica();
    let proxy = Proxy::to(&primary);
    let patient = proxy.options("shop").wait(1, Duration::from_secs(9)).open().unwrap();
    patient.execute_batch("CREATE TABLE t (x)").unwrap();
    proxy.next("EXEC", Fault::LoseReply);
    patient.execute("INSERT INTO t VALUES (1)", []).unwrap();
    assert_eq!(number(&replica.options("shop").read_only(true).open().unwrap(), "SELECT count(*) FROM t"), 1);
    let db = proxy.options("shop").wait(1, Duration::from_millis(100)).open().unwrap();
    replica.signal("STOP");
    proxy.next("EXEC", Fault::LoseReply);
    assert_eq!(code(db.execute("INSERT INTO t VALUES (2)", [])), IOERR_FSYNC);
    replica.signal("CONT");
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 2);
    let there = replica.options("shop").read_only(true).open().unwrap();
    eventually("the replica has it", || number(&there, "SELECT count(*) FROM t") == 2);
}

#[test]
fn a_commit_found_on_the_old_primary_is_not_confirmed_by_a_new_primary_without_it() {
    let (primary, replica) = primary_and_replica();
    let next = Server::replica_of(&replica);
    let proxy = Proxy::to(&primary);
    let db = proxy.options("shop").wait(1, Duration::from_secs(5)).open().unwrap();
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    eventually("the replica has it", || replica.stored("shop") == primary.stored("shop"));
    assert_eq!(replica.redis_cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    eventually("the replica's own replica is in step", || next.is_replica_in_step());
    // The old primary has the commit and confirms it. Then the replica, which lacks it, takes over.
    proxy.next("EXEC", Fault::LoseReply);
    proxy.next("EVAL", Fault::HoldRequest);
    let writer = std::thread::spawn(move || code(db.execute("INSERT INTO t VALUES (1)", [])));
    proxy.wait_for_held(1);
    assert_eq!(number(&primary.open("shop"), "SELECT count(*) FROM t"), 1);
    proxy.turn(&replica);
    assert_eq!(writer.join().unwrap(), IOERR_FSYNC);
    assert_eq!(number(&replica.open("shop"), "SELECT count(*) FROM t"), 0);
}

/// A proxy that makes a server report this version in `INFO`, and whether it has an append-only file.
fn seeming(server: &Server, version: &str, aof: u8) -> Proxy {
    let proxy = Proxy::to(server);
    let info = format!("redis_version:{version}\r\nmaxmemory_policy:noeviction\r\naof_enabled:{aof}\r\n");
    proxy.answer("INFO", &format!("${}\r\n{info}\r\n", info.len()));
    proxy
}

#[test]
fn a_commit_is_on_disk_when_it_is_reported() {
    // Redis has no `WAITAOF` before 7.2, so the proxy answers it.
    let server = Server::start();
    let proxy = seeming(&server, "7.2.4", 1);
    proxy.answer("WAITAOF", "*2\r\n:1\r\n:0\r\n");
    let db = proxy.options("shop").wait_disk(true).open().unwrap();
    assert_eq!(text(&db, "PRAGMA redis_wait_disk"), "1");
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    let asked = |name: &str| proxy.commands().iter().filter(|command| *command == name).count();
    assert_eq!((asked("WAITAOF"), asked("WAIT")), (1, 0));
    proxy.answer("WAITAOF", "*2\r\n:0\r\n:0\r\n");
    assert_eq!(code(db.execute("INSERT INTO t VALUES (1)", [])), IOERR_FSYNC);
    let error = sqlite_redis::last_error(&db).unwrap().to_string();
    assert!(error.contains("stands on the primary, but it was not on the primary's disk"), "{error}");
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 1);
    proxy.answer("WAITAOF", "-ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.\r\n");
    assert_eq!(code(db.execute("INSERT INTO t VALUES (2)", [])), IOERR_FSYNC);
    let error = sqlite_redis::last_error(&db).unwrap().to_string();
    assert!(error.contains("appendonly is disabled"), "{error}");
    assert_eq!(text(&db, "PRAGMA redis_wait_disk = 0"), "0");
    db.execute("INSERT INTO t VALUES (3)", []).unwrap();
    assert_eq!((number(&db, "SELECT count(*) FROM t"), asked("WAITAOF")), (3, 3));
}

/// Servers without `WAITAOF` are refused instead.
#[test]
fn a_commit_that_waited_for_disks_survives_a_crash_of_all_servers() {
    let append = ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"];
    let mut primary = Server::with(append).tcp().start();
    let mut replica = Server::with(append).replica_of(&primary);
    let options = primary.options("shop").wait(1, Duration::from_secs(9)).wait_disk(true);
    let version = primary.redis_cli(&["INFO", "server"]);
    if ["redis_version:6.", "redis_version:7.0."].iter().any(|old| version.contains(old)) {
        let error = options.open().unwrap_err().to_string();
        assert!(error.contains("WAITAOF) needs Redis 7.2"), "{error}");
        return;
    }
    let db = options.open().unwrap();
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    for x in 1..=20 {
        db.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
    }
    replica.kill();
    primary.kill();
    for server in [&mut primary, &mut replica] {
        server.restart();
        assert_eq!(number(&server.open_apart("shop", 1), "SELECT sum(x) FROM t"), 210);
        server.check_stored("shop");
    }
    let lonely = primary.options("shop").wait(1, Duration::from_millis(100)).wait_disk(true).open().unwrap();
    assert_eq!(code(lonely.execute("INSERT INTO t VALUES (21)", [])), IOERR_FSYNC);
    let error = sqlite_redis::last_error(&lonely).unwrap().to_string();
    assert!(error.contains("only 0 of 1 replicas had it on disk"), "{error}");
}

#[test]
fn wait_disk_is_refused_without_waitaof_or_appendonly() {
    let server = Server::start();
    for (version, aof, words) in [("7.0.15", 1, "WAITAOF) needs Redis 7.2"), ("7.2.4", 0, "appendonly off")] {
        let proxy = seeming(&server, version, aof);
        let error = proxy.options("shop").wait_disk(true).open().unwrap_err().to_string();
        assert!(error.contains("wait_disk=1") && error.contains(words), "{error}");
        let db = proxy.options("shop").open().unwrap();
        assert!(db.execute_batch("PRAGMA redis_wait_disk = 1").is_err());
        assert!(db.execute_batch("PRAGMA redis_wait_disk = maybe").is_err());
        assert_eq!(text(&db, "PRAGMA redis_wait_disk"), "0");
    }
}
