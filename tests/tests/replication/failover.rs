//! Failovers to a replica that lacks the last commits, lagging replicas, and data removed under open connections. No
//! client mixes two histories, and no client keeps pages of a lost commit.

use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis::Options;
use sqlite_redis_tests::failures::{assert_failure, code, failure};
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::switch::Switch;
use sqlite_redis_tests::{Server, check_integrity, eventually, number, text};

/// A primary, its replica, and a switch that leads clients to one of them.
struct Pair {
    primary: Server,
    replica: Server,
    way: Switch,
}

/// Rows for several pages, so that a mixture of two versions would show.
const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, stamp INTEGER, filler TEXT);
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 40)
    INSERT INTO t SELECT n, 0, printf('%0*d', 400, 0) FROM n;";

impl Pair {
    fn new() -> Pair {
        let primary = Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start();
        let replica = Server::replica_of(&primary);
        let way = Switch::to(&primary);
        let pair = Pair { primary, replica, way };
        pair.client(0).execute_batch(TABLE).unwrap();
        pair
    }

    fn options(&self, n: u64) -> Options {
        self.way.options("shop").timeout(Duration::from_millis(5000 + n)).lease(Duration::from_secs(1))
    }

    /// A connection whose cache is shared only with connections of the same `n`. Another `n` acts as another process.
    fn client(&self, n: u64) -> Connection {
        let connection = self.options(n).open().unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection
    }

    /// Waits until the replica has everything that the primary has.
    fn in_step(&self) {
        eventually("the replica has caught up", || self.primary.stored("shop") == self.replica.stored("shop"));
    }

