//! The write set of a transaction: what SQLite has written, over the snapshot it was written to.
//!
//! SQLite writes whole pages, but not always of the size that the database has in the end: a
//! `VACUUM` that changes the page size writes pages of the old size. So the write set is kept in
//! chunks of the size that the transaction began with, and cut into pages at commit. What is more than
//! may be in memory goes to a temporary file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use crate::model::error::{Cause, Result};
use crate::model::header::Header;
use crate::model::version::check_shape;
use crate::transaction::journal;

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
    /// Bytes that `chunks` may have.
    in_memory: u64,
    /// The other chunks that were written.
    spilled: Option<Spilled>,
    changed: bool,
}

/// Chunks in a temporary file, each at its own offset in the database.
struct Spilled {
    file: File,
    chunks: BTreeSet<u64>,
}

impl Spilled {
    fn new() -> io::Result<Self> {
        Ok(Spilled { file: tempfile::tempfile()?, chunks: BTreeSet::new() })
    }

    fn write(&mut self, index: u64, chunk: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(index * chunk.len() as u64))?;
        self.file.write_all(chunk)?;
        self.chunks.insert(index);
        Ok(())
    }

    fn read(&self, index: u64, chunk: &mut [u8]) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(index * chunk.len() as u64))?;
        file.read_exact(chunk)
    }
}

/// Where the bytes of one chunk come from when nothing was written there.
pub(crate) trait Base {
    /// Fills `chunk` with the snapshot's bytes at `index * chunk.len()`.
    fn chunk(&mut self, index: u64, chunk: &mut [u8]) -> Result<()>;
}

impl WriteSet {
    /// `unit` is 0 when the snapshot is the empty database; `in_memory` bytes may be kept in memory.
    pub(crate) fn new(unit: u32, size: u64, in_memory: u64) -> Self {
        let (unit, chunks) = (unit as usize, BTreeMap::new());
        WriteSet { unit, size, base_size: size, chunks, in_memory, spilled: None, changed: false }
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

    /// Chunks written, by their index.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = u64> {
        self.chunks.keys().chain(self.spilled.iter().flat_map(|spilled| &spilled.chunks)).copied()
    }

    /// Whether a chunk was written.
    pub(crate) fn has(&self, index: u64) -> bool {
        self.chunks.contains_key(&index) || self.spilled_at(index).is_some()
    }

    fn spilled_at(&self, index: u64) -> Option<&Spilled> {
        self.spilled.as_ref().filter(|spilled| spilled.chunks.contains(&index))
    }

    /// A chunk that was written, if it is in memory.
    pub(crate) fn at_hand(&self, index: u64) -> Option<&[u8]> {
        self.chunks.get(&index).map(Vec::as_slice)
    }

    /// Takes a chunk out, to be sent and then cached.
    pub(crate) fn take_chunk(&mut self, index: u64) -> Result<Option<Vec<u8>>> {
        if let Some(chunk) = self.chunks.remove(&index) {
            return Ok(Some(chunk));
        }
        let Some(spilled) = self.spilled_at(index) else { return Ok(None) };
        let mut chunk = vec![0; self.unit];
        spilled.read(index, &mut chunk).map_err(|error| journal::cause(&error))?;
        Ok(Some(chunk))
    }

