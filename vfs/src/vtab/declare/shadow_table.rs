//! An ordinary table in private memory that judges rows: SQLite itself applies affinity,
//! defaults, `NOT NULL`, `CHECK` and generated columns, so they are what they are everywhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::model::error::{Cause, Error, Result};
use crate::sqlite::api::Api;
use crate::sqlite::memory::{Memory, Statement};
use crate::sqlite::value::{Affinity, Value};
use crate::vtab::declare::token::quoted;
use crate::vtab::declare::{Column, Conflict, Unique};

/// The conflict clause of an `INSERT`, and for each column whether it is omitted.
type Shape = (Conflict, Vec<bool>);

/// Statements that are kept prepared. Each combination of columns that are left out has one.
const MOST_SHAPES: usize = 64;

/// See the [module](self).
pub(crate) struct Judge {
    table: String,
    names: RefCell<Vec<String>>,
    /// `INSERT` statements by conflict clause and by which columns they name.
    inserts: RefCell<HashMap<Shape, Rc<Statement>>>,
    /// Reads the row that was inserted, and removes it.
    take: RefCell<Option<Rc<[Statement; 2]>>>,
    // Last, because it is closed after its statements.
    memory: Memory,
}

impl Judge {
    /// A table with these columns and constraints, in a database with this encoding of text.
    ///
    /// # Errors
    /// SQLite does not accept them.
    pub(crate) fn new(api: &'static Api, encoding: &str, table: &str, columns: &str) -> Result<Judge> {
        let memory = Memory::open(api)?;
        memory.run(&format!("PRAGMA encoding='{encoding}'"))?;
        memory.run("PRAGMA foreign_keys=0")?;
        // "Dot commands" of pragma tables aside, nothing here writes to a disk.
        memory
            .run(&format!("CREATE TABLE {}({columns}\n)", quoted(table)))
            .map_err(|error| Error::from(Cause::Declaration(error.cause.to_string())))?;
        let judge = Judge {
            table: table.to_owned(),
            names: RefCell::default(),
            inserts: RefCell::default(),
            take: RefCell::default(),
            memory,
        };
        let given = judge.columns()?;
        *judge.names.borrow_mut() =
            given.iter().map(|column| if column.generated { String::new() } else { quoted(&column.name) }).collect();
        let all: Vec<String> = given.iter().map(|column| quoted(&column.name)).collect();
        let select = judge.memory.prepare(&format!("SELECT {} FROM {}", all.join(", "), quoted(table)))?;
        let delete = judge.memory.prepare(&format!("DELETE FROM {}", quoted(table)))?;
        *judge.take.borrow_mut() = Some(Rc::new([select, delete]));
        // One transaction for all rows to come, none of which stays. `OR ROLLBACK` ends it; then each
        // statement has one of its own.
        judge.memory.run("BEGIN")?;
        Ok(judge)
    }

    fn rows(&self, sql: &str) -> Result<Vec<Vec<Value>>> {
        let statement = self.memory.prepare(sql)?;
        let mut rows = Vec::new();
        while statement.step()? {
            rows.push(statement.row());
        }
        Ok(rows)
    }

    /// The columns as SQLite understands them.
    pub(crate) fn columns(&self) -> Result<Vec<Column>> {
        let mut columns = Vec::new();
        for row in self.rows(&format!("PRAGMA table_xinfo({})", quoted(&self.table)))? {
            let [_, name, declared, not_null, default, _, hidden] = row.as_slice() else {
                return Err(Cause::Internal("PRAGMA table_xinfo".into()).into());
            };
            let (name, declared) = (text(name), text(declared));
            let collation = self.collation(&name)?;
            columns.push(Column {
                affinity: Affinity::of(&declared),
                declared,
                collation,
                generated: *hidden != Value::Integer(0),
                default: *default != Value::Null,
                not_null: *not_null != Value::Integer(0),
                name,
            });
        }
        Ok(columns)
    }

    /// An index tells the collation of its column.
    fn collation(&self, column: &str) -> Result<String> {
        let table = quoted(&self.table);
        self.memory.run("SAVEPOINT judge")?;
        self.memory.run(&format!("CREATE INDEX \"judge's\" ON {table}({})", quoted(column)))?;
        let rows = self.rows("PRAGMA index_xinfo(\"judge's\")");
        self.memory.run("ROLLBACK TO judge")?;
        self.memory.run("RELEASE judge")?;
        Ok(rows?.first().and_then(|row| row.get(4)).map_or_else(|| "BINARY".to_owned(), text))
    }

    fn index_list(&self) -> Result<Vec<Vec<Value>>> {
        self.rows(&format!("PRAGMA index_list({})", quoted(&self.table)))
    }

