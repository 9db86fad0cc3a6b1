//! Runs the same statements on a database in Redis and on a file, with stock SQLite as the oracle.

use rusqlite::Connection;
use tempfile::TempDir;

use crate::rows::{Outcome, assert_same_content, run};
use crate::{Server, check_integrity};

/// A database in Redis and a file with the same content.
pub struct Twins<'a> {
    /// A connection to the database in Redis.
    pub redis: Connection,
    /// A connection to the file.
    pub file: Connection,
    server: &'a Server,
    name: String,
    directory: TempDir,
}

impl<'a> Twins<'a> {
    /// Two empty databases.
    ///
    /// # Panics
    /// When they can't be opened.
    pub fn new(server: &'a Server, name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = Connection::open(directory.path().join("twin.db")).expect("a file");
        Twins { redis: server.open(name), file, server, name: name.to_owned(), directory }
    }

    /// Replaces both connections by new ones.
    ///
    /// # Panics
    /// When they can't be opened.
    pub fn reopen(&mut self) {
        self.redis = self.server.open(&self.name);
        self.file = Connection::open(self.directory.path().join("twin.db")).expect("a file");
    }

    /// Runs a script on both and asserts that both answer the same.
    ///
    /// # Panics
    /// When they don't.
    pub fn run(&self, sql: &str) -> Outcome {
        let (redis, file) = (run(&self.redis, sql), run(&self.file, sql));
        assert!(
            redis == file,
            "{sql}\nin Redis: {redis:?}\nin a file: {file:?}\n{:?}",
            sqlite_redis::last_error(&self.redis)
        );
        redis
    }

    /// Like [`Twins::run`], and asserts that nothing fails.
    ///
    /// # Panics
    /// When it does.
    pub fn must(&self, sql: &str) -> Outcome {
        let outcome = self.run(sql);
        assert_eq!(outcome.code, None, "{sql}");
        outcome
    }

    /// Asserts that both have the same content, that `integrity_check` passes, and that the hash and the log are valid
    /// ([`Server::check_stored`]). Must be called outside of a transaction.
    ///
    /// # Panics
    /// When a check fails.
    pub fn check(&self) {
        assert_same_content((&self.redis, "main"), (&self.file, "main"));
        check_integrity(&self.redis);
        self.server.check_stored(&self.name);
    }
}
