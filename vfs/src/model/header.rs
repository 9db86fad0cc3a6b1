//! The fields of a database's header that commits and checks use
//! (<https://sqlite.org/fileformat2.html#the_database_header>).

/// The first bytes of page 1.
pub(crate) struct Header(pub [u8; Header::SIZE]);

impl Header {
    pub(crate) const SIZE: usize = 100;

    /// The header at the start of page 1; `None` if the page is too short.
    pub(crate) fn of(page: &[u8]) -> Option<Header> {
        page.first_chunk().copied().map(Header)
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.0.starts_with(b"SQLite format 3\0")
    }

    /// "The two-byte big-endian integer at offset 16 […] the value 1 represents 65536."
    pub(crate) fn page_size(&self) -> Option<u32> {
        let size = match u16::from_be_bytes([self.0[16], self.0[17]]) {
            1 => 65536,
            size => u32::from(size),
        };
        (self.is_sqlite() && size >= 512 && size.is_power_of_two()).then_some(size)
    }

    /// "The in-header database size is only considered to be valid if it is non-zero and if the
    /// change counter exactly matches the version-valid-for number."
    pub(crate) fn page_count(&self) -> Option<u32> {
        let count = self.word(28);
        (self.is_sqlite() && count > 0 && self.word(24) == self.word(92)).then_some(count)
    }

    /// Pages in use: `page_count` less the length of the free list, which is "the four-byte big-endian integer at
    /// offset 36".
    pub(crate) fn used_of(&self, page_count: u32) -> u32 {
        page_count.saturating_sub(self.word(36))
    }

    /// Whether the database is in WAL mode, which this VFS does not support.
    pub(crate) fn wal(&self) -> bool {
        self.is_sqlite() && self.0[18..20].contains(&2)
    }
}
