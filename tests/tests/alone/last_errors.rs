//! `redis_last_error()` tells what the application has just seen fail, and nothing else.

use rusqlite::Connection;
use sqlite_redis_tests::vtab::connect;
use sqlite_redis_tests::{Server, number};

const AWAY: &str = "file:shop?vfs=redis&redis=unix:///nowhere/redis.sock";
const BAD: &str = "file:shop?vfs=redis&cashe_size=1";

fn last(connection: &Connection) -> Option<String> {
    connection.query_row("SELECT redis_last_error()", [], |row| row.get(0)).unwrap()
}

/// The tests of this file share the failures of a process, so they are one.
#[test]
fn the_last_error_is_that_of_what_has_just_failed() {
    let _alone = crate::alone();
    let mut server = Server::start();
    let asking = connect();
    assert_eq!(last(&asking), None);

    // A database that did not open in another thread; then another.
    for (uri, words) in [(AWAY, "/nowhere/redis.sock: can't connect"), (BAD, "cashe_size")] {
        std::thread::spawn(move || Connection::open(uri).map(drop).unwrap_err()).join().unwrap();
        assert!(last(&asking).unwrap().contains(words));
    }
    // Attached in vain.
    asking.execute("ATTACH ?1 AS a", [AWAY]).unwrap_err();
    assert!(last(&asking).unwrap().contains("/nowhere/redis.sock"));
    // One that opens after it is no reason to tell of it any more.
    let one = server.open("shop");
    assert_eq!((last(&asking), last(&one)), (None, None));

    // A failure of one connection is not one of another.
    one.execute_batch("CREATE TABLE t (x)").unwrap();
    let other = server.open("other");
    assert_eq!(number(&other, "SELECT count(*) FROM sqlite_schema"), 0);
    server.kill();
    one.execute_batch("INSERT INTO t VALUES (1)").unwrap_err();
    assert!(last(&one).unwrap().contains("database `shop`"));
    // One that has nothing to do with Redis tells of all: the one that failed may not be able to.
    assert_eq!((last(&other), last(&asking)), (None, last(&one)));
    // What fails in plain SQL comes after it, and what works as well.
    server.restart();
    assert!(number(&server.open("shop"), "SELECT count(*) FROM sqlite_schema") >= 0);
    assert!(number(&one, "SELECT count(*) FROM sqlite_schema") >= 0);
    one.execute_batch("SELECT nonsense").unwrap_err();
    assert_eq!(last(&one), None);

    // Virtual tables and functions.
    let url = server.url();
    let refused = one.execute_batch("SELECT * FROM redis_hash('unix:///nowhere/redis.sock', 'k')");
    assert!(refused.is_err() && last(&one).unwrap().contains("/nowhere/redis.sock"));
    assert_eq!(last(&other), None);
    assert_eq!(number(&one, &format!("SELECT count(*) FROM redis_hash('{url}', 'k')")), 0);
    assert_eq!(last(&one), None);

    // A connection that is made where another was knows nothing of its failures.
    one.execute_batch("SELECT * FROM redis_hash('unix:///nowhere/redis.sock', 'k')").unwrap_err();
    drop(one);
    for _ in 0..20 {
        assert_eq!(last(&connect()), None);
    }
}
