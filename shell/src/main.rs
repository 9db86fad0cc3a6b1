//! The `sqlite-redis` program: a shell for SQLite databases that live in
//! Redis, and the commands that move them in and out.
//!
//! A line of input goes through these modules in this order:
//!
//! - [`args`]: the command line; [`paths`]: directories of the user
//! - [`database`]: which server and database; [`server`]: the private Redis
//! - [`input`]: lines from a file or from the editor, with [`complete`]
//! - [`session`]: lines become statements ([`names`] knows where they end)
//! - [`execute`] runs SQL, [`dot`] runs dot commands ([`dump`], [`copy`])
//! - [`output`]: rows become text
//! - [`admin`], [`status`], [`transfer`]: the commands beside the shell
//! - [`signals`]: Ctrl-C and the end

/// `eprintln!` for terminals that may be gone: the session ends properly then, without a panic.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod args;
mod paths;
mod database;
mod server;
mod input;
mod complete;
mod session;
mod names;
mod ffi;
mod execute;
mod timer;
mod dot;
mod dump;
mod copy;
mod output;
mod admin;
mod status;
mod transfer;
mod signals;

use std::fs::File;
use std::io::{BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::args::{Cli, Command, ShellArgs};
use crate::database::{Location, Server};
use crate::input::{Reader, Typed};
use crate::output::{Mode, Settings};
use crate::session::{Outcome, Shell};

fn main() -> ExitCode {
    let cli = args::parse();
    let code = run(cli).unwrap_or_else(|error| {
        // A signal says enough by its exit code.
        let signal = signals::ending();
        if signal.is_none() {
            note!("Error: {}", session::describe(&error));
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
        None => shell(server, cli.database, cli.sql, &cli.shell, interactive),
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
) -> Result<i32> {
    let location = Location::parse(database.as_deref().unwrap_or_default());
    if let Location::Redis(name) = &location
        && Path::new(name).is_file()
    {
        note!("Note: this opens {name} in Redis; the file of that name is file:{name}");
    }
    let settings = settings(options);
    let mut shell = Shell::new(server, location, settings, options.readonly, interactive)?;
    shell.bail = options.bail;
    shell.echo = options.echo;
    let mut outcome = Outcome::default();
    if let Some(path) = &options.init {
        let file = File::open(path).with_context(|| format!("cannot open \"{}\"", path.display()))?;
        shell.interactive = false;
        outcome = shell.run(&mut Reader::new(BufReader::new(file)));
        shell.interactive = interactive;
    }
    // Of arguments, the first error ends it all, as in sqlite3.
    for text in options.cmd.iter().chain(&sql) {
        if outcome.exit.is_none() && !outcome.failed {
            outcome = shell.run_argument(text);
        }
    }
    if sql.is_empty() && outcome.exit.is_none() && !(outcome.failed && shell.bail) {
        let earlier = outcome.failed;
        outcome = if interactive {
            welcome(&mut shell)?;
            shell.run(&mut Typed::new()?)
        } else {
            shell.run(&mut Reader::new(BufReader::new(std::io::stdin())))
        };
        outcome.failed |= earlier;
    }
    // Somebody who typed has seen the errors.
    if interactive {
        outcome.failed = false;
    }
    shell.redirect(output::Sink::stdout())?;
    Ok(outcome.code())
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