    /// Waits for the replica, then detaches it from the primary.
    fn part(&self) {
        self.in_step();
        assert_eq!(self.replica.redis_cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    }

    /// Leads clients to the replica.
    fn fail_over(&self) {
        self.way.turn(&self.replica);
    }
}

fn stamp(connection: &Connection, stamp: i64) -> rusqlite::Result<()> {
    let sql = format!("UPDATE t SET stamp = {stamp}, filler = printf('%0*d', 400, {stamp})");
    connection.execute_batch(&sql)
}

/// The stamp. Asserts that all rows carry the same one.
#[track_caller]
fn stamped(connection: &Connection) -> i64 {
    let torn = "SELECT count(*) FROM t WHERE stamp <> (SELECT stamp FROM t WHERE id = 1)
                OR filler <> printf('%0*d', 400, stamp)";
    assert_eq!(number(connection, torn), 0, "two versions are mixed");
    assert_eq!(number(connection, "SELECT count(*) FROM t"), 40);
    number(connection, "SELECT max(stamp) FROM t")
}

#[test]
fn every_cache_drops_a_commit_that_the_failover_lost() {
    let pair = Pair::new();
    let (writer, other) = (pair.client(1), pair.client(2));
    stamp(&writer, 1).unwrap();
    pair.part();
    stamp(&writer, 2).unwrap();
    assert_eq!((stamped(&writer), stamped(&other)), (2, 2));
    pair.fail_over();
    assert_eq!((stamped(&writer), stamped(&other)), (1, 1));
    stamp(&other, 3).unwrap();
    assert_eq!((stamped(&writer), stamped(&other)), (3, 3));
    check_integrity(&writer);
    pair.replica.check_stored("shop");
}

#[test]
fn a_commit_with_the_number_of_a_lost_one_invalidates_caches() {
    let pair = Pair::new();
    let (one, two) = (pair.client(1), pair.client(2));
    // A second connection on the first one's cache. It has never read the lost version.
    let beside = pair.client(1);
    stamp(&one, 1).unwrap();
    assert_eq!((stamped(&two), stamped(&beside)), (1, 1));
    pair.part();
    stamp(&one, 2).unwrap();
    let lost = pair.primary.stored("shop");
    assert_eq!(stamped(&one), 2);
    pair.fail_over();
    // The first connection does not know of the failover when another client commits the same version number.
    // SQLite's change counter is the same, so SQLite's own cache would seem valid.
    stamp(&two, 3).unwrap();
    let made = pair.replica.stored("shop");
    assert_eq!(lost.number("version"), made.number("version"));
    assert_ne!(lost.fields["commit"], made.fields["commit"]);
    assert_eq!(lost.fields["page1"][24..28], made.fields["page1"][24..28], "the change counters differ");
    assert_eq!((stamped(&one), stamped(&beside), stamped(&two)), (3, 3, 3));
    stamp(&one, 4).unwrap();
    assert_eq!((stamped(&one), stamped(&beside), stamped(&two)), (4, 4, 4));
    pair.replica.check_stored("shop");
}

#[test]
fn every_connection_drops_a_schema_that_the_failover_lost() {
    let pair = Pair::new();
    let (one, two) = (pair.client(1), pair.client(2));
    stamp(&one, 1).unwrap();
    pair.part();
    one.execute_batch("CREATE TABLE lost (x); INSERT INTO lost VALUES (1)").unwrap();
    assert_eq!(number(&one, "SELECT count(*) FROM lost"), 1);
    pair.fail_over();
    two.execute_batch("CREATE TABLE made (a, b, c); INSERT INTO made VALUES (1, 2, 3)").unwrap();
    assert_eq!(number(&one, "SELECT c FROM made"), 3);
    assert!(one.prepare("SELECT * FROM lost").is_err());
    check_integrity(&one);
}

#[test]
fn a_read_transaction_on_a_lost_version_fails() {
    let pair = Pair::new();
    let (writer, two) = (pair.client(1), pair.client(2));
    // The caches are too small for the table, so pages are fetched again.
    let reader = pair.options(3).cache_size(4096).open().unwrap();
    reader.execute_batch("PRAGMA cache_size = 2").unwrap();
    pair.part();
    stamp(&writer, 2).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(stamped(&reader), 2);
    pair.fail_over();
    let everything = "SELECT sum(stamp), sum(length(filler)) FROM t";
    assert_failure(failure(&reader, everything), code::BUSY_SNAPSHOT, "went back to another version");
    stamp(&two, 3).unwrap();
    assert_failure(failure(&reader, everything), code::BUSY_SNAPSHOT, "");
    stamp(&two, 4).unwrap();
    assert_failure(failure(&reader, everything), code::BUSY_SNAPSHOT, "follows another history");
    reader.execute_batch("ROLLBACK").unwrap();
    assert_eq!(stamped(&reader), 4);
}

#[test]
fn a_read_transaction_on_a_version_of_both_histories_continues() {
    let pair = Pair::new();
    let two = pair.client(2);
    let reader = pair.options(3).cache_size(4096).open().unwrap();
    reader.execute_batch("PRAGMA cache_size = 2").unwrap();
    stamp(&two, 1).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(stamped(&reader), 1);
    pair.part();
    stamp(&two, 2).unwrap();
    assert_eq!(stamped(&reader), 1, "not rolled back from the version that will be lost");
    pair.fail_over();
    assert_eq!(stamped(&reader), 1, "not the version that the new primary has");
    stamp(&two, 3).unwrap();
    // The undo data of the lost version must not be used to roll back from another commit of the same number.
    assert_failure(failure(&reader, "SELECT sum(length(filler)) FROM t"), code::BUSY_SNAPSHOT, "");
    reader.execute_batch("ROLLBACK").unwrap();
    assert_eq!(stamped(&reader), 3);
}

#[test]
fn a_failover_that_lost_the_base_version_refuses_an_open_transaction() {
    let pair = Pair::new();
    let writer = pair.client(1);
    pair.part();
    stamp(&writer, 2).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    stamp(&writer, 3).unwrap();
    pair.fail_over();
    assert_failure(failure(&writer, "COMMIT"), code::BUSY_SNAPSHOT, "");
    assert!(writer.is_autocommit());
    assert_eq!(stamped(&writer), 0);
    stamp(&writer, 4).unwrap();
    assert_eq!(stamped(&pair.client(2)), 4);
    pair.replica.check_stored("shop");
}

#[test]
fn a_failover_that_kept_the_base_version_lets_an_open_transaction_commit() {
    let pair = Pair::new();
    let writer = pair.client(1);
    stamp(&writer, 1).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    stamp(&writer, 2).unwrap();
    pair.part();
    pair.fail_over();
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!((stamped(&writer), stamped(&pair.client(2))), (2, 2));
    assert_eq!(pair.primary.stored("shop").number("version") + 1, pair.replica.stored("shop").number("version"));
    pair.replica.check_stored("shop");
}

#[test]
fn an_open_transaction_does_not_overwrite_commits_of_the_new_primary() {
    let pair = Pair::new();
    let (writer, two) = (pair.client(1), pair.client(2));
    stamp(&writer, 1).unwrap();
    pair.part();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    stamp(&writer, 2).unwrap();
    pair.fail_over();
    // The lease was not replicated, so another client acquires one.
    stamp(&two, 3).unwrap();
    assert_failure(failure(&writer, "COMMIT"), code::BUSY_SNAPSHOT, "");
    assert_eq!((stamped(&writer), stamped(&two)), (3, 3));
    pair.replica.check_stored("shop");
}

/// Runs a commit whose reply is lost. `meanwhile` can fail over before the client asks for the outcome.
fn commit_lost_on_the_way(pair: &Pair, prepare: impl FnOnce(), meanwhile: impl FnOnce()) -> rusqlite::Result<()> {
    // The proxy is between client and switch, so that the retry reaches the other server through the switch.
    let proxy = Proxy::to_socket(pair.way.socket());
    let writer = proxy.options("shop").timeout(Duration::from_secs(20)).open().unwrap();
    writer.busy_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(stamped(&writer), 0);
    prepare();
    proxy.next("EXEC", Fault::HoldReply);
    std::thread::scope(|scope| {
        let commit = scope.spawn(move || stamp(&writer, 5));
        proxy.wait_for_held(1);
        meanwhile();
        proxy.cut_held();
        commit.join().unwrap()
    })
}

#[test]
fn a_commit_without_reply_that_the_failover_lost_is_retried() {
    let pair = Pair::new();
    commit_lost_on_the_way(&pair, || pair.part(), || pair.fail_over()).unwrap();
    assert_eq!(stamped(&pair.client(1)), 5);
    let (old, new) = (pair.primary.stored("shop"), pair.replica.stored("shop"));
    assert_eq!(old.fields, new.fields, "the two servers hold different commits");
    pair.replica.check_stored("shop");
}

#[test]
fn a_commit_without_reply_that_the_failover_kept_is_made_once() {
    let pair = Pair::new();
    commit_lost_on_the_way(
        &pair,
        || (),
        || {
            pair.part();
            pair.fail_over();
        },
    )
    .unwrap();
    assert_eq!(stamped(&pair.client(1)), 5);
    assert_eq!(pair.primary.stored("shop"), pair.replica.stored("shop"));
    pair.replica.check_stored("shop");
}

#[test]
fn a_commit_without_reply_is_refused_when_another_took_its_version() {
    let pair = Pair::new();
    let outcome = commit_lost_on_the_way(
        &pair,
        || pair.part(),
        || {
            pair.fail_over();
            stamp(&pair.client(1), 7).unwrap();
        },
    );
    assert_eq!(sqlite_redis_tests::code(outcome), code::BUSY_SNAPSHOT);
    assert_eq!(stamped(&pair.client(2)), 7);
    pair.replica.check_stored("shop");
}

#[test]
fn an_old_primary_that_returns_as_a_replica_is_refused() {
    let pair = Pair::new();
    let one = pair.client(1);
    pair.part();
    stamp(&one, 2).unwrap();
    assert_eq!(stamped(&one), 2);
    pair.fail_over();
    stamp(&pair.client(2), 3).unwrap();
    let address = pair.replica.tcp_url().replace("redis://127.0.0.1:", "");
    assert_eq!(pair.primary.redis_cli(&["REPLICAOF", "127.0.0.1", &address]), "OK");
    pair.in_step();
    pair.way.turn(&pair.primary);
    assert_failure(failure(&one, "SELECT * FROM t"), code::IOERR_READ, "is a replica of 127.0.0.1");
    assert_failure(failure(&one, "UPDATE t SET stamp = 9"), code::IOERR_READ, "name its primary");
    let refused = pair.options(3).open().map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("is a replica of"), "{refused}");
    // A read-only connection may read a replica: it shows the new history, although the cache held the lost one.
    assert_eq!(stamped(&pair.options(1).read_only(true).open().unwrap()), 3);
    pair.way.turn(&pair.replica);
    assert_eq!(stamped(&one), 3);
    stamp(&one, 4).unwrap();
}

