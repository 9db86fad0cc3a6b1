//! The key layout that other programs rely on. `redis_vtbl_keyspace.txt` holds the keys that an existing C module
//! with this layout writes.

use std::collections::BTreeMap;

use redis::Value;
use rusqlite::Connection;
use sqlite_redis_tests::{Server, number, text};

const KEYSPACE: &str = include_str!("../data/redis_vtbl_keyspace.txt");

fn connect() -> Connection {
    sqlite_redis::register().unwrap();
    Connection::open_in_memory().unwrap()
}

/// Splits a line in the quoting of `redis-cli` into words.
fn words(line: &str) -> Vec<Vec<u8>> {
    let bytes = line.as_bytes();
    let (mut words, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let mut word = Vec::new();
        let quoted = bytes[at] == b'"';
        at += usize::from(quoted);
        while at < bytes.len() && bytes[at] != if quoted { b'"' } else { b' ' } {
            if bytes[at] != b'\\' {
                word.push(bytes[at]);
                at += 1;
            } else if bytes[at + 1] == b'x' {
                word.push(u8::from_str_radix(&line[at + 2..at + 4], 16).unwrap());
                at += 4;
            } else {
                word.push(bytes[at + 1]);
                at += 2;
            }
        }
        at += 1 + usize::from(quoted);
        words.push(word);
    }
    words
}

fn load(server: &Server) {
    for line in KEYSPACE.lines() {
        let words = words(line);
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(word.as_slice());
        });
        command.exec(&mut server.redis()).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

/// All keys of a server with type and value. Hash fields and set members are sorted.
fn contents(server: &Server) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut redis = server.redis();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut redis).unwrap();
    let mut all = BTreeMap::new();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query(&mut redis).unwrap();
        let mut command = match kind.as_str() {
            "string" => redis::cmd("GET").arg(&key).to_owned(),
            "hash" => redis::cmd("HGETALL").arg(&key).to_owned(),
            "set" => redis::cmd("SMEMBERS").arg(&key).to_owned(),
            _ => redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).arg("WITHSCORES").to_owned(),
        };
        let mut found: Vec<Vec<u8>> = match command.query::<Value>(&mut redis).unwrap() {
            Value::Array(items) => items.into_iter().map(|item| redis::from_redis_value(item).unwrap()).collect(),
            other => vec![redis::from_redis_value(other).unwrap()],
        };
        if kind == "hash" {
            let mut pairs: Vec<Vec<Vec<u8>>> = found.chunks(2).map(<[_]>::to_vec).collect();
            pairs.sort();
            found = pairs.concat();
        } else if kind == "set" {
            found.sort();
        }
        found.insert(0, kind.into_bytes());
        command.arg("");
        all.insert(key, found);
    }
    all
}

fn write_it(connection: &Connection, server: &Server) {
    let url = server.url();
    connection
        .execute_batch(&format!(
            "CREATE VIRTUAL TABLE idx USING redis('{url}', p, i INT, s TEXT, f REAL);
             CREATE VIRTUAL TABLE plain USING redis('{url}', p, i INT, s TEXT, f REAL);
             SELECT redis_create_index('idx', 'i'); SELECT redis_create_index('idx', 's');
             SELECT redis_create_index('idx', 'f');"
        ))
        .unwrap();
    for table in ["idx", "plain"] {
        let sql =
            format!("INSERT INTO {table} VALUES (10, 'apple', 1.5), (-2, 'b \"q\" é', 3.141593), (10, 'apple', 100)");
        connection.execute(&sql, []).unwrap();
    }
}

#[test]
fn rows_are_stored_as_the_c_module_stores_them() {
    let (theirs, ours) = (Server::start(), Server::start());
    load(&theirs);
    let connection = connect();
    write_it(&connection, &ours);
    // Closing a connection removes its commit mark.
    drop(connection);
    assert_eq!(contents(&ours), contents(&theirs));
}

#[test]
fn an_index_created_after_the_rows_is_stored_alike() {
    let (theirs, ours) = (Server::start(), Server::start());
    load(&theirs);
    let connection = connect();
    write_it(&connection, &ours);
    let made = "SELECT redis_drop_index('idx', 'i') + redis_drop_index('idx', 's') + redis_drop_index('main.idx', 'F')";
    assert_eq!(number(&connection, made), 3);
    assert_eq!(ours.redis_cli(&["--raw", "KEYS", "p.main.idx.in*"]), "p.main.idx.index.rowid");
    let made =
        "SELECT redis_create_index('idx', 'i') + redis_create_index('IDX', 's') + redis_create_index('idx', 'f')";
    assert_eq!(number(&connection, made), 3);
    assert_eq!(number(&connection, "SELECT redis_create_index('idx', 'f')"), 0);
    drop(connection);
    assert_eq!(contents(&ours), contents(&theirs));
}

#[test]
fn rows_of_the_c_module_are_read_by_scan_and_by_index() {
    let server = Server::start();
    load(&server);
    let connection = connect();
    let url = server.url();
    let all = "SELECT group_concat(rowid || '|' || i || '|' || s || '|' || f, ' ') FROM ";
    for table in ["idx", "plain"] {
        let create = format!("CREATE VIRTUAL TABLE {table} USING redis('{url}', p, i INT, s TEXT, f REAL)");
        connection.execute_batch(&create).unwrap();
        let rows = "1|10|apple|1.5 2|-2|b \"q\" é|3.141593 3|10|apple|100.0";
        assert_eq!(text(&connection, &format!("{all} {table}")), rows);
    }
    let rowids = |condition: &str| {
        let plan: String = connection
            .query_row(&format!("EXPLAIN QUERY PLAN SELECT rowid FROM idx WHERE {condition}"), [], |row| row.get(3))
            .unwrap();
        assert!(plan.contains("index "), "{condition}: {plan}");
        text(&connection, &format!("SELECT group_concat(rowid) FROM (SELECT rowid FROM idx WHERE {condition})"))
    };
    assert_eq!(rowids("i = 10"), "1,3");
    assert_eq!(rowids("i = '10' AND s = 'apple'"), "1,3");
    assert_eq!(rowids("i > -5 AND i < 3"), "2");
    assert_eq!(rowids("s = 'b \"q\" é'"), "2");
    assert_eq!(rowids("s LIKE 'AP%'"), "1,3");
    assert_eq!(rowids("s >= 'b'"), "2");
    assert_eq!(rowids("f = 3.141593"), "2");
    assert_eq!(rowids("f BETWEEN 1 AND 50 ORDER BY f DESC"), "2,1");
    assert_eq!(rowids("f IN (1.5, 100)"), "1,3");
    assert_eq!(text(&connection, "SELECT max(f) FROM idx"), "100");
    connection.execute("INSERT INTO idx VALUES (7, 'new', 2.5)", []).unwrap();
    assert_eq!(connection.last_insert_rowid(), 4);
    assert_eq!(server.redis_cli(&["GET", "p.main.idx.rowid"]), "4");
    connection.execute_batch("DELETE FROM idx WHERE rowid < 4; DELETE FROM idx WHERE i = 7").unwrap();
    connection.execute_batch("DROP TABLE idx").unwrap();
    let left = server.redis_cli(&["KEYS", "p.main.idx*"]);
    let mut left: Vec<&str> = left.lines().filter(|key| !key.contains(".commit:")).collect();
    left.sort_unstable();
    assert_eq!(left, ["p.main.idx.indices", "p.main.idx.rowid"]);
}
