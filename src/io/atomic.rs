//! One file written whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::bail;
use crate::error::{Context, Result};

/// Writes `bytes` to a temporary file beside `path`, then renames it over `path`: a reader sees the old file or the new one,
/// and a failure leaves the old one as it was. Devices and pipes (`/dev/stdout`) are written to directly.
///
/// # Errors
/// `path` is a folder, is in none, or the disk refuses; the error names it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let place = || format!("cannot write `{}`", path.display());
    // A link stays a link: what it points to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs::metadata(&target) {
        Ok(found) if found.is_dir() => bail!("cannot write `{}`: it is a folder", path.display()),
        Ok(found) if !found.is_file() => return fs::write(&target, bytes).context(place),
        _ => {}
    }
    if target.file_name().is_none() {
        bail!("cannot write `{}`: it names no file", path.display());
    }
    replace(&target, bytes).context(place)
}

/// [`write_atomically`] for a file of a folder that strangers may have touched: a link of the name goes, and what it leads to
/// stays as it is.
///
/// # Errors
/// `path` is a folder, is in none, or the disk refuses; the error names it.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes).context(|| format!("cannot write `{}`", path.display()))
}

/// A file that is too large to be in memory: `write` writes it to a temporary one beside `path`, which is then put there. A file
/// that is there already is replaced, or not (`may_replace`); a link is, and what it leads to stays.
///
/// # Errors
/// `write` fails, there is a file that may not be replaced, `path` is a folder or in none, or the disk refuses. Nothing is left then.
pub(super) fn write_whole(path: &Path, may_replace: bool, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let failed = || format!("cannot write `{}`", path.display());
    let mut file = temporary(folder_of(path)).context(failed)?;
    write(file.as_file_mut()).context(failed)?;
    file.as_file().sync_all().context(failed)?;
    let put = if may_replace { file.persist(path) } else { file.persist_noclobber(path) };
    put.map(drop).map_err(|error| error.error).context(failed)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = temporary(folder_of(path))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all())?;
    file.persist(path).map_err(|failed| failed.error)?;
    Ok(())
}

/// What the names of files that have no place yet begin with; random letters follow.
const PREFIX: &str = ".tmp-";
const LETTERS: usize = 6;

/// Whether a file of this name was to be renamed to its place, by a process that was killed.
pub(super) fn is_unfinished_file(name: &str) -> bool {
    let letters = name.strip_prefix(PREFIX);
    letters.is_some_and(|letters| letters.len() == LETTERS && letters.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// A file in `folder` that goes when it is dropped, with the permissions of any new file.
fn temporary(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).rand_bytes(LETTERS);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}
