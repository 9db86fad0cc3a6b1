//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::output::Mode;

const EXAMPLES: &str = "\
DATABASE is a name in Redis. A `file:` URI opens what it says: `file:shop?vfs=redis`
the database `shop` in Redis, `file:/tmp/x.db` a file. `:memory:` is a database in memory.
A database that is called like a command opens as `file:ls?vfs=redis` or after `--`.

Without --redis and SQLITE_REDIS_URL, a private redis-server keeps the databases in your
data directory. It runs while shells are open and starts again with the next one.

Long options work with one dash too, as in sqlite3: -csv, -header, -cmd.

Examples:
  sqlite-redis shop                              a shell on the database `shop`
  sqlite-redis shop 'SELECT count(*) FROM items' one statement, result to stdout
  sqlite-redis --csv --header shop < report.sql > report.csv
  sqlite-redis --redis rediss://user:password@db.example.org/0 shop
  sqlite-redis import chinook.sqlite music       a file into Redis
  sqlite-redis export music music.sqlite         and back
  sqlite-redis ls                                what is there
  sqlite-redis info music --json                 pages, bytes, version, lease
  sqlite-redis status music --watch              primary, replicas, lag, lease
  sqlite-redis rm music --yes";

/// SQLite databases that live in Redis
#[derive(Debug, Parser)]
#[command(name = "sqlite-redis", version = version(), after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to do instead of opening a shell
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The server
    #[command(flatten)]
    pub server: ServerArgs,

    /// How the shell behaves
    #[command(flatten)]
    pub shell: ShellArgs,

    /// Name of the database in Redis, a file: URI, or :memory:
    pub database: Option<String>,

    /// SQL or dot commands to run instead of reading standard input
    pub sql: Vec<String>,

    /// `--` came before the name, so it is one, whatever it looks like.
    #[arg(skip)]
    pub literal: bool,
}

/// Which Redis.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Redis server: redis://, rediss:// (TLS), unix://, sentinel:// or redis+cluster://
    #[arg(long, value_name = "URL", global = true, env = "SQLITE_REDIS_URL", hide_env_values = true)]
    pub redis: Option<String>,

    /// Prefix of all keys [default: sqlite]
    #[arg(long, value_name = "TEXT", global = true, env = "SQLITE_REDIS_PREFIX")]
    pub prefix: Option<String>,
}

/// What the options of sqlite3 do.
#[derive(Args, Debug)]
pub struct ShellArgs {
    /// Open the database read-only
    #[arg(long)]
    pub readonly: bool,

    /// box, column, csv, insert, json, line, list, markdown, quote, table or tabs; also -box, -csv ...
    #[arg(long, value_enum, hide_possible_values = true, overrides_with = "mode")]
    pub mode: Option<ModeArg>,

    /// Column names before the rows; also -header and -noheader
    #[arg(long, value_name = "on|off", value_parser = on_off, overrides_with = "headers")]
    pub headers: Option<bool>,

    /// Separator of columns in list and csv mode
    #[arg(long, value_name = "TEXT")]
    pub separator: Option<String>,

    /// Separator of rows
    #[arg(long, value_name = "TEXT")]
    pub newline: Option<String>,

    /// Text that stands for NULL
    #[arg(long, value_name = "TEXT")]
    pub nullvalue: Option<String>,

    /// Run this before anything else (repeatable)
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub cmd: Vec<String>,

    /// Read commands from this file first
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,

    /// Stop at the first error
    #[arg(long)]
    pub bail: bool,

    /// Print what is run
    #[arg(long)]
    pub echo: bool,

    /// No prompts, even on a terminal
    #[arg(long)]
    pub batch: bool,

    /// Prompts and editing, even when not on a terminal
    #[arg(long, conflicts_with = "batch")]
    pub interactive: bool,
}

/// Commands beside the shell.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copy an SQLite file into Redis, whole or not at all
    Import {
        /// The SQLite file; it may be in use
        file: PathBuf,
        /// Name of the new database
        name: String,
        /// Replace a database of that name
        #[arg(long)]
        force: bool,
    },
    /// Copy a database from Redis into an SQLite file
    Export {
        /// Name of the database
        name: String,
        /// The new file
        file: PathBuf,
        /// Replace the file if it exists
        #[arg(long)]
        force: bool,
    },
    /// List the databases
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show pages, bytes in Redis, version, lease and log of a database
    Info {
        /// Name of the database
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the server of a database, its replicas and how far they are, and who is writing
    Status {
        /// Name of the database
        name: String,
        /// Look again every second
        #[arg(long)]
        watch: bool,
        /// As JSON; with --watch, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Remove a database
    Rm {
        /// Name of the database
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// [`Mode`] as a value on the command line.
#[derive(Clone, Copy, Debug)]
pub struct ModeArg(pub Mode);

impl ValueEnum for ModeArg {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<ModeArg>> =
            LazyLock::new(|| Mode::NAMES.iter().map(|(_, mode)| ModeArg(*mode)).collect());
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()))
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    parse_switch(text).ok_or_else(|| "on or off".to_owned())
}

/// A switch as `sqlite3` reads it, and `true` and `false`. Any number but 0 means on.
pub fn parse_switch(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    match text.as_str() {
        "on" | "yes" | "true" => return Some(true),
        "off" | "no" | "false" => return Some(false),
        _ => {}
    }
    let (digits, radix) = text.strip_prefix("0x").map_or((text.as_str(), 10), |digits| (digits, 16));
    let is_number = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    is_number.then(|| digits.chars().any(|digit| digit != '0'))
}

/// `0.1.0 (SQLite 3.54.1)`
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(version_text);
    &VERSION
}

