//! A commit that meets a key of a wrong type: the error names the key, and nothing is written, on every commit path.

use std::collections::{BTreeMap, BTreeSet};

use redis::cmd;
use rusqlite::Connection;
use sqlite_redis_tests::Server;
use sqlite_redis_tests::cluster::Cluster;
use sqlite_redis_tests::proxy::{Fault, Proxy};
use sqlite_redis_tests::vtab::connect;

const COLUMNS: &str = "id INTEGER PRIMARY KEY, i INT INDEXED, s TEXT UNIQUE, x INT INDEXED, f REAL, UNIQUE (f, x)";

/// Rows in which `x` holds integers, text and NULL.
fn rows(from: i64, to: i64) -> String {
    format!(
        "WITH RECURSIVE n(n) AS (VALUES ({from}) UNION ALL SELECT n + 1 FROM n WHERE n < {to}) \
         SELECT n, n, 's' || n, CASE n % 10 WHEN 8 THEN 'word' WHEN 9 THEN NULL ELSE n END, n / 4.0 FROM n"
    )
}

const FROM_COUNTER: &str = "INSERT INTO t (i, s) VALUES (1000, 's1000')";

/// Statements on a table with rows 1 to 130. Each exists for a few rows, which are watched one by one, and for so
/// many that they are not.
fn work() -> Vec<String> {
    let mut work = Vec::new();
    for last in [1002, 1110] {
        let new = rows(1000, last);
        work.push(format!("INSERT INTO t {new}"));
        work.push(format!("BEGIN; INSERT INTO t {new}; COMMIT"));
        work.push(format!("BEGIN; INSERT INTO t {new}; DELETE FROM t WHERE id = 7; COMMIT"));
    }
    work.push(FROM_COUNTER.to_owned());
    for last in [9, 119] {
        let of = format!("WHERE id BETWEEN 6 AND {last}");
        work.extend([
            format!("UPDATE t SET i = i + 2000, s = 'new ' || s {of}"),
            format!("UPDATE t SET i = 4 {of}"),
            format!("UPDATE t SET i = NULL, x = NULL {of}"),
            format!("UPDATE t SET i = 'word', f = -f {of}"),
            format!("UPDATE t SET id = id + 2000 {of}"),
            format!("DELETE FROM t {of}"),
            format!("REPLACE INTO t SELECT id + 2000, i, s, x, f FROM t {of}"),
            format!("REPLACE INTO t SELECT id, 4, s, x, f FROM t {of}"),
        ]);
    }
    work
}

/// All keys with their values, except commit marks.
fn dump(server: &Server) -> BTreeMap<String, Vec<u8>> {
    let mut redis = server.redis();
    let mut keys: Vec<String> = cmd("KEYS").arg("*").query(&mut redis).unwrap();
    keys.retain(|key| !key.contains(".commit:"));
    let mut dumps = redis::pipe();
    for key in &keys {
        dumps.cmd("DUMP").arg(key);
    }
    let held: Vec<Vec<u8>> = dumps.query(&mut redis).unwrap();
    keys.into_iter().zip(held).collect()
}

/// A digest of the state that [`dump`] returns.
fn digest(server: &Server) -> String {
    let script = "local keys, all = redis.call('KEYS', '*'), {} \
                  table.sort(keys) \
                  for _, key in ipairs(keys) do \
                    if not string.find(key, '.commit:', 1, true) then \
                      all[#all + 1] = key .. redis.sha1hex(redis.call('DUMP', key)) \
                    end \
                  end \
                  return redis.sha1hex(table.concat(all, ' '))";
    cmd("EVAL").arg(script).arg(0).query(&mut server.redis()).unwrap()
}

/// One key of each kind. Keys of one kind differ only in their digits.
fn kinds<'a>(keys: impl Iterator<Item = &'a String>) -> Vec<String> {
    let kind = |key: &str| key.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let mut seen = BTreeSet::new();
    keys.filter(|key| seen.insert(kind(key))).cloned().collect()
}

