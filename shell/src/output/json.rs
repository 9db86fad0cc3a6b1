//! The mode `json`: an array of objects, one row to a line.

use std::io::{self, Write};

use rusqlite::Row;

use super::{RenderError, Renderer, value};

pub struct Json {
    /// Column names, already as JSON strings.
    keys: Vec<String>,
    started: bool,
}

impl Json {
    pub fn new(columns: Vec<String>) -> Self {
        let keys = columns.iter().map(|name| value::json_string(name.as_bytes())).collect();
        Json { keys, started: false }
    }
}

impl Renderer for Json {
    fn row(&mut self, row: &Row<'_>, out: &mut dyn Write) -> Result<(), RenderError> {
        out.write_all(if self.started { b",\n{" } else { b"[{" })?;
        self.started = true;
        for (i, key) in self.keys.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(out, "{comma}{key}:{}", value::json(row.get_ref(i)?))?;
        }
        out.write_all(b"}")?;
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        // As in `sqlite3`, an empty result prints nothing.
        if self.started {
            out.write_all(b"]\n")?;
        }
        Ok(())
    }
}
