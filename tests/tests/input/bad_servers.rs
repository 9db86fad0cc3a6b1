//! Servers that are down, full, loading, or refuse commands: the right error code, a reason that names database and
//! server, and a connection that works again when the cause is gone.

use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis::Options;
use sqlite_redis_tests::failures::{assert_failure, code, failure, open_failure, run};
use sqlite_redis_tests::{Server, check_integrity, eventually, number, program};

fn table(server: &Server) -> Connection {
    let half = Duration::from_millis(500);
    let options = server.options("shop").timeout(half).connect_timeout(half).lease(LEASE);
    let connection = options.open().unwrap();
    connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    connection
}

const LEASE: Duration = Duration::from_millis(300);

/// A server whose append-only file holds every acknowledged write, also after `kill`.
fn lasting() -> Server {
    Server::with(["--appendonly", "yes", "--appendfsync", "always"]).start()
}

/// Asserts that the connection reads `rows` rows and can write.
fn assert_usable(connection: &Connection, rows: i64) {
    assert_eq!(number(connection, "SELECT count(*) FROM t"), rows);
    connection.execute_batch("INSERT INTO t VALUES (9); DELETE FROM t WHERE x = 9").unwrap();
    assert_eq!(number(connection, "SELECT count(*) FROM t"), rows);
    check_integrity(connection);
}

#[test]
fn a_server_that_is_down_can_not_be_opened_until_it_is_up() {
    let mut server = lasting();
    drop(table(&server));
    server.kill();
    for options in [server.options("shop"), server.options("another")] {
        assert_failure(open_failure(&options), code::CANTOPEN, "can't connect");
    }
    server.restart();
    assert_usable(&server.open("shop"), 1);
}

#[test]
fn a_server_that_goes_down_fails_reads_until_it_is_up() {
    let mut server = lasting();
    let connection = table(&server);
    server.kill();
    assert_failure(failure(&connection, "SELECT * FROM t"), code::IOERR_READ, "can't connect");
    assert_failure(failure(&connection, "SELECT * FROM t"), code::IOERR_READ, &server.url());
    assert_failure(failure(&connection, "INSERT INTO t VALUES (2)"), code::IOERR_READ, "can't connect");
    server.restart();
    assert_usable(&connection, 1);
}

#[test]
fn a_server_that_goes_down_in_a_read_transaction_fails_it() {
    let mut server = lasting();
    let connection = table(&server);
    connection.execute_batch("BEGIN").unwrap();
    number(&connection, "SELECT count(*) FROM t");
    server.kill();
    assert_failure(failure(&connection, "INSERT INTO t VALUES (2)"), code::IOERR_LOCK, "");
    server.restart();
    assert!(connection.is_autocommit(), "SQLite has rolled back");
    assert_usable(&connection, 1);
}

#[test]
fn a_server_that_goes_down_before_a_commit_leaves_its_outcome_unknown() {
    let mut server = lasting();
    let connection = table(&server);
    connection.execute_batch("BEGIN; INSERT INTO t VALUES (2)").unwrap();
    server.kill();
    assert_failure(failure(&connection, "COMMIT"), code::IOERR_FSYNC, "unknown whether version 3");
    assert!(connection.is_autocommit(), "the transaction is over");
    server.restart();
    assert_usable(&connection, 1);
}

#[test]
fn a_commit_succeeds_when_the_server_returns_within_the_timeout() {
    let mut server = lasting();
    let connection = server.options("shop").timeout(Duration::from_secs(30)).open().unwrap();
    connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    connection.execute_batch("BEGIN; INSERT INTO t VALUES (2)").unwrap();
    server.kill();
    std::thread::scope(|scope| {
        scope.spawn(|| server.restart());
        connection.execute_batch("COMMIT").unwrap();
    });
    assert_usable(&connection, 2);
}

#[test]
fn a_server_that_hangs_fails_after_the_timeout() {
    let server = Server::start();
    let connection = table(&server);
    server.signal("STOP");
    assert_failure(failure(&connection, "SELECT * FROM t"), code::IOERR_READ, "no reply in time");
    let options = server.options("other").timeout(Duration::from_millis(200)).connect_timeout(LEASE);
    let failed = open_failure(&options);
    server.signal("CONT");
    assert_failure(failed, code::CANTOPEN, "no reply in time");
    assert_usable(&connection, 1);
}

fn with_user(server: &Server, user: &str, password: &str) -> Options {
    Options::new("shop").server(format!("{}?user={user}&pass={password}", server.url())).lease(LEASE)
}

