//! Round trips, commands and bytes, counted by the client and by the server.

use std::collections::BTreeMap;

use rusqlite::Connection;
use sqlite_redis_tests::{Server, check_integrity, eventually, hosts, number, text};

/// The values of `PRAGMA redis_stats`.
#[derive(Debug, Clone, Copy)]
struct Stats {
    round_trips: u64,
    commands: u64,
    bytes_sent: u64,
}

fn stats(connection: &Connection) -> Stats {
    let stats = text(connection, "PRAGMA redis_stats");
    let numbers: BTreeMap<&str, u64> =
        stats.split(' ').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k, v.parse().unwrap())).collect();
    Stats { round_trips: numbers["round_trips"], commands: numbers["commands"], bytes_sent: numbers["bytes_sent"] }
}

/// The client's own counts for `work`.
fn sent(connection: &Connection, work: impl FnOnce()) -> Stats {
    let before = stats(connection);
    work();
    let after = stats(connection);
    Stats {
        round_trips: after.round_trips - before.round_trips,
        commands: after.commands - before.commands,
        bytes_sent: after.bytes_sent - before.bytes_sent,
    }
}

/// The server's count of each command during `work`, from all clients.
fn served(server: &Server, work: impl FnOnce()) -> BTreeMap<String, u64> {
    let mut redis = server.redis();
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut redis).unwrap();
    work();
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut redis).unwrap();
    let mut calls = BTreeMap::new();
    for line in stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
        let (command, rest) = line.split_once(":calls=").unwrap();
        calls.insert(command.to_owned(), rest.split(',').next().unwrap().parse().unwrap());
    }
    // Commands of this function.
    for own in ["config|resetstat", "config", "info"] {
        if let Some(count) = calls.get_mut(own) {
            *count -= 1;
        }
    }
    calls.retain(|_, count| *count > 0);
    calls
}

fn total(calls: &BTreeMap<String, u64>) -> u64 {
    calls.values().sum()
}

/// A connection that has read its table of 1,000 rows, so that its cache is warm.
fn warm(server: &Server) -> Connection {
    let connection = server.open("shop");
    connection
        .execute_batch(
            "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
             INSERT INTO item SELECT i, 'item ' || i, i FROM n",
        )
        .unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM item"), 1000);
    connection
}

#[test]
fn a_warm_read_costs_one_command() {
    let server = Server::start();
    let connection = warm(&server);
    let calls = served(&server, || {
        assert_eq!(number(&connection, "SELECT sum(id) FROM item"), 500_500);
    });
    assert_eq!(calls, BTreeMap::from([("hmget".to_owned(), 1)]));
}

#[test]
fn a_warm_read_transaction_costs_one_command_however_many_queries_it_has() {
    let server = Server::start();
    let connection = warm(&server);
    let calls = served(&server, || {
        connection.execute_batch("BEGIN").unwrap();
        for id in 1..=100 {
            assert_eq!(number(&connection, &format!("SELECT id FROM item WHERE name = 'item {id}'")), id);
        }
        connection.execute_batch("COMMIT").unwrap();
    });
    assert_eq!(calls, BTreeMap::from([("hmget".to_owned(), 1)]));
    let client = sent(&connection, || {
        number(&connection, "SELECT count(*) FROM item");
    });
    assert_eq!((client.round_trips, client.commands), (1, 1), "the client counts the same");
}

#[test]
fn a_second_connection_of_the_process_reads_from_the_same_cache() {
    let server = Server::start();
    let one = warm(&server);
    let two = server.open("shop");
    number(&two, "SELECT count(*) FROM item");
    let calls = served(&server, || {
        one.execute("UPDATE item SET price = 0 WHERE id = 500", []).unwrap();
        assert_eq!(number(&two, "SELECT count(*) FROM item WHERE price = 0"), 1);
    });
    assert_eq!(calls.get("xrange"), None, "{calls:?}");
    assert!(calls["hmget"] <= 3, "{calls:?}");
}

