//! Connections that break during a transaction. A commit happens once or not at all, and its reported outcome is
//! correct.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::{Server, check_integrity, code, eventually, number};

const BUSY_SNAPSHOT: i32 = 517;
const IOERR_FSYNC: i32 = 1034;

/// A server with a table, and the proxy in front of it.
struct Backstage {
    proxy: Proxy,
    server: Server,
}

/// A connection through the proxy, and the servers behind it.
struct Scene {
    through: Connection,
    back: Backstage,
}

impl std::ops::Deref for Scene {
    type Target = Backstage;

    fn deref(&self) -> &Backstage {
        &self.back
    }
}

impl Scene {
    fn new(timeout: Duration) -> Scene {
        Scene::with_lease(timeout, Duration::from_millis(300))
    }

    fn with_lease(timeout: Duration, lease: Duration) -> Scene {
        let server = Server::start();
        server.open("shop").execute_batch("CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (0)").unwrap();
        let proxy = Proxy::to(&server);
        let through = proxy.options("shop").timeout(timeout).lease(lease).open().unwrap();
        assert_eq!(number(&through, "SELECT count(*) FROM t"), 1);
        Scene { through, back: Backstage { proxy, server } }
    }

    /// Runs SQL through the proxy, and `meanwhile` in another thread.
    fn run(&self, sql: &str, meanwhile: impl FnOnce(&Backstage) + Send) -> rusqlite::Result<()> {
        std::thread::scope(|scope| {
            let back = &self.back;
            let meanwhile = scope.spawn(move || meanwhile(back));
            let outcome = self.through.execute_batch(sql);
            meanwhile.join().unwrap();
            outcome
        })
    }

    /// Asserts that the connection still reads and writes.
    fn assert_usable(&self) {
        self.through.execute("INSERT INTO t VALUES (-1)", []).unwrap();
        assert!(number(&self.through, "SELECT count(*) FROM t WHERE x = -1") > 0);
        check_integrity(&self.through);
    }
}

impl Backstage {
    fn count(&self, x: i64) -> i64 {
        let direct = self.server.open("shop");
        check_integrity(&direct);
        number(&direct, &format!("SELECT count(*) FROM t WHERE x = {x}"))
    }

    /// Commits as another client, after the held lease has expired.
    fn commit_elsewhere(&self, x: i64) {
        redis::cmd("DEL").arg("sqlite:{shop}:lock").exec(&mut self.server.redis()).unwrap();
        self.server.open("shop").execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
    }
}

/// A timeout that no commit reaches unless a test stalls it.
const LONG: Duration = Duration::from_secs(20);

const INSERT: &str = "INSERT INTO t VALUES (1)";

fn insert(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(INSERT)
}

#[test]
fn a_commit_whose_reply_is_lost_is_done_once_and_reported_as_done() {
    for fault in [Fault::LoseReply, Fault::CutReply] {
        let scene = Scene::new(LONG);
        scene.proxy.next("EXEC", fault);
        insert(&scene.through).unwrap();
        assert!(!scene.proxy.is_armed());
        assert_eq!(scene.proxy.commands().iter().filter(|command| *command == "EXEC").count(), 1);
        assert_eq!(scene.count(1), 1);
        assert_eq!(number(&scene.through, "SELECT count(*) FROM t WHERE x = 1"), 1);
        scene.assert_usable();
    }
}

#[test]
fn a_commit_whose_lease_release_fails_is_reported_as_done() {
    let scene = Scene::new(LONG);
    scene.proxy.next("EXEC", Fault::LoseReply);
    // The client retries the release once, over a new connection.
    scene.proxy.next("EVAL", Fault::LoseRequest);
    scene.proxy.next("EVAL", Fault::LoseRequest);
    insert(&scene.through).unwrap();
    assert!(!scene.proxy.is_armed());
    assert_eq!(scene.count(1), 1);
    scene.assert_usable();
}

#[test]
fn a_commit_that_cannot_replace_a_damaged_log_is_reported_as_done() {
    let scene = Scene::new(LONG);
    redis::cmd("SET").arg("sqlite:{shop}:log").arg("x").exec(&mut scene.server.redis()).unwrap();
    scene.proxy.next("DEL", Fault::LoseRequest);
    scene.proxy.next("DEL", Fault::LoseRequest);
    insert(&scene.through).unwrap();
    assert_eq!(number(&scene.through, "SELECT count(*) FROM t WHERE x = 1"), 1);
    redis::cmd("DEL").arg("sqlite:{shop}:log").exec(&mut scene.server.redis()).unwrap();
    assert_eq!(scene.count(1), 1);
    scene.assert_usable();
}

