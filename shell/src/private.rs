//! Directories whose files no other user can read or replace.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::libc::O_DIRECTORY;
use nix::unistd::geteuid;

/// The user id of root, who can do everything anyway.
const ROOT: u32 = 0;
/// The permission of everybody to create files in a directory.
const WRITABLE_BY_ALL: u32 = 0o002;
/// The sticky bit: only owners can remove or rename files, as in `/tmp`.
const STICKY: u32 = 0o1000;

/// Creates the directory for this user alone, or uses an existing one. Refuses one that belongs to another user or
/// contains files of another user.
pub fn directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("{} can't be made", path.display()))?;
    let parent = path.parent().unwrap_or(path);
    ensure!(
        is_safe_parent(&metadata(parent, Path::metadata)?),
        "{} can be replaced by every user, since {} has no sticky bit; make that directory private",
        path.display(),
        parent.display()
    );
    // Whoever created a symbolic link can change its target.
    refuse_foreign(path, &metadata(path, Path::symlink_metadata)?)?;
    let directory = open(path).with_context(|| format!("{} can't be entered", path.display()))?;
    let found = directory.metadata()?;
    if found.uid() != geteuid().as_raw() {
        bail!(foreign(path, found.uid()));
    }
    if found.mode() & 0o777 != 0o700 {
        let private = directory.set_permissions(Permissions::from_mode(0o700));
        private.with_context(|| format!("{} can't be made private", path.display()))?;
    }
    // Until now, others may have been able to write to it.
    for entry in fs::read_dir(path).with_context(|| format!("{} can't be read", path.display()))? {
        let entry = entry?.path();
        // The file may have been removed meanwhile.
        if let Ok(found) = entry.symlink_metadata() {
            refuse_foreign(&entry, &found)?;
        }
    }
    Ok(())
}

/// Whether other users can't replace this user's files in that directory.
pub fn is_safe_base(path: &Path) -> bool {
    let trusted = |found: &Metadata| is_trusted(found) && is_safe_parent(found);
    path.is_absolute() && fs::metadata(path).is_ok_and(|found| found.is_dir() && trusted(&found))
}

fn is_safe_parent(found: &Metadata) -> bool {
    found.mode() & WRITABLE_BY_ALL == 0 || found.mode() & STICKY != 0
}

fn is_trusted(found: &Metadata) -> bool {
    [ROOT, geteuid().as_raw()].contains(&found.uid())
}

fn refuse_foreign(path: &Path, found: &Metadata) -> Result<()> {
    if is_trusted(found) { Ok(()) } else { bail!(foreign(path, found.uid())) }
}

fn foreign(path: &Path, owner: u32) -> String {
    format!(
        "{} belongs to user {owner}, who could read or change your data; remove it, or set \
         XDG_DATA_HOME and XDG_RUNTIME_DIR to directories of your own (you are user {})",
        path.display(),
        geteuid()
    )
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_DIRECTORY).open(path)
}

fn metadata(path: &Path, of: fn(&Path) -> std::io::Result<Metadata>) -> Result<Metadata> {
    of(path).with_context(|| format!("{} can't be looked at", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn a_directory_is_made_private() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b");
        directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        fs::write(path.join("file"), "").unwrap();
        directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn an_own_symbolic_link_is_followed() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("elsewhere")).unwrap();
        symlink("elsewhere", home.path().join("link")).unwrap();
        directory(&home.path().join("link")).unwrap();
        assert_eq!(mode(&home.path().join("elsewhere")), 0o700);
    }

    #[test]
    fn what_is_no_directory_or_can_be_replaced_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        directory(&file).unwrap_err();
        let shared = home.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        let refused = directory(&shared.join("mine")).unwrap_err();
        assert!(refused.to_string().contains("sticky bit"), "{refused}");
        assert!(!is_safe_base(&shared));
        fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
        directory(&shared.join("mine")).unwrap();
        assert!(is_safe_base(&shared));
    }

    /// Only root can make files that belong to another user.
    #[test]
    fn what_belongs_to_another_user_is_refused() {
        if !geteuid().is_root() {
            note!("SKIPPED: this makes files of another user, so it must run as root");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let (path, nobody) = (home.path().join("made"), Some(65534));
        let refused = || directory(&path).unwrap_err().to_string();
        fs::create_dir(&path).unwrap();
        chown(&path, nobody, None).unwrap();
        assert!(refused().contains("made belongs to user 65534"), "{}", refused());
        assert!(!is_safe_base(&path));
        assert_ne!(mode(&path), 0o700, "it is left as it was");
        chown(&path, Some(0), None).unwrap();
        fs::write(path.join("start.lock"), "").unwrap();
        std::os::unix::fs::lchown(path.join("start.lock"), nobody, None).unwrap();
        assert!(refused().contains("start.lock belongs to user 65534"), "{}", refused());
        fs::rename(&path, home.path().join("target")).unwrap();
        fs::remove_file(home.path().join("target/start.lock")).unwrap();
        symlink("target", &path).unwrap();
        std::os::unix::fs::lchown(&path, nobody, None).unwrap();
        assert!(refused().contains("made belongs to user 65534"), "{}", refused());
    }
}
