//! A folder in the making: hidden beside its place, every file hashed and synced, its manifest last. It is put into its place
//! by one rename, or goes when it is dropped.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::manifest::{MARKER, Manifest};
use super::new_file::NewFile;
use crate::error::{Context, Result};

/// What the names of unfinished folders begin with; the name of their place and six random letters follow.
pub(super) const PREFIX: &str = ".tmp-";
/// The random letters.
const LETTERS: usize = 6;
/// In place of random letters.
const REMOVAL: &str = "remove";

/// A folder that is not in its place yet.
#[derive(Debug)]
pub struct NewFolder {
    path: PathBuf,
    manifest: Manifest,
    /// It is nobody's rubbish any more.
    kept: bool,
}

impl NewFolder {
    /// An empty one in `parent`, for the place `name` there.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn create(parent: &Path, name: &str) -> Result<Self> {
        let failed = || format!("cannot create a folder in `{}`", parent.display());
        let mut builder = tempfile::Builder::new();
        let prefix = format!("{PREFIX}{name}-");
        builder.prefix(&prefix).rand_bytes(LETTERS);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let path = builder.tempdir_in(parent).context(failed)?.keep();
        let new = Self { path, manifest: Manifest::default(), kept: false };
        new.write_marker()?;
        Ok(new)
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a file, writes it and syncs it.
    ///
    /// # Errors
    /// The disk is full or refuses, or `write` fails.
    pub fn write(&mut self, name: &str, write: impl FnOnce(&mut NewFile) -> Result<()>) -> Result<()> {
        let path = self.path.join(name);
        let failed = || format!("cannot write `{}`", path.display());
        let mut file = NewFile::create(&path).context(failed)?;
        write(&mut file).context(failed)?;
        self.manifest.files.insert(name.to_owned(), file.finish().context(failed)?);
        Ok(())
    }

    /// [`write`](Self::write) of these bytes.
    ///
    /// # Errors
    /// The disk is full or refuses.
    pub fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, |file| file.write_all(bytes).context(|| "the disk refuses"))
    }

    /// Says that it is whole: the manifest with every file so far.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn seal(&self) -> Result<()> {
        self.write_marker()?;
        sync_folder(&self.path).context(|| format!("cannot sync `{}`", self.path.display()))
    }

    /// It is in its place now, or what is at its path is another's.
    pub(super) fn keep(mut self) -> PathBuf {
        self.kept = true;
        std::mem::take(&mut self.path)
    }

    fn write_marker(&self) -> Result<()> {
        let path = self.path.join(MARKER);
        let failed = || format!("cannot write `{}`", path.display());
        let mut file = File::create(&path).context(failed)?;
        file.write_all(self.manifest.text()?.as_bytes()).context(failed)?;
        file.sync_all().context(failed)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.kept {
            let _ = remove_folder(&self.path);
        }
    }
}

/// Whether `name` is that of an unfinished folder for the place `of`.
pub(super) fn is_unfinished(name: &str, of: &str) -> bool {
    let letters =
        name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(of)).and_then(|rest| rest.strip_prefix('-'));
    letters.is_some_and(|letters| letters.len() == LETTERS && letters.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// What the folder `name` is called while it is removed: like one that is not finished.
pub(super) fn removal_name(name: &str) -> String {
    format!("{PREFIX}{name}-{REMOVAL}")
}

/// Removes a folder of ours, its marker last: killed on the way, it is still known as ours.
pub(super) fn remove_folder(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false if entry.file_name() == MARKER => {}
            false => fs::remove_file(entry.path())?,
        }
    }
    let marker = path.join(MARKER);
    if fs::symlink_metadata(&marker).is_ok() {
        fs::remove_file(marker)?;
    }
    fs::remove_dir(path)
}

/// Makes what was renamed in a folder last.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}
