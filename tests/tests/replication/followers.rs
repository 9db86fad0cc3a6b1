//! Followers: a thread that learns of commits with a blocking `XREAD`, so that reads need no round trip; and reads while
//! a follower gets no replies.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use sqlite_redis::{Consistency, Options};
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::replicated::Replicated;
use sqlite_redis_tests::{Server, eventually, hosts, number, text};

const MINUTE: Duration = Duration::from_secs(60);
const BOUNDED: Consistency = Consistency::Bounded(MINUTE);

/// A server, and a connection whose cache is its own, as another process would have it.
fn server() -> (Server, Connection) {
    let server = Server::start();
    let writer = server.open_apart("shop", 1);
    writer.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (0)").unwrap();
    (server, writer)
}

fn reader(options: Options) -> Connection {
    options.open().unwrap_or_else(|error| panic!("{error}"))
}

fn newest(connection: &Connection) -> i64 {
    number(connection, "SELECT max(x) FROM t")
}

fn insert(connection: &Connection, x: i64) {
    connection.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
}

/// Number of commands that this process sent to the server.
fn commands(connection: &Connection) -> u64 {
    let stats = text(connection, "PRAGMA redis_stats");
    stats.split(['=', ' ']).nth(3).unwrap().parse().unwrap()
}

/// Number of followers that wait in `XREAD`.
fn followers(server: &Server) -> usize {
    server.redis_cli(&["CLIENT", "LIST"]).matches(" cmd=xread ").count()
}

#[test]
fn a_warm_read_transaction_sends_nothing_while_the_follower_is_live() {
    let (server, _writer) = server();
    for level in [BOUNDED, Consistency::Session] {
        let connection = reader(server.options("shop").consistency(level));
        // Retried, because the follower itself sends a command now and then.
        eventually("50 reads send no command", || {
            let before = commands(&connection);
            for _ in 0..50 {
                assert_eq!(newest(&connection), 0);
            }
            commands(&connection) == before
        });
    }
}

#[test]
fn a_follower_delivers_commits_of_other_processes() {
    let (server, writer) = server();
    let connection = reader(server.options("shop").consistency(BOUNDED));
    for x in 1..=20 {
        insert(&writer, x);
        // Without the follower, the connection would ask after a minute.
        eventually("it arrives", || newest(&connection) == x);
    }
    let snapshot = text(&connection, "PRAGMA redis_snapshot");
    assert!(snapshot.contains("consistency=bounded=60000") && snapshot.contains(&server.url()), "{snapshot}");
}

#[test]
fn a_session_follows_its_replica() {
    let servers = Replicated::with(1);
    let writer = servers.primary.open_apart("shop", 1);
    writer.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (0)").unwrap();
    // A follower skips a replica without the database for a while, and follows the primary.
    servers.in_step(0, "shop");
    let connection = reader(servers.options("shop", Consistency::Session));
    newest(&connection);
    eventually("the replica is followed", || followers(&servers.replicas[0]) == 1);
    assert_eq!(followers(&servers.primary), 0);
    for x in 1..=20 {
        insert(&writer, x);
        eventually("it arrives", || newest(&connection) == x);
    }
}

#[test]
fn bounded_reads_keep_their_bound_while_the_follower_is_stuck() {
    let (server, writer) = server();
    let proxy = Proxy::to(&server);
    let bound = Duration::from_millis(400);
    let connection = reader(proxy.options("shop").timeout(MINUTE).consistency(Consistency::Bounded(bound)));
    for x in 1..=5 {
        // The proxy holds the follower's `XREAD`, which the follower can't notice.
        proxy.next("XREAD", Fault::HoldRequest);
        newest(&connection);
        proxy.wait_for_held(1);
        insert(&writer, x);
        let acknowledged = Instant::now();
        while acknowledged.elapsed() < bound {
            assert!([x - 1, x].contains(&newest(&connection)));
        }
        assert_eq!(newest(&connection), x);
        proxy.settle(x % 2 == 0);
    }
}

#[test]
fn session_reads_ask_the_server_while_the_follower_is_stuck() {
    let (server, writer) = server();
    let proxy = Proxy::to(&server);
    // The follower would wait for this reply longer than the test runs.
    let connection = reader(proxy.options("shop").timeout(2 * MINUTE).consistency(Consistency::Session));
    newest(&connection);
    proxy.next("XREAD", Fault::HoldRequest);
    proxy.wait_for_held(1);
    insert(&writer, 1);
    eventually("the session asks the server", || newest(&connection) == 1);
    proxy.settle(true);
}

