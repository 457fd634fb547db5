//! How a finished folder takes its place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::new_folder::NewFolder;
use crate::error::{Context, Result};

/// Where what was in the place `name` waits while it is replaced, on systems that cannot exchange two folders in one step.
pub(super) fn old_name(name: &str) -> String {
    format!(".old-{name}")
}

/// Puts `new` into the place `place`, in one step where the system can. What was there is now at the returned path.
///
/// # Errors
/// The system refuses. `place` is then as it was, and `new` is gone.
pub(super) fn exchange(new: NewFolder, place: &Path) -> Result<Option<PathBuf>> {
    let failed = || format!("cannot rename a folder to `{}`", place.display());
    match renameat_with(CWD, new.path(), CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(Some(new.keep())),
        Err(Errno::NOENT) => {
            fs::rename(new.path(), place).context(failed)?;
            new.keep();
            Ok(None)
        }
        Err(Errno::NOSYS | Errno::INVAL | Errno::NOTSUP) => in_two_steps(new, place).context(failed).map(Some),
        Err(error) => Err(error).context(failed),
    }
}

/// Between the two steps nothing is in the place: who is killed there leaves it to the next claim of the folder.
fn in_two_steps(new: NewFolder, place: &Path) -> io::Result<PathBuf> {
    let name = place.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidFilename)?;
    let old = place.with_file_name(old_name(name));
    fs::rename(place, &old)?;
    if let Err(error) = fs::rename(new.path(), place) {
        fs::rename(&old, place)?;
        return Err(error);
    }
    new.keep();
    Ok(old)
}
