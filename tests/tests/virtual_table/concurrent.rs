//! The virtual table with clients that write at the same time: no change is lost, and no commit is seen in part.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rusqlite::Connection;
use sqlite_redis_tests::hosts::{self, Beside};
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::vtab::{check_keys, connect, create, table};
use sqlite_redis_tests::{Server, code, eventually, number, text};

const BUSY: i32 = 5;

fn is_busy<T: std::fmt::Debug>(result: rusqlite::Result<T>) -> bool {
    code(result) & 0xff == BUSY
}

/// Counts to 100 with a read and a write in each transaction, as an application would.
const COUNTING: &str = r"
c = sqlite3.connect(':memory:', isolation_level=None)
load(c)
c.execute(f'''CREATE VIRTUAL TABLE t USING redis('{os.environ['AT']}', p, id INTEGER PRIMARY KEY, n INT INDEXED)''')
done = refused = 0
while done < 100:
    try:
        c.execute('BEGIN')
        n = c.execute('SELECT n FROM t WHERE id = 1').fetchone()[0]
        c.execute('UPDATE t SET n = ? WHERE id = 1', (n + 1,))
        c.execute('COMMIT')
        done += 1
    except sqlite3.OperationalError as error:
        assert 'another client' in str(error), error
        assert not c.in_transaction
        refused += 1
say(done, refused)
";

#[test]
fn no_increment_of_two_processes_is_lost() {
    let server = Server::start();
    let here = table(&server, "id INTEGER PRIMARY KEY, n INT INDEXED");
    here.execute_batch("INSERT INTO t VALUES (1, 0)").unwrap();
    let start = || hosts::python(COUNTING, &[("AT", &server.url())]).map(Beside::start);
    let (Some(mut one), Some(mut two)) = (start(), start()) else { return };
    for process in [&mut one, &mut two] {
        assert!(process.hear_all().concat().starts_with("100 "), "the process did not report 100 increments");
    }
    assert_eq!(number(&here, "SELECT n FROM t"), 200);
    assert_eq!(number(&here, "SELECT id FROM t WHERE n = 200"), 1);
    check_keys(&server, "t");
}

#[test]
fn a_writing_transaction_is_refused_when_what_it_read_changed() {
    let server = Server::start();
    let (one, two) = (table(&server, "a INT"), table(&server, "a INT"));
    create(&one, &server.url(), "u", "a INT").unwrap();
    one.execute_batch("INSERT INTO t VALUES (1), (2), (3); INSERT INTO u VALUES (0)").unwrap();
    for (reads, changes, writes) in [
        // The written row, another row, a row of another table, and a deleted row.
        (
            "SELECT a FROM t WHERE rowid = 1",
            "UPDATE t SET a = a + 1 WHERE rowid = 1",
            "UPDATE t SET a = 9 WHERE rowid = 1",
        ),
        (
            "SELECT a FROM t WHERE rowid = 1",
            "UPDATE t SET a = a + 1 WHERE rowid = 1",
            "UPDATE t SET a = 9 WHERE rowid = 2",
        ),
        ("SELECT sum(a) FROM t", "UPDATE t SET a = a + 1 WHERE rowid = 2", "INSERT INTO u VALUES (9)"),
        ("SELECT sum(a) FROM t", "DELETE FROM t WHERE rowid = 3", "UPDATE u SET a = 9"),
    ] {
        let all = "SELECT (SELECT group_concat(a) FROM t) || ';' || (SELECT group_concat(a) FROM u)";
        one.execute_batch("BEGIN").unwrap();
        number(&one, reads);
        two.execute_batch(changes).unwrap();
        one.execute_batch(writes).unwrap();
        assert!(is_busy(one.execute_batch("COMMIT")), "{reads}; {changes}; {writes}");
        assert!(one.is_autocommit());
        assert!(!text(&one, all).contains('9'), "{reads}; {changes}; {writes}");
        // The same without a change by the other client.
        one.execute_batch("BEGIN").unwrap();
        number(&one, reads);
        one.execute_batch(&format!("{writes}; COMMIT")).unwrap();
        one.execute_batch("UPDATE t SET a = rowid; DELETE FROM u WHERE rowid > 1; UPDATE u SET a = 0").unwrap();
    }
}

