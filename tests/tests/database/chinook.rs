//! Chinook, a sample database: imported into Redis, it answers queries as its file does.

use std::path::PathBuf;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use sqlite_redis_tests::rows::{assert_same_content, rows};
use sqlite_redis_tests::{Server, check_integrity, chinook, number, queries};

fn read_only(path: &PathBuf) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn import(server: &Server, path: &PathBuf) -> Connection {
    let mut redis = server.open("chinook");
    {
        let file = read_only(path);
        let backup = Backup::new(&file, &mut redis).unwrap();
        assert_eq!(backup.step(-1).unwrap(), StepResult::Done);
    }
    redis
}

#[test]
fn every_query_answers_as_the_file_does() {
    let Some(path) = chinook() else { return };
    let server = Server::start();
    let redis = import(&server, &path);
    let file = read_only(&path);
    let small = server.options("chinook").cache_size(16 * 4096).open().unwrap();
    small.execute_batch("PRAGMA cache_size=5").unwrap();
    for query in queries::chinook() {
        let expected = rows(&file, &query.sql);
        assert!(!expected.is_empty() || query.name.contains("do not add up"), "{} finds nothing", query.name);
        for (kind, db) in [("warm", &redis), ("cold", &server.open_apart("chinook", 1)), ("small caches", &small)] {
            assert!(rows(db, &query.sql) == expected, "{}, {kind}", query.name);
        }
    }
}

#[test]
fn the_import_has_every_table_and_row_and_goes_back_to_a_file() {
    let Some(path) = chinook() else { return };
    let server = Server::start();
    let redis = import(&server, &path);
    let file = read_only(&path);
    assert_same_content((&redis, "main"), (&file, "main"));
    check_integrity(&redis);
    server.check_stored("chinook");
    let directory = tempfile::tempdir().unwrap();
    for page_size in [512, 4096, 65536] {
        redis.execute_batch(&format!("PRAGMA page_size={page_size}; VACUUM")).unwrap();
        server.check_stored("chinook");
        let mut back = Connection::open(directory.path().join(format!("{page_size}.db"))).unwrap();
        assert_eq!(Backup::new(&redis, &mut back).unwrap().step(-1).unwrap(), StepResult::Done);
        assert_eq!(number(&back, "PRAGMA page_size"), page_size);
        assert_same_content((&back, "main"), (&file, "main"));
    }
}

#[test]
fn the_import_accepts_writes_as_the_file_does() {
    let Some(path) = chinook() else { return };
    let server = Server::start();
    let redis = import(&server, &path);
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("chinook.db");
    std::fs::copy(&path, &copy).unwrap();
    let file = Connection::open(&copy).unwrap();
    for db in [&redis, &file] {
        db.execute_batch(
            "PRAGMA foreign_keys=1;
             CREATE VIRTUAL TABLE search USING fts5(Name, Composer, content = 'Track', content_rowid = 'TrackId');
             INSERT INTO search (search) VALUES ('rebuild');
             BEGIN; UPDATE Track SET UnitPrice = UnitPrice * 2 WHERE GenreId = 1;
             DELETE FROM PlaylistTrack WHERE PlaylistId > 5; DELETE FROM Playlist WHERE PlaylistId > 5; COMMIT;
             CREATE INDEX TrackName ON Track (Name COLLATE NOCASE); ANALYZE",
        )
        .unwrap();
        assert!(db.execute("DELETE FROM Artist WHERE ArtistId = 1", []).is_err(), "foreign keys");
    }
    let search = "SELECT rowid, Name FROM search WHERE search MATCH 'love' ORDER BY rank, rowid";
    assert_eq!(rows(&redis, search), rows(&file, search));
    assert_same_content((&redis, "main"), (&file, "main"));
    check_integrity(&redis);
    server.check_stored("chinook");
}
