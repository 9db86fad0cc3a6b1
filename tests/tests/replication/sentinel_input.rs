//! Sentinels and servers in a wrong state: a clear error, and never wrong data.

use std::time::Duration;

use sqlite_redis::Options;
use sqlite_redis_tests::failures::{assert_failure, code, failure, open_failure};
use sqlite_redis_tests::group::{sentinel, url};
use sqlite_redis_tests::proxy::Proxy;
use sqlite_redis_tests::relay::Relay;
use sqlite_redis_tests::{Server, check_integrity, eventually, free_port, number, program};

fn options(url: &str) -> Options {
    // No test here waits for a failover.
    Options::new("shop").server(url).failover(Duration::from_millis(200)).timeout(Duration::from_secs(20))
}

/// Asserts the code and the words of the error when this address is opened.
#[track_caller]
fn refused(url: &str, expected: i32, words: &[&str]) {
    let (found, why) = open_failure(&options(url));
    assert_eq!(found, expected, "{why}");
    for word in words {
        assert!(why.contains(word), "not {word}: {why}");
    }
    assert!(!why.contains("secret"), "{why}");
}

fn primary() -> Server {
    Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start()
}

#[test]
fn sentinels_that_do_not_know_the_service_are_named() {
    let primary = primary();
    let (one, two) = (sentinel(primary.port(), ""), sentinel(primary.port(), ""));
    let stranger = url([&one, &two]).replace("shop@", "stop@");
    let both = [&one, &two].map(|sentinel| format!("Sentinel 127.0.0.1:{} knows no service stop", sentinel.port()));
    refused(&stranger, code::CANTOPEN, &[&both[0], &both[1], "database `shop` on sentinel://stop@127.0.0.1:"]);
    let nobody = format!("sentinel://shop@127.0.0.1:{}", free_port().unwrap());
    refused(&nobody, code::CANTOPEN, &["Connection refused"]);
    // A data server is not a Sentinel.
    refused(&url([&primary]), code::CANTOPEN, &["unknown command", "SENTINEL"]);
}

#[test]
fn of_sentinels_that_disagree_the_one_that_names_a_primary_counts() {
    let primary = primary();
    let replica = Server::replica_of(&primary);
    let behind = sentinel(replica.port(), "");
    let lost = sentinel(free_port().unwrap(), "");
    let hung = sentinel(primary.port(), "");
    let right = sentinel(primary.port(), "");
    hung.signal("STOP");
    for order in [[&behind, &lost, &hung, &right], [&hung, &lost, &right, &behind], [&lost, &behind, &right, &hung]] {
        let db = options(&url(order)).open().unwrap();
        db.execute_batch("CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (1)").unwrap();
    }
    let version: u64 = primary.stored("shop").number("version");
    assert_eq!(version, 4, "not every commit went to the primary");
    hung.signal("CONT");
    refused(&url([&lost]), code::CANTOPEN, &["names 127.0.0.1:", "Connection refused"]);
}

