//! Reading from real replicas: what each level of consistency shows while they lag, resynchronise,
//! go away and come back.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use sqlite_redis::{Consistency, Options};
use sqlite_redis_tests::failures::{assert_failure, code, failure, open_failure};
use sqlite_redis_tests::replicated::{Replicated, told};
use sqlite_redis_tests::{Server, check_integrity, eventually, hosts, number, program, text};

/// Rows enough for several pages, so that a mixture of two versions would show.
const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, stamp INTEGER, filler TEXT);
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 40)
    INSERT INTO t SELECT n, 0, printf('%0*d', 400, 0) FROM n;";

fn stamp(connection: &Connection, stamp: i64) {
    let sql = format!("UPDATE t SET stamp = {stamp}, filler = printf('%0*d', 400, {stamp})");
    connection.execute_batch(&sql).unwrap();
}

/// The stamp, which must be that of the whole table.
#[track_caller]
fn stamped(connection: &Connection) -> i64 {
    let torn = "SELECT count(*) FROM t WHERE stamp <> (SELECT stamp FROM t WHERE id = 1)
                OR filler <> printf('%0*d', 400, stamp)";
    assert_eq!(number(connection, torn), 0, "two versions are mixed");
    number(connection, "SELECT max(stamp) FROM t")
}

/// A connection as another process would have it for each `n`.
fn apart(options: Options, n: u64) -> Connection {
    let connection =
        options.timeout(Duration::from_millis(20_000 + n)).open().unwrap_or_else(|error| panic!("{error}"));
    connection.busy_timeout(Duration::from_secs(30)).unwrap();
    connection
}

/// Servers with the table, and a connection that writes.
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
    assert!(asked.0 <= 2 && asked.1 >= 8, "the primary for the version, the replica for pages: {asked:?}");
    stamp(&connection, 1);
    assert_eq!(stamped(&writer), 1);
    check_integrity(&connection);
}

#[test]
fn each_level_shows_what_it_promises_while_a_replica_lags() {
    let (servers, writer) = servers(1);
    let strong = apart(servers.options("shop", Consistency::Strong), 1);
    let snapshot = apart(servers.options("shop", Consistency::Snapshot), 2);
    let session = apart(servers.options("shop", Consistency::Session).catch_up(Duration::from_millis(50)), 3);
    servers.hold(0);
    stamp(&writer, 1);
    assert_eq!(stamped(&strong), 1, "the newest");
    assert_eq!(stamped(&snapshot), 0, "what the replica has");
    assert_eq!(stamped(&session), 0, "as old as what it has seen");
    stamp(&session, 2);
    assert_eq!(stamped(&session), 2, "its own write");
    assert_eq!((stamped(&strong), stamped(&snapshot)), (2, 0));
    assert_eq!(told(&snapshot, "server"), servers.replicas[0].url());
    let there = servers.replicas[0].redis_cli(&["HGET", "sqlite:{shop}", "version"]);
    assert_eq!(told(&snapshot, "version"), there, "as redis-cli sees it");
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
        // The one that is up to date leaves its clients.
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
    eventually("the primary is left", || stamped(&session) == 82);
    stamp(&session, 90);
    assert_eq!(stamped(&session), 90);
    check_integrity(&session);
}

#[test]
fn a_session_whose_version_the_primary_lost_is_told_so_once() {
    let (servers, writer) = servers(1);
    let session = apart(servers.primary.options("shop").consistency(Consistency::Session), 1);
    stamp(&session, 1);
    let kept = servers.primary.redis_cli(&["COPY", "sqlite:{shop}", "sqlite:{kept}"]);
    assert_eq!(kept, "1");
    stamp(&session, 2);
    assert_eq!(stamped(&session), 2);
    // As a failover does that loses a commit.
    assert_eq!(servers.primary.redis_cli(&["COPY", "sqlite:{kept}", "sqlite:{shop}", "REPLACE"]), "1");
    let mut lost = None;
    eventually("it asks again", || {
        lost = session.query_row("SELECT max(stamp) FROM t", [], |row| row.get::<_, i64>(0)).err();
        lost.is_some()
    });
    let why = sqlite_redis::last_error(&session).unwrap().to_string();
    assert!(why.contains("this session has seen version 4") && why.contains("it is at version 3"), "{why}");
    assert_eq!((stamped(&session), stamped(&writer)), (1, 1));
}

#[test]
fn a_read_transaction_goes_on_while_its_replica_resynchronises() {
    if !program::answers_while_it_loads() {
        return;
    }
    let (servers, writer) = servers(1);
    // So few pages in its caches that it must fetch again.
    let options = servers.options("shop", Consistency::Snapshot).cache_size(4096);
    let reader = apart(options, 1);
    reader.execute_batch("PRAGMA cache_size = 2; BEGIN").unwrap();
    assert_eq!(stamped(&reader), 0);
    assert_eq!(told(&reader, "server"), servers.replicas[0].url());
    let replica = &servers.replicas[0];
    // It has lost everything, as at the start of a full resynchronisation without a copy on disk.
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
    eventually("it serves again", || stamped(&reader) == 2 && told(&reader, "server") == replica.url());
}

