//! The words after a dot command: options and arguments.

use anyhow::{Result, anyhow};

use super::Command;

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

/// What words that begin with `-` mean to a dot command.
#[derive(Clone, Copy)]
pub enum Options {
    /// Options. One that is not among these is an error.
    Known(&'static [Opt]),
    /// Nothing special, as in `.print -x`.
    Words,
}

/// What a dot command was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// What is no option.
    pub words: Vec<String>,
    options: Vec<(&'static str, String)>,
}

impl Arguments {
    /// Tells options from words. Options begin with one dash or two; after `--`, all are words.
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
                    let value = value.ok_or_else(|| anyhow!("{word} needs a value; {}", super::usage(command)))?;
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

    /// The value of an option; the last, if it was given more than once.
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
