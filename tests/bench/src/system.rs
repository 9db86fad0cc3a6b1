//! The compared systems, and how to connect to each.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::client::{Param, Postgres, Sql, VirtualTables};
use crate::setting::Setting;
use crate::workload::{BENCH, LOADED};
use crate::{data, postgres, textbook};

/// One of the systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    SqliteRedis,
    /// sqlite-redis with reads that may be a second old, and a lease that lingers.
    SqliteRedisRelaxed,
    SqliteRedisTcp,
    /// Virtual tables of sqlite-redis: each row is a hash, and the client caches no page.
    VirtualTable,
    Textbook,
    FileWal,
    FileOff,
    Memory,
    PostgresAsync,
    PostgresSync,
    Redis,
    RedisTcp,
}

impl System {
    pub fn name(self) -> &'static str {
        match self {
            System::SqliteRedis => "sqlite-redis",
            System::SqliteRedisRelaxed => "sqlite-redis, relaxed",
            System::SqliteRedisTcp => "sqlite-redis, TCP",
            System::VirtualTable => "virtual table",
            System::Textbook => "textbook VFS",
            System::FileWal => "file, WAL",
            System::FileOff => "file, sync off",
            System::Memory => ":memory:",
            System::PostgresAsync => "PostgreSQL, async",
            System::PostgresSync => "PostgreSQL, sync",
            System::Redis => "Redis",
            System::RedisTcp => "Redis, TCP",
        }
    }

    /// Whether the system is Redis alone, without SQL.
    pub fn is_floor(self) -> bool {
        matches!(self, System::Redis | System::RedisTcp)
    }

    /// Whether the system has a server.
    pub fn is_remote(self) -> bool {
        !matches!(self, System::FileWal | System::FileOff | System::Memory)
    }

    /// Whether it is reached over TCP, which no relay supports.
    pub fn is_tcp(self) -> bool {
        matches!(self, System::SqliteRedisTcp | System::RedisTcp)
    }

    /// Whether it sends commands to Redis.
    pub fn asks_redis(self) -> bool {
        self.is_remote() && !matches!(self, System::PostgresAsync | System::PostgresSync)
    }

    /// Whether it caches pages, and proves that they are current or bounds their age.
    pub fn has_cache(self) -> bool {
        !matches!(self, System::Textbook | System::VirtualTable)
    }

    /// Whether several processes can share a database. (Not the textbook: its writers keep caches from before they held
    /// the lock, and the database is malformed within a second.)
    pub fn is_shared(self) -> bool {
        !matches!(self, System::Memory | System::Textbook)
    }

    /// Whether it is measured in a setting. Systems without a server are measured in one only.
    pub fn runs_in(self, setting: Setting) -> bool {
        match setting {
            Setting::OneCore => true,
            Setting::TwoCores => self.is_remote(),
            Setting::HalfMs | Setting::TwoMs | Setting::Counted => self.is_remote() && !self.is_tcp(),
        }
    }
}

/// The addresses of the servers. Worker processes get this as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Places {
    /// Directory for files and for the sockets of relays.
    pub directory: PathBuf,
    pub redis_socket: PathBuf,
    pub redis_port: u16,
    pub postgres: PathBuf,
}

impl Places {
    /// The socket of Redis in a setting.
    pub fn redis_socket(&self, setting: Setting) -> PathBuf {
        match setting.delay() {
            None => self.redis_socket.clone(),
            Some(_) => self.relays(setting).join("redis.sock"),
        }
    }

    /// The directory of PostgreSQL's socket in a setting.
    pub fn postgres(&self, setting: Setting) -> PathBuf {
        match setting.delay() {
            None => self.postgres.clone(),
            Some(_) => self.relays(setting),
        }
    }

    /// The directory of a setting's relay sockets.
    pub fn relays(&self, setting: Setting) -> PathBuf {
        self.directory.join(format!("{setting:?}"))
    }

    fn redis_url(&self, system: System, setting: Setting) -> String {
        if system.is_tcp() {
            return format!("redis://127.0.0.1:{}", self.redis_port);
        }
        format!("unix://{}", self.redis_socket(setting).display())
    }

    /// A connection to Redis without SQL.
    pub fn redis(&self, system: System, setting: Setting) -> Result<redis::Connection> {
        let client = redis::Client::open(self.redis_url(system, setting))?;
        client.get_connection().context("Redis")
    }

    /// A file of a local system.
    pub fn file(&self, system: System, database: &str) -> PathBuf {
        self.directory.join(format!("{system:?}-{database}.sqlite"))
    }

