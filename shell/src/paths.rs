//! The user's directories.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

const FOLDER: &str = "sqlite-redis";

/// The data directory of the private server.
pub fn data_dir() -> Result<PathBuf> {
    user_dir("XDG_DATA_HOME", ".local/share")
}

/// The history file of the line editor.
pub fn state_dir() -> Result<PathBuf> {
    user_dir("XDG_STATE_HOME", ".local/state")
}

fn user_dir(variable: &str, below_home: &str) -> Result<PathBuf> {
    // The XDG specification says that relative paths are ignored.
    let set = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(base) = set {
        return Ok(base.join(FOLDER));
    }
    let below_home = if cfg!(target_os = "macos") { "Library/Application Support" } else { below_home };
    let home = env::home_dir().filter(|home| home.is_absolute());
    home.map(|home| home.join(below_home).join(FOLDER))
        .ok_or_else(|| anyhow!("there is no home directory; set HOME or {variable}"))
}

/// The path with the home directory written as `~`.
pub fn with_tilde(path: &Path) -> String {
    match env::home_dir().and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}
