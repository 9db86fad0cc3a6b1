//! SQLite's error log. A process can configure it only before it first uses SQLite.

use std::os::raw::c_int;
use std::sync::Mutex;

use sqlite_redis_tests::Server;
use sqlite_redis_tests::failures::run;

static MESSAGES: Mutex<Vec<(c_int, String)>> = Mutex::new(Vec::new());

fn remember(code: c_int, message: &str) {
    MESSAGES.lock().unwrap().push((code, message.to_owned()));
}

#[test]
fn sqlites_error_log_has_code_database_server_and_cause() {
    // SAFETY: nothing has used SQLite yet, this is the only test of the program.
    unsafe { rusqlite::trace::config_log(Some(remember)).unwrap() };
    let mut server = Server::start();
    let connection = server.open("100%s");
    connection.execute_batch("CREATE TABLE t (x)").unwrap();
    server.kill();
    run(&connection, "SELECT * FROM t").unwrap_err();
    let messages = MESSAGES.lock().unwrap();
    let ours: Vec<_> = messages.iter().filter(|(_, message)| message.starts_with("sqlite-redis: ")).collect();
    let expected = format!("sqlite-redis: database `100%s` on {}: can't connect", server.url());
    assert!(ours.iter().any(|(code, message)| *code == 266 && message.starts_with(&expected)), "{messages:?}");
}
