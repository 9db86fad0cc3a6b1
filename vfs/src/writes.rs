//! The write set of a transaction: what SQLite has written, over the snapshot it was written to.
//!
//! SQLite writes whole pages, but not always of the size that the database has in the end: a
//! `VACUUM` that changes the page size writes pages of the old size. So the write set is kept in
//! chunks of the size that the transaction began with, and cut into pages at commit.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::Result;

/// See the [module](self).
pub(crate) struct WriteSet {
    /// Bytes of a chunk: the snapshot's page size, or that of the first write to an empty database.
    unit: usize,
    /// Bytes of the database as it is with the writes.
    size: u64,
    /// Bytes of the snapshot that still show where nothing was written over them. A truncation
    /// that is followed by growth leaves zeros, not the old bytes.
    base_size: u64,
    chunks: BTreeMap<u64, Vec<u8>>,
    changed: bool,
}

/// Where the bytes of one chunk come from when nothing was written there.
pub(crate) trait Base {
    /// Fills `chunk` with the snapshot's bytes at `index * chunk.len()`.
    fn chunk(&mut self, index: u64, chunk: &mut [u8]) -> Result<()>;
}

impl WriteSet {
    /// `unit` is 0 when the snapshot is the empty database.
    pub(crate) fn new(unit: u32, size: u64) -> Self {
        WriteSet { unit: unit as usize, size, base_size: size, chunks: BTreeMap::new(), changed: false }
    }

