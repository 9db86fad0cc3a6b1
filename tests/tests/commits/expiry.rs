//! A time to live that another client has set on the hash of a database.

use rusqlite::Connection;
use sqlite_redis_tests::{Server, number};

const KEY: &str = "sqlite:{shop}";

fn expire(server: &Server) {
    assert_eq!(server.redis_cli(&["EXPIRE", KEY, "1000"]), "1");
}

fn expires(server: &Server) -> bool {
    server.redis_cli(&["TTL", KEY]) != "-1"
}

fn filled(server: &Server) -> Connection {
    let db = server.options("shop").stage_bytes(20_000).open().unwrap();
    db.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    db
}

#[test]
fn a_writable_open_removes_a_time_to_live() {
    let server = Server::start();
    drop(filled(&server));
    expire(&server);
    assert_eq!(number(&server.options("shop").read_only(true).open().unwrap(), "SELECT count(*) FROM t"), 1);
    assert!(expires(&server), "a read-only connection changes nothing");
    assert_eq!(number(&server.open("shop"), "SELECT count(*) FROM t"), 1);
    assert!(!expires(&server));
}

#[test]
fn every_commit_removes_a_time_to_live() {
    let server = Server::start();
    let db = filled(&server);
    for sql in ["INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (randomblob(100000))", "VACUUM"] {
        expire(&server);
        db.execute_batch(sql).unwrap();
        assert!(!expires(&server), "{sql}");
        server.check_stored("shop");
    }
}

#[test]
fn a_user_without_persist_can_still_open() {
    let server = Server::start();
    drop(filled(&server));
    expire(&server);
    for forbidden in ["-persist", "-pttl"] {
        let acl = ["ACL", "SETUSER", "some", "reset", "on", ">Word-of-some", "~*", "+@all", forbidden];
        assert_eq!(server.redis_cli(&acl), "OK");
        let url = format!("{}?user=some&pass=Word-of-some", server.url());
        let db = sqlite_redis::Options::new("shop").server(url).open().unwrap();
        assert_eq!(number(&db, "SELECT count(*) FROM t"), 1);
        assert!(expires(&server), "{forbidden}");
    }
}
