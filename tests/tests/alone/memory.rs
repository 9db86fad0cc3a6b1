//! The client's memory during a transaction, counted by this program's allocator. SQLite's own page cache, which
//! `PRAGMA cache_size` bounds, does not use this allocator.

use sqlite_redis_tests::allocated::most_during;
use sqlite_redis_tests::{Server, check_integrity, number};

#[test]
fn the_memory_of_a_transaction_is_bounded_by_the_settings() {
    let _alone = crate::alone();
    const ROWS: u32 = 40_000;
    /// Bytes: `cache_size`, `stage_bytes`, half of `log_bytes`, and 4 MB of the rollback journal; twice their sum, for
    /// copies in transit. A third of the database.
    const BOUND: usize = 2 * (1 << 20) * (1 + 1 + 1 + 4);
    const { assert!(BOUND < ROWS as usize * 1000 / 2) };
    let server = Server::start();
    let options = server.options("shop").cache_size(1 << 20).stage_bytes(1 << 20).log_bytes(2 << 20);
    let db = options.open().unwrap();
    db.execute_batch("PRAGMA cache_size = 100; CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB)").unwrap();
    for sql in [
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
             INSERT INTO t SELECT NULL, randomblob(1000) FROM n"
        ),
        "UPDATE t SET x = randomblob(1000)",
        "BEGIN; UPDATE t SET x = zeroblob(1000); ROLLBACK",
        "VACUUM",
        "PRAGMA page_size = 8192; VACUUM",
        "DELETE FROM t WHERE id % 2 = 0; VACUUM",
    ] {
        let most = most_during(|| db.execute_batch(sql).unwrap());
        assert!(most < BOUND, "{sql}: {most} bytes");
    }
    assert_eq!(number(&db, "SELECT count(*) FROM t WHERE length(x) = 1000"), i64::from(ROWS) / 2);
    check_integrity(&db);
    server.check_stored("shop");
}
