//! Large commits. Their pages are staged under a second key, which becomes part of the database in one step.

use rusqlite::Connection;
use sqlite_redis_tests::failures::{assert_failure, code, failure, run};
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::rows::assert_same_content;
use sqlite_redis_tests::stored::Stored;
use sqlite_redis_tests::{Server, check_integrity, eventually, number, text};

const HASH: &str = "sqlite:{shop}";
const STAGED: &str = "sqlite:{shop}:staged";

fn redis<T: redis::FromRedisValue>(server: &Server, arguments: &[&str]) -> T {
    redis::cmd(arguments[0]).arg(&arguments[1..]).query(&mut server.redis()).unwrap()
}

/// A connection that stages every commit.
fn staging(server: &Server) -> Connection {
    let connection = server.options("shop").stage_bytes(0).open().unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    connection
}

fn fill(rows: u32) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t SELECT NULL, randomblob(1000) FROM n"
    )
}

/// A database of about 260 pages, some of them still staged, as after a writer that died right after its commit.
fn half_promoted() -> (Server, Connection, Stored) {
    let server = Server::with(["--save", ""]).tcp().start();
    let db = staging(&server);
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, x)").unwrap();
    db.execute_batch(&fill(1000)).unwrap();
    let before = server.stored("shop");
    db.execute_batch("UPDATE t SET x = 'changed' WHERE id % 50 = 0").unwrap();
    let after = server.stored("shop");
    // Undo the promotion: old pages in the hash, new pages staged.
    let mut staged = 0;
    for (field, value) in after.fields.iter().filter(|(field, _)| field.starts_with("page") && field.len() < 9) {
        if field != "page_size" && before.fields.get(field) != Some(value) {
            let mut client = server.redis();
            let _: i64 = redis::cmd("HSET").arg(STAGED).arg(field).arg(value).query(&mut client).unwrap();
            let _: i64 = redis::cmd("HSET").arg(HASH).arg(field).arg(&before.fields[field]).query(&mut client).unwrap();
            staged += 1;
        }
    }
    assert!(staged > 10, "{staged} pages");
    let commit = String::from_utf8(after.fields["commit"].clone()).unwrap();
    let count = after.number("page_count").to_string();
    let _: i64 = redis(&server, &["HSET", STAGED, "commit", &commit, "page_count", &count]);
    let _: i64 = redis(&server, &["HSET", HASH, "format", "2"]);
    (server, db, after)
}

#[test]
fn a_staged_commit_stores_the_same_content_as_a_file() {
    let server = Server::start();
    let (db, twin) = (staging(&server), Connection::open_in_memory().unwrap());
    let other = server.open("shop");
    for sql in [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x); CREATE INDEX t_x ON t (x)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO t SELECT i, printf('%0500d', i) FROM n",
        "UPDATE t SET x = x || 'x' WHERE id % 100 = 0",
        "DELETE FROM t WHERE id > 300",
        "VACUUM",
        "PRAGMA page_size = 8192; VACUUM",
        "DELETE FROM t; VACUUM",
        "INSERT INTO t VALUES (1, 'again')",
    ] {
        for connection in [&db, &twin] {
            connection.execute_batch(sql).unwrap();
        }
        assert_same_content((&other, "main"), (&twin, "main"));
        server.check_stored("shop");
        let left: Vec<String> = redis(&server, &["KEYS", "*"]);
        let left: Vec<_> = left.iter().filter(|key| !key.ends_with(":undo")).collect();
        assert_eq!(left.len(), 2, "{sql} leaves {left:?}");
    }
    check_integrity(&other);
    server.check_older_versions("shop", 100);
}

#[test]
fn readers_see_the_new_version_while_its_pages_are_staged_and_on_a_replica_too() {
    let (server, db, _) = half_promoted();
    let changed = "SELECT count(*) FROM t WHERE x = 'changed'";
    for (n, connection) in [&db, &server.open("shop"), &server.open_apart("shop", 3)].into_iter().enumerate() {
        assert_eq!(number(connection, changed), 20, "connection {n}");
        check_integrity(connection);
    }
    let replica = Server::replica_of(&server);
    eventually("the replica has the database", || redis::<String>(&replica, &["HGET", HASH, "format"]) == "2");
    assert_eq!(number(&replica.options("shop").read_only(true).open().unwrap(), changed), 20);
    // Readers promote no page: they need no right to write.
    assert_eq!(redis::<String>(&server, &["HGET", HASH, "format"]), "2");
}

