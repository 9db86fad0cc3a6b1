//! The setting `credentials`: the place of the password, so that no URI has to contain it.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use crate::model::error::{Cause, Result};
use crate::model::secret;

/// Maximum length of a password in bytes.
const LONGEST: u64 = 64 << 10;

/// The place of a password. The password is read for each connection, so it can be changed while the process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// The content of this file, without the last line break.
    File(PathBuf),
    /// The value of this environment variable.
    Environment(String),
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::File(path) => write!(f, "file:{}", path.display()),
            Credentials::Environment(name) => write!(f, "env:{name}"),
        }
    }
}

impl Credentials {
    /// The expected form, for error messages.
    pub(super) const EXPECTED: &str = "expected file:/path/of/a/file or env:NAME_OF_A_VARIABLE";

    /// `file:PATH` or `env:NAME`.
    pub(super) fn parse(text: &str) -> Option<Credentials> {
        match text.split_once(':')? {
            ("file", path) if !path.is_empty() => Some(Credentials::File(path.into())),
            ("env", name) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Some(Credentials::Environment(name.to_owned()))
            }
            _ => None,
        }
    }

    /// Reads the password.
    ///
    /// # Errors
    /// There is no password. The message names the place, never its content.
    pub(crate) fn read(&self) -> Result<String> {
        let read = match self {
            Credentials::File(path) => std::fs::File::open(path).and_then(|file| {
                let mut text = String::new();
                file.take(LONGEST + 1).read_to_string(&mut text).map(|_| text)
            }),
            Credentials::Environment(name) => std::env::var(name).map_err(std::io::Error::other),
        };
        let refused = |reason: String| {
            Err(Cause::BadSetting { setting: "credentials".to_owned(), value: self.to_string(), reason }.into())
        };
        let text = match read {
            Ok(text) if text.len() as u64 > LONGEST => return refused(format!("it is longer than {LONGEST} bytes")),
            Ok(text) => text,
            // The error is not shown: it repeats the value of a variable that is not UTF-8.
            Err(_) if matches!(self, Credentials::Environment(_)) => {
                return refused("there is no such variable, or it is not UTF-8".to_owned());
            }
            Err(error) => return refused(error.to_string()),
        };
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let password = line.strip_suffix('\r').unwrap_or(line);
        if password.is_empty() {
            return refused("there is no password in it".to_owned());
        }
        secret::know(password);
        Ok(password.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_read_from_where_it_is_now() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let credentials = Credentials::parse(&format!("file:{}", path.display())).unwrap();
        assert!(credentials.read().unwrap_err().to_string().contains("No such file"));
        for (text, password) in [("a b:c\n", "a b:c"), ("x\r\n", "x"), ("line\nline\n", "line\nline"), ("y", "y")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(credentials.read().unwrap(), password);
        }
        for bad in ["", "\n", &"x".repeat(LONGEST as usize + 1)] {
            std::fs::write(&path, bad).unwrap();
            assert!(credentials.read().is_err());
        }
        let home = Credentials::parse("env:PATH").unwrap();
        assert!(home.read().is_ok());
        assert!(Credentials::parse("env:NO_SUCH_VARIABLE_42").unwrap().read().is_err());
        for bad in ["", "secret", "file:", "env:", "env:A=b", "vault:x"] {
            assert_eq!(Credentials::parse(bad), None, "{bad}");
        }
    }
}
