//! Copies whole databases with SQLite's backup API.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, ffi};

use crate::{database, signals};

const PAGES_PER_STEP: i32 = 256;
/// How long to wait for another connection's lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// Copies `source` over `target`, some pages at a time. `progress` is called with the pages copied and the pages in
/// total.
pub fn copy(source: (&Connection, &str), target: (&mut Connection, &str), progress: &dyn Fn(u64, u64)) -> Result<()> {
    // One read transaction spans all steps. Otherwise each commit of another connection would restart the backup,
    // perhaps for ever.
    let own = source.0.is_autocommit();
    let schema = crate::names::quoted(source.1);
    if own {
        source.0.execute_batch("BEGIN")?;
    }
    let result = source
        .0
        .query_row(&format!("SELECT count(*) FROM {schema}.sqlite_schema"), [], |_| Ok(()))
        .map_err(anyhow::Error::from)
        .and_then(|()| steps(source, target, progress));
    if own && !source.0.is_autocommit() {
        source.0.execute_batch("COMMIT")?;
    }
    result
}

fn steps(source: (&Connection, &str), target: (&mut Connection, &str), progress: &dyn Fn(u64, u64)) -> Result<()> {
    let backup = Backup::new_with_names(source.0, source.1, target.0, target.1)?;
    let mut stuck: Option<Instant> = None;
    loop {
        let step = backup.step(PAGES_PER_STEP)?;
        let state = backup.progress();
        let pages = |n: i32| u64::try_from(n).unwrap_or(0);
        progress(pages(state.pagecount - state.remaining), pages(state.pagecount));
        ensure!(!signals::stop(), "interrupted");
        match step {
            StepResult::Done => return Ok(()),
            StepResult::More => stuck = None,
            _ => {
                let since = stuck.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    bail!("the database is locked");
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Opens a SQLite file for reading, and checks that it is one.
pub fn open_file(path: &Path) -> Result<Connection> {
    let shown = path.display();
    let meta = path.metadata().with_context(|| format!("{shown} can't be read"))?;
    if !meta.is_file() {
        bail!("{shown} is not a file");
    }
    // Not read-only: a file in WAL mode may need its log recovered.
    let writable = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let readonly = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // An absolute path is never taken for a URI.
    let path = std::path::absolute(path)?;
    let db = Connection::open_with_flags(&path, writable)
        .or_else(|_| Connection::open_with_flags(&path, readonly))
        .with_context(|| format!("{shown} can't be opened"))?;
    db.busy_timeout(PATIENCE)?;
    match probe(&db) {
        // The file is in WAL mode, in a directory where SQLite can't create its shared memory.
        Err(error) if matches!(database::code(&error), ffi::SQLITE_CANTOPEN | ffi::SQLITE_READONLY) => immutable(&path),
        other => other.map(|()| db),
    }
    .with_context(|| format!("{shown} can't be imported"))
}

fn probe(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// Opens a file in a directory without write permission, in which nobody can be writing. Its WAL is not read then, so
/// there must be none.
fn immutable(path: &Path) -> rusqlite::Result<Connection> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let cannot = || rusqlite::Error::InvalidPath(path.to_owned());
    if Path::new(&wal).metadata().is_ok_and(|meta| meta.len() > 0) {
        return Err(cannot());
    }
    let path = path.to_str().ok_or_else(cannot)?;
    let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(format!("file:{path}?immutable=1"), flags)?;
    probe(&db)?;
    Ok(db)
}

/// Copies a SQLite file to a temporary one that nobody else uses and that is not in WAL mode, which a database in
/// Redis can't have.
pub fn settled_copy(source: &Path, target: &Path, progress: &dyn Fn(u64, u64)) -> Result<Connection> {
    let source = open_file(source)?;
    let mut copy = Connection::open(target)?;
    // The copy is temporary, so it need not survive a crash.
    copy.execute_batch("PRAGMA synchronous=OFF")?;
    self::copy((&source, "main"), (&mut copy, "main"), progress)?;
    copy.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(()))?;
    Ok(copy)
}
