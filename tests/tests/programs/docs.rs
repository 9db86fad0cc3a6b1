//! Runs the procedures and access rules that `docs/` gives to operators.

use std::path::Path;
use std::time::Duration;

use sqlite_redis::Options;
use sqlite_redis::admin::{Admin, ImportOptions};
use sqlite_redis_tests::{Server, check_integrity, code, hosts, number, vtab};

/// The lines of `docs/` that begin with `ACL SETUSER`.
fn access_rules() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let document = std::fs::read_to_string(path).unwrap();
    let lines = document.lines().filter(|line| line.starts_with("ACL SETUSER"));
    lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

fn server_with_users() -> Server {
    let server = Server::start();
    let rules = access_rules();
    assert_eq!(rules.len(), 4);
    for rule in rules {
        redis::cmd(&rule[0]).arg(&rule[1..]).exec(&mut server.redis()).unwrap();
    }
    server
}

fn as_user(server: &Server, user: &str) -> Options {
    Options::new("shop").server(format!("{}?user={user}&pass=secret", server.url()))
}

/// The commands that the server's ACL has refused so far, except the client library's `CLIENT` commands.
fn refused(server: &Server) -> Vec<String> {
    let log = server.redis_cli(&["ACL", "LOG"]);
    let lines: Vec<&str> = log.lines().collect();
    let objects = lines.windows(2).filter(|pair| pair[0] == "object").map(|pair| pair[1].to_owned());
    objects.filter(|command| command != "client" && !command.starts_with("client|")).collect()
}

#[test]
fn the_documented_access_rules_let_an_application_do_everything() {
    let server = server_with_users();
    let db = as_user(&server, "shop").lease(Duration::from_millis(150)).log_commits(10).open().unwrap();
    db.execute_batch("CREATE TABLE item (n INTEGER PRIMARY KEY, content BLOB)").unwrap();
    // Takes longer than the lease, so the lease is renewed.
    db.execute_batch(
        "BEGIN IMMEDIATE;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO item SELECT i, zeroblob(3000) FROM n",
    )
    .unwrap();
    std::thread::sleep(Duration::from_millis(400));
    db.execute_batch("COMMIT; DELETE FROM item WHERE n > 10; VACUUM").unwrap();
    db.execute_batch("PRAGMA page_size = 1024; VACUUM; BEGIN IMMEDIATE; DELETE FROM item; ROLLBACK").unwrap();
    // Another process uses the log to keep its cache current.
    let other = as_user(&server, "shop").log_commits(11).open().unwrap();
    assert_eq!(number(&other, "SELECT count(*) FROM item"), 10);
    other.execute_batch("BEGIN; SELECT count(*) FROM item").unwrap();
    db.execute("DELETE FROM item WHERE n = 1", []).unwrap();
    assert_eq!(number(&other, "SELECT count(*) FROM item WHERE content IS NOT NULL"), 10);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(number(&other, "SELECT count(*) FROM item"), 9);
    // The byte limit trims the log.
    let small = as_user(&server, "shop").log_bytes(4000).open().unwrap();
    for n in 0..20 {
        small.execute("UPDATE item SET content = randomblob(3000) WHERE n = 2 + ?1 % 8", [n]).unwrap();
    }
    // Commits large enough to be staged.
    let large = as_user(&server, "shop").stage_bytes(0).open().unwrap();
    large.execute_batch("UPDATE item SET content = 1; DELETE FROM item WHERE n > 5; VACUUM").unwrap();
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
    let mut import = admin.import("copy", ImportOptions::new(512, 1)).unwrap();
    import.page(vec![0; 512]).unwrap();
    import.finish().unwrap();
    drop(admin.import("dropped", ImportOptions::new(512, 1)).unwrap());
    assert_eq!(admin.names().unwrap(), ["copy", "shop"]);
    let info = admin.info("shop").unwrap().unwrap();
    assert_eq!(info.page_count, 2);
    assert!(info.redis_bytes > 100, "the size in Redis is unknown: {info:?}");
    assert!(admin.remove("copy").unwrap());
    assert_eq!(refused(&server), Vec::<String>::new());
}

#[test]
fn the_documented_access_rules_let_virtual_tables_do_everything() {
    let server = server_with_users();
    let url = format!("{}?user=tables&pass=secret", server.url());
    let db = vtab::connect();
    let columns = "id INTEGER PRIMARY KEY, name TEXT UNIQUE, price REAL INDEXED";
    let define = |table: &str| format!("CREATE VIRTUAL TABLE {table} USING redis('{url}', shop, {columns})");
    db.execute_batch(&define("item")).unwrap();
    db.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
         INSERT INTO item SELECT i, 'item ' || i, i / 2.0 FROM n;
         INSERT INTO item (name, price) VALUES ('one more', 7);
         REPLACE INTO item VALUES (1, 'item 2', 3);
         UPDATE item SET price = price + 1;
         UPDATE item SET id = 9000 WHERE id = 700;
         DELETE FROM item WHERE id BETWEEN 100 AND 400 OR name = 'item 5';
         BEGIN; DELETE FROM item WHERE id > 1000; ROLLBACK;",
    )
    .unwrap();
    for query in [
        "SELECT count(*) FROM item WHERE price BETWEEN 20 AND 900",
        "SELECT count(*) FROM item WHERE name LIKE 'item 4%' OR name IS NULL",
        "SELECT CAST(max(price) AS INTEGER) FROM item",
        "SELECT id FROM item ORDER BY name LIMIT 3 OFFSET 5",
        "SELECT redis_drop_index('item', 'price') + redis_create_index('item', 'price')",
    ] {
        assert!(number(&db, query) > 0, "{query}");
    }
    db.execute_batch("ALTER TABLE item RENAME TO goods").unwrap();
    assert_eq!(number(&db, "SELECT count(*) FROM goods"), 1198);
    assert!(number(&db, "SELECT redis_drop_data('goods')") > 0);
    assert_eq!(refused(&server), Vec::<String>::new());
}

