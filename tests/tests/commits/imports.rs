//! Imports are atomic: a database appears complete or not at all, and never replaces concurrent changes.

use sqlite_redis::admin::{Admin, ImportOptions};
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::{Server, number};

/// Imports two pages, and runs `meanwhile` between `WATCH` and `EXEC`. Returns the import's error, if any.
fn import_meanwhile(server: &Server, overwrite: bool, meanwhile: impl FnOnce()) -> Option<String> {
    let proxy = Proxy::to(server);
    proxy.next("EXEC", Fault::HoldRequest);
    std::thread::scope(|scope| {
        let importer = scope.spawn(|| {
            let admin = Admin::connect(&proxy.options("shop")).unwrap();
            let mut import = admin.import("shop", ImportOptions::new(512, 2).overwrite(overwrite)).unwrap();
            import.page(vec![1; 512]).unwrap();
            import.page(vec![2; 512]).unwrap();
            import.finish().err().map(|error| error.to_string())
        });
        proxy.wait_for_held(1);
        meanwhile();
        proxy.let_go();
        importer.join().unwrap()
    })
}

fn keys(server: &Server, pattern: &str) -> String {
    server.redis_cli(&["KEYS", pattern])
}

#[test]
fn an_import_does_not_replace_a_database_created_meanwhile() {
    let server = Server::start();
    let make = || server.open("shop").execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    let error = import_meanwhile(&server, false, make).expect("refused");
    assert!(error.contains("there is a database of this name already"), "{error}");
    assert_eq!(number(&server.open("shop"), "SELECT x FROM theirs"), 1);
    assert_eq!(keys(&server, "*import*"), "", "no key is left");
    server.check_stored("shop");
}

#[test]
fn an_import_that_overwrites_loses_no_commit_that_was_made_meanwhile() {
    let server = Server::start();
    let theirs = server.open("shop");
    theirs.execute_batch("CREATE TABLE theirs (x)").unwrap();
    let error = import_meanwhile(&server, true, || theirs.execute_batch("INSERT INTO theirs VALUES (1)").unwrap())
        .expect("refused");
    assert!(error.contains("changed while it was being imported"), "{error}");
    assert_eq!(number(&server.open_apart("shop", 1), "SELECT x FROM theirs"), 1);
    assert_eq!(keys(&server, "*import*"), "", "no key is left");
    // A repeated import succeeds.
    assert_eq!(import_meanwhile(&server, true, || ()), None);
    assert_eq!(server.redis_cli(&["HGET", "sqlite:{shop}", "page_count"]), "2");
}

#[test]
fn an_import_whose_pages_are_removed_is_refused() {
    let server = Server::start();
    let remove = || {
        let pages = keys(&server, "*import*");
        assert_eq!(server.redis_cli(&["HDEL", &pages, "page2"]), "1");
    };
    let error = import_meanwhile(&server, false, remove).expect("refused");
    assert!(error.contains("changed while it was being imported"), "{error}");
    assert_eq!(keys(&server, "*"), "", "no key is left");
}
