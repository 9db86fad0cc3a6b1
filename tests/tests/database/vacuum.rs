//! `VACUUM` in all forms, page sizes, and databases that shrink.

use sqlite_redis_tests::rows::{Rows, assert_same_content, rows};
use sqlite_redis_tests::twins::Twins;
use sqlite_redis_tests::{Server, check_integrity, code, number, text};

const PAGE_SIZES: [u32; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

/// A table of about 200 KB with an index, a third of its rows deleted.
const FILL: &str = "
    CREATE TABLE t (a INTEGER PRIMARY KEY, b, c);
    CREATE INDEX i ON t (b);
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
        INSERT INTO t SELECT i, 'name ' || i * 7 % 1000, hex(zeroblob(i % 100)) FROM n;
    INSERT INTO t VALUES (5000, 'large', hex(zeroblob(70000)));
    DELETE FROM t WHERE a % 3 = 0;";

fn sizes(connection: &rusqlite::Connection) -> Rows {
    rows(connection, "SELECT * FROM pragma_page_size(), pragma_page_count(), pragma_freelist_count()")
}

#[test]
fn vacuum_changes_every_page_size_into_every_other() {
    let server = Server::start();
    std::thread::scope(|scope| {
        for from in PAGE_SIZES {
            let server = &server;
            scope.spawn(move || {
                let name = format!("from-{from}");
                let twins = Twins::new(server, &name);
                twins.must(&format!("PRAGMA page_size={from}"));
                twins.must(FILL);
                assert_eq!(server.check_stored(&name).number("page_size"), u64::from(from));
                // These connections have pages of the old size in their caches.
                let other = server.open(&name);
                let apart = server.open_apart(&name, 1);
                for to in PAGE_SIZES.iter().flat_map(|&to| [to, from]) {
                    twins.must(&format!("PRAGMA page_size={to}; VACUUM"));
                    assert_eq!(server.stored(&name).number("page_size"), u64::from(to), "from {from}");
                    assert_eq!(sizes(&twins.redis), sizes(&twins.file));
                    for reader in [&other, &apart] {
                        assert_eq!(number(reader, "SELECT count(*) FROM t"), 668);
                        assert_eq!(number(reader, "PRAGMA page_size"), i64::from(to));
                    }
                    twins.must("UPDATE t SET b = b || 'x' WHERE a % 50 = 1");
                }
                twins.check();
                assert_same_content((&apart, "main"), (&twins.file, "main"));
            });
        }
    });
}

#[test]
fn vacuum_shrinks_the_hash() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must(FILL);
    twins.must("DELETE FROM t WHERE a > 100; VACUUM");
    assert_eq!(sizes(&twins.redis), sizes(&twins.file));
    twins.check();
    twins.must("DROP TABLE t; VACUUM");
    assert_eq!(server.check_stored("shop").number("page_count"), 1);
    twins.must(FILL);
    twins.check();
}

#[test]
fn vacuum_works_with_a_tiny_cache_and_in_every_journal_mode() {
    let server = Server::start();
    for mode in ["delete", "truncate", "persist", "memory", "off"] {
        let twins = Twins::new(&server, mode);
        twins.must(&format!("PRAGMA journal_mode={mode}; PRAGMA cache_size=5"));
        twins.must(FILL);
        twins.must("VACUUM; DELETE FROM t WHERE a % 2; PRAGMA page_size=1024; VACUUM; PRAGMA page_size=8192; VACUUM");
        twins
            .must("PRAGMA locking_mode=EXCLUSIVE; PRAGMA page_size=512; VACUUM; DELETE FROM t WHERE a % 5 = 0; VACUUM");
        twins.must("PRAGMA locking_mode=NORMAL; SELECT count(*) FROM t");
        twins.check();
    }
}

#[test]
fn vacuum_in_a_transaction_is_refused_as_in_a_file() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must(FILL);
    assert!(twins.run("BEGIN; VACUUM").code.is_some());
    twins.must("ROLLBACK");
    twins.check();
}

#[test]
fn vacuum_of_a_leased_database_is_busy_and_changes_nothing() {
    let server = Server::start();
    let db = server.open("shop");
    db.execute_batch(FILL).unwrap();
    let other = server.open_apart("shop", 1);
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    db.busy_timeout(std::time::Duration::ZERO).unwrap();
    let before = server.stored("shop");
    assert_eq!(code(db.execute_batch("PRAGMA page_size=1024; VACUUM")), 5);
    assert_eq!(server.stored("shop"), before);
    other.execute_batch("DELETE FROM t; COMMIT").unwrap();
    db.execute_batch("VACUUM").unwrap();
    assert_eq!(number(&other, "SELECT count(*) FROM t"), 0);
    assert_eq!(number(&other, "PRAGMA page_size"), 1024);
    server.check_stored("shop");
}

#[test]
fn vacuum_into_writes_a_database_in_redis_or_a_file() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy.db");
    let db = server.open("shop");
    db.execute_batch(FILL).unwrap();
    db.execute_batch("PRAGMA user_version=7").unwrap();
    db.execute("VACUUM INTO ?1", [server.options("copy").uri()]).unwrap();
    db.execute("VACUUM INTO ?1", [format!("file:{}?vfs=unix", path.display())]).unwrap();
    let copy = server.open("copy");
    assert_same_content((&copy, "main"), (&db, "main"));
    let file = rusqlite::Connection::open(&path).unwrap();
    assert_same_content((&file, "main"), (&db, "main"));
    server.check_stored("copy");
    file.execute("VACUUM INTO ?1", [server.options("from-file").uri()]).unwrap();
    assert_same_content((&server.open("from-file"), "main"), (&db, "main"));
    server.check_stored("from-file");
    let refused = db.execute("VACUUM INTO ?1", [server.options("copy").uri()]);
    assert!(refused.unwrap_err().to_string().contains("output file already exists"));
    server.check_stored("copy");
    server.check_stored("shop");
}

