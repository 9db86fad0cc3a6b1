//! Keys that someone damaged by hand: the client reports an error, never panics and never mixes versions, and works
//! again once the damage is undone.

use rusqlite::Connection;
use sqlite_redis_tests::failures::{assert_failure, code, failure, open_failure, run};
use sqlite_redis_tests::{Server, check_integrity, number, text};

const HASH: &str = "sqlite:{shop}";
const LOG: &str = "sqlite:{shop}:log";

fn redis(server: &Server, arguments: &[&str]) -> redis::Value {
    redis::cmd(arguments[0]).arg(&arguments[1..]).query(&mut server.redis()).unwrap()
}

/// A database of about 200 pages, more than one fetch brings.
fn database() -> (Server, Connection) {
    let server = Server::start();
    let connection = server.open("shop");
    connection
        .execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, x);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
             INSERT INTO t SELECT i, zeroblob(4000) FROM n",
        )
        .unwrap();
    redis(&server, &["COPY", HASH, "backup:{shop}"]);
    (server, connection)
}

/// A connection that does not share the cache of the connection that [`database`] returns.
fn with_own_cache(server: &Server) -> Connection {
    server.options("shop").log_commits(77).open().unwrap()
}

fn restore(server: &Server) {
    redis(server, &["COPY", "backup:{shop}", HASH, "REPLACE"]);
}

const SCAN: &str = "SELECT sum(length(x)) FROM t";

fn assert_good(connection: &Connection) {
    assert_eq!(number(connection, SCAN), 800_000);
    check_integrity(connection);
}

#[test]
fn damaged_metadata_is_refused_with_its_field_until_it_is_repaired() {
    let (server, connection) = database();
    let other = with_own_cache(&server);
    for (field, value, words) in [
        ("version", "x", "version is `x`"),
        ("version", "-1", "version is `-1`"),
        ("version", "0", "version is `0`"),
        ("version", "99999999999999999999999", "version is"),
        ("commit", "not an id", "commit is `not an id`"),
        ("page_size", "4095", "page size is 4095"),
        ("page_size", "many", "page_size is `many`"),
        ("page_count", "0", "page count is 0"),
        ("page_count", "4294967296", "page count is 4294967296"),
    ] {
        redis(&server, &["HSET", HASH, field, value]);
        assert_failure(open_failure(&server.options("shop")), code::CORRUPT, words);
        assert_failure(failure(&connection, SCAN), code::CORRUPT, words);
        assert_failure(failure(&connection, "INSERT INTO t (x) VALUES (1)"), code::CORRUPT, words);
        assert_failure(failure(&other, SCAN), code::CORRUPT, words);
        restore(&server);
        assert_good(&connection);
        assert_good(&other);
    }
    for field in ["version", "commit", "page_size", "page_count", "format"] {
        redis(&server, &["HDEL", HASH, field]);
        let words = format!("the hash field {field} is missing");
        assert_failure(open_failure(&server.options("shop")), code::CORRUPT, &words);
        assert_failure(failure(&connection, SCAN), code::CORRUPT, &words);
        restore(&server);
        assert_good(&connection);
    }
}

#[test]
fn a_database_of_a_newer_format_is_refused_and_unchanged() {
    let (server, connection) = database();
    for format in ["3", "", "one"] {
        redis(&server, &["HSET", HASH, "format", format]);
        assert_failure(open_failure(&server.options("shop")), code::CANTOPEN, "this version reads format 1");
        assert_failure(failure(&connection, SCAN), code::CANTOPEN, "use a newer sqlite-redis");
    }
    restore(&server);
    assert_good(&connection);
}

