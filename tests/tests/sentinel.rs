//! Databases on whichever server the Sentinels name.

use rusqlite::Connection;
use sqlite_redis_tests::failovers;
use sqlite_redis_tests::group::Group;
use sqlite_redis_tests::{check_integrity, number};
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
    // Waits for the next primary by itself.
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

/// `FAILOVERS=20 SEED=7 cargo test -p sqlite-redis-tests --test sentinel nothing -- --nocapture` runs more of them.
#[test]
fn nothing_acknowledged_is_lost_in_failovers_and_clients_write_again() {
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
