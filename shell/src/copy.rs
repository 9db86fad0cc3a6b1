//! Whole copies of databases through the backup API.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, ffi};

use crate::{database, signals};

const PAGES_PER_STEP: i32 = 256;
/// How long to wait for somebody else's lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// Copies `source` over `target`, page by page. `progress` gets the pages
/// done and the pages in all.
pub fn copy(source: (&Connection, &str), target: (&mut Connection, &str), progress: &dyn Fn(u64, u64)) -> Result<()> {
    // A read transaction around all steps: what others commit meanwhile would
    // make the copy start over again, perhaps forever.
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

/// Opens an SQLite file to read it, and makes sure that it is one.
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
        // A file in WAL mode, in a place where no shared memory for it can be made.
        Err(error) if matches!(database::code(&error), ffi::SQLITE_CANTOPEN | ffi::SQLITE_READONLY) => immutable(&path),
        other => other.map(|()| db),
    }
    .with_context(|| format!("{shown} can't be imported"))
}

fn probe(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// Opens a file that nobody can be writing to, as its directory can't be written to. Its WAL is
/// not read then, so there must be none.
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

/// A copy of an SQLite file that nobody else uses and that is not in WAL
/// mode, which a database in Redis can't be.
pub fn settled_copy(source: &Path, target: &Path, progress: &dyn Fn(u64, u64)) -> Result<Connection> {
    let source = open_file(source)?;
    let mut copy = Connection::open(target)?;
    // Made for this moment only, so it need not survive a crash.
    copy.execute_batch("PRAGMA synchronous=OFF")?;
    self::copy((&source, "main"), (&mut copy, "main"), progress)?;
    copy.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(()))?;
    Ok(copy)
}