#[test]
fn a_damaged_page_is_refused_with_its_number_until_it_is_repaired() {
    let (server, _connection) = database();
    let half = "x".repeat(100);
    let double = "x".repeat(8192);
    for page in ["page1", "page2", "page150"] {
        for (damage, words) in [
            (vec!["HDEL", HASH, page], "is missing"),
            (vec!["HSET", HASH, page, &half], "has 100 bytes, no page of 4096"),
            (vec!["HSET", HASH, page, &double], "has 8192 bytes, no page of 4096"),
            (vec!["HSET", HASH, page, ""], "has 0 bytes, no page of 4096"),
        ] {
            redis(&server, &damage);
            let words = format!("hash field {page} {words}");
            // The version is unchanged, so the cache would hide the damage.
            let options = server.options("shop").log_commits(rand::random_range(1000..1_000_000));
            if page == "page1" {
                assert_failure(open_failure(&options), code::CORRUPT, &words);
                restore(&server);
                assert_good(&options.open().unwrap());
            } else {
                let connection = options.open().unwrap();
                assert_failure(failure(&connection, SCAN), code::CORRUPT, &words);
                restore(&server);
                assert_good(&connection);
            }
        }
    }
}

#[test]
fn pages_with_malformed_content_are_refused_by_sqlite() {
    let (server, _connection) = database();
    redis(&server, &["HSET", HASH, "page2", &"x".repeat(4096)]);
    let connection = with_own_cache(&server);
    assert!(run(&connection, SCAN).is_err());
    redis(&server, &["HSET", HASH, "page1", &"x".repeat(4096)]);
    let connection = server.options("shop").log_commits(78).open();
    assert!(connection.is_err() || run(&connection.unwrap(), SCAN).is_err());
}

#[test]
fn keys_of_another_type_are_refused_and_unchanged() {
    for (key, value) in [(HASH, "hash"), (LOG, "stream")] {
        let server = Server::start();
        redis(&server, &["SET", key, "mine"]);
        let words = format!("the key `{key}` holds string, not {value}");
        assert_failure(open_failure(&server.options("shop")), code::CANTOPEN, &words);
        assert_eq!(server.redis_cli(&["GET", key]), "mine");
        redis(&server, &["DEL", key]);
        server.open("shop").execute_batch("CREATE TABLE t (x)").unwrap();
    }
    let (server, connection) = database();
    redis(&server, &["SET", HASH, "mine"]);
    assert_failure(failure(&connection, SCAN), code::CORRUPT, "holds something else");
    assert_failure(failure(&connection, "INSERT INTO t (x) VALUES (1)"), code::CORRUPT, "WRONGTYPE");
    connection.execute_batch("ROLLBACK").unwrap_err();
    assert_eq!(server.redis_cli(&["GET", HASH]), "mine");
    restore(&server);
    assert_good(&connection);
}

#[test]
fn a_hash_that_becomes_another_type_refuses_the_commit() {
    let (server, connection) = database();
    connection.execute_batch("BEGIN; INSERT INTO t (x) VALUES (zeroblob(10))").unwrap();
    redis(&server, &["SET", HASH, "mine"]);
    let (failed, _) = failure(&connection, "COMMIT");
    assert!([code::BUSY_SNAPSHOT, code::CORRUPT].contains(&failed), "{failed}");
    assert!(connection.is_autocommit());
    assert_eq!(server.redis_cli(&["GET", HASH]), "mine");
    restore(&server);
    assert_good(&connection);
}

#[test]
fn a_deleted_database_is_empty_and_can_be_created_again() {
    let (server, connection) = database();
    redis(&server, &["DEL", HASH]);
    let error = run(&connection, SCAN).unwrap_err();
    assert!(error.to_string().contains("no such table"), "{error}");
    connection.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1, 'new')").unwrap();
    assert_eq!(text(&with_own_cache(&server), "SELECT x FROM t"), "new");
    check_integrity(&connection);
}

#[test]
fn a_database_deleted_under_a_transaction_refuses_its_commit() {
    let (server, connection) = database();
    connection.execute_batch("BEGIN; INSERT INTO t (x) VALUES (zeroblob(10))").unwrap();
    redis(&server, &["DEL", HASH]);
    assert_failure(failure(&connection, "COMMIT"), code::BUSY_SNAPSHOT, "roll back and run it again");
    assert_eq!(server.redis_cli(&["EXISTS", HASH]), "0");
    restore(&server);
    assert_good(&connection);
}

