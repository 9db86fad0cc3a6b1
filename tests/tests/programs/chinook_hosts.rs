//! The Chinook queries in programs that load the extension. The answers equal those on the file digit by digit, because
//! one SQLite runs both.

use sqlite_redis_tests::hosts::{self, Said};
use sqlite_redis_tests::{Server, queries};

/// A server that holds Chinook, and the path of the file; `None`, with a message, where the file is missing.
fn imported() -> Option<(Server, String)> {
    let path = sqlite_redis_tests::chinook()?;
    let (server, path) = (Server::start(), path.display().to_string());
    let said = hosts::sqlite3(
        &format!(
            ".open 'file:chinook?vfs=redis&redis={}'
             .restore {path}
             PRAGMA integrity_check;",
            server.url()
        ),
        &[],
    );
    assert_eq!((said.out.as_str(), said.err.as_str()), ("ok", ""));
    Some((server, path))
}

/// The answers on both databases, as the program printed them.
fn assert_same(redis: &Said, file: &Said) {
    assert!(redis.ok && redis.err.is_empty(), "{redis:?}");
    assert!(file.ok && file.err.is_empty(), "{file:?}");
    assert!(redis.out.lines().count() > 300, "{redis:?}");
    let differs = redis.out.lines().zip(file.out.lines()).find(|(redis, file)| redis != file);
    assert_eq!(differs, None);
    assert_eq!(redis.out.len(), file.out.len());
}

#[test]
fn the_sqlite3_shell_answers_chinook_queries_as_on_the_file() {
    let Some((server, path)) = imported() else { return };
    let asked: String =
        queries::chinook().iter().map(|query| format!(".print {}\n{};\n", query.name, query.sql)).collect();
    let ask = |open: &str| hosts::sqlite3(&format!(".mode quote\n.open {open}\n{asked}"), &[]);
    let redis = ask(&format!("'file:chinook?vfs=redis&redis={}'", server.url()));
    assert_same(&redis, &ask(&format!("'file:{path}?mode=ro'")));
}

#[test]
fn python_answers_chinook_queries_as_on_the_file() {
    let Some((server, path)) = imported() else { return };
    let script = "
db = connect(os.environ['URI'])
for name, sql in zip(*[iter(open(os.environ['QUERIES']).read().split('\\0'))] * 2):
    say('--', name)
    for row in db.execute(sql):
        say(row)
";
    let asked = server.directory().join("queries");
    let parts: String = queries::chinook().iter().map(|query| format!("{}\0{}\0", query.name, query.sql)).collect();
    std::fs::write(&asked, parts).unwrap();
    let asked = asked.display().to_string();
    let ask = |uri: &str| hosts::run_python(script, &[("URI", uri), ("QUERIES", &asked)]);
    let Some(redis) = ask(&format!("file:chinook?vfs=redis&redis={}", server.url())) else { return };
    assert_same(&redis, &ask(&format!("file:{path}?mode=ro")).unwrap());
}