#[test]
fn a_wrong_password_is_named_as_the_cause_but_not_shown() {
    let server = Server::with(["--requirepass", "right-secret"]).start();
    let wrong = Options::new("shop").server(format!("{}?pass=wrong-secret", server.url()));
    let none = server.options("shop");
    for options in [wrong, none] {
        let failed = open_failure(&options);
        assert!(!failed.1.contains("secret"), "{}", failed.1);
        assert_failure(failed, code::AUTH, "the server refuses the user or password");
    }
    let right = Options::new("shop").server(format!("{}?pass=right-secret", server.url())).open().unwrap();
    right.execute_batch("CREATE TABLE t (x)").unwrap();
    // The access rules change while the connection is open.
    let mut redis =
        redis::Client::open(format!("{}?pass=right-secret", server.url())).unwrap().get_connection().unwrap();
    redis::cmd("CONFIG").arg(&["SET", "requirepass", "changed"]).exec(&mut redis).unwrap();
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).exec(&mut redis).unwrap();
    assert_failure(failure(&right, "SELECT * FROM t"), code::AUTH, "password");
    redis::cmd("CONFIG").arg(&["SET", "requirepass", "right-secret"]).exec(&mut redis).unwrap();
    assert_usable(&right, 0);
}

fn set_user(server: &Server, rules: &[&str]) {
    let mut arguments = vec!["ACL", "SETUSER", "ann", "reset", "on", ">Word-of-ann", "~*", "&*"];
    arguments.extend(rules);
    assert_eq!(server.redis_cli(&arguments), "OK");
}

#[test]
fn a_read_only_user_reads_and_gets_a_permission_error_for_writes() {
    let server = Server::start();
    table(&server);
    set_user(&server, &["+@read", "+@connection", "+info", "+type"]);
    let connection = with_user(&server, "ann", "Word-of-ann").open().unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 1);
    connection.execute_batch("CREATE TEMP TABLE elsewhere AS SELECT * FROM t").unwrap();
    assert_failure(failure(&connection, "INSERT INTO t VALUES (2)"), code::PERM, "access rules forbid this");
    set_user(&server, &["+@all"]);
    assert_usable(&connection, 1);
}

#[test]
fn a_user_without_scripts_writes_and_releases_the_lease() {
    let server = Server::start();
    table(&server);
    set_user(&server, &["+@all", "-@scripting"]);
    let connection = with_user(&server, "ann", "Word-of-ann").lease(Duration::from_secs(600)).open().unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    let is_free = || assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{shop}:lock"]), "0");
    for x in 2..5 {
        connection.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
        is_free();
    }
    connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
    is_free();
    assert_usable(&connection, 4);
}

#[test]
fn a_user_without_info_can_open() {
    let server = Server::start();
    table(&server);
    set_user(&server, &["+@all", "-info"]);
    assert_usable(&with_user(&server, "ann", "Word-of-ann").open().unwrap(), 1);
}

#[test]
fn a_missing_right_to_a_needed_command_is_named() {
    let server = Server::start();
    table(&server);
    for command in ["hmget", "type"] {
        set_user(&server, &["+@all", &format!("-{command}")]);
        assert_failure(open_failure(&with_user(&server, "ann", "Word-of-ann")), code::PERM, command);
    }
    for command in ["set", "watch", "multi", "hset", "xadd"] {
        set_user(&server, &["+@all", &format!("-{command}")]);
        let connection = with_user(&server, "ann", "Word-of-ann").open().unwrap();
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        assert_failure(failure(&connection, "INSERT INTO t VALUES (2)"), code::PERM, command);
        set_user(&server, &["+@all"]);
        assert_usable(&connection, 1);
    }
}

#[test]
fn a_user_without_discard_leaves_no_connection_inside_multi() {
    let server = Server::start();
    let holder = table(&server);
    set_user(&server, &["+@all", "-discard"]);
    let connection = with_user(&server, "ann", "Word-of-ann").open().unwrap();
    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2); ROLLBACK").unwrap();
    assert_usable(&connection, 1);
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    assert_failure(failure(&connection, "BEGIN IMMEDIATE"), code::BUSY, "another client is writing");
    holder.execute_batch("ROLLBACK").unwrap();
    assert_usable(&connection, 1);
}

#[test]
fn a_missing_right_to_the_keys_is_a_permission_error() {
    let server = Server::start();
    table(&server);
    set_user(&server, &["+@all", "resetkeys", "~other:*"]);
    assert_failure(open_failure(&with_user(&server, "ann", "Word-of-ann")), code::PERM, "access rules forbid this");
    let elsewhere = with_user(&server, "ann", "Word-of-ann").prefix("other").open().unwrap();
    elsewhere.execute_batch("CREATE TABLE t (x)").unwrap();
    assert_usable(&elsewhere, 0);
}

#[test]
fn a_database_number_out_of_range_is_refused() {
    let server = Server::start();
    let there = Options::new("shop").server(format!("{}?db=3", server.url()));
    there.open().unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert_eq!(server.redis_cli(&["-n", "3", "EXISTS", "sqlite:{shop}"]), "1");
    let missing = Options::new("shop").server(format!("{}?db=99", server.url()));
    let failed = open_failure(&missing);
    assert!(failed.1.contains("?db=99"), "{}", failed.1);
    assert_failure(failed, code::CANTOPEN, "database");
}