    /// Keeps a whole chunk: where it is already, or in memory while there is room.
    fn put(&mut self, index: u64, chunk: &[u8]) -> Result<()> {
        if let Some(known) = self.chunks.get_mut(&index) {
            known.copy_from_slice(chunk);
            return Ok(());
        }
        let room = (self.chunks.len() as u64 + 1) * self.unit as u64 <= self.in_memory;
        if room && self.spilled_at(index).is_none() {
            self.chunks.insert(index, chunk.to_vec());
            return Ok(());
        }
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            none => none.insert(Spilled::new().map_err(|error| journal::cause(&error))?),
        };
        Ok(spilled.write(index, chunk).map_err(|error| journal::cause(&error))?)
    }

    /// Chunks from the start in which bytes of the snapshot may show.
    pub(crate) fn base_chunks(&self) -> u32 {
        self.base_size.div_ceil(self.unit.max(1) as u64).try_into().unwrap_or(u32::MAX)
    }

    /// Whether more of these bytes was left out than SQLite leaves out. It does not write pages that it appends
    /// and gives up again in one transaction. They are on the free list then, of which SQLite writes the
    /// pages that name them, each a quarter as many as it has bytes at most.
    pub(crate) fn has_too_many_holes(&self, bytes: u64) -> bool {
        let unit = self.unit.max(1) as u64;
        let end = bytes.min(self.size).div_ceil(unit);
        let from = self.base_size.div_ceil(unit).min(end);
        let spilled = self.spilled.as_ref().map(|spilled| &spilled.chunks);
        let appended = self.chunks.range(from..end).count() + spilled.map_or(0, |it| it.range(from..end).count());
        let written = self.chunks.len() + spilled.map_or(0, BTreeSet::len);
        let holes = end - from - appended as u64;
        holes > (written as u64 + 1) * unit / 4
    }

    /// Page size and page count of what was written, with this header in page 1. A page 1 that is no header says neither.
    ///
    /// # Errors
    /// The header says more pages than SQLite can have written: a commit would go through all of them.
    pub(crate) fn shape(&self, header: &Header) -> Result<(u32, u32)> {
        let page_size = header.page_size().unwrap_or(self.unit().max(1) as u32);
        let pages = self.size() / u64::from(page_size);
        let page_count = header.page_count().map_or(pages, u64::from);
        // SQLite never writes the page with the bytes that it locks in files, also where that is the last one.
        if page_count > pages + 1 || self.has_too_many_holes(page_count * u64::from(page_size)) {
            let reason = format!("page 1 says {page_count} pages, and those of the transaction are fewer");
            return Err(Cause::Damaged(reason).into());
        }
        check_shape(page_size.into(), page_count)
    }

    /// Whether no chunk shows a part of the snapshot and zeros behind it.
    pub(crate) fn is_aligned(&self) -> bool {
        self.unit > 0 && self.base_size.is_multiple_of(self.unit as u64)
    }

    /// Whether the snapshot's bytes show in this chunk.
    fn shows_base(&self, index: u64) -> bool {
        !self.has(index) && index * (self.unit as u64) < self.base_size
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8], base: &mut dyn Base) -> Result<()> {
        if self.unit == 0 {
            self.unit =
                if (512..=65536).contains(&data.len()) && data.len().is_power_of_two() { data.len() } else { 4096 };
        }
        for (index, within, part) in self.parts(offset, data.len()) {
            let whole = within.len() == self.unit;
            if whole {
                self.put(index, &data[part])?;
            } else {
                let mut chunk = vec![0; self.unit];
                self.read_chunk(index, &mut chunk, base)?;
                chunk[within].copy_from_slice(&data[part]);
                self.put(index, &chunk)?;
            }
        }
        self.size = self.size.max(offset + data.len() as u64);
        self.changed = true;
        Ok(())
    }

    pub(crate) fn truncate(&mut self, size: u64) -> Result<()> {
        if size == self.size {
            return Ok(());
        }
        self.changed = true;
        self.size = size;
        self.base_size = self.base_size.min(size);
        if self.unit == 0 {
            return Ok(());
        }
        let unit = self.unit as u64;
        self.chunks.split_off(&size.div_ceil(unit));
        if let Some(spilled) = &mut self.spilled {
            spilled.chunks.split_off(&size.div_ceil(unit));
        }
        if let Some(mut chunk) = self.take_chunk(size / unit)? {
            chunk[(size % unit) as usize..].fill(0);
            self.put(size / unit, &chunk)?;
        }
        Ok(())
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
        if let Some(spilled) = self.spilled_at(index) {
            return Ok(spilled.read(index, chunk).map_err(|error| journal::cause(&error))?);
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
        fn a_write_set_reads_like_a_file(
            base_pages in 0usize..8,
            in_memory in 0u64..4000,
            steps in prop::collection::vec(step(), 0..20),
        ) {
            let base: Vec<u8> = (0..base_pages * 512).map(|n| (n % 251) as u8).collect();
            let mut file = base.clone();
            let mut writes = WriteSet::new(if base_pages == 0 { 0 } else { 512 }, base.len() as u64, in_memory);
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
                        writes.truncate(size as u64)?;
                    }
                    Step::Truncate(_) => {}
                }
                prop_assert_eq!(writes.size(), file.len() as u64);
                let mut read = vec![9; file.len()];
                writes.read(0, &mut read, &mut base)?;
                prop_assert_eq!(&read, &file);
                prop_assert!(writes.chunks.values().map(Vec::len).sum::<usize>() as u64 <= in_memory);
            }
            let (written, unit): (Vec<u64>, _) = (writes.chunks().collect(), writes.unit());
            for index in written {
                let chunk = writes.take_chunk(index)?.unwrap();
                let there = file.len().saturating_sub(index as usize * unit).min(unit);
                prop_assert_eq!(&chunk[..there], &file[index as usize * unit..][..there]);
            }
        }
    }

    #[test]
    fn a_write_set_without_writes_is_unchanged() {
        let mut writes = WriteSet::new(512, 1024, u64::MAX);
        assert!(!writes.is_changed());
        writes.truncate(1024).unwrap();
        assert!(!writes.is_changed());
        writes.truncate(512).unwrap();
        assert!(writes.is_changed());
    }
}
