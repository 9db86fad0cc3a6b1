//! A table as one connection of SQLite has it, and what it shares with others.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Value as Reply, cmd};

use crate::model::error::{Cause, Error, Result};
use crate::model::unique;
use crate::process::generation::{Generation, generation};
use crate::process::sync::Mutex;
use crate::sqlite::value::Value;
use crate::vtab::declare::Definition;
use crate::vtab::declare::shadow_table::Judge;
use crate::vtab::known::{Known, known};
use crate::vtab::layout::keys::{Keys, TYPES, refuse_ambiguous, shown};
use crate::vtab::layout::replies::{Row, bulk, count, names};
use crate::vtab::layout::row;
use crate::vtab::location::{Patience, Place, hash_tag};
use crate::vtab::write::Writes;
use crate::wire::reply::{array, bad_reply, text};
use crate::wire::request::{Numbered, Request};

/// The tables of one connection of SQLite: they commit together.
pub(crate) struct Session {
    tables: RefCell<Vec<Weak<Table>>>,
    last_commit: Cell<Option<Mark>>,
    /// How long its statements wait for a server that is busy.
    patience: Patience,
    /// The mark that was written last, and when.
    pub(super) marked: RefCell<Option<(Vec<u8>, Instant)>>,
    /// A table's commit may be in Redis while SQLite has not finished its transaction.
    pub(super) has_published: Cell<bool>,
}

/// One commit of one connection in one process, as nobody else has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    generation: Generation,
    /// Tells this connection's commits from those of others.
    pub client: u64,
    /// Which of them it is.
    pub number: u64,
}

impl Session {
    pub(crate) fn new(patience: Patience) -> Rc<Session> {
        Rc::new(Session {
            tables: RefCell::default(),
            last_commit: Cell::new(None),
            patience,
            marked: RefCell::default(),
            has_published: Cell::new(false),
        })
    }

    /// The last commit that was tried in this process; number 0 if none was. What a forked child finds is its parent's.
    pub(crate) fn last_commit(&self) -> Option<Mark> {
        self.last_commit.get().filter(|mark| mark.generation == generation())
    }

    /// What tells this connection's commits from those of others.
    pub(crate) fn client(&self) -> Result<u64> {
        if let Some(last) = self.last_commit() {
            return Ok(last.client);
        }
        let client = unique()?;
        self.last_commit.set(Some(Mark { generation: generation(), client, number: 0 }));
        Ok(client)
    }

    /// A commit that is about to be tried.
    pub(crate) fn next_commit(&self) -> Result<Mark> {
        let client = self.client()?;
        let number = self.last_commit().map_or(0, |last| last.number) + 1;
        let next = Mark { generation: generation(), client, number };
        self.last_commit.set(Some(next));
        Ok(next)
    }

    /// Its tables.
    pub(crate) fn tables(&self) -> Vec<Rc<Table>> {
        self.tables.borrow_mut().retain(|table| table.strong_count() > 0);
        self.tables.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Forgets what was read of tables that no transaction writes to: there is none any more that
    /// could rest on it. SQLite does not tell a table that is only read when a transaction ends.
    pub(crate) fn forget_reads(&self) {
        for table in self.tables() {
            let mut writes = table.writes.borrow_mut();
            if !writes.begun {
                *writes = Writes::default();
            }
        }
    }

    /// A table by its name, in any case; of this schema or of the first that has one.
    pub(crate) fn table(&self, schema: Option<&str>, name: &str) -> Option<Rc<Table>> {
        self.tables().into_iter().find(|table| {
            table.name.borrow().eq_ignore_ascii_case(name)
                && schema.is_none_or(|schema| table.definition.schema.eq_ignore_ascii_case(schema))
        })
    }
}

/// How long counts of distinct values are good enough.
const COUNTS_LAST: Duration = Duration::from_secs(1);

/// See the [module](self).
pub(crate) struct Table {
    pub definition: Definition,
    /// Changes with `ALTER TABLE ... RENAME TO`.
    pub name: RefCell<String>,
    pub keys: RefCell<Keys>,
    pub judge: Judge,
    pub place: Place,
    pub session: Rc<Session>,
    known: RefCell<Arc<Mutex<Known>>>,
    /// The server was asked for what [`Known`] holds. Until a statement may use the table, nothing is asked.
    asked: Cell<bool>,
    pub writes: RefCell<Writes>,
}

impl Table {
    pub(crate) fn new(definition: Definition, judge: Judge, session: &Rc<Session>) -> Rc<Table> {
        let keys = definition.keys();
        let place = Place::of_table(definition.server.clone(), keys.base(), session.patience.clone());
        let table = Rc::new(Table {
            name: RefCell::new(definition.table.clone()),
            known: RefCell::new(known(&definition.server, &keys)),
            keys: RefCell::new(keys),
            definition,
            judge,
            place,
            session: session.clone(),
            asked: Cell::new(false),
            writes: RefCell::default(),
        });
        session.tables.borrow_mut().push(Rc::downgrade(&table));
        table
    }

