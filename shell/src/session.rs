//! A session: splits input into statements and dot commands, and runs them.

use std::io::{BufReader, Write};

use anyhow::{Result, bail};
use signal_hook::consts::SIGPIPE;
use sqlite_redis::hide_secrets;

use crate::database::{self, describe};
use crate::execute::{self, SqlFailure};
use crate::input::{Line, Lines, Reader};
use crate::output::Sink;
use crate::shell::{AlreadyReported, Flow, Shell};
use crate::shown::message;
use crate::source::Source;
use crate::{dot, names, signals};

/// The deepest nesting of `.read`.
const MAX_DEPTH: usize = 25;

/// What ends input before its last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `.quit`: this input ends. The file that has read it with `.read` continues.
    Quit,
    /// The session ends with this exit code.
    Exit(i32),
}

/// The result of reading some input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Something failed.
    pub failed: bool,
    /// An argument of the command line failed with this SQLite result code.
    pub result: i32,
    /// Why input ends before its last line.
    pub end: Option<End>,
}

impl Outcome {
    /// The exit code of the process, as in `sqlite3`.
    pub fn code(self) -> i32 {
        match self.end {
            Some(End::Exit(code)) => code,
            Some(End::Quit) | None if self.failed => self.result.max(1),
            Some(End::Quit) | None => 0,
        }
    }
}

/// The source of a command, for messages.
#[derive(Clone, Copy)]
pub enum Origin {
    /// An argument of the command line.
    Argument,
    /// The line editor.
    Typed,
    /// A line of a file or a pipe.
    Line(usize),
}

impl Shell {
    /// Runs input to its end, to `.quit`, or with `bail` to the first error.
    pub fn run(&mut self, input: &mut dyn Lines) -> Outcome {
        let mut outcome = Outcome::default();
        let mut sql = String::new();
        let mut start = 0;
        while outcome.end.is_none() && !(outcome.failed && self.bail) {
            // Ctrl-C stops the whole file, not only its current statement.
            if self.depth > 0 && signals::stop() {
                outcome.failed = true;
                return outcome;
            }
            let line = match input.next(!sql.is_empty(), &self.db) {
                Ok(Line::Text(line)) => line,
                Ok(Line::Interrupted) => {
                    sql.clear();
                    continue;
                }
                Ok(Line::End) => break,
                Err(error) => {
                    self.report(&error, Origin::Line(input.number()));
                    outcome.failed = true;
                    break;
                }
            };
            let origin = |number| {
                if self.interactive { Origin::Typed } else { Origin::Line(number) }
            };
            if sql.is_empty() {
                if line.starts_with('#') || names::is_blank(&line) {
                    self.echo(&line, &mut outcome);
                    continue;
                }
                start = input.number();
                if line.starts_with('.') {
                    let origin = origin(start);
                    self.step(&line, origin, &mut outcome);
                    continue;
                }
            }
            let line = if names::is_terminator(&line) && names::is_complete(&format!("{sql};")) { ";" } else { &line };
            if !sql.is_empty() {
                sql.push('\n');
            }
            sql.push_str(line);
            if line.contains(';') && names::is_complete(&sql) {
                let origin = origin(start);
                self.step(&std::mem::take(&mut sql), origin, &mut outcome);
            } else if names::is_blank(&sql) {
                sql.clear();
            }
        }
        if outcome.end.is_none() && !(outcome.failed && self.bail) && !names::is_blank(&sql) {
            self.step(&sql, Origin::Line(start), &mut outcome);
        }
        outcome
    }

    /// Runs one argument of the command line.
    pub fn run_argument(&mut self, text: &str) -> Outcome {
        let mut outcome = Outcome::default();
        self.step(text, Origin::Argument, &mut outcome);
        outcome
    }

    fn echo(&mut self, text: &str, outcome: &mut Outcome) {
        if self.echo
            && let Err(error) = writeln!(self.out, "{}", hide_secrets(text.trim_end()))
        {
            self.settle(Err(error.into()), Origin::Typed, outcome);
        }
    }

