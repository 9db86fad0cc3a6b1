//! Names and settings: bad ones are refused with a reason, and each setting works as URI parameter and in the
//! environment.

use std::time::Duration;

use sqlite_redis::{Options, SETTINGS};
use sqlite_redis_tests::failures::{assert_failure, code, failure, open_uri};
use sqlite_redis_tests::{Server, check_integrity, hosts, number, text};

/// The SQLite code of a URI that does not open, and the reason.
fn uri_failure(uri: &str) -> (i32, String) {
    let failed = sqlite_redis_tests::code(open_uri(uri).map(|_| ()));
    (failed, sqlite_redis::last_failure().map(|error| error.to_string()).unwrap_or_default())
}

#[test]
fn names_without_a_valid_key_are_refused() {
    let server = Server::start();
    let long = "x".repeat(513);
    for (name, words) in [
        ("", "it is empty"),
        ("/", "it is empty"),
        ("a{b", "braces are not allowed"),
        ("a}b", "braces are not allowed"),
        ("{}", "braces are not allowed"),
        ("a\0b", "NUL is not allowed"),
        (&long, "longer than 512 bytes"),
        ("shop-journal", "SQLite gives this ending"),
        ("shop-wal", "SQLite gives this ending"),
        ("shop-shm", "SQLite gives this ending"),
        ("shop-mj0123459AB", "SQLite gives this ending"),
    ] {
        let error = server.options(name).open().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(words), "{name:?}: {error}");
    }
    assert_eq!(server.redis_cli(&["DBSIZE"]), "0");
}

#[test]
fn names_without_a_valid_key_are_refused_in_uris() {
    let server = Server::start();
    let url = server.url();
    let long = "x".repeat(513);
    for (name, words) in [
        ("/", "it is empty"),
        ("a%7Bb", "braces are not allowed"),
        ("a%7Db", "braces are not allowed"),
        ("a%FFb", "not UTF-8"),
        (&long, "longer than 512 bytes"),
        ("shop-journal", "SQLite gives this ending"),
        ("shop-wal", "SQLite gives this ending"),
    ] {
        let (failed, why) = uri_failure(&format!("file:{name}?vfs=redis&redis={url}"));
        assert_eq!(failed, code::CANTOPEN, "{name}");
        assert!(why.contains(words), "{name}: {why}");
    }
    assert_eq!(server.redis_cli(&["DBSIZE"]), "0");
}

#[test]
fn every_other_name_is_a_separate_database() {
    let server = Server::start();
    let longest = "x".repeat(512);
    let names =
        ["a", "A", "a/b", "a b", "a?b", "a#b", "a&b=c", "100%", "Bücher", "a'b\"", "a:b", "..", "a*[b]", &longest];
    for name in names {
        let connection = server.open(name);
        connection.execute_batch("CREATE TABLE t (x TEXT)").unwrap();
        connection.execute("INSERT INTO t VALUES (?1)", [name]).unwrap();
    }
    for name in names {
        assert_eq!(text(&server.open(name), "SELECT x FROM t"), name);
        assert_eq!(server.redis_cli(&["EXISTS", &format!("sqlite:{{{name}}}")]), "1", "{name}");
    }
    assert_eq!(text(&server.open("/a"), "SELECT x FROM t"), "a", "the leading / was not dropped");
    assert_eq!(server.redis_cli(&["--raw", "EVAL", "return #redis.call('KEYS', 'sqlite:*}')", "0"]), "14");
}

#[test]
fn unknown_parameters_are_named() {
    let server = Server::start();
    let url = server.url();
    for parameter in ["cashe_size", "Redis", "servr", "x"] {
        let (failed, why) = uri_failure(&format!("file:shop?vfs=redis&redis={url}&{parameter}=1"));
        assert_eq!(failed, code::CANTOPEN);
        assert!(why.contains(&format!("unknown URI parameter {parameter}")) && why.contains("cache_size"), "{why}");
    }
    for parameter in ["nolock", "immutable"] {
        let (failed, why) = uri_failure(&format!("file:shop?vfs=redis&redis={url}&{parameter}=1"));
        assert_eq!(failed, code::CANTOPEN);
        assert!(why.contains(parameter) && why.contains("other clients may change"), "{why}");
    }
}