#[test]
fn a_replica_that_was_cut_off_and_goes_its_own_way_is_not_read() {
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
        // Without a busy timeout, the second try is one of the newest version.
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
fn what_was_acknowledged_longer_ago_than_the_bound_is_seen() {
    let (servers, writer) = servers(1);
    let bound = Duration::from_millis(300);
    // Two that share what they know, and one that does not.
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
fn a_token_makes_another_process_wait_for_a_write() {
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
    eventually("it arrives", || reader.execute_batch(&wait).is_ok());
    assert_eq!(stamped(&reader), 1);
    reader.execute_batch("BEGIN; SELECT 1 FROM t").unwrap();
    stamp(&writer, 2);
    let next = format!("PRAGMA redis_wait_version = {}", text(&writer, "PRAGMA redis_version"));
    assert_failure(failure(&reader, &next), code::BUSY, "the open transaction has version");
}

#[test]
fn the_level_can_be_changed_on_the_connection() {
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
    // So few pages in its caches that it must fetch again.
    let reader = apart(servers.options("shop", Consistency::Snapshot).cache_size(4096), 3);
    reader.execute_batch("PRAGMA cache_size = 2; BEGIN").unwrap();
    assert_eq!((stamped(&connection), stamped(&reader)), (0, 0));
    servers.replicas[0].kill();
    stamp(&writer, 1);
    assert_eq!((stamped(&connection), stamped(&reader)), (1, 0));
    assert_eq!(told(&connection, "server"), servers.primary.url());
    // Also who opens the database now.
    assert_eq!(stamped(&apart(servers.options("shop", Consistency::Snapshot), 2)), 1);
    servers.replicas[0].restart();
    servers.replicas[0].follow(&servers.primary);
    servers.in_step(0, "shop");
    eventually("it serves again", || {
        assert_eq!(stamped(&connection), 1);
        told(&connection, "server") == servers.replicas[0].url()
    });
}

#[test]
fn replicas_go_on_to_serve_while_the_primary_is_away() {
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
fn a_replica_that_becomes_one_of_another_primary_is_not_read() {
    let (servers, writer) = servers(1);
    let (others, other_writer) = self::servers(0);
    for n in 1..=5 {
        stamp(&other_writer, 100 + n);
    }
    let connection = apart(servers.options("shop", Consistency::Snapshot), 1);
    let port = others.primary.port().to_string();
    assert_eq!(servers.replicas[0].redis_cli(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    eventually("it is one of the other", || servers.replicas[0].stored("shop") == others.primary.stored("shop"));
    for n in 1..=8 {
        stamp(&writer, n);
        assert_eq!(stamped(&connection), n);
    }
}

#[test]
fn a_replica_without_the_database_is_not_believed() {
    let (servers, writer) = servers(1);
    // Not in step from the beginning.
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
fn the_primary_named_as_its_own_replica_serves_as_one() {
    let (servers, writer) = servers(0);
    for level in [Consistency::Strong, Consistency::Session, Consistency::Snapshot] {
        let options = servers.primary.options("shop").replica(servers.primary.tcp_url()).consistency(level);
        let connection = apart(options, 1);
        stamp(&connection, 1);
        assert_eq!(stamped(&connection), 1);
        stamp(&writer, 2);
        eventually("it is seen", || stamped(&connection) == 2);
    }
}

#[test]
fn a_replica_that_lets_itself_not_be_read_is_named_and_shows_no_password() {
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
    // Without the right to ask for its role, it is read all the same.
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
    eventually("it serves", || stamped(&connection) == 1 && told(&connection, "server") == replica.url());
}

#[test]
fn replicas_are_given_in_a_uri_or_in_the_environment_as_often_as_need_be() {
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
fn replicas_that_the_primary_has_are_found_and_followed_when_they_change() {
    let (mut servers, writer) = servers(1);
    let options = servers.primary.options("shop").replica("auto").consistency(Consistency::Snapshot);
    let connection = apart(options, 1);
    assert_eq!(stamped(&connection), 0);
    assert_eq!(told(&connection, "server"), servers.replicas[0].tcp_url());
    servers.replicas.push(Server::replica_of(&servers.primary));
    servers.replicas[0].kill();
    stamp(&writer, 1);
    assert_eq!(stamped(&connection), 1, "the primary is left");
    eventually("the other replica is found", || {
        assert_eq!(stamped(&connection), 1);
        told(&connection, "server") == servers.replicas[1].tcp_url()
    });
}