    /// Names the table and its server in a failure.
    pub(crate) fn at(&self, error: Error) -> Error {
        // SQLite's words about a constraint are to be those that it has for ordinary tables.
        if matches!(error.cause, Cause::Constraint { .. }) {
            return error;
        }
        let place = format!("virtual table {}.{} on {}", self.definition.schema, self.name.borrow(), self.place.name());
        error.at(&place.into())
    }

    pub(crate) fn keys(&self) -> Keys {
        self.keys.borrow().clone()
    }

    /// Gives the table another name, and so other keys.
    pub(crate) fn set_name(&self, name: &str) {
        let keys = Keys::new(&self.definition.prefix, &self.definition.schema, name);
        *self.known.borrow_mut() = known(&self.definition.server, &keys);
        *self.keys.borrow_mut() = keys;
        *self.name.borrow_mut() = name.to_owned();
    }

    /// What was last heard about the table. The first to call this asks the server: only statements do that are
    /// allowed to use the table. One that can't ask goes on: its own questions will fail with the right code.
    pub(crate) fn known(&self) -> Known {
        if !self.is_used()
            && let Err(error) = self.refresh()
        {
            crate::process::log::log(&self.at(error).to_string());
        }
        self.known.borrow().lock().clone()
    }

    /// Whether a statement has used the table.
    pub(crate) fn is_used(&self) -> bool {
        self.asked.get()
    }

    pub(crate) fn learn(&self, update: impl FnOnce(&mut Known)) {
        update(&mut self.known.borrow().lock());
    }

    /// Columns whose distinct values should be counted again. The caller does that.
    pub(crate) fn stale_counts(&self) -> Vec<String> {
        let known = self.known.borrow().clone();
        let mut known = known.lock();
        if known.counted.is_some_and(|counted| counted.elapsed() < COUNTS_LAST) {
            return Vec::new();
        }
        known.counted = Some(Instant::now());
        let ours = |name: &&String| self.definition.columns.iter().any(|column| column.name == **name);
        known.indices.iter().filter(ours).cloned().collect()
    }

    /// Asks for what [`Known`] holds: one round trip.
    pub(crate) fn refresh(&self) -> Result<()> {
        self.asked.set(true);
        let keys = self.keys();
        let mut request = Request::default();
        request.push(cmd("SMEMBERS").arg(keys.indices()));
        request.push(cmd("ZCARD").arg(keys.rowids()));
        request.push(cmd("GET").arg(keys.counter()));
        for column in &self.definition.columns {
            request.push(cmd("ZCARD").arg(keys.values(&column.name)));
        }
        let mut replies = self.ask(&request)?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let indices = names(next())?;
        let rows = count(&next());
        let counter = next();
        let distinct = self.definition.columns.iter().map(|column| (column.name.clone(), count(&next()))).collect();
        let counter = self.counter_of(&counter)?;
        self.learn(|known| {
            let hold = known.hold.take();
            *known = Known { indices, rows, distinct, counted: Some(Instant::now()), counter: Some(counter), hold }
        });
        Ok(())
    }

