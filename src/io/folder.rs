//! The output folder: whose it is, who writes to it, and how a model gets into it whole or not at all.
//!
//! A folder is ours when it holds [`MARKER`], and a run's while the run holds the [lock](super::lock) on that file. What is
//! written to it is made as a [`NewFolder`] first. A checkpoint is then renamed to its place inside; a model changes places
//! with the whole folder in one step, and takes the files that are not of a model along afterwards. A process killed at any
//! moment leaves the old model or the new one; [`OutputFolder::claim`] tidies up after it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::atomic::is_unfinished_file;
use super::lock::lock;
use super::manifest::{MARKER, Manifest};
use super::model_files::{ALL_WEIGHTS, SavedModel, is_of_a_model};
use super::new_folder::{NewFolder, PREFIX, is_unfinished, removal_name, remove_folder, sync_folder};
use super::run_files::RUN_FILES;
use super::swap::{exchange, old_name};
use crate::error::{Context, Error, Result};
use crate::{bail, err};

/// While an older model is in the folder, a run that has not ended keeps its files under these names.
const UNFINISHED: &str = "unfinished-";
/// A checkpoint is in the folder of this name and its step.
const CHECKPOINT: &str = "checkpoint-";

/// What to do when the folder holds a model or checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse the folder.
    Refuse,
    /// Start anew: checkpoints go at once, the model stays until a new one is whole.
    Overwrite,
    /// Go on: everything stays until a new model is whole.
    Resume,
}

/// Something that is in its place.
#[derive(Debug)]
pub struct Saved {
    pub place: PathBuf,
    /// What is not as it should be all the same.
    pub warning: Option<Error>,
}

impl Saved {
    /// `after`: what became of the tidying up.
    fn new(place: PathBuf, after: Result<()>) -> Self {
        let what = format!("`{}` is whole and in its place, but what follows failed", place.display());
        Self { place, warning: after.err().map(|error| with_disk_hint(error).context(what)) }
    }
}

/// A folder that this run, and no other, may write to.
#[derive(Debug)]
pub struct OutputFolder {
    /// Absolute, its parent resolved.
    path: PathBuf,
    parent: PathBuf,
    name: String,
    /// What holds the locks, of this folder's marker and of those that replace it.
    locks: Vec<File>,
}

impl OutputFolder {
    /// Whether `path` may become the output folder. Touches nothing.
    ///
    /// # Errors
    /// It is a file, a folder with files in it that are not ours, one with an earlier run in it while `existing` does not
    /// allow that, the current folder, or the root of a file system.
    pub fn check(path: &Path, existing: Existing) -> Result<()> {
        let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
        let shown = path.display();
        if !metadata.is_dir() {
            return Err(err!("`{shown}` is a file, not a folder").hint("choose another output folder"));
        }
        let mut entries = fs::read_dir(path).context(|| format!("cannot read the folder `{shown}`"))?;
        if entries.next().is_some() && !is_plain_file(&path.join(MARKER)) {
            return Err(err!("`{shown}` exists and was not made by this program (it has no `{MARKER}`)")
                .hint("choose another output folder, or empty this one"));
        }
        refuse_existing(path, existing)?;
        let full = path.canonicalize().context(|| format!("cannot resolve `{shown}`"))?;
        if std::env::current_dir().is_ok_and(|current| current.starts_with(&full)) || is_mount(&full) {
            return Err(err!("`{shown}` cannot be replaced: it is the current folder, above it, or a mount")
                .hint(format!("choose a folder inside it, for example `{}`", path.join("model").display())));
        }
        Ok(())
    }