/// A table on a server, and the start of its keys.
struct Filled<'a> {
    server: &'a Server,
    connection: Connection,
    base: String,
}

impl Filled<'_> {
    fn on<'a>(server: &'a Server, url: &str, prefix: &str) -> Filled<'a> {
        let connection = connect();
        let table = format!("CREATE VIRTUAL TABLE t USING redis('{url}', '{prefix}', {COLUMNS})");
        connection.execute_batch(&table).unwrap();
        Filled { server, connection, base: format!("{prefix}.main.t") }
    }

    fn fill(&self) {
        let fill = format!("SELECT redis_drop_data('t'); INSERT INTO t {}", rows(1, 130));
        self.connection.execute_batch(&fill).unwrap();
    }

    fn run(&self, sql: &str) -> rusqlite::Result<()> {
        let done = self.connection.execute_batch(sql);
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK").unwrap();
        }
        done
    }

    /// One key of each kind that a statement writes, and the keys that list the table's indexes.
    fn concerned(&self, sql: &str) -> Vec<String> {
        self.fill();
        let before = dump(self.server);
        self.run(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let after = dump(self.server);
        let written = before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key));
        let mut keys = kinds(written);
        keys.extend([".indices", ".indices.building", ".indices.unique"].map(|end| format!("{}{end}", self.base)));
        self.fill();
        keys
    }

    /// Sends a command and ignores an error reply.
    fn tell(&self, words: &[&str]) {
        let _ = cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut self.server.redis());
    }

    fn refuses(&self, sql: &str, key: &str) {
        let server = self.server;
        let aside = format!("{}.aside", self.base);
        self.tell(&["RENAME", key, &aside]);
        self.tell(&["XADD", key, "1-1", "a", "b"]);
        let before = digest(server);
        let error = self.run(sql).expect_err(&format!("{sql}, with a stream at {key}")).to_string();
        let counter = format!("{}.rowid", self.base);
        if sql == FROM_COUNTER && key != counter {
            // The rowid that the statement took from the counter is not given back.
            self.tell(&["SET", &counter, "130"]);
        }
        // The stream may occupy the key of the new row: then the rowid is taken.
        let taken = error.contains("UNIQUE constraint failed: t.id") && key.contains(":1");
        assert!(error.contains(&format!("`{key}`")) || taken, "{sql}, with a stream at {key}: {error}");
        assert_eq!(digest(server), before, "{sql}, with a stream at {key}: {error}, but a key was changed");
        self.tell(&["DEL", key]);
        self.tell(&["RENAME", &aside, key]);
    }

    fn refuses_each(&self, sql: &str) {
        let keys = self.concerned(sql);
        println!("{sql}: {keys:?}");
        keys.iter().for_each(|key| self.refuses(sql, key));
    }
}

#[test]
fn a_key_of_a_wrong_type_refuses_the_commit_by_name() {
    let server = Server::start();
    let table = Filled::on(&server, &server.url(), "p");
    work().iter().for_each(|sql| table.refuses_each(sql));
}

#[test]
fn a_key_of_a_wrong_type_refuses_the_commit_in_a_cluster() {
    let cluster = Cluster::new();
    let owner = &cluster.nodes[cluster.owner("vt")];
    let table = Filled::on(owner, &cluster.url(), "{vt}");
    work().iter().for_each(|sql| table.refuses_each(sql));
}

