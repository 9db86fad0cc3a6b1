//! The extension in programs that bring their own SQLite: Debian's `sqlite3` and `python3`, and Node's `better-sqlite3`,
//! which is compiled without URI file names.

use std::process::Output;

use sqlite_redis_tests::hosts::{self, Beside, Said};
use sqlite_redis_tests::{Server, check_integrity, number, text};

fn run_node(script: &str, environment: &[(&str, &str)]) -> Option<Said> {
    Some(Output::into(hosts::node(script, environment)?.output().expect("node")))
}

const SHOP: &str = "
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, price REAL);
CREATE INDEX by_price ON item (price);
INSERT INTO item (name, price) VALUES ('tea', 3.5), ('milk', 1.2), ('bread', 2.8);
";

#[test]
fn the_sqlite3_shell_creates_queries_and_changes() {
    let server = Server::start();
    let script = format!(
        ".open 'file:shop?vfs=redis&redis={}'\n{SHOP}\n.mode list\n
         SELECT name FROM item WHERE price > 2 ORDER BY price;
         BEGIN; UPDATE item SET price = 100; ROLLBACK;
         BEGIN; UPDATE item SET price = price * 2; COMMIT;
         SELECT sum(price) FROM item;
         .tables
         PRAGMA integrity_check;
         .vfsname",
        server.url()
    );
    let said = hosts::sqlite3(&script, &[]);
    assert!(said.ok, "{said:?}");
    assert_eq!(said.out, "bread\ntea\n15.0\nitem\nok\nredis", "{said:?}");
    assert_eq!(said.err, "");
    assert_eq!(number(&server.open("shop"), "SELECT count(*) FROM item"), 3);
}

#[test]
fn the_sqlite3_shell_attaches_copies_and_backs_up() {
    let server = Server::start();
    let file = server.directory().join("plain.sqlite");
    let script = format!(
        "CREATE TABLE local (x); INSERT INTO local VALUES (1), (2);
         ATTACH 'file:shop?vfs=redis&redis={url}' AS shop;
         CREATE TABLE shop.copy AS SELECT x FROM local;
         SELECT sum(x) FROM shop.copy;
         DETACH shop;
         .open 'file:shop?vfs=redis&redis={url}'
         .backup {file}
         VACUUM INTO 'file:compact?vfs=redis&redis={url}';
         .open {file}
         SELECT count(*) FROM copy;
         .open 'file:compact?vfs=redis&redis={url}'
         SELECT max(x) FROM copy;",
        url = server.url(),
        file = file.display()
    );
    let said = hosts::sqlite3(&script, &[]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("3\n2\n2", ""));
    check_integrity(&server.open("compact"));
}

#[test]
fn the_sqlite3_shell_shows_the_reason_of_an_error() {
    let script = "
.open 'file:shop?vfs=redis&redis=unix:///nowhere/redis.sock'
SELECT 1 FROM sqlite_master;
.open ':memory:'
SELECT redis_last_error();
.open 'file:shop?vfs=redis&cashe_size=1'
.open ':memory:'
SELECT redis_last_error();
";
    let said = hosts::sqlite3(script, &[]);
    let mut lines = said.out.lines();
    let why = lines.next().unwrap_or_default();
    assert!(why.contains("database `shop` on unix:///nowhere/redis.sock: can't connect"), "{said:?}");
    let why = lines.next().unwrap_or_default();
    assert!(why.contains("unknown URI parameter cashe_size"), "{said:?}");
    assert!(said.err.contains("unable to open database"), "{said:?}");
}

#[test]
fn the_extension_can_be_loaded_more_than_once() {
    let server = Server::start();
    let script = format!(
        ".load {path}
         .load {path} sqlite3_extension_init
         .load {path} sqlite3_sqliteredis_init
         .open 'file:shop?vfs=redis&redis={url}'
         CREATE TABLE t (x); INSERT INTO t VALUES (5);
         .load {path}
         SELECT x, redis_last_error() IS NULL FROM t;
         SELECT load_extension('{path}') IS NULL;
         INSERT INTO t VALUES (6);
         SELECT count(*) FROM t;",
        path = hosts::extension().display(),
        url = server.url()
    );
    let said = hosts::sqlite3(&script, &[]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("5|1\n1\n2", ""));
}

