//! SQLite's features on a database in Redis and on a file: same answers, same content. Each script runs with a large
//! and with a tiny SQLite page cache.

use std::io::{Read, Seek, SeekFrom, Write};

use rusqlite::{Connection, MAIN_DB};
use sqlite_redis_tests::Server;
use sqlite_redis_tests::rows::{assert_same_content, rows};
use sqlite_redis_tests::twins::Twins;

/// Runs the scripts in order on both databases, and compares the results of each.
fn same(scripts: &[&str]) {
    let server = Server::start();
    for cache in [-2000, 5] {
        let name = format!("cache{cache}");
        let mut twins = Twins::new(&server, &name);
        twins.must(&format!("PRAGMA cache_size={cache}; PRAGMA foreign_keys=1"));
        for script in scripts {
            twins.must(script);
        }
        twins.check();
        twins.reopen();
        for script in scripts.iter().filter(|script| script.starts_with("SELECT")) {
            twins.must(script);
        }
        twins.check();
        let apart = server.open_apart(&name, 1);
        assert_same_content((&apart, "main"), (&twins.file, "main"));
    }
}

/// Numbers from 1 to 1000 as a common table expression `n (i)`.
const N: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)";

#[test]
fn triggers_and_views() {
    same(&[
        "CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT, balance INT CHECK (balance >= 0));
         CREATE TABLE audit (at INTEGER PRIMARY KEY AUTOINCREMENT, id INT, change INT);
         CREATE TRIGGER logged AFTER UPDATE OF balance ON account BEGIN
             INSERT INTO audit (id, change) VALUES (new.id, new.balance - old.balance); END;
         CREATE VIEW rich AS SELECT owner, balance FROM account WHERE balance > 50;
         CREATE TRIGGER through INSTEAD OF INSERT ON rich BEGIN
             INSERT INTO account (owner, balance) VALUES (new.owner, new.balance); END;",
        "INSERT INTO rich VALUES ('a', 100), ('b', 10), ('c', 60);
         UPDATE account SET balance = balance - 5;
         BEGIN; UPDATE account SET balance = 0; ROLLBACK;",
        "SELECT * FROM rich ORDER BY owner; SELECT * FROM audit; SELECT * FROM sqlite_sequence",
        "CREATE VIEW poor AS SELECT 1; DROP VIEW poor; DROP TRIGGER logged; UPDATE account SET balance = 1; SELECT count(*) FROM audit",
    ]);
}

#[test]
fn full_text_search() {
    same(&[
        "CREATE VIRTUAL TABLE doc USING fts5(title, body, tokenize = 'porter unicode61', prefix = '2 3')",
        &format!(
            "{N} INSERT INTO doc SELECT 'title ' || i, CASE i % 3 WHEN 0 THEN 'running fast ' WHEN 1 THEN 'walks slowly '
             ELSE 'jumped ' END || 'word' || i % 97 || ' ' || hex(zeroblob(i % 50)) FROM n"
        ),
        "SELECT count(*) FROM doc WHERE doc MATCH 'run'; SELECT rowid, snippet(doc, 1, '[', ']', '…', 4) FROM doc
             WHERE doc MATCH 'word3 AND jump*' ORDER BY rank, rowid",
        "UPDATE doc SET body = 'changed words' WHERE rowid % 10 = 0; DELETE FROM doc WHERE rowid % 7 = 0;
         INSERT INTO doc (doc) VALUES ('optimize'); INSERT INTO doc (doc) VALUES ('integrity-check')",
        "SELECT count(*) FROM doc WHERE doc MATCH 'change'; SELECT highlight(doc, 0, '<', '>') FROM doc
             WHERE doc MATCH 'title : 77'",
        "BEGIN; DELETE FROM doc; ROLLBACK; SAVEPOINT s; INSERT INTO doc VALUES ('x', 'y'); ROLLBACK TO s; RELEASE s;
         CREATE VIRTUAL TABLE terms USING fts5vocab(doc, row); SELECT term, doc FROM terms WHERE doc > 200",
    ]);
}