#[test]
fn a_transaction_of_100_inserts_costs_2_round_trips() {
    let server = Server::start();
    let connection = warm(&server);
    let mut client = None;
    let calls = served(&server, || {
        client = Some(sent(&connection, || {
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            for id in 2000..2100 {
                connection.execute("INSERT INTO item VALUES (?1, 'new', 1)", [id]).unwrap();
            }
            connection.execute_batch("COMMIT").unwrap();
        }));
    });
    let client = client.unwrap();
    assert_eq!(client.round_trips, 2, "{client:?}");
    assert_eq!((calls["exec"], calls["xadd"], calls["hset"]), (1, 1, 1), "{calls:?}");
    assert_eq!(number(&connection, "SELECT count(*) FROM item"), 1100);
}

#[test]
fn an_autocommit_insert_costs_2_round_trips() {
    let server = Server::start();
    let connection = warm(&server);
    for id in 2000..2010 {
        let client = sent(&connection, || {
            connection.execute("INSERT INTO item VALUES (?1, 'new', 1)", [id]).unwrap();
        });
        assert_eq!(client.round_trips, 2, "{client:?}");
    }
}

#[test]
fn an_attached_file_costs_2_more_round_trips_and_a_database_in_memory_none() {
    let server = Server::start();
    let connection = warm(&server);
    let file = server.directory().join("local.db");
    let file = format!("file:{}?vfs=unix", file.display());
    connection.execute("ATTACH ?1 AS local", [file]).unwrap();
    connection.execute_batch("ATTACH ':memory:' AS memory; PRAGMA local.synchronous = OFF").unwrap();
    connection.execute_batch("CREATE TABLE local.t (a); CREATE TABLE memory.t (a); CREATE TEMP TABLE t (a)").unwrap();
    let with = |other: &str| {
        let sql = format!("BEGIN; INSERT INTO item (name) VALUES ('x'); {other}; COMMIT");
        sent(&connection, || connection.execute_batch(&sql).unwrap()).round_trips
    };
    let inserts =
        ["", "INSERT INTO memory.t VALUES (1)", "INSERT INTO temp.t VALUES (1)", "INSERT INTO local.t VALUES (1)"];
    // Before the file commits, the version is compared. The lease is released after it.
    assert_eq!(inserts.map(with), [2, 2, 2, 4]);
}

#[test]
fn an_insert_that_waits_for_the_lease_costs_2_round_trips() {
    let server = Server::start();
    let (connection, mut rival) = (warm(&server), server.open_apart("shop", 1));
    let insert = |connection: &Connection, id: i64| {
        connection.execute("INSERT INTO item VALUES (?1, 'new', 1)", [id]).unwrap();
    };
    let mut waits = |id: i64| {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        insert(&connection, 2 * id);
        let rival = &mut rival;
        std::thread::scope(|scope| {
            let waiter = scope.spawn(move || sent(rival, || insert(rival, 2 * id + 1)).round_trips);
            eventually("the insert waits", || server.redis_cli(&["LLEN", "sqlite:{shop}:queue"]) == "1");
            connection.execute_batch("COMMIT").unwrap();
            waiter.join().unwrap()
        })
    };
    assert!(waits(2000) > 2, "the first wait is not expected");
    // On a slow machine, a waiter times out and queues again. That costs more round trips.
    let trips: Vec<_> = (2001..2020).map(waits).collect();
    assert_eq!(trips.iter().min(), Some(&2), "{trips:?}");
    assert_eq!(number(&connection, "SELECT count(*) FROM item"), 1040);
    assert_eq!(number(&rival, "SELECT count(*) FROM item"), 1040);
}

#[test]
fn a_statement_that_only_reads_this_database_works_while_another_writes() {
    let server = Server::start();
    let (connection, rival) = (warm(&server), server.open("shop"));
    rival.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Writes, but to another database.
    connection.execute_batch("CREATE TEMP TABLE copy AS SELECT * FROM item").unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM copy"), 1000);
    rival.execute_batch("COMMIT").unwrap();
    connection.execute_batch("DELETE FROM copy; INSERT INTO copy SELECT * FROM item").unwrap();
    assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{shop}:lock"]), "0", "the unneeded lease is released");
}

