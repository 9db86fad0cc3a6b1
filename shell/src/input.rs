//! Sources of input lines: a file, a pipe, or the line editor.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Result;
use rusqlite::Connection;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use sqlite_redis::hide_secrets;

use crate::complete::Completion;
use crate::{paths, private};

const PROMPT: &str = "sqlite-redis> ";
const CONTINUED: &str = "         ...> ";
const HISTORY_LINES: usize = 5000;

/// A line of input, or why there is none.
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// Ctrl-C: the user drops the current input.
    Interrupted,
    /// No more input.
    End,
}

/// A source of lines.
pub trait Lines {
    /// The next line. `continuing` says that a statement is still incomplete.
    fn next(&mut self, continuing: bool, db: &Rc<Connection>) -> Result<Line>;
    /// The number of the last line, from 1.
    fn number(&self) -> usize;
}

/// Lines of a file or a pipe.
pub struct Reader<R> {
    input: R,
    number: usize,
}

impl<R: BufRead> Reader<R> {
    /// Reads `input` from its first line.
    pub fn new(input: R) -> Self {
        Reader { input, number: 0 }
    }
}

impl<R: BufRead> Lines for Reader<R> {
    fn next(&mut self, _continuing: bool, _db: &Rc<Connection>) -> Result<Line> {
        let mut bytes = Vec::new();
        if self.input.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(Line::End);
        }
        self.number += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if self.number == 1 && bytes.starts_with("\u{feff}".as_bytes()) {
            bytes.drain(..3);
        }
        Ok(Line::Text(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn number(&self) -> usize {
        self.number
    }
}

/// Lines from the line editor, with history and completion.
pub struct Typed {
    editor: Editor<Completion, FileHistory>,
    history: Option<PathBuf>,
    number: usize,
    /// Further lines that were pasted together with the last one.
    pasted: VecDeque<String>,
}

impl Typed {
    /// Starts line editing with the history of earlier sessions.
    pub fn new() -> Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Completion::default()));
        let history = history_file();
        if let Some(path) = &history {
            // On the first start there is no history.
            let _ = editor.load_history(path);
        }
        Ok(Typed { editor, history, number: 0, pasted: VecDeque::new() })
    }

    fn read(&mut self, prompt: &str) -> rustyline::Result<String> {
        loop {
            match self.editor.readline(prompt) {
                // The terminal was resized.
                Err(ReadlineError::Signal(_)) => {}
                other => return other,
            }
        }
    }

    fn remember(&mut self, line: &str) {
        // The history is optional, so failing to write it is ignored. Lines with passwords are not stored.
        if !line.trim().is_empty()
            && hide_secrets(line) == line
            && self.editor.add_history_entry(line).unwrap_or(false)
            && let Some(path) = &self.history
        {
            let _ = self.editor.append_history(path);
        }
    }
}

impl Lines for Typed {
    fn next(&mut self, continuing: bool, db: &Rc<Connection>) -> Result<Line> {
        self.number += 1;
        if let Some(line) = self.pasted.pop_front() {
            return Ok(Line::Text(line));
        }
        if let Some(completion) = self.editor.helper_mut() {
            completion.db = Some(Rc::clone(db));
        }
        let answer = self.read(if continuing { CONTINUED } else { PROMPT });
        if let Some(completion) = self.editor.helper_mut() {
            // `.restore` and `.open` need the only reference to the connection.
            completion.db = None;
        }
        match answer {
            Ok(text) => {
                self.remember(&text);
                self.pasted.extend(text.split('\n').map(str::to_owned));
                Ok(Line::Text(self.pasted.pop_front().unwrap_or_default()))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => {
                // Ends the line, so that the prompt of the calling shell begins on a new one.
                let _ = writeln!(std::io::stdout());
                Ok(Line::End)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn number(&self) -> usize {
        self.number
    }
}

/// The file of the history, private to the user because it may contain data. `None` if there can be no history.
fn history_file() -> Option<PathBuf> {
    let directory = paths::state_dir().ok()?;
    private::directory(&directory).ok()?;
    let path = directory.join("history");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path).ok()?;
    file.set_permissions(private).ok()?;
    Some(path)
}
