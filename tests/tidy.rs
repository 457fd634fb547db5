//! What a reader relies on: every source file says what it is for and stays short, imports go down, the docs name what exists.

#[path = "tidy/floors.rs"]
mod floors;

use std::fs;
use std::path::{Path, PathBuf};

/// Every file below `folder` with one of these endings.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, endings));
        } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
            found.push(path);
        }
    }
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "tests", "benches", "examples", "build", "stand-in", "fuzz/src", "fuzz/targets"];
    let paths = folders.iter().flat_map(|folder| files(&root.join(folder), &["rs"])).chain([root.join("build.rs")]);
    paths.map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} has no `//!` line", path.display());
    }
}

#[test]
fn no_file_is_over_500_lines() {
    // Bindgen writes a line for each argument of a launcher.
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.ends_with("src/device/bindings.rs")) {
        let lines = text.lines().count();
        assert!(lines <= 500, "{} has {lines} lines", path.display());
    }
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let opens = code.contains("unsafe {") || code.starts_with("unsafe impl");
            if opens && !code.starts_with("//") && !code.contains('"') {
                let before = lines[i.saturating_sub(6)..i].join("\n");
                assert!(before.contains("SAFETY"), "{}:{} has no SAFETY comment", path.display(), i + 1);
            }
        }
    }
}

/// A closure that is called in a vectorised loop and is not inlined there runs without the machine's vectors: half as fast or
/// less, and nothing else would show it.
#[test]
fn what_the_hosts_loops_over_rows_call_is_inlined() {
    const LOOPS: [&str; 4] = [" for_each_row(", " for_each_row_and(", " for_each_part(", " convert("];
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/host");
    let mut closures = 0;
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with(&host)) {
        for call in LOOPS.into_iter().flat_map(|name| text.split(name).skip(1)) {
            let arguments = &call[..call.find(';').unwrap_or(call.len())];
            if let Some((before, _)) = arguments.split_once('|') {
                assert!(before.contains("#[inline(always)]"), "{}: a loop over `{before}|`", path.display());
                closures += 1;
            }
        }
    }
    assert!(closures > 5, "{closures} were found");
}

#[test]
fn the_files_that_the_readme_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let table = readme.split("## Where things are").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    for name in rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)) {
        assert!(root.join(name).exists(), "README.md names `{name}`");
    }
}

/// A crate that the tests want with more features is another crate to cargo: what depends on it, this one first, would be compiled once
/// for `cargo run` and once more for `cargo test`.
#[test]
fn the_tests_ask_for_no_features_of_what_the_engine_depends_on() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let names = |key: &str| manifest[key].as_table().unwrap().keys().cloned().collect::<Vec<_>>();
    let own = names("dependencies");
    assert!(own.len() > 20);
    for name in names("dev-dependencies") {
        assert!(!own.contains(&name), "`{name}` is in both: put its features into [dependencies]");
    }
}
