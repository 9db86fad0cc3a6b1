//! The status of a database for operators: its server, its replicas and their lag, and the holder of the lease.

use sqlite_redis::admin::{Admin, ReplicaState, Status};
use sqlite_redis_tests::{Server, eventually};

fn status(server: &Server) -> Status {
    Admin::connect(&server.options("shop")).unwrap().status("shop").unwrap().unwrap()
}

#[test]
fn status_shows_the_lag_of_each_replica() {
    let primary = Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start();
    let replica = Server::replica_of(&primary);
    let db = primary.open("shop");
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    eventually("the replica has caught up", || {
        matches!(status(&primary).replicas[0].state, ReplicaState::Has { version: 1, behind: 0, behind_ms: Some(0) })
    });
    let shown = status(&primary);
    assert_eq!((shown.version, shown.is_replica, shown.lease), (1, false, None));
    assert_eq!(shown.replicas[0].server, format!("127.0.0.1:{}", replica.port()));

    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let lease = status(&primary).lease.unwrap();
    assert!(lease.token.contains(&format!("/{}/", std::process::id())) && lease.ttl_ms > 0);
    db.execute_batch("INSERT INTO t VALUES (1); COMMIT").unwrap();
    assert!(status(&replica).is_replica);
}

#[test]
fn status_shows_replicas_with_another_history_or_without_the_database() {
    let primary = Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start();
    let replica = Server::replica_of(&primary);
    let db = primary.open("shop");
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let state = || status(&primary).replicas[0].state.clone();
    eventually("the replica has caught up", || matches!(state(), ReplicaState::Has { behind: 0, .. }));
    assert_eq!(replica.redis_cli(&["CONFIG", "SET", "replica-read-only", "no"]), "OK");
    assert_eq!(replica.redis_cli(&["HSET", "sqlite:{shop}", "commit", "00000000000000aa"]), "0");
    assert!(matches!(state(), ReplicaState::AnotherHistory { version: 2 }), "{:?}", state());
    assert_eq!(replica.redis_cli(&["HSET", "sqlite:{shop}", "version", "1"]), "0");
    assert!(matches!(state(), ReplicaState::AnotherHistory { version: 1 }), "{:?}", state());
    let first = primary.redis_cli(&["XRANGE", "sqlite:{shop}:log", "1-0", "1-0"]);
    let commit = first.lines().skip_while(|line| *line != "commit").nth(1).unwrap();
    assert_eq!(replica.redis_cli(&["HSET", "sqlite:{shop}", "commit", commit]), "0");
    assert!(matches!(state(), ReplicaState::Has { version: 1, behind: 1, behind_ms: Some(_) }), "{:?}", state());
    assert_eq!(primary.redis_cli(&["DEL", "sqlite:{shop}:log"]), "1");
    assert!(matches!(state(), ReplicaState::Has { version: 1, behind: 1, behind_ms: None }), "{:?}", state());
    assert_eq!(replica.redis_cli(&["DEL", "sqlite:{shop}"]), "1");
    assert!(matches!(state(), ReplicaState::Unknown(_)), "{:?}", state());
    assert!(Admin::connect(&primary.options("none")).unwrap().status("none").unwrap().is_none());
}
