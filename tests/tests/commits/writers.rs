//! Processes that write to one database concurrently. Some are killed or stopped in the middle of a transaction.

use std::collections::BTreeSet;
use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis_tests::hosts::{self, Beside};
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::{Server, check_integrity, code, eventually, number};

const BUSY: i32 = 5;
const BUSY_SNAPSHOT: i32 = 517;
const LOCK: &str = "sqlite:{shop}:lock";
const LEASE_MS: i64 = 300;

/// Inserts rows from `FIRST` on, one to three per transaction, until it is killed. Prints each committed number.
const INSERT_FOR_EVER: &str = "
db = connect('file:shop?vfs=redis', timeout=60)
n = int(os.environ['FIRST'])
while True:
    rows = range(n, n + 1 + n % 3)
    db.execute('BEGIN IMMEDIATE')
    for row in rows:
        db.execute('INSERT INTO t VALUES (?)', (row,))
    db.execute('COMMIT')
    for row in rows:
        say(row)
    n = rows.stop
";

/// A server with a table.
fn table() -> (Server, Connection) {
    let server = Server::start();
    let connection = server.options("shop").lease(Duration::from_millis(LEASE_MS as u64)).open().unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection.execute_batch("CREATE TABLE t (x INTEGER PRIMARY KEY)").unwrap();
    (server, connection)
}

