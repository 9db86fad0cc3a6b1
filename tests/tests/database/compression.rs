//! `compress=1` stores pages as Zstandard frames: the same content in less memory of Redis.

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use sqlite_redis_tests::failures::{assert_failure, code, failure};
use sqlite_redis_tests::rows::{assert_same_content, rows};
use sqlite_redis_tests::{Server, check_integrity, number, queries};

/// Memory of a database's hash in Redis, in bytes. `SAMPLES 0` counts every field.
fn redis_bytes(server: &Server, name: &str) -> u64 {
    let mut usage = redis::cmd("MEMORY");
    usage.arg("USAGE").arg(format!("sqlite:{{{name}}}")).arg("SAMPLES").arg(0);
    usage.query(&mut server.redis()).unwrap()
}

#[test]
fn a_database_takes_the_memory_of_its_file_and_compressed_at_most_60_percent() {
    let Some(path) = sqlite_redis_tests::chinook() else { return };
    let server = Server::start();
    let file = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    for (name, compress) in [("packed", true), ("plain", false)] {
        let mut redis = server.options(name).compress(compress).open().unwrap();
        assert_eq!(Backup::new(&file, &mut redis).unwrap().step(-1).unwrap(), StepResult::Done);
    }
    let packed = server.open("packed");
    for query in queries::chinook() {
        assert!(rows(&packed, &query.sql) == rows(&file, &query.sql), "{}", query.name);
    }
    check_integrity(&packed);
    server.check_stored("packed");
    let bytes = number(&file, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size") as u64;
    let (packed, plain) = (redis_bytes(&server, "packed"), redis_bytes(&server, "plain"));
    println!("file {bytes}, plain {plain}, compressed {packed} bytes");
    assert!(packed * 10 <= bytes * 6, "{packed} of {bytes} bytes");
    assert!(plain * 10 <= bytes * 11, "{plain} of {bytes} bytes");
}

#[test]
fn writers_with_and_without_compression_share_a_database() {
    let server = Server::start();
    let packing = server.options("shop").compress(true).open().unwrap();
    let plain = server.options("shop").compress(false).open().unwrap();
    let twin = Connection::open_in_memory().unwrap();
    for db in [&packing, &twin] {
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, x)").unwrap();
    }
    for round in 0..40 {
        let writer = if round % 2 == 0 { &plain } else { &packing };
        let insert = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
             INSERT INTO t (x) SELECT printf('%0500d', i * {round}) FROM n;
             DELETE FROM t WHERE id % 7 = {round} % 7;"
        );
        for db in [writer, &twin] {
            db.execute_batch(&insert).unwrap();
        }
        assert_same_content((&server.open_apart("shop", round + 1), "main"), (&twin, "main"));
    }
    for db in [&packing, &plain] {
        assert_same_content((db, "main"), (&twin, "main"));
        check_integrity(db);
    }
    let stored = server.check_stored("shop");
    let is_page = |field: &str| field.strip_prefix("page").is_some_and(|number| number.parse::<u32>().is_ok());
    let pages = stored.fields.iter().filter(|(field, _)| is_page(field));
    let (frames, others): (Vec<_>, Vec<_>) = pages.partition(|(_, value)| value.starts_with(b"\x28\xb5\x2f\xfd"));
    assert!(!frames.is_empty() && !others.is_empty(), "{} and {}", frames.len(), others.len());
    server.check_older_versions("shop", 40);
}

#[test]
fn a_damaged_frame_is_an_error_that_names_its_field() {
    let server = Server::start();
    let packing = server.options("shop").compress(true).open().unwrap();
    packing.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let mut redis = server.redis();
    let good: Vec<u8> = redis::cmd("HGET").arg("sqlite:{shop}").arg("page2").query(&mut redis).unwrap();
    assert!(good.len() < 4096, "compressed");
    for bad in [&good[..good.len() - 1], &good[1..], &b"xx"[..]] {
        let _: i64 = redis::cmd("HSET").arg("sqlite:{shop}").arg("page2").arg(bad).query(&mut redis).unwrap();
        let reader = server.open_apart("shop", bad.len() as u64 + 7);
        assert_failure(failure(&reader, "SELECT * FROM t"), code::CORRUPT, "no page of 4096");
    }
    let _: i64 = redis::cmd("HSET").arg("sqlite:{shop}").arg("page2").arg(good).query(&mut redis).unwrap();
    assert_eq!(number(&server.open_apart("shop", 5), "SELECT x FROM t"), 1);
}
