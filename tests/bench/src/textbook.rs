//! The baseline: a simple SQLite VFS on Redis with the crate `sqlite-vfs`. A page is a field of a hash: each page that
//! is read costs one `HGET`, each page that is written one `HSET`. `SETNX` is the writers' lock. There is no cache but
//! SQLite's own.
//!
//! It promises less than sqlite-redis: readers take no lock, so they may see half of a commit. Journals stay in memory,
//! so a writer that dies leaves half of its commit.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use redis::{Connection, FromRedisValue, cmd};
use rusqlite::OpenFlags;
use sqlite_vfs::{DatabaseHandle, LockKind, OpenKind, OpenOptions, Vfs, WalDisabled};

/// SQLite's default page size, the only one supported.
const PAGE: u64 = 4096;

/// Opens a database on a server.
///
/// # Errors
/// The VFS can't be registered, or SQLite returns an error.
pub fn open(url: &str, name: &str) -> anyhow::Result<rusqlite::Connection> {
    static REGISTERED: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    let vfs = format!("textbook-{}", registered.len());
    if !registered.contains_key(url) {
        sqlite_vfs::register(&vfs, Textbook { url: url.to_owned(), side_files: SideFiles::default() }, false)?;
        registered.insert(url.to_owned(), vfs);
    }
    Ok(rusqlite::Connection::open_with_flags_and_vfs(name, OpenFlags::default(), registered[url].as_str())?)
}

type Bytes = Arc<Mutex<Vec<u8>>>;
type SideFiles = Arc<Mutex<HashMap<String, Bytes>>>;

struct Textbook {
    url: String,
    /// Journals by name. SQLite deletes them again.
    side_files: SideFiles,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vfs for Textbook {
    type Handle = Handle;

    fn open(&self, name: &str, options: OpenOptions) -> Result<Handle> {
        if options.kind != OpenKind::MainDb {
            let bytes = lock(&self.side_files).entry(name.to_owned()).or_default().clone();
            return Ok(Handle::Memory(bytes));
        }
        let connection =
            redis::Client::open(self.url.as_str()).and_then(|c| c.get_connection()).map_err(Error::other)?;
        Ok(Handle::Redis { connection: Mutex::new(connection), key: format!("textbook:{name}"), level: LockKind::None })
    }

    fn delete(&self, name: &str) -> Result<()> {
        lock(&self.side_files).remove(name);
        Ok(())
    }

    fn exists(&self, name: &str) -> Result<bool> {
        Ok(lock(&self.side_files).contains_key(name))
    }

    fn temporary_name(&self) -> String {
        format!("temporary-{}", rand::random::<u64>())
    }

    fn random(&self, buffer: &mut [i8]) {
        buffer.fill_with(rand::random);
    }

    fn sleep(&self, duration: Duration) -> Duration {
        std::thread::sleep(duration);
        duration
    }
}

/// An open file.
enum Handle {
    Redis { connection: Mutex<Connection>, key: String, level: LockKind },
    Memory(Bytes),
}

impl Handle {
    /// Runs one command in one round trip. `T` decides how a missing value is read.
    fn ask<T: FromRedisValue>(&self, command: &str, arguments: &[&[u8]]) -> Result<T> {
        let Handle::Redis { connection, key, .. } = self else { return Err(ErrorKind::Unsupported.into()) };
        let key = if command.starts_with('H') { key.clone() } else { format!("{key}:lock") };
        cmd(command).arg(key).arg(arguments).query(&mut *lock(connection)).map_err(Error::other)
    }
}

impl DatabaseHandle for Handle {
    type WalIndex = WalDisabled;

    fn size(&self) -> Result<u64> {
        match self {
            Handle::Memory(bytes) => Ok(lock(bytes).len() as u64),
            Handle::Redis { .. } => Ok(self.ask::<u64>("HLEN", &[])? * PAGE),
        }
    }

    fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if let Handle::Memory(bytes) = self {
            let bytes = lock(bytes);
            let part = bytes.get(offset as usize..offset as usize + buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(part);
            return Ok(());
        }
        let (page, within) = (offset / PAGE, (offset % PAGE) as usize);
        let content: Option<Vec<u8>> = self.ask("HGET", &[page.to_string().as_bytes()])?;
        let content = content.ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(content.get(within..within + buffer.len()).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&mut self, data: &[u8], offset: u64) -> Result<()> {
        if let Handle::Memory(bytes) = self {
            let (mut bytes, end) = (lock(bytes), offset as usize + data.len());
            let length = bytes.len().max(end);
            bytes.resize(length, 0);
            bytes[offset as usize..end].copy_from_slice(data);
            return Ok(());
        }
        self.ask::<u64>("HSET", &[(offset / PAGE).to_string().as_bytes(), data]).map(|_| ())
    }

    fn sync(&mut self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn set_len(&mut self, size: u64) -> Result<()> {
        if let Handle::Memory(bytes) = self {
            lock(bytes).resize(size as usize, 0);
            return Ok(());
        }
        for page in size / PAGE..self.size()? / PAGE {
            self.ask::<u64>("HDEL", &[page.to_string().as_bytes()])?;
        }
        Ok(())
    }

    fn lock(&mut self, wanted: LockKind) -> Result<bool> {
        let Handle::Redis { level, .. } = self else { return Ok(true) };
        let writes = |level| matches!(level, LockKind::Reserved | LockKind::Pending | LockKind::Exclusive);
        let granted = match (writes(*level), writes(wanted)) {
            (false, true) => self.ask::<u64>("SETNX", &[b"1"])? == 1,
            (true, false) => self.ask::<u64>("DEL", &[]).map(|_| true)?,
            _ => true,
        };
        if granted && let Handle::Redis { level, .. } = self {
            *level = wanted;
        }
        Ok(granted)
    }

    fn reserved(&mut self) -> Result<bool> {
        match self {
            Handle::Memory(_) => Ok(false),
            Handle::Redis { .. } => Ok(self.ask::<u64>("EXISTS", &[])? > 0),
        }
    }

    fn current_lock(&self) -> Result<LockKind> {
        match self {
            Handle::Memory(_) => Ok(LockKind::None),
            Handle::Redis { level, .. } => Ok(*level),
        }
    }

    fn wal_index(&self, _readonly: bool) -> Result<WalDisabled> {
        Ok(WalDisabled)
    }
}