fn rows(connection: &Connection) -> BTreeSet<i64> {
    let mut statement = connection.prepare("SELECT x FROM t").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

fn start(script: &str, url: &str, first: i64) -> Option<Beside> {
    start_with(script, url, &[("FIRST", &first.to_string()), ("SQLITE_REDIS_LEASE_MS", &LEASE_MS.to_string())])
}

fn start_with(script: &str, url: &str, environment: &[(&str, &str)]) -> Option<Beside> {
    let mut command = hosts::python(script, environment)?;
    command.env("SQLITE_REDIS_URL", url);
    Some(Beside::start(command))
}

/// Asserts that the lease of a dead process is released or expires within its lifetime.
fn assert_lease_ends(server: &Server) {
    let left: i64 = redis::cmd("PTTL").arg(LOCK).query(&mut server.redis()).unwrap();
    assert!(left == -2 || (0..=LEASE_MS).contains(&left), "the lease expires in {left} ms");
}

/// Asserts that all acknowledged rows are there, and at most `at_most_more` others: those of the transaction in
/// progress.
fn assert_complete(connection: &Connection, acknowledged: &BTreeSet<i64>, at_most_more: usize) {
    let found = rows(connection);
    let missing: Vec<_> = acknowledged.difference(&found).collect();
    assert!(missing.is_empty(), "{missing:?} were acknowledged and are missing");
    let more: Vec<_> = found.difference(acknowledged).collect();
    assert!(more.len() <= at_most_more, "{more:?} were never acknowledged");
}

#[test]
fn a_writer_killed_at_any_time_loses_nothing_acknowledged_and_does_not_block_others() {
    let (server, connection) = table();
    let mut acknowledged = BTreeSet::new();
    for round in 0..12 {
        // A million apart, so that two writers never insert the same row.
        let first = (round + 1) * 1_000_000;
        let Some(mut writer) = start(INSERT_FOR_EVER, &server.url(), first) else { return };
        for _ in 0..1 + rand::random_range(0..20) {
            acknowledged.insert(writer.hear().unwrap().parse().unwrap());
        }
        writer.kill();
        assert_lease_ends(&server);
        // Lines that the writer printed before it died.
        acknowledged.extend(writer.hear_all().iter().map(|line| line.parse::<i64>().unwrap()));
        assert_complete(&connection, &acknowledged, 3);
        connection.execute("INSERT INTO t VALUES (?1)", [round]).unwrap();
        acknowledged = rows(&connection);
        check_integrity(&connection);
    }
}

#[test]
fn a_writer_killed_at_any_command_leaves_its_whole_transaction_or_nothing() {
    let script = "
db = connect('file:shop?vfs=redis')
db.execute('SELECT count(*) FROM t').fetchone()
say('ready')
sys.stdin.readline()
db.execute('BEGIN IMMEDIATE')
db.execute('INSERT INTO t VALUES (?), (? + 1)', (int(os.environ['FIRST']),) * 2)
db.execute('COMMIT')
say('committed')
sys.stdin.readline()
";
    let (server, connection) = table();
    // Run once without a fault, to count the commands.
    let proxy = Proxy::to(&server);
    let Some(mut writer) = start(script, &proxy.url(), 500) else { return };
    assert_eq!(writer.hear().as_deref(), Some("ready"));
    let before = proxy.commands().len();
    writer.tell("go");
    assert_eq!(writer.hear().as_deref(), Some("committed"));
    let commands = proxy.commands().split_off(before);
    assert!(commands.len() > 6 && commands.contains(&"EXEC".to_owned()), "{commands:?}");
    let (mut nothing, mut all) = (0, 0);
    for (n, command) in (0..).zip(&commands) {
        let first = 1000 + n * 2;
        let proxy = Proxy::to(&server);
        let Some(mut writer) = start(script, &proxy.url(), first) else { return };
        assert_eq!(writer.hear().as_deref(), Some("ready"));
        proxy.after(n as u64, Fault::HoldReply);
        writer.tell("go");
        proxy.wait_for_held(1);
        writer.kill();
        proxy.cut_held();
        assert_lease_ends(&server);
        match rows(&connection).range(first..first + 2).count() {
            0 => nothing += 1,
            2 => all += 1,
            other => panic!("{other} of 2 rows, killed after {command}"),
        }
        connection.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
    }
    assert!(nothing > 0 && all > 0, "killed {nothing} times before the commit, {all} times after");
    check_integrity(&connection);
}

const COMMIT_WHEN_TOLD: &str = "
db = connect('file:shop?vfs=redis')
db.execute('BEGIN IMMEDIATE')
db.execute('INSERT INTO t VALUES (1)')
say('wrote')
sys.stdin.readline()
try:
    db.execute('COMMIT')
    say('committed')
except sqlite3.OperationalError as error:
    say('refused', error)
if db.in_transaction:
    db.execute('ROLLBACK')
say(db.execute('SELECT redis_last_error()').fetchone()[0])
say([row[0] for row in db.execute('SELECT x FROM t')])
db.execute('INSERT INTO t VALUES (3)')
say(db.execute('PRAGMA integrity_check').fetchone()[0])
sys.stdin.readline()
";

fn wait_until_lease_ends(server: &Server) {
    eventually("the lease ends", || server.redis_cli(&["EXISTS", LOCK]) == "0");
}

#[test]
fn a_writer_that_slept_past_its_lease_is_refused_if_another_has_committed() {
    let (server, connection) = table();
    connection.execute_batch("INSERT INTO t VALUES (0); DELETE FROM t").unwrap();
    let version = number_of_version(&connection);
    let Some(mut writer) = start(COMMIT_WHEN_TOLD, &server.url(), 0) else { return };
    assert_eq!(writer.hear().as_deref(), Some("wrote"));
    writer.signal("STOP");
    wait_until_lease_ends(&server);
    connection.execute("INSERT INTO t VALUES (2)", []).unwrap();
    writer.signal("CONT");
    writer.tell("commit");
    assert_eq!(writer.hear().unwrap(), "refused database is locked");
    let why = writer.hear().unwrap();
    let (old, new) = (version, version + 1);
    assert!(why.contains(&format!("version {new} was committed after this transaction's snapshot, version {old}")));
    assert_eq!(writer.hear().unwrap(), "[2]");
    assert_eq!(writer.hear().unwrap(), "ok");
    assert_eq!(rows(&connection), BTreeSet::from([2, 3]));
    assert!(writer.end());
}

#[test]
fn a_write_after_the_database_was_removed_says_so() {
    let (server, connection) = table();
    connection.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    server.redis_cli(&["UNLINK", "sqlite:{shop}", "sqlite:{shop}:log"]);
    assert_eq!(code(connection.execute_batch("INSERT INTO t VALUES (1)")), BUSY_SNAPSHOT);
    let why = sqlite_redis_tests::text(&connection, "SELECT redis_last_error()");
    assert!(why.contains("the database was removed or renamed after this transaction's snapshot"), "{why}");
}

fn number_of_version(connection: &Connection) -> i64 {
    sqlite_redis_tests::text(connection, "PRAGMA redis_version").parse().unwrap()
}

#[test]
fn a_writer_that_slept_past_its_lease_commits_if_no_other_writer_did() {
    let (server, connection) = table();
    let Some(mut writer) = start(COMMIT_WHEN_TOLD, &server.url(), 0) else { return };
    assert_eq!(writer.hear().as_deref(), Some("wrote"));
    writer.signal("STOP");
    wait_until_lease_ends(&server);
    writer.signal("CONT");
    writer.tell("commit");
    assert_eq!(writer.hear().unwrap(), "committed");
    assert!(writer.hear().is_some());
    assert_eq!(writer.hear().unwrap(), "[1]");
    assert_eq!(writer.hear().unwrap(), "ok");
    assert_eq!(rows(&connection), BTreeSet::from([1, 3]));
}

#[test]
fn a_writer_that_slept_in_the_middle_of_its_commit_is_refused() {
    let (server, connection) = table();
    connection.execute_batch("CREATE TABLE other (y)").unwrap();
    assert_eq!(number_of_version(&connection), 2);
    for command in ["HSET", "XADD", "EXEC"] {
        connection.execute_batch("DELETE FROM t").unwrap();
        let version = number_of_version(&connection);
        let proxy = Proxy::to(&server);
        let Some(mut writer) = start(COMMIT_WHEN_TOLD, &proxy.url(), 0) else { return };
        assert_eq!(writer.hear().as_deref(), Some("wrote"));
        proxy.next(command, Fault::HoldRequest);
        writer.tell("commit");
        proxy.wait_for_held(1);
        writer.signal("STOP");
        wait_until_lease_ends(&server);
        connection.execute("INSERT INTO t VALUES (2)", []).unwrap();
        proxy.let_go();
        writer.signal("CONT");
        assert_eq!(writer.hear().unwrap(), "refused database is locked", "at {command}");
        let why = writer.hear().unwrap();
        assert!(why.contains(&format!("this transaction's snapshot, version {version};")), "{why}");
        assert_eq!(writer.hear().unwrap(), "[2]");
        assert_eq!(writer.hear().unwrap(), "ok");
        assert_eq!(rows(&connection), BTreeSet::from([2, 3]));
    }
    check_integrity(&connection);
}

/// Several processes insert distinct rows, and print the acknowledged ones.
fn processes_write_at_once(processes: i64, each: i64) {
    let script = format!(
        "
db = connect('file:shop?vfs=redis', timeout=120)
first = int(os.environ['FIRST'])
say('ready')
sys.stdin.readline()
for row in range(first, first + {each}):
    try:
        if row % 2:
            db.execute('INSERT INTO t VALUES (?)', (row,))
        else:
            db.execute('BEGIN IMMEDIATE')
            db.execute('INSERT INTO t VALUES (?)', (row,))
            db.execute('UPDATE sum SET n = n + 1')
            db.execute('COMMIT')
        say(row)
    except sqlite3.OperationalError as error:
        say('error', error, db.execute('SELECT redis_last_error()').fetchone()[0])
        if db.in_transaction:
            db.execute('ROLLBACK')
"
    );
    let (server, connection) = table();
    connection.execute_batch("CREATE TABLE sum (n); INSERT INTO sum VALUES (0)").unwrap();
    let mut writers = Vec::new();
    for n in 0..processes {
        // With the default lease: a short one could expire on a busy machine, and the commit would fail.
        let first = (n * 1000).to_string();
        let Some(writer) = start_with(&script, &server.url(), &[("FIRST", &first)]) else { return };
        writers.push(writer);
    }
    for writer in &mut writers {
        assert_eq!(writer.hear().as_deref(), Some("ready"));
    }
    for writer in &mut writers {
        writer.tell("go");
    }
    let mut acknowledged = BTreeSet::new();
    for mut writer in writers {
        for line in writer.hear_all() {
            let row = line.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(acknowledged.insert(row), "{row} twice");
        }
        assert!(writer.end());
    }
    assert_eq!(acknowledged.len() as i64, processes * each, "every process gets the lease in time");
    assert_eq!(rows(&connection), acknowledged);
    let even = acknowledged.iter().filter(|row| *row % 2 == 0).count();
    assert_eq!(number(&connection, "SELECT n FROM sum"), even as i64);
    check_integrity(&connection);
}

#[test]
fn two_processes_write_at_once_and_every_row_is_there_once() {
    processes_write_at_once(2, 100);
}

#[test]
fn four_processes_write_at_once_and_every_row_is_there_once() {
    processes_write_at_once(4, 40);
}

#[test]
fn a_long_transaction_keeps_its_lease() {
    let (server, _) = table();
    // Short enough to need renewal, and long enough to survive one late renewal on a busy machine.
    let connection = server.options("shop").lease(Duration::from_secs(1)).open().unwrap();
    let other = server.open("shop");
    other.busy_timeout(Duration::ZERO).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    let before = server.calls("pexpire");
    // The client renews a lease every third of its lifetime.
    for renewals in [3, 6, 9] {
        eventually("the lease is renewed", || server.calls("pexpire") >= before + renewals);
        assert_eq!(code(other.execute("INSERT INTO t VALUES (2)", [])), BUSY);
        assert_eq!(number(&other, "SELECT count(*) FROM t"), 0, "readers do not wait");
    }
    let said = sqlite_redis::last_error(&other).unwrap().to_string();
    assert!(said.contains("another client is writing") && said.contains(&std::process::id().to_string()), "{said}");
    connection.execute_batch("COMMIT").unwrap();
    other.execute("INSERT INTO t VALUES (2)", []).unwrap();
    assert_eq!(rows(&connection), BTreeSet::from([1, 2]));
    assert_eq!(server.redis_cli(&["EXISTS", LOCK]), "0");
}

#[test]
fn a_hung_server_does_not_delay_lease_renewal_on_another_server() {
    let (hanging, _) = table();
    let (server, _) = table();
    let life = Duration::from_secs(1);
    let there = hanging.options("shop").lease(life).open().unwrap();
    let here = server.options("shop").lease(life).open().unwrap();
    let other = server.open("shop");
    other.busy_timeout(Duration::ZERO).unwrap();
    there.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    here.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    hanging.signal("STOP");
    let before = server.calls("pexpire");
    for renewals in [3, 6, 9] {
        eventually("the lease is renewed", || server.calls("pexpire") >= before + renewals);
        assert_eq!(code(other.execute("INSERT INTO t VALUES (2)", [])), BUSY);
    }
    hanging.signal("CONT");
    here.execute_batch("COMMIT").unwrap();
    assert_eq!(rows(&other), BTreeSet::from([1]));
}

#[test]
fn a_reader_keeps_its_snapshot_through_1000_commits() {
    let (server, connection) = table();
    connection.execute_batch("INSERT INTO t VALUES (-1)").unwrap();
    let script = "
db = connect('file:shop?vfs=redis')
db.execute('BEGIN')
say(db.execute('SELECT count(*) FROM t').fetchone()[0])
for line in sys.stdin:
    say(db.execute('SELECT count(*), min(x), max(x) FROM t').fetchone())
    if line == 'end\\n':
        db.execute('COMMIT')
";
    let Some(mut reader) = start(script, &server.url(), 0) else { return };
    assert_eq!(reader.hear().as_deref(), Some("1"));
    for x in 0..1000 {
        connection.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
        if x % 250 == 0 {
            reader.tell("look");
            assert_eq!(reader.hear().as_deref(), Some("(1, -1, -1)"));
        }
    }
    reader.tell("end");
    assert_eq!(reader.hear().as_deref(), Some("(1, -1, -1)"));
    reader.tell("look");
    assert_eq!(reader.hear().as_deref(), Some("(1001, -1, 999)"));
}