#[test]
fn r_tree() {
    same(&[
        "CREATE VIRTUAL TABLE place USING rtree(id, x1, x2, y1, y2, +name TEXT)",
        &format!("{N} INSERT INTO place SELECT i, i % 37, i % 37 + 2, i % 41, i % 41 + 3, 'place ' || i FROM n"),
        "SELECT id, name FROM place WHERE x1 >= 5 AND x2 <= 9 AND y1 > 10 AND y2 < 20 ORDER BY id",
        "DELETE FROM place WHERE id % 3 = 0; UPDATE place SET x2 = x2 + 100 WHERE id % 5 = 0;
         BEGIN; DELETE FROM place; ROLLBACK",
        "SELECT count(*), sum(x2) FROM place WHERE x2 > 50; SELECT rtreecheck('place')",
    ]);
}

#[test]
fn json() {
    same(&[
        "CREATE TABLE event (id INTEGER PRIMARY KEY, data TEXT CHECK (json_valid(data)),
             kind TEXT GENERATED ALWAYS AS (data ->> '$.kind') VIRTUAL, at INT AS (data ->> '$.at') STORED);
         CREATE INDEX event_kind ON event (kind, at); CREATE INDEX event_user ON event (data ->> '$.user.name')",
        &format!(
            "{N} INSERT INTO event (data) SELECT json_object('kind', 'k' || i % 7, 'at', i * 10,
                 'user', json_object('name', 'u' || i % 13), 'tags', json_array(i % 2, i % 3)) FROM n"
        ),
        "SELECT count(*), min(at) FROM event WHERE kind = 'k3'; SELECT id FROM event WHERE data ->> '$.user.name' = 'u5'
             ORDER BY id LIMIT 9; SELECT value, count(*) FROM event, json_each(data, '$.tags') GROUP BY 1 ORDER BY 1",
        "UPDATE event SET data = json_set(data, '$.kind', 'new', '$.extra', json('[1,2]')) WHERE id % 50 = 0;
         SELECT json_group_array(id) FROM event WHERE kind = 'new'; SELECT json_extract(jsonb(data), '$.extra') FROM event
             WHERE id = 50",
    ]);
}

#[test]
fn tables_without_rowid_strict_tables_and_foreign_keys() {
    same(&[
        "CREATE TABLE parent (a TEXT, b INT, c, PRIMARY KEY (a, b)) WITHOUT ROWID;
         CREATE TABLE child (id INTEGER PRIMARY KEY, a TEXT, b INT,
             FOREIGN KEY (a, b) REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE) STRICT;
         CREATE INDEX child_parent ON child (a, b)",
        &format!("{N} INSERT INTO parent SELECT 'p' || i % 100, i, hex(zeroblob(40)) FROM n"),
        "INSERT INTO child (a, b) SELECT a, b FROM parent, (SELECT 1 UNION SELECT 2)",
        "DELETE FROM parent WHERE a = 'p7'; UPDATE parent SET a = 'q' || b WHERE b % 9 = 0",
        "SELECT count(*), count(DISTINCT a) FROM child; SELECT * FROM parent WHERE a = 'q99'",
        "UPDATE parent SET c = NULL WHERE b < 100; INSERT INTO parent VALUES ('p1', 1, 'upsert')
             ON CONFLICT DO UPDATE SET c = excluded.c RETURNING a, c; DELETE FROM child WHERE id % 2 RETURNING id",
    ]);
}

#[test]
fn window_functions_common_tables_and_set_operations() {
    same(&[
        "CREATE TABLE sale (id INTEGER PRIMARY KEY, region TEXT, amount INT, boss INT)",
        &format!("{N} INSERT INTO sale SELECT i, 'r' || i % 5, i * 37 % 101, i / 2 FROM n"),
        "SELECT region, amount, rank() OVER w, sum(amount) OVER (w ROWS BETWEEN 2 PRECEDING AND CURRENT ROW),
             lag(amount, 1, 0) OVER w, ntile(4) OVER w FROM sale WINDOW w AS (PARTITION BY region ORDER BY amount, id)
             ORDER BY region, amount, id",
        "SELECT * FROM (WITH RECURSIVE up (id, depth) AS (SELECT 777, 0 UNION ALL SELECT boss, depth + 1 FROM up JOIN sale
             USING (id) WHERE boss > 0) SELECT * FROM up)",
        "SELECT amount FROM sale WHERE region = 'r1' INTERSECT SELECT amount FROM sale WHERE region = 'r2'
             EXCEPT SELECT amount FROM sale WHERE id < 100 ORDER BY 1",
        "SELECT region, group_concat(amount, '/') FILTER (WHERE id < 50) FROM sale GROUP BY region HAVING count(*) > 10",
    ]);
}

