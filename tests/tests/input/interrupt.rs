//! `sqlite3_interrupt` ends waiting for a server, and never hides the outcome of a commit.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use sqlite_redis_tests::python::python;
use sqlite_redis_tests::vtab::{connect, table};
use sqlite_redis_tests::{Server, code, number};
use tempfile::TempDir;

const INTERRUPT: i32 = 9;
/// Longer than any test may take, so only the interrupt can end the wait.
const LONG: Duration = Duration::from_secs(60);

/// Runs statements, interrupts them after 400 ms, and asserts that they end soon after.
fn interrupted(connection: &Connection, sql: &str) {
    let handle = connection.get_interrupt_handle();
    let begun = Instant::now();
    let wait = Duration::from_millis(400);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(wait);
            handle.interrupt();
        });
        connection.execute_batch(sql)
    });
    assert_eq!(code(outcome), INTERRUPT, "{sql}");
    // Less than the time that a virtual table waits for a reply or a connection.
    assert!(begun.elapsed() < wait + Duration::from_secs(2), "{sql}: {:?}", begun.elapsed());
}

fn patient(server: &Server) -> Connection {
    let connection = server.options("shop").timeout(LONG).connect_timeout(LONG).open().unwrap();
    connection.busy_timeout(LONG).unwrap();
    connection
}

#[test]
fn an_interrupted_wait_for_the_lease_leaves_the_queue() {
    let server = Server::start();
    let writer = patient(&server);
    writer.execute_batch("CREATE TABLE t (x)").unwrap();
    let waiter = patient(&server);
    for sql in ["INSERT INTO t VALUES (1)", "BEGIN IMMEDIATE"] {
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        interrupted(&waiter, sql);
        assert!(waiter.is_autocommit());
        writer.execute_batch("COMMIT").unwrap();
        let begun = Instant::now();
        writer.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        waiter.execute_batch("INSERT INTO t VALUES (3)").unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    assert_eq!(number(&waiter, "SELECT count(*) FROM t"), 4);
}

#[test]
fn an_interrupted_read_can_be_retried() {
    let server = Server::start();
    let writer = patient(&server);
    writer
        .execute_batch(
            "CREATE TABLE t (x); WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
             INSERT INTO t SELECT zeroblob(3000) FROM n",
        )
        .unwrap();
    // Another lease time gives the connection its own cache.
    let cold = |seconds| {
        let options = server.options("shop").timeout(LONG).lease(Duration::from_secs(seconds));
        let connection = options.open().unwrap();
        connection.execute_batch("PRAGMA cache_size = 2; SELECT 1 FROM sqlite_schema").unwrap();
        connection
    };
    let reader = cold(20);
    server.signal("STOP");
    interrupted(&reader, "SELECT sum(length(x)) FROM t");
    server.signal("CONT");
    assert_eq!(number(&reader, "SELECT sum(length(x)) FROM t"), 6_000_000);
    // In a write transaction, the interrupt rolls the transaction back and releases the lease.
    let other = cold(21);
    other.execute_batch("BEGIN; INSERT INTO t VALUES (1)").unwrap();
    server.signal("STOP");
    interrupted(&other, "UPDATE t SET x = zeroblob(2000)");
    assert!(other.is_autocommit());
    server.signal("CONT");
    let begun = Instant::now();
    writer.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(number(&other, "SELECT count(*) FROM t"), 2001);
}

/// Commits while the server hangs and another thread interrupts the connection.
fn commit_while_interrupted(server: &Server, connection: &Connection) {
    let handle = connection.get_interrupt_handle();
    server.signal("STOP");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(100));
                handle.interrupt();
            }
            server.signal("CONT");
        });
        connection.execute_batch("COMMIT").unwrap();
    });
}

#[test]
fn a_commit_is_not_interrupted() {
    let server = Server::start();
    let connection = patient(&server);
    connection.execute_batch("CREATE TABLE t (x); BEGIN; INSERT INTO t VALUES (1)").unwrap();
    commit_while_interrupted(&server, &connection);
    assert_eq!(number(&server.open_apart("shop", 1), "SELECT x FROM t"), 1);
}