#[test]
fn a_lagging_replica_shows_whole_versions_to_a_cache_that_switches_servers() {
    let pair = Pair::new();
    let (one, beside) = (pair.client(1), pair.client(1));
    pair.in_step();
    let reader = pair.replica.options("shop").read_only(true).open().unwrap();
    for round in 1..4 {
        stamp(&one, round * 10).unwrap();
        // From here on the replica lags.
        pair.part();
        for n in 1..5 {
            stamp(&one, round * 10 + n).unwrap();
        }
        assert_eq!(stamped(&reader), round * 10);
        // One cache reads the newer version, the older one, and the newer one again.
        beside.execute_batch("BEGIN").unwrap();
        assert_eq!((stamped(&one), stamped(&beside)), (round * 10 + 4, round * 10 + 4));
        pair.way.turn(&pair.replica);
        assert_eq!(stamped(&one), round * 10);
        pair.way.turn(&pair.primary);
        assert_eq!((stamped(&one), stamped(&beside)), (round * 10 + 4, round * 10 + 4));
        beside.execute_batch("ROLLBACK").unwrap();
        // The replica catches up.
        let port = pair.primary.port().to_string();
        assert_eq!(pair.replica.redis_cli(&["REPLICAOF", "127.0.0.1", &port]), "OK");
        pair.in_step();
        assert_eq!(stamped(&reader), round * 10 + 4);
    }
}

