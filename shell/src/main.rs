//! The `sqlite-redis` program: a shell for SQLite databases that live in Redis, and commands for whole databases.
//!
//! Input passes these modules in this order:
//!
//! - [`args`]: the command line; [`paths`]: the user's directories, made [`private`]
//! - [`database`]: which server and which database; [`server`]: the private Redis
//! - [`input`]: lines from a file or from the line editor, with [`complete`]
//! - [`session`]: lines become statements ([`names`] finds their ends)
//! - [`execute`] runs SQL, [`dot`] runs dot commands ([`dump`], [`copy`]), both on a [`shell`]
//! - [`output`]: rows become text; [`shown`]: hides secrets and escapes control characters
//! - [`admin`], [`status`], [`transfer`]: the commands for whole databases
//! - [`signals`]: Ctrl-C and the end of the process

/// `eprintln!` that does not panic if the terminal is gone. The message is shown without secrets and control
/// characters.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "{}", crate::shown::message(&format!($($text)*)));
    }};
}

mod status;
mod admin;
mod transfer;
mod session;
mod input;
mod complete;
mod execute;
mod timer;
mod dot;
mod dump;
mod copy;
mod shell;
mod source;
mod database;
mod args;
mod output;
mod signals;
mod server;
mod paths;
mod private;
mod names;
mod ffi;
mod shown;

use std::fs::File;
use std::io::{BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::args::{Cli, Command, ShellArgs};
use crate::database::{Location, Server};
use crate::input::{Reader, Typed};
use crate::output::{Mode, Settings};
use crate::session::{End, Outcome};
use crate::shell::Shell;

fn main() -> ExitCode {
    let cli = args::parse();
    let code = run(cli).unwrap_or_else(|error| {
        // The exit code already says which signal ended the process.
        let signal = signals::ending();
        if signal.is_none() {
            note!("Error: {}", database::describe(&error));
        }
        signal.unwrap_or(1)
    });
    server::leave();
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}

fn run(cli: Cli) -> Result<i32> {
    let typed = cli.command.is_none() && cli.sql.is_empty();
    let interactive = typed && !cli.shell.batch && (cli.shell.interactive || database::on_a_terminal());
    let server = Server::choose(&cli.server, interactive);
    signals::watch(interactive)?;
    database::register()?;
    match cli.command {
        None => shell(server, cli.database, cli.sql, &cli.shell, interactive, cli.literal),
        Some(command) => {
            let _busy = signals::busy();
            match command {
                Command::Import { file, name, force } => transfer::import(&server, &file, &name, force),
                Command::Export { name, file, force } => transfer::export(&server, &name, &file, force),
                Command::Ls { json } => admin::ls(&server, json),
                Command::Info { name, json } => admin::info(&server, &name, json),
                Command::Status { name, watch: false, json } => status::status(&server, &name, json),
                Command::Status { name, watch: true, json } => status::watch(&server, &name, json),
                Command::Rm { name, yes } => admin::rm(&server, &name, yes),
            }?;
            Ok(signals::ending().unwrap_or(0))
        }
    }
}

fn shell(
    server: Server,
    database: Option<String>,
    sql: Vec<String>,
    options: &ShellArgs,
    interactive: bool,
    literal: bool,
) -> Result<i32> {
    let location = Location::parse(database.as_deref().unwrap_or_default());
    if let Location::Redis(name) = &location {
        if !literal {
            refuse_misspelt_command(&server, name, &sql)?;
        }
        if Path::new(name).is_file() {
            note!("Note: this opens {name} in Redis; the file of that name is file:{name}");
        }
    }
    let settings = settings(options);
    let mut shell = Shell::new(server, location, settings, options.readonly, interactive)?;
    shell.bail = options.bail;
    shell.echo = options.echo;
    let mut outcome = before_input(&mut shell, options);
    // The first argument that fails ends the run, as in `sqlite3`.
    for text in &sql {
        if outcome.end.is_none() && !outcome.failed {
            outcome = shell.run_argument(text);
        }
    }
    if sql.is_empty() && outcome.end.is_none() && !outcome.failed {
        outcome = if interactive {
            welcome(&mut shell)?;
            shell.run(&mut Typed::new()?)
        } else {
            shell.run(&mut Reader::new(BufReader::new(std::io::stdin())))
        };
    }
    // In an interactive session the user has seen the errors, so the exit code is 0.
    if interactive {
        outcome.failed = false;
    }
    shell.redirect(output::Sink::stdout())?;
    Ok(outcome.code())
}

/// Runs `--init` and `--cmd`. As in sqlite3, their errors and a `.quit` of `--cmd` count only with `--bail`.
fn before_input(shell: &mut Shell, options: &ShellArgs) -> Outcome {
    let mut outcome = Outcome::default();
    if let Some(path) = &options.init {
        let interactive = std::mem::replace(&mut shell.interactive, false);
        outcome = match File::open(path) {
            Ok(file) => shell.run(&mut Reader::new(BufReader::new(file))),
            Err(error) => {
                note!("cannot open \"{}\": {error}", path.display());
                Outcome { failed: true, ..Outcome::default() }
            }
        };
        shell.interactive = interactive;
        outcome.failed &= shell.bail;
        // `.quit` ends that file alone.
        outcome.end = outcome.end.filter(|end| *end != End::Quit);
    }
    for text in &options.cmd {
        if outcome.end.is_none() && !outcome.failed {
            outcome = shell.run_argument(text);
            outcome.failed &= shell.bail;
            outcome.end = outcome.end.filter(|end| *end != End::Quit || shell.bail);
        }
    }
    outcome
}

/// Refuses a name that looks like a misspelt command, such as `imprt`, unless there is such a database, or SQL that
/// creates one.
fn refuse_misspelt_command(server: &Server, name: &str, sql: &[String]) -> Result<()> {
    let Some(command) = args::nearest_command(name) else { return Ok(()) };
    if sql.first().is_some_and(|text| names::begins_statement(text)) {
        return Ok(());
    }
    // If the server can't be reached, opening the database reports it.
    if matches!(server.admin()?.info(name), Ok(None)) {
        bail!(
            "there is no command and no database {name}; did you mean `sqlite-redis {command}`? \
             (`sqlite-redis -- {name}` makes a database of that name)"
        );
    }
    Ok(())
}

fn settings(options: &ShellArgs) -> Settings {
    let mut settings = Settings::default();
    match options.mode {
        Some(mode) => settings.set_mode(mode.0),
        None if std::io::stdout().is_terminal() => settings.set_mode_by_command(Mode::Box),
        None => {}
    }
    settings.headers = options.headers;
    if let Some(separator) = &options.separator {
        settings.column_separator.clone_from(separator);
    }
    if let Some(newline) = &options.newline {
        settings.row_separator.clone_from(newline);
    }
    if let Some(null) = &options.nullvalue {
        settings.null.clone_from(null);
    }
    settings
}

fn welcome(shell: &mut Shell) -> Result<()> {
    let place = match &shell.location {
        Location::Memory => "This is a transient in-memory database.\n\
                             Use \".open NAME\" to open a database in Redis.\n"
            .to_owned(),
        Location::Redis(name) => match shell.server.given() {
            Some(server) => format!("Database {name} on {server}\n"),
            None => String::new(),
        },
        Location::Uri(_) => String::new(),
    };
    write!(shell.out, "sqlite-redis {}\nEnter \".help\" for usage hints.\n{place}", args::version())?;
    Ok(shell.out.flush()?)
}
