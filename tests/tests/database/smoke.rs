//! The shortest test of a shared database.

use sqlite_redis_tests::{Server, check_integrity, number};

#[test]
fn a_database_in_redis_is_shared_by_two_connections() {
    let server = Server::start();
    let one = server.open("shop");
    one.execute_batch("CREATE TABLE item (name TEXT PRIMARY KEY, price REAL); INSERT INTO item VALUES ('tea', 3.5)")
        .unwrap();
    let two = server.open("shop");
    assert_eq!(number(&two, "SELECT count(*) FROM item"), 1);
    two.execute("INSERT INTO item VALUES ('milk', 1.2)", []).unwrap();
    assert_eq!(number(&one, "SELECT count(*) FROM item"), 2);
    check_integrity(&one);
}