#[test]
fn a_reader_sees_the_new_version_while_pages_are_promoted_between_its_reads() {
    let (server, _db, _) = half_promoted();
    let proxy = Proxy::to(&server);
    let reader = proxy.options("shop").open().unwrap();
    reader.execute_batch("BEGIN").unwrap();
    // From here on, the reader fetches from the staged pages and from the hash in one round trip.
    assert_eq!(text(&reader, "SELECT x FROM t WHERE id = 50"), "changed");
    proxy.after(1, Fault::HoldRequest);
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            proxy.wait_for_held(1);
            // As a writer in the middle of the promotion.
            let mut client = server.redis();
            let staged: Vec<(String, Vec<u8>)> = redis::cmd("HGETALL").arg(STAGED).query(&mut client).unwrap();
            let pages = staged.into_iter().filter(|(field, _)| field.starts_with("page") && field != "page_count");
            for (field, bytes) in pages {
                redis::cmd("HSET").arg(HASH).arg(&field).arg(bytes).exec(&mut client).unwrap();
                redis::cmd("HDEL").arg(STAGED).arg(&field).exec(&mut client).unwrap();
            }
            proxy.let_go();
        });
        text(&reader, "SELECT x FROM t WHERE id = 950")
    });
    assert!(proxy.commands().ends_with(&["HMGET".to_owned(), "HMGET".to_owned()]), "the read of the hash was held");
    assert_eq!(found, "changed");
}

#[test]
fn the_next_writer_promotes_staged_pages() {
    let (server, db, after) = half_promoted();
    let reader = server.open_apart("shop", 3);
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 1000);
    // A write that changes nothing is enough.
    db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
    let now = server.check_stored("shop");
    assert_eq!(now, after);
    assert_eq!(redis::<i64>(&server, &["EXISTS", STAGED]), 0);
    // A reader inside a transaction is not disturbed.
    assert_eq!(text(&reader, "SELECT group_concat(DISTINCT length(x)) FROM t"), "1000,7");
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(number(&server.open("shop"), "SELECT count(*) FROM t WHERE x = 'changed'"), 20);
}

#[test]
fn a_hash_without_its_staged_pages_is_refused() {
    let (server, db, _) = half_promoted();
    let _: i64 = redis(&server, &["COPY", HASH, "sqlite:{fork}"]);
    assert_failure(
        sqlite_redis_tests::failures::open_failure(&server.options("fork")),
        code::CORRUPT,
        "staged pages of version 3 are not with it",
    );
    let reader = server.open_apart("shop", 5);
    let _: i64 = redis(&server, &["HSET", STAGED, "commit", "0000000000000001"]);
    let lost = "staged pages of version 3 are not with it";
    assert_failure(failure(&reader, "SELECT * FROM t"), code::CORRUPT, lost);
    // A connection with page 1 in its cache fails only when it takes the lease.
    for sql in ["INSERT INTO t VALUES (NULL, 1)", "BEGIN IMMEDIATE", "UPDATE t SET x = 1"] {
        assert_failure(failure(&db, sql), code::CORRUPT, lost);
    }
    assert_eq!(redis::<i64>(&server, &["EXISTS", "sqlite:{shop}:lock"]), 0, "no lease is left");
}

#[test]
fn a_staged_commit_without_room_fails_and_leaves_no_key() {
    let server = Server::start();
    let db = staging(&server);
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, x)").unwrap();
    let before = server.stored("shop");
    // Leave too little memory for the pages.
    let used: String = redis(&server, &["INFO", "memory"]);
    let used: u64 = used.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap();
    let _: String = redis(&server, &["CONFIG", "SET", "maxmemory", &(used + (4 << 20)).to_string()]);
    let failed = run(&db, &fill(20_000));
    assert!(failed.is_err());
    let _: String = redis(&server, &["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(server.stored("shop"), before);
    db.execute_batch(&fill(10)).unwrap();
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 10);
    server.check_stored("shop");
    assert_eq!(redis::<Vec<String>>(&server, &["KEYS", "*import*"]), Vec::<String>::new());
}

#[test]
fn no_command_of_a_large_commit_is_large() {
    let server = Server::start();
    let db = server.options("shop").stage_bytes(1 << 20).open().unwrap();
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, x)").unwrap();
    db.execute_batch(&fill(2000)).unwrap();
    let _: String = redis(&server, &["CONFIG", "RESETSTAT"]);
    // A commit of all pages, and one that shrinks the database.
    db.execute_batch("UPDATE t SET x = randomblob(1000) WHERE id < 1500").unwrap();
    db.execute_batch("DELETE FROM t WHERE id > 100; VACUUM").unwrap();
    for (command, least) in [("hset", 12), ("eval", 4), ("rename", 2), ("exec", 2)] {
        assert!(server.calls(command) >= least, "{command}: {}", server.calls(command));
    }
    server.check_stored("shop");
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 100);
}
