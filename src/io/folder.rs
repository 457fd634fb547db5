//! The output folder: whose it is, and how a model gets into it whole or not at all.
//!
//! A folder is ours when it holds [`MARKER`]. A model is written to `.tmp-<name>-<pid>` beside the target, every file
//! synced, and renamed into place; the folder it replaces waits as `.old-<name>-<pid>` until that is done. A process
//! killed at any moment leaves the old model or the new one; [`OutputFolder::claim`] tidies up after it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::safetensors::{SaveDtype, write_model};
use crate::error::{Context, Error, Result};
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::parameter_specs;
use crate::model::generation_config::GenerationConfig;
use crate::{bail, err};

/// The file that says a folder was made by this program and may be replaced by it.
pub const MARKER: &str = "engine.json";

/// Tokenizer files copied from the source where it has them; the first one is required.
const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"];
/// The other files of a model; a new model replaces them all, and leaves the rest of the folder alone.
const MODEL_FILES: [&str; 5] =
    ["model.safetensors", "config.json", "generation_config.json", "chat_template.jinja", MARKER];

/// A model to save.
pub struct SavedModel<'a> {
    /// The folder that the tokenizer files are copied from.
    pub source: &'a Path,
    /// Written as `config.json` with the dtype updated.
    pub config: &'a Gemma3Config,
    /// Written as `generation_config.json`.
    pub generation_config: &'a GenerationConfig,
    /// The weights, laid out by [`parameter_specs`].
    pub flat: &'a [f32],
    /// What the weights are rounded to.
    pub dtype: SaveDtype,
    /// Written as `chat_template.jinja`; `None` leaves it to what `tokenizer_config.json` may hold.
    pub chat_template: Option<&'a str>,
}

/// A folder that this run may write to.
#[derive(Debug)]
pub struct OutputFolder {
    /// Absolute, its parent resolved.
    path: PathBuf,
    parent: PathBuf,
    name: String,
}

impl OutputFolder {
    /// Whether `path` may become the output folder. Touches nothing.
    ///
    /// # Errors
    /// It is a file, a folder with files in it that are not ours, the current folder, or the root of a file system.
    pub fn check(path: &Path) -> Result<()> {
        let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
        let shown = path.display();
        if !metadata.is_dir() {
            return Err(err!("`{shown}` is a file, not a folder").hint("choose another output folder"));
        }
        let mut entries = fs::read_dir(path).context(|| format!("cannot read the folder `{shown}`"))?;
        if entries.next().is_some() && !path.join(MARKER).is_file() {
            return Err(err!("`{shown}` exists and was not made by this program (it has no `{MARKER}`)")
                .hint("choose another output folder, or empty this one"));
        }
        let full = path.canonicalize().context(|| format!("cannot resolve `{shown}`"))?;
        if std::env::current_dir().is_ok_and(|current| current.starts_with(&full)) || is_mount(&full) {
            return Err(err!("`{shown}` cannot be replaced: it is the current folder, above it, or a mount")
                .hint(format!("choose a folder inside it, for example `{}`", path.join("model").display())));
        }
        Ok(())
    }

