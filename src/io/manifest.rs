//! The file that says a folder was made by this program, and what is in it: every file's size and SHA-256.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Context, Result};
use crate::{bail, err};

/// A folder with this file is ours and may be replaced by us. It is also the file that a run locks ([`super::lock`]).
pub const MARKER: &str = "engine.json";

/// What [`MARKER`] holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub made_by: String,
    pub version: String,
    /// By name. Empty: nothing whole was written here yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileEntry>,
}

/// A file as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub bytes: u64,
    /// In hexadecimal digits.
    pub sha256: String,
}

impl Default for Manifest {
    fn default() -> Self {
        let [made_by, version] = [env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")].map(str::to_owned);
        Self { made_by, version, files: BTreeMap::new() }
    }
}

impl Manifest {
    /// The manifest of a folder.
    ///
    /// # Errors
    /// There is none, or it is not JSON of this form.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MARKER);
        let text = fs::read(&path).context(|| format!("cannot read `{}`", path.display()))?;
        serde_json::from_slice(&text).context(|| format!("`{}` is damaged", path.display()))
    }

    /// Checks that the folder holds every file as it was written.
    ///
    /// # Errors
    /// The manifest names no file, or a file is missing, shorter, longer or changed; the error names it.
    pub fn verify(&self, folder: &Path) -> Result<()> {
        if self.files.is_empty() {
            bail!("`{}` names no files: nothing whole was saved here", folder.join(MARKER).display());
        }
        for (name, expected) in &self.files {
            let path = folder.join(name);
            let found = entry_of(&path).context(|| format!("cannot read `{}`", path.display()))?;
            if found != *expected {
                return Err(err!("`{}` is not as it was written: it has changed or was cut short", path.display()));
            }
        }
        Ok(())
    }

    pub(super) fn text(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).context(|| "internal: the manifest is no JSON")?;
        Ok(text + "\n")
    }
}

/// Size and hash of a file that is there now. A link is none: what is whole does not depend on another folder.
fn entry_of(path: &Path) -> io::Result<FileEntry> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut file = File::open(path)?;
    let (mut bytes, mut hash) = (0, Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(FileEntry { bytes, sha256: hex(&hash.finalize()) }),
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// Two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
