//! Processes that fork with open connections. They run in Debian's Python, because a Rust test has threads and must not
//! fork.

use std::time::Duration;

use sqlite_redis::Consistency;
use sqlite_redis_tests::python::{python, python_with};
use sqlite_redis_tests::replicated::Replicated;
use sqlite_redis_tests::{Server, number};

#[test]
fn child_and_parent_both_use_a_connection_after_a_fork() {
    let server = Server::start();
    python(
        &server,
        "
def body():
    for n in range(50):
        db.execute('INSERT INTO t VALUES (?, ?)', ('child', n))
    assert db.execute(\"SELECT count(*) FROM t WHERE a = 'child'\").fetchone()[0] == 50
db.execute('INSERT INTO t VALUES (0, 0)')
pid = child(body)
for n in range(50):
    db.execute('INSERT INTO t VALUES (?, ?)', ('parent', n))
join(pid)
assert count(db) == 101
",
    );
    assert_eq!(number(&server.open("shop"), "SELECT count(DISTINCT a || b) FROM t"), 101);
}

#[test]
fn after_a_fork_child_and_parent_keep_the_schema_cookie() {
    let server = Server::start();
    python(
        &server,
        "
def cookie(db):
    return db.execute('PRAGMA schema_version').fetchone()[0]
before = cookie(db)
assert count(db) == 0
def body():
    db.execute(\"INSERT INTO t VALUES ('child', 1)\")
    assert cookie(open()) == before
    db.execute('CREATE TABLE u (x)')
    assert cookie(open()) == before + 1
    join(child(lambda: db.execute(\"INSERT INTO t VALUES ('grandchild', 2)\")))
    assert cookie(open()) == before + 1
join(child(body))
assert cookie(open()) == before + 1
db.execute('CREATE TABLE v (x)')
assert cookie(open()) == before + 2
assert count(db) == 2
",
    );
}

#[test]
fn a_forked_child_keeps_its_parents_session_version() {
    let set = Replicated::with(1);
    set.primary.open("shop").execute_batch("CREATE TABLE before (x)").unwrap();
    set.in_step(0, "shop");
    set.hold(0);
    python_with(
        &set.primary,
        &set.options("shop", Consistency::Session).catch_up(Duration::from_millis(10)),
        "
db.execute('INSERT INTO t VALUES (1, 1)')
assert count(db) == 1
def body():
    # The replica has not even the table.
    assert count(db) == 1
    if db.in_transaction:
        db.execute('COMMIT')
        assert count(db) == 1
join(child(body))
db.execute('BEGIN')
assert count(db) == 1
join(child(body))
db.execute('COMMIT')
",
    );
}

#[test]
fn a_scan_open_at_the_fork_continues_in_child_and_parent() {
    let server = Server::start();
    // Another process writes, so nothing is cached in this one and pages are prefetched.
    let big = "CREATE TABLE big AS WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 9000)
               SELECT n, hex(zeroblob(500)) AS pad FROM n";
    server.open("shop").execute_batch(big).unwrap();
    python(
        &server,
        "
rows = db.execute('SELECT n FROM big')
before = sum(row[0] for row, _ in zip(rows, range(3000)))
def rest():
    assert before + 3001 + sum(row[0] for row in rows) == 9000 * 9001 // 2
pid = child(rest)
rest()
join(pid)
",
    );
}

#[test]
fn a_write_transaction_open_at_the_fork_stays_with_the_parent() {
    let server = Server::start();
    python(
        &server,
        "
import pathlib
db.execute('BEGIN IMMEDIATE')
db.execute(\"INSERT INTO t VALUES ('parent', 1)\")
def body():
    refused(db, 'COMMIT')
    if db.in_transaction:
        db.execute('ROLLBACK')
    assert count(db) == 0
    other = open(timeout=0)
    assert 'locked' in refused(other, 'BEGIN IMMEDIATE'), 'the parent still holds the lease'
join(child(body))
db.execute(\"INSERT INTO t VALUES ('parent', 2)\")
db.execute('COMMIT')
assert count(db) == 2
assert count(open()) == 2
join(child(lambda: db.execute(\"INSERT INTO t VALUES ('child', 3)\")))
assert count(db) == 3
",
    );
}

#[test]
fn a_child_is_refused_the_parents_transaction_after_the_parents_exit() {
    let server = Server::start();
    python(
        &server,
        "
# So small a cache that most of the transaction is no longer in SQLite's own.
db.execute('PRAGMA cache_size=5')
db.execute('CREATE INDEX i ON t (b)')
for mode, rows, end in [(mode, rows, end) for mode in ('delete', 'truncate', 'persist', 'memory')
                        for rows in (1, 2000) for end in ('ROLLBACK', 'COMMIT')]:
    db.execute('PRAGMA journal_mode=' + mode)
    before = count(db)
    db.execute('BEGIN IMMEDIATE')
    db.executemany('INSERT INTO t VALUES (?, randomblob(500))', [(n,) for n in range(rows)])
    ended, end_it = os.pipe()
    def body():
        assert os.read(ended, 1)
        refused(db, 'COMMIT')
        if db.in_transaction:
            db.execute('ROLLBACK')
        assert count(db) == count(open())
        assert db.execute('PRAGMA integrity_check').fetchone()[0] == 'ok'
        db.execute(\"INSERT INTO t VALUES ('child', 1)\")
    pid = child(body)
    db.execute(end)
    os.write(end_it, b'x')
    join(pid)
    assert count(db) == before + (rows + 1 if end == 'COMMIT' else 1)
    assert db.execute('PRAGMA integrity_check').fetchone()[0] == 'ok'
",
    );
}

#[test]
fn a_child_that_exits_leaves_the_parents_transaction_open() {
    let server = Server::start();
    python(
        &server,
        "
for mode in ('delete', 'memory', 'truncate'):
    db.execute('PRAGMA journal_mode=' + mode)
    db.execute('PRAGMA cache_size=5')
    before = count(db)
    db.execute('BEGIN IMMEDIATE')
    db.executemany('INSERT INTO t VALUES (?, randomblob(1000))', [(n,) for n in range(200)])
    def body():
        db.close()
    join(child(body))
    join(child(lambda: None))
    db.executemany('INSERT INTO t VALUES (?, randomblob(1000))', [(n,) for n in range(200)])
    assert count(db) == before + 400
    db.execute('COMMIT')
    assert count(db) == before + 400
    assert db.execute('PRAGMA integrity_check').fetchone()[0] == 'ok'
",
    );
}

#[test]
fn a_journal_that_spilled_to_a_file_stays_with_the_parent() {
    let server = Server::start();
    python(
        &server,
        "
db.execute('PRAGMA cache_size=20')
db.executemany('INSERT INTO t VALUES (?, hex(zeroblob(500)))', [(n,) for n in range(8000)])
for mode in ('delete', 'truncate', 'persist'):
    db.execute('PRAGMA journal_mode=' + mode)
    db.execute('BEGIN')
    db.execute(\"UPDATE t SET b = 'x' || b\")
    def body():
        db.execute('ROLLBACK')
        assert not db.in_transaction
        assert db.execute(\"SELECT count(*) FROM t WHERE b LIKE 'x%'\").fetchone()[0] == 0
    join(child(body))
    db.execute('ROLLBACK')
    assert db.execute(\"SELECT count(*) FROM t WHERE b LIKE 'x%'\").fetchone()[0] == 0
    assert db.execute('PRAGMA integrity_check').fetchone()[0] == 'ok'
    db.execute('UPDATE t SET a = a + 1 WHERE a % 100 = 0')
    assert db.execute('PRAGMA integrity_check').fetchone()[0] == 'ok'
",
    );
}

#[test]
fn a_snapshot_open_at_the_fork_stays_readable_in_both() {
    let server = Server::start();
    python(
        &server,
        "
db.execute('PRAGMA cache_size=3')
db.executemany('INSERT INTO t VALUES (?, hex(zeroblob(500)))', [(n,) for n in range(1000)])
db.execute('BEGIN')
assert count(db) == 1000
def body():
    writer = open(timeout=30)
    writer.execute(\"UPDATE t SET b = 'changed'\")
    writer.execute('DELETE FROM t WHERE a > 500')
    assert count(writer) == 501
    assert db.execute('SELECT count(*), sum(length(b)) FROM t').fetchone() == (1000, 1000000)
    refused(db, 'DELETE FROM t')
    db.execute('ROLLBACK')
    assert count(db) == 501
    db.execute(\"INSERT INTO t VALUES ('child', 1)\")
join(child(body))
assert db.execute('SELECT count(*), sum(length(b)) FROM t').fetchone() == (1000, 1000000)
refused(db, 'DELETE FROM t')
db.execute('ROLLBACK')
assert count(db) == 502
db.execute(\"INSERT INTO t VALUES ('parent', 1)\")
assert count(db) == 503
",
    );
}

#[test]
fn children_and_their_children_write_concurrently() {
    let server = Server::start();
    python(
        &server,
        "
def write(name, depth):
    if depth:
        inner = child(lambda: write(name + '+', depth - 1))
    for n in range(10):
        db.execute('INSERT INTO t VALUES (?, ?)', (name, n))
    if depth:
        join(inner)
pids = [child(lambda: write(str(n), 1)) for n in range(4)]
for n in range(10):
    db.execute('INSERT INTO t VALUES (?, ?)', ('parent', n))
for pid in pids:
    join(pid)
assert count(db) == 90
",
    );
    assert_eq!(number(&server.open("shop"), "SELECT count(DISTINCT a || '/' || b) FROM t"), 90);
}

#[test]
fn a_child_works_after_a_fork_from_a_busy_multithreaded_parent() {
    let server = Server::start();
    python(
        &server,
        "
import signal, threading
stop = threading.Event()
def write():
    # A lease so short that the thread which renews it is always about to.
    mine = sqlite3.connect(sys.argv[2] + '&lease_ms=100', uri=True, isolation_level=None, timeout=60)
    while not stop.wait(0.005):
        try:
            mine.execute(\"INSERT INTO t VALUES ('thread', 0)\")
        except sqlite3.OperationalError as error:
            # It slept past that lease, and another has committed.
            assert 'locked' in str(error), error
threads = [threading.Thread(target=write) for _ in range(2)]
for thread in threads:
    thread.start()
def body():
    # A child that waits for a thread of its parent ends by this signal.
    signal.alarm(120)
    mine = open(timeout=60)
    mine.execute(\"INSERT INTO t VALUES ('child', 0)\")
try:
    for _ in range(40):
        join(child(body))
finally:
    stop.set()
    for thread in threads:
        thread.join()
assert db.execute(\"SELECT count(*) FROM t WHERE a = 'child'\").fetchone()[0] == 40
",
    );
}

#[test]
fn a_child_has_its_own_commit_mark_for_virtual_tables() {
    let server = Server::start();
    let script = "
vt = sqlite3.connect(':memory:', isolation_level=None)
vt.execute(\"CREATE VIRTUAL TABLE v USING redis('URL', p, a)\")
def marks():
    return {key for key, in vt.execute(\"SELECT key FROM redis_keys('URL', 'p.main.v.commit:*')\")}
vt.execute(\"INSERT INTO v VALUES ('parent')\")
mine = marks()
assert len(mine) == 1
def body():
    assert vt.execute('SELECT a FROM v').fetchall() == [('parent',)]
    vt.execute(\"INSERT INTO v VALUES ('child')\")
    assert vt.execute('SELECT count(*) FROM v').fetchone()[0] == 2
join(child(body))
both = marks()
assert mine < both and len(both) == 2, both
join(child(lambda: vt.close()))
assert mine <= marks(), 'a child that wrote nothing took the mark away'
vt.execute(\"INSERT INTO v VALUES ('parent')\")
assert marks() == both
assert vt.execute('SELECT count(*) FROM v').fetchone()[0] == 3
";
    python(&server, &script.replace("URL", &server.url()));
}
