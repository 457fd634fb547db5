//! What is pushed to a hub: files of this disk, or bytes, read piece by piece.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use crate::err;
use crate::error::{Context, Error, Result};

/// Bytes at the beginning of a file by which a hub tells text from other things.
const SAMPLE: usize = 512;

/// A file to push, as it was when it was looked at.
pub struct LocalFile {
    /// Its path in the repository.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// In hexadecimal digits.
    pub sha256: String,
    pub(super) sample: Vec<u8>,
    contents: Contents,
}

enum Contents {
    Disk(PathBuf),
    Memory(Vec<u8>),
}

impl LocalFile {
    /// The file at `path`, read once for its hash. A link is none, and no link is followed.
    ///
    /// # Errors
    /// It is no plain file, or the disk refuses.
    pub fn read(name: &str, path: &Path) -> Result<Self> {
        Self::new(name, Contents::Disk(path.into()))
    }

    /// A file that only exists here.
    ///
    /// # Errors
    /// None that can be seen now.
    pub fn of_bytes(name: &str, bytes: Vec<u8>) -> Result<Self> {
        Self::new(name, Contents::Memory(bytes))
    }

    fn new(name: &str, contents: Contents) -> Result<Self> {
        let mut file = Self { name: name.into(), size: 0, sha256: String::new(), sample: Vec::new(), contents };
        let (mut hash, mut size, mut sample) = (Sha256::new(), 0, Vec::new());
        let mut reader = file.contents.open()?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            let read = reader.read(&mut buffer).context(|| format!("cannot read `{}`", file.place()))?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            size += read as u64;
            sample.extend_from_slice(&buffer[..read.min(SAMPLE - sample.len())]);
        }
        drop(reader);
        file.sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        (file.size, file.sample) = (size, sample);
        Ok(file)
    }

    /// All of it, if it still is what it was.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let reader = self.contents.open()?;
        reader.take(self.size + 1).read_to_end(&mut bytes).context(|| format!("cannot read `{}`", self.place()))?;
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if hash == self.sha256 { Ok(bytes) } else { Err(self.changed()) }
    }

    /// `size` bytes of it from byte `from`, for sending.
    pub(super) fn part<'a>(&'a self, from: u64, size: u64, watch: &'a Watch<'a>) -> Result<Part<'a>> {
        let mut reader = self.contents.open()?;
        reader.seek(SeekFrom::Start(from)).context(|| format!("cannot read `{}`", self.place()))?;
        Ok(Part { file: self, reader, left: size, watch })
    }

    fn changed(&self) -> Error {
        err!("`{}` has changed while it was pushed", self.place()).hint("push again when nothing writes to the folder")
    }

    /// For people.
    fn place(&self) -> String {
        match &self.contents {
            Contents::Disk(path) => path.display().to_string(),
            Contents::Memory(_) => self.name.clone(),
        }
    }
}

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

impl Contents {
    fn open(&self) -> Result<Box<dyn ReadSeek + '_>> {
        let path = match self {
            Self::Memory(bytes) => return Ok(Box::new(io::Cursor::new(bytes))),
            Self::Disk(path) => path,
        };
        let failed = || format!("cannot read `{}`", path.display());
        // A pipe in its place must not be waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(path).context(failed)?;
        if !file.metadata().context(failed)?.is_file() {
            return Err(err!("{}: it is not a plain file", failed()));
        }
        Ok(Box::new(file))
    }
}

/// Who is told how far an upload is, and who may stop it.
pub(super) struct Watch<'a> {
    pub bar: RefCell<Box<dyn Progress>>,
    pub go_on: &'a dyn Fn() -> Result<()>,
    /// Why the last part could not be read to its end, if that was not the network's fault.
    pub broken: RefCell<Option<Error>>,
}

/// Bytes on their way.
pub(super) struct Part<'a> {
    file: &'a LocalFile,
    reader: Box<dyn ReadSeek + 'a>,
    left: u64,
    watch: &'a Watch<'a>,
}

impl Part<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<usize> {
        (self.watch.go_on)()?;
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.reader.read(&mut buffer[..most]).context(|| format!("cannot read `{}`", self.file.place()))?;
        if read == 0 && most > 0 {
            return Err(self.file.changed());
        }
        self.left -= read as u64;
        self.watch.bar.borrow_mut().update(read);
        Ok(read)
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next(buffer).map_err(|error| {
            let text = error.to_string();
            *self.watch.broken.borrow_mut() = Some(error);
            io::Error::other(text)
        })
    }
}
