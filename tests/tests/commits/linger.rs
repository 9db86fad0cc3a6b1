//! A write lease that lingers after a commit saves round trips, and other writers still get it in time.

use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis::Options;
use sqlite_redis_tests::hosts::{self, Beside};
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::{Server, check_integrity, code, eventually, number, text};

const MINUTE: Duration = Duration::from_secs(60);
const BUSY_SNAPSHOT: i32 = 517;
const LOCK: &str = "sqlite:{shop}:lock";

/// A connection with a long linger time. Each `process` number has its own cache, as another process would.
fn lingering(server: &Server, process: u64) -> Connection {
    open(server.options("shop").log_commits(10_000 + process))
}

fn open(options: Options) -> Connection {
    let connection = options.linger(MINUTE).lease(10 * MINUTE).open().unwrap();
    connection.busy_timeout(MINUTE).unwrap();
    connection.execute_batch("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY)").unwrap();
    connection
}

fn insert(connection: &Connection, x: i64) {
    connection.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
}

fn round_trips(connection: &Connection, body: impl FnOnce()) -> u64 {
    let count = || -> u64 {
        let stats = text(connection, "PRAGMA redis_stats");
        stats.split(['=', ' ']).nth(1).unwrap().parse().unwrap()
    };
    let before = count();
    body();
    count() - before
}

fn is_leased(server: &Server) -> bool {
    server.redis_cli(&["EXISTS", LOCK]) == "1"
}

#[test]
fn a_transaction_on_a_lingering_lease_costs_1_round_trip() {
    let server = Server::start();
    let connection = lingering(&server, 0);
    insert(&connection, 1);
    for x in 2..10 {
        assert_eq!(round_trips(&connection, || insert(&connection, 2 * x)), 1);
        let several = round_trips(&connection, || {
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            insert(&connection, 2 * x + 1);
            assert_eq!(number(&connection, "SELECT count(*) FROM t"), 2 * x - 1);
            connection.execute_batch("COMMIT").unwrap();
        });
        assert_eq!(several, 1);
    }
    drop(connection);
    server.check_stored("shop");
}

#[test]
fn a_process_lets_its_lease_linger_from_its_second_commit_on() {
    let server = Server::start();
    let connection = server.options("shop").linger(MINUTE).open().unwrap();
    connection.execute_batch("CREATE TABLE t (x INTEGER PRIMARY KEY)").unwrap();
    assert!(!is_leased(&server));
    insert(&connection, 1);
    assert!(is_leased(&server), "the lease lingers after the second commit");
}

#[test]
fn a_lingering_lease_is_released_on_timeout_and_on_close() {
    let server = Server::start();
    let connection = server.options("shop").linger(Duration::from_millis(200)).open().unwrap();
    connection.execute_batch("CREATE TABLE t (x INTEGER PRIMARY KEY)").unwrap();
    insert(&connection, 1);
    // If the process dies now, other writers wait no longer than this.
    let left: i64 = server.redis_cli(&["PTTL", LOCK]).parse().unwrap();
    assert!(left <= 1000, "{left}");
    eventually("the lease is released", || !is_leased(&server));
    drop(connection);
    let connection = lingering(&server, 1);
    insert(&connection, 2);
    insert(&connection, 3);
    assert!(is_leased(&server));
    drop(connection);
    assert!(!is_leased(&server));
    server.check_stored("shop");
}

#[test]
fn a_waiter_gets_a_lingering_lease_while_its_holder_keeps_writing() {
    let server = Server::start();
    let one = lingering(&server, 1);
    insert(&one, 1);
    insert(&one, 2);
    let url = server.url();
    let script = "
db = connect('file:shop?vfs=redis', timeout=60)
for n in range(1000, 1005):
    db.execute('INSERT INTO t VALUES (?)', (n,))
say('done')
";
    let Some(mut command) = hosts::python(script, &[]) else { return };
    command.env("SQLITE_REDIS_URL", url);
    let mut two = Beside::start(command);
    // `one` keeps writing until the other process is done. It must hand the lease over in between.
    let rows = |connection: &Connection| number(connection, "SELECT count(*) FROM t WHERE x BETWEEN 1000 AND 1999");
    for x in 3.. {
        insert(&one, 2000 + x);
        assert!(x < 50_000, "the other process never gets the lease");
        if rows(&one) == 5 {
            break;
        }
    }
    assert_eq!(two.hear().as_deref(), Some("done"));
    check_integrity(&one);
}

