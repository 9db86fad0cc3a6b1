//! `redis_last_error()` reports the failure that the application has just seen, and no other.

use rusqlite::Connection;
use sqlite_redis_tests::vtab::connect;
use sqlite_redis_tests::{Server, number};

const AWAY: &str = "file:shop?vfs=redis&redis=unix:///nowhere/redis.sock";
const BAD: &str = "file:shop?vfs=redis&cashe_size=1";

fn last(connection: &Connection) -> Option<String> {
    connection.query_row("SELECT redis_last_error()", [], |row| row.get(0)).unwrap()
}

/// One test, because the last error belongs to the process.
#[test]
fn the_last_error_is_that_of_the_latest_failed_call() {
    let _alone = crate::alone();
    let mut server = Server::start();
    let plain = connect();
    assert_eq!(last(&plain), None);

    // Two databases that fail to open in another thread.
    for (uri, words) in [(AWAY, "/nowhere/redis.sock: can't connect"), (BAD, "cashe_size")] {
        std::thread::spawn(move || Connection::open(uri).map(drop).unwrap_err()).join().unwrap();
        assert!(last(&plain).unwrap().contains(words));
    }
    // A failed `ATTACH`.
    plain.execute("ATTACH ?1 AS a", [AWAY]).unwrap_err();
    assert!(last(&plain).unwrap().contains("/nowhere/redis.sock"));
    // A later open that succeeds clears the error.
    let one = server.open("shop");
    assert_eq!((last(&plain), last(&one)), (None, None));

    // A connection does not report another connection's failure.
    one.execute_batch("CREATE TABLE t (x)").unwrap();
    let other = server.open("other");
    assert_eq!(number(&other, "SELECT count(*) FROM sqlite_schema"), 0);
    server.kill();
    one.execute_batch("INSERT INTO t VALUES (1)").unwrap_err();
    assert!(last(&one).unwrap().contains("database `shop`"));
    // A connection without a Redis database reports all failures: the failed one may not exist any more.
    assert_eq!((last(&other), last(&plain)), (None, last(&one)));
    // A later statement clears the error, whether it succeeds or fails in plain SQL.
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

    // A new connection at the same address in memory does not inherit the failures.
    one.execute_batch("SELECT * FROM redis_hash('unix:///nowhere/redis.sock', 'k')").unwrap_err();
    drop(one);
    for _ in 0..20 {
        assert_eq!(last(&connect()), None);
    }
}