#[test]
fn a_commit_that_the_server_never_saw_is_sent_again_and_done_once() {
    for fault in [Fault::LoseRequest, Fault::CutRequest] {
        let scene = Scene::new(LONG);
        scene.proxy.next("EXEC", fault);
        insert(&scene.through).unwrap();
        assert_eq!(scene.proxy.commands().iter().filter(|command| *command == "EXEC").count(), 2);
        assert_eq!(scene.count(1), 1);
        scene.assert_usable();
    }
}

#[test]
fn a_connection_cut_at_any_command_of_a_write_leaves_it_done_once_or_refused() {
    for fault in [Fault::LoseRequest, Fault::CutRequest, Fault::LoseReply, Fault::CutReply] {
        let scene = Scene::new(LONG);
        for commands in 0.. {
            let before = scene.count(1);
            scene.proxy.after(commands, fault);
            let outcome = insert(&scene.through);
            let armed = scene.proxy.is_armed();
            scene.proxy.disarm();
            let done = i64::from(outcome.is_ok());
            assert_eq!(scene.count(1), before + done, "{fault:?} at {commands}: {outcome:?}");
            if let Err(error) = outcome {
                let said = sqlite_redis::last_error(&scene.through).expect("a cause");
                assert!(said.to_string().contains("database `shop` on unix://"), "{error}: {said}");
            }
            if armed {
                assert!(commands >= 8, "a write has more commands than {commands}");
                break;
            }
        }
        scene.assert_usable();
    }
}

#[test]
fn a_connection_cut_at_any_command_of_a_read_is_replaced_or_the_error_is_clear() {
    let server = Server::start();
    let direct = server.open("shop");
    direct
        .execute_batch(
            "CREATE TABLE t (x, y);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
             INSERT INTO t SELECT 1, zeroblob(1000) FROM n",
        )
        .unwrap();
    for fault in [Fault::LoseRequest, Fault::CutRequest, Fault::LoseReply, Fault::CutReply] {
        for commands in 0..12 {
            // The proxy's address is new, so the connection shares no cache.
            let proxy = Proxy::to(&server);
            proxy.after(commands, fault);
            let options = proxy.options("shop").timeout(LONG);
            let connection = match options.open() {
                Ok(connection) => connection,
                Err(error) => {
                    let said = error.to_string();
                    assert!(said.contains("connection was lost") || said.contains("can't connect"), "{said}");
                    options.open().expect("a second try")
                }
            };
            let count = connection.query_row("SELECT sum(x) FROM t", [], |row| row.get::<_, i64>(0));
            match count {
                Ok(count) => assert_eq!(count, 1000),
                Err(error) => {
                    let said = sqlite_redis::last_error(&connection).expect("a cause").to_string();
                    assert!(said.contains("connection was lost"), "{error}: {said}");
                }
            }
            assert_eq!(number(&connection, "SELECT sum(x) FROM t"), 1000);
            check_integrity(&connection);
        }
    }
}

#[test]
fn a_lost_reply_is_resolved_as_done_after_a_later_commit() {
    let scene = Scene::new(LONG);
    scene.proxy.next("EXEC", Fault::HoldReply);
    let outcome = scene.run(INSERT, |back| {
        back.proxy.wait_for_held(1);
        back.commit_elsewhere(2);
        back.proxy.cut_held();
    });
    outcome.unwrap();
    assert_eq!((scene.count(1), scene.count(2)), (1, 1));
    assert_eq!(number(&scene.through, "SELECT count(*) FROM t"), 3);
    scene.assert_usable();
}

#[test]
fn a_lost_commit_is_refused_when_another_took_its_place() {
    let scene = Scene::new(LONG);
    scene.proxy.next("EXEC", Fault::HoldRequest);
    let outcome = scene.run(INSERT, |back| {
        back.proxy.wait_for_held(1);
        back.commit_elsewhere(2);
        back.proxy.cut_held();
    });
    assert_eq!(code(outcome), BUSY_SNAPSHOT);
    assert_eq!((scene.count(1), scene.count(2)), (0, 1));
    assert_eq!(number(&scene.through, "SELECT count(*) FROM t"), 2);
    scene.assert_usable();
}

