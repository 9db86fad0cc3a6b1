//! What the documents tell operators to do, done.

use std::path::Path;
use std::time::Duration;

use sqlite_redis::Options;
use sqlite_redis::admin::Admin;
use sqlite_redis_tests::{Server, check_integrity, code, number};

/// The lines of the documents that begin with `ACL SETUSER`.
fn access_rules() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let document = std::fs::read_to_string(path).unwrap();
    let lines = document.lines().filter(|line| line.starts_with("ACL SETUSER"));
    lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

fn server_with_users() -> Server {
    let server = Server::start();
    let rules = access_rules();
    assert_eq!(rules.len(), 3);
    for rule in rules {
        redis::cmd(&rule[0]).arg(&rule[1..]).exec(&mut server.redis()).unwrap();
    }
    server
}

fn as_user(server: &Server, user: &str) -> Options {
    Options::new("shop").server(format!("{}?user={user}&pass=secret", server.url()))
}

/// What the server has refused so far, save for what the client library says of itself.
fn refused(server: &Server) -> Vec<String> {
    let log = server.redis_cli(&["ACL", "LOG"]);
    let lines: Vec<&str> = log.lines().collect();
    let objects = lines.windows(2).filter(|pair| pair[0] == "object").map(|pair| pair[1].to_owned());
    objects.filter(|command| !command.starts_with("client|")).collect()
}

#[test]
fn the_documented_access_rules_let_an_application_do_everything() {
    let server = server_with_users();
    let db = as_user(&server, "shop").lease(Duration::from_millis(150)).log_commits(10).open().unwrap();
    db.execute_batch("CREATE TABLE item (n INTEGER PRIMARY KEY, content BLOB)").unwrap();
    // Longer than the lease, so that it is renewed.
    db.execute_batch(
        "BEGIN IMMEDIATE;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO item SELECT i, zeroblob(3000) FROM n",
    )
    .unwrap();
    std::thread::sleep(Duration::from_millis(400));
    db.execute_batch("COMMIT; DELETE FROM item WHERE n > 10; VACUUM").unwrap();
    db.execute_batch("PRAGMA page_size = 1024; VACUUM; BEGIN IMMEDIATE; DELETE FROM item; ROLLBACK").unwrap();
    // Another process, and the log it reads to keep its cache.
    let other = as_user(&server, "shop").log_commits(11).open().unwrap();
    assert_eq!(number(&other, "SELECT count(*) FROM item"), 10);
    other.execute_batch("BEGIN; SELECT count(*) FROM item").unwrap();
    db.execute("DELETE FROM item WHERE n = 1", []).unwrap();
    assert_eq!(number(&other, "SELECT count(*) FROM item WHERE content IS NOT NULL"), 10);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(number(&other, "SELECT count(*) FROM item"), 9);
    // The log trimmed by its bytes.
    let small = as_user(&server, "shop").log_bytes(4000).open().unwrap();
    for n in 0..20 {
        small.execute("UPDATE item SET content = randomblob(3000) WHERE n = 2 + ?1 % 8", [n]).unwrap();
    }
    check_integrity(&db);
    assert_eq!(refused(&server), Vec::<String>::new());
}

#[test]
fn the_documented_access_rules_let_a_reader_read_and_no_more() {
    let server = server_with_users();
    let db = as_user(&server, "shop").open().unwrap();
    db.execute_batch("CREATE TABLE item (n INTEGER PRIMARY KEY); INSERT INTO item VALUES (1), (2)").unwrap();
    let report = as_user(&server, "report").read_only(true).open().unwrap();
    assert_eq!(number(&report, "SELECT count(*) FROM item"), 2);
    db.execute("INSERT INTO item VALUES (3)", []).unwrap();
    assert_eq!(number(&report, "SELECT count(*) FROM item"), 3);
    assert_eq!(refused(&server), Vec::<String>::new());

    let bold = as_user(&server, "report").open().unwrap();
    assert_eq!(code(bold.execute("INSERT INTO item VALUES (4)", [])), rusqlite::ffi::SQLITE_PERM);
    assert_eq!(number(&report, "SELECT count(*) FROM item"), 3);
}

#[test]
fn the_documented_access_rules_let_an_operator_administer() {
    let server = server_with_users();
    let options = as_user(&server, "operator");
    options.open().unwrap().execute_batch("CREATE TABLE item (n)").unwrap();
    let admin = Admin::connect(&options).unwrap();
    let mut import = admin.import("copy", 512, 1, false).unwrap();
    import.page(vec![0; 512]).unwrap();
    import.finish().unwrap();
    drop(admin.import("dropped", 512, 1, false).unwrap());
    assert_eq!(admin.names().unwrap(), ["copy", "shop"]);
    let info = admin.info("shop").unwrap().unwrap();
    assert_eq!(info.page_count, 2);
    assert!(info.redis_bytes > 2 * 4096, "more than its pages take: {info:?}");
    assert!(admin.remove("copy").unwrap());
    assert_eq!(refused(&server), Vec::<String>::new());
}
