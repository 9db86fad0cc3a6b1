//! Making, keeping and replacing connections: servers that are slow to accept, are replicas or are full; idle
//! connections; changing passwords.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use sqlite_redis::Options;
use sqlite_redis_tests::failures::{assert_failure, code, failure, open_failure};
use sqlite_redis_tests::switch::Switch;
use sqlite_redis_tests::{Server, check_integrity, eventually, hosts, number, vtab};

const SECOND: Duration = Duration::from_secs(1);
const HALF: Duration = Duration::from_millis(500);
const COUNT: &str = "SELECT count(*) FROM t";

fn table(server: &Server) -> Connection {
    let connection = server.open("shop");
    connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    connection
}

/// Opening this address fails with `words`, and the time limit `connect_ms` (half a second) ends it.
fn ends_in_time(url: &str, words: &str) {
    let begun = Instant::now();
    let options = Options::new("shop").server(url).connect_timeout(HALF).timeout(20 * SECOND);
    let error = options.open().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
    // Without the limit it would take minutes, or never end.
    assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
}

/// A server that sends `greeting` to each client, then one byte every 20 ms.
fn trickling(greeting: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut open = client.write_all(greeting).is_ok();
                while open {
                    std::thread::sleep(Duration::from_millis(20));
                    open = client.write_all(b"x").is_ok();
                }
            });
        }
    });
    port
}

#[test]
fn a_trickling_login_or_handshake_times_out() {
    ends_in_time(&format!("redis://127.0.0.1:{}", trickling(b"$1000000\r\n")), "no reply in time");
    ends_in_time(&format!("redis://127.0.0.1:{}", trickling(b"*1000000\r\n$99999\r\n")), "no reply in time");
    // A TLS record header that announces a long handshake message.
    ends_in_time(&format!("rediss://127.0.0.1:{}", trickling(b"\x16\x03\x03\x40\x00\x02")), "no reply in time");
    ends_in_time(&format!("rediss://127.0.0.1:{}", trickling(b"")), "without TLS, the address begins with redis://");
}

#[test]
fn a_unix_socket_that_accepts_no_connection_times_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let url = format!("unix://{}", path.display());
    for _ in 0..3 {
        ends_in_time(&url, "no reply in time");
    }
}

#[test]
fn the_error_names_maxclients_when_a_server_is_full() {
    let server = Server::with(["--maxclients", "3"]).start();
    let held: Vec<_> = (0..3)
        .map(|_| {
            let mut client = UnixStream::connect(server.socket()).unwrap();
            client.write_all(b"PING\r\n").unwrap();
            client.read_exact(&mut [0; 7]).map(|()| client)
        })
        .filter_map(Result::ok)
        .collect();
    // The connection that checked whether the server is up may still count for a moment.
    assert!(held.len() >= 2);
    eventually("the server is full", || {
        let error = server.options("shop").open().map(|_| ()).map_err(|error| error.to_string());
        error.is_err_and(|error| error.contains("no connection left") && error.contains("max number of clients"))
    });
    assert_failure(open_failure(&server.options("shop")), code::CANTOPEN, "raise its maxclients");
    drop(held);
    eventually("there is room again", || server.options("shop").open().is_ok());
}

#[test]
fn a_silently_dropped_idle_connection_causes_no_error() {
    let server = Server::start();
    let way = Switch::to(&server);
    let db = way.options("shop").timeout(SECOND).open().unwrap();
    db.busy_timeout(20 * SECOND).unwrap();
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let virtually = vtab::connect();
    let url = format!("unix://{}", way.socket().display());
    // The virtual table waits for replies as long as the environment says: ten seconds.
    virtually.execute_batch(&format!("CREATE VIRTUAL TABLE v USING redis('{url}', p, x)")).unwrap();
    virtually.execute_batch("INSERT INTO v VALUES (1)").unwrap();
    let silence = || {
        std::thread::sleep(Duration::from_millis(1500));
        way.forget();
    };
    silence();
    assert_eq!(number(&db, COUNT), 1);
    silence();
    db.execute("INSERT INTO t VALUES (2)", []).unwrap();
    silence();
    db.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (3)").unwrap();
    silence();
    db.execute_batch("COMMIT").unwrap();
    assert_eq!(number(&server.open("shop"), COUNT), 3, "a statement was lost or made twice");
    assert_eq!(number(&virtually, "SELECT count(*) FROM v"), 1);
    silence();
    virtually.execute_batch("INSERT INTO v VALUES (2)").unwrap();
    assert_eq!(number(&virtually, "SELECT count(*) FROM v"), 2);
    check_integrity(&db);
}