/// A read transaction without cached pages, whose snapshot is two commits behind.
fn reader_behind(server: &Server, connection: &Connection) -> Connection {
    let reader = with_own_cache(server);
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&reader, "SELECT id FROM t WHERE id = 1"), 1);
    // Few enough pages that the undo data fits into the log's entries.
    connection.execute("UPDATE t SET x = zeroblob(4000) || id WHERE id > 100", []).unwrap();
    connection.execute("UPDATE t SET x = zeroblob(4000) WHERE id > 100", []).unwrap();
    reader
}

fn assert_snapshot_gone(reader: &Connection, words: &str) {
    assert_failure(failure(reader, SCAN), code::BUSY_SNAPSHOT, words);
    let _ = reader.execute_batch("ROLLBACK");
    assert_good(reader);
    reader.execute_batch("BEGIN IMMEDIATE; UPDATE t SET x = x WHERE id = 1; COMMIT").unwrap();
    assert_good(reader);
}

#[test]
fn a_reader_behind_needs_the_log_for_its_snapshot() {
    let (server, connection) = database();
    let reader = reader_behind(&server, &connection);
    assert_eq!(number(&reader, SCAN), 800_000);
    for damage in [vec!["DEL", LOG], vec!["XTRIM", LOG, "MAXLEN", "0"], vec!["XTRIM", LOG, "MAXLEN", "1"]] {
        let (server, connection) = database();
        let reader = reader_behind(&server, &connection);
        redis(&server, &damage);
        assert_snapshot_gone(&reader, "can't be read any more");
        assert_good(&connection);
    }
}

type Fields = Vec<(String, Vec<u8>)>;

/// The fields of the log entry `id`.
fn entry(server: &Server, id: &str) -> Fields {
    let entries: Vec<(String, Fields)> =
        redis::cmd("XRANGE").arg(LOG).arg(id).arg(id).query(&mut server.redis()).unwrap();
    entries.into_iter().next().unwrap().1
}

/// Rewrites the log with one field changed, or removed, in the entry of `version`.
fn forge(server: &Server, version: u64, field: &str, value: Option<&[u8]>) {
    let entries: Vec<_> = [version, version + 1].map(|id| (id, entry(server, &format!("{id}-0")))).into();
    redis(server, &["DEL", LOG]);
    for (id, fields) in entries {
        let mut add = redis::cmd("XADD");
        add.arg(LOG).arg(format!("{id}-0")).arg("forged").arg(1);
        for (name, old) in fields {
            match value {
                Some(new) if id == version && name == field => add.arg(name).arg(new),
                None if id == version && name == field => continue,
                _ => add.arg(name).arg(old),
            };
        }
        add.exec(&mut server.redis()).unwrap();
    }
}

#[test]
fn malformed_log_entries_cost_a_reader_only_its_snapshot() {
    let id = b"0123456789abcdef".as_slice();
    let nonsense: [(&str, Option<&[u8]>); 14] = [
        ("commit", Some(b"x")),
        ("commit", Some(id)),
        ("commit", None),
        ("base", Some(b"x")),
        ("base", Some(id)),
        ("base", None),
        ("page_count", Some(b"many")),
        ("page_count", Some(b"-1")),
        ("page_count", None),
        ("undo", None),
        ("undo", Some(&[0x80])),
        ("undo", Some(&[0xff; 20])),
        ("undo", Some(&[0x96, 0x01, 3, 200, 200, 200])),
        // Page 150, with a run that ends past the page.
        ("undo", Some(&[0x96, 0x01, 5, 0xff, 0x1f, 2, 7, 7])),
    ];
    for (field, value) in nonsense {
        let (server, connection) = database();
        let version: u64 = text(&connection, "PRAGMA redis_version").parse().unwrap();
        let reader = reader_behind(&server, &connection);
        forge(&server, version + 1, field, value);
        match run(&reader, SCAN) {
            Err(_) => assert_snapshot_gone(&reader, ""),
            // Only malformed data is listed here: well-formed undo data of another page can't be recognised.
            Ok(()) => panic!("{field}={value:?} was accepted"),
        }
        assert_good(&connection);
        connection.execute_batch("CREATE TABLE after (x)").unwrap();
        assert_good(&reader);
    }
}