/// Bad values: setting, value, and words of the error.
const BAD_VALUES: &[(&str, &str, &str)] = &[
    ("redis", "localhost:6379", "expected redis://, rediss://, unix://"),
    ("redis", "http://localhost", "expected redis://, rediss://, unix://"),
    ("redis", "redis://host:notaport", "not a server address"),
    ("replica", "localhost:6379", "expected redis://"),
    ("replica", "redis+cluster://a:1", "expected one server"),
    ("redis", "redis://host:1/x", "not a server address"),
    ("credentials", "env:", "expected file:/path/of/a/file or env:"),
    ("tls_cert", "/", "tls_key is missing"),
    ("tls_key", "/", "tls_cert is missing"),
    ("tls_ca", "/no/such/file", "no such file"),
    ("tls_name", "a b", "expected the name of a host"),
    ("consistency", "eventual", "expected strong, session, bounded=<milliseconds> (1 to 86400000) or snapshot"),
    ("consistency", "bounded=0", "bounded=<milliseconds>"),
    ("catch_up_ms", "0", "1 to 86400000"),
    ("wait_disk", "all", "expected 0 or 1"),
    ("prefix", "a{b", "has no braces"),
    ("cache_size", "many", "expected bytes"),
    ("cache_size", "-1", "expected bytes"),
    ("cache_size", "1025G", "0 to 1024G"),
    ("cache_size", "17179869183G", "0 to 1024G"),
    ("cache_size", "999999999999999999999999999999G", "0 to 1024G"),
    ("lease_ms", "0", "100 to 86400000"),
    ("lease_ms", "1.5", "expected milliseconds"),
    ("lease_ms", "99999999999", "expected milliseconds"),
    ("connect_ms", "0", "1 to 86400000"),
    ("connect_ms", "soon", "expected milliseconds"),
    ("timeout_ms", "0", "1 to 86400000"),
    ("timeout_ms", "-5", "expected milliseconds"),
    ("failover_ms", "0", "1 to 86400000"),
    ("log_commits", "1.5", "expected a whole number"),
    ("log_commits", "18446744073709551615", "0 to 1000000000"),
    ("log_bytes", "x", "expected bytes"),
    ("stage_bytes", "x", "expected bytes"),
    ("linger_ms", "-1", "0 to 86400000"),
    ("wait", "all", "0 to 1000"),
    ("wait_ms", "0", "1 to 86400000"),
    ("readonly", "maybe", "expected 0 or 1"),
    ("compress", "lz4", "expected 0 or 1"),
    ("allow_eviction", "2", "expected 0 or 1"),
];

#[test]
fn bad_values_are_named_with_their_parameter() {
    for (parameter, value, words) in BAD_VALUES {
        let (failed, why) = uri_failure(&format!("file:shop?vfs=redis&{parameter}={value}"));
        assert_eq!(failed, code::CANTOPEN, "{parameter}={value}");
        assert!(why.contains(&format!("{parameter}={value}")) && why.contains(words), "{why}");
    }
    for setting in SETTINGS {
        assert!(BAD_VALUES.iter().any(|(name, _, _)| *name == setting.parameter), "{}", setting.parameter);
    }
}

#[test]
fn bad_values_in_the_environment_are_named_with_their_variable() {
    let script = "
for line in sys.stdin:
    name, value = line.rstrip().split(' ', 1)
    os.environ[name] = value
    try:
        connect('file:shop?vfs=redis')
        say('opened')
    except sqlite3.Error:
        say(loader.execute('SELECT redis_last_error()').fetchone()[0])
    del os.environ[name]
";
    let Some(command) = hosts::python(script, &[]) else { return };
    let mut host = hosts::Beside::start(command);
    for (parameter, value, words) in BAD_VALUES {
        let setting = SETTINGS.iter().find(|setting| setting.parameter == *parameter).unwrap();
        host.tell(&format!("{} {value}", setting.environment));
        let why = host.hear().unwrap();
        assert!(why.contains(&format!("{}={value}", setting.environment)) && why.contains(words), "{why}");
    }
}

#[test]
fn the_environment_gives_defaults_and_parameters_override_them() {
    let server = Server::with(["--maxmemory-policy", "allkeys-lru"]).start();
    let url = server.url();
    let environment = [
        ("SQLITE_REDIS_URL", url.as_str()),
        ("SQLITE_REDIS_PREFIX", "env"),
        ("SQLITE_REDIS_ALLOW_EVICTION", "1"),
        ("SQLITE_REDIS_LEASE_MS", "123456"),
        ("SQLITE_REDIS_LOG_COMMITS", "1"),
    ];
    let script = "
db = connect('file:shop?vfs=redis')
db.execute('CREATE TABLE t (x)')
db.execute('BEGIN IMMEDIATE')
say('holding')
sys.stdin.readline()
db.execute('COMMIT')
for n in range(300): db.execute('INSERT INTO t VALUES (1)')
connect('file:shop?vfs=redis&prefix=uri').execute('CREATE TABLE t (x)')
say('done')
os.environ['SQLITE_REDIS_READONLY'] = '1'
try:
    connect('file:shop?vfs=redis').execute('INSERT INTO t VALUES (1)')
except sqlite3.Error as error:
    say(error)
connect('file:shop?vfs=redis&readonly=0').execute('INSERT INTO t VALUES (1)')
say('written')
os.environ['SQLITE_REDIS_ALLOW_EVICTION'] = ''
try:
    connect('file:other?vfs=redis')
except sqlite3.Error as error:
    say(error)
sys.stdin.readline()
";
    let Some(command) = hosts::python(script, &environment) else { return };
    let mut host = hosts::Beside::start(command);
    assert_eq!(host.hear().as_deref(), Some("holding"));
    let left: i64 = redis::cmd("PTTL").arg("env:{shop}:lock").query(&mut server.redis()).unwrap();
    assert!((60_000..=123_456).contains(&left), "{left}");
    host.tell("go on");
    assert_eq!(host.hear().as_deref(), Some("done"));
    let length: u64 = redis::cmd("XLEN").arg("env:{shop}:log").query(&mut server.redis()).unwrap();
    assert!(length < 250, "{length} commits in the log");
    assert_eq!(server.redis_cli(&["EXISTS", "uri:{shop}"]), "1");
    assert_eq!(host.hear().as_deref(), Some("attempt to write a readonly database"));
    assert_eq!(host.hear().as_deref(), Some("written"));
    assert_eq!(host.hear().as_deref(), Some("unable to open database file"), "an empty variable counts as set");
}