#[test]
fn large_values_and_many_columns() {
    let columns: Vec<String> = (0..500).map(|n| format!("c{n}")).collect();
    let values: Vec<String> = (0..500).map(|n| format!("'value {n}'")).collect();
    same(&[
        "CREATE TABLE big (id INTEGER PRIMARY KEY, b BLOB)",
        "INSERT INTO big VALUES (1, zeroblob(4000000)), (2, hex(zeroblob(1000000))), (3, x'00ff'), (4, NULL)",
        "SELECT id, length(b), typeof(b) FROM big; SELECT length(substr(b, 3999990)), quote(substr(b, 17, 3)) FROM big",
        "BEGIN; UPDATE big SET b = zeroblob(3000000) WHERE id = 2; ROLLBACK;
         UPDATE big SET b = b || 'x' WHERE id = 2; DELETE FROM big WHERE id = 1; INSERT INTO big VALUES (5, zeroblob(900000))",
        &format!("CREATE TABLE wide ({})", columns.join(", ")),
        &format!("INSERT INTO wide VALUES ({})", values.join(", ")),
        "SELECT c0, c250, c499 FROM wide",
    ]);
}

#[test]
fn blobs_are_read_and_written_in_place() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must("CREATE TABLE b (id INTEGER PRIMARY KEY, data); INSERT INTO b VALUES (1, zeroblob(3000000))");
    for db in [&twins.redis, &twins.file] {
        let mut blob = db.blob_open(MAIN_DB, "b", "data", 1, false).unwrap();
        for (at, text) in [(0, "start"), (1_234_567, "middle"), (2_999_997, "end")] {
            blob.seek(SeekFrom::Start(at)).unwrap();
            blob.write_all(text.as_bytes()).unwrap();
        }
        blob.seek(SeekFrom::Start(1_234_560)).unwrap();
        let mut part = [0; 20];
        blob.read_exact(&mut part).unwrap();
        assert_eq!(&part[7..13], b"middle");
        blob.close().unwrap();
        db.execute_batch("BEGIN").unwrap();
        let mut blob = db.blob_open(MAIN_DB, "b", "data", 1, false).unwrap();
        blob.write_all(b"never").unwrap();
        blob.close().unwrap();
        db.execute_batch("ROLLBACK").unwrap();
    }
    twins.must("SELECT quote(substr(data, 1, 6)), quote(substr(data, 2999990)) FROM b");
    twins.check();
}

#[test]
fn many_tables_and_changed_ones() {
    let create: String = (0..200).map(|n| format!("CREATE TABLE t{n} (a INTEGER PRIMARY KEY, b{n}); ")).collect();
    let drop: String = (0..200).step_by(3).map(|n| format!("DROP TABLE t{n}; ")).collect();
    same(&[
        &create,
        &format!("BEGIN; {create} ROLLBACK").replace("TABLE t", "TABLE u"),
        "INSERT INTO t1 VALUES (1, 'one'); INSERT INTO t2 VALUES (2, 'two')",
        &drop,
        "ALTER TABLE t1 RENAME TO first; ALTER TABLE first ADD COLUMN c DEFAULT 'default'; INSERT INTO first VALUES (2, 'b', 'c');
         ALTER TABLE first RENAME COLUMN b1 TO b; ALTER TABLE t2 ADD COLUMN d; ALTER TABLE t2 DROP COLUMN b2",
        "SELECT * FROM first; SELECT * FROM t2; SELECT count(*) FROM sqlite_schema",
        "CREATE TABLE copy AS SELECT * FROM first; DROP TABLE first; ALTER TABLE copy RENAME TO first; SELECT * FROM first",
    ]);
}

