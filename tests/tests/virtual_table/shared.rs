//! The virtual table beside other clients, other definitions and other programs; access rules, lost replies, Sentinels.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rusqlite::Connection;
use sqlite_redis_tests::{Server, code, number, text};

fn connect() -> Connection {
    sqlite_redis::register().unwrap();
    Connection::open_in_memory().unwrap()
}

fn try_create(connection: &Connection, url: &str, name: &str, columns: &str) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("CREATE VIRTUAL TABLE {name} USING redis('{url}', p, {columns})"))
}

fn open(server: &Server, columns: &str) -> Connection {
    let connection = connect();
    try_create(&connection, &server.url(), "t", columns).unwrap();
    connection
}

fn failure(result: rusqlite::Result<()>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn hashes_that_other_programs_wrote_are_rows() {
    let server = Server::start();
    server.redis_cli(&["ZADD", "p.main.t.index.rowid", "1", "1", "2", "2", "3", "3", "4", "4"]);
    server.redis_cli(&["HSET", "p.main.t:1", "a", "12", "b", "x", "more", "kept"]);
    server.redis_cli(&["HSET", "p.main.t:2", "a", "no number"]);
    server.redis_cli(&["HSET", "p.main.t:3", "other", "y"]);
    let one = open(&server, "a INT, b TEXT");
    let all = "SELECT group_concat(rowid || ' ' || quote(a) || ' ' || quote(b), '; ') FROM t";
    assert_eq!(text(&one, all), "1 12 'x'; 2 'no number' NULL; 3 NULL NULL");
    assert_eq!(number(&one, "SELECT redis_create_index('t', 'a')"), 1);
    assert_eq!(number(&one, "SELECT count(*) FROM t WHERE a IS NULL"), 1);
    assert_eq!(number(&one, "SELECT rowid FROM t WHERE a = 'no number'"), 2);
    one.execute_batch("UPDATE t SET b = 'z' WHERE rowid = 1; INSERT INTO t VALUES (5, 'new')").unwrap();
    assert_eq!(one.last_insert_rowid(), 5, "the counter was below existing rowids");
    assert_eq!(server.redis_cli(&["HGET", "p.main.t:1", "more"]), "kept");
    // Another program changes a row and deletes another, and does not update the index.
    server.redis_cli(&["HSET", "p.main.t:1", "a", "13"]);
    server.redis_cli(&["DEL", "p.main.t:5"]);
    assert_eq!(text(&one, "SELECT group_concat(rowid) FROM t WHERE a = 12 OR a = 5"), "");
    assert_eq!(text(&one, "SELECT group_concat(rowid) FROM (SELECT rowid FROM t WHERE a > 0 ORDER BY a)"), "2");
}

#[test]
fn definitions_with_more_or_fewer_columns_share_rows() {
    let server = Server::start();
    let wide = open(&server, "a INT INDEXED, b TEXT INDEXED, c REAL INDEXED");
    wide.execute_batch("INSERT INTO t VALUES (1, 'x', 1.5), (2, 'y', x'00')").unwrap();
    let narrow = open(&server, "a INT");
    narrow
        .execute_batch("UPDATE t SET a = a + 10; INSERT INTO t VALUES (3); UPDATE t SET rowid = 9 WHERE a = 12")
        .unwrap();
    let all = "SELECT group_concat(rowid || ' ' || a || ' ' || quote(b) || ' ' || quote(c), '; ') FROM t";
    assert_eq!(text(&wide, all), "1 11 'x' 1.5; 3 3 NULL NULL; 9 12 'y' X'00'");
    assert_eq!(text(&wide, "SELECT rowid FROM t WHERE b = 'y'"), "9");
    assert_eq!(text(&wide, "SELECT rowid FROM t WHERE b IS NULL"), "3");
    assert_eq!(text(&wide, "SELECT rowid FROM t WHERE c = 1.5"), "1");
    narrow.execute_batch("DELETE FROM t WHERE rowid = 1").unwrap();
    assert_eq!(text(&wide, "SELECT count(*) FROM t WHERE c >= 0"), "1");
    assert_eq!(server.redis_cli(&["EXISTS", "p.main.t.index:b:x", "p.main.t.index:c:1.5"]), "0");
}

#[test]
fn tables_are_renamed_dropped_and_emptied() {
    let server = Server::start();
    let one = open(&server, "a INT INDEXED, b TEXT COLLATE NOCASE UNIQUE");
    one.execute_batch("INSERT INTO t VALUES (1, 'x'), (2, 'y'); ALTER TABLE t RENAME TO u").unwrap();
    assert_eq!(server.redis_cli(&["--raw", "KEYS", "p.main.t*"]), "");
    assert_eq!(number(&one, "SELECT sum(a) FROM u WHERE a > 0"), 3);
    assert!(failure(one.execute_batch("INSERT INTO u VALUES (3, 'X')")).contains("UNIQUE"));
    let refused = one.execute_batch("BEGIN; ALTER TABLE u RENAME TO v");
    assert!(failure(refused).contains("inside a transaction"));
    one.execute_batch("ROLLBACK").unwrap();
    assert_eq!(number(&one, "SELECT sum(a) FROM u"), 3);
    one.execute_batch("DROP TABLE u").unwrap();
    try_create(&one, &server.url(), "u", "a INT, b TEXT").unwrap();
    assert_eq!(number(&one, "SELECT sum(a) FROM u"), 3, "DROP TABLE removes no data");
    assert_eq!(number(&one, "SELECT redis_drop_data('u')"), 2);
    assert_eq!(number(&one, "SELECT count(*) FROM u"), 0);
    drop(one);
    assert_eq!(server.redis_cli(&["DBSIZE"]), "0");
    let plain = connect();
    try_create(&plain, &server.url(), "plain", "a").unwrap();
    plain.execute_batch("INSERT INTO plain VALUES (1); ALTER TABLE plain RENAME TO other").unwrap();
    assert_eq!(number(&plain, "SELECT redis_drop_data('other')"), 1);
    assert_eq!(number(&plain, "SELECT redis_drop_data('other')"), 0);
}

#[test]
fn defaults_generated_columns_and_returning_work() {
    let server = Server::start();
    let one = open(&server, "a INT DEFAULT 7, b TEXT DEFAULT 'd', c AS (a * 2)");
    one.execute_batch(
        "INSERT INTO t (b) VALUES ('x'); INSERT INTO t (a, b) VALUES (NULL, 'y'); INSERT INTO t (a) VALUES (3)",
    )
    .unwrap();
    one.execute("INSERT INTO t (a, b) VALUES (?, ?)", (None::<i64>, None::<String>)).unwrap();
    one.execute_batch("INSERT INTO t DEFAULT VALUES").unwrap();
    let all = "SELECT group_concat(quote(a) || quote(b) || quote(c), ' ') FROM t";
    assert_eq!(text(&one, all), "7'x'14 NULL'y'NULL 3'd'6 NULLNULLNULL 7'd'14");
    assert_eq!(text(&one, "INSERT INTO t (a, b) VALUES (5, 'r') RETURNING b"), "r");
}

#[test]
fn redis_keys_and_its_kin_show_the_keys_of_a_server() {
    let server = Server::start();
    server.redis_cli(&["HSET", "h:1", "a", "1", "b", "2"]);
    server.redis_cli(&["ZADD", "z", "1.5", "x", "inf", "y"]);
    server.redis_cli(&["SET", "s", "v", "PX", "100000"]);
    let one = connect();
    let url = server.url();
    assert_eq!(
        text(
            &one,
            &format!(
                "SELECT group_concat(key || type, ' ') FROM (SELECT * FROM redis_keys('{url}', '*') ORDER BY key)"
            )
        ),
        "h:1hash sstring zzset"
    );
    assert_eq!(number(&one, &format!("SELECT ttl_ms > 1000 FROM redis_keys('{url}', 's')")), 1);
    let joined = format!(
        "SELECT group_concat(field || value, ' ') FROM redis_keys('{url}', 'h:*') k, redis_hash('{url}', k.key)"
    );
    assert_eq!(text(&one, &joined), "a1 b2");
    assert_eq!(
        text(&one, &format!("SELECT group_concat(member || score, ' ') FROM redis_zset('{url}', 'z')")),
        "x1.5 yInf"
    );
    assert!(one.prepare(&format!("SELECT * FROM redis_hash('{url}')")).is_err());
    assert!(one.query_row("SELECT * FROM redis_hash('nowhere at all', 'k')", [], |_| Ok(())).is_err());
    for (function, part) in [("redis_hash", "holds no hash"), ("redis_zset", "holds no sorted set")] {
        let error = failure(one.query_row(&format!("SELECT * FROM {function}('{url}', 's')"), [], |_| Ok(())));
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn bad_input_gets_a_clear_error() {
    let mut server = Server::start();
    let one = connect();
    let url = server.url();
    for (arguments, part) in [
        (String::new(), "SERVER"),
        (format!("'{url}'"), "SERVER"),
        (format!("'{url}', p"), "no columns"),
        (format!("'{url}', p, a, a"), "duplicate column name"),
        ("localhost:x, p, a".into(), "not a port"),
        ("sentinel m, p, a".into(), "no sentinel"),
        ("'unix:///nowhere.sock', p, a".into(), "can't connect"),
        (format!("'{url}', p, a CHECK (b > 1)"), "no such column"),
        (format!("'{url}', p, 'a:b' INDEXED"), "colon"),
    ] {
        let error = failure(one.execute_batch(&format!("CREATE VIRTUAL TABLE t USING redis({arguments})")));
        assert!(error.contains(part), "{arguments}: {error}");
    }
    for key in ["p.main.t.index.rowid", "p.main.t.rowid", "p.main.t.indices"] {
        server.redis_cli(&["HSET", key, "x", "y"]);
        let error = failure(try_create(&one, &url, "t", "a"));
        assert!(error.contains(key) && error.contains("hash"), "{error}");
        server.redis_cli(&["DEL", key]);
    }
    try_create(&one, &url, "t", "a INT INDEXED, id STRANGE").unwrap();
    for (sql, part) in [
        ("SELECT redis_create_index('t', 'nope')", "no column `nope`"),
        ("SELECT redis_create_index('nope', 'a')", "nope"),
        ("SELECT redis_create_index('sqlite_schema', 'a')", "no virtual table"),
        ("SELECT redis_create_index(1, 'a')", "must be text"),
        ("SELECT redis_create_index('t')", "wrong number of arguments"),
    ] {
        let error = one.query_row(sql, [], |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains(part), "{sql}: {error}");
    }
    server.redis_cli(&["SET", "p.main.t.rowid", "many"]);
    for rowid in ["NULL", "7"] {
        let error = failure(one.execute_batch(&format!("INSERT INTO t (rowid, a) VALUES ({rowid}, 1)")));
        assert!(error.contains("p.main.t.rowid") || error.contains("not an integer"), "{error}");
    }
    server.redis_cli(&["DEL", "p.main.t.rowid"]);
    // Keys of a wrong type are refused before anything is written.
    one.execute_batch("INSERT INTO t VALUES (1, 1)").unwrap();
    server.redis_cli(&["SET", "p.main.t:2", "x"]);
    server.redis_cli(&["SET", "p.main.t.index:a:5", "x"]);
    assert!(one.execute_batch("INSERT INTO t VALUES (5, 1)").is_err());
    assert_eq!(number(&one, "SELECT count(*) FROM t"), 1);
    server.redis_cli(&["ZADD", "p.main.t.index.rowid", "2", "2", "nan?", "x"]);
    server.redis_cli(&["ZADD", "p.main.t.index.rowid", "2", "2"]);
    assert!(failure(one.query_row("SELECT * FROM t WHERE rowid = 2", [], |_| Ok(()))).contains("holds something else"));
    server.kill();
    let error = failure(one.query_row("SELECT * FROM t", [], |_| Ok(())));
    assert!(error.contains("main.t") && error.contains("can't connect"), "{error}");
    assert!(one.execute_batch("INSERT INTO t VALUES (9, 9)").is_err());
    one.execute_batch("DROP TABLE t").unwrap();
}

#[test]
fn a_write_without_the_right_to_it_names_the_access_rules() {
    let server = Server::start();
    server.redis_cli(&["ACL", "SETUSER", "reader", "on", "nopass", "~*", "+@all", "-exec", "-zadd"]);
    open(&server, "a INT").execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let one = connect();
    try_create(&one, &format!("{}?user=reader&pass=Secret-9", server.url()), "t", "a INT").unwrap();
    assert_eq!(number(&one, "SELECT a FROM t"), 1);
    let refused = one.execute_batch("INSERT INTO t VALUES (2)");
    assert!(refused.as_ref().unwrap_err().to_string().contains("access rules"), "{refused:?}");
    assert_eq!(code(refused), 3);
    assert_eq!(number(&one, "SELECT count(*) FROM t"), 1);
}

#[test]
fn a_commit_with_a_lost_reply_succeeds_and_is_made_once() {
    let server = Server::start();
    let (path, target) = (server.directory().join("lossy.sock"), server.socket());
    let listener = UnixListener::bind(&path).unwrap();
    let lose = Arc::new(AtomicBool::new(false));
    let losing = lose.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut upstream)) = (client, UnixStream::connect(&target)) else { return };
            let (mut to_client, mut from_server) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            let (cut, losing) = (Arc::new(AtomicBool::new(false)), losing.clone());
            let cutting = cut.clone();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    // The commit reaches the server; its reply is lost.
                    if buffer[..count].windows(4).any(|window| window == b"EXEC") && losing.swap(false, SeqCst) {
                        cutting.store(true, SeqCst);
                    }
                    let _ = upstream.write_all(&buffer[..count]);
                }
            });
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = from_server.read(&mut buffer) {
                    if cut.load(SeqCst) || to_client.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = to_client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    let one = connect();
    try_create(&one, &format!("unix://{}", path.display()), "t", "a INT INDEXED").unwrap();
    one.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    for sql in ["INSERT INTO t VALUES (2)", "BEGIN; INSERT INTO t VALUES (3), (4); UPDATE t SET a = a + 10; COMMIT"] {
        lose.store(true, SeqCst);
        one.execute_batch(sql).unwrap();
        assert!(!lose.load(SeqCst), "no reply was lost");
    }
    assert_eq!(text(&one, "SELECT group_concat(a) FROM t"), "11,12,13,14");
    assert_eq!(text(&open(&server, "a INT INDEXED"), "SELECT group_concat(a) FROM t WHERE a > 0"), "11,12,13,14");
}

