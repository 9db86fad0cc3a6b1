//! Databases on the server that the Sentinels name.

use rusqlite::Connection;
use sqlite_redis::Consistency;
use sqlite_redis_tests::group::Group;
use sqlite_redis_tests::replicated::told;
use sqlite_redis_tests::{check_integrity, eventually, failovers, number};
use std::time::Duration;

fn open(group: &Group, name: &str) -> Connection {
    let db = group.options(name).open().unwrap_or_else(|error| panic!("{error}"));
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    db
}

#[test]
fn connections_follow_the_primary_and_the_old_one_comes_back_as_a_replica() {
    let mut group = Group::new();
    let db = open(&group, "a");
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    let old = group.primary();
    group.servers[old].kill();
    // The connection waits for the next primary.
    db.execute("INSERT INTO t VALUES (1)", []).unwrap();
    let new = group.switched_from(old);
    group.servers[old].restart();
    group.in_step();
    assert_eq!(group.primary(), new);
    db.execute("INSERT INTO t VALUES (2)", []).unwrap();
    let other = open(&group, "a");
    assert_eq!((number(&db, "SELECT count(*) FROM t"), number(&other, "SELECT count(*) FROM t")), (2, 2));
    check_integrity(&db);
    group.servers[new].check_stored("a");
}

#[test]
fn reads_use_the_replicas_of_the_current_primary() {
    let mut group = Group::new();
    let db = open(&group, "a");
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let options = group.options("a").replica("auto").consistency(Consistency::Snapshot);
    // Another timeout gives the reader its own cache, as another process would have it.
    let reader = options.timeout(Duration::from_millis(2001)).open().unwrap();
    let places: Vec<_> = group.relays.iter().map(|relay| format!("redis://127.0.0.1:{}", relay.port())).collect();
    let read = || (number(&reader, "SELECT count(*) FROM t"), told(&reader, "server"));
    let old = group.primary();
    eventually("a replica is read", || {
        let (rows, server) = read();
        assert!(rows == 1 && server != places[old], "{rows} of {server}");
        places.contains(&server)
    });
    group.servers[old].kill();
    db.execute("INSERT INTO t VALUES (2)", []).unwrap();
    let new = group.switched_from(old);
    let third = 3 - old - new;
    eventually("the replica of the new primary is read", || {
        let (rows, server) = read();
        assert!([1, 2].contains(&rows) && server != places[new], "{rows} of {server}");
        (rows, &server) == (2, &places[third])
    });
    group.servers[old].restart();
    group.in_step();
    group.servers[third].kill();
    db.execute("INSERT INTO t VALUES (3)", []).unwrap();
    eventually("the old primary is read, as a replica", || {
        let (rows, server) = read();
        assert!([2, 3].contains(&rows) && server != places[new], "{rows} of {server}");
        (rows, &server) == (3, &places[old])
    });
    check_integrity(&reader);
}

/// Runs more failovers with `FAILOVERS=20 SEED=7 cargo test -p sqlite-redis-tests --test replication sentinel::no_acknowledged -- --nocapture`.
#[test]
fn no_acknowledged_commit_is_lost_in_failovers() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (failovers, seed) = (number("FAILOVERS", 3), number("SEED", 1));
    let verdict = failovers::run(failovers as usize, seed, |failover| println!("{failover:?}"));
    assert_eq!(verdict.violations, [""; 0], "FAILOVERS={failovers} SEED={seed}");
    assert_eq!(verdict.failovers.len() as u64, failovers);
    assert!(verdict.acknowledged > 100 && verdict.reads > 100, "{verdict:?}");
    println!(
        "{} acknowledged, {} failed, {} unknown, {} reads",
        verdict.acknowledged, verdict.failed, verdict.unknown, verdict.reads
    );
}