fn version_text() -> String {
    format!("{} (SQLite {})", env!("CARGO_PKG_VERSION"), rusqlite::version())
}

/// Reads the command line of this process. Exits on `--help` and on errors, with the exit codes of `sqlite3`.
pub fn parse() -> Cli {
    parse_from(std::env::args_os()).unwrap_or_else(|error| {
        if !error.use_stderr() {
            // If help can't be printed, there is nobody to report it to.
            let _ = error.print();
            std::process::exit(0);
        }
        note!("{}", error.render().to_string().trim_end());
        std::process::exit(1)
    })
}

fn parse_from(args: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let args = normalise(args);
    let mut cli = Cli::try_parse_from(&args)?;
    cli.literal = args.iter().any(|arg| arg == "--");
    Ok(cli)
}

/// The command that the user probably meant: it differs in one or two letters, and begins with the same one.
pub fn nearest_command(name: &str) -> Option<String> {
    let cli = Cli::command();
    let commands = cli.get_subcommands().map(clap::Command::get_name);
    let near = |command: &&str| {
        let distance = strsim::damerau_levenshtein(name, command);
        match command.len() {
            // A command of two letters must contain both: `sl` and `lst` are likely `ls`, `db` is not.
            0..=2 => distance == 1 && name.len() >= 2 && command.chars().all(|letter| name.contains(letter)),
            3..=4 => distance == 1,
            _ => distance == 1 || (distance == 2 && name.as_bytes().first() == command.as_bytes().first()),
        }
    };
    commands.filter(near).min_by_key(|command| strsim::damerau_levenshtein(name, command)).map(str::to_owned)
}

/// Translates the spellings of `sqlite3`: `-csv` and `--csv` into `--mode=csv`, `-cmd` into `--cmd`. Words after a
/// command or `--` stay as they are.
fn normalise(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    args.map(|arg| {
        literal |= arg == "--" || Cli::command().find_subcommand(&arg).is_some();
        match arg.to_str() {
            Some(text) if !literal => ours(text).map_or(arg, OsString::from),
            _ => arg,
        }
    })
    .collect()
}

fn ours(text: &str) -> Option<String> {
    let option = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
    let name = option.split('=').next()?;
    match option {
        // The value of `--headers` may be the next word.
        "header" => Some("--headers=on".to_owned()),
        "noheader" | "noheaders" => Some("--headers=off".to_owned()),
        mode if Mode::NAMES.iter().any(|(name, _)| *name == mode) => Some(format!("--mode={mode}")),
        _ if is_long(name) => Some(format!("--{option}")),
        _ => None,
    }
}

fn is_long(name: &str) -> bool {
    let mut command = Cli::command();
    // clap adds `--help` and `--version` only when it builds the command.
    command.build();
    command.get_arguments().any(|argument| argument.get_long() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(args: &[&str]) -> Cli {
        let all = std::iter::once("sqlite-redis").chain(args.iter().copied());
        parse_from(all.map(OsString::from)).unwrap()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_are_taken_as_sqlite3_spells_them() {
        let cli = cli(&["-csv", "-header", "-nullvalue", "-", "shop", "-json", "select 1"]);
        assert_eq!(cli.shell.mode.map(|m| m.0), Some(Mode::Json));
        assert_eq!(cli.shell.headers, Some(true));
        assert_eq!(cli.shell.nullvalue.as_deref(), Some("-"));
        assert_eq!(cli.database.as_deref(), Some("shop"));
        assert_eq!(cli.sql, ["select 1"]);
    }

    #[test]
    fn a_database_called_like_a_command_opens_after_two_dashes() {
        let opened = cli(&["--", "ls", "select 1"]);
        assert!(opened.command.is_none());
        assert_eq!(opened.database.as_deref(), Some("ls"));
        assert!(matches!(cli(&["-redis", "unix:///x", "ls", "--json"]).command, Some(Command::Ls { json: true })));
    }

    #[test]
    fn headers_take_their_value_as_a_word_or_behind_an_equals_sign() {
        for (args, on) in [
            (&["--headers", "on", "shop"][..], true),
            (&["-headers", "off", "shop"], false),
            (&["--headers=on", "shop"], true),
            (&["-header", "shop"], true),
            (&["--noheader", "shop"], false),
        ] {
            let cli = cli(args);
            assert_eq!((cli.shell.headers, cli.database.as_deref()), (Some(on), Some("shop")), "{args:?}");
        }
        let refused = ["sqlite-redis", "--headers", "shop"].map(OsString::from).into_iter();
        assert!(parse_from(refused).unwrap_err().to_string().contains("on or off"));
    }

    #[test]
    fn a_misspelt_command_is_recognised() {
        for (name, command) in [
            ("imprt", "import"),
            ("improt", "import"),
            ("exprt", "export"),
            ("sl", "ls"),
            ("lst", "ls"),
            ("rmm", "rm"),
            ("inof", "info"),
            ("statsu", "status"),
        ] {
            assert_eq!(nearest_command(name).as_deref(), Some(command), "{name}");
        }
        for name in ["shop", "db", "a", "l", "music", "report", "ls", "rs", "test", "main", "data", "foo"] {
            assert_eq!(nearest_command(name), None, "{name}");
        }
        assert!(cli(&["--", "imprt"]).literal && !cli(&["imprt"]).literal);
    }
}