#[test]
fn a_log_that_is_ahead_does_not_prevent_commits() {
    let (server, connection) = database();
    redis(&server, &["XADD", LOG, "999999-0", "commit", "x"]);
    connection.execute("INSERT INTO t VALUES (1000, 'one')", []).unwrap();
    assert_eq!(text(&connection, "SELECT x FROM t WHERE id = 1000"), "one");
    assert_eq!(text(&with_own_cache(&server), "SELECT x FROM t WHERE id = 1000"), "one");
    connection.execute("DELETE FROM t WHERE id = 1000", []).unwrap();
    assert_good(&connection);
    assert_eq!(server.redis_cli(&["XLEN", LOG]), "1", "the log was not begun anew");
}

#[test]
fn a_log_of_another_type_does_not_prevent_commits() {
    let (server, connection) = database();
    redis(&server, &["SET", LOG, "mine"]);
    connection.execute("INSERT INTO t VALUES (1000, 'one')", []).unwrap();
    connection.execute("DELETE FROM t WHERE id = 1000", []).unwrap();
    assert_good(&connection);
    assert_good(&with_own_cache(&server));
}

#[test]
fn a_log_of_another_type_does_not_fail_a_commit_that_was_made() {
    for (key, log_bytes) in [(LOG, 400), ("sqlite:{shop}:undo", 3 << 20)] {
        let (server, _) = database();
        let db = server.options("shop").log_bytes(log_bytes).open().unwrap();
        let reader = with_own_cache(&server);
        assert_good(&reader);
        let mut removed = 0;
        for x in 1..=6 {
            redis(&server, &["DEL", key]);
            redis(&server, &["SET", key, "mine"]);
            // Small commits have undo data in the log, large ones in the stream.
            let sql =
                if key == LOG { "INSERT INTO t VALUES (1000, 'one')" } else { "UPDATE t SET x = randomblob(4000)" };
            db.execute(sql, []).unwrap_or_else(|error| panic!("{key}: commit {x}: {error}"));
            removed += i32::from(server.redis_cli(&["EXISTS", key]) == "0");
            let value = "SELECT group_concat(hex(substr(x, 1, 9)), ',') FROM t";
            assert_eq!(text(&reader, value), text(&db, value), "{key}: commit {x}");
            if key == LOG {
                db.execute("DELETE FROM t WHERE id = 1000", []).unwrap();
                assert_good(&reader);
            }
        }
        assert!(removed > 0, "{key} was not begun anew");
        check_integrity(&reader);
    }
}

#[test]
fn a_lock_of_another_type_blocks_writers() {
    let (server, connection) = database();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    redis(&server, &["SET", "sqlite:{shop}:lock", "someone"]);
    assert_failure(failure(&connection, "INSERT INTO t (x) VALUES (1)"), code::BUSY, "lease held by someone");
    redis(&server, &["DEL", "sqlite:{shop}:lock"]);
    redis(&server, &["HSET", "sqlite:{shop}:lock", "a", "b"]);
    let failed = failure(&connection, "INSERT INTO t (x) VALUES (1)");
    assert_failure(failed, code::CORRUPT, "holds something else");
    redis(&server, &["DEL", "sqlite:{shop}:lock"]);
    connection.execute("UPDATE t SET x = x", []).unwrap();
    assert_good(&connection);
}

#[test]
fn a_forged_page_count_takes_no_memory_when_the_database_shrinks() {
    let (server, _connection) = database();
    let mut first = server.stored("shop").bytes()[..4096].to_vec();
    first[28..32].copy_from_slice(&4_000_000_000u32.to_be_bytes());
    let mut client = server.redis();
    let fields = ("page_count", "4000000000", "page1", first);
    redis::cmd("HSET").arg(HASH).arg(fields.0).arg(fields.1).arg(fields.2).arg(fields.3).exec(&mut client).unwrap();
    for sql in ["VACUUM", "PRAGMA page_size=8192; VACUUM", "PRAGMA page_size=512; VACUUM"] {
        let connection = with_own_cache(&server);
        assert_eq!(number(&connection, SCAN), 800_000, "not every stored page was read");
        assert_eq!(failure(&connection, sql).0 & 0xff, code::CORRUPT, "{sql}");
    }
    restore(&server);
    assert_good(&with_own_cache(&server));
}