#[test]
fn indexes_that_need_a_large_sorter() {
    same(&[
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b, c)",
        &format!(
            "{N} INSERT INTO t (b, c) SELECT x.i * 7919 % 10007 || 'b', hex(zeroblob(60)) || y.i FROM n x, n y WHERE y.i <= 10"
        ),
        "CREATE INDEX one ON t (b, c); CREATE INDEX two ON t (c COLLATE NOCASE DESC) WHERE a % 2; CREATE UNIQUE INDEX three ON t (b, a)",
        "SELECT count(*), min(b), max(c) FROM t INDEXED BY two WHERE a % 2; SELECT a FROM t WHERE b = '5b' ORDER BY a",
        "REINDEX; ANALYZE; SELECT * FROM sqlite_stat1 ORDER BY 1, 2, 3; PRAGMA optimize; DROP INDEX one; REINDEX two",
        "SELECT c, count(*) FROM t GROUP BY c ORDER BY 2 DESC, 1 LIMIT 5; SELECT DISTINCT b FROM t ORDER BY b DESC LIMIT 3",
    ]);
}

#[test]
fn pragmas_about_the_database() {
    same(&[
        "PRAGMA encoding='UTF-16le'; PRAGMA application_id=4711; PRAGMA user_version=-3; CREATE TABLE t (a TEXT, b)",
        "INSERT INTO t VALUES ('größe', 1), ('日本語', 2.5), ('', NULL), ('😀', x'00')",
        "SELECT a, length(a), hex(a), typeof(b) FROM t",
        "PRAGMA integrity_check; PRAGMA quick_check; PRAGMA integrity_check(t); PRAGMA user_version; PRAGMA encoding;
         PRAGMA page_size; PRAGMA page_count; PRAGMA freelist_count; PRAGMA schema_version; PRAGMA table_info(t)",
        "PRAGMA secure_delete=1; DELETE FROM t WHERE a = ''; PRAGMA max_page_count=100; PRAGMA cell_size_check=1;
         PRAGMA wal_checkpoint; PRAGMA shrink_memory; SELECT count(*) FROM t",
    ]);
}

#[test]
fn a_database_may_grow_to_its_largest_page_count_and_no_further() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must("PRAGMA page_size=512; CREATE TABLE t (a); PRAGMA max_page_count=50");
    let full = twins.run("INSERT INTO t VALUES (zeroblob(10000)); INSERT INTO t VALUES (zeroblob(20000))");
    assert_eq!(full.code, Some(13));
    twins.must("INSERT INTO t VALUES (1); SELECT length(a) FROM t; PRAGMA page_count");
    twins.check();
}

#[test]
fn temporary_tables_and_databases_in_memory_do_not_reach_redis() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must("CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    let before = server.stored("shop");
    twins.must(
        "CREATE TEMP TABLE x AS SELECT * FROM t; ATTACH ':memory:' AS mem; CREATE TABLE mem.y (a); INSERT INTO y SELECT * FROM t;
         CREATE TEMP TABLE large (b); PRAGMA temp.cache_size=5; BEGIN",
    );
    twins.must(&format!("{N} INSERT INTO large SELECT randomblob(500) FROM n; COMMIT"));
    twins.must("SELECT count(*) FROM large; SELECT * FROM x JOIN y USING (a) JOIN t USING (a); DETACH mem; PRAGMA temp_store=2");
    assert_eq!(server.stored("shop"), before);
    assert_eq!(server.redis_cli(&["DBSIZE"]), "2", "the hash and the log");
    twins.check();
}

#[test]
fn time_and_random_functions_use_the_system_vfs() {
    let server = Server::start();
    let db = server.open("shop");
    let year = rows(&db, "SELECT strftime('%Y', 'now') >= '2024', length(randomblob(8)), random() <> random()");
    assert_eq!(year, rows(&Connection::open_in_memory().unwrap(), "SELECT 1, 8, 1"));
}