#[test]
fn a_follower_resumes_after_its_server_was_away() {
    let mut server = Server::with(["--appendonly", "yes", "--appendfsync", "always"]).start();
    server.open_apart("shop", 1).execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (0)").unwrap();
    let connection = reader(server.options("shop").consistency(BOUNDED));
    newest(&connection);
    eventually("the follower waits", || followers(&server) == 1);
    server.kill();
    assert_eq!(newest(&connection), 0, "a read within the bound needs the server");
    server.restart();
    insert(&server.open_apart("shop", 1), 1);
    eventually("the follower reads the commit", || newest(&connection) == 1);
}

#[test]
fn one_follower_serves_a_process_and_ends_with_its_last_connection() {
    let (server, _writer) = server();
    let level = Consistency::Bounded(Duration::from_secs(2));
    let connections: Vec<_> = (0..5).map(|_| reader(server.options("shop").consistency(level))).collect();
    for connection in &connections {
        newest(connection);
    }
    eventually("the follower waits", || followers(&server) == 1);
    assert_eq!(text(&connections[0], "PRAGMA redis_consistency = strong"), "strong");
    drop(connections);
    // A live follower sends `XREAD` twice a second.
    eventually("the follower has ended", || {
        let before = server.calls("xread");
        std::thread::sleep(Duration::from_secs(3));
        server.calls("xread") == before
    });
    let again = reader(server.options("shop").consistency(BOUNDED));
    newest(&again);
    eventually("another follower waits", || followers(&server) == 1);
}

#[test]
fn a_follower_notices_a_history_that_went_back() {
    let (server, writer) = server();
    let connection = reader(server.options("shop").consistency(BOUNDED));
    insert(&writer, 1);
    assert_eq!(server.redis_cli(&["COPY", "sqlite:{shop}", "sqlite:{kept}"]), "1");
    insert(&writer, 2);
    eventually("it arrives", || newest(&connection) == 2);
    // A failover that loses a commit does this; the log stays as it was.
    assert_eq!(server.redis_cli(&["COPY", "sqlite:{kept}", "sqlite:{shop}", "REPLACE"]), "1");
    eventually("the loss is seen", || newest(&connection) == 1);
    assert_eq!(server.redis_cli(&["DEL", "sqlite:{shop}:log"]), "1");
    insert(&writer, 3);
    eventually("the new commit arrives", || newest(&connection) == 3);
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 3);
}

#[test]
fn a_log_without_its_database_does_not_make_a_follower_spin() {
    let (server, writer) = server();
    for x in 1..=50 {
        insert(&writer, x);
    }
    let connection = reader(server.options("shop").consistency(BOUNDED));
    newest(&connection);
    assert_eq!(server.redis_cli(&["DEL", "sqlite:{shop}"]), "1");
    eventually("the database is gone", || number(&connection, "SELECT count(*) FROM sqlite_schema") == 0);
    let before = server.calls("xread");
    std::thread::sleep(Duration::from_secs(1));
    assert!(server.calls("xread") - before < 5);
}

#[test]
fn reads_ask_the_server_where_xread_is_forbidden() {
    let (server, writer) = server();
    let user = ["ACL", "SETUSER", "deaf", "on", ">Pass-of-deaf", "~*", "+@all", "-xread", "-role", "-info"];
    assert_eq!(server.redis_cli(&user), "OK");
    let options = Options::new("shop").server(format!("{}?user=deaf&pass=Pass-of-deaf", server.url()));
    for level in [Consistency::Session, Consistency::Bounded(Duration::from_millis(1))] {
        let connection = reader(options.clone().replica(server.url()).consistency(level));
        for _ in 0..5 {
            let x = newest(&writer) + 1;
            insert(&writer, x);
            eventually("the commit is seen", || newest(&connection) == x);
        }
    }
}

#[test]
fn a_forked_child_has_its_own_follower() {
    let (server, _writer) = server();
    let script = "
import os
db = connect('file:shop?vfs=redis&consistency=bounded=60000')
newest = lambda: db.execute('SELECT max(x) FROM t').fetchone()[0]
newest()
read, write = os.pipe()
child = os.fork()
if child == 0:
    newest()
    os.write(write, b'ready')
    import time
    deadline = time.time() + 30
    while newest() != 1 and time.time() < deadline:
        time.sleep(0.01)
    os.write(write, str(newest()).encode())
    os._exit(0)
os.read(read, 5)
db.execute('INSERT INTO t VALUES (1)')
db.commit()
os.waitpid(child, 0)
say(os.read(read, 9).decode())
say(newest())
";
    let url = server.url();
    if let Some(said) = hosts::run_python(script, &[("SQLITE_REDIS_URL", url.as_str())]) {
        assert_eq!(said.out.lines().collect::<Vec<_>>(), ["1", "1"], "{said:?}");
    }
}
