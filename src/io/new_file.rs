//! A file that is written from front to back, hashed on the way and synced.
//!
//! It is written in pieces, each of which is hashed meanwhile. On a disk of this machine whole pieces go past the system's cache
//! (O_DIRECT): a checkpoint of 3.8 GB would take as much memory from the cache's other users, page by page, only to be written from there;
//! on a virtual machine 11 s, and 2.6 so.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::manifest::{FileEntry, hex};

/// Bytes of a piece.
const PIECE: usize = 8 << 20;

/// What addresses and sizes past the cache must be multiples of: no disk has larger blocks.
const BLOCK: usize = 4096;

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);
const _: () = assert!(size_of::<Block>() == BLOCK && align_of::<Block>() == BLOCK && PIECE.is_multiple_of(BLOCK));

/// A file that nobody has read yet.
pub struct NewFile {
    file: File,
    /// A piece that is not full yet, and how full it is. Empty until something is written.
    piece: Vec<Block>,
    filled: usize,
    /// Blocks of a piece.
    blocks: usize,
    /// Whether what is written goes past the cache.
    is_direct: bool,
    bytes: u64,
    hash: Sha256,
}

impl NewFile {
    /// A new file.
    ///
    /// # Errors
    /// There is one, or the disk refuses.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Self::with_pieces(path, PIECE)
    }

    fn with_pieces(path: &Path, piece: usize) -> io::Result<Self> {
        let file = File::create_new(path)?;
        let (hash, blocks) = (Sha256::new(), piece / BLOCK);
        Ok(Self { file, piece: Vec::new(), filled: 0, blocks, is_direct: false, bytes: 0, hash })
    }

    /// Writes what is left, and waits until all is on the disk.
    ///
    /// # Errors
    /// The disk is full or refuses.
    pub(super) fn finish(mut self) -> io::Result<FileEntry> {
        // The end of a file is no whole block.
        self.set_direct(false);
        self.write_piece()?;
        self.file.sync_all()?;
        Ok(FileEntry { bytes: self.bytes, sha256: hex(&self.hash.finalize()) })
    }

    /// Writes and hashes what is in the piece.
    fn write_piece(&mut self) -> io::Result<()> {
        let Self { file, piece, filled, is_direct, hash, .. } = self;
        let bytes = &bytes_of(piece)[..*filled];
        let (written, ()) = rayon::join(|| write_all(file, bytes, is_direct), || hash.update(bytes));
        written?;
        self.bytes += bytes.len() as u64;
        self.filled = 0;
        Ok(())
    }

    fn set_direct(&mut self, direct: bool) {
        if self.is_direct != direct && sets_direct(&self.file, direct) {
            self.is_direct = direct;
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.resize(self.blocks, Block([0; BLOCK]));
        let room = &mut bytes_of_mut(&mut self.piece)[self.filled..];
        let taken = bytes.len().min(room.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        if taken == room.len() {
            self.set_direct(true);
            self.write_piece()?;
        }
        Ok(taken)
    }

    /// Nothing: only a whole piece goes past the cache.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bytes_of(blocks: &[Block]) -> &[u8] {
    // SAFETY: a block is bytes without anything between them.
    unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast(), size_of_val(blocks)) }
}

fn bytes_of_mut(blocks: &mut [Block]) -> &mut [u8] {
    // SAFETY: as above, and any byte will do.
    unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast(), size_of_val(blocks)) }
}

/// Writes all of the bytes; through the cache when the file system refuses them past it.
fn write_all(mut file: &File, mut bytes: &[u8], is_direct: &mut bool) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::InvalidInput && *is_direct && sets_direct(file, false) => {
                *is_direct = false;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes what is written from now on go past the system's cache, or through it: whether that is so. Past it only on file systems of disks in
/// this machine; one behind a network may want each such write to be safe before the next.
#[cfg(target_os = "linux")]
fn sets_direct(file: &File, direct: bool) -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstatfs};
    /// Ext4, xfs, btrfs, f2fs, and overlayfs, which containers have on one of them: `linux/magic.h`.
    const OF_DISKS: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x794c_7630];
    let is_of_disk = || fstatfs(file).is_ok_and(|system| OF_DISKS.contains(&(system.f_type as u64)));
    let set = || {
        let flags = fcntl_getfl(file)?;
        fcntl_setfl(file, if direct { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT })
    };
    (!direct || is_of_disk()) && set().is_ok()
}

#[cfg(not(target_os = "linux"))]
fn sets_direct(_file: &File, _direct: bool) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `bytes` in parts of these sizes, in turn, in pieces of two blocks.
    fn written(bytes: &[u8], parts: &[usize]) -> (Vec<u8>, FileEntry) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = NewFile::with_pieces(&path, 2 * BLOCK).unwrap();
        let (mut rest, mut sizes) = (bytes, parts.iter().cycle());
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            file.write_all(part).unwrap();
            rest = after;
        }
        let goes_past = sets_direct(&File::create_new(folder.path().join("other")).unwrap(), true);
        assert_eq!(file.is_direct, goes_past && bytes.len() >= 2 * BLOCK, "past the cache, where the file system can");
        let entry = file.finish().unwrap();
        (std::fs::read(path).unwrap(), entry)
    }

    #[test]
    fn what_is_written_is_there_and_hashed_in_any_parts_and_of_any_length() {
        for len in [0, 1, BLOCK, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 6 * BLOCK, 7 * BLOCK + 513] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            for parts in [&[len.max(1)][..], &[1000], &[1, 2 * BLOCK, 3]] {
                let (found, entry) = written(&bytes, parts);
                assert!(found == bytes, "{len} bytes in parts of {parts:?}");
                assert_eq!(entry, FileEntry { bytes: len as u64, sha256: hex(&Sha256::digest(&bytes)) });
            }
        }
    }

    #[test]
    fn what_the_file_system_refuses_past_the_cache_goes_through_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create_new(folder.path().join("file")).unwrap();
        let mut is_direct = sets_direct(&file, true);
        // No block: refused past the cache, where that is known at all.
        let bytes = [7; 100];
        write_all(&file, &bytes, &mut is_direct).unwrap();
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), bytes);
    }

    #[test]
    fn a_file_that_is_there_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "kept").unwrap();
        assert_eq!(NewFile::create(&path).err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    }
}
