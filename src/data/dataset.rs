//! Datasets from disk or the hub: which files to read, JSON lines, JSON lists, parquet, and splitting off a test set.

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use serde_json::Value;

use super::rows::{Origin, Row, RowOptions};
use crate::device::room;
use crate::error::{Context, Error, Kind, Result};
use crate::hub::is_hub_id;
use crate::{bail, err};

/// Rows of `source`: a `.jsonl`, `.json` or `.parquet` file, a folder of them, or a dataset of the Hugging Face hub
/// (`owner/name`). `source:split` takes the files named after the split, or the rows whose `metadata` names it; without
/// it a file gives all its rows, a folder or hub dataset its `train` files where any are named so.
///
/// # Errors
/// Nothing found, no rows, or a bad row, named by `file:line`: of kind [`Kind::Data`], or [`Kind::Gated`].
pub fn load_rows(source: &str, options: &RowOptions) -> Result<Vec<Row>> {
    rows_of(source, options).map_err(|error| error.or_kind(Kind::Data))
}

fn rows_of(source: &str, options: &RowOptions) -> Result<Vec<Row>> {
    let (name, split) = match source.rsplit_once(':') {
        Some((name, split)) if !Path::new(source).exists() && is_word(split) => (name, Some(split)),
        _ => (source, None),
    };
    let path = Path::new(name);
    let picked = if path.is_file() {
        Picked { files: vec![name.to_string()], named_after_split: false }
    } else if path.is_dir() {
        let picked = pick_files(&list_files(path)?, split).context(|| format!("in the folder `{name}`"))?;
        Picked { files: picked.files.iter().map(|file| path.join(file).display().to_string()).collect(), ..picked }
    } else if is_hub_id(name) && !is_data_file(name) {
        fetch(name, split)?
    } else {
        return Err(err!("there is no dataset `{name}`")
            .hint("a dataset is a .jsonl, .json or .parquet file, a folder of them, or a hub id `owner/name`"));
    };
    let mut rows = Vec::new();
    for file in &picked.files {
        rows.extend(read_file(file, options)?);
    }
    if let Some(split) = split.filter(|_| !picked.named_after_split) {
        rows.retain(|row| row.split.as_deref() == Some(split));
        if rows.is_empty() {
            bail!("`{name}` has no file named after the split `{split}` and no row whose `metadata` is `{split}`");
        }
    }
    Ok(rows)
}

/// The files that make up a dataset.
#[derive(Debug, PartialEq)]
pub struct Picked {
    pub files: Vec<String>,
    /// The files' names tell the split; otherwise the rows have to.
    pub named_after_split: bool,
}

/// Which of a repository's or folder's `files` (paths with `/`) hold `split`, `train` if `None`. JSON lines are
/// preferred to JSON and parquet. Where no name tells any split, all files of one format are taken.
///
/// # Errors
/// No data files, no file for the split, or files of several configurations.
pub fn pick_files(files: &[String], split: Option<&str>) -> Result<Picked> {
    let hidden = |file: &str| file.split('/').any(|part| part.starts_with('.'));
    let describes = |file: &str| matches!(file, "dataset_infos.json" | "dataset_dict.json" | "state.json");
    let data: Vec<&String> = files.iter().filter(|f| !hidden(f) && !describes(f)).collect();
    let of_format = |format: &str| data.iter().filter(|f| extension(f) == format).map(|f| f.as_str()).collect();
    let formats: [Vec<&str>; 3] = ["jsonl", "json", "parquet"].map(of_format);
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
        return Ok(Picked { files: found, named_after_split: true });
    }
    let Some(candidates) = formats.iter().find(|candidates| !candidates.is_empty()) else {
        bail!("there is no .jsonl, .json or .parquet file");
    };
    let splits = ["train", "test", "validation", "valid", "dev", "eval"];
    if splits.iter().any(|name| !of_split(candidates, name).is_empty()) {
        bail!("no file is named after the split `{}`: `{}`", split.unwrap_or("train"), candidates.join("`, `"));
    }
    let mut files: Vec<String> = candidates.iter().map(|file| file.to_string()).collect();
    files.sort();
    Ok(Picked { files, named_after_split: false })
}

