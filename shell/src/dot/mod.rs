//! Dot commands: one table that dispatch, `.help` and completion read.

pub mod arguments;
mod csv;
mod files;
mod indent;
mod schema;
mod settings;

use std::io::Write;

use anyhow::{Result, anyhow};

use crate::dot::arguments::{Arguments, Command, Misuse, command, flag, usage, with_value};
use crate::shell::{Flow, Shell};

use crate::dot::arguments::Completes::{Files, Modes, Nothing, Switch, Tables};

const MANY: usize = usize::MAX;

const OUTPUT_OPTIONS: &str = "   --bom          Begin with a UTF-8 byte order mark\n   \
    FILE may be \"|program\", which then reads it.";

/// All dot commands in alphabetical order. Abbreviations lead to the first
/// that fits.
pub static COMMANDS: &[Command] = &[
    command("backup", "?OPTIONS? ?DB? FILE", "Backup DB (default \"main\") to FILE", (1, 2), Files, files::backup)
        .options(&[flag("async")])
        .more("   --async        Write FILE without waiting for the disk"),
    command("bail", "on|off", "Stop after hitting an error.  Default OFF", (1, 1), Switch, settings::bail),
    command("changes", "on|off", "Show number of rows changed by SQL", (1, 1), Switch, settings::changes),
    command("databases", "", "List names and files of attached databases", (0, 0), Nothing, schema::databases),
    command("dump", "?OPTIONS? ?OBJECTS?", "Render database content as SQL", (0, MANY), Tables, schema::dump)
        .options(&[flag("data-only"), flag("newlines"), flag("nosys"), flag("preserve-rowids")])
        .more(
            "   --data-only    Only the INSERT statements\n   \
                --newlines     Leave line ends in values as they are\n   \
                --nosys        Omit tables whose names begin with \"sqlite_\"\n   \
                --preserve-rowids  Put ROWID values into the INSERT statements\n   \
                OBJECTS are LIKE patterns of tables to dump; without, everything is.",
        ),
    command("echo", "on|off", "Turn command echo on or off", (1, 1), Switch, settings::echo),
    command("exit", "?CODE?", "Exit this program with return-code CODE", (0, MANY), Nothing, settings::exit).literal(),
    command("headers", "on|off", "Turn display of headers on or off", (1, 1), Switch, settings::headers),
    command("help", "?--all? ?PATTERN?", "Show help text for PATTERN", (0, 1), Nothing, help).options(&[flag("all")]),
    command("import", "?OPTIONS? FILE TABLE", "Import data from FILE into TABLE", (2, 2), Files, csv::import)
        .options(&[flag("ascii"), flag("csv"), with_value("schema"), with_value("skip")])
        .more(
            "   --ascii        Columns end with \\037 and rows with \\036\n   \
                --csv          Comma-separated values, whatever the mode is\n   \
                --schema S     The table is in the attached database S\n   \
                --skip N       Skip the first N lines\n   \
                A missing TABLE is made, its columns named by the first line of FILE.\n   \
                FILE may be \"|program\", whose output is read then.",
        ),
    command("indexes", "?TABLE?", "Show names of indexes", (0, 1), Tables, schema::indexes),
    command("mode", "?MODE? ?OPTIONS?", "Set output mode", (0, 2), Modes, settings::mode)
        .options(&[with_value("wrap")])
        .more(
            "   MODE is one of:\n     \
              box         Tables using unicode box-drawing characters\n     \
              csv         Comma-separated values\n     \
              column      Output in columns\n     \
              insert      SQL insert statements for TABLE\n     \
              json        Results in a JSON array\n     \
              line        One value per line\n     \
              list        Values delimited by \"|\"\n     \
              markdown    Markdown table format\n     \
              quote       Escape answers as for SQL\n     \
              table       ASCII-art table\n     \
              tabs        Tab-separated values\n   \
            OPTIONS:\n     \
              --wrap N    Wrap long values to N characters (aligned modes; 0 for never)\n     \
              TABLE       The name of SQL table used for \"insert\" mode",
        ),
    command("nullvalue", "STRING", "Use STRING in place of NULL values", (1, 1), Nothing, settings::nullvalue)
        .literal(),
    command("once", "?OPTIONS? ?FILE?", "Output for the next command only to FILE", (0, 1), Files, files::once)
        .options(&[flag("bom")])
        .more(OUTPUT_OPTIONS),
    command("open", "?OPTIONS? ?NAME?", "Close existing database and open NAME", (0, 1), Nothing, files::open)
        .options(&[flag("readonly")])
        .more(
            "   NAME is a database in Redis, a file: URI, or :memory:\n   \
                --readonly     Open it read-only",
        ),
    command(
        "output",
        "?OPTIONS? ?FILE?",
        "Send output to FILE or stdout if FILE is omitted",
        (0, 1),
        Files,
        files::output,
    )
    .options(&[flag("bom")])
    .more(OUTPUT_OPTIONS),
    command("print", "STRING...", "Print literal STRING", (0, MANY), Nothing, settings::print).literal(),
    command("quit", "", "Exit this program", (0, MANY), Nothing, settings::quit).literal(),
    command("read", "FILE", "Read input from FILE", (1, 1), Files, files::read)
        .more("   FILE may be \"|program\", whose output is read then."),
    command(
        "restore",
        "?DB? FILE",
        "Restore content of DB (default \"main\") from FILE",
        (1, 2),
        Files,
        files::restore,
    ),
    command(
        "schema",
        "?OPTIONS? ?PATTERN?",
        "Show the CREATE statements matching PATTERN",
        (0, 1),
        Tables,
        schema::schema,
    )
    .options(&[flag("indent"), flag("nosys")])
    .more(
        "   --indent       Try to pretty-print the schema\n   \
            --nosys        Omit objects whose names begin with \"sqlite_\"",
    ),
    command("separator", "COL ?ROW?", "Change the column and row separators", (1, 2), Nothing, settings::separator)
        .literal(),
    command("show", "", "Show the current values for various settings", (0, 0), Nothing, settings::show),
    command("tables", "?TABLE?", "List names of tables matching LIKE pattern TABLE", (0, 1), Tables, schema::tables),
    command("timeout", "MS", "Try opening locked tables for MS milliseconds", (1, 1), Nothing, settings::timeout)
        .literal(),
    command("timer", "on|off", "Turn SQL timer on or off", (1, 1), Switch, settings::timer),
    command("vfsname", "?DB?", "Print the name of the VFS", (0, 1), Nothing, schema::vfsname),
];