#[test]
fn a_commit_of_a_virtual_table_is_not_interrupted() {
    let server = Server::start();
    let connection = table(&server, "n INTEGER");
    connection.execute_batch("BEGIN; INSERT INTO t VALUES (1)").unwrap();
    commit_while_interrupted(&server, &connection);
    assert_eq!(number(&connection, "SELECT n FROM t"), 1);
}

#[test]
fn a_statement_of_a_virtual_table_is_interrupted() {
    let server = Server::start();
    let connection = table(&server, "n INTEGER");
    connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    server.signal("STOP");
    interrupted(&connection, "SELECT * FROM t");
    interrupted(&connection, "INSERT INTO t VALUES (2)");
    interrupted(&connection, &format!("SELECT * FROM redis_hash('{}', 'k')", server.url()));
    server.signal("CONT");
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 1);
}

/// A server whose `SCAN` never ends.
fn endless() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            std::thread::spawn(move || {
                let (mut replies, mut requests) = (client.try_clone().unwrap(), BufReader::new(client));
                // A cursor that repeats would end the scan.
                let mut cursors = 1_000_000..;
                while let Some(name) = command(&mut requests) {
                    let reply = match name.as_str() {
                        "SCAN" => format!("*2\r\n$7\r\n{}\r\n*0\r\n", cursors.next().unwrap_or_default()),
                        "DBSIZE" => ":1000000000000\r\n".to_owned(),
                        "ROLE" => "-ERR unknown command\r\n".to_owned(),
                        _ => "+OK\r\n".to_owned(),
                    };
                    if replies.write_all(reply.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (directory, path)
}

/// Reads one command and returns its name.
fn command(requests: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    requests.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let count: usize = line.trim_start_matches('*').trim().parse().ok()?;
    let mut words = (0..count).map(|_| {
        let mut line = String::new();
        requests.read_line(&mut line).ok()?;
        let length: usize = line.trim_start_matches('$').trim().parse().ok()?;
        let mut word = vec![0; length + 2];
        requests.read_exact(&mut word).ok()?;
        Some(String::from_utf8_lossy(&word[..length]).into_owned())
    });
    let name = words.next()?;
    words.all(|word| word.is_some()).then_some(name)?
}

#[test]
fn an_endless_listing_of_keys_is_interrupted() {
    let (_directory, path) = endless();
    interrupted(&connect(), &format!("SELECT count(*) FROM redis_keys('unix://{}', '*')", path.display()));
}

#[test]
fn waits_are_interrupted_on_sqlite_without_is_interrupted() {
    let (_directory, path) = endless();
    let script = format!(
        "
import threading, time
def interrupted(sql):
    begun = time.monotonic()
    timer = threading.Timer(0.5, db.interrupt)
    timer.start()
    said = refused(db, sql)
    timer.join()
    assert 'interrupt' in said, said
    assert time.monotonic() - begun < 5, sql
interrupted(\"SELECT count(*) FROM redis_keys('unix://{}', '*')\")
other = open()
other.execute('BEGIN IMMEDIATE')
interrupted('INSERT INTO t VALUES (1, 2)')
other.execute('COMMIT')
db.execute('INSERT INTO t VALUES (1, 2)')
assert count(db) == 1
",
        path.display()
    );
    // Debian's Python has SQLite 3.40, which lacks `sqlite3_is_interrupted`.
    python(&Server::start(), &script);
}

/// A TCP port that accepts no connection: its queue is full, so the kernel drops packets.
fn full() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue of the listener never fills");
    }
    (socket.into(), queued, address)
}

#[test]
fn connecting_is_interrupted() {
    let (_listener, _queued, full) = full();
    // Accepts connections and sends nothing.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_at = mute.local_addr().unwrap();
    let connection = connect();
    for address in [
        format!("redis://{full}"),
        format!("redis://{mute_at}"),
        format!("rediss://{mute_at}"),
        format!("sentinel://shop@{mute_at}"),
        format!("sentinel://shop@{full},{mute_at}"),
        format!("redis+cluster://{full}"),
    ] {
        interrupted(&connection, &format!("SELECT * FROM redis_hash('{address}', 'k')"));
    }
    drop(mute);
}