#[test]
fn a_loading_server_is_busy_until_it_has_loaded() {
    if !program::answers_while_it_loads() {
        return;
    }
    let server = Server::start();
    let connection = table(&server);
    connection.busy_timeout(Duration::ZERO).unwrap();
    let mut redis = server.redis();
    for n in 0..600 {
        redis::cmd("SET").arg(format!("key{n}")).arg("x".repeat(1000)).exec(&mut redis).unwrap();
    }
    for (option, value) in
        [("key-load-delay", "2500"), ("loading-process-events-interval-bytes", "1024"), ("rdbcompression", "no")]
    {
        redis::cmd("CONFIG").arg(&["SET", option, value]).exec(&mut redis).unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(move || redis::cmd("DEBUG").arg("RELOAD").exec(&mut redis).unwrap());
        eventually("the server is loading", || {
            let state = redis::cmd("GET").arg("x").exec(&mut server.redis());
            state.is_err_and(|error| error.code() == Some("LOADING"))
        });
        assert_failure(failure(&connection, "SELECT * FROM t"), code::BUSY, "still loading");
        assert_failure(failure(&connection, "INSERT INTO t VALUES (2)"), code::BUSY, "still loading");
        let other = server.options("another").timeout(Duration::from_secs(20)).open().unwrap();
        other.busy_timeout(Duration::ZERO).unwrap();
        assert_failure(failure(&other, "SELECT * FROM sqlite_schema"), code::BUSY, "still loading");
        other.busy_timeout(Duration::from_secs(60)).unwrap();
        other.execute_batch("CREATE TABLE t (x)").unwrap();
        eventually("the server has loaded", || run(&connection, "SELECT * FROM t").is_ok());
    });
    assert_usable(&connection, 1);
}

#[test]
fn a_replica_can_only_be_opened_read_only() {
    let primary = Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start();
    let connection = table(&primary);
    let replica = Server::replica_of(&primary);
    for name in ["shop", "new"] {
        let words = format!("the server is a replica of 127.0.0.1:{}", primary.port());
        assert_failure(open_failure(&replica.options(name)), code::CANTOPEN, &words);
    }
    let there = replica.options("shop").read_only(true).open().unwrap();
    assert_eq!(number(&there, "SELECT count(*) FROM t"), 1);
    assert_eq!(sqlite_redis_tests::code(there.execute_batch("INSERT INTO t VALUES (2)")), code::READONLY);
    connection.execute("INSERT INTO t VALUES (2)", []).unwrap();
    eventually("the replica has the commit", || number(&there, "SELECT count(*) FROM t") == 2);
    replica.redis_cli(&["REPLICAOF", "NO", "ONE"]);
    assert_usable(&replica.open("shop"), 2);
    assert_eq!(number(&there, "SELECT count(*) FROM t"), 2);
}

#[test]
fn a_full_server_rolls_the_transaction_back() {
    let server = Server::start();
    let connection = table(&server);
    let limit = |bytes: &str| assert_eq!(server.redis_cli(&["CONFIG", "SET", "maxmemory", bytes]), "OK");
    // The server is full from the start: there is no room for the lease.
    limit("1");
    assert_failure(failure(&connection, "INSERT INTO t VALUES (2)"), code::FULL, "out of memory");
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 1, "reading goes on");
    limit("0");
    assert_usable(&connection, 1);
    // The server becomes full before the commit.
    connection.execute_batch("BEGIN; INSERT INTO t VALUES (2); INSERT INTO t VALUES (zeroblob(100000))").unwrap();
    limit("1");
    assert_failure(failure(&connection, "COMMIT"), code::FULL, "nothing was written");
    assert!(connection.is_autocommit(), "the transaction is over");
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 1);
    assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{shop}:lock"]), "0", "the lease was given back");
    limit("0");
    assert_usable(&connection, 1);
}

#[test]
fn a_server_that_may_evict_pages_is_refused_unless_allowed() {
    for policy in ["allkeys-lru", "allkeys-lfu", "allkeys-random"] {
        let server = Server::with(["--maxmemory-policy", policy]).start();
        assert_failure(open_failure(&server.options("shop")), code::CANTOPEN, policy);
        let allowed = server.options("shop").allow_eviction(true).open().unwrap();
        allowed.execute_batch("CREATE TABLE t (x)").unwrap();
        assert_failure(open_failure(&server.options("shop")), code::CANTOPEN, "allow_eviction=1");
        server.redis_cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        assert_usable(&server.open("shop"), 0);
    }
    for policy in ["volatile-lru", "volatile-ttl"] {
        let server = Server::with(["--maxmemory-policy", policy]).start();
        assert_usable(&table(&server), 1);
    }
}