/// Runs the dot command in `line`.
pub fn run(shell: &mut Shell, line: &str) -> Result<Flow> {
    let words = split(line.trim_start_matches('.'));
    let Some((name, arguments)) = words.split_first() else {
        return Ok(Flow::Continue);
    };
    let command = find(name)?;
    let arguments = Arguments::parse(command, arguments)?;
    let (least, most) = command.arity;
    if arguments.words.len() < least || arguments.words.len() > most {
        return Err(usage(command));
    }
    (command.run)(shell, &arguments).map_err(|error| if error.is::<Misuse>() { usage(command) } else { error })
}

/// The command of that name or abbreviation.
pub fn find(name: &str) -> Result<&'static Command> {
    let exact = COMMANDS.iter().find(|command| command.name == name);
    let abbreviated = || {
        // One letter is too easy to mistype for that; `sqlite3` takes some.
        let short = name.len() < 2 && !matches!(name, "h" | "q" | "e");
        let fits = |command: &&Command| command.name.starts_with(name);
        COMMANDS.iter().find(fits).filter(|_| !short)
    };
    exact.or_else(abbreviated).ok_or_else(|| match nearest(name) {
        Some(other) => {
            anyhow!("unknown command: .{name}; did you mean .{other}? \".help\" lists all")
        }
        None => anyhow!("unknown command: .{name}; \".help\" lists all"),
    })
}

fn nearest(name: &str) -> Option<&'static str> {
    let far = |other: &str| strsim::damerau_levenshtein(name, other);
    let best = COMMANDS.iter().map(|command| command.name).min_by_key(|other| far(other))?;
    (far(best) <= (name.len() / 2).clamp(1, 3)).then_some(best)
}

/// `.help ?--all? ?PATTERN?`
pub fn help(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    let all = arguments.has("all");
    match arguments.first() {
        None => {
            for command in COMMANDS {
                entry(shell, command, all)?;
            }
        }
        Some(name) => match find(name.trim_start_matches('.')) {
            Ok(command) => entry(shell, command, true)?,
            Err(_) => writeln!(shell.out, "Nothing matches '{name}'")?,
        },
    }
    Ok(Flow::Continue)
}

/// Writes the line of a command, and `in_full` what else there is to know.
fn entry(shell: &mut Shell, command: &Command, in_full: bool) -> Result<()> {
    writeln!(shell.out, "{}", line(command))?;
    if in_full && !command.more.is_empty() {
        writeln!(shell.out, "{}", command.more)?;
    }
    Ok(())
}

fn line(command: &Command) -> String {
    format!("{:<24} {}", format!(".{} {}", command.name, command.usage).trim_end(), command.about)
}

/// Splits a line into words. Single quotes keep everything, double quotes
/// know backslash escapes.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while let Some(first) = rest.chars().next() {
        let word;
        (word, rest) = match first {
            '\'' => {
                let inner = &rest[1..];
                inner.split_once('\'').map_or((inner.to_owned(), ""), |(w, r)| (w.to_owned(), r))
            }
            '"' => double_quoted(&rest[1..]),
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (unescape(&rest[..end]), &rest[end..])
            }
        };
        words.push(word);
        rest = rest.trim_start();
    }
    words
}

fn double_quoted(text: &str) -> (String, &str) {
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            '"' if !escaped => return (unescape(&text[..i]), &text[i + 1..]),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    (unescape(text), "")
}

/// Resolves `\n`, `\t`, `\\`, `\"`, `\101` and so on.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(next) = chars.peek().copied().filter(|_| c == '\\') else {
            out.push(c);
            continue;
        };
        chars.next();
        out.push(match next {
            'a' => '\x07',
            'b' => '\x08',
            't' => '\t',
            'n' => '\n',
            'v' => '\x0b',
            'f' => '\x0c',
            'r' => '\r',
            '0'..='7' => {
                let mut code = next.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else {
                        break;
                    };
                    chars.next();
                    code = code * 8 + digit;
                }
                char::from_u32(code & 0xff).unwrap_or('\0')
            }
            other => other,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_in_sqlite3() {
        assert_eq!(split("read 'a b' \"c\\td\" e"), ["read", "a b", "c\td", "e"]);
        assert_eq!(split("separator \\t '\\n'"), ["separator", "\t", "\\n"]);
        assert_eq!(split("x \"a\\\"b\" ''"), ["x", "a\"b", ""]);
        assert_eq!(split("x \\101"), ["x", "A"]);
        assert!(split("  ").is_empty());
    }

    #[test]
    fn commands_are_found_by_abbreviation_and_guessed_by_likeness() {
        assert_eq!(find("tab").unwrap().name, "tables");
        assert_eq!(find("q").unwrap().name, "quit");
        let message = |name| find(name).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message("tabels").contains(".tables?"), "{}", message("tabels"));
        assert!(!message("zzzzzz").contains("mean"));
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(COMMANDS.is_sorted_by_key(|command| command.name));
    }
}