#[test]
fn a_name_that_leads_to_a_replica_for_a_while_serves_no_stale_reads() {
    let primary = Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start();
    let writer = table(&primary);
    let replica = Server::replica_of(&primary);
    let way = Switch::to(&primary);
    let db = way.options("shop").timeout(2 * SECOND).open().unwrap();
    assert_eq!(number(&db, COUNT), 1);
    way.turn(&replica);
    assert_failure(failure(&db, COUNT), code::IOERR_READ, "is a replica of 127.0.0.1");
    let virtually = vtab::connect();
    let url = format!("unix://{}", way.socket().display());
    let error = vtab::create(&virtually, &url, "v", "x").unwrap_err().to_string();
    assert!(error.contains("is a replica of"), "{error}");
    writer.execute("INSERT INTO t VALUES (2)", []).unwrap();
    way.turn(&primary);
    assert_eq!(number(&db, COUNT), 2);
    db.execute("INSERT INTO t VALUES (3)", []).unwrap();
}

#[test]
fn a_primary_that_silently_becomes_a_replica_is_no_longer_read() {
    let (old, new) = (Server::start(), Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start());
    table(&old);
    let db = old.options("shop").timeout(2 * SECOND).open().unwrap();
    assert_eq!(number(&db, COUNT), 1);
    table(&new);
    old.follow(&new);
    eventually("the replica has caught up", || old.is_replica_in_step());
    // The open connections still work; they ask for the role again after a while.
    eventually("reads are refused", || db.query_row(COUNT, [], |_| Ok(())).is_err());
    assert_failure(failure(&db, COUNT), code::IOERR_READ, "is a replica of 127.0.0.1");
}

#[test]
fn a_replica_before_its_first_sync_is_busy_and_not_empty() {
    let replica = Server::with(["--replicaof", "127.0.0.1", "1"]).start();
    for read_only in [false, true] {
        let db = replica.options("shop").read_only(read_only).open().unwrap();
        db.busy_timeout(Duration::ZERO).unwrap();
        assert_failure(failure(&db, COUNT), code::BUSY, "has got no data yet");
    }
    // A replica that loses its primary later serves the data that it has.
    let cut = Server::start();
    table(&cut);
    assert_eq!(cut.redis_cli(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
    let anew = cut.options("shop").timeout(6 * SECOND);
    assert_eq!(number(&anew.read_only(true).open().unwrap(), COUNT), 1);
    let anew = cut.options("shop").timeout(7 * SECOND);
    assert_failure(open_failure(&anew), code::CANTOPEN, "is a replica of 127.0.0.1:1");
}

#[test]
fn a_server_that_forbids_role_is_taken_for_a_primary() {
    let server = Server::start();
    table(&server);
    let acl = ["ACL", "SETUSER", "some", "on", ">secret-word", "~*", "+@all", "-role"];
    assert_eq!(server.redis_cli(&acl), "OK");
    let url = format!("{}?user=some&pass=secret-word", server.url());
    assert_eq!(number(&Options::new("shop").server(url).open().unwrap(), COUNT), 1);
}

#[test]
fn the_address_of_a_sentinel_named_as_a_server_is_refused() {
    let sentinel = Server::with(["--sentinel"]).configured("").start();
    let error = sentinel.options("shop").open().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("it is a Sentinel, to be named as sentinel://"), "{error}");
}

#[test]
fn a_password_that_the_server_echoes_is_hidden() {
    let server = Server::with(["--rename-command", "AUTH", "HIDDEN"]).start();
    for user in ["user=me&", ""] {
        let url = format!("{}?{user}pass=Crocus-77", server.url());
        let error = Options::new("shop").server(&url).open().map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("unknown command"), "{error}");
        let virtually = vtab::create(&vtab::connect(), &url, "v", "x").unwrap_err().to_string();
        for shown in [error.to_string(), format!("{:?} {}", error, error.cause), virtually] {
            assert!(!shown.contains("Crocus"), "{shown}");
        }
    }
}

