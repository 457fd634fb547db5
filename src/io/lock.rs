//! One writer for a folder: a lock on its [`MARKER`], held by an open file. It ends with the process, however that ends, and
//! counts in every container that has the folder; process ids would do neither.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::manifest::{MARKER, Manifest};
use crate::error::{Context, Result};
use crate::{bail, err};

/// Somebody may replace the file between our opening and locking it; then it is tried again.
const ATTEMPTS: usize = 100;

/// Locks the folder, which gets a [`MARKER`] if it has none, until the file is dropped.
///
/// # Errors
/// Another process holds the lock, the marker is a link or not a plain file, or the disk refuses.
pub fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(MARKER);
    for _ in 0..ATTEMPTS {
        let mut file = open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(err!("another run is writing to `{}`", folder.display())
                    .hint("wait until it has ended, or choose another output folder"));
            }
            Err(error) => return Err(error).context(|| format!("cannot lock `{}`", path.display())),
        }
        let held = file.metadata().context(|| format!("cannot read `{}`", path.display()))?;
        let there = std::fs::symlink_metadata(&path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
            if held.len() == 0 {
                let text = Manifest::default().text()?;
                file.write_all(text.as_bytes()).context(|| format!("cannot write `{}`", path.display()))?;
            }
            return Ok(file);
        }
    }
    bail!("cannot lock `{}`: it is replaced again and again", path.display());
}

/// The marker, created if need be. A link is not followed.
fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let file = options.open(path).map_err(|error| match error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
        true => std::io::Error::other("it is a link"),
        false => error,
    });
    file.context(|| format!("cannot open `{}`", path.display()))
}
