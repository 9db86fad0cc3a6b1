//! The virtual table in programs that load the extension: Debian's `sqlite3` and `python3` with SQLite 3.40. The main
//! database is an ordinary file.

use sqlite_redis_tests::vtab::{check_keys, table};
use sqlite_redis_tests::{Server, hosts, number, text};

const COLUMNS: &str = "name TEXT UNIQUE, price REAL INDEXED, kind INT INDEXED NOT NULL";

#[test]
fn the_sqlite3_shell_keeps_rows_in_redis_beside_a_file() {
    let server = Server::start();
    let file = server.directory().join("plain.sqlite");
    let script = format!(
        ".open {file}
         CREATE TABLE kind (id INTEGER PRIMARY KEY, word TEXT);
         INSERT INTO kind VALUES (1, 'drink'), (2, 'food');
         CREATE VIRTUAL TABLE item USING redis('{url}', p, {COLUMNS});
         INSERT INTO item VALUES ('tea', 3.5, 1), ('milk', 1.2, 1), ('bread', 2.8, 2);
         BEGIN; UPDATE item SET price = 100; UPDATE kind SET word = 'x'; ROLLBACK;
         BEGIN; UPDATE item SET price = price * 2 WHERE kind = 1; UPDATE kind SET word = 'drinks' WHERE id = 1; COMMIT;
         .open {file}
         SELECT name, word FROM item JOIN kind ON kind.id = item.kind WHERE price BETWEEN 2 AND 6 ORDER BY price;
         EXPLAIN QUERY PLAN SELECT * FROM item WHERE price > 2;
         SELECT name FROM item ORDER BY price LIMIT 1 OFFSET 1;
         SELECT min(kind), max(price) FROM item;
         INSERT INTO item VALUES ('tea', 1, 1);
         SELECT redis_create_index('item', 'kind');
         ALTER TABLE item RENAME TO goods;
         SELECT count(*) FROM redis_keys('{url}', 'p.main.goods:*');
         PRAGMA integrity_check;",
        file = file.display(),
        url = server.url(),
    );
    let said = hosts::sqlite3(&script, &[]);
    let plan = "QUERY PLAN\n`--SCAN item VIRTUAL TABLE INDEX 8:1>' index price (price>?)";
    let expected = format!("milk|drinks\nbread|food\n{plan}\nbread\n1|7.0\n0\n3\nok");
    assert_eq!(said.out, expected, "{said:?}");
    assert!(said.err.contains("UNIQUE constraint failed: item.name"), "{said:?}");
    assert_eq!(check_keys_of(&server, "goods"), 3);
}

/// Keys hold a real as SQLite prints it; the sorted set rounds it to six decimals.
fn check_keys_of(server: &Server, name: &str) -> usize {
    let dropped = sqlite_redis_tests::vtab::connect();
    sqlite_redis_tests::vtab::create(&dropped, &server.url(), name, "name TEXT, price REAL, kind INT").unwrap();
    number(&dropped, &format!("SELECT redis_drop_index('{name}', 'price')"));
    check_keys(server, name)
}

#[test]
fn python_reads_the_same_rows_on_every_connection() {
    let server = Server::start();
    let script = r"
columns = 'id INTEGER PRIMARY KEY, word TEXT UNIQUE, n INT INDEXED'
def open_one(name):
    c = sqlite3.connect(os.path.join(os.environ['DIRECTORY'], name), isolation_level=None)
    load(c)
    c.execute(f'''CREATE VIRTUAL TABLE IF NOT EXISTS t USING redis('{os.environ['AT']}', p, {columns})''')
    return c
one, two = open_one('one.sqlite'), open_one('two.sqlite')
one.executemany('INSERT INTO t (word, n) VALUES (?, ?)', [(f'w{i}', i % 7) for i in range(50)])
say(two.execute('SELECT count(*), max(n) FROM t WHERE n >= 3').fetchone())
say(two.execute('INSERT INTO t (word, n) VALUES (?, ?) RETURNING word', ('late', None)).fetchall())
one.execute('BEGIN')
one.execute('UPDATE t SET n = 70 WHERE id = 1')
two.execute('UPDATE t SET n = 71 WHERE id = 1')
try:
    one.execute('COMMIT')
except sqlite3.OperationalError as error:
    say('another client' in str(error), one.in_transaction)
try:
    two.execute('INSERT INTO t (word) VALUES (?)', ('late',))
except sqlite3.IntegrityError as error:
    say(error)
one.close()
say(open_one('one.sqlite').execute('SELECT id, n FROM t WHERE n > 6 OR n IS NULL').fetchall())
";
    let directory = server.directory().display().to_string();
    let Some(said) = hosts::run_python(script, &[("AT", &server.url()), ("DIRECTORY", &directory)]) else { return };
    let expected = "(28, 6)\n[('late',)]\nTrue False\nUNIQUE constraint failed: t.word\n[(1, 71), (51, None)]";
    assert_eq!(said.out, expected, "{said:?}");
    assert_eq!(check_keys(&server, "t"), 51);
    assert_eq!(text(&table(&server, "word TEXT"), "SELECT word FROM t WHERE rowid = 51"), "late");
}
