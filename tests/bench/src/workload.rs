//! The workloads: each repeats one operation.

use anyhow::{Result, bail, ensure};
use rand::RngExt;
use rand_distr::{Distribution, Zipf};
use redis::{Connection, Value, cmd};

use crate::client::{Param, Sql};
use crate::data::{self, PER_CATEGORY, Sizes};
use crate::setting::Setting;
use crate::system::{Places, System, hash};

/// A client: a connection, and the state that chooses the next row.
pub struct Session {
    pub places: Places,
    pub system: System,
    pub setting: Setting,
    pub sizes: Sizes,
    client: Client,
    rng: rand::rngs::StdRng,
    zipf: Zipf<f64>,
    /// Number of the next new row. Sessions have disjoint ranges.
    next: i64,
}

enum Client {
    Sql(Box<dyn Sql>),
    Redis(Box<Connection>),
}

/// Databases of a system.
pub const BENCH: &str = "bench";
pub const SCANNED: &str = "scanned";
pub const LOADED: &str = "loaded";

impl Session {
    /// Opens a connection. `worker` gives the session its own range of new rows.
    ///
    /// # Errors
    /// The connection can't be opened.
    pub fn open(
        places: &Places,
        system: System,
        setting: Setting,
        sizes: Sizes,
        database: &str,
        worker: i64,
    ) -> Result<Self> {
        let client = if system.is_floor() {
            Client::Redis(Box::new(places.redis(system, setting)?))
        } else {
            Client::Sql(places.open(system, setting, database)?)
        };
        Ok(Session {
            places: places.clone(),
            system,
            setting,
            sizes,
            client,
            rng: rand::make_rng(),
            zipf: Zipf::new(sizes.records as f64, 0.99)?,
            next: worker << 40,
        })
    }

    pub fn sql(&mut self) -> Result<&mut dyn Sql> {
        match &mut self.client {
            Client::Sql(sql) => Ok(&mut **sql),
            Client::Redis(_) => bail!("Redis knows no SQL"),
        }
    }

    pub fn redis(&mut self) -> Result<&mut Connection> {
        match &mut self.client {
            Client::Redis(connection) => Ok(connection),
            Client::Sql(_) => bail!("this is not Redis itself"),
        }
    }

    fn item(&mut self) -> i64 {
        self.rng.random_range(0..self.sizes.items)
    }

    fn next(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// A record in YCSB's Zipf distribution: few records are chosen often.
    fn record(&mut self) -> i64 {
        self.zipf.sample(&mut self.rng) as i64 - 1
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }
}

type Op = fn(&mut Session) -> Result<()>;

/// Which clients run the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// One client, whose cache is warm.
    Warm,
    /// A new process for each operation, which has only opened the database.
    Cold { database: &'static str },
    /// Several processes at once on one database.
    Together(u32),
}

/// One line of the table.
pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub manner: Manner,
    /// Runs before a slice and is not timed.
    before: Option<Op>,
    op: Op,
    /// The equivalent on Redis without SQL, where there is one.
    floor: Option<Op>,
    after: Option<Op>,
    /// Upper bound of operations in a slice.
    pub most: u64,
}

impl Workload {
    const fn warm(name: &'static str, about: &'static str, op: Op, floor: Option<Op>) -> Self {
        Workload { name, about, manner: Manner::Warm, before: None, op, floor, after: None, most: u64::MAX }
    }

    const fn cold(name: &'static str, about: &'static str, database: &'static str, op: Op, floor: Option<Op>) -> Self {
        Workload { manner: Manner::Cold { database }, most: 1, ..Workload::warm(name, about, op, floor) }
    }

    const fn together(name: &'static str, about: &'static str, processes: u32, op: Op, floor: Option<Op>) -> Self {
        Workload { manner: Manner::Together(processes), ..Workload::warm(name, about, op, floor) }
    }

    /// Whether the workload is measured for a system in a setting.
    pub fn runs_on(&self, system: System, setting: Setting) -> bool {
        let possible = match system {
            System::Redis | System::RedisTcp => self.floor.is_some(),
            System::VirtualTable => !["join", "connect", "scan", "vacuum"].contains(&self.name),
            System::Memory => self.name != "connect",
            _ => true,
        };
        let shared = match self.manner {
            Manner::Warm => true,
            // A cold client has no stale page to read and no lease to keep, so the relaxed options make no difference.
            Manner::Cold { .. } => !matches!(system, System::Memory | System::SqliteRedisRelaxed),
            Manner::Together(_) => system.is_shared(),
        };
        let timed = setting != Setting::Counted || self.manner == Manner::Warm;
        let known = self.name != "join" || data::chinook().is_some();
        possible && shared && timed && known && system.runs_in(setting)
    }

