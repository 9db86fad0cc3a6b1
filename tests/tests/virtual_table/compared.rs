//! Queries give the answer of an ordinary table also for values that share an index key, or that SQLite compares in
//! another order than the index stores them.

use rusqlite::functions::FunctionFlags;
use rusqlite::types::Value;
use rusqlite::{Connection, params};
use sqlite_redis_tests::{Server, number};

/// An ordinary table `o` and a virtual one `t` of the same definition.
fn pair(server: &Server, encoding: &str, columns: &str) -> Connection {
    sqlite_redis::register().unwrap();
    let connection = Connection::open_in_memory().unwrap();
    let plain = columns.replace(" INDEXED", "");
    connection
        .execute_batch(&format!(
            "PRAGMA encoding='{encoding}'; CREATE TABLE o ({plain});
             CREATE VIRTUAL TABLE t USING redis('{}', p, {columns})",
            server.url()
        ))
        .unwrap();
    connection
}

fn rows(connection: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = connection.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|n| row.get(n)).collect());
    rows.unwrap().collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Runs a statement on both tables; `{}` stands for the table's name.
fn write(connection: &Connection, sql: &str) {
    for table in ["o", "t"] {
        connection.execute_batch(&sql.replace("{}", table)).unwrap();
    }
}

/// Asserts that both tables answer a query alike, and returns the number of rows.
fn same(connection: &Connection, sql: &str) -> usize {
    let [ordinary, ours] = ["o", "t"].map(|table| rows(connection, &sql.replace("{}", table)));
    assert_eq!(ours, ordinary, "{sql}");
    ours.len()
}

#[test]
fn an_offset_counts_only_rows_that_match_the_condition() {
    let server = Server::start();
    let connection = pair(&server, "UTF-8", "id INTEGER PRIMARY KEY, a INDEXED, b");
    write(&connection, "INSERT INTO {} VALUES (1, 1, 1), (2, 1, 2), (3, 3, 3), (4, 4, 9), (5, 5, 5)");
    for condition in ["a = b", "a < b", "a IS b", "b >= a", "b = abs(a)", "a IN (b, 3)", "id < b", "(a, b) > (1, 1)"] {
        for offset in 0..4 {
            let sql = format!("SELECT * FROM {{}} WHERE {condition} ORDER BY id LIMIT 2 OFFSET {offset}");
            same(&connection, &sql);
        }
    }
    assert_eq!(same(&connection, "SELECT * FROM {} WHERE a = b ORDER BY id LIMIT 9 OFFSET 1"), 2);
}

#[test]
fn an_offset_counts_each_row_of_a_shared_key() {
    let server = Server::start();
    let connection = pair(&server, "UTF-8", "id INTEGER PRIMARY KEY, a REAL INDEXED, b INDEXED");
    write(
        &connection,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO {} SELECT i, 1700000000.0 + i * 0.000001, CASE i % 3 WHEN 0 THEN i / 9 WHEN 1 THEN '' || (i / 9)
         ELSE CAST('' || (i / 9) AS BLOB) END FROM n",
    );
    for offset in [0, 499, 500, 1000, 1999, 2000] {
        for query in ["SELECT a FROM {} ORDER BY a", "SELECT b FROM {} ORDER BY b DESC", "SELECT b FROM {} ORDER BY b"]
        {
            same(&connection, &format!("{query} LIMIT 5 OFFSET {offset}"));
        }
    }
    // An index can't decide `a = a`, so the rows before the OFFSET are read.
    same(&connection, "SELECT id FROM {} WHERE id > 3 AND a = a AND b IS b ORDER BY id LIMIT 5 OFFSET 600");
    same(&connection, "SELECT a FROM {} WHERE a > 0 AND typeof(b) = 'text' ORDER BY a LIMIT 5 OFFSET 600");
}

#[test]
fn integers_that_share_a_score_are_compared_exactly_in_a_subquery() {
    let server = Server::start();
    let connection = pair(&server, "UTF-8", "id INTEGER PRIMARY KEY, a INT INDEXED");
    let large = 9_007_199_254_740_992i64;
    write(&connection, &format!("INSERT INTO {{}} SELECT value, {large} + value FROM json_each('[0, 1, 2, 3]')"));
    write(
        &connection,
        "INSERT INTO {} VALUES (7, 9223372036854775807), (8, 9223372036854775808.0), (9, 9223372036854775806)",
    );
    connection.execute_batch("CREATE TABLE x (x INT); INSERT INTO x SELECT a FROM o").unwrap();
    for (operator, order) in [(">", "a"), ("<", "a DESC"), (">=", "a"), ("<=", "a DESC"), ("=", "a")] {
        for offset in 0..2 {
            let page =
                format!("SELECT a FROM {{}} AS y WHERE y.a {operator} x.x ORDER BY {order} LIMIT 1 OFFSET {offset}");
            same(&connection, &format!("SELECT x, ({page}) FROM x"));
        }
    }
    same(&connection, "SELECT a FROM {} ORDER BY a");
    same(&connection, "SELECT a FROM {} ORDER BY a DESC LIMIT 3");
}

