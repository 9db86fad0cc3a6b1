//! Commits whose undo data is too large for their log entry: it is stored in pieces in a second stream.

use std::collections::BTreeMap;

use rusqlite::Connection;
use sqlite_redis::admin::{Admin, ImportOptions};
use sqlite_redis_tests::failures::{assert_failure, code, failure};
use sqlite_redis_tests::{Server, check_integrity, number, text};

const LOG: &str = "sqlite:{shop}:log";
const UNDO: &str = "sqlite:{shop}:undo";

/// A table of one row, and a table of 1 MB.
fn database(server: &Server) -> Connection {
    let db = server.open("shop");
    db.execute_batch(
        "CREATE TABLE small (x); INSERT INTO small VALUES (1);
         CREATE TABLE large (id INTEGER PRIMARY KEY, x, filler);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO large SELECT i, 1, randomblob(3500) FROM n",
    )
    .unwrap();
    db
}

/// A large commit that changes all rows of the large table.
fn overwrite(db: &Connection) {
    db.execute("UPDATE large SET x = x + 1, filler = randomblob(3500)", []).unwrap();
}

/// A connection with a separate cache for each `cache_size`, in bytes.
fn with_own_cache(server: &Server, cache_size: u64) -> Connection {
    server.options("shop").cache_size(cache_size).log_commits(500 + cache_size).open().unwrap()
}

/// A connection in a read transaction with almost no cached pages.
fn reader_behind(server: &Server) -> Connection {
    let reader = with_own_cache(server, 8192);
    reader.execute_batch("PRAGMA cache_size = 1; BEGIN").unwrap();
    assert_eq!(number(&reader, "SELECT x FROM small"), 1);
    reader
}

const SUM: &str = "SELECT sum(x) FROM large WHERE length(filler) = 3500";

type Entries = Vec<(String, BTreeMap<String, Vec<u8>>)>;

fn entries(server: &Server, key: &str) -> Entries {
    redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(&mut server.redis()).unwrap()
}

/// Bytes that the server sends to all clients during `work`.
fn sent_by(server: &Server, work: impl FnOnce()) -> u64 {
    let sent = || {
        let stats: String = redis::cmd("INFO").arg("stats").query(&mut server.redis()).unwrap();
        let field = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).unwrap();
        field.trim().parse::<u64>().unwrap()
    };
    let before = sent();
    work();
    sent() - before
}

#[test]
fn large_undo_data_is_stored_in_pieces_and_small_undo_data_in_the_log() {
    let server = Server::start();
    let db = database(&server);
    server.redis_cli(&["DEL", UNDO]);
    db.execute("INSERT INTO small VALUES (2)", []).unwrap();
    assert_eq!(server.redis_cli(&["EXISTS", UNDO]), "0", "a small commit needs no second stream");
    overwrite(&db);
    let log = entries(&server, LOG);
    let [.., (_, small), (id, large)] = log.as_slice() else { panic!("{} entries", log.len()) };
    assert!(small.contains_key("undo") && !small.contains_key("pages"));
    assert!(large.contains_key("pages") && !large.contains_key("undo"));
    assert!(large["pages"].len() < 100, "the page list is short, because the pages are adjacent");
    let pieces = entries(&server, UNDO);
    assert!(pieces.len() > 10, "{} pieces of 1 MB", pieces.len());
    for (piece_id, piece) in &pieces {
        assert!(piece_id.starts_with(id.strip_suffix('0').unwrap()), "{piece_id} is not of {id}");
        assert!(piece["commit"] == large["commit"] && piece["undo"].len() <= 64 << 10);
    }
    server.check_stored("shop");
    server.check_older_versions("shop", 10);
}

#[test]
fn catching_up_with_large_commits_costs_a_reader_only_the_pages_that_it_reads() {
    let server = Server::start();
    let db = database(&server);
    let reader = with_own_cache(&server, 64 << 20);
    assert_eq!(number(&reader, "SELECT x FROM small"), 1);
    assert_eq!(number(&reader, SUM), 300);
    for _ in 0..5 {
        overwrite(&db);
    }
    let bytes = sent_by(&server, || assert_eq!(number(&reader, "SELECT x FROM small"), 1));
    assert!(bytes < 100_000, "the server sent {bytes} bytes");
    let before = server.calls("xrange");
    overwrite(&db);
    assert_eq!(number(&reader, SUM), 300 * 7);
    assert_eq!(server.calls("xrange") - before, 1, "the log, and no undo data");
}