    pub fn before(&self, session: &mut Session) -> Result<()> {
        self.before.filter(|_| !session.system.is_floor()).map_or(Ok(()), |before| before(session))
    }

    pub fn op(&self, session: &mut Session) -> Result<()> {
        match self.floor {
            Some(floor) if session.system.is_floor() => floor(session),
            _ => (self.op)(session),
        }
    }

    pub fn after(&self, session: &mut Session) -> Result<()> {
        self.after.filter(|_| !session.system.is_floor()).map_or(Ok(()), |after| after(session))
    }
}

/// All workloads, in the order of the table.
pub static WORKLOADS: &[Workload] = &[
    Workload::warm("point", "select of a row by its key, autocommit", point, Some(get)),
    Workload {
        before: Some(begin_reading),
        after: Some(commit),
        ..Workload::warm("point-in-transaction", "the same within one transaction", point, None)
    },
    Workload::warm("index", "select of 10 rows by a secondary index", index, None),
    Workload::warm("range", "select of 100 rows by their keys", range, Some(get_100)),
    Workload::warm("join", "join and aggregate over four tables of Chinook", join, None),
    Workload::warm("insert", "insert of a row, autocommit", insert, Some(set)),
    Workload::warm("update", "update of a row by its key, autocommit", update, Some(set)),
    Workload {
        before: Some(fill_gone),
        after: Some(empty_gone),
        most: GONE,
        ..Workload::warm("delete", "delete of a row by its key, autocommit", delete, Some(del))
    },
    Workload::warm("transaction-10", "transaction of 10 inserts", insert_10, Some(set_10)),
    Workload::warm("transaction-1000", "transaction of 1,000 inserts", insert_1000, Some(set_1000)),
    Workload::warm(
        "ycsb-a",
        "YCSB A: half reads, half updates of 1,000 bytes",
        |s| ycsb(s, 50),
        Some(|s| ycsb_floor(s, 50)),
    ),
    Workload::warm("ycsb-b", "YCSB B: 95 % reads, 5 % updates", |s| ycsb(s, 95), Some(|s| ycsb_floor(s, 95))),
    Workload::warm("ycsb-c", "YCSB C: reads", |s| ycsb(s, 100), Some(|s| ycsb_floor(s, 100))),
    Workload::warm("ycsb-e", "YCSB E: 95 % scans of up to 100 rows, 5 % inserts", ycsb_e, None),
    Workload::warm("connect", "open, select a row, close", connect, Some(connect_floor)),
    Workload::cold("scan", "cold scan of 100 MB (10 MB with added latency)", SCANNED, scan, Some(scan_floor)),
    Workload {
        before: Some(scatter),
        ..Workload::cold("vacuum", "VACUUM of 100 MB (10 MB with added latency)", SCANNED, vacuum, None)
    },
    Workload::cold(
        "load",
        "load of 1,000,000 rows in one transaction (100,000 with added latency, 10,000 in a virtual table)",
        LOADED,
        load,
        None,
    ),
    Workload::together("mix-4", "4 processes: 95 % point selects, 5 % updates", 4, mix, Some(mix_floor)),
    Workload::together("writer-1", "1 process: autocommit inserts", 1, insert, Some(set)),
    Workload::together("writers-4", "4 processes: autocommit inserts", 4, insert, Some(set)),
];

fn point(session: &mut Session) -> Result<()> {
    let id = session.item();
    let rows = session.sql()?.query("SELECT name, category, price, note FROM item WHERE id = $1", &[Param::Int(id)])?;
    ensure!(rows == 1, "{rows} rows of item {id}");
    Ok(())
}

fn get(session: &mut Session) -> Result<()> {
    let id = session.item();
    let row: Vec<u8> = cmd("GET").arg(format!("row:{id}")).query(session.redis()?)?;
    ensure!(row.len() == 100, "row {id} has {} bytes", row.len());
    Ok(())
}

fn begin_reading(session: &mut Session) -> Result<()> {
    session.sql()?.batch("BEGIN")?;
    point(session)
}

fn commit(session: &mut Session) -> Result<()> {
    session.sql()?.batch("COMMIT")
}

