//! Databases in Redis through the shell and its commands, on private servers.

mod common;

use std::fs;
use std::thread;

use common::{Home, has_redis, skipped, sqlite3};

/// Whether a server listens in this home.
fn server_runs(home: &Home) -> bool {
    std::os::unix::net::UnixStream::connect(home.data().join("redis.sock")).is_ok()
}

#[test]
fn data_stays_in_the_private_server_from_shell_to_shell() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    let run = home.run(&["shop", "CREATE TABLE t(a); INSERT INTO t VALUES (42)"], "");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    assert!(run.stderr.starts_with("Private Redis in ~/data/sqlite-redis (unix socket;"), "{run:?}");
    assert!(!server_runs(&home));
    assert_eq!(home.ok(&["shop", "SELECT a FROM t", ".vfsname"], ""), "42\nredis\n");
    assert_eq!(home.ok(&["file:shop?vfs=redis", "SELECT a FROM t"], ""), "42\n");
    assert_eq!(home.ok(&[], "ATTACH 'file:shop?vfs=redis' AS s; SELECT a FROM s.t;\n"), "42\n");
    assert_eq!(
        home.ok(&["other"], "ATTACH 'shop' AS s; SELECT a FROM s.t;\n.open shop\nSELECT a + 1 FROM t;"),
        "42\n43\n"
    );
    assert!(!server_runs(&home));
}

#[test]
fn shells_share_the_private_server_and_the_last_one_stops_it() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    home.ok(&["shop", "CREATE TABLE t(a)"], "");
    thread::scope(|scope| {
        for i in 0..6 {
            let home = &home;
            scope.spawn(move || home.ok(&["shop", &format!("INSERT INTO t VALUES ({i})")], ""));
        }
    });
    assert!(!server_runs(&home));
    assert_eq!(home.ok(&["shop", "SELECT count(DISTINCT a) FROM t"], ""), "6\n");
}

#[test]
fn a_server_whose_shell_was_killed_is_picked_up_and_stopped() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    let mut child = home.start(&["shop"]);
    while !server_runs(&home) {
        thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(server_runs(&home));
    let run = home.run(&["shop", "SELECT 1"], "");
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("1\n", ""));
    assert!(!server_runs(&home));
}

#[test]
fn no_redis_server_is_an_error_that_says_how_to_get_one() {
    let home = Home::new();
    let output = home.command(&["shop", "SELECT 1"]).env("PATH", "/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("apt install redis-server") && text.contains("--redis URL"), "{text}");
}

#[test]
fn a_server_that_does_not_start_shows_its_log() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    fs::create_dir_all(home.data().join("redis.sock/x")).unwrap();
    let run = home.run(&["shop", "SELECT 1"], "");
    assert_eq!(run.code, 1);
    // Redis 6.2 calls it so, without "Failed".
    let opening = ["Failed opening", "Opening Unix socket"].iter().any(|words| run.stderr.contains(words));
    assert!(run.stderr.contains("did not start") && opening, "{run:?}");
}

#[test]
fn a_long_home_gets_a_short_socket() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    let long = home.path(&"x".repeat(120));
    let mut command = home.command(&["shop", "SELECT 1"]);
    let output = command.env("XDG_DATA_HOME", &long).env("XDG_RUNTIME_DIR", home.dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n", "{output:?}");
}

#[test]
fn files_come_in_and_go_out_unchanged() {
    let Some(stock) = sqlite3("3.").filter(|_| has_redis()) else { return };
    let home = Home::new();
    for (page_size, mode) in [(512, "delete"), (1024, "wal"), (4096, "wal"), (65536, "delete")] {
        let file = format!("in{page_size}.db");
        let make = format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode={mode};
             CREATE TABLE t(a, b); CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('hello');
             WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 3000)
             INSERT INTO t SELECT i, hex(i * 7) FROM c;"
        );
        assert_eq!(stock.run(home.dir.path(), &[&file], &make).code, 0);
        // In use by somebody who has it open, with a WAL that is not checkpointed.
        let user = rusqlite::Connection::open(home.path(&file)).unwrap();
        user.execute_batch("PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES ('new', 1)").unwrap();
        home.ok(&["import", &file, "db", "--force"], "");
        home.ok(&["export", "db", "out.db", "--force"], "");
        drop(user);
        let dump = stock.run(home.dir.path(), &[&file, ".dump"], "").stdout;
        assert!(dump.contains("'new'"));
        assert_eq!(home.ok(&["db", ".dump"], ""), dump);
        assert_eq!(stock.run(home.dir.path(), &["out.db", ".dump"], "").stdout, dump);
        assert_eq!(home.ok(&["db", "PRAGMA page_size; PRAGMA integrity_check"], ""), format!("{page_size}\nok\n"));
        let left: Vec<_> = fs::read_dir(home.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".sqlite")), "{left:?}");
    }
}

