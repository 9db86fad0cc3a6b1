//! One interface to the systems: the trait [`Sql`] and its implementations.

use std::collections::HashMap;

use anyhow::{Context, Result};
use postgres::types::ToSql;
use rusqlite::types::{ToSqlOutput, Value};

/// A parameter of a statement.
#[derive(Debug, Clone)]
pub enum Param {
    Int(i64),
    Real(f64),
    Text(String),
}

impl rusqlite::ToSql for Param {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Param::Int(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Param::Real(number) => ToSqlOutput::Owned(Value::Real(*number)),
            Param::Text(text) => text.as_str().into(),
        })
    }
}

impl Param {
    fn for_postgres(&self) -> &(dyn ToSql + Sync) {
        match self {
            Param::Int(number) => number,
            Param::Real(number) => number,
            Param::Text(text) => text,
        }
    }
}

/// A connection that speaks SQL. Each statement is prepared once. Parameters are `$1`, `$2` and so on, in order.
pub trait Sql {
    /// Runs a statement and returns the number of changed rows.
    fn execute(&mut self, sql: &str, params: &[Param]) -> Result<usize>;

    /// Runs a query, reads all rows and columns, and returns the number of rows.
    fn query(&mut self, sql: &str, params: &[Param]) -> Result<usize>;

    /// Runs statements once, without preparing them.
    fn batch(&mut self, sql: &str) -> Result<()>;

    /// Begins a transaction that will write.
    fn begin(&mut self) -> Result<()>;

    /// Fills a table in one transaction, in the fastest way that the system has.
    fn load(&mut self, table: &str, rows: &mut dyn Iterator<Item = Vec<Param>>) -> Result<()>;

    /// The type of an integer key in DDL.
    fn integer(&self) -> &'static str;

    /// Creates a table. `columns` write `INTEGER` for the type of an integer key.
    fn create(&mut self, table: &str, columns: &str) -> Result<()> {
        let columns = columns.replace("INTEGER", self.integer());
        self.batch(&format!("CREATE TABLE {table} ({columns})"))
    }

    /// Creates an index on one column.
    fn index(&mut self, table: &str, column: &str) -> Result<()> {
        self.batch(&format!("CREATE INDEX {table}_{column} ON {table} ({column})"))
    }
}

impl Sql for rusqlite::Connection {
    fn execute(&mut self, sql: &str, params: &[Param]) -> Result<usize> {
        Ok(self.prepare_cached(sql)?.execute(rusqlite::params_from_iter(params))?)
    }

    fn query(&mut self, sql: &str, params: &[Param]) -> Result<usize> {
        let mut statement = self.prepare_cached(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(params))?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                std::hint::black_box(row.get_ref(column)?);
            }
            count += 1;
        }
        Ok(count)
    }

    fn batch(&mut self, sql: &str) -> Result<()> {
        Ok(self.execute_batch(sql)?)
    }

    fn begin(&mut self) -> Result<()> {
        self.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    fn load(&mut self, table: &str, rows: &mut dyn Iterator<Item = Vec<Param>>) -> Result<()> {
        let transaction = self.transaction()?;
        let mut sql = String::new();
        for row in rows {
            if sql.is_empty() {
                sql = format!("INSERT INTO {table} VALUES ({})", vec!["?"; row.len()].join(", "));
            }
            transaction.prepare_cached(&sql)?.execute(rusqlite::params_from_iter(row))?;
        }
        Ok(transaction.commit()?)
    }

    fn integer(&self) -> &'static str {
        "INTEGER"
    }
}

/// Virtual tables on a server, in a connection whose main database is in memory.
pub struct VirtualTables {
    connection: rusqlite::Connection,
    url: String,
}

impl VirtualTables {
    /// Opens a connection with virtual tables of these names and columns.
    pub fn open(url: String, tables: &[(&str, &str)]) -> Result<Self> {
        sqlite_redis::register()?;
        let connection = rusqlite::Connection::open_in_memory()?;
        connection.set_prepared_statement_cache_capacity(64);
        let mut opened = VirtualTables { connection, url };
        tables.iter().try_for_each(|(table, columns)| opened.create(table, columns))?;
        Ok(opened)
    }
}