    /// The rowid counter from the reply to `GET`.
    pub(crate) fn counter_of(&self, reply: &Reply) -> Result<i64> {
        match reply {
            Reply::Nil => Ok(0),
            reply => text(reply).and_then(|text| text.parse().ok()).ok_or_else(|| {
                Cause::Damaged(format!("the counter `{}` is no number", shown(&self.keys().counter()))).into()
            }),
        }
    }

    /// The command that fetches a row: its columns, and [`TYPES`] last.
    pub(crate) fn fetch_command(&self, keys: &Keys, rowid: i64) -> redis::Cmd {
        let mut command = cmd("HMGET");
        command.arg(keys.row(rowid));
        for column in &self.definition.columns {
            command.arg(&column.name);
        }
        command.arg(TYPES);
        command
    }

    /// [`Table::fetch_command`] for many rows.
    pub(crate) fn fetch(&self, keys: &Keys) -> Numbered {
        let columns = self.definition.columns.iter().map(|column| column.name.as_bytes());
        Numbered::new("HMGET", keys.rows(), columns.chain([TYPES]))
    }

    /// A row from the reply to [`Table::fetch_command`]; `None` when it has none of the fields.
    pub(crate) fn row_of(&self, rowid: i64, reply: Reply) -> Result<Option<Row>> {
        let fields = array("HMGET", reply)?;
        if fields.len() != self.definition.columns.len() + 1 {
            return Err(Cause::BadReply(format!("HMGET was answered with {} values", fields.len())).into());
        }
        if fields.iter().all(|field| matches!(field, Reply::Nil)) {
            return Ok(None);
        }
        let types = bulk(fields.last());
        Ok(Some(self.row_with(rowid, types, |column| bulk(fields.get(column)))))
    }

    /// A row from all fields of its hash.
    pub(crate) fn row_of_fields(&self, rowid: i64, fields: &HashMap<Vec<u8>, Vec<u8>>) -> Row {
        let field = |name: &[u8]| fields.get(name).map(Vec::as_slice);
        self.row_with(rowid, field(TYPES), |column| field(self.definition.columns[column].name.as_bytes()))
    }

    fn row_with<'a>(&self, rowid: i64, types: Option<&[u8]>, field: impl Fn(usize) -> Option<&'a [u8]>) -> Row {
        let types = row::Types::of(types);
        let columns = self.definition.columns.iter().enumerate();
        columns
            .map(|(n, column)| match self.definition.alias {
                Some(alias) if alias == n => Value::Integer(rowid),
                _ => row::value(&column.name, column.affinity, field(n), &types),
            })
            .collect()
    }

    /// A row without any of the columns' fields.
    pub(crate) fn empty_row(&self, rowid: i64) -> Row {
        self.row_with(rowid, None, |_| None)
    }
}

impl Table {
    /// What `CREATE VIRTUAL TABLE` has to find out: that the server is there and can serve, and
    /// that the keys hold what they should.
    pub(crate) fn create(&self) -> Result<()> {
        refuse_ambiguous(&self.definition.prefix, &self.definition.schema, &self.definition.table)?;
        if self.place.is_cluster()? && hash_tag(&self.definition.prefix).is_none() {
            return Err(Cause::Declaration(format!(
                "this server is a node of a cluster, where all keys of a table must share a slot: \
                 give the prefix a hash tag, such as `{{{}}}`",
                self.definition.prefix
            ))
            .into());
        }
        let keys = self.keys();
        let expected = [(keys.rowids(), "zset"), (keys.counter(), "string"), (keys.indices(), "set")];
        let mut request = Request::default();
        expected.iter().for_each(|(key, _)| request.push(cmd("TYPE").arg(key)));
        for ((key, expected), reply) in expected.iter().zip(self.place.ask(&request)?) {
            match text(&reply) {
                Some(found) if found == *expected || found == "none" => {}
                Some(found) => return Err(Cause::ForeignKey { key: shown(key), found, expected }.into()),
                None => return Err(bad_reply("TYPE", &reply).into()),
            }
        }
        self.refresh()?;
        self.create_declared_indexes()
    }
}