#[test]
fn uri_modes_work_as_in_sqlite() {
    let server = Server::start();
    let uri = |name: &str, more: &str| format!("file:{name}?vfs=redis&redis={}&{more}", server.url());
    for mode in ["mode=ro", "mode=rw", "mode=ro&readonly=1"] {
        assert_failure(uri_failure(&uri("shop", mode)), code::CANTOPEN, "no such database");
    }
    assert_eq!(server.redis_cli(&["DBSIZE"]), "0", "a key was stored");
    open_uri(&uri("shop", "mode=rwc")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    open_uri(&uri("shop", "mode=rw")).unwrap().execute_batch("INSERT INTO t VALUES (1)").unwrap();
    for mode in ["mode=ro", "readonly=1", "mode=rwc&readonly=1", "mode=rw&readonly=on"] {
        let connection = open_uri(&uri("shop", mode)).unwrap();
        assert_eq!(number(&connection, "SELECT count(*) FROM t"), 1);
        let outcome = connection.execute_batch("INSERT INTO t VALUES (2)");
        assert_eq!(sqlite_redis_tests::code(outcome), code::READONLY, "{mode}");
        assert!(connection.is_readonly("main").unwrap());
        check_integrity(&connection);
    }
    assert_eq!(number(&server.open("shop"), "SELECT count(*) FROM t"), 1);
}

#[test]
fn typed_options_have_the_same_modes() {
    let server = Server::start();
    let missing = server.options("shop").create(false).open().map(|_| ()).unwrap_err().to_string();
    assert!(missing.contains("no such database"), "{missing}");
    let missing = server.options("shop").read_only(true).open().map(|_| ()).unwrap_err().to_string();
    assert!(missing.contains("no such database"), "{missing}");
    server.open("shop").execute_batch("CREATE TABLE t (x)").unwrap();
    let connection = server.options("shop").read_only(true).open().unwrap();
    assert_eq!(sqlite_redis_tests::code(connection.execute_batch("INSERT INTO t VALUES (1)")), code::READONLY);
    server.options("shop").create(false).open().unwrap().execute_batch("INSERT INTO t VALUES (1)").unwrap();
}

#[test]
fn wal_mode_is_refused_with_a_reason() {
    let server = Server::start();
    let connection = server.open("shop");
    connection.execute_batch("CREATE TABLE t (x)").unwrap();
    for locking in ["normal", "exclusive"] {
        let _ = text(&connection, &format!("PRAGMA locking_mode={locking}"));
        assert_eq!(text(&connection, "PRAGMA journal_mode=WAL"), "delete");
        connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
    assert_eq!(number(&server.open("shop"), "SELECT count(*) FROM t"), 2);
}

#[test]
fn an_error_names_the_database_of_its_connection() {
    let server = Server::start();
    let (one, two) = (server.open("one"), server.open("two"));
    two.busy_timeout(Duration::ZERO).unwrap();
    two.execute_batch("CREATE TABLE t (x)").unwrap();
    let holder = server.open("two");
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_failure(failure(&two, "INSERT INTO t VALUES (1)"), code::BUSY, "database `two` on unix://");
    assert!(sqlite_redis::last_error(&one).is_none());
    assert_eq!(text(&one, "PRAGMA redis_last_error"), "");
    let plain = rusqlite::Connection::open_in_memory().unwrap();
    assert!(sqlite_redis::last_error(&plain).is_none());
}

#[test]
fn no_message_shows_a_password() {
    for url in ["redis://me:topsecret@127.0.0.1:1", "unix:///nowhere?user=me&pass=topsecret", "me:topsecret@host"] {
        let error = Options::new("shop").server(url).open().map(|_| ()).unwrap_err();
        assert!(!format!("{error}").contains("topsecret"), "{error}");
    }
}
