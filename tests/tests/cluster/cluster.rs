//! Databases distributed over the nodes of a Redis Cluster.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;
use sqlite_redis::admin::Admin;
use sqlite_redis::{Consistency, Options};
use sqlite_redis_tests::cluster::Cluster;
use sqlite_redis_tests::failures::{assert_failure, code, failure, open_failure};
use sqlite_redis_tests::replicated::told;
use sqlite_redis_tests::{Server, check_integrity, eventually, number, vtab};

fn open(options: &Options) -> Connection {
    let db = options.open().unwrap_or_else(|error| panic!("{error}"));
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    db
}

/// A primary other than `node`.
fn another(cluster: &Cluster, node: usize) -> usize {
    cluster.primaries().into_iter().find(|other| *other != node).unwrap()
}

#[test]
fn fifty_databases_lose_nothing_while_slots_move_and_a_primary_is_killed() {
    let cluster = Cluster::new();
    let names: Vec<String> = (0..50).map(|n| format!("db{n}")).collect();
    for name in &names {
        open(&cluster.options(name)).execute_batch("CREATE TABLE t (x TEXT UNIQUE)").unwrap();
    }
    let owners: BTreeSet<usize> = names.iter().map(|name| cluster.owner(name)).collect();
    assert_eq!(owners.len(), 3, "the databases are on all nodes");
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(Admin::connect(&cluster.options("")).unwrap().names().unwrap(), sorted);

    let (stop, done) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let options: Vec<Options> =
        names.iter().map(|name| cluster.options(name).wait(1, Duration::from_secs(1))).collect();
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (stop, done, options) = (&stop, &done, &options);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(worker);
                let mut mine = Vec::new();
                while !stop.load(Relaxed) {
                    let n = random.random_range(0..options.len());
                    let value = format!("{worker}.{}", mine.len());
                    let inserted = options[n].open().map_err(|error| error.to_string()).and_then(|db| {
                        db.busy_timeout(Duration::from_secs(5)).map_err(|error| error.to_string())?;
                        Ok(db.execute("INSERT INTO t VALUES (?1)", [&value]))
                    });
                    // The database did not open, so the insert was not done.
                    mine.push((n, value, inserted.unwrap_or(Err(rusqlite::Error::InvalidQuery))));
                }
                done.lock().unwrap().extend(mine);
            });
        }
        let progress = || Admin::connect(&cluster.options("")).unwrap();
        let version = |name: &str| progress().info(name).ok().flatten().map_or(0, |info| info.version);
        for name in &names[..12] {
            let from = cluster.owner(name);
            let to = another(&cluster, from);
            cluster.begin_to_move(cluster.slot(name), from, to);
            std::thread::sleep(Duration::from_millis(20));
            cluster.finish_to_move(cluster.slot(name), from, to);
            let before = version(name);
            eventually("the database is written at its new node", || version(name) > before);
        }
        let killed = cluster.owner("db20");
        cluster.nodes[killed].signal("KILL");
        let before = version("db20");
        eventually("the database is written at the next primary", || version("db20") > before);
        stop.store(true, Relaxed);
    });
    let done = done.into_inner().unwrap();
    assert!(done.iter().filter(|(_, _, outcome)| outcome.is_ok()).count() > 100);
    for (n, name) in names.iter().enumerate() {
        let db = open(&options[n]);
        check_integrity(&db);
        for (_, value, outcome) in done.iter().filter(|(at, _, _)| *at == n) {
            let there = number(&db, &format!("SELECT count(*) FROM t WHERE x = '{value}'"));
            match outcome {
                Ok(_) => assert_eq!(there, 1, "{name} lost {value}"),
                Err(rusqlite::Error::SqliteFailure(error, _)) if error.extended_code == code::IOERR_FSYNC => {}
                Err(error) => assert_eq!(there, 0, "{name} has {value} in spite of {error}"),
            }
        }
    }
}

#[test]
fn a_slot_that_moves_under_transactions_costs_the_writer_a_retry_and_readers_nothing() {
    let cluster = Cluster::new();
    let options = |n: u64| cluster.options("shop").timeout(Duration::from_millis(20_000 + n)).cache_size(4096);
    let (one, two) = (open(&options(1)), open(&options(2)));
    one.execute_batch("CREATE TABLE t (x, filler); INSERT INTO t VALUES (1, zeroblob(20000))").unwrap();
    two.execute_batch("PRAGMA cache_size = 2").unwrap();
    let slot = cluster.slot("shop");
    let from = cluster.owner("shop");
    let to = another(&cluster, from);

    one.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2, zeroblob(20000))").unwrap();
    two.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&two, "SELECT count(*) FROM t"), 1);
    cluster.begin_to_move(slot, from, to);
    cluster.move_key("sqlite:{shop}", from, to);
    assert_eq!(
        number(&two, "SELECT sum(length(hex(filler))) FROM t"),
        40_000,
        "the reader follows the redirection to the other node"
    );
    assert_failure(failure(&one, "COMMIT"), code::BUSY_SNAPSHOT, "roll back and try again");
    assert!(one.is_autocommit());
    one.busy_timeout(Duration::ZERO).unwrap();
    assert_failure(failure(&one, "INSERT INTO t VALUES (3, '')"), code::BUSY, "ASK");
    assert_eq!(number(&one, "SELECT count(*) FROM t"), 1);
    cluster.finish_to_move(slot, from, to);
    assert_eq!(number(&two, "SELECT sum(length(hex(filler))) FROM t"), 40_000);
    two.execute_batch("COMMIT").unwrap();

    // The whole slot moves between two statements of a transaction.
    one.busy_timeout(Duration::from_secs(30)).unwrap();
    one.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (4, '')").unwrap();
    cluster.begin_to_move(slot, to, from);
    cluster.finish_to_move(slot, to, from);
    assert_failure(failure(&one, "COMMIT"), code::BUSY_SNAPSHOT, "roll back and try again");
    one.execute_batch("INSERT INTO t VALUES (5, '')").unwrap();
    assert_eq!(number(&two, "SELECT count(*) FROM t"), 2);
    check_integrity(&two);
}