#[test]
fn a_transaction_that_changes_nothing_sends_no_commit() {
    let server = Server::start();
    let connection = warm(&server);
    let calls = served(&server, || {
        connection.execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
        connection.execute("UPDATE item SET price = 0 WHERE id = -1", []).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO item VALUES (-5, 'x', 1); ROLLBACK").unwrap();
    });
    assert_eq!(calls.get("exec"), None, "{calls:?}");
    assert_eq!(calls.get("hset"), None, "{calls:?}");
    check_integrity(&connection);
}

#[test]
fn a_cold_scan_of_10_000_pages_costs_at_most_200_round_trips() {
    let server = Server::start();
    let connection = server.open("big");
    connection
        .execute_batch(
            "CREATE TABLE item (id INTEGER PRIMARY KEY, content BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9970)
             INSERT INTO item SELECT i, zeroblob(3900) FROM n",
        )
        .unwrap();
    assert!((9990..10_010).contains(&number(&connection, "PRAGMA page_count")));
    drop(connection);
    // Other settings, so this connection has another cache, which is cold.
    let cold = server.options("big").log_commits(77).open().unwrap();
    let client = sent(&cold, || {
        assert_eq!(number(&cold, "SELECT count(*) FROM item WHERE length(content) = 3900"), 9970);
    });
    assert!(client.round_trips <= 200, "{client:?}");
    assert_eq!(client.round_trips, client.commands);
}

#[test]
fn opening_a_small_database_and_the_first_query_cost_3_round_trips() {
    let server = Server::start();
    warm(&server);
    let script = "
db = connect('file:shop?vfs=redis')
say(db.execute('SELECT count(*) FROM item').fetchone()[0])
say(db.execute('PRAGMA redis_stats').fetchone()[0])
";
    let mut said = None;
    let calls = served(&server, || said = hosts::run_python(script, &[("SQLITE_REDIS_URL", &server.url())]));
    let Some(said) = said else { return };
    let mut lines = said.out.lines();
    assert_eq!(lines.next(), Some("1000"), "{said:?}");
    let trips = lines.next().and_then(|stats| stats.strip_prefix("round_trips=")?.split(' ').next()?.parse().ok());
    let trips: u64 = trips.unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!(trips, 3, "{said:?} {calls:?}");
}

#[test]
fn a_commit_sends_the_changed_pages_and_little_else() {
    let server = Server::start();
    let connection = warm(&server);
    let page = number(&connection, "PRAGMA page_size") as u64;
    let client = sent(&connection, || {
        connection.execute("UPDATE item SET price = 7777 WHERE id = 500", []).unwrap();
    });
    // Two pages change: that of the row, and page 1 with the change counter.
    assert!(client.bytes_sent < 2 * page + 1500, "{client:?}");
    assert!(client.bytes_sent > page);
    let client = sent(&connection, || {
        connection.execute("UPDATE item SET price = price + 1", []).unwrap();
    });
    let pages = number(&connection, "PRAGMA page_count") as u64;
    assert!(client.bytes_sent > pages * page / 2 && client.bytes_sent < pages * page * 2, "{client:?} {pages}");
}

#[test]
fn the_log_entry_of_a_small_change_is_small() {
    let server = Server::start();
    let connection = warm(&server);
    connection.execute("UPDATE item SET price = 7777 WHERE id = 500", []).unwrap();
    let entries: Vec<(String, BTreeMap<String, redis::Value>)> = redis::cmd("XREVRANGE")
        .arg("sqlite:{shop}:log")
        .arg(&["+", "-", "COUNT", "1"])
        .query(&mut server.redis())
        .unwrap();
    let (_, fields) = &entries[0];
    let redis::Value::BulkString(undo) = &fields["undo"] else { panic!("{fields:?}") };
    assert!(!undo.is_empty() && undo.len() < 100, "{} bytes to put one row back", undo.len());
    assert!(fields.len() <= 6, "{fields:?}");
}