#[test]
fn reads_of_a_finished_transaction_cause_no_conflict() {
    let server = Server::start();
    let (one, two) = (table(&server, "a INT"), table(&server, "a INT"));
    one.execute_batch("INSERT INTO t VALUES (1), (2)").unwrap();
    one.execute_batch("BEGIN; UPDATE t SET a = 3 WHERE rowid = 2").unwrap();
    number(&one, "SELECT sum(a) FROM t");
    one.execute_batch("ROLLBACK").unwrap();
    two.execute_batch("UPDATE t SET a = 5 WHERE rowid = 1").unwrap();
    one.execute_batch("BEGIN; SELECT a FROM t; UPDATE t SET a = a + 1; COMMIT").unwrap();
    number(&one, "SELECT sum(a) FROM t");
    two.execute_batch("UPDATE t SET a = 7 WHERE rowid = 1").unwrap();
    one.execute_batch("BEGIN; UPDATE t SET a = a + 1; COMMIT").unwrap();
    assert_eq!(text(&one, "SELECT group_concat(a) FROM t"), "8,4");
}

const COLUMNS: &str = "id INTEGER PRIMARY KEY, n INT INDEXED, s TEXT INDEXED, u INT UNIQUE";

/// Writes transactions of ten rows. The test's process sees each whole or not at all.
const WRITING: &str = r"
c = sqlite3.connect(':memory:', isolation_level=None)
load(c)
c.execute(f'''CREATE VIRTUAL TABLE t USING redis('{os.environ['AT']}', p, id INTEGER PRIMARY KEY, n INT INDEXED,
    s TEXT INDEXED, u INT UNIQUE)''')
n = c.execute('SELECT ifnull(max(n), 0) FROM t').fetchone()[0]
say('ready')
sys.stdin.readline()
while True:
    n += 1
    c.execute('BEGIN')
    for i in range(10):
        c.execute('INSERT INTO t (n, s, u) VALUES (?, ?, ?)', (n, f'text {i}', n * 10 + i))
    c.execute('UPDATE t SET s = ? WHERE n = ?', (f'later {n}', n - 1))
    c.execute('DELETE FROM t WHERE n = ?', (n - 5,))
    c.execute('COMMIT')
    say(n)
";

/// Asserts that every stored transaction is whole, and returns the number of the last.
fn check_whole(server: &Server) -> i64 {
    check_keys(server, "t");
    let here = table(server, COLUMNS);
    let halves = "SELECT count(*) FROM (SELECT n FROM t GROUP BY n HAVING count(*) <> 10)";
    assert_eq!(number(&here, halves), 0, "a transaction is stored in part");
    let last = number(&here, "SELECT ifnull(max(n), 0) FROM t");
    let late = format!("SELECT count(*) FROM t WHERE n < {last} AND s NOT LIKE 'later %'");
    assert_eq!(number(&here, &late), 0, "a transaction is stored in part");
    assert_eq!(number(&here, &format!("SELECT count(*) FROM t WHERE n <= {last} - 5")), 0);
    last
}

#[test]
fn a_writer_killed_at_any_time_leaves_transactions_whole() {
    let server = Server::start();
    let mut acknowledged = 0;
    for round in 0..12_u64 {
        let Some(command) = hosts::python(WRITING, &[("AT", &server.url())]) else { return };
        let mut writer = Beside::start(command);
        assert_eq!(writer.hear().as_deref(), Some("ready"));
        writer.tell("go");
        for _ in 0..=round % 3 {
            acknowledged = writer.hear().unwrap().parse().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(round * 7 % 23));
        writer.kill();
        if let Some(last) = writer.hear_all().last() {
            acknowledged = last.parse().unwrap();
        }
        let last = check_whole(&server);
        assert!(
            last == acknowledged || last == acknowledged + 1,
            "{acknowledged} were acknowledged, {last} are stored"
        );
    }
}

#[test]
fn a_writer_killed_during_commit_leaves_all_or_nothing() {
    let server = Server::start();
    for (command, fault, go, done) in [
        ("EXEC", Fault::HoldRequest, false, 0),
        ("EXEC", Fault::HoldRequest, true, 1),
        ("EXEC", Fault::HoldReply, true, 1),
        ("MULTI", Fault::HoldReply, true, 0),
        ("ZADD", Fault::HoldReply, true, 0),
    ] {
        let proxy = Proxy::to(&server);
        let Some(python) = hosts::python(WRITING, &[("AT", &proxy.url())]) else { return };
        let mut writer = Beside::start(python);
        assert_eq!(writer.hear().as_deref(), Some("ready"));
        let before = check_whole(&server);
        proxy.next(command, fault);
        writer.tell("go");
        proxy.wait_for_held(1);
        writer.kill();
        proxy.settle(go);
        eventually("no connection is inside MULTI", || {
            server.redis_cli(&["CLIENT", "LIST"]).lines().all(|client| client.contains(" multi=-1 "))
        });
        assert_eq!(check_whole(&server), before + done, "{command} {fault:?}");
    }
}

