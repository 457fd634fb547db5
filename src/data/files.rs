//! Which files a dataset is: a file, a folder's or hub repository's files of a split, a pattern.

use std::path::{Path, PathBuf};

use super::read::{FORMATS, extension};
use crate::error::{Context, Result};
use crate::hub::is_hub_id;
use crate::{bail, err};

/// Words that name a split.
const SPLITS: [&str; 6] = ["train", "test", "validation", "valid", "dev", "eval"];

/// The files that make up a dataset.
#[derive(Debug, PartialEq)]
pub struct Picked {
    pub files: Vec<String>,
    /// The files' names tell the split; otherwise the rows have to.
    pub named_after_split: bool,
    /// Files of the same place and format that are not taken.
    pub left_out: Vec<String>,
}

impl Picked {
    fn all(files: Vec<String>) -> Self {
        Self { files, named_after_split: false, left_out: Vec::new() }
    }
}

/// Which of a repository's or folder's `files` (paths with `/`) hold `split`, `train` if `None`. JSON lines are
/// preferred to JSON, parquet and CSV. Where no name tells any split, all files of one format are taken.
///
/// # Errors
/// No data files, no file for the split, or files of several configurations.
pub fn pick_files(files: &[String], split: Option<&str>) -> Result<Picked> {
    let hidden = |file: &str| file.split('/').any(|part| part.starts_with('.'));
    let describes = |file: &str| matches!(file, "dataset_infos.json" | "dataset_dict.json" | "state.json");
    let data: Vec<&String> = files.iter().filter(|f| !hidden(f) && !describes(f)).collect();
    let of_format = |format: &str| data.iter().filter(|f| extension(f) == format).map(|f| f.as_str()).collect();
    let formats: [Vec<&str>; 4] = FORMATS.map(of_format);
    let of_split = |candidates: &[&str], name: &str| -> Vec<String> {
        candidates.iter().filter(|file| names_split(file, name)).map(|file| file.to_string()).collect()
    };
    for candidates in formats.iter().filter(|candidates| !candidates.is_empty()) {
        let mut found = of_split(candidates, split.unwrap_or("train"));
        if found.is_empty() {
            continue;
        }
        found.sort();
        let folders: Vec<_> = found.iter().filter_map(|f| f.rsplit_once('/')).map(|(folder, _)| folder).collect();
        if folders.iter().any(|folder| *folder != folders[0]) {
            return Err(err!("several configurations match: `{}`", found.join("`, `"))
                .hint("download the dataset and give the files you want"));
        }
        let others = candidates.iter().filter(|file| !found.iter().any(|taken| taken == *file));
        let left_out = others.map(|file| file.to_string()).collect();
        return Ok(Picked { files: found, named_after_split: true, left_out });
    }
    let Some(candidates) = formats.iter().find(|candidates| !candidates.is_empty()) else {
        bail!("there is no .jsonl, .json, .csv or .parquet file");
    };
    if SPLITS.iter().any(|name| !of_split(candidates, name).is_empty()) {
        bail!("no file is named after the split `{}`: `{}`", split.unwrap_or("train"), candidates.join("`, `"));
    }
    let mut files: Vec<String> = candidates.iter().map(|file| file.to_string()).collect();
    files.sort();
    Ok(Picked::all(files))
}

/// Files that are named in one source, and the split that is asked of them: `data:test`.
pub fn name_and_split(source: &str) -> (&str, Option<&str>) {
    match source.rsplit_once(':') {
        Some((name, split)) if !Path::new(source).exists() && is_word(split) => (name, Some(split)),
        _ => (source, None),
    }
}

/// The files of `name`: a file, a folder, a pattern or a dataset of the hub.
///
/// # Errors
/// There is nothing of that name, or no file of the split; the hub's.
pub fn locate(name: &str, split: Option<&str>) -> Result<Picked> {
    let path = Path::new(name);
    if path.is_file() {
        return Ok(Picked::all(vec![name.to_string()]));
    }
    if path.is_dir() {
        let picked = pick_files(&list_files(path)?, split).context(|| format!("in the folder `{name}`"))?;
        return Ok(Picked {
            files: picked.files.iter().map(|file| path.join(file).display().to_string()).collect(),
            ..picked
        });
    }
    if name.contains(['*', '?', '[']) {
        return matching(name).map(Picked::all);
    }
    if is_hub_id(name) && !FORMATS.contains(&extension(name)) {
        return fetch(name, split);
    }
    Err(err!("there is no dataset `{name}`").hint(
        "a dataset is a .jsonl, .json, .csv or .parquet file, a folder of them, a pattern such as `data/*.jsonl`, or a \
         hub id `owner/name`; several with commas between them",
    ))
}