#[test]
fn connections_of_one_process_share_a_lingering_lease() {
    let server = Server::start();
    let (one, two) = (lingering(&server, 1), lingering(&server, 1));
    insert(&one, 0);
    for x in 1..10 {
        assert_eq!(round_trips(&one, || insert(&one, 2 * x)), 1);
        assert_eq!(round_trips(&one, || insert(&two, 2 * x + 1)), 1);
    }
    // A connection inside a read transaction can use the lease, too.
    two.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&two, "SELECT count(*) FROM t"), 19);
    assert_eq!(round_trips(&one, || insert(&two, 100)), 0);
    assert_eq!(round_trips(&one, || two.execute_batch("COMMIT").unwrap()), 1);
}

#[test]
fn other_processes_read_new_commits_while_a_lease_lingers() {
    let server = Server::start();
    let (writer, reader) = (lingering(&server, 1), server.open_apart("shop", 2));
    for x in 1..20 {
        insert(&writer, x);
        assert_eq!(number(&reader, "SELECT max(x) FROM t"), x);
    }
}

#[test]
fn a_commit_on_a_lost_lease_is_refused_and_the_next_succeeds() {
    let server = Server::start();
    let (one, rival) = (lingering(&server, 1), server.open_apart("shop", 2));
    for x in [10, 20] {
        insert(&one, x);
        insert(&one, x + 1);
        assert_eq!(server.redis_cli(&["DEL", LOCK]), "1");
        insert(&rival, x + 2);
        let refused = one.execute("INSERT INTO t VALUES (?1)", [x + 3]).unwrap_err();
        assert_eq!(code(Err::<(), _>(refused)), BUSY_SNAPSHOT);
        insert(&one, x + 4);
    }
    assert_eq!(text(&rival, "SELECT group_concat(x, ' ') FROM t"), "10 11 12 14 20 21 22 24");
}

#[test]
fn a_process_that_saw_a_rival_commit_does_not_use_its_lost_lease() {
    let server = Server::start();
    let (one, two, rival) = (lingering(&server, 1), lingering(&server, 1), server.open_apart("shop", 2));
    insert(&one, 1);
    insert(&one, 2);
    assert_eq!(server.redis_cli(&["DEL", LOCK]), "1");
    insert(&rival, 3);
    assert_eq!(number(&two, "SELECT max(x) FROM t"), 3, "the process sees the rival's commit");
    insert(&one, 4);
    assert_eq!(number(&rival, "SELECT count(*) FROM t"), 4);
}

#[test]
fn a_rival_commit_before_the_next_watch_ends_the_lingering_lease() {
    let server = Server::start();
    let proxy = Proxy::to(&server);
    let (one, rival) = (open(proxy.options("shop")), server.open_apart("shop", 2));
    insert(&one, 1);
    insert(&one, 2);
    proxy.next("WATCH", Fault::HoldRequest);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| {
            insert(&one, 3);
            one
        });
        proxy.wait_for_held(1);
        assert_eq!(server.redis_cli(&["DEL", LOCK]), "1");
        insert(&rival, 4);
        proxy.settle(true);
        let one = one.join().unwrap();
        insert(&one, 5);
    });
    assert_eq!(text(&rival, "SELECT group_concat(x, ' ') FROM t"), "1 2 3 4 5");
}

#[test]
fn a_lost_reply_on_a_lingering_lease_is_resolved_as_one_commit() {
    let server = Server::start();
    let proxy = Proxy::to(&server);
    let connection = open(proxy.options("shop"));
    for x in 1..10 {
        insert(&connection, 2 * x);
        let fault = if x % 2 == 0 { Fault::LoseReply } else { Fault::LoseRequest };
        proxy.next("EXEC", fault);
        insert(&connection, 2 * x + 1);
    }
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 18);
    drop(connection);
    server.check_stored("shop");
}
