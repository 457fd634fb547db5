//! A file that grows while a run goes on.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::err;
use crate::error::{Context, Result};

/// A file that is appended to.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Starts the file at `path` anew, with what the run has written before. What had the name goes; a link does, not what it leads
    /// to. Devices and pipes are written to.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn create(path: &Path, before: &[u8]) -> Result<Self> {
        let failed = || format!("cannot create `{}`", path.display());
        let found = fs::symlink_metadata(path).map(|found| found.file_type());
        if found.as_ref().is_ok_and(|kind| kind.is_file() || kind.is_symlink()) {
            fs::remove_file(path).context(failed)?;
        }
        let device = found.is_ok_and(|kind| !kind.is_file() && !kind.is_symlink() && !kind.is_dir());
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create_new(!device).open(path).context(failed)?;
        file.write_all(before).context(failed)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Goes on with the file at `path`. A link is not followed.
    ///
    /// # Errors
    /// There is none, or the disk refuses.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = || format!("cannot open `{}`", path.display());
        if !fs::symlink_metadata(path).context(failed)?.is_file() {
            return Err(err!("`{}` is not a plain file", path.display()));
        }
        let file = OpenOptions::new().append(true).open(path).context(failed)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends: all of it is in the file when this returns, if not yet on the disk.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context(|| format!("cannot write to `{}`", self.path.display()))
    }
}