#[test]
fn auto_vacuum_shrinks_with_each_commit() {
    let server = Server::start();
    for page_size in [512, 4096, 65536] {
        let name = format!("full-{page_size}");
        let twins = Twins::new(&server, &name);
        twins.must(&format!("PRAGMA page_size={page_size}; PRAGMA auto_vacuum=FULL"));
        twins.must(FILL);
        let large = number(&twins.redis, "PRAGMA page_count");
        twins.must("DELETE FROM t WHERE a > 50");
        assert_eq!(sizes(&twins.redis), sizes(&twins.file));
        assert!(number(&twins.redis, "PRAGMA page_count") < large);
        twins.check();
        twins.must("BEGIN; DELETE FROM t WHERE a > 25; SAVEPOINT s; DROP TABLE t; ROLLBACK TO s; COMMIT");
        twins.must("CREATE TABLE u (x); INSERT INTO u VALUES (zeroblob(300000)); DROP TABLE t; DELETE FROM u");
        assert_eq!(sizes(&twins.redis), sizes(&twins.file));
        twins.check();
    }
}

#[test]
fn incremental_vacuum_frees_the_requested_pages() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must("PRAGMA page_size=1024; PRAGMA auto_vacuum=INCREMENTAL");
    twins.must(FILL);
    twins.must("DELETE FROM t WHERE a > 50");
    for step in ["(1)", "(10)", "(7)", ""] {
        twins.must(&format!("PRAGMA incremental_vacuum{step}"));
        assert_eq!(sizes(&twins.redis), sizes(&twins.file), "{step}");
        twins.check();
    }
    twins.must("BEGIN; INSERT INTO t (b) VALUES (zeroblob(90000)); DELETE FROM t WHERE a > 50; PRAGMA incremental_vacuum; ROLLBACK");
    twins.check();
    for mode in ["NONE", "FULL", "INCREMENTAL"] {
        twins.must(&format!("PRAGMA auto_vacuum={mode}; VACUUM; PRAGMA auto_vacuum; DELETE FROM t WHERE a % 4 = 0"));
        twins.check();
    }
}

#[test]
fn a_reader_keeps_its_snapshot_over_a_vacuum_or_gets_an_error() {
    const BUSY_SNAPSHOT: i32 = 517;
    const INTERRUPT: i32 = 9;
    let server = Server::start();
    let writer = server.open("shop");
    writer.execute_batch("PRAGMA page_size=1024").unwrap();
    writer.execute_batch(FILL).unwrap();
    let sum = text(&writer, "SELECT sum(length(b) + length(c)) FROM t");
    let readers: Vec<_> = (0..3).map(|n| server.open_apart("shop", n)).collect();
    for reader in &readers {
        reader.execute_batch("PRAGMA cache_size=3; BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
    }
    writer.execute_batch("DELETE FROM t WHERE a % 2; VACUUM; DELETE FROM t WHERE a > 100; VACUUM").unwrap();
    for reader in &readers {
        assert_eq!(text(reader, "SELECT sum(length(b) + length(c)) FROM t"), sum);
        check_integrity(reader);
    }
    // A change of page size has no undo data. No reader may see old and new pages together.
    writer.execute_batch("PRAGMA page_size=4096; VACUUM").unwrap();
    let late = server.open_apart("shop", 9);
    let mixed = readers[0].query_row("SELECT sum(length(b) + length(c)) FROM t", [], |row| row.get::<_, i64>(0));
    match mixed {
        Ok(same) => assert_eq!(same.to_string(), sum, "the snapshot was cached"),
        Err(_) => assert_eq!(code(mixed), BUSY_SNAPSHOT),
    }
    // An integrity check on a lost snapshot must not report damage.
    writer
        .execute_batch(
            "CREATE TABLE big AS WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
             SELECT n, hex(zeroblob(300)) AS pad FROM n",
        )
        .unwrap();
    let checks = ["PRAGMA integrity_check", "PRAGMA quick_check", "SELECT * FROM pragma_integrity_check()"];
    for (n, check) in (20..).zip(checks) {
        let reader = server.open_apart("shop", n);
        reader.execute_batch("PRAGMA cache_size=3; BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
        for size in [2048, 4096] {
            writer.execute_batch(&format!("PRAGMA page_size={size}; VACUUM")).unwrap();
        }
        let checked = reader.query_row(check, [], |row| row.get::<_, String>(0));
        assert_eq!(code(checked), INTERRUPT, "{check}");
        let why = sqlite_redis::last_error(&reader).unwrap().to_string();
        assert!(why.contains("can't be read any more"), "{why}");
        reader.execute_batch("ROLLBACK").unwrap();
        check_integrity(&reader);
    }
    readers[0].execute_batch("ROLLBACK").unwrap();
    assert_eq!(rows(&readers[0], "SELECT * FROM t"), rows(&late, "SELECT * FROM t"));
    check_integrity(&readers[0]);
    drop(readers);
    server.check_stored("shop");
}