#[test]
fn what_is_no_database_or_there_already_makes_nothing() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    fs::write(home.path("text"), "this is no database".repeat(100)).unwrap();
    fs::write(home.path("empty"), "").unwrap();
    let refused = |args: &[&str], reason: &str| {
        let run = home.run(args, "");
        assert_eq!(run.code, 1, "{args:?}");
        assert!(run.stderr.contains(reason), "{args:?}: {}", run.stderr);
    };
    refused(&["import", "text", "x"], "text can't be imported: file is not a database");
    refused(&["import", "nope", "x"], "No such file");
    refused(&["import", ".", "x"], "is not a file");
    assert!(!home.data().join("redis.log").exists(), "no server was needed for that");
    refused(&["export", "x", "out"], "no database x");
    refused(&["info", "x"], "no database x");
    refused(&["rm", "x", "--yes"], "no database x");
    assert!(!home.path("out").exists());
    home.ok(&["import", "empty", "x"], "");
    refused(&["import", "empty", "x"], "--force");
    refused(&["rm", "x"], "--yes");
    home.ok(&["export", "x", "out"], "");
    refused(&["export", "x", "out"], "--force");
    fs::write(home.path("out-wal"), "left over").unwrap();
    refused(&["export", "x", "out", "--force"], "out-wal");
    home.ok(&["rm", "x", "--yes"], "");
    assert_eq!(home.ok(&["ls"], ""), "");
}

#[test]
fn databases_are_listed_and_described() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    home.ok(&["b", "CREATE TABLE t(a)"], "");
    home.ok(&["a b", "CREATE TABLE t(a); INSERT INTO t VALUES (1)"], "");
    home.ok(&["--prefix", "mine", "c", "CREATE TABLE t(a)"], "");
    let json: serde_json::Value = serde_json::from_str(&home.ok(&["ls", "--json"], "")).unwrap();
    let names: Vec<_> = json.as_array().unwrap().iter().map(|db| db["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a b", "b"]);
    assert!(home.ok(&["--prefix", "mine", "ls"], "").contains("\nc "));
    let info: serde_json::Value = serde_json::from_str(&home.ok(&["info", "a b", "--json"], "")).unwrap();
    assert_eq!((&info["version"], &info["page_count"], &info["page_size"]), (&2.into(), &2.into(), &4096.into()));
    assert_eq!((&info["lease"], &info["log_length"]), (&serde_json::Value::Null, &2.into()));
    assert!(info["redis_bytes"].as_u64().unwrap() > 100);
    assert!(home.ok(&["info", "a b"], "").contains("log       2 commits"));
}

#[test]
fn errors_tell_what_is_behind_them() {
    let home = Home::new();
    let run = home.run(&["--redis", "redis://127.0.0.1:1", "shop", "SELECT 1"], "");
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("database `shop` on redis://127.0.0.1:1: can't connect"), "{run:?}");
    let run = home.run(&["--redis", "localhost", "shop", "SELECT 1"], "");
    assert!(run.stderr.contains("redis://"), "{run:?}");
    if !has_redis() {
        return;
    }
    let sql = "ATTACH 'file:nope?vfs=redis&mode=ro' AS n;\nSELECT nope;\nATTACH 'file:nope?vfs=redis&mode=ro' AS n;";
    let run = home.run(&["shop"], sql);
    let causes = run.stderr.lines().filter(|line| line.starts_with("  cause: database `nope`")).count();
    assert_eq!(causes, 2, "{run:?}");
}

#[test]
fn readonly_shells_write_nothing() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    home.ok(&["shop", "CREATE TABLE t(a)"], "");
    let run = home.run(&["--readonly", "shop", "INSERT INTO t VALUES (1)"], "");
    // SQLITE_READONLY, as sqlite3 ends.
    assert_eq!(run.code, 8);
    assert!(run.stderr.contains("readonly database"), "{run:?}");
    let run = home.run(&["--readonly", "missing", "SELECT 1"], "");
    assert!(run.code == 1 && run.stderr.contains("no such database"), "{run:?}");
}

#[test]
fn queries_on_an_imported_chinook_answer_as_on_the_file() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let chinook = root.join("../shared/data/chinook.sqlite");
    if !chinook.exists() {
        skipped("there is no chinook.sqlite beside the project");
        return;
    }
    if !has_redis() {
        return;
    }
    let home = Home::new();
    // A copy: SQLite may want to write beside what it opens.
    let file = home.path("chinook.sqlite");
    fs::copy(chinook, &file).unwrap();
    let file = file.display().to_string();
    home.ok(&["import", &file, "music"], "");
    let queries = fs::read_to_string(root.join("tests/queries/chinook.sql")).unwrap();
    for mode in ["-box", "-csv", "-json"] {
        let expected = home.ok(&[mode, &format!("file:{file}?vfs=unix")], &queries);
        assert_eq!(home.ok(&[mode, "music"], &queries), expected);
        assert!(expected.lines().count() > 100);
    }
    home.ok(&["export", "music", "back.sqlite"], "");
    let dump = |database: &str| home.ok(&[database, ".dump"], "");
    assert_eq!(
        dump(&format!("file:{}?vfs=unix", home.path("back.sqlite").display())),
        dump(&format!("file:{file}?vfs=unix"))
    );
}

#[test]
fn the_virtual_table_is_there_also_over_a_file() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    let socket = home.data().join("redis.sock");
    let create = format!(
        "CREATE VIRTUAL TABLE item USING redis('unix://{}', p, name TEXT UNIQUE, price REAL INDEXED)",
        socket.display()
    );
    home.ok(&["shop", &create, "INSERT INTO item VALUES ('tea', 3.5), ('milk', 1.2)"], "");
    assert_eq!(home.ok(&["shop", "SELECT name FROM item WHERE price > 2"], ""), "tea\n");
    let script = format!(".open file:plain.sqlite?vfs=unix\n{create};\nSELECT count(*) FROM item;\n.vfsname\n");
    assert_eq!(home.ok(&["shop"], &script), "2\nunix\n");
}