#[test]
fn transfers_of_many_clients_keep_the_sum() {
    let server = Server::start();
    let setup = open(&server, "id INTEGER PRIMARY KEY, a INT INDEXED");
    setup.execute_batch("INSERT INTO t VALUES (1, 100), (2, 100), (3, 100), (4, 100)").unwrap();
    let (url, mut threads) = (server.url(), Vec::new());
    for worker in 0..4 {
        let url = url.clone();
        threads.push(std::thread::spawn(move || {
            let one = connect();
            try_create(&one, &url, "t", "id INTEGER PRIMARY KEY, a INT INDEXED").unwrap();
            let (mut done, mut n) = (0, worker);
            while done < 25 {
                n += 1;
                let (from, to) = (n % 4 + 1, (n / 4 + worker) % 4 + 1);
                let sql = format!(
                    "BEGIN; UPDATE t SET a = a - 1 WHERE id = {from}; UPDATE t SET a = a + 1 WHERE id = {to}; COMMIT"
                );
                match one.execute_batch(&sql) {
                    Ok(()) => done += 1,
                    Err(error) => assert!(error.to_string().contains("another client"), "{error}"),
                }
            }
        }));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(number(&setup, "SELECT sum(a) FROM t"), 400);
    assert_eq!(number(&setup, "SELECT sum(a) FROM t WHERE a > -1000"), 400);
}

#[test]
fn in_a_cluster_the_prefix_needs_a_hash_tag() {
    let server = Server::with(["--cluster-enabled", "yes"]).tcp().start();
    redis::cmd("CLUSTER").arg("ADDSLOTS").arg((0..16384).collect::<Vec<_>>()).exec(&mut server.redis()).unwrap();
    sqlite_redis_tests::eventually("the cluster is up", || {
        server.redis_cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    });
    let one = connect();
    let create = |prefix: &str| {
        let columns = "a INT INDEXED, b TEXT UNIQUE, UNIQUE (a, b)";
        one.execute_batch(&format!(
            "CREATE VIRTUAL TABLE t USING redis(127.0.0.1:{}, {prefix}, {columns})",
            server.port()
        ))
    };
    let error = failure(create("p"));
    assert!(error.contains("hash tag"), "{error}");
    create("'{p}'").unwrap();
    one.execute_batch("INSERT INTO t VALUES (1, 'x'), (2, 'y'); UPDATE t SET a = a + 1; DELETE FROM t WHERE a = 2")
        .unwrap();
    assert_eq!(text(&one, "SELECT group_concat(a || b) FROM t WHERE a = 3 AND b = 'y'"), "3y");
    one.execute_batch("ALTER TABLE t RENAME TO u").unwrap();
    assert_eq!(number(&one, "SELECT redis_drop_data('u')"), 1);
}

/// A child process that is killed when the test ends, also when the test fails.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn sentinels_lead_to_the_new_primary_after_a_failover() {
    let primary = Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start();
    let replica = Server::replica_of(&primary);
    let port = sqlite_redis_tests::free_port().unwrap();
    let directory = primary.directory().join("sentinel");
    std::fs::create_dir(&directory).unwrap();
    let config = directory.join("sentinel.conf");
    let text_of = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor shop 127.0.0.1 {} 1\n\
         sentinel down-after-milliseconds shop 60000\nsentinel failover-timeout shop 60000\n",
        directory.display(),
        primary.port()
    );
    std::fs::write(&config, text_of).unwrap();
    let sentinel = std::process::Command::new(&sqlite_redis_tests::program::server().path)
        .arg(&config)
        .arg("--sentinel")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let _sentinel = Ended(sentinel);
    let asked = |words: &[&str]| {
        let mut command = redis::cmd("SENTINEL");
        command.arg(words);
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        client.get_connection().and_then(|mut connection| command.query::<redis::Value>(&mut connection))
    };
    sqlite_redis_tests::eventually("the sentinel knows the replica", || {
        asked(&["replicas", "shop"]).is_ok_and(|reply| format!("{reply:?}").contains(&replica.port().to_string()))
    });
    let one = connect();
    let created = one.execute_batch(&format!(
        "CREATE VIRTUAL TABLE t USING redis(sentinel shop 127.0.0.1:1 127.0.0.1:{port}, p, a INT INDEXED)"
    ));
    let outcome = created.and_then(|()| {
        one.execute_batch("INSERT INTO t VALUES (1)")?;
        // Replication is asynchronous: a failover loses rows that have not reached the replica.
        sqlite_redis_tests::eventually("the replica has the row", || {
            replica.redis_cli(&["HGET", "p.main.t:1", "a"]) == "1"
        });
        // The Sentinel refuses until it has enough information about the replica.
        sqlite_redis_tests::eventually("a failover begins", || asked(&["failover", "shop"]).is_ok());
        sqlite_redis_tests::eventually("the sentinel names the new primary", || {
            let address = asked(&["get-master-addr-by-name", "shop"]);
            address.is_ok_and(|reply| format!("{reply:?}").contains(&replica.port().to_string()))
        });
        // The Sentinel sends this as well, but only after a delay.
        primary.redis_cli(&["REPLICAOF", "127.0.0.1", &replica.port().to_string()]);
        one.execute_batch("INSERT INTO t VALUES (2)")
    });
    let rows = outcome.map(|()| text(&one, "SELECT group_concat(a) FROM t WHERE a > 0"));
    let kept = replica.redis_cli(&["--raw", "KEYS", "*"]);
    assert_eq!(rows.unwrap(), "1,2", "{kept}; {}", text(&one, "SELECT group_concat(rowid || ' ' || a) FROM t"));
    assert_eq!(replica.redis_cli(&["HGET", "p.main.t:2", "a"]), "2");
}
