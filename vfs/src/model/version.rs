//! Versions of a database: number, commit id, size.

use std::fmt;

use crate::model::error::{Cause, Error, Result};
use crate::model::page::PageNo;

/// The value of the hash field `format` in databases that this release writes.
pub(crate) const FORMAT: u32 = 1;
/// The value of `format` while pages of the last commit are still staged. Older clients then refuse the database.
pub(crate) const STAGED_FORMAT: u32 = 2;

/// The number of a commit. Version 0 is the empty database before the first commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

impl Version {
    pub(crate) fn next(self) -> Version {
        Version(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The random id of a commit. After a failover lost commits, their numbers are used again; the ids differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CommitId(pub u64);

impl CommitId {
    pub(crate) fn draw() -> Result<Self> {
        crate::model::unique().map(CommitId)
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let digits = std::str::from_utf8(text).ok().filter(|text| text.len() == 16)?;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
        u64::from_str_radix(digits, 16).ok().map(CommitId)
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One version of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Number of the commit that made this version.
    pub version: Version,
    /// Random id of that commit.
    pub commit: CommitId,
    /// Bytes of a page: a power of two from 512 to 65536, or 0 in the empty database.
    pub page_size: u32,
    pub page_count: u32,
}

impl Snapshot {
    /// The database before its first commit, which has no key in Redis.
    pub(crate) const EMPTY: Snapshot =
        Snapshot { version: Version(0), commit: CommitId(0), page_size: 0, page_count: 0 };

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.page_size) * u64::from(self.page_count)
    }

    /// The error for a server that describes the same version in two ways: first as `self`, then as `other`.
    pub(crate) fn contradicted_by(&self, other: &Snapshot) -> Error {
        let shape = |it: &Snapshot| format!("{} pages of {} bytes", it.page_count, it.page_size);
        Cause::Damaged(format!("version {} has {}, and then {}", self.version, shape(self), shape(other))).into()
    }

    /// Refuses a page count larger than the number of fields of the hash: pages would be missing.
    pub(crate) fn check_stored(&self, fields: u64) -> Result<()> {
        let (version, page_count) = (self.version, self.page_count);
        if fields >= u64::from(page_count) {
            return Ok(());
        }
        Err(Cause::Damaged(format!("version {version} has {page_count} pages, and its hash {fields} fields")).into())
    }

    pub(crate) fn has(&self, page: PageNo) -> bool {
        page.get() <= self.page_count
    }

    /// Version and commit id: two snapshots with equal identity have equal pages.
    pub(crate) fn identity(&self) -> (Version, CommitId) {
        (self.version, self.commit)
    }
}

/// Checks a stored page size and page count.
pub(crate) fn check_shape(page_size: u64, page_count: u64) -> Result<(u32, u32)> {
    if !(512..=65536).contains(&page_size) || !page_size.is_power_of_two() {
        return Err(Cause::Damaged(format!("its page size is {page_size}")).into());
    }
    match u32::try_from(page_count) {
        Ok(count) if count > 0 && count < u32::MAX => Ok((page_size as u32, count)),
        _ => Err(Cause::Damaged(format!("its page count is {page_count}")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_ids_are_sixteen_hex_digits() {
        let id = CommitId(0xab);
        assert_eq!(CommitId::parse(id.to_string().as_bytes()), Some(id));
        for text in ["", "ab", "+0000000000000ab", "00000000000000ag", "00000000000000abc"] {
            assert_eq!(CommitId::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn shapes_are_checked() {
        assert!(check_shape(4096, 1).is_ok());
        for (size, count) in [(0, 1), (4095, 1), (131_072, 1), (256, 1), (4096, 0), (4096, 1 << 33)] {
            assert!(check_shape(size, count).is_err());
        }
    }
}