#[test]
fn a_waiting_writer_gets_the_lease_while_its_slot_moves() {
    let cluster = Cluster::new();
    let options = |n: u64| cluster.options("shop").timeout(Duration::from_millis(20_000 + n));
    let (one, two) = (open(&options(1)), open(&options(2)));
    one.execute_batch("CREATE TABLE t (x); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    let slot = cluster.slot("shop");
    let from = cluster.owner("shop");
    let to = another(&cluster, from);
    cluster.begin_to_move(slot, from, to);
    let waits = std::thread::spawn(move || two.execute("INSERT INTO t VALUES (2)", []));
    eventually("the node refuses to queue the waiter", || {
        let refused = cluster.nodes[from].redis_cli(&["INFO", "errorstats"]);
        refused.contains("errorstat_TRYAGAIN") || refused.contains("errorstat_ASK")
    });
    let committed = one.execute_batch("COMMIT");
    cluster.finish_to_move(slot, from, to);
    committed.unwrap();
    assert_eq!(waits.join().unwrap(), Ok(1));
    assert_eq!(number(&one, "SELECT sum(x) FROM t"), 3);
    check_integrity(&one);
}

#[test]
fn reads_follow_a_slot_to_the_replicas_of_its_new_node() {
    let mut cluster = Cluster::new();
    let db = open(&cluster.options("shop"));
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let options = cluster.options("shop").replica("auto").consistency(Consistency::Snapshot);
    // Another timeout gives the reader its own cache, as in another process.
    let reader = open(&options.timeout(Duration::from_millis(2001)));
    let read = || (number(&reader, "SELECT count(*) FROM t"), told(&reader, "server"));
    let is_read = |rows: i64, node: &Server| {
        eventually("the replica is read", || {
            let (seen, server) = read();
            assert!([rows - 1, rows].contains(&seen), "{seen} of {rows} rows, of {server}");
            seen == rows && server == node.tcp_url()
        });
    };
    let from = cluster.owner("shop");
    let replica = &cluster.nodes[cluster.replica(from)];
    is_read(1, replica);
    assert!(replica.calls("readonly") > 0);

    // The slot moves to another node with another replica.
    let to = another(&cluster, from);
    cluster.begin_to_move(cluster.slot("shop"), from, to);
    cluster.finish_to_move(cluster.slot("shop"), from, to);
    eventually("the old replica no longer serves the slot", || {
        replica.redis_cli(&["GET", "sqlite:{shop}:lock"]).contains("MOVED")
    });
    assert_eq!(read().0, 1);
    db.execute("INSERT INTO t VALUES (2)", []).unwrap();
    let next = cluster.replica(to);
    is_read(2, &cluster.nodes[next]);

    // The new node fails and its replica takes over. Later the node returns as a replica.
    cluster.nodes[to].kill();
    db.execute("INSERT INTO t VALUES (3)", []).unwrap();
    cluster.nodes[to].restart();
    is_read(3, &cluster.nodes[to]);
    assert_eq!(cluster.owner("shop"), next);
    check_integrity(&reader);
}

#[test]
fn redirections_are_followed_only_for_a_cluster_url() {
    let cluster = Cluster::new();
    let stranger = cluster.nodes.iter().find(|node| node.pid() != cluster.nodes[cluster.owner("shop")].pid()).unwrap();
    let (found, error) = open_failure(&stranger.options("shop"));
    assert_eq!(found, code::CANTOPEN);
    assert!(error.contains("MOVED") && error.contains("redis+cluster://"), "{error}");
    let plain = sqlite_redis_tests::Server::with([""; 0]).tcp().start();
    let url = plain.tcp_url().replace("redis://", "redis+cluster://");
    let error = Options::new("shop").server(url).open().unwrap_err().to_string();
    assert!(error.contains("cluster support disabled"), "{error}");
}

#[test]
fn databases_and_tables_of_all_slots_of_a_node_share_its_connections() {
    let cluster = Cluster::new();
    let clients = || -> i64 {
        let of = |node: &Server| {
            let info = node.redis_cli(&["INFO", "clients"]);
            info.lines().find_map(|line| line.strip_prefix("connected_clients:")?.trim().parse::<i64>().ok()).unwrap()
        };
        cluster.nodes.iter().map(of).sum()
    };
    let before = clients();
    for n in 0..40 {
        cluster.options(&format!("many{n}")).open().unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    }
    let tables = vtab::connect();
    for n in 0..40 {
        let columns = "id INTEGER PRIMARY KEY, x";
        let sql = format!("CREATE VIRTUAL TABLE v USING redis('{}', '{{tag{n}}}', {columns})", cluster.url());
        tables.execute_batch(&format!("{sql}; INSERT INTO v (x) VALUES (1); DROP TABLE v")).unwrap();
    }
    let more = clients() - before;
    assert!(more <= 2 * cluster.nodes.len() as i64, "{more} connections for 80 slots");
}
