//! Reads from real replicas: each consistency level while replicas lag, resynchronise, go away and come back.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use sqlite_redis::{Consistency, Options};
use sqlite_redis_tests::failures::{assert_failure, code, failure, open_failure};
use sqlite_redis_tests::replicated::{Replicated, told};
use sqlite_redis_tests::{Server, check_integrity, eventually, hosts, number, program, text};

/// Rows for several pages, so that a mixture of two versions would show.
const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, stamp INTEGER, filler TEXT);
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 40)
    INSERT INTO t SELECT n, 0, printf('%0*d', 400, 0) FROM n;";

fn stamp(connection: &Connection, stamp: i64) {
    let sql = format!("UPDATE t SET stamp = {stamp}, filler = printf('%0*d', 400, {stamp})");
    connection.execute_batch(&sql).unwrap();
}

/// The stamp. Asserts that all rows carry the same one.
#[track_caller]
fn stamped(connection: &Connection) -> i64 {
    let torn = "SELECT count(*) FROM t WHERE stamp <> (SELECT stamp FROM t WHERE id = 1)
                OR filler <> printf('%0*d', 400, stamp)";
    assert_eq!(number(connection, torn), 0, "two versions are mixed");
    number(connection, "SELECT max(stamp) FROM t")
}

/// A connection whose cache is shared only with connections of the same `n`. Another `n` acts as another process.
fn apart(options: Options, n: u64) -> Connection {
    let connection =
        options.timeout(Duration::from_millis(20_000 + n)).open().unwrap_or_else(|error| panic!("{error}"));
    connection.busy_timeout(Duration::from_secs(30)).unwrap();
    connection
}