    /// Makes `path` ours: creates it with its parents, locks it, and finishes what a killed run left.
    ///
    /// # Errors
    /// As [`OutputFolder::check`], another run holds the lock, or the disk refuses.
    pub fn claim(path: &Path, existing: Existing) -> Result<Self> {
        Self::check(path, existing)?;
        let failed = || format!("cannot use the output folder `{}`", path.display());
        let mut folder = Self::locate(path).context(failed)?;
        fs::create_dir_all(&folder.path).context(failed)?;
        folder.locks.push(lock(&folder.path).context(failed)?);
        folder.recover().context(failed)?;
        refuse_existing(path, existing)?;
        if existing == Existing::Overwrite {
            folder.remove_checkpoints().context(failed)?;
        }
        // Whether a folder can be made beside it is better known now than after a long run.
        drop(folder.begin_model().context(failed)?);
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a run that has not ended keeps its file `name`: never where the file of the run that made the folder's model is.
    pub fn live(&self, name: &str) -> PathBuf {
        let prefix = if holds_model(&self.path) { UNFINISHED } else { "" };
        self.path.join(format!("{prefix}{name}"))
    }

    /// Removes what an earlier run that has not ended wrote: it must not lie beside the model of the one that now begins.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn begin_run(&self) -> Result<()> {
        let unfinished = RUN_FILES.map(|name| self.path.join(format!("{UNFINISHED}{name}")));
        for path in unfinished.into_iter().chain(RUN_FILES.map(|name| self.live(name))) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).context(|| format!("cannot remove `{}`", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// An error when the disk of `path` has no room for `bytes` more: better known before a long run than after it.
    ///
    /// # Errors
    /// Too little room. A disk that does not tell is taken to have enough.
    pub fn require_space(path: &Path, bytes: u64) -> Result<()> {
        let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let Some(disk) = full.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok()) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < bytes {
            let shown = path.display();
            return Err(err!("the disk of `{shown}` has {} MB free; the model needs {} MB", free >> 20, bytes >> 20)
                .hint("free some space, or choose an output folder on another disk"));
        }
        Ok(())
    }

    /// The files of the run so far: the names that they will have beside its model, and where they are.
    pub fn run_files(&self) -> Vec<(&'static str, PathBuf)> {
        RUN_FILES.into_iter().map(|name| (name, self.live(name))).collect()
    }

    /// Replaces the model in the folder, and the files of its run by `files`, those of this run that exist. Other files stay.
    ///
    /// # Errors
    /// The disk is full or refuses, or a weight is not finite. The folder is then as it was.
    pub fn save_model(&mut self, model: &SavedModel, files: &[(&str, PathBuf)]) -> Result<Saved> {
        let made = self.begin_model().and_then(|mut new| {
            model.write_to(&mut new)?;
            add_files(&mut new, files)?;
            new.seal()?;
            self.locks.push(lock(new.path())?);
            Ok(new)
        });
        let as_it_was = |error: Error| {
            with_disk_hint(error).context(format!("cannot save the model; `{}` is as it was", self.path.display()))
        };
        let leftover = exchange(made.map_err(as_it_was)?, &self.path).map_err(as_it_was)?;
        let after = sync_folder(&self.parent).context(|| format!("cannot sync `{}`", self.parent.display()));
        let after = after.and_then(|()| leftover.map_or(Ok(()), |old| self.absorb(&old)));
        Ok(Saved::new(self.path.clone(), after))
    }

    /// Puts a folder into this one, in the place of one of the same name: `fill` writes its files.
    ///
    /// # Errors
    /// The disk is full or refuses, or `fill` fails. What had the name is then as it was.
    pub fn save_inside(&self, name: &str, fill: impl FnOnce(&mut NewFolder) -> Result<()>) -> Result<Saved> {
        let place = self.path.join(name);
        let failed = |error: Error| with_disk_hint(error).context(format!("cannot write `{}`", place.display()));
        let mut new = NewFolder::create(&self.path, name).map_err(failed)?;
        fill(&mut new).and_then(|()| new.seal()).map_err(failed)?;
        let old = exchange(new, &place).map_err(failed)?;
        let synced = sync_folder(&self.path).context(|| format!("cannot sync `{}`", self.path.display()));
        let removed =
            old.map_or(Ok(()), |old| fs::remove_dir_all(&old).context(|| format!("cannot remove `{}`", old.display())));
        Ok(Saved::new(place, synced.and(removed)))
    }

    /// The checkpoints in the folder by step, the newest last.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        checkpoints(&self.path)
    }