impl Sql for VirtualTables {
    /// Runs a statement again while it conflicts with another client, as an application would.
    fn execute(&mut self, sql: &str, params: &[Param]) -> Result<usize> {
        loop {
            match Sql::execute(&mut self.connection, sql, params) {
                Err(error) if is_busy(&error) && self.connection.is_autocommit() => {}
                outcome => return outcome,
            }
        }
    }

    fn query(&mut self, sql: &str, params: &[Param]) -> Result<usize> {
        self.connection.query(sql, params)
    }

    fn batch(&mut self, sql: &str) -> Result<()> {
        self.connection.batch(sql)
    }

    fn begin(&mut self) -> Result<()> {
        self.connection.begin()
    }

    fn load(&mut self, table: &str, rows: &mut dyn Iterator<Item = Vec<Param>>) -> Result<()> {
        self.connection.load(table, rows)
    }

    fn integer(&self) -> &'static str {
        self.connection.integer()
    }

    fn create(&mut self, table: &str, columns: &str) -> Result<()> {
        self.batch(&format!(
            "CREATE VIRTUAL TABLE IF NOT EXISTS {table} USING redis('{}', virtual, {columns})",
            self.url
        ))
    }

    fn index(&mut self, table: &str, column: &str) -> Result<()> {
        self.query(&format!("SELECT redis_create_index('{table}', '{column}')"), &[])?;
        Ok(())
    }
}

fn is_busy(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    code == Some(rusqlite::ErrorCode::DatabaseBusy)
}

/// A connection to PostgreSQL and its prepared statements.
pub struct Postgres {
    client: postgres::Client,
    statements: HashMap<String, postgres::Statement>,
}

impl Postgres {
    pub fn new(client: postgres::Client) -> Self {
        Postgres { client, statements: HashMap::new() }
    }

    fn prepared(&mut self, sql: &str) -> Result<postgres::Statement> {
        if !self.statements.contains_key(sql) {
            let statement = self.client.prepare(sql).with_context(|| sql.to_owned())?;
            self.statements.insert(sql.to_owned(), statement);
        }
        Ok(self.statements[sql].clone())
    }
}

impl Sql for Postgres {
    fn execute(&mut self, sql: &str, params: &[Param]) -> Result<usize> {
        let statement = self.prepared(sql)?;
        let params: Vec<_> = params.iter().map(Param::for_postgres).collect();
        Ok(self.client.execute(&statement, &params)? as usize)
    }

    fn query(&mut self, sql: &str, params: &[Param]) -> Result<usize> {
        let statement = self.prepared(sql)?;
        let params: Vec<_> = params.iter().map(Param::for_postgres).collect();
        Ok(std::hint::black_box(self.client.query(&statement, &params)?).len())
    }

    fn batch(&mut self, sql: &str) -> Result<()> {
        Ok(self.client.batch_execute(sql)?)
    }

    fn begin(&mut self) -> Result<()> {
        self.batch("BEGIN")
    }

    fn load(&mut self, table: &str, rows: &mut dyn Iterator<Item = Vec<Param>>) -> Result<()> {
        use std::io::Write;
        let mut copy =
            std::io::BufWriter::with_capacity(1 << 16, self.client.copy_in(&format!("COPY {table} FROM STDIN"))?);
        for row in rows {
            for (column, value) in row.iter().enumerate() {
                let separator = if column == 0 { "" } else { "\t" };
                match value {
                    Param::Int(number) => write!(copy, "{separator}{number}")?,
                    Param::Real(number) => write!(copy, "{separator}{number}")?,
                    Param::Text(text) => write!(copy, "{separator}{text}")?,
                }
            }
            copy.write_all(b"\n")?;
        }
        let copy = copy.into_inner().map_err(|error| error.into_error())?;
        copy.finish()?;
        Ok(())
    }

    fn integer(&self) -> &'static str {
        "BIGINT"
    }
}