#[test]
fn a_lost_commit_whose_log_entry_was_trimmed_is_reported_as_unknown() {
    for (fault, done) in [(Fault::HoldReply, 1), (Fault::HoldRequest, 0)] {
        let scene = Scene::new(LONG);
        scene.proxy.next("EXEC", fault);
        let outcome = scene.run(INSERT, |back| {
            back.proxy.wait_for_held(1);
            back.commit_elsewhere(2);
            back.commit_elsewhere(3);
            assert_ne!(back.server.redis_cli(&["XTRIM", "sqlite:{shop}:log", "MAXLEN", "1"]), "0");
            back.proxy.cut_held();
        });
        assert_eq!(code(outcome), IOERR_FSYNC);
        let said = sqlite_redis::last_error(&scene.through).unwrap().to_string();
        assert!(said.contains("unknown whether version 3 "), "{said}");
        assert!(said.contains("the log does not reach back"), "{said}");
        assert_eq!([1, 2, 3].map(|x| scene.count(x)), [done, 1, 1]);
        scene.assert_usable();
    }
}

#[test]
fn a_commit_that_arrives_after_a_rivals_commit_is_refused_by_watch() {
    let scene = Scene::new(LONG);
    scene.proxy.next("EXEC", Fault::HoldRequest);
    let outcome = scene.run(INSERT, |back| {
        back.proxy.wait_for_held(1);
        back.commit_elsewhere(2);
        back.proxy.let_go();
    });
    assert_eq!(code(outcome), BUSY_SNAPSHOT);
    assert_eq!((scene.count(1), scene.count(2)), (0, 1));
    scene.assert_usable();
}

/// The first attempt of a commit is delayed. The client times out, finds no commit, and retries. The first attempt
/// arrives while the second is held at `command`.
fn first_attempt_arrives_while_the_retry_is_held_at(command: &str) {
    let scene = Scene::new(Duration::from_millis(500));
    scene.proxy.next("EXEC", Fault::HoldRequest);
    let outcome = scene.run(INSERT, |back| {
        back.proxy.wait_for_held(1);
        back.proxy.next(command, Fault::HoldRequest);
        back.proxy.wait_for_held(2);
        back.proxy.let_go();
        eventually("the first attempt arrived", || back.count(1) == 1);
        back.proxy.let_go();
    });
    outcome
        .unwrap_or_else(|error| panic!("the commit was done: {error}: {:?}", sqlite_redis::last_error(&scene.through)));
    assert_eq!(scene.count(1), 1);
    scene.assert_usable();
}

#[test]
fn a_first_attempt_that_arrives_before_the_retry_begins_is_done_once() {
    first_attempt_arrives_while_the_retry_is_held_at("WATCH");
}

#[test]
fn a_first_attempt_that_arrives_before_the_retry_ends_is_done_once() {
    first_attempt_arrives_while_the_retry_is_held_at("EXEC");
}

#[test]
fn a_commit_whose_outcome_cannot_be_read_is_reported_as_unknown_and_is_atomic() {
    for (fault, done) in [(Fault::HoldReply, 1), (Fault::HoldRequest, 0)] {
        let scene = Scene::new(Duration::from_millis(300));
        scene.proxy.next("EXEC", fault);
        let outcome = scene.run("INSERT INTO t VALUES (1), (1)", |back| {
            back.proxy.wait_for_held(1);
            back.proxy.refuse(true);
        });
        assert_eq!(code(outcome), IOERR_FSYNC);
        let said = sqlite_redis::last_error(&scene.through).unwrap().to_string();
        assert!(said.contains("unknown whether version 3 "), "{said}");
        assert_eq!(scene.count(1), 2 * done);
        scene.proxy.refuse(false);
        assert_eq!(number(&scene.through, "SELECT count(*) FROM t WHERE x = 1"), 2 * done);
        scene.assert_usable();
    }
}