/// Stops the writing thread when dropped, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Inserts rows from another thread while `work` runs. Returns the committed values, and the result of `work`.
fn inserting<T>(server: &Server, columns: &'static str, work: impl FnOnce() -> T) -> (Vec<i64>, T) {
    let (stop, url) = (AtomicBool::new(false), server.url());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let one = connect();
            create(&one, &url, "t", columns).unwrap();
            let mut done = Vec::new();
            for n in 0.. {
                if stop.load(SeqCst) {
                    break;
                }
                match one.execute("INSERT INTO t (a, b) VALUES (?1, 'text ' || (?1 % 7))", [n]) {
                    Ok(_) => done.push(n),
                    Err(error) => assert!(is_busy::<()>(Err(error)), "an insert failed"),
                }
            }
            done
        });
        let stopping = Stop(&stop);
        let outcome = work();
        drop(stopping);
        (writer.join().unwrap(), outcome)
    })
}

const TWO: &str = "a INT INDEXED, b TEXT INDEXED";

fn column(connection: &Connection, sql: &str) -> Vec<i64> {
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn renaming_a_table_loses_no_concurrent_insert() {
    let server = Server::start();
    let one = table(&server, TWO);
    one.execute_batch("INSERT INTO t VALUES (-1, 'x'), (-2, NULL)").unwrap();
    let (mut done, names) = inserting(&server, TWO, || {
        let mut names = vec!["t".to_owned()];
        for n in 0..5 {
            eventually("20 rows are stored", || {
                server.redis_cli(&["ZCARD", "p.main.t.index.rowid"]).parse().is_ok_and(|rows: i64| rows > 20)
            });
            let (name, next) = ("t", format!("t{n}"));
            let own = table(&server, TWO);
            own.execute_batch(&format!("ALTER TABLE {name} RENAME TO {next}")).unwrap();
            names.push(next);
        }
        names
    });
    let mut found = Vec::new();
    for name in &names {
        check_keys(&server, name);
        let own = connect();
        create(&own, &server.url(), name, "a INT, b TEXT").unwrap();
        found.extend(column(&own, &format!("SELECT a FROM {name} WHERE a >= 0")));
    }
    found.sort_unstable();
    done.sort_unstable();
    assert_eq!(found, done, "rows under {names:?}");
}

#[test]
fn dropping_data_and_indexes_leaves_concurrent_inserts_whole() {
    let server = Server::start();
    let one = table(&server, TWO);
    let (done, dropped) = inserting(&server, TWO, || {
        let mut dropped = 0;
        for n in 0..10 {
            eventually("10 rows are stored", || number(&one, "SELECT count(*) FROM t") > 10);
            if n % 2 == 0 {
                dropped += number(&one, "SELECT redis_drop_data('t')");
            } else {
                number(&one, "SELECT redis_drop_index('t', 'b')");
                number(&one, "SELECT redis_create_index('t', 'b')");
            }
        }
        dropped
    });
    let left = check_keys(&server, "t");
    assert_eq!(left + usize::try_from(dropped).unwrap(), done.len());
    assert_eq!(number(&one, "SELECT count(*) FROM t WHERE a >= 0 AND b LIKE 'text%'"), i64::try_from(left).unwrap());
}

/// Inserts 200 rows with ids from 1001 in one transaction, and runs `other` after the commit's checks and before its
/// `EXEC`. Returns whether it was committed, and the number of `EXEC` calls.
fn during_a_large_commit(server: &Server, columns: &str, other: &str) -> (bool, usize) {
    let here = table(server, columns);
    let proxy = Proxy::to(server);
    let committed = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let one = connect();
            create(&one, &proxy.url(), "t", columns).unwrap();
            one.execute_batch("BEGIN").unwrap();
            let mut insert = one.prepare("INSERT INTO t VALUES (?1, 'u' || ?1, 5)").unwrap();
            for id in 1001..=1200 {
                insert.execute([id]).unwrap();
            }
            drop(insert);
            proxy.next("EXEC", Fault::HoldRequest);
            let committed = one.execute_batch("COMMIT");
            committed.is_ok() || !is_busy(committed)
        });
        proxy.wait_for_held(1);
        let done = here.execute_batch(other);
        proxy.let_go();
        done.unwrap();
        writer.join().unwrap()
    });
    let rows = number(&here, "SELECT count(*) FROM t");
    assert_eq!(number(&here, "SELECT count(*) FROM t WHERE n = 5 AND u = 'u' || id"), if committed { 200 } else { 0 });
    assert_eq!(check_keys(server, "t") as i64, rows, "after {other}");
    if columns == UNIQUE {
        assert_eq!(number(&here, "SELECT count(u) - count(DISTINCT u) FROM t"), 0, "after {other}");
    }
    (committed, proxy.commands().iter().filter(|command| *command == "EXEC").count())
}