#[test]
fn a_commit_that_changes_other_pages_leaves_the_cache_warm() {
    let server = Server::start();
    let db = database(&server);
    let reader = with_own_cache(&server, 64 << 20);
    reader.execute_batch("PRAGMA cache_size = 1").unwrap();
    assert_eq!(number(&reader, SUM), 300);
    db.execute_batch("CREATE TABLE other AS SELECT randomblob(3500) FROM large").unwrap();
    db.execute_batch("UPDATE other SET rowid = rowid + 1000").unwrap();
    assert_eq!(number(&reader, "SELECT x FROM small"), 1);
    let bytes = sent_by(&server, || assert_eq!(number(&reader, SUM), 300));
    assert!(bytes < 300_000, "the server sent {bytes} bytes of an unchanged table");
}

#[test]
fn a_reader_behind_large_commits_reads_its_snapshot() {
    let server = Server::start();
    let db = database(&server);
    let reader = reader_behind(&server);
    for _ in 0..4 {
        overwrite(&db);
    }
    db.execute_batch(
        "DELETE FROM large WHERE id > 10; VACUUM; INSERT INTO large SELECT id + 100, x, filler FROM large",
    )
    .unwrap();
    assert_eq!(number(&reader, SUM), 300);
    check_integrity(&reader);
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM large"), 20);
    server.check_stored("shop");
}

#[test]
fn lost_undo_data_fails_only_the_reads_that_need_it() {
    let server = Server::start();
    let db = database(&server);
    for damage in [&["DEL", UNDO][..], &["XTRIM", UNDO, "MAXLEN", "1"], &["SET", UNDO, "x"]] {
        let reader = reader_behind(&server);
        db.execute("UPDATE large SET x = 1, filler = randomblob(3500)", []).unwrap();
        let cached = with_own_cache(&server, 64 << 20);
        assert_eq!(number(&cached, SUM), 300);
        redis::cmd(damage[0]).arg(&damage[1..]).exec(&mut server.redis()).unwrap();
        assert_eq!(number(&reader, "SELECT x FROM small"), 1, "this page did not change");
        assert_failure(failure(&reader, SUM), code::BUSY_SNAPSHOT, "can't be read any more");
        let _ = reader.execute_batch("ROLLBACK");
        assert_eq!(number(&reader, SUM), 300);
        assert_eq!(number(&cached, SUM), 300);
        check_integrity(&reader);
    }
}

#[test]
fn a_damaged_page_list_costs_a_reader_only_its_snapshot() {
    for list in [None, Some(&[0x80u8][..]), Some(&[0, 0]), Some(&[0xff; 20])] {
        let server = Server::start();
        let db = database(&server);
        let (reader, cached) = (reader_behind(&server), with_own_cache(&server, 64 << 20));
        assert_eq!(number(&cached, SUM), 300);
        overwrite(&db);
        let (id, fields) = entries(&server, LOG).pop().unwrap();
        server.redis_cli(&["DEL", LOG]);
        let mut forged = redis::cmd("XADD");
        forged.arg(LOG).arg(id);
        for (name, value) in &fields {
            match (name.as_str(), list) {
                ("pages", Some(list)) => forged.arg(name).arg(list),
                ("pages", None) => continue,
                _ => forged.arg(name).arg(value),
            };
        }
        forged.exec(&mut server.redis()).unwrap();
        assert_failure(failure(&reader, SUM), code::BUSY_SNAPSHOT, "can't be taken back");
        assert_eq!(number(&cached, SUM), 600, "the connection dropped its cache");
        check_integrity(&cached);
    }
}

#[test]
fn a_large_commit_replaces_a_foreign_key_in_place_of_its_undo_stream() {
    let server = Server::start();
    let db = database(&server);
    for command in [&["SET", UNDO, "mine"][..], &["XADD", UNDO, "999999-1", "commit", "x"]] {
        server.redis_cli(&["DEL", UNDO]);
        redis::cmd(command[0]).arg(&command[1..]).exec(&mut server.redis()).unwrap();
        db.execute("UPDATE large SET x = 2, filler = randomblob(3500)", []).unwrap();
        assert_eq!(number(&with_own_cache(&server, 1 << 20), SUM), 600);
        assert_eq!(server.redis_cli(&["EXISTS", UNDO]), "0", "the foreign key was removed");
        overwrite(&db);
        assert_eq!(server.redis_cli(&["TYPE", UNDO]), "stream");
        assert_eq!(number(&db, SUM), 900);
    }
    server.check_stored("shop");
}

