//! Scripts for the system's Python. It loads the extension into its own SQLite.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;

use sqlite_redis::Options;

use crate::hosts::extension;
use crate::{Server, check_integrity, number, program};

/// Defines `open()`, which opens `shop`, and `child(body)`, which runs `body` in a forked child and returns its
/// process id; `join(pid)` asserts that it succeeded.
const PRELUDE: &str = "
import os, sqlite3, sys, traceback
loader = sqlite3.connect(':memory:')
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
def open(**options):
    return sqlite3.connect(sys.argv[2], uri=True, isolation_level=None, **options)
def count(db):
    return db.execute('SELECT count(*) FROM t').fetchone()[0]
def child(body):
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid
def join(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, 'the child failed'
def refused(db, sql):
    try:
        db.execute(sql)
    except sqlite3.OperationalError as error:
        return str(error)
    raise AssertionError(sql + ' was not refused')
db = open(timeout=30)
db.execute('CREATE TABLE t (a, b)')
";

/// Runs a script on the database `shop`, then checks the database.
///
/// # Panics
/// When the script fails, or leaves something wrong.
pub fn python(server: &Server, script: &str) {
    python_with(server, &server.options("shop"), script);
}

/// Like [`python`], with options for `open()`.
///
/// # Panics
/// When the script fails, or leaves something wrong.
pub fn python_with(server: &Server, options: &Options, script: &str) {
    let python = "/usr/bin/python3";
    if !Path::new(python).exists() {
        program::skipped(&format!("there is no {python}"));
        return;
    }
    let mut command = Command::new(python);
    command.args(["-c", &format!("{PRELUDE}{script}")]).arg(extension()).arg(options.uri());
    let output = command.env("TMPDIR", server.directory()).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let db = server.open("shop");
    assert!(number(&db, "SELECT count(*) FROM t") >= 0);
    check_integrity(&db);
    server.check_stored("shop");
    assert_commit_ids_are_unique(server);
}

/// A forked child that continued its parent's random numbers would repeat commit ids.
fn assert_commit_ids_are_unique(server: &Server) {
    let log: Vec<(String, HashMap<String, Vec<u8>>)> =
        redis::cmd("XRANGE").arg("sqlite:{shop}:log").arg("-").arg("+").query(&mut server.redis()).expect("a log");
    let ids: HashSet<&[u8]> = log.iter().map(|(_, entry)| &entry["commit"][..]).collect();
    assert_eq!(ids.len(), log.len(), "two commits have the same id");
}