#[test]
fn the_environment_can_make_redis_the_default_vfs() {
    let server = Server::start();
    let url = server.url();
    let script = ".open plain_name\nCREATE TABLE t (x); INSERT INTO t VALUES (1);\n.vfsname\nSELECT count(*) FROM t;";
    let said = hosts::sqlite3(script, &[("SQLITE_REDIS_URL", &url), ("SQLITE_REDIS_DEFAULT_VFS", "1")]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("redis\n1", ""));
    assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{plain_name}"]), "1");

    let file = server.directory().join("a_file");
    let script = format!(".open {}\nCREATE TABLE t (x);\n.vfsname", file.display());
    let said = hosts::sqlite3(&script, &[("SQLITE_REDIS_URL", &url), ("SQLITE_REDIS_DEFAULT_VFS", "0")]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("unix", ""));
    assert!(file.exists());

    let said = hosts::sqlite3("SELECT 1;", &[("SQLITE_REDIS_DEFAULT_VFS", "perhaps")]);
    assert!(said.err.contains("SQLITE_REDIS_DEFAULT_VFS=perhaps: expected 0 or 1"), "{said:?}");
}

#[test]
fn python_creates_queries_and_changes() {
    let server = Server::start();
    let script = format!(
        "
db = connect('file:shop?vfs=redis')
db.executescript('''{SHOP}''')
say([row[0] for row in db.execute('SELECT name FROM item WHERE price > ? ORDER BY price', (2,))])
db.execute('BEGIN')
db.executemany('INSERT INTO item (name, price) VALUES (?, ?)', ((str(n), n) for n in range(100)))
db.execute('ROLLBACK')
db.execute('BEGIN')
db.executemany('INSERT INTO item (name, price) VALUES (?, ?)', ((str(n), n) for n in range(100)))
db.execute('COMMIT')
say(db.execute('SELECT count(*), sum(price) FROM item').fetchone())
db.create_function('twice', 1, lambda x: 2 * x)
say(db.execute('SELECT twice(price) FROM item WHERE name = ?', ('tea',)).fetchone()[0])
copy = sqlite3.connect(':memory:')
db.backup(copy)
say(copy.execute('SELECT count(*) FROM item').fetchone()[0])
back = connect('file:back?vfs=redis')
copy.backup(back)
say(back.execute('PRAGMA integrity_check').fetchone()[0])
"
    );
    let Some(said) = hosts::run_python(&script, &[("SQLITE_REDIS_URL", &server.url())]) else { return };
    assert_eq!(said.out, "['bread', 'tea']\n(103, 4957.5)\n7.0\n103\nok", "{said:?}");
    assert_eq!(number(&server.open("back"), "SELECT count(*) FROM item"), 103);
}

#[test]
fn the_vfs_outlives_the_connection_that_loaded_it() {
    let server = Server::start();
    let script = "
loader.close()
del loader
import gc
gc.collect()
for n in range(3):
    db = connect('file:shop?vfs=redis')
    db.execute('CREATE TABLE IF NOT EXISTS t (x)')
    db.execute('INSERT INTO t VALUES (1)')
    say(db.execute('SELECT count(*), redis_last_error() FROM t').fetchone())
    db.close()
";
    let Some(said) = hosts::run_python(script, &[("SQLITE_REDIS_URL", &server.url())]) else { return };
    assert_eq!(said.out, "(1, None)\n(2, None)\n(3, None)", "{said:?}");
}

#[test]
fn python_shows_the_reason_of_an_error() {
    let server = Server::with(["--requirepass", "secret"]).start();
    let script = "
try:
    connect('file:shop?vfs=redis').execute('SELECT 1 FROM sqlite_master')
except sqlite3.Error as error:
    say(type(error).__name__, error)
say(loader.execute('SELECT redis_last_error()').fetchone()[0])
";
    let Some(said) = hosts::run_python(script, &[("SQLITE_REDIS_URL", &server.url())]) else { return };
    let lines: Vec<_> = said.out.lines().collect();
    assert!(lines[0].contains("authorization denied") || lines[0].contains("unable to open"), "{said:?}");
    assert!(lines[1].starts_with("database `shop` on unix://"), "{said:?}");
    assert!(lines[1].contains("refuses the user or password"), "{said:?}");
    assert!(!said.out.contains("secret"));
}