#[test]
fn changes_to_a_tables_indexes_are_atomic() {
    let server = Server::start();
    let table = Filled::on(&server, &server.url(), "p");
    let keys = |ends: &[&str]| ends.iter().map(|end| format!("p.main.t{end}")).collect::<Vec<_>>();
    table.fill();
    let drop = "SELECT redis_drop_index('t', 'i')";
    keys(&[".indices", ".indices.building"]).iter().for_each(|key| table.refuses(drop, key));
    table.run(drop).unwrap();
    // An unfinished build keeps the entries that it has added; no query uses the index yet. The next build completes it.
    let create = "SELECT redis_create_index('t', 'i')";
    for key in keys(&[".index:i", ".index:i:7", ".indices", ".indices.building"]) {
        server.redis_cli(&["RENAME", &key, "aside"]);
        server.redis_cli(&["XADD", &key, "1-1", "a", "b"]);
        let error = table.run(create).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`")), "{key}: {error}");
        assert_eq!(server.redis_cli(&["TYPE", &key]), "stream");
        server.redis_cli(&["DEL", &key]);
        server.redis_cli(&["RENAME", "aside", &key]);
    }
    table.run(create).unwrap();
    // A new constraint over rows that exist.
    let key = "p.main.t.unique:\"i\",\"f\":n20:c01c0000000000008000n20:bffc0000000000008000";
    let constrained = format!("CREATE VIRTUAL TABLE t USING redis('{}', p, {COLUMNS}, UNIQUE (i, f))", server.url());
    server.redis_cli(&["XADD", key, "1-1", "a", "b"]);
    let before = dump(&server);
    let error = connect().execute_batch(&constrained).unwrap_err().to_string();
    assert!(error.contains(key), "{error}");
    assert!(before == dump(&server));
    server.redis_cli(&["DEL", key]);
    connect().execute_batch(&constrained).unwrap();
    assert_eq!(server.redis_cli(&["SMEMBERS", key]), "7");
}

#[test]
fn a_key_under_an_unused_name_is_harmless() {
    let server = Server::start();
    let table = Filled::on(&server, &server.url(), "p");
    for sql in work() {
        table.fill();
        server.redis_cli(&["XADD", "p.main.t.index.nothing", "1-1", "a", "b"]);
        let before = dump(&server);
        match table.run(&sql) {
            Ok(()) => assert!(before != dump(&server), "{sql}"),
            Err(error) => {
                assert!(error.to_string().contains("`p.main.t.index.nothing`"), "{sql}: {error}");
                assert!(before == dump(&server) || sql == FROM_COUNTER, "{sql}: {error}");
            }
        }
        server.redis_cli(&["DEL", "p.main.t.index.nothing"]);
    }
}

#[test]
fn a_type_that_changes_after_the_check_refuses_the_commit() {
    let server = Server::start();
    let here = Filled::on(&server, &server.url(), "p");
    for sql in &work() {
        let keys = here.concerned(sql);
        // The counter is read before the commit, and an explicit rowid raises it only if it is behind.
        let counter = format!("{}.rowid", here.base);
        for key in keys.iter().filter(|key| **key != counter) {
            let proxy = Proxy::to(&server);
            let through = Filled::on(&server, &proxy.url(), "p");
            proxy.next("EXEC", Fault::HoldRequest);
            std::thread::scope(|scope| {
                let commit = scope.spawn(move || through.run(sql).expect_err(&format!("{sql}, {key}")).to_string());
                proxy.wait_for_held(1);
                here.tell(&["RENAME", key, "aside"]);
                here.tell(&["XADD", key, "1-1", "a", "b"]);
                let (before, counted) = (digest(&server), server.redis_cli(&["GET", &counter]));
                proxy.let_go();
                let error = commit.join().unwrap();
                if sql == FROM_COUNTER {
                    // The rowid that the statement took from the counter is given back.
                    here.tell(&["SET", &counter, &counted]);
                }
                // The change is found by `WATCH` or by a second check of the type.
                assert!(error.contains(&format!("`{key}`")) || error.contains("another client"), "{key}: {error}");
                assert_eq!(digest(&server), before, "{sql}, with a stream at {key}: {error}");
            });
            here.tell(&["DEL", key]);
            here.tell(&["RENAME", "aside", key]);
            if sql == FROM_COUNTER {
                here.tell(&["SET", &counter, "130"]);
            }
        }
    }
}
