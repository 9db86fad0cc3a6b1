//! Views and triggers of an untrusted file can't use the module and its functions, and open no connection to the
//! servers that they name.

use rusqlite::Connection;
use sqlite_redis_tests::vtab::{connect, create};
use sqlite_redis_tests::{Server, number, text};

/// The schema of an attacker's file: it reads from a server that the victim can reach, and sends rows to another. Its
/// author had the extension loaded.
fn foreign_file(server: &Server) -> Connection {
    let path = server.directory().join("foreign.sqlite");
    sqlite_redis::register().unwrap();
    let author = Connection::open(&path).unwrap();
    let url = server.url();
    create(&author, &url, "leak", "card").unwrap();
    author
        .execute_batch(&format!(
            "CREATE TABLE customer (name, card); CREATE TABLE order_of (card); CREATE TABLE old (card);
             INSERT INTO old VALUES (1);
             CREATE VIEW keys AS SELECT key FROM redis_keys('{url}', '*');
             CREATE VIEW fields AS SELECT * FROM redis_hash('{url}', 'internal');
             CREATE VIEW members AS SELECT * FROM redis_zset('{url}', 'ranks');
             CREATE VIEW rows AS SELECT * FROM leak;
             CREATE TRIGGER ask AFTER INSERT ON customer
                 BEGIN SELECT count(*) FROM redis_hash('{url}', new.card); END;
             CREATE TRIGGER send AFTER INSERT ON order_of BEGIN INSERT INTO leak VALUES (new.card); END;
             CREATE TRIGGER clear AFTER DELETE ON old BEGIN DELETE FROM leak; END;
             CREATE TRIGGER change AFTER UPDATE ON old BEGIN UPDATE leak SET card = new.card; END;"
        ))
        .unwrap();
    drop(author);
    Connection::open(&path).unwrap()
}

/// The names of commands that clients sent since `CONFIG RESETSTAT`, except `CONFIG` and `INFO`.
fn commands(server: &Server) -> Vec<String> {
    let all = server.redis_cli(&["INFO", "commandstats"]);
    let names = all.lines().filter_map(|line| Some(line.strip_prefix("cmdstat_")?.split_once(':')?.0.to_owned()));
    names.filter(|name| !name.starts_with("config") && name != "info").collect()
}

#[test]
fn views_and_triggers_of_a_file_are_refused_without_connecting() {
    let server = Server::start();
    server.redis_cli(&["HSET", "internal", "token", "tulips"]);
    server.redis_cli(&["ZADD", "ranks", "1", "one"]);
    let file = foreign_file(&server);
    // A commit to the application's own table: closing its connection has a commit mark to remove.
    create(&file, &server.url(), "temp.own", "n INTEGER").unwrap();
    file.execute_batch("INSERT INTO own VALUES (1); DROP TABLE own").unwrap();
    server.redis_cli(&["CONFIG", "RESETSTAT"]);
    for statement in [
        "SELECT * FROM keys",
        "SELECT * FROM fields",
        "SELECT * FROM members",
        "SELECT * FROM rows",
        "INSERT INTO customer VALUES ('A', 'number-of-a-card')",
        "INSERT INTO order_of VALUES ('number-of-a-card')",
        "DELETE FROM old",
        "UPDATE old SET card = 2",
    ] {
        for trusted in [0, 1] {
            let refused = file.execute_batch(&format!("PRAGMA trusted_schema = {trusted}; {statement}")).unwrap_err();
            assert!(refused.to_string().contains("unsafe use of virtual table"), "{statement}: {refused}");
        }
    }
    // Tools read the schema first; this must work without a server.
    assert_eq!(text(&file, "SELECT group_concat(name) FROM pragma_table_info('leak')"), "card");
    assert_eq!(number(&file, "SELECT count(*) FROM pragma_table_list WHERE name = 'leak'"), 1);
    assert_eq!(number(&file, "SELECT count(*) FROM old"), 1);
    drop(file);
    assert_eq!(commands(&server), Vec::<String>::new());
}

#[test]
fn the_application_may_use_what_its_files_may_not() {
    let server = Server::start();
    server.redis_cli(&["HSET", "internal", "token", "tulips"]);
    let file = foreign_file(&server);
    let query = format!("SELECT value FROM redis_hash('{}', 'internal')", server.url());
    assert_eq!(text(&file, &query), "tulips");
    file.execute_batch("INSERT INTO leak VALUES (5)").unwrap();
    assert_eq!(number(&file, "SELECT card FROM leak"), 5);
    file.execute_batch("CREATE TEMP VIEW mine AS SELECT card FROM leak").unwrap();
    assert_eq!(number(&file, "SELECT card FROM mine"), 5);
}

#[test]
fn temporary_triggers_write_to_tables_of_the_schema_temp() {
    let server = Server::start();
    let connection = connect();
    create(&connection, &server.url(), "temp.t", "n INTEGER").unwrap();
    connection
        .execute_batch(
            "CREATE TABLE o (x);
             CREATE TEMP TRIGGER tr AFTER INSERT ON o BEGIN INSERT INTO t VALUES (new.x); END;
             INSERT INTO o VALUES (7)",
        )
        .unwrap();
    assert_eq!(number(&connection, "SELECT n FROM t"), 7);
    assert_eq!(server.redis_cli(&["HGET", "p.temp.t:1", "n"]), "7");
}