#[test]
fn a_password_file_can_change_while_connections_are_open() {
    let server = Server::with(["--requirepass", "Hyacinth-1"]).start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "Hyacinth-1\n").unwrap();
    let options = Options::new("shop").server(server.url()).credentials(format!("file:{}", file.display()));
    let db = options.open().unwrap();
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let cli = |words: &[&str]| {
        let mut redis =
            redis::Client::open(format!("{}?pass=Hyacinth-1", server.url())).unwrap().get_connection().unwrap();
        redis::cmd(words[0]).arg(&words[1..]).exec(&mut redis).unwrap();
    };
    // The new password is added first. Then the old one is removed and all connections are closed.
    cli(&["ACL", "SETUSER", "default", ">Hyacinth-2"]);
    std::fs::write(&file, "Hyacinth-2\n").unwrap();
    cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    cli(&["ACL", "SETUSER", "default", "<Hyacinth-1"]);
    assert_eq!(number(&db, COUNT), 1);
    db.execute("INSERT INTO t VALUES (2)", []).unwrap();
    std::fs::write(&file, "Hyacinth-3\n").unwrap();
    let failed = open_failure(&options.clone().timeout(7 * SECOND));
    assert!(!failed.1.contains("Hyacinth"), "{}", failed.1);
    assert_failure(failed, code::AUTH, "refuses the user or password");
    std::fs::remove_file(&file).unwrap();
    let failed = open_failure(&options.clone().timeout(8 * SECOND));
    assert_failure(failed, code::CANTOPEN, &format!("credentials=file:{}: No such file", file.display()));
}

#[test]
fn a_password_in_the_environment_is_sent_only_to_the_server_named_there() {
    let (server, other) = (Server::start(), Server::start());
    for one in [&server, &other] {
        assert_eq!(one.redis_cli(&["CONFIG", "SET", "requirepass", "Hyacinth-5"]), "OK");
    }
    let script = "
db = connect('file:shop?vfs=redis')
db.execute('CREATE TABLE t (x)')
say(db.execute('SELECT count(*) FROM t').fetchone()[0])
memory = connect('file:tables?mode=memory')
for url in (os.environ['SQLITE_REDIS_URL'], os.environ['OTHER']):
    try:
        memory.execute(f\"CREATE VIRTUAL TABLE v USING redis('{url}', p, x)\")
        say('made')
        memory.execute('DROP TABLE v')
    except sqlite3.Error as error:
        say(error)
";
    let environment = [
        ("SQLITE_REDIS_URL", server.url()),
        ("OTHER", other.url()),
        ("SQLITE_REDIS_CREDENTIALS", "env:SHOP_PASSWORD".to_owned()),
        ("SHOP_PASSWORD", "Hyacinth-5".to_owned()),
    ];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let Some(said) = hosts::run_python(script, &environment) else { return };
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines[..2], ["0", "made"], "{said:?}");
    // Anybody may have written the schema, so its addresses get no password from the environment.
    assert!(lines[2].contains("NOAUTH") && !said.out.contains("Hyacinth"), "{said:?}");
}

#[test]
fn databases_of_one_server_share_its_connections() {
    let server = Server::start();
    let clients = || {
        server
            .redis_cli(&["INFO", "clients"])
            .lines()
            .find_map(|line| line.strip_prefix("connected_clients:")?.trim().parse::<i64>().ok())
    };
    let before = clients().unwrap();
    for n in 0..30 {
        server.options(&format!("db{n}")).open().unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    }
    assert!(clients().unwrap() - before <= 3, "{:?}", clients());
}

#[test]
fn an_address_with_an_unknown_parameter_is_refused_for_databases_and_tables() {
    for (url, parameter) in [
        ("redis://127.0.0.1:1?db=3", "`db`"),
        ("redis://127.0.0.1:1/?protocol=resp3", "`protocol`"),
        ("unix:///nowhere?database=3", "`database`"),
    ] {
        let error = Options::new("shop").server(url).open().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("unknown parameter {parameter}")), "{error}");
        let error = vtab::create(&vtab::connect(), url, "v", "x").unwrap_err().to_string();
        assert!(error.contains(&format!("unknown parameter {parameter}")), "{error}");
    }
}