#[test]
fn a_commit_that_may_still_arrive_is_never_reported_as_failed() {
    let scene = Scene::new(Duration::from_millis(300));
    scene.proxy.next("EXEC", Fault::HoldRequest);
    let set_memory = |back: &Backstage, limit: &str| {
        redis::cmd("CONFIG").arg(&["SET", "maxmemory", limit]).exec(&mut back.server.redis()).unwrap();
    };
    let outcome = scene.run(INSERT, |back| {
        back.proxy.wait_for_held(1);
        // The server becomes full and refuses the second attempt. The first one is still in flight.
        back.proxy.next("WATCH", Fault::HoldRequest);
        back.proxy.wait_for_held(2);
        back.proxy.next("MULTI", Fault::HoldRequest);
        set_memory(back, "1");
        back.proxy.let_go_last();
        back.proxy.wait_for_held(2);
        back.proxy.let_go_last();
        back.proxy.wait_for_held(1);
    });
    assert_eq!(code(outcome), IOERR_FSYNC);
    set_memory(&scene, "0");
    assert_eq!(scene.count(1), 0);
    scene.proxy.let_go();
    eventually("the first attempt arrived", || scene.count(1) == 1);
    scene.assert_usable();
}

#[test]
fn a_client_whose_connections_are_killed_recovers() {
    let server = Server::start();
    let connection = server.options("shop").lease(Duration::from_millis(300)).open().unwrap();
    connection.execute_batch("CREATE TABLE t (x INTEGER PRIMARY KEY)").unwrap();
    let done = AtomicBool::new(false);
    let (mut acknowledged, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut redis = server.redis();
            while !done.load(Relaxed) {
                redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).exec(&mut redis).unwrap();
                // Lets the client make some progress before the next cut.
                for _ in 0..10 {
                    redis::cmd("PING").exec(&mut redis).unwrap();
                }
            }
        });
        for x in 0..60 {
            match connection.execute("INSERT INTO t VALUES (?1)", [x]) {
                Ok(_) => acknowledged.insert(x),
                Err(error) => code::<()>(Err(error)) == IOERR_FSYNC && unknown.insert(x),
            };
        }
        done.store(true, Relaxed);
    });
    connection.execute("INSERT INTO t VALUES (1000)", []).unwrap();
    let mut statement = connection.prepare("SELECT x FROM t ORDER BY x").unwrap();
    let rows: BTreeSet<i64> = statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(acknowledged.is_subset(&rows), "{acknowledged:?} were acknowledged, {rows:?} are there");
    let mut refused = (0..60).filter(|x| !acknowledged.contains(x) && !unknown.contains(x));
    assert!(refused.all(|x| !rows.contains(&x)), "{acknowledged:?} or perhaps {unknown:?}, {rows:?} are there");
    check_integrity(&connection);
}

#[test]
fn commits_and_rollbacks_work_after_script_flush() {
    let server = Server::start();
    let connection = server.open("shop");
    connection.execute_batch("CREATE TABLE t (x)").unwrap();
    for _ in 0..3 {
        redis::cmd("SCRIPT").arg("FLUSH").exec(&mut server.redis()).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1); COMMIT").unwrap();
        redis::cmd("SCRIPT").arg("FLUSH").exec(&mut server.redis()).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
        assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{shop}:lock"]), "0");
    }
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 3);
}

#[test]
fn a_lost_lease_request_does_not_lock_the_client_out() {
    for (command, fault) in [("SET", Fault::LoseReply), ("SET", Fault::CutReply), ("WATCH", Fault::LoseRequest)] {
        let scene = Scene::new(LONG);
        scene.proxy.next(command, fault);
        insert(&scene.through).unwrap();
        assert_eq!(scene.count(1), 1);
        scene.assert_usable();
    }
}

#[test]
fn a_lost_connection_does_not_leave_the_lease_behind() {
    let scene = Scene::with_lease(LONG, Duration::from_secs(600));
    let assert_free = || assert_eq!(scene.server.redis_cli(&["EXISTS", "sqlite:{shop}:lock"]), "0");
    // The lease is acquired, but the client gets no reply.
    for _ in 0..2 {
        scene.proxy.next("SET", Fault::LoseReply);
    }
    insert(&scene.through).unwrap_err();
    assert!(!scene.proxy.is_armed());
    assert_free();
    // The release is sent over a connection that breaks.
    scene.through.execute_batch("BEGIN IMMEDIATE").unwrap();
    scene.proxy.next("EVAL", Fault::LoseRequest);
    scene.through.execute_batch("ROLLBACK").unwrap();
    assert!(!scene.proxy.is_armed());
    assert_free();
    scene.assert_usable();
}
