//! Dot commands, and how their words are parsed into options and arguments.

use anyhow::{Result, anyhow};

use crate::shell::{Flow, Shell};

/// A dot command.
pub struct Command {
    /// Its name without the dot.
    pub name: &'static str,
    /// Its arguments, in the notation of `sqlite3`.
    pub usage: &'static str,
    /// Its description in one line.
    pub about: &'static str,
    /// Further help, for `.help NAME`.
    pub more: &'static str,
    /// The number of arguments, without options.
    pub arity: (usize, usize),
    /// Its options.
    pub options: Options,
    /// The completion of its arguments.
    pub completes: Completes,
    /// Runs it.
    pub run: fn(&mut Shell, &Arguments) -> Result<Flow>,
}

/// What can be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completes {
    /// Names of files.
    Files,
    /// Tables and views.
    Tables,
    /// Result modes.
    Modes,
    /// On and off.
    Switch,
    /// Nothing.
    Nothing,
}

/// A command without options.
pub const fn command(
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    arity: (usize, usize),
    completes: Completes,
    run: fn(&mut Shell, &Arguments) -> Result<Flow>,
) -> Command {
    Command { name, usage, about, more: "", arity, options: Options::Known(&[]), completes, run }
}

impl Command {
    /// Adds to its help.
    pub const fn more(mut self, more: &'static str) -> Self {
        self.more = more;
        self
    }

    /// Adds its options.
    pub const fn options(mut self, options: &'static [Opt]) -> Self {
        self.options = Options::Known(options);
        self
    }

    /// Accepts words that begin with `-` as arguments.
    pub const fn literal(mut self) -> Self {
        self.options = Options::Words;
        self
    }
}

/// An option of a dot command.
pub struct Opt {
    /// Its name without dashes.
    pub name: &'static str,
    /// Whether the next word is its value.
    pub value: bool,
}

/// An option without a value.
pub const fn flag(name: &'static str) -> Opt {
    Opt { name, value: false }
}

/// An option with a value.
pub const fn with_value(name: &'static str) -> Opt {
    Opt { name, value: true }
}

/// The meaning of words that begin with `-`.
#[derive(Clone, Copy)]
pub enum Options {
    /// They are options. Unknown ones are errors.
    Known(&'static [Opt]),
    /// They are arguments, as in `.print -x`.
    Words,
}

/// The parsed words of a dot command.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The arguments.
    pub words: Vec<String>,
    options: Vec<(&'static str, String)>,
}

impl Arguments {
    /// Separates options from arguments. Options begin with one or two dashes; after `--`, all words are arguments.
    pub fn parse(command: &Command, given: &[String]) -> Result<Self> {
        let Options::Known(known) = command.options else {
            return Ok(Arguments { words: given.to_vec(), options: Vec::new() });
        };
        let mut arguments = Arguments::default();
        let mut given = given.iter();
        while let Some(word) = given.next() {
            let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            match name {
                _ if word == "--" => arguments.words.extend(given.by_ref().cloned()),
                Some(name) if word != "-" => {
                    let option = known.iter().find(|option| option.name == name);
                    let option = option.ok_or_else(|| unknown(command, known, word))?;
                    let value = if option.value { given.next().cloned() } else { Some(String::new()) };
                    let value = value.ok_or_else(|| anyhow!("{word} needs a value; {}", usage(command)))?;
                    arguments.options.push((option.name, value));
                }
                _ => arguments.words.push(word.clone()),
            }
        }
        Ok(arguments)
    }

    /// Whether an option was given.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// The value of an option. If it was given more than once, the last counts.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(option, _)| *option == name).map(|(_, value)| value.as_str())
    }

    /// The first word, which is optional.
    pub fn first(&self) -> Option<&str> {
        self.words.first().map(String::as_str)
    }
}

fn unknown(command: &Command, known: &[Opt], word: &str) -> anyhow::Error {
    let names: Vec<_> = known.iter().map(|option| format!("--{}", option.name)).collect();
    let name = command.name;
    match names.as_slice() {
        [] => anyhow!("unknown option: {word}; .{name} has none (a name that begins with - goes after --)"),
        names => anyhow!("unknown option: {word}; .{name} knows {}", names.join(", ")),
    }
}

/// The error that shows the usage of a command.
pub fn usage(command: &Command) -> anyhow::Error {
    anyhow!("{}", format!("usage: .{} {}", command.name, command.usage).trim_end())
}

/// The command was not used as its usage says.
#[derive(Debug)]
pub struct Misuse;

impl std::fmt::Display for Misuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("misused")
    }
}

impl std::error::Error for Misuse {}
