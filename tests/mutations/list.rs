//! A list of mutations, and a file's text with one of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One change of one file.
pub struct Mutation {
    /// Where the file lies.
    folder: PathBuf,
    pub file: String,
    /// What is broken, in words.
    pub what: String,
    old: String,
    new: String,
    /// Files that are compiled with it.
    #[cfg_attr(not(engine_emulated), allow(dead_code))]
    pub sources: Vec<String>,
    /// Of kernels: tests of `tests/ops` whose names begin so: one of them must turn red.
    #[cfg_attr(not(engine_emulated), allow(dead_code))]
    pub tests: Vec<String>,
}

/// What the list says about one file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sources: Option<Vec<String>>,
    tests: Option<Vec<String>>,
    /// what, old, new
    mutations: Vec<[String; 3]>,
}

pub fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// The driver's half of the CUDA device.
pub fn cuda() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda")
}

/// All mutations of the list in a folder, by file.
pub fn read(folder: &Path) -> Vec<Mutation> {
    let list = folder.join("mutations.toml");
    let entries: toml::map::Map<String, toml::Value> = toml::from_str(&fs::read_to_string(&list).unwrap()).unwrap();
    let of_file = |(file, value): (String, toml::Value)| {
        let entry: Entry = value.try_into().unwrap_or_else(|e| panic!("{}, {file}: {e}", list.display()));
        let sources = entry.sources.unwrap_or_else(|| vec![file.clone()]);
        let stem = file.split('.').next().unwrap_or_default();
        let tests = entry.tests.unwrap_or_else(|| vec![format!("{stem}::")]);
        let mutation = move |[what, old, new]: [String; 3]| {
            let (folder, file, sources, tests) = (folder.to_path_buf(), file.clone(), sources.clone(), tests.clone());
            Mutation { folder, file, what, old, new, sources, tests }
        };
        entry.mutations.into_iter().map(mutation).collect::<Vec<_>>()
    };
    entries.into_iter().flat_map(of_file).collect()
}

impl Mutation {
    /// The file's text with the change; what is wrong when it does not fit in exactly one place.
    pub fn mutated(&self) -> Result<String, String> {
        let Self { folder, file, what, old, new, .. } = self;
        let text = fs::read_to_string(folder.join(file)).map_err(|e| format!("{file}: {e}"))?;
        match text.matches(old.as_str()).count() {
            1 if old != new => Ok(text.replacen(old.as_str(), new, 1)),
            1 => Err(format!("{file}, {what}: changes nothing")),
            n => Err(format!("{file}, {what}: `{old}` is there {n} times, not once")),
        }
    }
}
