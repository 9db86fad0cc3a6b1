//! SQLite never uses the page with its lock bytes, at 1 GiB
//! (<https://sqlite.org/fileformat2.html#the_lock_byte_page>). This test moves the lock bytes to 1 MiB, for all
//! connections of the process.

use sqlite_redis_tests::{Server, check_integrity, number};

const PENDING_BYTE: i32 = 0x10_0000;

#[test]
fn a_database_grows_and_shrinks_past_the_page_that_sqlite_never_writes() {
    // SAFETY: nothing is open yet, and this program has only this test.
    unsafe { rusqlite::ffi::sqlite3_test_control(rusqlite::ffi::SQLITE_TESTCTRL_PENDING_BYTE, PENDING_BYTE) };
    let server = Server::start();
    for page_size in [512, 4096, 65536] {
        let name = format!("large{page_size}");
        let db = server.open(&name);
        db.execute_batch(&format!("PRAGMA page_size = {page_size}; PRAGMA cache_size = 10; CREATE TABLE t (v)"))
            .unwrap();
        // Grow across the page in one transaction, then beyond it.
        for rows in [1500, 10, 700] {
            let fill = format!(
                "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
                 INSERT INTO t SELECT randomblob(1000) FROM n"
            );
            db.execute_batch(&fill).unwrap();
            check_integrity(&db);
            check_stored_shape(&server, &name);
        }
        let other = server.open_apart(&name, page_size);
        assert_eq!(number(&other, "SELECT count(*) FROM t WHERE length(v) = 1000"), 2210);
        check_integrity(&other);
        db.execute_batch("DELETE FROM t WHERE rowid > 100; VACUUM").unwrap();
        check_stored_shape(&server, &name);
        assert_eq!(number(&other, "SELECT count(*) FROM t"), 100);
        check_integrity(&other);
    }
}

/// Asserts that every page is stored, the unused one as zeros.
fn check_stored_shape(server: &Server, name: &str) {
    let stored = server.stored(name);
    let (size, count) = (stored.number("page_size"), stored.number("page_count"));
    let bytes = stored.bytes();
    assert_eq!(bytes.len() as u64, size * count);
    let unused = PENDING_BYTE as u64 / size * size;
    if unused < size * count {
        assert!(bytes[unused as usize..(unused + size) as usize].iter().all(|&byte| byte == 0));
    }
}
