//! A full disk under the temporary files. A rollback journal spills to a file beyond 4 MB, and a transaction's pages
//! beyond `stage_bytes`.

use sqlite_redis_tests::Server;
use sqlite_redis_tests::python::python;

#[test]
fn a_full_disk_under_the_journal_fails_the_statement_and_the_transaction_is_rolled_back() {
    fill("", "(0, 4_500_000, 6_000_000)");
}

#[test]
fn a_full_disk_under_the_writes_fails_the_statement_and_the_transaction_is_rolled_back() {
    // Memory holds two thirds of the journal.
    fill("&stage_bytes=100000", "(0, 1_000_000, 4_500_000, 6_000_000)");
}

#[test]
fn a_file_that_refuses_the_commit_leaves_the_database_at_its_version() {
    for pragma in [
        // With these, SQLite needs no super-journal.
        "local.synchronous = OFF",
        "local.journal_mode = MEMORY",
        "local.journal_mode = WAL",
        "main.synchronous = OFF",
        // With a small cache and the default settings, it writes one.
        "local.cache_size = 100",
    ] {
        let server = Server::start();
        let file = server.directory().join("local.db");
        let set = format!("import sys, sqlite3\nfile, pragma = '{}', '{pragma}'\n", file.display());
        python(&server, &format!("{set}{BESIDE_A_FILE}"));
    }
}

const BESIDE_A_FILE: &str = "
import resource
db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None, timeout=30)
db.execute('PRAGMA auto_vacuum=FULL')
db.execute('VACUUM')
db.execute('CREATE TABLE u (b)')
db.executemany('INSERT INTO u VALUES (?)', [(bytes([n % 256]) * 3000,) for n in range(100)])
def version():
    return db.execute('PRAGMA redis_version').fetchone()[0]
db.execute(f\"ATTACH 'file:{file}?vfs=unix' AS local\")
db.execute(f'PRAGMA {pragma}')
db.execute('CREATE TABLE local.u (b)')
rows, before = db.execute('SELECT * FROM u').fetchall(), version()
db.execute('BEGIN')
db.execute('DELETE FROM u WHERE rowid > 10')
db.execute('INSERT INTO local.u VALUES (zeroblob(200000))')
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
refused(db, 'COMMIT')
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
if db.in_transaction:
    db.execute('ROLLBACK')
assert version() == before, (before, version())
assert db.execute('SELECT * FROM u').fetchall() == rows
assert db.execute('SELECT count(*) FROM local.u').fetchone()[0] == 0
assert db.execute('PRAGMA integrity_check').fetchone()[0] == 'ok'
";

/// Updates all 8 MB of a table, once for each limit in `rooms`: the maximum bytes of a temporary file.
fn fill(settings: &str, rooms: &str) {
    let server = Server::start();
    let script = format!("import sys, sqlite3\nmore, rooms = '{settings}', {rooms}\n{SCRIPT}");
    python(&server, &script);
}

const SCRIPT: &str = "
import resource
db = sqlite3.connect(sys.argv[2] + more, uri=True, isolation_level=None, timeout=30)
db.execute('PRAGMA cache_size=10')
db.executemany('INSERT INTO t VALUES (?, hex(zeroblob(500)))', [(n,) for n in range(8000)])
def limit(bytes):
    # Python ignores the signal SIGXFSZ, so writes beyond the limit fail with EFBIG.
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, resource.RLIM_INFINITY))
for room in rooms:
    for begin in ('BEGIN', 'BEGIN IMMEDIATE', None):
        limit(room)
        if begin:
            db.execute(begin)
            db.execute('INSERT INTO t VALUES (0, 0)')
        error = refused(db, \"UPDATE t SET b = 'x' || b\")
        assert 'full' in error, (room, begin, error)
        why = db.execute('SELECT redis_last_error()').fetchone()[0]
        assert 'journal' in why, repr(why)
        assert db.execute('PRAGMA redis_last_error').fetchone()[0] == why
        assert 'shop' in why, repr(why)
        if db.in_transaction:
            db.execute('ROLLBACK')
        assert count(db) == 8000, (room, begin, count(db))
        changed = db.execute(\"SELECT count(*) FROM t WHERE b LIKE 'x%'\").fetchone()[0]
        sound = db.execute('PRAGMA integrity_check').fetchone()[0]
        assert (changed, sound) == (0, 'ok'), (room, begin, changed, sound)
        # A transaction with a small journal still works.
        db.execute('UPDATE t SET a = a WHERE rowid = 1')
limit(resource.RLIM_INFINITY)
db.execute(\"UPDATE t SET b = 'x' || b\")
changed = db.execute(\"SELECT count(*) FROM t WHERE b LIKE 'x%'\").fetchone()[0]
assert changed == 8000, changed
";