#[test]
fn text_is_compared_in_the_encoding_of_the_database() {
    let server = Server::start();
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        server.redis_cli(&["FLUSHALL"]);
        let connection = pair(&server, encoding, "a TEXT INDEXED CHECK (a < '\u{fffd}'), b INT INDEXED");
        let texts = ["a", "b", "Ā", "ÿ", "～", "😀", "z", "aa", "£5"];
        for (n, item) in texts.iter().enumerate() {
            for table in ["o", "t"] {
                // Whether the CHECK accepts the text depends on the encoding.
                let _ =
                    connection.execute(&format!("INSERT INTO {table} VALUES (?, ?)"), params![item, (n % 4) as i64]);
            }
        }
        assert!(number(&connection, "SELECT count(*) FROM t") > 5, "{encoding}");
        for operand in texts {
            for operator in ["=", "<", ">=", "LIKE", "GLOB"] {
                same(&connection, &format!("SELECT a FROM {{}} WHERE a {operator} '{operand}' ORDER BY a"));
            }
            same(
                &connection,
                &format!("SELECT a FROM {{}} WHERE a LIKE '{operand}%' AND b >= 1 ORDER BY a DESC LIMIT 3"),
            );
        }
        same(&connection, "SELECT a FROM {} ORDER BY a DESC LIMIT 3");
        same(&connection, "SELECT max(a), min(a), count(DISTINCT a) FROM {}");
    }
}

#[test]
fn comparisons_with_another_tables_number_apply_its_affinity() {
    let server = Server::start();
    let connection = pair(&server, "UTF-8", "id INTEGER PRIMARY KEY, a INDEXED, b TEXT INDEXED, c INDEXED");
    connection.execute_batch("CREATE TABLE n (x INTEGER); INSERT INTO n VALUES (5), ('!'), (6.5)").unwrap();
    for (n, item) in ["'5'", "5", "'5.0'", "'05'", "6", "'x'", "x'35'", "' 6.5'", "NULL", "'~'"].iter().enumerate() {
        write(&connection, &format!("INSERT INTO {{}} VALUES ({n}, {item}, {item}, 1)"));
    }
    let mut found = 0;
    for operand in [
        "(SELECT x FROM n)",
        "CAST(5 AS INTEGER)",
        "CAST('5' AS TEXT)",
        "5",
        "'5'",
        "(SELECT x FROM n WHERE rowid = 2)",
    ] {
        for operator in ["=", "<", "<=", ">", ">="] {
            for column in ["a", "b"] {
                let sql = format!("SELECT id FROM {{}} WHERE {column} {operator} {operand}");
                found += same(&connection, &format!("{sql} ORDER BY id"));
                same(&connection, &format!("{sql} AND c = 1 ORDER BY {column}, id"));
                same(
                    &connection,
                    &format!("SELECT id FROM {{}} WHERE c = 1 AND {column} {operator} {operand} ORDER BY id"),
                );
            }
        }
    }
    assert!(found > 100, "{found}");
    same(&connection, "SELECT id FROM {} WHERE a IN (SELECT x FROM n) ORDER BY id");
    same(&connection, "SELECT n.x, y.id FROM n JOIN {} AS y ON y.a < n.x ORDER BY 1, 2");
    same(&connection, "SELECT n.x, y.id FROM n LEFT JOIN {} AS y ON y.b = n.x ORDER BY 1, 2");
    // The open transaction's own rows are compared in the same way.
    connection.execute_batch("BEGIN").unwrap();
    write(&connection, "INSERT INTO {} VALUES (20, '5', '5', 1), (21, 5.0, 5.0, 1)");
    same(&connection, "SELECT id FROM {} WHERE a IN (SELECT x FROM n) ORDER BY id");
    same(&connection, "SELECT id FROM {} WHERE a = CAST(5 AS INTEGER) ORDER BY id");
    write(&connection, "DELETE FROM {} WHERE a IN (SELECT x FROM n)");
    connection.execute_batch("COMMIT").unwrap();
    same(&connection, "SELECT * FROM {} ORDER BY id");
}

#[test]
fn an_overridden_like_function_is_called_for_each_row() {
    let server = Server::start();
    let connection = pair(&server, "UTF-8", "a TEXT INDEXED");
    write(&connection, "INSERT INTO {} VALUES ('Ärger'), ('arger'), ('berg'), ('A' || char(0) || 'b'), (x'6162')");
    for pattern in ["'a%'", "'a' || char(0) || 'c%'", "'b%'", "'Ä%'"] {
        same(&connection, &format!("SELECT a FROM {{}} WHERE a LIKE {pattern} ORDER BY a"));
        same(&connection, &format!("SELECT a FROM {{}} WHERE a GLOB replace({pattern}, '%', '*') ORDER BY a"));
    }
    let uses_index = || {
        let sql = "EXPLAIN QUERY PLAN SELECT a FROM t WHERE a LIKE 'a%'";
        connection.query_row(sql, [], |row| row.get::<_, String>(3)).unwrap().contains("a LIKE ?")
    };
    assert!(uses_index());
    let plain = |text: String| text.replace(['ä', 'Ä', 'A'], "a");
    connection
        .create_scalar_function("like", 2, FunctionFlags::SQLITE_UTF8, move |context| {
            let (pattern, value): (String, Option<String>) = (context.get(0)?, context.get(1).ok());
            Ok(value.is_some_and(|value| plain(value).starts_with(plain(pattern).trim_end_matches('%'))))
        })
        .unwrap();
    assert!(!uses_index());
    assert_eq!(same(&connection, "SELECT a FROM {} WHERE a LIKE 'a%' ORDER BY a"), 3);
}