    /// The column that is another name of the rowid.
    pub(crate) fn alias(&self, columns: &[Column]) -> Result<Option<usize>> {
        let info = self.rows(&format!("PRAGMA table_xinfo({})", quoted(&self.table)))?;
        let keys: Vec<usize> = (0..columns.len())
            .filter(|n| info.get(*n).and_then(|row| row.get(5)).is_some_and(|pk| *pk != Value::Integer(0)))
            .collect();
        // A primary key that is not the rowid has an index.
        let has_index = self.index_list()?.iter().any(|row| row.get(3).is_some_and(|origin| text(origin) == "pk"));
        match keys.as_slice() {
            [key] if !has_index && columns[*key].declared.eq_ignore_ascii_case("INTEGER") => Ok(Some(*key)),
            _ => Ok(None),
        }
    }

    /// The uniqueness constraints, in the order in which SQLite checks them.
    pub(crate) fn uniques(&self, columns: &[Column]) -> Result<Vec<Unique>> {
        let mut uniques = Vec::new();
        for index in self.index_list()?.iter().filter(|row| row.get(2) == Some(&Value::Integer(1))) {
            let name = index.get(1).map(text).unwrap_or_default();
            let mut of = Vec::new();
            for row in self.rows(&format!("PRAGMA index_xinfo({})", quoted(&name)))? {
                let [_, Value::Integer(column), _, _, collation, Value::Integer(1)] = row.as_slice() else { continue };
                let column = usize::try_from(*column).ok().filter(|column| *column < columns.len());
                let Some(column) = column else { continue };
                let collation = text(collation);
                if !["BINARY", "NOCASE", "RTRIM"].iter().any(|known| collation.eq_ignore_ascii_case(known)) {
                    return Err(Cause::Declaration(format!(
                        "UNIQUE in the collation {collation} is not possible here: \
                         other clients may not have it; use BINARY, NOCASE or RTRIM"
                    ))
                    .into());
                }
                of.push((column, collation));
            }
            uniques.push(Unique { columns: of, on_conflict: None });
        }
        Ok(uniques)
    }

    /// What an ordinary table makes of a row: its values as stored, or `None` when a conflict
    /// clause skips the row. Columns that are `omitted` get their default.
    ///
    /// # Errors
    /// A constraint is violated.
    pub(crate) fn stored(&self, values: &[Value], omitted: &[bool], conflict: Conflict) -> Result<Option<Vec<Value>>> {
        let insert = self.insert(omitted, conflict)?;
        let given = self.names.borrow();
        let bound = given.iter().zip(values).zip(omitted).filter(|((name, _), omitted)| !name.is_empty() && !**omitted);
        for (n, ((_, value), _)) in bound.enumerate() {
            insert.bind(n, value)?;
        }
        let inserted = insert.step();
        insert.reset();
        inserted?;
        let Some(take) = self.take.borrow().clone() else {
            return Err(Cause::Internal("a judge without a table".into()).into());
        };
        let [select, delete] = &*take;
        let row = select.step().map(|found| found.then(|| select.row()));
        select.reset();
        let deleted = delete.step();
        delete.reset();
        deleted?;
        row
    }

    fn insert(&self, omitted: &[bool], conflict: Conflict) -> Result<Rc<Statement>> {
        let key = (conflict, omitted.to_vec());
        if let Some(statement) = self.inserts.borrow().get(&key) {
            return Ok(statement.clone());
        }
        let given = self.names.borrow();
        let names: Vec<&str> = given
            .iter()
            .zip(omitted)
            .filter(|(name, omitted)| !name.is_empty() && !**omitted)
            .map(|(name, _)| name.as_str())
            .collect();
        let or = match conflict {
            // SQLite does not tell ABORT from no clause at all; then a constraint's own applies.
            Conflict::Abort => "",
            Conflict::Rollback => "OR ROLLBACK ",
            Conflict::Ignore => "OR IGNORE ",
            Conflict::Fail => "OR FAIL ",
            Conflict::Replace => "OR REPLACE ",
        };
        let table = quoted(&self.table);
        let sql = if names.is_empty() {
            format!("INSERT {or}INTO {table} DEFAULT VALUES")
        } else {
            let marks = vec!["?"; names.len()].join(", ");
            format!("INSERT {or}INTO {table}({}) VALUES ({marks})", names.join(", "))
        };
        let statement = Rc::new(self.memory.prepare(&sql)?);
        let mut inserts = self.inserts.borrow_mut();
        if inserts.len() >= MOST_SHAPES {
            inserts.clear();
        }
        inserts.insert(key, statement.clone());
        Ok(statement)
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}