/// Splits `rows` as `datasets.train_test_split` does: below 1 `test_size` is a share (rounded up), otherwise a number of
/// rows. The test rows are the last ones; with `shuffle` the rows are shuffled first, the same way for the same `seed`.
///
/// # Errors
/// Usage errors: a size that is no positive number, a fraction above 1, or that leaves no training row.
pub fn train_test_split<T>(mut rows: Vec<T>, test_size: f64, shuffle: bool, seed: u64) -> Result<(Vec<T>, Vec<T>)> {
    let count = if test_size < 1.0 { (test_size * rows.len() as f64).ceil() } else { test_size };
    if !(test_size > 0.0 && count.fract() == 0.0) {
        return Err(Error::usage(format!("`--test-size {test_size}` is neither a share below 1 nor a number of rows")));
    }
    if count >= rows.len() as f64 {
        let message = format!("`--test-size {test_size}` leaves no training row of {}", rows.len());
        return Err(Error::usage(message));
    }
    if shuffle {
        rows.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed));
    }
    let test = rows.split_off(rows.len() - count as usize);
    Ok((rows, test))
}

fn read_file(file: &str, options: &RowOptions) -> Result<Vec<Row>> {
    // The text and what is made of it are there at once.
    let size = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    room::require(size.saturating_mul(2), &format!("the rows of `{file}`"))?;
    let rows = match extension(file) {
        "parquet" => super::parquet::read_rows(file, options)?,
        "jsonl" | "json" => {
            let bytes = std::fs::read(file).context(|| format!("cannot read `{file}`"))?;
            read_json(file, &bytes, options)?
        }
        _ => return Err(err!("`{file}` is no .jsonl, .json or .parquet file")),
    };
    if rows.is_empty() {
        bail!("`{file}` has no rows");
    }
    Ok(rows)
}

fn read_json(file: &str, bytes: &[u8], options: &RowOptions) -> Result<Vec<Row>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        err!("`{}` is not UTF-8", Origin::new(file, line))
    })?;
    if text.trim_start().starts_with('[') {
        let items: Vec<Value> = serde_json::from_str(text)
            .map_err(|error| err!("`{}` is not JSON: {error}", Origin::new(file, error.line())))?;
        let row = |(i, value)| Row::from_json(value, Origin::new(file, i + 1), options);
        return items.into_iter().enumerate().map(row).collect();
    }
    text.lines().enumerate().map(|(i, line)| read_line(line, Origin::new(file, i + 1), options)).collect()
}

fn read_line(line: &str, origin: Origin, options: &RowOptions) -> Result<Row> {
    if line.trim().is_empty() {
        return Err(err!("the line at `{origin}` is empty").hint("each line holds one row; delete the empty ones"));
    }
    match serde_json::from_str(line) {
        Ok(value) => Row::from_json(value, origin, options),
        Err(error) => {
            let text = error.to_string();
            let reason = text.split(" at line").next().unwrap_or(&text);
            let message = format!("the line at `{origin}` is not JSON: {reason} (column {})", error.column());
            Err(Error::new(message).hint("each line holds one row, a JSON object on a single line"))
        }
    }
}

fn extension(file: &str) -> &str {
    Path::new(file).extension().and_then(|extension| extension.to_str()).unwrap_or("")
}

/// `train-00000-of-00001.parquet`, `data/mobile_train.jsonl` and `train/0.parquet` are all named after `train`.
fn names_split(file: &str, split: &str) -> bool {
    let stem = file.strip_suffix(extension(file)).unwrap_or(file);
    stem.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word.eq_ignore_ascii_case(split))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_data_file(name: &str) -> bool {
    matches!(extension(name), "jsonl" | "json" | "parquet")
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