/// A database with three rows, and a connection to it.
fn shop(server: &Server) -> rusqlite::Connection {
    let db = server.open("shop");
    db.execute_batch("CREATE TABLE item (n INTEGER PRIMARY KEY); INSERT INTO item VALUES (1), (2), (3)").unwrap();
    db
}

fn count(server: &Server, name: &str) -> i64 {
    let db = server.open(name);
    check_integrity(&db);
    number(&db, "SELECT count(*) FROM item")
}

#[test]
fn a_copied_hash_is_an_independent_database() {
    let server = Server::start();
    let db = shop(&server);
    // The log of an earlier database of that name must not matter.
    server.redis_cli(&["XADD", "sqlite:{test}:log", "900-0", "commit", "x"]);
    assert_eq!(server.redis_cli(&["COPY", "sqlite:{shop}", "sqlite:{test}"]), "1");
    db.execute("DELETE FROM item", []).unwrap();
    let fork = server.open("test");
    fork.execute("INSERT INTO item VALUES (4)", []).unwrap();
    fork.execute("INSERT INTO item VALUES (5)", []).unwrap();
    assert_eq!((count(&server, "shop"), count(&server, "test")), (0, 5));
}

#[test]
fn renaming_the_hash_moves_the_database_and_refuses_the_open_commit() {
    let server = Server::start();
    let db = shop(&server);
    db.execute_batch("BEGIN IMMEDIATE; INSERT INTO item VALUES (4)").unwrap();
    assert_eq!(server.redis_cli(&["RENAME", "sqlite:{shop}", "sqlite:{store}"]), "OK");
    assert_eq!(code(db.execute_batch("COMMIT")), rusqlite::ffi::SQLITE_BUSY_SNAPSHOT);
    let moved = server.open("store");
    moved.execute("INSERT INTO item VALUES (5)", []).unwrap();
    assert_eq!(count(&server, "store"), 4);
    assert_eq!(number(&server.open("shop"), "SELECT count(*) FROM sqlite_schema"), 0);
}

#[test]
fn a_dump_of_the_hash_restores_on_another_server() {
    let (server, other) = (Server::start(), Server::start());
    shop(&server);
    let dump: Vec<u8> = redis::cmd("DUMP").arg("sqlite:{shop}").query(&mut server.redis()).unwrap();
    redis::cmd("RESTORE").arg("sqlite:{shop}").arg(0).arg(dump).exec(&mut other.redis()).unwrap();
    other.open("shop").execute("INSERT INTO item VALUES (4)", []).unwrap();
    assert_eq!((count(&server, "shop"), count(&other, "shop")), (3, 4));
}

#[test]
fn the_stored_pages_in_order_form_a_database_file() {
    let server = Server::start();
    shop(&server);
    let mut redis = server.redis();
    let pages: u32 = redis::cmd("HGET").arg("sqlite:{shop}").arg("page_count").query(&mut redis).unwrap();
    let path = server.directory().join("plain.sqlite");
    let (mut values, mut shorter) = (String::new(), 0);
    for page in 1..=pages {
        let value: Vec<u8> =
            redis::cmd("HGET").arg("sqlite:{shop}").arg(format!("page{page}")).query(&mut redis).unwrap();
        shorter += usize::from(value.len() < 4096);
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        values += &format!("    file.write(page(bytes.fromhex('{hex}'), 4096))\n");
    }
    assert!(shorter > 0, "no stored page is shorter than a page, so the documented function is not tested");
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats.md");
    let text = std::fs::read_to_string(documents).unwrap();
    let function = text.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let script = format!("{function}\nwith open('{}', 'wb') as file:\n{values}", path.display());
    let Some(said) = hosts::run_python(&script, &[]) else { return };
    assert!(said.ok, "{said:?}");
    let plain = rusqlite::Connection::open(path).unwrap();
    check_integrity(&plain);
    assert_eq!(number(&plain, "SELECT count(*) FROM item"), 3);
}

#[test]
fn a_deleted_lease_fails_the_transaction_and_loses_no_data() {
    let server = Server::start();
    let (one, two) = (shop(&server), server.open("shop"));
    one.execute_batch("BEGIN IMMEDIATE; INSERT INTO item VALUES (4)").unwrap();
    assert_eq!(server.redis_cli(&["DEL", "sqlite:{shop}:lock"]), "1");
    two.execute("INSERT INTO item VALUES (5)", []).unwrap();
    assert_eq!(code(one.execute_batch("COMMIT")), rusqlite::ffi::SQLITE_BUSY_SNAPSHOT);
    assert_eq!(count(&server, "shop"), 4);
}

#[test]
fn a_deleted_log_loses_no_data() {
    let server = Server::start();
    let (one, two) = (shop(&server), server.open("shop"));
    assert_eq!(number(&two, "SELECT count(*) FROM item"), 3);
    server.redis_cli(&["DEL", "sqlite:{shop}:log"]);
    one.execute("INSERT INTO item VALUES (4)", []).unwrap();
    assert_eq!(number(&two, "SELECT count(*) FROM item"), 4);
    two.execute("INSERT INTO item VALUES (5)", []).unwrap();
    assert_eq!(count(&server, "shop"), 5);
}