#[test]
fn the_cache_stays_within_its_size() {
    let server = Server::start();
    let connection = server.open("big");
    connection
        .execute_batch(
            "CREATE TABLE item (id INTEGER PRIMARY KEY, content BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
             INSERT INTO item SELECT i, zeroblob(100000) FROM n",
        )
        .unwrap();
    drop(connection);
    let script = r#"
import resource
def rss():
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1024 if sys.platform == 'darwin' else most
db = connect('file:big?vfs=redis&cache_size=1M')
db.execute('PRAGMA cache_size=-1000')
scan = "SELECT count(*) FROM item WHERE instr(content, x'01') = 0"
db.execute('SELECT 1 FROM item LIMIT 1').fetchone()
before = rss()
say(db.execute(scan).fetchone()[0])
say(rss() - before)
"#;
    let environment = [("SQLITE_REDIS_URL", server.url())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let Some(said) = hosts::run_python(script, &environment) else { return };
    let mut lines = said.out.lines();
    assert_eq!(lines.next(), Some("1000"), "{said:?}");
    let growth: u64 = lines.next().and_then(|growth| growth.parse().ok()).unwrap_or_else(|| panic!("{said:?}"));
    assert!(growth < 20_000, "100 MB were read and {growth} kB kept");
}

#[test]
fn a_scan_larger_than_the_cache_fetches_again() {
    let server = Server::start();
    let connection = warm(&server);
    drop(connection);
    // A cache of two pages. The other setting keeps it separate.
    let small = server.options("shop").log_commits(77).cache_size(8192).open().unwrap();
    // SQLite itself keeps at least ten pages.
    small.execute_batch("PRAGMA cache_size=1; INSERT INTO item SELECT id + 1000, name, price FROM item").unwrap();
    small.execute_batch("INSERT INTO item SELECT id + 2000, name, price FROM item").unwrap();
    let sum = (1..=4000).sum::<i64>();
    for _ in 0..2 {
        let calls = served(&server, || {
            assert_eq!(number(&small, "SELECT sum(id) FROM item"), sum);
        });
        assert!(total(&calls) > 1, "{calls:?}");
    }
    check_integrity(&small);
}

#[test]
fn a_scan_with_read_ahead_reads_one_version() {
    let server = Server::start();
    let writer = server.open("big");
    writer
        .execute_batch(
            "CREATE TABLE item (id INTEGER PRIMARY KEY, content INT, filler BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO item SELECT i, 1, zeroblob(3900) FROM n",
        )
        .unwrap();
    let cold = server.options("big").log_commits(77).open().unwrap();
    let mut statement = cold.prepare("SELECT content FROM item").unwrap();
    let mut rows = statement.query([]).unwrap();
    let (mut sum, mut count) = (0, 0);
    while let Some(row) = rows.next().unwrap() {
        sum += row.get::<_, i64>(0).unwrap();
        count += 1;
        if count % 500 == 0 {
            writer.execute("UPDATE item SET content = content + 1", []).unwrap();
        }
    }
    assert_eq!((sum, count), (3000, 3000));
    drop(rows);
    drop(statement);
    assert_eq!(number(&cold, "SELECT sum(content) FROM item"), 21_000);
    check_integrity(&cold);
}

#[test]
fn another_clients_commit_costs_a_reader_one_more_round_trip() {
    let server = Server::start();
    let writer = warm(&server);
    let reader = server.options("shop").log_commits(77).open().unwrap();
    let price = |connection: &Connection| number(connection, "SELECT CAST(price AS INT) FROM item WHERE id = 500");
    let change = || writer.execute("UPDATE item SET price = price + 1 WHERE id = 500", []).unwrap();
    for n in 0..5 {
        let before = price(&reader);
        change();
        let client = sent(&reader, || assert_eq!(price(&reader), before + 1));
        // The first time, the reader cannot predict the changed pages and fetches them separately.
        assert_eq!(client.round_trips, if n == 0 { 3 } else { 2 }, "{n}: {client:?}");
        assert_eq!(sent(&reader, || assert_eq!(price(&reader), before + 1)).round_trips, 1);
    }
}