#[test]
fn like_with_escape_matches_blobs_and_numbers() {
    let server = Server::start();
    let connection = pair(&server, "UTF-8", "id INTEGER PRIMARY KEY, a INDEXED, b TEXT INDEXED");
    write(
        &connection,
        "INSERT INTO {} VALUES (1, 'a%b', 'a%b'), (2, x'612562', x'612562'), (3, 1.5e300, 'a%'), (4, 'b', 'b')",
    );
    connection.execute_batch("PRAGMA case_sensitive_like=ON").unwrap();
    for column in ["a", "b"] {
        for pattern in ["'a!%%' ESCAPE '!'", "'1.5e%' ESCAPE '!'", "'a%'"] {
            same(&connection, &format!("SELECT id FROM {{}} WHERE {column} LIKE {pattern} ORDER BY id"));
        }
    }
    assert_eq!(same(&connection, "SELECT id FROM {} WHERE b LIKE 'a!%%' ESCAPE '!' ORDER BY id"), 3);
}

#[test]
fn numbers_of_other_programs_get_the_columns_affinity() {
    let server = Server::start();
    let columns = "id INTEGER PRIMARY KEY, i INTEGER, n NUMERIC, r REAL, x TEXT";
    let connection = pair(&server, "UTF-8", columns);
    let texts = [
        "5",
        "5.0",
        " 5 ",
        "05",
        "+5",
        "1e3",
        "0x10",
        ".5",
        "5.",
        "-0",
        "9007199254740992.0",
        "-2251799813685248.0",
        "1e15",
        "1e18",
        "9223372036854774784.0",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808.0",
        "1e400",
        "abc",
        "",
    ];
    for (n, item) in texts.iter().enumerate() {
        let id = n.to_string();
        connection.execute("INSERT INTO o VALUES (?, ?2, ?2, ?2, ?2)", params![id, item]).unwrap();
        server.redis_cli(&["HSET", &format!("p.main.t:{n}"), "i", item, "n", item, "r", item, "x", item]);
        server.redis_cli(&["ZADD", "p.main.t.index.rowid", &id, &id]);
    }
    assert_eq!(same(&connection, "SELECT id, quote(i), quote(n), quote(r), quote(x) FROM {} ORDER BY id"), texts.len());
}

#[test]
fn a_query_fails_when_its_index_is_dropped_midway() {
    let server = Server::start();
    let connection = pair(&server, "UTF-8", "id INTEGER PRIMARY KEY, a INT INDEXED");
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO {} SELECT i, i FROM n";
    write(&connection, fill);
    let other = Connection::open_in_memory().unwrap();
    other
        .execute_batch(&format!(
            "CREATE VIRTUAL TABLE t USING redis('{}', p, id INTEGER PRIMARY KEY, a INT)",
            server.url()
        ))
        .unwrap();
    let mut statement = connection.prepare("SELECT a FROM t WHERE a > 0 ORDER BY a").unwrap();
    let mut found = statement.query([]).unwrap();
    assert!(found.next().unwrap().is_some());
    assert_eq!(number(&other, "SELECT redis_drop_index('t', 'a')"), 1);
    let mut read = 1;
    let refused = loop {
        match found.next() {
            Ok(Some(_)) => read += 1,
            Ok(None) => panic!("the query ended without an error after {read} of 3000 rows"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(refused.contains("the index on `a` was changed by another client"), "{refused}");
    drop(found);
    // The next query reads the rows without the index.
    assert_eq!(same(&connection, "SELECT a FROM {} WHERE a > 0 ORDER BY a"), 3000);
}

#[test]
fn a_row_skipped_by_or_ignore_leaves_no_error_message() {
    let server = Server::start();
    let connection = pair(&server, "UTF-8", "id INTEGER PRIMARY KEY, a UNIQUE");
    write(&connection, "INSERT INTO {} VALUES (1, 5)");
    let messages = ["o", "t"].map(|table| {
        let sql = format!("INSERT OR IGNORE INTO {table} SELECT 2, 5 UNION ALL SELECT 9.5, 6");
        connection.execute_batch(&sql).unwrap_err().to_string()
    });
    assert_eq!(messages, ["datatype mismatch"; 2]);
    assert_eq!(same(&connection, "SELECT * FROM {}"), 1);
}
