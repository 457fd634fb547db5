//! A model folder becomes a model of the hub.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::card::card;
use crate::error::{Context, Result};
use crate::hub::{Hub, LocalFile, Push, Pushed, check_new_id};
use crate::io::publish::{CARD, published};
use crate::io::run_files::ABOUT;

/// Pushes the model in `folder` to `id` (`owner/name`) as one commit: what [`published`] lists, and a model card where the folder
/// has no README.md. The folder stays as it is. `go_on` gives an error once nothing more should be sent.
///
/// # Errors
/// As [`published`] and [`Hub::push`]; `run.json` is not JSON.
pub fn push_folder(
    hub: &Hub,
    folder: &Path,
    id: &str,
    private: bool,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Pushed> {
    hub.check_push(id)?;
    let mut files = published(folder)?;
    if files.iter().all(|file| file.name != CARD) {
        let run = if files.iter().any(|file| file.name == ABOUT) { about(&folder.join(ABOUT))? } else { Value::Null };
        files.push(LocalFile::of_bytes(CARD, card(&run, id)?.into_bytes())?);
    }
    let message = concat!("Upload model with engine ", env!("CARGO_PKG_VERSION"));
    hub.push(&Push { id, private, files: &files, message, go_on })
}

/// What is to be known before a long run whose model will be pushed.
///
/// # Errors
/// As [`Hub::check_push`]; the environment describes no hub.
pub fn check(id: &str) -> Result<()> {
    check_new_id(id)?;
    Hub::from_env()?.check_push(id)
}

fn about(path: &Path) -> Result<Value> {
    let text = fs::read(path).context(|| format!("cannot read `{}`", path.display()))?;
    let run = serde_json::from_slice(&text).context(|| format!("`{}` is damaged", path.display()));
    run.map_err(|error| error.hint("put it back as it was, or write a README.md: then it is not needed"))
}
