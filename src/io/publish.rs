//! Which files of a folder are for others: the model that its manifest names, what a run writes beside it, and its README.md.

use std::fs;
use std::path::Path;

use super::manifest::{MARKER, Manifest};
use super::model_files::{ALL_WEIGHTS, WEIGHTS};
use super::run_files::RUN_FILES;
use crate::err;
use crate::error::{Error, Result};
use crate::hub::LocalFile;

/// The model card.
pub const CARD: &str = "README.md";

/// The files of the model in `folder`, of its run, and its README.md, if it has one. Nothing else: no checkpoint, no manifest, no
/// unfinished file, no folder, no link.
///
/// # Errors
/// The folder holds no model that this program has saved, a file of the model is missing or changed, or the disk refuses.
pub fn published(folder: &Path) -> Result<Vec<LocalFile>> {
    let shown = folder.display();
    let hint = "give a folder that `engine train`, `engine import` or `engine init` has made";
    let manifest = Manifest::read(folder).map_err(|e| e.context(format!("`{shown}` is no model folder")).hint(hint))?;
    if !ALL_WEIGHTS.iter().any(|weights| manifest.files.contains_key(*weights)) {
        return Err(err!("`{shown}` holds no model: its `{MARKER}` names no `{WEIGHTS}`").hint(hint));
    }
    let mut files = Vec::new();
    for (name, expected) in manifest.files.iter().filter(|(name, _)| !beside(name)) {
        if name.starts_with('.') || name == MARKER || !is_plain(name) {
            return Err(err!("`{shown}/{MARKER}` is damaged: it names `{}`", name.escape_debug()).hint(hint));
        }
        let file = LocalFile::read(name, &folder.join(name))?;
        if (file.size, &file.sha256) != (expected.bytes, &expected.sha256) {
            return Err(changed(folder, name));
        }
        files.push(file);
    }
    // A run goes on writing these after its model is saved: the manifest knows what they were.
    for name in RUN_FILES.into_iter().chain([CARD]) {
        let path = folder.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
            files.push(LocalFile::read(name, &path)?);
        }
    }
    Ok(files)
}

fn beside(name: &str) -> bool {
    name == CARD || RUN_FILES.contains(&name)
}

/// The name of a file in the folder itself, for every system.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\']) && !name.chars().any(char::is_control)
}

fn changed(folder: &Path, name: &str) -> Error {
    err!("`{}` is not as it was written: it has changed or was cut short", folder.join(name).display())
        .hint("save the model again, or put the file back as it was")
}
