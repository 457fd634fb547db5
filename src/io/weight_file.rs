//! A file of weights, read by copies into a window of memory.
//!
//! Nothing is looked at where it lies in a map of the file: there, a file that another program cuts short, or a disk that
//! fails, is a signal that ends the process; a read gives an error. The window is an anonymous map: where there is no memory
//! for it, that is an error too.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use memmap2::MmapMut;
use rayon::prelude::*;

use super::convert::{CHUNK, Encoding, first_not_finite};
use crate::error::{Context, Result};
use crate::{bail, err};

/// Elements that are in the window at once.
const PIECE: usize = 1 << 22;
/// No element takes more.
const MAX_ELEMENT_BYTES: usize = 4;

/// An open file of weights.
pub(super) struct WeightFile {
    file: File,
    /// Bytes when it was opened.
    size: u64,
    window: Mutex<MmapMut>,
}

impl WeightFile {
    /// Opens a file of which something will be read.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = path.metadata().context(|| "cannot open the file")?;
        if !metadata.is_file() {
            bail!("it is not a file");
        }
        let file = File::open(path).context(|| "cannot open the file")?;
        let window = MmapMut::map_anon(PIECE * MAX_ELEMENT_BYTES).context(|| "there is no memory to read it")?;
        Ok(Self { file, size: metadata.len(), window: Mutex::new(window) })
    }

    /// Its bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, to read its header from.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `bytes` from byte `at` on.
    ///
    /// # Errors
    /// The disk fails, or the file has become shorter.
    pub fn read_at(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(bytes, at)
            .context(|| format!("cannot read {} bytes at byte {at}", bytes.len()))
            .map_err(|error| {
                error.hint("the file is damaged, or was changed while it was read: download or copy it again")
            })
    }

    /// Decodes tensor `name`, the bytes `data`, into `out`.
    ///
    /// # Errors
    /// As [`WeightFile::read_at`], or an element is NaN or infinite; the error names the tensor and the element.
    pub fn read_tensor(&self, name: &str, data: Range<u64>, encoding: Encoding, out: &mut [f32]) -> Result<()> {
        debug_assert_eq!(encoding.size_of(out.len()) as u64, data.end - data.start);
        self.read_part(name, data, encoding, 0, out)
    }

    /// [`read_tensor`](Self::read_tensor) of its elements from `first` on, whole blocks.
    ///
    /// # Errors
    /// As there.
    pub fn read_part(
        &self,
        name: &str,
        data: Range<u64>,
        encoding: Encoding,
        first: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let start = data.start + encoding.size_of(first) as u64;
        debug_assert!(start + encoding.size_of(out.len()) as u64 <= data.end);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        for (piece, out) in out.chunks_mut(PIECE).enumerate() {
            let from = start + encoding.size_of(piece * PIECE) as u64;
            let bytes = &mut window[..encoding.size_of(out.len())];
            let bad = self.read_piece(from, bytes, encoding, out).context(|| format!("cannot read tensor `{name}`"))?;
            if let Some(index) = bad {
                let place = first + piece * PIECE + index;
                return Err(err!("tensor `{name}` holds {} at element {place}", out[index])
                    .hint("the checkpoint is damaged, or its training diverged"));
            }
        }
        Ok(())
    }

    /// Reads and decodes in parallel, and gives the index of the first element that is not finite.
    fn read_piece(&self, from: u64, bytes: &mut [u8], encoding: Encoding, out: &mut [f32]) -> Result<Option<usize>> {
        let chunk_bytes = encoding.size_of(CHUNK);
        let chunks = out.par_chunks_mut(CHUNK).zip(bytes.par_chunks_mut(chunk_bytes)).enumerate();
        let first_bad = chunks.map(|(chunk, (out, bytes))| {
            self.read_at(from + (chunk * chunk_bytes) as u64, bytes)?;
            (encoding.decode)(bytes, out);
            Ok(first_not_finite(out).map(|index| chunk * CHUNK + index))
        });
        first_bad.try_reduce(|| None, |a, b| Ok(a.into_iter().chain(b).min()))
    }

    /// Whether two parts of equal length hold the same bytes.
    ///
    /// # Errors
    /// As [`WeightFile::read_at`].
    pub fn same(&self, a: Range<u64>, b: Range<u64>) -> Result<bool> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let half = window.len() / 2;
        let (left, right) = window.split_at_mut(half);
        for offset in (0..a.end - a.start).step_by(half) {
            let count = (a.end - a.start - offset).min(half as u64) as usize;
            self.read_at(a.start + offset, &mut left[..count])?;
            self.read_at(b.start + offset, &mut right[..count])?;
            if left[..count] != right[..count] {
                return Ok(false);
            }
        }
        Ok(a.end - a.start == b.end - b.start)
    }
}

#[cfg(test)]
mod tests {
    use super::super::convert::F32;
    use super::*;

    #[test]
    fn a_file_that_is_cut_short_while_it_is_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let numbers = vec![1.5f32; 100_000];
        std::fs::write(&path, bytemuck::cast_slice(&numbers)).unwrap();
        let file = WeightFile::open(&path).unwrap();
        let mut out = vec![0.0; numbers.len()];
        file.read_tensor("t", 0..400_000, F32, &mut out).unwrap();
        assert_eq!(out, numbers);
        assert!(file.same(0..200_000, 200_000..400_000).unwrap());

        File::options().write(true).open(&path).unwrap().set_len(5).unwrap();
        let report = file.read_tensor("t", 0..400_000, F32, &mut out).unwrap_err().report();
        assert!(report.contains("cannot read tensor `t`") && report.contains("hint: "), "{report}");
        assert!(file.same(0..8, 8..16).is_err());
    }
}