/// The files that a pattern names, sorted.
fn matching(pattern: &str) -> Result<Vec<String>> {
    let paths = glob::glob(pattern).context(|| format!("`{pattern}` is no pattern of file names"))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.context(|| format!("cannot look for `{pattern}`"))?;
        if path.is_file() {
            files.push(path.display().to_string());
        }
    }
    if files.is_empty() {
        return Err(
            err!("no file is named like `{pattern}`").hint("`*` stands for any letters of a name, `**` for folders")
        );
    }
    Ok(files)
}

/// `train-00000-of-00001.parquet`, `data/mobile_train.jsonl` and `train/0.parquet` are all named after `train`.
fn names_split(file: &str, split: &str) -> bool {
    let stem = file.strip_suffix(extension(file)).unwrap_or(file);
    stem.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word.eq_ignore_ascii_case(split))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

#[cfg(not(feature = "hub"))]
fn fetch(id: &str, _split: Option<&str>) -> Result<Picked> {
    Err(err!("the dataset `{id}` is not on disk, and this engine was built without the hub")
        .hint("build with `--features hub`, or download the dataset and give its files"))
}

#[cfg(feature = "hub")]
fn fetch(id: &str, split: Option<&str>) -> Result<Picked> {
    fetch_dataset(&crate::hub::Hub::from_env()?, id, split)
}

/// The files of `split` (`train` if `None`) of the dataset `id` in the cache of `hub`, downloaded where they are not there
/// yet. Where the hub cannot be asked, the files that are cached count as the dataset, unless their names
/// (`train-00000-of-00002.parquet`) say that some are missing.
///
/// # Errors
/// No network, no such dataset, a licence that has not been accepted (says where), no data files for the split.
#[cfg(feature = "hub")]
pub fn fetch_dataset(hub: &crate::hub::Hub, id: &str, split: Option<&str>) -> Result<Picked> {
    use crate::hub::{Listing, RepoKind};
    let repo = hub.repo(RepoKind::Dataset, id);
    let (picked, paths) = match repo.files()? {
        Listing::Files(snapshot) => {
            let picked = pick_files(&snapshot.names, split).context(|| format!("in the dataset `{id}`"))?;
            let paths = picked.files.iter().map(|name| snapshot.get(name)).collect::<Result<Vec<_>>>()?;
            snapshot.make_current()?;
            (picked, paths)
        }
        Listing::Unreachable(error) => {
            let cached = pick_files(&repo.cached_files(), split).ok();
            let picked = cached.filter(|picked| all_parts_present(&picked.files));
            let paths = |picked: &Picked| picked.files.iter().map(|name| repo.intact(name)).collect::<Option<Vec<_>>>();
            picked.and_then(|picked| paths(&picked).map(|paths| (picked, paths))).ok_or(error)?
        }
    };
    let files = paths.iter().map(|path| path.display().to_string()).collect();
    Ok(Picked { files, ..picked })
}

/// Whether there are as many files as those named `..-of-N` say.
#[cfg(feature = "hub")]
fn all_parts_present(files: &[String]) -> bool {
    let parts = |file: &str| {
        let (_, rest) = file.rsplit_once("-of-")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
    };
    files.iter().filter_map(|file| parts(file)).all(|count| files.len() >= count)
}

fn list_files(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = folder.join(&relative);
        for entry in std::fs::read_dir(&path).context(|| format!("cannot list `{}`", path.display()))? {
            let entry = entry.context(|| format!("cannot list `{}`", path.display()))?;
            let name = relative.join(entry.file_name());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(name);
            } else {
                files.push(name.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The first split that one of `files` is named after.
pub fn other_split(files: &[String]) -> Option<&'static str> {
    SPLITS.into_iter().find(|split| files.iter().any(|file| names_split(file, split)))
}