/// An old primary that was cut off and still has the role, the new primary, a Sentinel that was cut off as well, and
/// a Sentinel that knows of the failover.
fn replaced() -> (Server, Server, Server, Server) {
    let old = primary();
    old.open("shop").execute_batch("CREATE TABLE t (x)").unwrap();
    let new = Server::replica_of(&old);
    eventually("the replica has it", || old.stored("shop") == new.stored("shop"));
    assert_eq!(new.redis_cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    let behind = sentinel(old.port(), "sentinel config-epoch shop 4\n");
    let right = sentinel(new.port(), "sentinel config-epoch shop 5\n");
    (old, new, behind, right)
}

#[test]
fn a_sentinel_that_missed_a_failover_does_not_lead_to_the_old_primary() {
    let (old, new, behind, mut right) = replaced();
    let way = Proxy::to(&behind);
    let options = options(&format!("{},{}", url([&right]), way.url().trim_start_matches("redis://")));
    let db = options.open().unwrap();
    db.execute("INSERT INTO t VALUES (1)", []).unwrap();
    let version = || -> u64 { old.stored("shop").number("version") };
    assert_eq!(version(), 1, "the commit went to the old primary");
    right.kill();
    eventually("the other Sentinel is asked", || {
        db.execute("INSERT INTO t VALUES (2)", []).unwrap();
        way.commands().contains(&"SENTINEL".to_owned())
    });
    db.execute("INSERT INTO t VALUES (3)", []).unwrap();
    assert_eq!(version(), 1, "the connection left the new primary although it answers");
    new.redis_cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    let port = old.port();
    let why = format!("names 127.0.0.1:{port}, which has been replaced since");
    assert_failure(failure(&db, "INSERT INTO t VALUES (4)"), code::IOERR_READ, &why);
    assert_failure(open_failure(&options), code::CANTOPEN, &why);
    right.restart();
    eventually("it goes on", || db.execute("INSERT INTO t VALUES (5)", []).is_ok());
    assert_eq!(version(), 1);
    assert_eq!(number(&new.open("shop"), "SELECT count(*) FROM t WHERE x IN (4, 5)"), 1);
}

#[test]
fn sentinels_that_were_configured_again_are_trusted() {
    let (old, new, behind, right) = replaced();
    let db = options(&url([&right, &behind])).open().unwrap();
    db.execute("INSERT INTO t VALUES (1)", []).unwrap();
    assert_eq!(old.redis_cli(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]), "OK");
    eventually("the old primary has the commit", || old.stored("shop") == new.stored("shop"));
    // The Sentinels' epochs start at zero again.
    let tell = |command: &[&str]| [&right, &behind].iter().for_each(|one| assert_eq!(one.redis_cli(command), "OK"));
    tell(&["SENTINEL", "REMOVE", "shop"]);
    assert_eq!(old.redis_cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    drop(new);
    let port = old.port().to_string();
    tell(&["SENTINEL", "MONITOR", "shop", "127.0.0.1", &port, "2"]);
    eventually("it goes on", || db.execute("INSERT INTO t VALUES (2)", []).is_ok());
    assert_eq!(number(&old.open("shop"), "SELECT count(*) FROM t WHERE x = 2"), 1);
}

#[test]
fn a_sentinel_that_forbids_asking_for_its_epoch_is_trusted() {
    let primary = primary();
    let sentinel = sentinel(primary.port(), "");
    let rules =
        ["ACL", "SETUSER", "app", "on", ">secret", "resetchannels", "-@all", "+sentinel|get-master-addr-by-name"];
    assert_eq!(sentinel.redis_cli(&rules), "OK");
    let db = options(&format!("{}?sentinel_user=app&sentinel_password=secret", url([&sentinel]))).open().unwrap();
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    let version: u64 = primary.stored("shop").number("version");
    assert_eq!(version, 1);
}

#[test]
fn a_primary_that_is_loading_is_busy_until_it_has_loaded() {
    if !program::answers_while_it_loads() {
        return;
    }
    let primary = primary();
    let sentinel = sentinel(primary.port(), "");
    let options = options(&url([&sentinel]));
    let db = options.open().unwrap();
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    db.busy_timeout(Duration::ZERO).unwrap();
    let mut redis = primary.redis();
    for n in 0..600 {
        redis::cmd("SET").arg(format!("key{n}")).arg("x".repeat(1000)).exec(&mut redis).unwrap();
    }
    let set = |option, value| assert_eq!(primary.redis_cli(&["CONFIG", "SET", option, value]), "OK");
    set("rdbcompression", "no");
    set("loading-process-events-interval-bytes", "1024");
    // Longer than the test takes.
    set("key-load-delay", "50000");
    std::thread::scope(|scope| {
        scope.spawn(move || redis::cmd("DEBUG").arg("RELOAD").exec(&mut redis).unwrap());
        eventually("the primary is loading", || primary.redis_cli(&["GET", "x"]).contains("LOADING"));
        assert_failure(failure(&db, "SELECT * FROM t"), code::BUSY, "still loading");
        assert_failure(failure(&db, "INSERT INTO t VALUES (2)"), code::BUSY, "still loading");
        let other = options.clone().prefix("another").open().unwrap();
        other.busy_timeout(Duration::ZERO).unwrap();
        assert_failure(failure(&other, "SELECT * FROM sqlite_schema"), code::BUSY, "still loading");
        set("key-load-delay", "0");
        other.busy_timeout(Duration::from_secs(60)).unwrap();
        other.execute_batch("CREATE TABLE t (x)").unwrap();
        db.busy_timeout(Duration::from_secs(60)).unwrap();
        db.execute("INSERT INTO t VALUES (3)", []).unwrap();
    });
    assert_eq!(number(&db, "SELECT sum(x) FROM t"), 4);
    check_integrity(&db);
}

#[test]
fn a_replica_whose_primary_is_gone_is_refused() {
    let primary = primary();
    let replica = Server::replica_of(&primary);
    let sentinel = sentinel(replica.port(), "");
    drop(primary);
    refused(&url([&sentinel]), code::CANTOPEN, &["which is a replica of 127.0.0.1:"]);
}

#[test]
fn sentinels_and_servers_have_separate_passwords() {
    let primary = Server::with(["--requirepass", "secret1"]).tcp().start();
    let sentinel = sentinel(primary.port(), "sentinel auth-pass shop secret1\nrequirepass secret2\n");
    let with = |server: &str, sentinel_password: &str| {
        let url = url([&sentinel]).replace("sentinel://", &format!("sentinel://{server}"));
        format!("{url}{sentinel_password}")
    };
    let good = with(":secret1@", "?sentinel_password=secret2");
    options(&good).open().unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    refused(&with("", "?sentinel_password=secret2"), code::AUTH, &["NOAUTH"]);
    refused(&with(":secret2@", "?sentinel_password=secret2"), code::AUTH, &[]);
    refused(&with(":secret1@", ""), code::AUTH, &["127.0.0.1:"]);
    refused(&with(":secret1@", "?sentinel_password=secret1"), code::AUTH, &[]);
}

#[test]
fn a_missing_right_to_role_or_sentinel_is_named() {
    let primary = primary();
    let sentinel = sentinel(primary.port(), "");
    for (server, user, rules) in [(&primary, "app", "+@all -role"), (&sentinel, "app", "+@all -sentinel")] {
        let rules: Vec<&str> = rules.split(' ').collect();
        let acl = [&["ACL", "SETUSER", user, "on", ">secret", "~*", "resetchannels"], rules.as_slice()].concat();
        assert_eq!(server.redis_cli(&acl), "OK");
    }
    let url = url([&sentinel]);
    refused(&url.replace("://", "://app:secret@"), code::PERM, &["role"]);
    refused(&format!("{url}?sentinel_user=app&sentinel_password=secret"), code::PERM, &["sentinel"]);
    // Without `INFO`, the role is not checked; without `WAIT`, no replica can be waited for.
    let acl = ["ACL", "SETUSER", "app", "+@all", "-info", "-wait"];
    assert_eq!(primary.redis_cli(&acl), "OK");
    let db = options(&url.replace("://", "://app:secret@")).wait(1, Duration::from_secs(1)).open().unwrap();
    assert_failure(failure(&db, "CREATE TABLE t (x)"), code::IOERR_FSYNC, "it could not be asked who has it");
    assert_failure(failure(&db, "CREATE TABLE u (x)"), code::IOERR_FSYNC, "wait");
    assert_eq!(number(&db, "SELECT count(*) FROM sqlite_schema"), 2);
}

#[test]
fn tls_to_plain_ports_is_refused() {
    let primary = primary();
    let sentinel = sentinel(primary.port(), "");
    refused(&url([&sentinel]).replace("sentinel://", "sentinels://"), code::CANTOPEN, &["can't connect"]);
    let plain = primary.tcp_url();
    refused(&plain.replace("redis://", "rediss://"), code::CANTOPEN, &["can't connect"]);
    refused(&plain.replace("redis://", "rediss+cluster://"), code::CANTOPEN, &["can't connect"]);
}

#[test]
fn a_write_follows_a_host_name_that_moved_to_another_server() {
    let old = primary();
    let new = Server::replica_of(&old);
    let name = Relay::new();
    name.lead_to(&old);
    let db = Options::new("shop").server(format!("redis://127.0.0.1:{}", name.port())).open().unwrap();
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    eventually("the replica has it", || old.stored("shop") == new.stored("shop"));
    assert_eq!(new.redis_cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    assert_eq!(old.redis_cli(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]), "OK");
    name.lead_to(&new);
    // The connection still leads to the old primary, now a replica, which refuses the write.
    db.execute("INSERT INTO t VALUES (2)", []).unwrap();
    assert_eq!(number(&new.open("shop"), "SELECT count(*) FROM t"), 2);
    new.check_stored("shop");
}

#[test]
fn a_primary_with_too_few_replicas_refuses_commits() {
    let primary = Server::with(["--repl-diskless-sync-delay", "0", "--min-replicas-to-write", "1"])
        .with(["--min-replicas-max-lag", "10"])
        .tcp()
        .start();
    let mut replica = Server::replica_of(&primary);
    let db = primary.options("shop").open().unwrap();
    let good = |n: u32| {
        let line = format!("min_slaves_good_slaves:{n}");
        eventually(&line, || primary.redis_cli(&["INFO", "replication"]).contains(&line));
    };
    good(1);
    db.execute_batch("CREATE TABLE t (x); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    replica.kill();
    good(0);
    assert_failure(failure(&db, "COMMIT"), code::BUSY_SNAPSHOT, "NOREPLICAS");
    assert_failure(failure(&db, "INSERT INTO t VALUES (2)"), code::BUSY, "nothing was written");
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 0);
    replica.restart();
    replica.follow(&primary);
    good(1);
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    db.execute("INSERT INTO t VALUES (3)", []).unwrap();
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 1);
}

#[test]
fn a_detached_replica_is_an_independent_copy() {
    let primary = primary();
    let copy = Server::replica_of(&primary);
    let db = primary.open("shop");
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    eventually("the replica has it", || primary.stored("shop") == copy.stored("shop"));
    assert_eq!(copy.redis_cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    let other = copy.open("shop");
    other.execute("INSERT INTO t VALUES (2)", []).unwrap();
    db.execute_batch("DELETE FROM t; INSERT INTO t VALUES (3), (4), (5)").unwrap();
    assert_eq!((number(&db, "SELECT sum(x) FROM t"), number(&other, "SELECT sum(x) FROM t")), (12, 3));
    check_integrity(&other);
    copy.check_stored("shop");
}