#[test]
fn undo_data_is_trimmed_by_its_bytes() {
    let server = Server::start();
    database(&server);
    let db = server.options("shop").log_bytes(3 << 20).open().unwrap();
    for _ in 0..8 {
        overwrite(&db);
    }
    // Small commits add pieces to the newer half, too.
    for _ in 0..10 {
        db.execute("UPDATE large SET x = x + 1, filler = randomblob(3500) WHERE id % 10 = 0", []).unwrap();
    }
    let bytes: usize = entries(&server, UNDO).iter().map(|(_, piece)| piece["undo"].len()).sum();
    assert!((1 << 20..=3 << 20).contains(&bytes), "{bytes} bytes of undo data");
    let first = |key: &str| entries(&server, key)[0].0.split('-').next().unwrap().parse::<u64>().unwrap();
    assert!(first(UNDO) >= first(LOG), "undo data of version {} without its entry", first(UNDO));
    server.check_older_versions("shop", 3);
    let reader = reader_behind(&server);
    db.execute("UPDATE large SET x = 1, filler = randomblob(3500)", []).unwrap();
    assert!(number(&reader, SUM) > 300, "the remaining undo data covers one commit");
}

#[test]
fn undo_data_is_trimmed_by_the_number_of_commits() {
    let server = Server::start();
    database(&server);
    let db = server.options("shop").log_commits(3).open().unwrap();
    for _ in 0..20 {
        overwrite(&db);
    }
    let versions: std::collections::BTreeSet<String> =
        entries(&server, UNDO).iter().map(|(id, _)| id.split('-').next().unwrap().to_owned()).collect();
    // `MINID ~` removes whole nodes of the stream only.
    assert!((3..=8).contains(&versions.len()), "undo data of {} commits", versions.len());
}

#[test]
fn a_commit_whose_undo_data_exceeds_log_bytes_still_lists_its_pages() {
    let server = Server::start();
    database(&server);
    let db = server.options("shop").log_bytes(100_000).open().unwrap();
    let cached = with_own_cache(&server, 64 << 20);
    assert_eq!(number(&cached, "SELECT count(*) FROM large"), 300);
    let reader = reader_behind(&server);
    overwrite(&db);
    assert!(entries(&server, LOG).last().unwrap().1.contains_key("pages"));
    let version = text(&db, "PRAGMA redis_version");
    assert!(entries(&server, UNDO).iter().all(|(id, _)| !id.starts_with(&format!("{version}-"))));
    assert_eq!(number(&reader, "SELECT x FROM small"), 1);
    assert_failure(failure(&reader, SUM), code::BUSY_SNAPSHOT, "can't be read any more");
    assert_eq!(number(&cached, SUM), 600);
}

#[test]
fn undo_data_is_listed_removed_and_replaced_with_its_database() {
    let server = Server::start();
    let db = database(&server);
    overwrite(&db);
    let admin = Admin::connect(&server.options("")).unwrap();
    assert_eq!(admin.names().unwrap(), ["shop"]);
    assert!(admin.info("shop").unwrap().unwrap().log_bytes > 1 << 20, "undo data counts");
    let mut import = admin.import("shop", ImportOptions::new(512, 1).overwrite(true)).unwrap();
    import.page(vec![0; 512]).unwrap();
    import.finish().unwrap();
    assert_eq!(server.redis_cli(&["EXISTS", UNDO]), "0", "replaced by an import");

    let db = {
        admin.remove("shop").unwrap();
        drop(db);
        database(&server)
    };
    overwrite(&db);
    assert!(admin.remove("shop").unwrap());
    assert_eq!(server.redis_cli(&["KEYS", "*"]), "", "removed");

    server.redis_cli(&["XADD", UNDO, "999999-1", "commit", "x"]);
    let db = database(&server);
    assert!(entries(&server, UNDO).iter().all(|(id, _)| id != "999999-1"), "an entry of an earlier database is left");
    overwrite(&db);
    server.check_stored("shop");
}

#[test]
fn open_fails_and_names_an_undo_key_of_another_type() {
    let server = Server::start();
    database(&server);
    server.redis_cli(&["DEL", UNDO]);
    server.redis_cli(&["SET", UNDO, "mine"]);
    let refused = sqlite_redis_tests::failures::open_failure(&server.options("shop").log_commits(7));
    assert_failure(refused, code::CANTOPEN, UNDO);
}

#[test]
fn staged_commits_keep_their_undo_data_in_pieces_too() {
    let server = Server::start();
    database(&server);
    let reader = reader_behind(&server);
    let db = server.options("shop").stage_bytes(0).open().unwrap();
    overwrite(&db);
    overwrite(&db);
    assert_eq!(number(&reader, SUM), 300);
    server.check_stored("shop");
    server.check_older_versions("shop", 10);
}
