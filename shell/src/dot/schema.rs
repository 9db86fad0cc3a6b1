//! Dot commands that show the schema and contents of a database.

use std::io::Write;

use anyhow::Result;
use rusqlite::{Connection, TransactionState};

use crate::dot::arguments::Arguments;
use crate::dot::indent::indented;
use crate::dump::{self, Content};
use crate::names;
use crate::shell::{Flow, Shell};
use crate::shown::{message, one_line};

/// `.tables ?TABLE?`
pub fn tables(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    objects(shell, "type IN ('table','view') AND name NOT LIKE 'sqlite_%'", "name", arguments)
}

/// `.indexes ?TABLE?`
pub fn indexes(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    objects(shell, "type = 'index'", "tbl_name", arguments)
}

/// Lists names of all attached databases, in columns.
fn objects(shell: &mut Shell, condition: &str, by: &str, arguments: &Arguments) -> Result<Flow> {
    let pattern = arguments.first().unwrap_or("%");
    let mut found: Vec<String> = Vec::new();
    for schema in schemas(&shell.db)? {
        let prefix = if schema == "main" { String::new() } else { format!("{schema}.") };
        let quoted = names::quoted(&schema);
        let mut statement = shell
            .db
            .prepare(&format!("SELECT ?1 || name FROM {quoted}.sqlite_schema WHERE {condition} AND {by} LIKE ?2"))?;
        let rows = statement.query_map([prefix.as_str(), pattern], |row| row.get::<_, String>(0))?;
        for name in rows {
            found.push(one_line(&name?).into_owned());
        }
    }
    found.sort();
    in_columns(&found, &mut shell.out)?;
    Ok(Flow::Continue)
}

fn schemas(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare("SELECT name FROM pragma_database_list ORDER BY seq")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Prints names in as many columns as fit 80 characters, as `sqlite3` does.
fn in_columns(names: &[String], out: &mut dyn Write) -> Result<()> {
    let width = |name: &String| name.chars().count();
    let widest = names.iter().map(width).max().unwrap_or(0);
    let columns = (80 / (widest + 2)).max(1);
    let rows = names.len().div_ceil(columns);
    for row in 0..rows {
        let cells = names.iter().skip(row).step_by(rows);
        let padded: Vec<_> = cells.map(|name| format!("{name:<widest$}")).collect();
        writeln!(out, "{}", padded.join("  "))?;
    }
    Ok(())
}

/// `.databases`
pub fn databases(shell: &mut Shell, _arguments: &Arguments) -> Result<Flow> {
    let mut statement = shell.db.prepare("SELECT name, file FROM pragma_database_list")?;
    let all = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    drop(statement);
    for (name, file) in all {
        let file = file.filter(|file| !file.is_empty()).unwrap_or_else(|| "\"\"".to_owned());
        let file = message(&file);
        let access = if shell.db.is_readonly(name.as_str())? { "r/o" } else { "r/w" };
        let state = match shell.db.transaction_state(Some(name.as_str()))? {
            TransactionState::Read => " read-txn",
            TransactionState::Write => " write-txn",
            _ => "",
        };
        writeln!(shell.out, "{}: {file} {access}{state}", one_line(&name))?;
    }
    Ok(Flow::Continue)
}

/// `.schema ?OPTIONS? ?PATTERN?`
pub fn schema(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    let pattern = arguments.first().unwrap_or("%");
    // As in `sqlite3`: a GLOB pattern if it looks like one; with a dot, the schema comes first.
    let compare = if pattern.contains(['*', '?', '[']) { "GLOB ?1" } else { "LIKE ?1 ESCAPE '\\'" };
    let compared = if pattern.contains('.') { "?2 || '.' || tbl_name" } else { "tbl_name" };
    let system = if arguments.has("nosys") { "name NOT LIKE 'sqlite\\_%' ESCAPE '\\'" } else { "true" };
    for schema in schemas(&shell.db)? {
        let quoted = names::quoted(&schema);
        let mut statement = shell.db.prepare(&format!(
            "SELECT name, sql FROM {quoted}.sqlite_schema
             WHERE sql IS NOT NULL AND lower({compared}) {compare} AND {system} AND ?2 = ?2
             ORDER BY rowid"
        ))?;
        let found = statement
            .query_map([pattern, schema.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<(String, String)>>>()?;
        for (name, sql) in found {
            let comment = fake_declaration(&shell.db, &schema, &name, &sql)?;
            let mut shown = in_schema(&sql, &schema) + &comment;
            if arguments.has("indent") {
                shown = indented(&shown);
            }
            writeln!(shell.out, "{};", dump::closed(&dump::if_not_exists(&shown)))?;
        }
    }
    Ok(Flow::Continue)
}

/// Inserts the name of the attached database into the statement.
fn in_schema(sql: &str, schema: &str) -> String {
    if schema == "main" {
        return sql.to_owned();
    }
    let kinds = ["TABLE ", "INDEX ", "UNIQUE INDEX ", "VIEW ", "TRIGGER ", "VIRTUAL TABLE "];
    for kind in kinds {
        if let Some(rest) = sql.strip_prefix(&format!("CREATE {kind}")) {
            return format!("CREATE {kind}{}.{rest}", names::quoted_if_needed(schema));
        }
    }
    sql.to_owned()
}

/// The columns of a view or virtual table as a comment. A view on a missing table gets none.
fn fake_declaration(db: &Connection, schema: &str, name: &str, sql: &str) -> Result<String> {
    if !sql.starts_with("CREATE VIEW") && !sql.starts_with("CREATE VIRTUAL") {
        return Ok(String::new());
    }
    let columns = dump::columns(db, schema, name).unwrap_or_default();
    if columns.is_empty() {
        return Ok(String::new());
    }
    let columns: Vec<_> = columns.iter().map(|name| names::quoted_if_needed(name)).collect();
    let prefix = match schema {
        "main" => String::new(),
        other => names::quoted_if_needed(other) + ".",
    };
    let name = names::quoted_if_needed(name);
    Ok(format!("\n/* {prefix}{name}({}) */", columns.join(",")))
}

/// `.dump ?OPTIONS? ?OBJECTS?`
pub fn dump(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    let content = Content {
        data_only: arguments.has("data-only"),
        newlines: arguments.has("newlines"),
        without_system: arguments.has("nosys"),
        rowids: arguments.has("preserve-rowids"),
    };
    dump::dump(&shell.db, &arguments.words, content, &mut shell.out)?;
    Ok(Flow::Continue)
}

/// `.vfsname ?DB?`
pub fn vfsname(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    let schema = arguments.first().unwrap_or("main");
    if let Some(name) = crate::ffi::vfs_name(&shell.db, schema) {
        writeln!(shell.out, "{name}")?;
    }
    Ok(Flow::Continue)
}