    /// Runs statements or a dot command, and prints its errors.
    fn step(&mut self, text: &str, origin: Origin, outcome: &mut Outcome) {
        if !matches!(origin, Origin::Argument) {
            self.echo(text, outcome);
        }
        let busy = signals::busy();
        if self.depth == 0 {
            signals::begin();
        }
        self.causes.mark();
        let once = self.once;
        let result = if text.starts_with('.') {
            dot::run(self, text).and_then(|flow| match flow {
                Flow::Read(name) => self.read(&name),
                flow => Ok(flow),
            })
        } else {
            execute::sql(self, text).map(|()| Flow::Continue)
        };
        let result = result.and_then(|flow| self.out.flush().map(|()| flow).map_err(Into::into));
        self.settle(result, origin, outcome);
        if once && self.once {
            let closed = self.redirect(Sink::stdout());
            self.settle(closed.map(|()| Flow::Continue), origin, outcome);
        }
        if let Some(code) = signals::ending() {
            outcome.end = Some(End::Exit(code));
        }
        drop(busy);
    }

    /// `.read FILE`
    fn read(&mut self, name: &str) -> Result<Flow> {
        if self.depth >= MAX_DEPTH {
            bail!("files read each other {MAX_DEPTH} deep");
        }
        let mut source = Source::open(name)?;
        // From here on, messages give line numbers of that file.
        let interactive = std::mem::replace(&mut self.interactive, false);
        self.depth += 1;
        let outcome = self.run(&mut Reader::new(BufReader::new(&mut source)));
        self.depth -= 1;
        self.interactive = interactive;
        match outcome.end {
            Some(End::Exit(code)) => Ok(Flow::Exit(code)),
            Some(End::Quit) | None if outcome.failed => Err(AlreadyReported.into()),
            Some(End::Quit) | None => Ok(Flow::Continue),
        }
    }

    fn settle(&mut self, result: Result<Flow>, origin: Origin, outcome: &mut Outcome) {
        match result {
            Ok(Flow::Continue | Flow::Read(_)) => {}
            Ok(Flow::Quit) => outcome.end = Some(End::Quit),
            Ok(Flow::Exit(code)) => outcome.end = Some(End::Exit(code)),
            Err(error) if is_broken_pipe(&error) => {
                if matches!(self.out, Sink::Program(..)) {
                    // The reader of `.output |head` has closed the pipe.
                    self.out = Sink::stdout();
                    self.once = false;
                } else {
                    // Ends the session as SIGPIPE would, but closes the database first.
                    outcome.end = Some(End::Exit(128 + SIGPIPE));
                }
            }
            Err(error) if error.is::<AlreadyReported>() => outcome.failed = true,
            Err(error) => {
                // Prints results before messages, where both go to one terminal.
                let _ = self.out.flush();
                self.report(&error, origin);
                outcome.failed = true;
                if let (Origin::Argument, Some(failure)) = (origin, error.downcast_ref::<SqlFailure>()) {
                    outcome.result = failure.code;
                }
            }
        }
    }

    /// Prints an error, and its cause in Redis if known.
    pub fn report(&mut self, error: &anyhow::Error, origin: Origin) {
        if let Some(code) = signals::ending()
            && code == 130
        {
            return;
        }
        let place = match origin {
            // There is no line where a program fails before its first.
            Origin::Line(number) if number > 0 => format!(" near line {number}"),
            _ => String::new(),
        };
        match error.downcast_ref::<SqlFailure>() {
            Some(failure) if matches!(origin, Origin::Argument) => {
                note!("Error: {}, {}", failure.phase.word(), failure.text);
            }
            Some(failure) => note!("{}{place}: {}", failure.phase.title(), failure.text),
            None => note!("Error{place}: {}", describe(error)),
        }
        let code = match error.downcast_ref::<SqlFailure>() {
            Some(failure) => failure.code,
            None => error.downcast_ref().map_or(0, database::code),
        };
        if let Some(cause) = self.causes.behind(code).map(|cause| message(&cause))
            && !describe(error).contains(&cause)
        {
            note!("  cause: {cause}");
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