    /// Makes `path` ours: creates it with its parents, marks it, and finishes what a killed run left beside it.
    ///
    /// # Errors
    /// As [`OutputFolder::check`], or the disk refuses.
    pub fn claim(path: &Path) -> Result<Self> {
        Self::check(path)?;
        let failed = || format!("cannot create the output folder `{}`", path.display());
        let folder = Self::locate(path).context(failed)?;
        folder.recover().context(failed)?;
        fs::create_dir_all(&folder.path).context(failed)?;
        write_text(&folder.path.join(MARKER), &marker()).context(failed)?;
        let trial = folder.beside("tmp");
        fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)).context(failed)?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error when the disk has no room for `bytes` more: better known before a long run than after it.
    ///
    /// # Errors
    /// Too little room. A disk that does not tell is taken to have enough.
    pub fn require_space(&self, bytes: u64) -> Result<()> {
        let Ok(disk) = rustix::fs::statvfs(&self.parent) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < bytes {
            let shown = self.path.display();
            return Err(err!("the disk of `{shown}` has {} MB free; the model needs {} MB", free >> 20, bytes >> 20)
                .hint("free some space, or choose an output folder on another disk"));
        }
        Ok(())
    }

    /// Replaces the model in the folder and keeps its other files. What transformers and vLLM load unchanged.
    ///
    /// # Errors
    /// The disk is full or refuses, the source has no tokenizer, or a weight is not finite. The folder is then as before.
    pub fn save_model(&self, model: &SavedModel) -> Result<()> {
        let new = self.beside("tmp");
        let old = self.beside("old");
        let swapped = fill(&new, model).and_then(|()| self.swap(&new, &old));
        swapped.map_err(|error| {
            let _ = fs::remove_dir_all(&new);
            with_disk_hint(error).context(format!("cannot save the model; `{}` is as it was", self.path.display()))
        })?;
        self.absorb(&old)
            .context(|| format!("the model is saved, but other files of the folder are still in `{}`", old.display()))
    }

    fn locate(path: &Path) -> Result<Self> {
        let full = match path.canonicalize() {
            Ok(full) => full,
            Err(_) => std::path::absolute(path).context(|| "cannot resolve the path")?,
        };
        let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else { bail!("the path has no name") };
        fs::create_dir_all(parent).context(|| format!("cannot create `{}`", parent.display()))?;
        let parent = parent.canonicalize().context(|| format!("cannot resolve `{}`", parent.display()))?;
        let Some(name) = name.to_str() else { bail!("the name is not UTF-8") };
        Ok(Self { path: parent.join(name), name: name.into(), parent })
    }

    fn beside(&self, kind: &str) -> PathBuf {
        self.parent.join(format!(".{kind}-{}-{}", self.name, std::process::id()))
    }

    /// Puts `new` in the folder's place; what was there moves to `old`.
    fn swap(&self, new: &Path, old: &Path) -> Result<()> {
        let failed = || format!("cannot rename a folder in `{}`", self.parent.display());
        fs::rename(&self.path, old).or_else(absent_is_fine).context(failed)?;
        if let Err(error) = fs::rename(new, &self.path) {
            let _ = fs::rename(old, &self.path);
            return Err(error).context(failed);
        }
        sync_folder(&self.parent).context(failed)
    }

    /// Moves what is not part of a model from `old` into the folder, and removes `old`.
    fn absorb(&self, old: &Path) -> Result<()> {
        let failed = || format!("cannot move the files of `{}`", old.display());
        let entries = match fs::read_dir(old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.context(failed)?,
        };
        for entry in entries {
            let name = entry.context(failed)?.file_name();
            let target = self.path.join(&name);
            let of_model = MODEL_FILES.iter().chain(&TOKENIZER_FILES).any(|file| name == *file);
            if !of_model && !target.exists() {
                fs::rename(old.join(&name), target).context(failed)?;
            }
        }
        sync_folder(&self.path).context(failed)?;
        fs::remove_dir_all(old).context(failed)
    }

    /// Finishes the swap of a run that was killed in it, and removes what it had not finished writing.
    fn recover(&self) -> Result<()> {
        let entries = fs::read_dir(&self.parent).context(|| format!("cannot read `{}`", self.parent.display()))?;
        let names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        for name in names {
            let path = self.parent.join(&name);
            if self.is_leftover(&name, "tmp") {
                let _ = fs::remove_dir_all(&path);
            } else if self.is_leftover(&name, "old") {
                match self.path.exists() {
                    true => self.absorb(&path)?,
                    false => {
                        fs::rename(&path, &self.path).context(|| format!("cannot restore `{}`", path.display()))?
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether `name` is `.kind-<our name>-<pid>` of a process that is gone.
    fn is_leftover(&self, name: &str, kind: &str) -> bool {
        let pid = name.strip_prefix(&format!(".{kind}-{}-", self.name)).and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists())
    }
}

/// Writes every file of the model to the new folder `folder`, synced.
fn fill(folder: &Path, model: &SavedModel) -> Result<()> {
    fs::create_dir(folder).context(|| format!("cannot create `{}`", folder.display()))?;
    let text = |name: &str, text: &str| write_text(&folder.join(name), text);
    text(MARKER, &marker())?;
    let specs = parameter_specs(model.config);
    write_file(&folder.join("model.safetensors"), |file| write_model(file, &specs, model.flat, model.dtype))?;
    text("config.json", &pretty(&model.config.to_value(model.dtype.config_name())))?;
    text("generation_config.json", &pretty(&model.generation_config.to_value()))?;
    if let Some(template) = model.chat_template {
        text("chat_template.jinja", template)?;
    }
    for name in TOKENIZER_FILES {
        let source = model.source.join(name);
        if name == TOKENIZER_FILES[0] || source.exists() {
            copy_file(&source, &folder.join(name))?;
        }
    }
    sync_folder(folder).context(|| format!("cannot sync `{}`", folder.display()))
}

/// Creates `path`, writes it and syncs it.
fn write_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let failed = || format!("cannot write `{}`", path.display());
    let mut file = File::create(path).context(failed)?;
    write(&mut file).context(failed)?;
    file.sync_all().context(failed)
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_file(path, |file| file.write_all(text.as_bytes()).context(|| "the disk refuses"))
}

/// A copy with the permissions of a new file: what comes from a cache is often read-only.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).context(|| format!("cannot read `{}`", from.display()))?;
    write_file(to, |file| io::copy(&mut source, file).map(drop).context(|| format!("cannot copy `{}`", from.display())))
}

fn marker() -> String {
    pretty(&json!({"made_by": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")}))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Says what to do when some cause of `error` is a full disk.
fn with_disk_hint(error: Error) -> Error {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(current) = cause {
        let kind = current.downcast_ref::<io::Error>().map(io::Error::kind);
        if let Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge) = kind {
            return error.hint("free some space, or choose an output folder on another disk");
        }
        cause = current.source();
    }
    error
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether the folder is where another file system begins: it can then not be renamed.
#[cfg(unix)]
fn is_mount(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    path.parent().is_none_or(|parent| device(parent) != device(path))
}

#[cfg(not(unix))]
fn is_mount(path: &Path) -> bool {
    path.parent().is_none()
}
