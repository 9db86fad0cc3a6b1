//! Servers that crash while writing a commit to the append-only file.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use sqlite_redis_tests::{Server, check_integrity, number};

/// Large enough that a mixture of two commits' pages is visible.
const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, stamp INTEGER, filler TEXT);
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 400)
    INSERT INTO t SELECT n, 0, printf('%0*d', 400, 0) FROM n;";

fn stamp(db: &Connection, with: i64, from: i64) {
    db.execute("UPDATE t SET stamp = ?1 WHERE id >= ?2", (with, from)).unwrap();
}

fn append_only_file(server: &Server) -> PathBuf {
    let directory = server.directory().join("appendonlydir");
    if !directory.exists() {
        // Redis 6.2 has a single file.
        return server.directory().join("appendonly.aof");
    }
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max().expect("an append-only file")
}

fn length(path: &Path) -> u64 {
    File::open(path).unwrap().metadata().unwrap().len()
}

/// `docs/durability.md` requires a repair of the file before the server starts; [`Server::restart`] does that.
#[test]
fn a_commit_torn_by_a_server_crash_is_whole_or_absent_even_after_a_second_crash() {
    let mut server = Server::with(["--appendonly", "yes", "--appendfsync", "always"]).start();
    let db = server.open("shop");
    db.execute_batch(TABLE).unwrap();
    stamp(&db, 1, 1);
    let file = append_only_file(&server);
    let before = length(&file);
    stamp(&db, 2, 1);
    server.kill();
    let after = length(&file);
    let whole = fs::read(&file).unwrap();
    // The file has the pages first. The rest of the transaction, with the log entry and `EXEC`, is short.
    let cuts = (0..4).map(|n| before + (after - before) * n / 4).chain((0..12).map(|n| after - (1 << n)));
    let mut seen = BTreeSet::new();
    for cut in cuts.chain([after]) {
        fs::write(&file, &whole).unwrap();
        OpenOptions::new().write(true).open(&file).unwrap().set_len(cut).unwrap();
        server.restart();
        let (expected, same) = stamps(&server.open_apart("shop", cut));
        assert_eq!(expected, same, "cut at {cut} of {before}..{after}");
        seen.insert(expected);
        // Changes one page only, so that leftover pages of a torn commit would stay visible.
        stamp(&db, 3, 400);
        server.kill();
        server.restart();
        let db = server.open_apart("shop", after + cut);
        assert_eq!(stamps(&db), (expected, 3), "cut at {cut} of {before}..{after}, and the next crash");
        check_integrity(&db);
        server.check_stored("shop");
        server.kill();
    }
    assert_eq!(seen, BTreeSet::from([1, 2]));
}

fn stamps(db: &Connection) -> (i64, i64) {
    assert_eq!(number(db, "SELECT count(*) FROM t WHERE stamp <> (SELECT min(stamp) FROM t) AND id < 400"), 0);
    (number(db, "SELECT min(stamp) FROM t"), number(db, "SELECT max(stamp) FROM t"))
}