fn index(session: &mut Session) -> Result<()> {
    let category = session.item() / PER_CATEGORY;
    let rows = session.sql()?.query("SELECT id, name FROM item WHERE category = $1", &[Param::Int(category)])?;
    ensure!(rows as i64 == PER_CATEGORY, "{rows} rows of category {category}");
    Ok(())
}

fn range(session: &mut Session) -> Result<()> {
    let first = session.item().min(session.sizes.items - 100);
    let sql = "SELECT id, name, price FROM item WHERE id >= $1 AND id < $2";
    let rows = session.sql()?.query(sql, &[Param::Int(first), Param::Int(first + 100)])?;
    ensure!(rows == 100, "{rows} rows from {first} on");
    Ok(())
}

fn get_100(session: &mut Session) -> Result<()> {
    let first = session.item().min(session.sizes.items - 100);
    let fields: Vec<i64> = (first..first + 100).collect();
    let rows: Vec<Vec<u8>> = cmd("HMGET").arg("rows").arg(fields).query(session.redis()?)?;
    ensure!(rows.len() == 100, "{} rows", rows.len());
    Ok(())
}

fn join(session: &mut Session) -> Result<()> {
    let rows = session.sql()?.query(
        "SELECT ar.name, count(*), sum(il.unitprice * il.quantity) FROM invoiceline il
         JOIN track t ON t.trackid = il.trackid JOIN album al ON al.albumid = t.albumid
         JOIN artist ar ON ar.artistid = al.artistid
         GROUP BY ar.artistid, ar.name ORDER BY 3 DESC LIMIT 10",
        &[],
    )?;
    ensure!(rows == 10, "{rows} rows");
    Ok(())
}

fn insert(session: &mut Session) -> Result<()> {
    let id = session.next();
    let row = [Param::Int(id), Param::Text(data::text(id, 90))];
    session.sql()?.execute("INSERT INTO entry VALUES ($1, $2)", &row)?;
    Ok(())
}

fn set(session: &mut Session) -> Result<()> {
    let id = session.next();
    Ok(cmd("SET").arg(format!("entry:{id}")).arg(data::text(id, 100)).exec(session.redis()?)?)
}

fn update(session: &mut Session) -> Result<()> {
    let id = session.item();
    let changed = session.sql()?.execute("UPDATE stock SET price = price + 1 WHERE id = $1", &[Param::Int(id)])?;
    ensure!(changed == 1, "{changed} rows of stock {id}");
    Ok(())
}

/// Number of rows that a slice can delete.
const GONE: u64 = 500;

fn fill_gone(session: &mut Session) -> Result<()> {
    let first = session.next;
    let rows = (1..=GONE as i64).map(|n| vec![Param::Int(first + n), Param::Text(data::text(first + n, 90))]);
    session.sql()?.load("gone", &mut rows.into_iter())
}

fn empty_gone(session: &mut Session) -> Result<()> {
    session.sql()?.batch("DELETE FROM gone")
}

fn delete(session: &mut Session) -> Result<()> {
    let id = session.next();
    let changed = session.sql()?.execute("DELETE FROM gone WHERE id = $1", &[Param::Int(id)])?;
    ensure!(changed == 1, "row {id} was not there");
    Ok(())
}

fn del(session: &mut Session) -> Result<()> {
    let id = session.next();
    Ok(cmd("DEL").arg(format!("entry:{id}")).exec(session.redis()?)?)
}

fn inserts(session: &mut Session, rows: u32) -> Result<()> {
    session.sql()?.begin()?;
    for _ in 0..rows {
        insert(session)?;
    }
    commit(session)
}

fn insert_10(session: &mut Session) -> Result<()> {
    inserts(session, 10)
}

fn insert_1000(session: &mut Session) -> Result<()> {
    inserts(session, 1000)
}

/// Sets the same number of values in one `MULTI`, in one round trip.
fn sets(session: &mut Session, rows: u32) -> Result<()> {
    let mut batch = redis::pipe();
    batch.atomic();
    for _ in 0..rows {
        let id = session.next();
        batch.set(format!("entry:{id}"), data::text(id, 100)).ignore();
    }
    Ok(batch.exec(session.redis()?)?)
}

fn set_10(session: &mut Session) -> Result<()> {
    sets(session, 10)
}

fn set_1000(session: &mut Session) -> Result<()> {
    sets(session, 1000)
}