/// A primary with the table, its replicas, and a connection that writes.
fn servers(replicas: usize) -> (Replicated, Connection) {
    let servers = Replicated::with(replicas);
    let writer = apart(servers.primary.options("shop"), 0);
    writer.execute_batch(TABLE).unwrap();
    for replica in 0..replicas {
        servers.in_step(replica, "shop");
    }
    (servers, writer)
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn pages_come_from_the_replica_and_commits_go_to_the_primary() {
    let (servers, writer) = servers(1);
    writer
        .execute_batch(
            "CREATE TABLE big (id INTEGER PRIMARY KEY, filler TEXT);
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
             INSERT INTO big SELECT n, printf('%0*d', 1000, n) FROM n",
        )
        .unwrap();
    servers.in_step(0, "shop");
    let connection = apart(servers.options("shop", Consistency::Strong), 1);
    let before = (servers.primary.calls("hmget"), servers.replicas[0].calls("hmget"));
    assert_eq!(number(&connection, "SELECT count(*) FROM big WHERE length(filler) = 1000"), 2000);
    let asked = (servers.primary.calls("hmget") - before.0, servers.replicas[0].calls("hmget") - before.1);
    assert!(asked.0 <= 2 && asked.1 >= 8, "requests to (primary, replica) for the version and the pages: {asked:?}");
    stamp(&connection, 1);
    assert_eq!(stamped(&writer), 1);
    check_integrity(&connection);
}

#[test]
fn each_consistency_level_holds_while_a_replica_lags() {
    let (servers, writer) = servers(1);
    let strong = apart(servers.options("shop", Consistency::Strong), 1);
    let snapshot = apart(servers.options("shop", Consistency::Snapshot), 2);
    let session = apart(servers.options("shop", Consistency::Session).catch_up(Duration::from_millis(50)), 3);
    servers.hold(0);
    stamp(&writer, 1);
    assert_eq!(stamped(&strong), 1, "strong reads the newest version");
    assert_eq!(stamped(&snapshot), 0, "snapshot reads the replica's version");
    assert_eq!(stamped(&session), 0, "session may read the version that it read before");
    stamp(&session, 2);
    assert_eq!(stamped(&session), 2, "session reads its own write");
    assert_eq!((stamped(&strong), stamped(&snapshot)), (2, 0));
    assert_eq!(told(&snapshot, "server"), servers.replicas[0].url());
    let there = servers.replicas[0].redis_cli(&["HGET", "sqlite:{shop}", "version"]);
    assert_eq!(told(&snapshot, "version"), there, "not the version that redis-cli shows");
    servers.release(0);
    servers.in_step(0, "shop");
    eventually("the replica serves the newest", || stamped(&snapshot) == 2);
    assert_eq!(told(&snapshot, "consistency"), "snapshot");
    assert_eq!(stamped(&session), 2);
}

#[test]
fn a_session_never_goes_back_when_it_moves_between_servers() {
    let (mut servers, writer) = servers(2);
    let session = apart(servers.options("shop", Consistency::Session).catch_up(Duration::from_millis(50)), 1);
    let mut newest = 0;
    let mut look = |at_least: i64| {
        let seen = stamped(&session);
        assert!(seen >= newest.max(at_least), "from {newest} back to {seen}, with {at_least} written");
        newest = seen;
    };
    for round in 1..=8 {
        let behind = (round % 2) as usize;
        servers.hold(behind);
        stamp(&writer, 10 * round);
        look(0);
        stamp(&session, 10 * round + 1);
        look(10 * round + 1);
        // The replica that is up to date drops its clients.
        servers.replicas[1 - behind].redis_cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        look(10 * round + 1);
        stamp(&writer, 10 * round + 2);
        look(0);
        servers.release(behind);
        servers.in_step(behind, "shop");
        look(0);
    }
    servers.replicas[0].kill();
    look(0);
    servers.replicas[1].kill();
    eventually("the primary serves the session", || stamped(&session) == 82);
    stamp(&session, 90);
    assert_eq!(stamped(&session), 90);
    check_integrity(&session);
}

#[test]
fn a_session_gets_one_error_when_the_primary_lost_its_version() {
    let (servers, writer) = servers(1);
    let session = apart(servers.primary.options("shop").consistency(Consistency::Session), 1);
    stamp(&session, 1);
    let kept = servers.primary.redis_cli(&["COPY", "sqlite:{shop}", "sqlite:{kept}"]);
    assert_eq!(kept, "1");
    stamp(&session, 2);
    assert_eq!(stamped(&session), 2);
    // A failover that loses a commit does this.
    assert_eq!(servers.primary.redis_cli(&["COPY", "sqlite:{kept}", "sqlite:{shop}", "REPLACE"]), "1");
    let mut lost = None;
    eventually("the session asks the server again", || {
        lost = session.query_row("SELECT max(stamp) FROM t", [], |row| row.get::<_, i64>(0)).err();
        lost.is_some()
    });
    let why = sqlite_redis::last_error(&session).unwrap().to_string();
    assert!(why.contains("this session has seen version 4") && why.contains("it is at version 3"), "{why}");
    assert_eq!((stamped(&session), stamped(&writer)), (1, 1));
}

#[test]
fn a_read_transaction_continues_while_its_replica_resynchronises() {
    if !program::answers_while_it_loads() {
        return;
    }
    let (servers, writer) = servers(1);
    // The caches are too small for the table, so pages are fetched again.
    let options = servers.options("shop", Consistency::Snapshot).cache_size(4096);
    let reader = apart(options, 1);
    reader.execute_batch("PRAGMA cache_size = 2; BEGIN").unwrap();
    assert_eq!(stamped(&reader), 0);
    assert_eq!(told(&reader, "server"), servers.replicas[0].url());
    let replica = &servers.replicas[0];
    // The replica loses everything, as at the start of a full resynchronisation without a copy on disk.
    assert_eq!(replica.redis_cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    assert_eq!(replica.redis_cli(&["FLUSHALL"]), "OK");
    assert_eq!(stamped(&reader), 0);
    stamp(&writer, 1);
    assert_eq!(stamped(&reader), 0);
    servers.load_slowly(0);
    stamp(&writer, 2);
    assert_eq!(stamped(&reader), 0);
    reader.execute_batch("COMMIT").unwrap();
    let seen = stamped(&reader);
    assert!((1..=2).contains(&seen), "{seen}");
    servers.in_step(0, "shop");
    eventually("the replica serves again", || stamped(&reader) == 2 && told(&reader, "server") == replica.url());
}

#[test]
fn a_detached_replica_with_its_own_commits_is_not_read() {
    let (servers, writer) = servers(1);
    let snapshot = apart(servers.options("shop", Consistency::Snapshot), 1);
    assert_eq!(stamped(&snapshot), 0);
    assert_eq!(servers.replicas[0].redis_cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    stamp(&apart(servers.replicas[0].options("shop"), 9), 7);
    stamp(&writer, 1);
    for _ in 0..3 {
        assert_eq!(stamped(&snapshot), 1);
        assert_eq!(told(&snapshot, "server"), servers.primary.url());
    }
    stamp(&apart(servers.replicas[0].options("shop"), 9), 8);
    stamp(&writer, 2);
    assert_eq!(stamped(&snapshot), 2);
}

#[test]
fn a_writer_makes_progress_although_its_replica_lags() {
    for level in [Consistency::Snapshot, Consistency::Session, Consistency::Bounded(MINUTE)] {
        let (servers, other) = servers(1);
        let writer = apart(servers.options("shop", level).catch_up(Duration::from_millis(1)), 1);
        servers.hold(0);
        for round in 1..=10 {
            stamp(&other, 0);
            writer.execute_batch("BEGIN IMMEDIATE; UPDATE t SET id = id + 100; UPDATE t SET id = id - 100").unwrap();
            writer.execute_batch("COMMIT").unwrap();
            other.execute_batch("UPDATE t SET stamp = stamp").unwrap();
            writer.execute("INSERT INTO t VALUES (?1, 0, printf('%0*d', 400, 0))", [1000 + round]).unwrap();
        }
        assert_eq!(number(&other, "SELECT count(*) FROM t"), 50, "{level}");
        // Without a busy timeout, the retry reads the newest version.
        writer.busy_timeout(Duration::ZERO).unwrap();
        stamp(&other, 1);
        let first = writer.execute_batch("BEGIN IMMEDIATE; COMMIT");
        if first.is_err() {
            writer.execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
        }
        check_integrity(&other);
    }
}

#[test]
fn bounded_reads_see_commits_older_than_the_bound() {
    let (servers, writer) = servers(1);
    let bound = Duration::from_millis(300);
    // Two connections that share a cache, and one with its own.
    let readers: Vec<_> = [1, 1, 2].map(|n| apart(servers.options("shop", Consistency::Bounded(bound)), n)).into();
    servers.hold(0);
    for round in 1..=10 {
        stamp(&writer, round);
        let acknowledged = Instant::now();
        while acknowledged.elapsed() < bound {
            assert!(readers.iter().all(|reader| [round - 1, round].contains(&stamped(reader))));
        }
        for reader in &readers {
            assert_eq!(stamped(reader), round);
            assert!(told(reader, "age_ms").parse::<u64>().is_ok());
        }
    }
}

#[test]
fn a_version_token_makes_another_process_wait_for_a_write() {
    let (servers, writer) = servers(1);
    let options = servers.options("shop", Consistency::Snapshot);
    let reader = apart(options.clone().catch_up(Duration::from_millis(50)), 1);
    servers.hold(0);
    stamp(&writer, 1);
    let token = text(&writer, "PRAGMA redis_version");
    let wait = format!("PRAGMA redis_wait_version = {token}");
    assert_failure(failure(&reader, &wait), code::BUSY, &format!("version {token} did not arrive there in time"));
    assert_eq!(stamped(&reader), 0);
    servers.release(0);
    let script = format!(
        "db = connect({:?})\nsay(db.execute('PRAGMA redis_wait_version = {token}').fetchone()[0])\n\
         say(db.execute('SELECT max(stamp) FROM t').fetchone()[0])\n\
         say(db.execute('PRAGMA redis_snapshot').fetchone()[0])",
        options.catch_up(MINUTE).uri()
    );
    if let Some(said) = hosts::run_python(&script, &[]) {
        let lines: Vec<_> = said.out.lines().collect();
        assert_eq!(lines[..2], [token.as_str(), "1"], "{said:?}");
        assert!(lines[2].contains(&servers.replicas[0].url()), "{said:?}");
    }
    eventually("the version arrives", || reader.execute_batch(&wait).is_ok());
    assert_eq!(stamped(&reader), 1);
    reader.execute_batch("BEGIN; SELECT 1 FROM t").unwrap();
    stamp(&writer, 2);
    let next = format!("PRAGMA redis_wait_version = {}", text(&writer, "PRAGMA redis_version"));
    assert_failure(failure(&reader, &next), code::BUSY, "the open transaction has version");
}

#[test]
fn the_consistency_level_can_be_changed_on_a_connection() {
    let (servers, writer) = servers(1);
    let connection = apart(servers.options("shop", Consistency::Strong), 1);
    servers.hold(0);
    stamp(&writer, 1);
    assert_eq!(text(&connection, "PRAGMA redis_consistency"), "strong");
    assert_eq!(text(&connection, "PRAGMA redis_consistency = snapshot"), "snapshot");
    assert_eq!(stamped(&connection), 0);
    assert_eq!(text(&connection, "PRAGMA redis_consistency = 'bounded=1'"), "bounded=1");
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(stamped(&connection), 1);
    assert!(connection.execute_batch("PRAGMA redis_consistency = 'bounded=soon'").is_err());
    assert_eq!(text(&connection, "PRAGMA redis_consistency"), "bounded=1");
}

#[test]
fn a_replica_that_goes_away_and_comes_back_is_read_again() {
    let (mut servers, writer) = servers(1);
    let connection = apart(servers.options("shop", Consistency::Snapshot), 1);
    // The caches are too small for the table, so pages are fetched again.
    let reader = apart(servers.options("shop", Consistency::Snapshot).cache_size(4096), 3);
    reader.execute_batch("PRAGMA cache_size = 2; BEGIN").unwrap();
    assert_eq!((stamped(&connection), stamped(&reader)), (0, 0));
    servers.replicas[0].kill();
    stamp(&writer, 1);
    assert_eq!((stamped(&connection), stamped(&reader)), (1, 0));
    assert_eq!(told(&connection, "server"), servers.primary.url());
    // A connection that opens the database now reads the primary as well.
    assert_eq!(stamped(&apart(servers.options("shop", Consistency::Snapshot), 2)), 1);
    servers.replicas[0].restart();
    servers.replicas[0].follow(&servers.primary);
    servers.in_step(0, "shop");
    eventually("the replica serves again", || {
        assert_eq!(stamped(&connection), 1);
        told(&connection, "server") == servers.replicas[0].url()
    });
}

#[test]
fn replicas_serve_reads_while_the_primary_is_away() {
    let (mut servers, writer) = servers(1);
    let levels = [Consistency::Strong, Consistency::Session, Consistency::Snapshot, Consistency::Bounded(MINUTE)];
    let connections = levels.map(|level| apart(servers.options("shop", level), 1));
    for connection in &connections {
        assert_eq!(stamped(connection), 0);
    }
    drop(writer);
    servers.primary.kill();
    let [strong, others @ ..] = &connections;
    assert_failure(failure(strong, "SELECT * FROM t"), code::IOERR_READ, "can't connect");
    for connection in others {
        for _ in 0..3 {
            assert_eq!(stamped(connection), 0);
            assert!(connection.execute_batch("DELETE FROM t").is_err());
        }
    }
}

#[test]
fn a_replica_of_another_primary_is_refused() {
    let (servers, _writer) = servers(0);
    let (others, other_writer) = self::servers(1);
    stamp(&other_writer, 5);
    let port = others.primary.port();
    let options = servers.primary.options("shop").replica(others.replicas[0].url());
    let words = format!("it is a replica of 127.0.0.1:{port}, which is another primary");
    assert_failure(open_failure(&options), code::CANTOPEN, &words);
    let options = servers.primary.options("shop").replica(others.primary.url());
    assert_failure(open_failure(&options), code::CANTOPEN, "it is not a replica");
}

#[test]
fn a_replica_that_moves_to_another_primary_is_not_read() {
    let (servers, writer) = servers(1);
    let (others, other_writer) = self::servers(0);
    for n in 1..=5 {
        stamp(&other_writer, 100 + n);
    }
    let connection = apart(servers.options("shop", Consistency::Snapshot), 1);
    let port = others.primary.port().to_string();
    assert_eq!(servers.replicas[0].redis_cli(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    eventually("the replica holds the other primary's data", || {
        servers.replicas[0].stored("shop") == others.primary.stored("shop")
    });
    for n in 1..=8 {
        stamp(&writer, n);
        assert_eq!(stamped(&connection), n);
    }
}

#[test]
fn a_replica_without_the_database_is_not_read() {
    let (servers, writer) = servers(1);
    // The replica has never been in step.
    assert_eq!(servers.replicas[0].redis_cli(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
    assert_eq!(servers.replicas[0].redis_cli(&["CONFIG", "SET", "replica-read-only", "no"]), "OK");
    assert_eq!(servers.replicas[0].redis_cli(&["FLUSHALL"]), "OK");
    for level in [Consistency::Strong, Consistency::Session, Consistency::Bounded(SECOND), Consistency::Snapshot] {
        let connection = apart(servers.options("shop", level).catch_up(Duration::from_millis(1)), 1);
        assert_eq!(stamped(&connection), 0, "{level}");
        assert_eq!(told(&connection, "server"), servers.primary.url());
    }
    stamp(&writer, 1);
}

#[test]
fn a_primary_can_be_named_as_its_own_replica() {
    let (servers, writer) = servers(0);
    for level in [Consistency::Strong, Consistency::Session, Consistency::Snapshot] {
        let options = servers.primary.options("shop").replica(servers.primary.tcp_url()).consistency(level);
        let connection = apart(options, 1);
        stamp(&connection, 1);
        assert_eq!(stamped(&connection), 1);
        stamp(&writer, 2);
        eventually("the commit is seen", || stamped(&connection) == 2);
    }
}

#[test]
fn a_replica_that_refuses_reads_is_named_without_its_password() {
    let (servers, _writer) = servers(1);
    let replica = &servers.replicas[0];
    let acl = ["ACL", "SETUSER", "blind", "on", ">secret-word", "~*", "+@all", "-hmget"];
    assert_eq!(replica.redis_cli(&acl), "OK");
    let url = |password: &str| format!("{}?user=blind&pass={password}", replica.url());
    let options = |password| servers.primary.options("shop").replica(url(password));
    assert_failure(open_failure(&options("secret-word")), code::CANTOPEN, "hmget");
    let (failed, why) = open_failure(&options("wrong-secret"));
    assert_failure((failed, why.clone()), code::CANTOPEN, "refuses the user or password");
    assert!(!why.contains("secret"), "{why}");
    // A replica that forbids asking for its role is read.
    assert_eq!(replica.redis_cli(&["ACL", "SETUSER", "blind", "+hmget", "-info"]), "OK");
    let connection = apart(options("secret-word").consistency(Consistency::Snapshot), 1);
    assert_eq!(stamped(&connection), 0);
    assert_eq!(told(&connection, "server"), replica.url());
}

#[test]
fn a_replica_that_is_loading_at_open_is_waited_out() {
    if !program::answers_while_it_loads() {
        return;
    }
    let (servers, writer) = servers(1);
    let replica = &servers.replicas[0];
    assert_eq!(replica.redis_cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    assert_eq!(replica.redis_cli(&["FLUSHALL"]), "OK");
    servers.load_slowly(0);
    let connection = apart(servers.options("shop", Consistency::Snapshot), 1);
    assert_eq!(stamped(&connection), 0);
    stamp(&writer, 1);
    servers.in_step(0, "shop");
    eventually("the replica serves", || stamped(&connection) == 1 && told(&connection, "server") == replica.url());
}

#[test]
fn several_replicas_can_be_named_in_a_uri_or_in_the_environment() {
    let (servers, _writer) = servers(2);
    let [one, two] = [0, 1].map(|n: usize| servers.replicas[n].url());
    let script = "
for _ in range(8):
    db = connect(uri)
    db.execute('SELECT 1 FROM t').fetchone()
    say(db.execute('PRAGMA redis_snapshot').fetchone()[0].split('server=')[1])";
    let primary = servers.primary.url();
    let uri = format!("file:shop?vfs=redis&consistency=snapshot&redis={primary}");
    let in_uri = format!("uri = '{uri}&replica={one}&replica={two}'");
    let both = format!("{one} {two}");
    for (script, environment) in [
        (format!("{in_uri}{script}"), vec![]),
        (format!("uri = '{uri}'{script}"), vec![("SQLITE_REDIS_REPLICA", both.as_str())]),
    ] {
        let Some(said) = hosts::run_python(&script, &environment) else { return };
        let lines: Vec<_> = said.out.lines().collect();
        assert!(lines.len() == 8 && lines.iter().all(|line| *line == one || *line == two), "{said:?}");
    }
}

#[test]
fn replicas_of_the_primary_are_discovered_and_tracked() {
    let (mut servers, writer) = servers(1);
    let options = servers.primary.options("shop").replica("auto").consistency(Consistency::Snapshot);
    let connection = apart(options, 1);
    assert_eq!(stamped(&connection), 0);
    assert_eq!(told(&connection, "server"), servers.replicas[0].tcp_url());
    servers.replicas.push(Server::replica_of(&servers.primary));
    servers.replicas[0].kill();
    stamp(&writer, 1);
    assert_eq!(stamped(&connection), 1, "the primary does not serve the read");
    eventually("the other replica is found", || {
        assert_eq!(stamped(&connection), 1);
        told(&connection, "server") == servers.replicas[1].tcp_url()
    });
}
