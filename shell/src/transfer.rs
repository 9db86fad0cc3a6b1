//! `import` and `export`: copies whole databases between files and Redis.

use sqlite_redis::admin::ImportOptions;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rusqlite::Connection;

use crate::copy;
use crate::database::{Location, Server};
use crate::signals;

/// `import FILE NAME`: takes a consistent copy of the file, then stores its pages under a temporary key, which is
/// renamed to NAME when it is complete.
pub fn import(server: &Server, file: &Path, name: &str, force: bool) -> Result<()> {
    // Checks the file before it connects, so that a wrong file changes nothing.
    copy::open_file(file)?;
    let admin = server.admin()?;
    if !force && admin.info(name)?.is_some() {
        bail!("there is a database {name} already; --force replaces it");
    }
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("copy.sqlite");
    let bar = bar("Reading");
    let copied = copy::settled_copy(file, &path, &|done, all| show(&bar, done, all))?;
    bar.finish_and_clear();
    let mut pages = Pages::of(copied, &path)?;
    let bar = self::bar("Importing");
    bar.set_length(u64::from(pages.count));
    let mut import = admin.import(name, ImportOptions::new(pages.size, pages.count).overwrite(force))?;
    for number in 1..=pages.count {
        import.page(pages.read(number)?)?;
        bar.set_position(number.into());
        // If this import is dropped unfinished, it removes its pages.
        ensure!(!signals::stop(), "interrupted");
    }
    import.finish()?;
    bar.finish_and_clear();
    note!("{} pages of {} bytes imported as {name}", pages.count, pages.size);
    Ok(())
}

/// The pages of a SQLite file that nobody writes to.
struct Pages {
    file: File,
    size: u32,
    count: u32,
}

impl Pages {
    fn of(db: Connection, path: &Path) -> Result<Self> {
        let pragma = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
        // An empty file is a database without pages.
        if pragma("page_count")? == 0 {
            db.execute_batch("PRAGMA user_version = 1; PRAGMA user_version = 0")?;
        }
        let (size, count) = (pragma("page_size")?, pragma("page_count")?);
        db.close().map_err(|(_, error)| error)?;
        Ok(Pages { file: File::open(path)?, size, count })
    }

    /// Page `number`, counted from 1.
    fn read(&mut self, number: u32) -> std::io::Result<Vec<u8>> {
        let mut page = vec![0; self.size as usize];
        self.file.seek(SeekFrom::Start(u64::from(number - 1) * u64::from(self.size)))?;
        self.file.read_exact(&mut page)?;
        Ok(page)
    }
}

/// `export NAME FILE`: writes a snapshot beside FILE, which is renamed to FILE when it is complete and on disk.
pub fn export(server: &Server, name: &str, file: &Path, force: bool) -> Result<()> {
    let target = std::path::absolute(file)?;
    refuse_what_is_there(&target, force)?;
    let parent = target.parent().context("FILE needs a directory")?;
    if server.admin()?.info(name)?.is_none() {
        return Err(server.missing(name));
    }
    let source = server.open(&Location::Redis(name.to_owned()), true)?;
    let directory = tempfile::Builder::new()
        .prefix(".sqlite-redis-export-")
        .tempdir_in(parent)
        .with_context(|| format!("{} can't be written to", parent.display()))?;
    let path = directory.path().join("copy.sqlite");
    let mut copied = Connection::open(&path)?;
    let bar = bar("Exporting");
    copy::copy((&source, "main"), (&mut copied, "main"), &|done, all| show(&bar, done, all))?;
    copied.close().map_err(|(_, error)| error)?;
    File::open(&path)?.sync_all()?;
    put_in_place(&path, &target, force)?;
    bar.finish_and_clear();
    note!("{name} exported to {}", file.display());
    Ok(())
}

/// SQLite would apply a leftover journal to the new file.
fn refuse_what_is_there(target: &Path, force: bool) -> Result<()> {
    if !force && target.symlink_metadata().is_ok() {
        bail!("{} exists already; --force replaces it", target.display());
    }
    for suffix in ["-wal", "-journal"] {
        let mut journal = target.as_os_str().to_owned();
        journal.push(suffix);
        let journal = PathBuf::from(journal);
        if journal.metadata().is_ok_and(|meta| meta.len() > 0) {
            bail!("{} belongs to a database in use; remove it first", journal.display());
        }
    }
    Ok(())
}

fn put_in_place(from: &Path, to: &Path, force: bool) -> Result<()> {
    let moved = if force {
        fs::rename(from, to)
    } else {
        // Unlike a rename, a hard link never replaces a file that has appeared meanwhile.
        match fs::hard_link(from, to) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => fs::rename(from, to),
            other => other,
        }
    };
    moved.with_context(|| format!("{} can't be written", to.display()))?;
    if let Some(parent) = to.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// A progress bar, shown only on a terminal.
fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(what);
    let template = "{msg} {wide_bar} {human_pos}/{human_len} pages, {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, done: u64, all: u64) {
    bar.set_length(all);
    bar.set_position(done);
}