    /// Removes a checkpoint in one step: it is never there in part.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove_checkpoint(&self, step: u64) -> Result<()> {
        let name = Self::checkpoint_name(step);
        let path = self.path.join(&name);
        let going = self.path.join(removal_name(&name));
        let removed = fs::rename(&path, &going).and_then(|()| fs::remove_dir_all(&going));
        removed.context(|| format!("cannot remove `{}`", path.display()))
    }

    /// The place of a checkpoint, as [`save_inside`](Self::save_inside) takes it.
    pub fn checkpoint_name(step: u64) -> String {
        format!("{CHECKPOINT}{step}")
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
        Ok(Self { path: parent.join(name), name: name.into(), parent, locks: Vec::new() })
    }

    fn begin_model(&self) -> Result<NewFolder> {
        NewFolder::create(&self.parent, &self.name)
    }

    /// Moves what is of no model and no run from `old` into the folder, and removes `old`.
    fn absorb(&self, old: &Path) -> Result<()> {
        self.move_all(old, |name| !is_replaced(name))?;
        sync_folder(&self.path).context(|| format!("cannot sync `{}`", self.path.display()))?;
        remove_folder(old).context(|| format!("cannot remove `{}`", old.display()))
    }

    /// Moves the entries of `from` that are `wanted` and not here yet. A link is moved, not followed.
    fn move_all(&self, from: &Path, wanted: impl Fn(&OsStr) -> bool) -> Result<()> {
        let failed = || format!("cannot move the files of `{}`", from.display());
        for entry in fs::read_dir(from).context(failed)? {
            let name = entry.context(failed)?.file_name();
            let target = self.path.join(&name);
            if wanted(&name) && fs::symlink_metadata(&target).is_err() {
                fs::rename(from.join(&name), target).context(failed)?;
            }
        }
        Ok(())
    }

    /// Finishes the swap of a run that was killed in it, and removes what it had not finished writing.
    fn recover(&mut self) -> Result<()> {
        remove_unfinished_files(&self.path)?;
        for (name, path) in folders(&self.path)? {
            match name.strip_prefix(&old_name("")) {
                // Waited while a checkpoint was replaced.
                Some(place) if !self.path.join(place).exists() => fs::rename(&path, self.path.join(place)),
                Some(_) => fs::remove_dir_all(&path),
                None if is_unfinished_inside(&name) => fs::remove_dir_all(&path),
                None => Ok(()),
            }
            .context(|| format!("cannot tidy up `{}`", path.display()))?;
        }
        let (own, old) = (self.name.clone(), old_name(&self.name));
        let beside = folders(&self.parent)?;
        // What was to be the new model comes first, then the one it was to replace.
        for (_, path) in beside.iter().filter(|(name, _)| is_unfinished(name, &own)) {
            let whole = || Manifest::read(path).is_ok_and(|manifest| manifest.verify(path).is_ok());
            self.recover_from(path, whole)?;
        }
        for (_, path) in beside.iter().filter(|(name, _)| *name == old) {
            self.recover_from(path, || true)?;
        }
        Ok(())
    }

    /// Takes what is needed of a folder that a killed run left, and removes it. `whole`: whether a model in it is.
    fn recover_from(&mut self, path: &Path, whole: impl FnOnce() -> bool) -> Result<()> {
        if !is_plain_file(&path.join(MARKER)) {
            // Killed before its first file. Somebody else's folder is not empty, and stays.
            let _ = fs::remove_dir(path);
            return Ok(());
        }
        if !holds_model(&self.path) && holds_model(path) && whole() {
            self.restore(path)?;
        }
        self.absorb(path)
    }

    /// Moves a whole model into this folder, which has none: the weights and the manifest last.
    fn restore(&mut self, from: &Path) -> Result<()> {
        let last = |name: &OsStr| name == MARKER || ALL_WEIGHTS.iter().any(|weights| name == *weights);
        self.move_all(from, |name| !last(name))?;
        self.locks.push(lock(from)?);
        let weights = ALL_WEIGHTS.into_iter().filter(|name| from.join(name).exists());
        for name in weights.chain([MARKER]) {
            let failed = || format!("cannot restore `{}`", self.path.join(name).display());
            fs::rename(from.join(name), self.path.join(name)).context(failed)?;
        }
        sync_folder(&self.path).context(|| format!("cannot sync `{}`", self.path.display()))
    }

    fn remove_checkpoints(&self) -> Result<()> {
        self.checkpoints()?.into_iter().try_for_each(|(step, _)| self.remove_checkpoint(step))
    }
}

