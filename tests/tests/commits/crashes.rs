//! Servers that crash while they write a commit to their append-only file.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use sqlite_redis_tests::{Server, check_integrity, number};

/// So large that pages of two commits would show.
const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, stamp INTEGER, filler TEXT);
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 400)
    INSERT INTO t SELECT n, 0, printf('%0*d', 400, 0) FROM n;";

fn stamp(db: &Connection, with: i64, from: i64) {
    db.execute("UPDATE t SET stamp = ?1 WHERE id >= ?2", (with, from)).unwrap();
}

fn append_only_file(server: &Server) -> PathBuf {
    let directory = server.directory().join("appendonlydir");
    if !directory.exists() {
        // As Redis 6.2 has it.
        return server.directory().join("appendonly.aof");
    }
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max().expect("an append-only file")
}

fn length(path: &Path) -> u64 {
    File::open(path).unwrap().metadata().unwrap().len()
}

/// `docs/durability.md` tells to repair the file before the server starts, which the support library does.
#[test]
fn a_server_that_crashed_while_it_wrote_a_commit_has_all_of_it_or_nothing_also_after_the_next_crash() {
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
    // The pages come first; the end of the transaction, with the log and `EXEC`, is short.
    let cuts = (0..4).map(|n| before + (after - before) * n / 4).chain((0..12).map(|n| after - (1 << n)));
    let mut seen = BTreeSet::new();
    for cut in cuts.chain([after]) {
        fs::write(&file, &whole).unwrap();
        OpenOptions::new().write(true).open(&file).unwrap().set_len(cut).unwrap();
        server.restart();
        let (expected, same) = stamps(&server.open_apart("shop", cut));
        assert_eq!(expected, same, "cut at {cut} of {before}..{after}");
        seen.insert(expected);
        // It touches one page, so that others that were left behind would stay.
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
