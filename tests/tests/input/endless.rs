//! Servers whose replies never finish a task: log, scan and promotion end, in bounded time and memory.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use sqlite_redis::admin::Admin;
use sqlite_redis_tests::failures::{assert_failure, code, failure};
use sqlite_redis_tests::proxy::Proxy;
use sqlite_redis_tests::vtab::{connect, create};
use sqlite_redis_tests::{Server, check_integrity, number};

/// Upper bound for operations that would otherwise never end.
const SOON: Duration = Duration::from_secs(60);

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn array(items: &[String]) -> String {
    format!("*{}\r\n{}", items.len(), items.concat())
}

/// A hundred log entries from version `first` on, each with `undo` bytes of undo data.
fn entries(first: u64, undo: usize) -> String {
    let undo = "x".repeat(undo);
    let entry = |version: u64| {
        let id = format!("{version:016x}");
        let fields = ["commit", &id, "base", &id, "page_count", "3", "undo", &undo].map(bulk);
        array(&[bulk(&format!("{version}-0")), array(&fields)])
    };
    array(&(first..first + 100).map(entry).collect::<Vec<_>>())
}

/// A database, and a read transaction through a proxy with few pages in its cache.
fn reader(server: &Server) -> (Proxy, Connection) {
    let direct = server.open("shop");
    direct.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(1000000))").unwrap();
    let proxy = Proxy::to(server);
    let reader = proxy.options("shop").cache_size(0).timeout(Duration::from_secs(2)).open().unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
    (proxy, reader)
}

fn version(server: &Server) -> u64 {
    server.redis_cli(&["HGET", "sqlite:{shop}", "version"]).parse().unwrap()
}

/// Makes the server claim to be `versions` versions ahead.
fn go_ahead(server: &Server, versions: u64) {
    let version = (version(server) + versions).to_string();
    server.redis_cli(&["HSET", "sqlite:{shop}", "version", &version, "commit", "00000000000000aa"]);
}

fn asked(proxy: &Proxy, command: &str) -> usize {
    proxy.commands().iter().filter(|asked| *asked == command).count()
}

#[test]
fn an_endless_log_costs_a_reader_its_snapshot() {
    // More versions than a log has, more bytes than are read, and entries that never reach the version.
    for (ahead, undo, most) in [(1_000_000_000_000, 20_000, 0), (19_000, 20_000, 200), (19_000, 1, 200)] {
        let server = Server::start();
        let (proxy, reader) = reader(&server);
        go_ahead(&server, ahead);
        proxy.answer_by("XRANGE", move |words| {
            let first = words[2].split('-').next().unwrap().parse().unwrap();
            entries(first, undo).into_bytes()
        });
        let begun = Instant::now();
        assert_failure(failure(&reader, "SELECT sum(length(x)) FROM t"), code::BUSY_SNAPSHOT, "can't be read any more");
        assert!(begun.elapsed() < SOON);
        assert!(asked(&proxy, "XRANGE") <= most, "{} questions", asked(&proxy, "XRANGE"));
    }
}

#[test]
fn an_endless_scan_is_given_up() {
    let server = Server::start();
    server.open("shop").execute_batch("CREATE TABLE t (x)").unwrap();
    let proxy = Proxy::to(&server);
    let one = connect();
    create(&one, &proxy.url(), "t", "x TEXT, y TEXT, UNIQUE (x, y)").unwrap();
    one.execute_batch("INSERT INTO t VALUES ('a', 'b')").unwrap();
    proxy.answer("SCAN", &array(&[bulk("7"), array(&[])]));
    proxy.answer("HSCAN", &array(&[bulk("7"), array(&[])]));
    let begun = Instant::now();
    let names = Admin::connect(&proxy.options("")).unwrap().names().unwrap_err().to_string();
    let keys = number_of(&one, &format!("SELECT count(*) FROM redis_keys('{}', '*')", proxy.url()));
    let fields = number_of(&one, &format!("SELECT count(*) FROM redis_hash('{}', 'p.main.t:1')", proxy.url()));
    let dropped = number_of(&one, "SELECT redis_drop_data('t')");
    assert!(begun.elapsed() < SOON);
    for said in [names, keys, fields, dropped] {
        assert!(said.contains("a listing has not come to its end"), "{said}");
    }
    proxy.answer_none();
    assert_eq!(number(&one, "SELECT count(*) FROM t"), 1);
}

/// The error of a query that should fail.
fn number_of(connection: &Connection, sql: &str) -> String {
    connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap_err().to_string()
}

#[test]
fn staged_pages_that_are_never_promoted_refuse_the_write() {
    let server = Server::start();
    let (proxy, writer) = reader(&server);
    writer.execute_batch("COMMIT").unwrap();
    let commit = server.redis_cli(&["HGET", "sqlite:{shop}", "commit"]);
    server.redis_cli(&["HSET", "sqlite:{shop}:staged", "commit", &commit, "page_count", "1"]);
    server.redis_cli(&["HSET", "sqlite:{shop}", "format", "2"]);
    proxy.answer("EVAL", &bulk("7"));
    let begun = Instant::now();
    let (_, said) = failure(&writer, "INSERT INTO t VALUES (1)");
    assert!(begun.elapsed() < SOON);
    assert!(said.contains("are not in their place after"), "{said}");
    proxy.answer_none();
    server.redis_cli(&["DEL", "sqlite:{shop}:lock"]);
    writer.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    check_integrity(&writer);
    server.check_stored("shop");
}
