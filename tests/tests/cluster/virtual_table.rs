//! Large commits to virtual tables in a Redis Cluster. A script compares their read set, and a slot that moves
//! during the commit never leaves it half done.

use redis::cmd;
use rusqlite::Connection;
use sqlite_redis_tests::cluster::Cluster;
use sqlite_redis_tests::vtab::connect;
use sqlite_redis_tests::{code, eventually, number, text};

const COLUMNS: &str = "id INTEGER PRIMARY KEY, n INT INDEXED, s TEXT UNIQUE";
const FEW_KEYS: &str = "id INTEGER PRIMARY KEY, n INT INDEXED, s TEXT";

fn tables(cluster: &Cluster, names: &[&str], columns: &str) -> Connection {
    let one = connect();
    for name in names {
        let table = format!("CREATE VIRTUAL TABLE {name} USING redis('{}', '{{vt}}', {columns})", cluster.url());
        one.execute_batch(&table).unwrap();
    }
    one
}

fn fill(connection: &Connection, table: &str, rows: i64) {
    let rows = format!("WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < {rows})");
    connection.execute_batch(&format!("{rows} INSERT INTO {table} SELECT n, n % 7, 's' || n FROM n")).unwrap();
}

#[test]
fn a_large_commit_in_a_cluster_watches_once_per_table_and_detects_conflicts() {
    let cluster = Cluster::new();
    let owner = &cluster.nodes[cluster.owner("vt")];
    let (one, two) = (tables(&cluster, &["t", "u"], COLUMNS), tables(&cluster, &["t", "u"], COLUMNS));
    for table in ["t", "u"] {
        fill(&one, table, 200);
    }
    for (sql, watches) in [
        ("UPDATE t SET n = n + 10", 1),
        ("BEGIN; UPDATE t SET s = 't' || s; UPDATE u SET s = 'u' || s; COMMIT", 2),
        ("BEGIN; SELECT sum(n) FROM t; DELETE FROM u WHERE id > 100; COMMIT", 2),
    ] {
        // One `WATCH` per table has all its keys.
        let before = owner.calls("watch");
        one.execute_batch(sql).unwrap();
        assert_eq!(owner.calls("watch") - before, watches, "{sql}");
    }
    let sums = "SELECT (SELECT sum(n) FROM t WHERE s LIKE 'ts%') || ' ' || (SELECT count(*) FROM u WHERE s LIKE 'us%')";
    assert_eq!(text(&two, sums), format!("{} 100", number(&two, "SELECT sum(id % 7 + 10) FROM t")));
    // A concurrent change to one table refuses a commit to both.
    for other in ["UPDATE t SET n = -1 WHERE id = 150", "DELETE FROM u WHERE id = 70"] {
        one.execute_batch("BEGIN; UPDATE t SET n = 0; UPDATE u SET n = 0").unwrap();
        two.execute_batch(other).unwrap();
        let before = text(&two, "SELECT (SELECT sum(n) FROM t) || ' ' || (SELECT sum(n) FROM u)");
        assert_eq!(code(one.execute_batch("COMMIT")) & 0xff, 5, "{other}");
        assert_eq!(text(&two, "SELECT (SELECT sum(n) FROM t) || ' ' || (SELECT sum(n) FROM u)"), before, "{other}");
    }
}