const UNIQUE: &str = "id INTEGER PRIMARY KEY, u TEXT UNIQUE, n INT";

#[test]
fn a_large_commit_conflicts_only_on_its_own_rows() {
    let server = Server::start();
    for (other, committed, tries) in [
        ("UPDATE t SET n = 3 WHERE id = 1", true, 1),
        // The sorted sets grow, but not by keys that the commit writes.
        ("INSERT INTO t VALUES (3, 'three', 3)", true, 1),
        ("UPDATE t SET u = 'other' WHERE id = 1; DELETE FROM t WHERE id = 2", true, 1),
        ("INSERT INTO t VALUES (1100, 'three', 3)", false, 1),
        ("INSERT INTO t VALUES (3, 'u1100', 3)", false, 1),
        ("UPDATE t SET u = 'u1100' WHERE id = 1", false, 1),
    ] {
        some_rows(&server);
        assert_eq!(during_a_large_commit(&server, UNIQUE, other), (committed, tries), "{other}");
    }
}

#[test]
fn a_large_commit_without_unique_columns_conflicts_on_its_rowids() {
    let server = Server::start();
    let columns = "id INTEGER PRIMARY KEY, u TEXT, n INT";
    for (rowid, committed, tries) in [(1100, false, 1), (3, true, 1)] {
        table(&server, columns).execute_batch("SELECT redis_drop_data('t')").unwrap();
        let other = format!("INSERT INTO t VALUES ({rowid}, 'three', 3)");
        assert_eq!(during_a_large_commit(&server, columns, &other), (committed, tries), "{other}");
    }
}

#[test]
fn a_large_commit_conflicts_on_a_unique_value_with_a_stale_index_entry() {
    let server = Server::start();
    some_rows(&server);
    table(&server, UNIQUE).execute_batch("INSERT INTO t VALUES (3, NULL, 3)").unwrap();
    // The value is in the sorted set already, so the set neither grows nor shrinks.
    server.redis_cli(&["ZADD", "p.main.t.index:u", "0", "u1100"]);
    assert_eq!(during_a_large_commit(&server, UNIQUE, "UPDATE t SET u = 'u1100' WHERE id = 3"), (false, 1));
}

fn some_rows(server: &Server) {
    let rows = "SELECT redis_drop_data('t'); INSERT INTO t VALUES (1, 'one', 1), (2, 'two', 2)";
    table(server, UNIQUE).execute_batch(rows).unwrap();
}

/// Changes 200 of 300 rows in one transaction, and runs `other` after the commit's checks and before its `EXEC`.
/// Returns whether it was committed.
fn during_a_commit_that_changes_many(server: &Server, changes: &str, other: impl FnOnce(&Connection)) -> bool {
    let here = table(server, UNIQUE);
    let rows = "WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 300) \
                INSERT INTO t SELECT n, 'u' || n, n % 7 FROM n";
    here.execute_batch(&format!("SELECT redis_drop_data('t'); SELECT redis_create_index('t', 'n'); {rows}")).unwrap();
    let proxy = Proxy::to(server);
    let committed = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let one = connect();
            create(&one, &proxy.url(), "t", UNIQUE).unwrap();
            one.execute_batch(&format!("BEGIN; {changes}")).unwrap();
            proxy.next("EXEC", Fault::HoldRequest);
            let committed = one.execute_batch("COMMIT");
            committed.is_ok() || !is_busy(committed)
        });
        proxy.wait_for_held(1);
        other(&here);
        let then = snapshot(&here);
        proxy.let_go();
        let committed = writer.join().unwrap();
        assert_eq!(snapshot(&here) == then, !committed, "{changes}");
        committed
    });
    check_keys(server, "t");
    assert_eq!(number(&here, "SELECT count(DISTINCT u) = count(*) FROM t"), 1);
    committed
}