    /// Opens a database of a system that has SQL.
    pub fn open(&self, system: System, setting: Setting, database: &str) -> Result<Box<dyn Sql>> {
        let sqlite = match system {
            System::PostgresAsync | System::PostgresSync => return self.open_postgres(system, setting, database),
            System::Redis | System::RedisTcp => anyhow::bail!("Redis knows no SQL"),
            System::SqliteRedis | System::SqliteRedisRelaxed | System::SqliteRedisTcp => {
                let options = sqlite_redis::Options::new(database_name(system, database));
                let options = options.server(self.redis_url(system, setting));
                match system {
                    System::SqliteRedisRelaxed => options.linger(LINGER).consistency(AGE).open()?,
                    _ => options.open()?,
                }
            }
            System::VirtualTable => {
                let (url, tables) =
                    (self.redis_url(system, setting), if database == BENCH { data::TABLES } else { &[] });
                return Ok(Box::new(VirtualTables::open(url, tables)?));
            }
            System::Textbook => textbook::open(&self.redis_url(system, setting), database)?,
            System::FileWal | System::FileOff => rusqlite::Connection::open(self.file(system, database))?,
            System::Memory => rusqlite::Connection::open_in_memory()?,
        };
        sqlite.busy_timeout(std::time::Duration::from_secs(60))?;
        sqlite.set_prepared_statement_cache_capacity(64);
        match system {
            System::FileWal => sqlite.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?,
            System::FileOff => sqlite.execute_batch("PRAGMA synchronous = OFF")?,
            _ => {}
        }
        Ok(Box::new(sqlite))
    }

    /// In PostgreSQL, a database of the other systems is a schema.
    fn open_postgres(&self, system: System, setting: Setting, database: &str) -> Result<Box<dyn Sql>> {
        let [asynchronous, synchronous] = postgres::DATABASES;
        let (name, commit) = match system {
            System::PostgresAsync => (asynchronous, "off"),
            _ => (synchronous, "on"),
        };
        let options = format!("-c synchronous_commit={commit} -c search_path={database}");
        let client = postgres::connect(&self.postgres(setting), name, &options)?;
        Ok(Box::new(Postgres::new(client)))
    }

    /// Empties or creates a database of this name.
    pub fn clear(&self, system: System, database: &str) -> Result<()> {
        match system {
            System::PostgresAsync | System::PostgresSync => {
                let anew = format!("DROP SCHEMA IF EXISTS {database} CASCADE; CREATE SCHEMA {database}");
                self.open(system, Setting::OneCore, database)?.batch(&anew)
            }
            System::FileWal | System::FileOff => {
                let file = self.file(system, database);
                for suffix in ["", "-wal", "-shm", "-journal"] {
                    // Not each of these files exists.
                    let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
                }
                Ok(())
            }
            System::Textbook => self.unlink(&[format!("textbook:{database}")]),
            System::SqliteRedis | System::SqliteRedisRelaxed | System::SqliteRedisTcp => {
                let hash = hash(system, database);
                self.unlink(&[format!("{hash}:log"), format!("{hash}:undo"), hash])
            }
            System::VirtualTable if database == LOADED => {
                let mut tables = self.open(system, Setting::OneCore, database)?;
                tables.create(LOADED, data::LOADED_COLUMNS)?;
                tables.query("SELECT redis_drop_data($1)", &[Param::Text(LOADED.to_owned())])?;
                Ok(())
            }
            System::VirtualTable | System::Memory | System::Redis | System::RedisTcp => Ok(()),
        }
    }

    fn unlink(&self, keys: &[String]) -> Result<()> {
        Ok(redis::cmd("UNLINK").arg(keys).exec(&mut self.redis(System::Redis, Setting::OneCore)?)?)
    }
}

/// The options for bounded reads and a lingering lease.
const AGE: sqlite_redis::Consistency = sqlite_redis::Consistency::Bounded(std::time::Duration::from_secs(1));
const LINGER: std::time::Duration = std::time::Duration::from_millis(5);

/// The name of a database of sqlite-redis. Each way to use it has its own databases.
fn database_name(system: System, database: &str) -> String {
    match system {
        System::SqliteRedisTcp => format!("{database}-tcp"),
        System::SqliteRedisRelaxed => format!("{database}-relaxed"),
        _ => database.to_owned(),
    }
}

/// The key of such a database's hash.
pub fn hash(system: System, database: &str) -> String {
    format!("sqlite:{{{}}}", database_name(system, database))
}