    /// Whether anything was written or cut off.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn unit(&self) -> usize {
        self.unit
    }

    /// Chunks written, with their index.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.chunks.iter().map(|(&index, chunk)| (index, chunk.as_slice()))
    }

    /// One chunk, if it was written.
    pub(crate) fn chunk(&self, index: u64) -> Option<&[u8]> {
        self.chunks.get(&index).map(Vec::as_slice)
    }

    /// Takes a chunk out, to be sent and then cached.
    pub(crate) fn take_chunk(&mut self, index: u64) -> Option<Vec<u8>> {
        self.chunks.remove(&index)
    }

    /// Chunks from the start in which bytes of the snapshot may show.
    pub(crate) fn base_chunks(&self) -> u32 {
        self.base_size.div_ceil(self.unit.max(1) as u64).try_into().unwrap_or(u32::MAX)
    }

    /// Whether no chunk shows a part of the snapshot and zeros behind it.
    pub(crate) fn is_aligned(&self) -> bool {
        self.unit > 0 && self.base_size.is_multiple_of(self.unit as u64)
    }

    /// Whether the snapshot's bytes show in this chunk.
    fn shows_base(&self, index: u64) -> bool {
        !self.chunks.contains_key(&index) && index * (self.unit as u64) < self.base_size
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8], base: &mut dyn Base) -> Result<()> {
        if self.unit == 0 {
            self.unit =
                if (512..=65536).contains(&data.len()) && data.len().is_power_of_two() { data.len() } else { 4096 };
        }
        for (index, within, part) in self.parts(offset, data.len()) {
            let whole = within.len() == self.unit;
            if whole {
                self.chunks.insert(index, data[part].to_vec());
            } else {
                let mut chunk = vec![0; self.unit];
                self.read_chunk(index, &mut chunk, base)?;
                chunk[within].copy_from_slice(&data[part]);
                self.chunks.insert(index, chunk);
            }
        }
        self.size = self.size.max(offset + data.len() as u64);
        self.changed = true;
        Ok(())
    }

    pub(crate) fn truncate(&mut self, size: u64) {
        if size == self.size {
            return;
        }
        self.changed = true;
        self.size = size;
        self.base_size = self.base_size.min(size);
        if self.unit == 0 {
            return;
        }
        let unit = self.unit as u64;
        self.chunks.split_off(&size.div_ceil(unit));
        if let Some(chunk) = self.chunks.get_mut(&(size / unit)) {
            chunk[(size % unit) as usize..].fill(0);
        }
    }

    /// Fills `buffer` from `offset` on; bytes past the end are zero.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8], base: &mut dyn Base) -> Result<()> {
        if self.unit == 0 {
            buffer.fill(0);
            return Ok(());
        }
        let mut chunk = Vec::new();
        for (index, within, part) in self.parts(offset, buffer.len()) {
            if let Some(written) = self.chunks.get(&index) {
                buffer[part].copy_from_slice(&written[within]);
            } else if within.len() == self.unit {
                self.read_chunk(index, &mut buffer[part], base)?;
            } else {
                chunk.resize(self.unit, 0);
                self.read_chunk(index, &mut chunk, base)?;
                buffer[part].copy_from_slice(&chunk[within]);
            }
        }
        Ok(())
    }

    /// A whole chunk as it is with the writes.
    fn read_chunk(&self, index: u64, chunk: &mut [u8], base: &mut dyn Base) -> Result<()> {
        if let Some(written) = self.chunks.get(&index) {
            chunk.copy_from_slice(written);
            return Ok(());
        }
        if !self.shows_base(index) {
            chunk.fill(0);
            return Ok(());
        }
        base.chunk(index, chunk)?;
        let shown = self.base_size - index * self.unit as u64;
        if let Ok(shown) = usize::try_from(shown)
            && shown < chunk.len()
        {
            chunk[shown..].fill(0);
        }
        Ok(())
    }

    /// A span of bytes, chunk by chunk: index, range within the chunk, range within the span.
    fn parts(&self, offset: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> + use<> {
        let unit = self.unit;
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == length {
                return None;
            }
            let at = offset + done as u64;
            let (index, start) = (at / unit as u64, (at % unit as u64) as usize);
            let end = unit.min(start + length - done);
            let part = done..done + (end - start);
            done = part.end;
            Some((index, start..end, part))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A base of plain bytes.
    struct Bytes(Vec<u8>);

    impl Base for Bytes {
        fn chunk(&mut self, index: u64, chunk: &mut [u8]) -> Result<()> {
            let start = index as usize * chunk.len();
            for (n, byte) in chunk.iter_mut().enumerate() {
                *byte = self.0.get(start + n).copied().unwrap_or(0);
            }
            Ok(())
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(usize, Vec<u8>),
        Truncate(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..6000, prop::collection::vec(1u8.., 1..1500)).prop_map(|(at, data)| Step::Write(at, data)),
            (0usize..8).prop_map(|page| Step::Write(page * 512, vec![7; 512])),
            (0usize..8000).prop_map(Step::Truncate),
        ]
    }

    proptest! {
        #[test]
        fn a_write_set_reads_like_a_file(base_pages in 0usize..8, steps in prop::collection::vec(step(), 0..20)) {
            let base: Vec<u8> = (0..base_pages * 512).map(|n| (n % 251) as u8).collect();
            let mut file = base.clone();
            let mut writes = WriteSet::new(if base_pages == 0 { 0 } else { 512 }, base.len() as u64);
            let mut base = Bytes(base);
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        if file.len() < at + data.len() {
                            file.resize(at + data.len(), 0);
                        }
                        file[at..at + data.len()].copy_from_slice(&data);
                        writes.write(at as u64, &data, &mut base)?;
                    }
                    // SQLite never grows a file this way; a write set does not either.
                    Step::Truncate(size) if size <= file.len() => {
                        file.truncate(size);
                        writes.truncate(size as u64);
                    }
                    Step::Truncate(_) => {}
                }
                prop_assert_eq!(writes.size(), file.len() as u64);
                let mut read = vec![9; file.len()];
                writes.read(0, &mut read, &mut base)?;
                prop_assert_eq!(&read, &file);
            }
        }
    }

    #[test]
    fn a_write_set_without_writes_is_unchanged() {
        let mut writes = WriteSet::new(512, 1024);
        assert!(!writes.is_changed());
        writes.truncate(1024);
        assert!(!writes.is_changed());
        writes.truncate(512);
        assert!(writes.is_changed());
    }
}