fn snapshot(connection: &Connection) -> String {
    text(connection, "SELECT group_concat(id || ':' || u || ':' || n) FROM t")
}

#[test]
fn a_commit_of_many_changes_conflicts_only_on_rows_that_it_used() {
    let server = Server::start();
    let update = "UPDATE t SET n = n + 1, u = 'v' || id WHERE id <= 200";
    let delete = "DELETE FROM t WHERE id <= 200";
    let read = "SELECT sum(n) FROM t WHERE id <= 200; UPDATE t SET n = 70 WHERE id = 300";
    for (changes, other, committed) in [
        (update, "UPDATE t SET n = 3 WHERE id = 250", true),
        (update, "INSERT INTO t VALUES (1000, 'other', 3)", true),
        (update, "UPDATE t SET n = 30 WHERE id = 150", false),
        (update, "DELETE FROM t WHERE id = 1", false),
        (update, "INSERT INTO t VALUES (1000, 'v200', 3)", false),
        (delete, "UPDATE t SET n = 3 WHERE id = 201", true),
        (delete, "UPDATE t SET n = 30 WHERE id = 200", false),
        (delete, "DELETE FROM t WHERE id = 99", false),
        (read, "UPDATE t SET n = 3 WHERE id = 201", true),
        (read, "UPDATE t SET n = 30 WHERE id = 7", false),
        (read, "DELETE FROM t WHERE id = 7", false),
    ] {
        let done = during_a_commit_that_changes_many(&server, changes, |here| here.execute_batch(other).unwrap());
        assert_eq!(done, committed, "{changes}: {other}");
    }
    // An update keeps the fields that other programs write, so such a write is a conflict.
    let foreign = |_: &Connection| assert_eq!(server.redis_cli(&["HSET", "p.main.t:150", "foreign", "x"]), "1");
    assert!(!during_a_commit_that_changes_many(&server, update, foreign));
}

#[test]
fn a_commit_of_many_changes_watches_with_one_command() {
    let server = Server::start();
    let one = table(&server, UNIQUE);
    let rows = "WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 400) \
                INSERT INTO t SELECT n, 'u' || n, n % 7 FROM n";
    one.execute_batch(rows).unwrap();
    for sql in [
        "UPDATE t SET u = 'v' || id",
        "BEGIN; SELECT sum(n) FROM t; UPDATE t SET n = 1 WHERE id = 1; COMMIT",
        "DELETE FROM t",
    ] {
        let before = server.calls("watch");
        one.execute_batch(sql).unwrap();
        assert_eq!(server.calls("watch") - before, 1, "{sql}");
        check_keys(&server, "t");
    }
}

#[test]
fn moving_many_rows_keeps_large_foreign_fields() {
    let server = Server::start();
    let one = table(&server, "id INTEGER PRIMARY KEY, n INT");
    let rows = "WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 300) INSERT INTO t SELECT n, n FROM n";
    one.execute_batch(rows).unwrap();
    let mut hset = redis::cmd("HSET");
    hset.arg("p.main.t:150");
    for n in 0..5000 {
        hset.arg(format!("foreign{n}")).arg(n);
    }
    hset.exec(&mut server.redis()).unwrap();
    one.execute_batch("UPDATE t SET id = id + 1000").unwrap();
    assert_eq!(server.redis_cli(&["HLEN", "p.main.t:1150"]), "5002");
    assert_eq!(server.redis_cli(&["EXISTS", "p.main.t:150"]), "0");
    assert_eq!(check_keys(&server, "t"), 300);
}

#[test]
fn rollback_returns_rowids_and_rollback_to_skips_them() {
    let server = Server::start();
    let one = table(&server, "n INT");
    let rowids = || text(&one, "SELECT group_concat(rowid) FROM t");
    one.execute_batch("INSERT INTO t VALUES (1); BEGIN; INSERT INTO t VALUES (2), (3); ROLLBACK").unwrap();
    one.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(rowids(), "1,2");
    one.execute_batch(
        "BEGIN; SAVEPOINT s; INSERT INTO t VALUES (3), (4); ROLLBACK TO s; INSERT INTO t VALUES (5); COMMIT",
    )
    .unwrap();
    assert_eq!(rowids(), "1,2,5");
    one.execute_batch("INSERT INTO t VALUES (6)").unwrap();
    assert_eq!(rowids(), "1,2,5,6");
    check_keys(&server, "t");
}