#[test]
fn a_large_commit_waits_for_a_slot_that_moves() {
    let cluster = Cluster::new();
    let from = cluster.owner("vt");
    let to = cluster.primaries().into_iter().find(|node| *node != from).unwrap();
    let slot = cluster.slot("vt");
    let (one, two) = (tables(&cluster, &["t"], FEW_KEYS), tables(&cluster, &["t"], FEW_KEYS));
    fill(&one, "t", 150);
    one.execute_batch("BEGIN; UPDATE t SET n = n + 10, s = 'later ' || s; DELETE FROM t WHERE id > 120").unwrap();
    cluster.begin_to_move(slot, from, to);
    // A commit waits for a short time only, so most keys move now and few are left for later.
    for n in 5..150 {
        cluster.move_key(&format!("{{vt}}.main.t:{n}"), from, to);
    }
    let rejected = || -> u64 {
        let stats = cluster.nodes[from].redis_cli(&["INFO", "commandstats"]);
        let calls = stats.split("rejected_calls=").skip(1).filter_map(|rest| rest.split(',').next());
        calls.map(|calls| calls.parse::<u64>().unwrap()).sum()
    };
    let before = rejected();
    std::thread::scope(|scope| {
        let commit = scope.spawn(move || one.execute_batch("COMMIT"));
        eventually("the node has refused to write a part", || rejected() > before);
        assert_eq!(number(&two, "SELECT count(*) FROM t WHERE s LIKE 'later%'"), 0);
        cluster.finish_to_move(slot, from, to);
        commit.join().unwrap().unwrap();
    });
    assert_eq!(number(&two, "SELECT count(*) FROM t WHERE s LIKE 'later%' AND n > 9"), 120);
    assert_eq!(number(&two, "SELECT count(*) FROM t WHERE n = 13"), 17);
    assert_eq!(number(&two, "SELECT count(*) FROM t"), 120);
}

#[test]
fn a_commit_in_slices_is_atomic_while_its_slot_moves() {
    let cluster = Cluster::new();
    let from = cluster.owner("vt");
    let to = cluster.primaries().into_iter().find(|node| *node != from).unwrap();
    let (one, two) = (tables(&cluster, &["t"], COLUMNS), tables(&cluster, &["t"], COLUMNS));
    fill(&one, "t", 1500);
    one.execute_batch("BEGIN; UPDATE t SET n = -1, s = 'later ' || s").unwrap();
    let slot = cluster.slot("vt");
    cluster.begin_to_move(slot, from, to);
    let refused = || cluster.nodes[from].redis_cli(&["INFO", "errorstats"]).contains("errorstat_ASK");
    let committed = std::thread::scope(|scope| {
        let commit = scope.spawn(move || one.execute_batch("COMMIT"));
        eventually("the node has refused to write", refused);
        cluster.finish_to_move(slot, from, to);
        commit.join().unwrap()
    });
    // With many keys to move, the commit may time out first.
    let rows = if committed.is_ok() { 1500 } else { 0 };
    assert!(committed.is_ok() || code(committed) & 0xff == 5);
    let written = "SELECT count(*) FROM t WHERE s LIKE 'later%' AND n = -1";
    assert_eq!(number(&two, written), rows);
    two.execute_batch("UPDATE t SET n = -1, s = 'later ' || id").unwrap();
    assert_eq!(number(&two, written), 1500);
}

/// `scripted.rs` relies on this for a slot that begins to move after the last check.
#[test]
fn a_transaction_with_a_missing_key_is_refused_while_its_slot_moves() {
    let cluster = Cluster::new();
    let from = cluster.owner("vt");
    let to = cluster.primaries().into_iter().find(|node| *node != from).unwrap();
    let slot = cluster.slot("vt");
    let mut redis = cluster.nodes[from].redis();
    let set = |redis: &mut redis::Connection| cmd("SADD").arg("{vt}.there").arg(1).exec(redis);
    set(&mut redis).unwrap();
    let empty = "redis.call('SREM', KEYS[1], 1) return redis.call('SADD', KEYS[1], 2)";
    // As the module's comment says: a script cannot write a key again that it has emptied.
    cluster.begin_to_move(slot, from, to);
    cmd("EVAL").arg(empty).arg(1).arg("{vt}.there").exec(&mut redis).unwrap_err();
    cluster.finish_to_move(slot, from, to);
    cluster.begin_to_move(slot, to, from);
    cluster.finish_to_move(slot, to, from);
    set(&mut redis).unwrap();
    for nothing in ["{vt}.there", "{vt}.nothing"] {
        cmd("MULTI").exec(&mut redis).unwrap();
        cmd("EVAL").arg("").arg(1).arg(nothing).exec(&mut redis).unwrap();
        cmd("SREM").arg("{vt}.there").arg(2).exec(&mut redis).unwrap();
        if nothing.ends_with("nothing") {
            cluster.begin_to_move(slot, from, to);
        }
        assert_eq!(cmd("EXEC").exec(&mut redis).is_err(), nothing.ends_with("nothing"), "{nothing}");
    }
}