#[test]
fn threads_of_python_share_a_database() {
    let server = Server::start();
    let script = "
import threading
connect('file:shop?vfs=redis').execute('CREATE TABLE t (x)')
def work():
    db = connect('file:shop?vfs=redis', timeout=60)
    for n in range(25):
        db.execute('INSERT INTO t VALUES (?)', (n,))
    db.close()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
say(connect('file:shop?vfs=redis').execute('SELECT count(*), sum(x) FROM t').fetchone())
";
    let Some(said) = hosts::run_python(script, &[("SQLITE_REDIS_URL", &server.url())]) else { return };
    assert_eq!(said.out, "(100, 1200)", "{said:?}");
}

/// `better-sqlite3` can't open `file:shop?vfs=redis`, so the environment makes the VFS the default.
const NODE: &str = "
const Database = require('better-sqlite3');
new Database(':memory:').loadExtension(process.env.EXTENSION);
";

#[test]
fn node_creates_queries_and_changes() {
    let server = Server::start();
    let script = format!(
        "{NODE}
const db = new Database('shop');
db.exec(`{SHOP}`);
console.log(db.prepare('SELECT name FROM item WHERE price > ? ORDER BY price').pluck().all(2).join());
const insert = db.prepare('INSERT INTO item (name, price) VALUES (?, ?)');
const many = db.transaction(rows => {{ for (const row of rows) insert.run(row); }});
many([['rice', 4], ['salt', 1]]);
try {{ many([['oil', 9], ['tea', 1]]); }} catch (error) {{ console.log(error.code); }}
console.log(db.prepare('SELECT count(*) FROM item').pluck().get());
console.log(db.pragma('integrity_check', {{ simple: true }}));
try {{ new Database('missing', {{ fileMustExist: true }}); }} catch (error) {{ console.log(error.code); }}
console.log(db.prepare('SELECT redis_last_error()').pluck().get());
db.close();
"
    );
    let url = server.url();
    let environment = [("SQLITE_REDIS_URL", url.as_str()), ("SQLITE_REDIS_DEFAULT_VFS", "1")];
    let Some(said) = run_node(&script, &environment) else { return };
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines[..5], ["bread,tea", "SQLITE_CONSTRAINT_UNIQUE", "5", "ok", "SQLITE_CANTOPEN"], "{said:?}");
    assert!(lines[5].contains("database `missing` on unix://") && lines[5].contains("no such database"), "{said:?}");
    assert_eq!(text(&server.open("shop"), "SELECT price FROM item WHERE name = 'rice'"), "4");
}

#[test]
fn several_hosts_use_one_database_at_once() {
    let server = Server::start();
    let url = server.url();
    let connection = server.open("shop");
    connection.execute_batch("CREATE TABLE t (host TEXT, n INTEGER)").unwrap();
    let python = "
db = connect('file:shop?vfs=redis', timeout=120)
for n in range(30):
    db.execute('INSERT INTO t VALUES (?, ?)', ('python', n))
say(db.execute('SELECT count(*) FROM t WHERE host = ?', ('python',)).fetchone()[0])
";
    let node = format!(
        "{NODE}
const db = new Database('shop', {{ timeout: 120000 }});
for (let n = 0; n < 30; n++) db.prepare('INSERT INTO t VALUES (?, ?)').run('node', n);
console.log(db.prepare(\"SELECT count(*) FROM t WHERE host = 'node'\").pluck().get());
"
    );
    let mut expected = 0;
    let mut beside = Vec::new();
    let default = [("SQLITE_REDIS_URL", url.as_str()), ("SQLITE_REDIS_DEFAULT_VFS", "1")];
    for command in [hosts::python(python, &default[..1]), hosts::node(&node, &default)].into_iter().flatten() {
        beside.push(Beside::start(command));
        expected += 30;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let inserts: String = (0..30).map(|n| format!("INSERT INTO t VALUES ('sqlite3', {n});\n")).collect();
            let script = format!(".open 'file:shop?vfs=redis'\n.timeout 120000\n{inserts}");
            let said = hosts::sqlite3(&script, &default[..1]);
            assert_eq!(said.err, "");
        });
        for n in 0..30 {
            connection.execute("INSERT INTO t VALUES ('rust', ?1)", [n]).unwrap();
        }
    });
    for mut program in beside {
        assert_eq!(program.hear().as_deref(), Some("30"));
        assert!(program.end());
    }
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), expected + 60);
    assert_eq!(number(&connection, "SELECT count(DISTINCT host || n) FROM t"), expected + 60);
    check_integrity(&connection);
}