/// Removes the database under an idle connection, a read transaction and a write transaction.
fn removed_under_them(remove: impl FnOnce(&Server)) {
    let server = Server::start();
    server.open("shop").execute_batch(TABLE).unwrap();
    let short = |n: u64| server.options("shop").lease(Duration::from_millis(300 + n));
    let idle = short(1).open().unwrap();
    let reader = short(2).cache_size(4096).open().unwrap();
    let writer = short(3).open().unwrap();
    assert_eq!(stamped(&idle), 0);
    reader.execute_batch("PRAGMA cache_size = 2; BEGIN").unwrap();
    assert_eq!(stamped(&reader), 0);
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    stamp(&writer, 1).unwrap();
    remove(&server);
    assert_failure(failure(&reader, "SELECT sum(length(filler)) FROM t"), code::BUSY_SNAPSHOT, "");
    assert_failure(failure(&writer, "COMMIT"), code::BUSY_SNAPSHOT, "");
    reader.execute_batch("ROLLBACK").unwrap();
    for connection in [&idle, &reader, &writer] {
        assert!(connection.is_autocommit());
        assert_eq!(number(connection, "SELECT count(*) FROM sqlite_schema"), 0);
    }
    // Every connection can use a new database of the same name.
    eventually("the lease expired", || !server.is_leased("shop"));
    idle.execute_batch(TABLE).unwrap();
    stamp(&writer, 8).unwrap();
    for connection in [&idle, &reader, &writer] {
        assert_eq!(stamped(connection), 8);
        assert_eq!(text(connection, "PRAGMA integrity_check"), "ok");
    }
    server.check_stored("shop");
}

#[test]
fn a_flushed_server_is_an_empty_database_to_open_connections() {
    removed_under_them(|server| assert_eq!(server.redis_cli(&["FLUSHALL"]), "OK"));
}

#[test]
fn a_removed_hash_is_an_empty_database_to_open_connections() {
    removed_under_them(|server| assert_eq!(server.redis_cli(&["DEL", "sqlite:{shop}"]), "1"));
}

#[test]
fn commits_that_a_restart_lost_are_dropped_from_every_cache() {
    let mut server = Server::with(["--appendonly", "no"]).start();
    let one = server.open_apart("shop", 1);
    one.execute_batch(TABLE).unwrap();
    stamp(&one, 1).unwrap();
    assert_eq!(server.redis_cli(&["SAVE"]), "OK");
    stamp(&one, 2).unwrap();
    let two = server.open_apart("shop", 2);
    assert_eq!((stamped(&one), stamped(&two)), (2, 2));
    server.kill();
    server.restart();
    stamp(&two, 3).unwrap();
    assert_eq!((stamped(&one), stamped(&two)), (3, 3));
    server.check_stored("shop");
}