fn ycsb(session: &mut Session, reads: u32) -> Result<()> {
    let (id, read) = (session.record(), session.chance(reads));
    let key = Param::Text(data::key(id));
    let rows = if read {
        session.sql()?.query("SELECT v FROM usertable WHERE k = $1", &[key])?
    } else {
        let value = Param::Text(data::text(session.next(), 1000));
        session.sql()?.execute("UPDATE usertable SET v = $1 WHERE k = $2", &[value, key])?
    };
    ensure!(rows == 1, "{rows} rows of record {id}");
    Ok(())
}

fn ycsb_floor(session: &mut Session, reads: u32) -> Result<()> {
    let key = format!("record:{}", session.record());
    if session.chance(reads) {
        let _: Vec<u8> = cmd("GET").arg(key).query(session.redis()?)?;
        return Ok(());
    }
    let value = data::text(session.next(), 1000);
    Ok(cmd("SET").arg(key).arg(value).exec(session.redis()?)?)
}

fn ycsb_e(session: &mut Session) -> Result<()> {
    if session.chance(95) {
        let (id, rows) = (session.record(), session.rng.random_range(1..=100));
        let sql = "SELECT k, v FROM usertable WHERE k >= $1 ORDER BY k LIMIT $2";
        session.sql()?.query(sql, &[Param::Text(data::key(id)), Param::Int(rows)])?;
        return Ok(());
    }
    let id = session.next();
    let row = [Param::Text(format!("new{:?}{id}", session.setting)), Param::Text(data::text(id, 1000))];
    session.sql()?.execute("INSERT INTO usertable VALUES ($1, $2)", &row)?;
    Ok(())
}

fn connect(session: &mut Session) -> Result<()> {
    let id = session.item();
    let mut fresh = session.places.open(session.system, session.setting, BENCH)?;
    fresh.query("SELECT name FROM item WHERE id = $1", &[Param::Int(id)])?;
    Ok(())
}

fn connect_floor(session: &mut Session) -> Result<()> {
    let id = session.item();
    let mut fresh = session.places.redis(session.system, session.setting)?;
    let _: Vec<u8> = cmd("GET").arg(format!("row:{id}")).query(&mut fresh)?;
    Ok(())
}

fn scan(session: &mut Session) -> Result<()> {
    let rows = session.sql()?.query("SELECT count(*), sum(length(body)) FROM scanned", &[])?;
    ensure!(rows == 1, "{rows} rows");
    Ok(())
}

/// Reads the pages of the same database, 64 at a time.
fn scan_floor(session: &mut Session) -> Result<()> {
    let hash = hash(System::SqliteRedis, &scanned(session.setting));
    let pages: u32 = cmd("HGET").arg(&hash).arg("page_count").query(session.redis()?)?;
    let all: Vec<String> = (1..=pages).map(|page| format!("page{page}")).collect();
    for batch in all.chunks(64) {
        let contents: Value = cmd("HMGET").arg(&hash).arg(batch).query(session.redis()?)?;
        std::hint::black_box(contents);
    }
    Ok(())
}

/// The database to scan. Where added latency would make a scan take minutes, it is a tenth of the size.
pub fn scanned(setting: Setting) -> String {
    if setting.delay().is_some() { format!("{SCANNED}_tenth") } else { SCANNED.to_owned() }
}

/// Leaves holes and fills them out of order, so that `VACUUM` has work to do.
fn scatter(session: &mut Session) -> Result<()> {
    let part = session.rng.random_range(0..10);
    session.sql()?.batch(&format!("DELETE FROM scanned WHERE id % 10 = {part}"))?;
    let rows = session.sizes.scanned;
    let again = (0..rows).filter(|id| id % 10 == part).map(|id| vec![Param::Int(id), Param::Text(data::text(id, 985))]);
    session.sql()?.load("scanned", &mut again.into_iter())
}

fn vacuum(session: &mut Session) -> Result<()> {
    let full = if session.sql()?.integer() == "BIGINT" { "VACUUM FULL scanned" } else { "VACUUM" };
    session.sql()?.batch(full)
}

fn load(session: &mut Session) -> Result<()> {
    let rows = session.sizes.loaded;
    data::bulk_load(session.sql()?, rows)
}

fn mix(session: &mut Session) -> Result<()> {
    if session.chance(95) { point(session) } else { update(session) }
}

fn mix_floor(session: &mut Session) -> Result<()> {
    if session.chance(95) { get(session) } else { set(session) }
}