fn add_files(new: &mut NewFolder, files: &[(&str, PathBuf)]) -> Result<()> {
    for (name, path) in files.iter().filter(|(_, path)| is_plain_file(path)) {
        new.put(name, &fs::read(path).context(|| format!("cannot read `{}`", path.display()))?)?;
    }
    Ok(())
}

/// The checkpoints in `folder` by step, the newest last.
///
/// # Errors
/// The folder cannot be read.
pub fn checkpoints(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step = |name: &str| name.strip_prefix(CHECKPOINT)?.parse().ok();
    let mut found: Vec<_> =
        folders(folder)?.into_iter().filter_map(|(name, path)| Some((step(&name)?, path))).collect();
    found.sort();
    Ok(found)
}

/// Whether a model's weights are in the folder, or an adapter's.
pub fn holds_model(folder: &Path) -> bool {
    ALL_WEIGHTS.iter().any(|weights| folder.join(weights).exists())
}

fn refuse_existing(path: &Path, existing: Existing) -> Result<()> {
    let shown = path.display();
    let what = match existing {
        Existing::Overwrite | Existing::Resume => return Ok(()),
        Existing::Refuse if holds_model(path) => "a model",
        Existing::Refuse if path.is_dir() && !checkpoints(path)?.is_empty() => "the checkpoints of a run",
        Existing::Refuse => return Ok(()),
    };
    Err(err!("`{shown}` holds {what} already").hint(
        "choose another output folder; or `--overwrite-output-dir` to start anew in it, \
         `--resume-from-checkpoint` to go on with an unfinished run",
    ))
}

/// The folders in `folder` by name. Links are none, wherever they lead.
fn folders(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = || format!("cannot read `{}`", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).context(failed)? {
        let entry = entry.context(failed)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes the files that a killed run was about to rename to their places.
fn remove_unfinished_files(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).context(|| format!("cannot read `{}`", folder.display()))?.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(is_unfinished_file) && is_plain_file(&entry.path()) {
            fs::remove_file(entry.path()).context(|| format!("cannot remove `{}`", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Whether a new model replaces what has this name in its folder.
fn is_replaced(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    is_of_a_model(name) || RUN_FILES.contains(&name.strip_prefix(UNFINISHED).unwrap_or(name))
}

/// Whether `name` is that of an unfinished folder for any place.
fn is_unfinished_inside(name: &str) -> bool {
    let place = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('-'));
    place.is_some_and(|(place, _)| is_unfinished(name, place))
}

fn is_plain_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

/// Says what to do when some cause of `error` is that there is no room.
pub(super) fn with_disk_hint(error: Error) -> Error {
    match is_disk_full(&error) || has_cause(&error, io::ErrorKind::FileTooLarge) {
        true => error.hint("free some space, or choose an output folder on another disk"),
        false => error,
    }
}

/// Whether some cause of `error` is a full disk or quota, which may have room again later.
pub fn is_disk_full(error: &Error) -> bool {
    has_cause(error, io::ErrorKind::StorageFull) || has_cause(error, io::ErrorKind::QuotaExceeded)
}

fn has_cause(error: &Error, kind: io::ErrorKind) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = cause {
        if current.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == kind) {
            return true;
        }
        cause = current.source();
    }
    false
}

/// Whether the folder is where another file system begins: it can then not be renamed.
fn is_mount(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    path.parent().is_none_or(|parent| device(parent) != device(path))
}
