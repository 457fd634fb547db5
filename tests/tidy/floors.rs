//! The floors that `src/lib.rs` declares: imports go down, never up, across or round in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Imports that do not go down, known and still to be mended: what is mended must leave the list.
const KNOWN_IMPORTS: [&str; 1] = ["autograd -> ops"];
/// The same for circles.
const KNOWN_CIRCLES: [&str; 1] = ["cuda: mod -> products -> mod"];

/// One file of `src`.
struct Source {
    /// Names from the root of the crate: `["eval", "report"]` for `src/eval/report.rs`, `["eval"]` for `src/eval/mod.rs`.
    path: Vec<String>,
    /// Without comments.
    code: String,
}

impl Source {
    fn new(file: &str, text: &str) -> Self {
        let stem = file.trim_end_matches(".rs").trim_end_matches("/mod");
        let code: String =
            text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
        Self { path: stem.split('/').map(str::to_owned).collect(), code }
    }

    /// The absolute paths of what the file names by `crate::` and `super::`.
    fn imports(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            expand(&self.code[at + "crate::".len()..], &[], &mut found);
        }
        for (at, _) in self.code.match_indices("super::").filter(|(at, _)| !self.code[..*at].ends_with("super::")) {
            let rest = self.code[at..].trim_start_matches("super::");
            let ups = (self.code.len() - at - rest.len()) / "super::".len();
            // In a module that is written out in the file, the first `super` is the file.
            let parent = (self.path.len() + usize::from(self.in_inner_module(at))).saturating_sub(ups);
            expand(rest, &self.path[..parent], &mut found);
        }
        found
    }

    fn in_inner_module(&self, at: usize) -> bool {
        let before = &self.code[..at];
        let opened = before.rfind("\nmod ").max(before.rfind("\npub mod ")).max(before.rfind("\npub(super) mod "));
        opened.is_some_and(|open| {
            before[open + 1..].lines().next().unwrap().ends_with('{') && !before[open..].contains("\n}")
        })
    }

    fn macros(&self) -> impl Iterator<Item = &str> {
        let names = self.code.split("macro_rules! ").skip(1);
        names.map(|rest| rest.split(|c: char| !is_word(c)).next().unwrap())
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The paths that `text` begins with: `a::{b, c::d}` is two of them. Gives what follows.
fn expand<'a>(text: &'a str, start: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        while !rest.trim_start().starts_with('}') {
            rest = expand(rest, start, found).trim_start().trim_start_matches(',');
        }
        return &rest.trim_start()[1..];
    }
    let length = text.find(|c| !is_word(c) && c != '*').unwrap_or(text.len());
    assert!(length > 0, "cannot read the path at `{}`", text.lines().next().unwrap_or_default());
    let path = [start, &[text[..length].to_owned()]].concat();
    match text[length..].strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') => expand(rest, &path, found),
        _ => {
            found.push(path);
            &text[length..]
        }
    }
}

/// The floors from the top down, as the table in the docs of `lib.rs` lists them.
fn floors(lib: &str) -> Vec<Vec<String>> {
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    let names = |row: &str| {
        let cell = format!("[`{}", row.split(" | ").next().unwrap());
        cell.split("[`").skip(1).map(|name| name.split('`').next().unwrap().to_owned()).collect()
    };
    rows.map(names).collect()
}

/// Every import that does not go down, as `from -> to`, with the files that have it.
fn not_downward(floors: &[Vec<String>], sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let floor_of = |module: &str| floors.iter().position(|floor| floor.iter().any(|name| name == module));
    let macros: BTreeMap<&str, &str> =
        sources.iter().flat_map(|source| source.macros().map(|name| (name, source.path[0].as_str()))).collect();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        for import in source.imports().iter().filter_map(|path| path.first()) {
            let (from, to) = (source.path[0].as_str(), *macros.get(import.as_str()).unwrap_or(&import.as_str()));
            let down = match (floor_of(from), floor_of(to)) {
                (Some(here), Some(there)) => here < there,
                _ => false,
            };
            if from != to && !down {
                found.entry(format!("{from} -> {to}")).or_default().insert(source.path.join("/"));
            }
        }
    }
    found
}

/// Who imports whom among the files and folders directly in `folder`, whose own file is called `mod`.
fn edges<'a>(folder: &[String], sources: &'a [Source]) -> BTreeMap<&'a str, BTreeSet<String>> {
    let depth = folder.len();
    let inside = || sources.iter().filter(|source| source.path.starts_with(folder));
    let children: BTreeSet<&str> = inside().filter_map(|source| source.path.get(depth).map(String::as_str)).collect();
    let own = inside().find(|source| source.path.len() == depth).map_or("", |source| &source.code);
    // `pub use report::Score;` in the folder's own file: who names `Score` means `report`.
    let mut reexports: BTreeMap<String, &str> = BTreeMap::new();
    for child in &children {
        for (at, _) in own.match_indices(&format!("pub use {child}::")) {
            let mut names = Vec::new();
            expand(&own[at + "pub use ".len()..], &[], &mut names);
            reexports.extend(names.into_iter().map(|path| (path[path.len() - 1].clone(), *child)));
        }
    }
    let mut edges: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for source in inside() {
        let from = source.path.get(depth).map_or("mod", String::as_str);
        let targets = source.imports().into_iter().filter(|path| path.starts_with(folder)).map(|path| {
            let name = path.get(depth).map_or("", String::as_str);
            children.get(name).or(reexports.get(name)).map_or("mod".to_owned(), |child| (*child).to_owned())
        });
        edges.entry(from).or_default().extend(targets.filter(|to| to != from));
    }
    let uses = |child: &&&str| {
        let path = format!("{child}::");
        let mut before = own.match_indices(&path).map(|(at, _)| &own[..at]);
        before.any(|before| !before.ends_with(|c| is_word(c) || c == ':') && !before.ends_with("pub use "))
    };
    edges.entry("mod").or_default().extend(children.iter().filter(uses).map(|child| (*child).to_owned()));
    edges
}

/// A circle of imports, as `a -> b -> a`.
fn circle(edges: &BTreeMap<&str, BTreeSet<String>>) -> Option<String> {
    fn walk(
        edges: &BTreeMap<&str, BTreeSet<String>>,
        trail: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<String> {
        let here = trail[trail.len() - 1].clone();
        for to in edges.get(here.as_str()).into_iter().flatten() {
            if let Some(start) = trail.iter().position(|name| name == to) {
                return Some(format!("{} -> {to}", trail[start..].join(" -> ")));
            }
            if !done.contains(to) {
                trail.push(to.clone());
                if let Some(found) = walk(edges, trail, done) {
                    return Some(found);
                }
                trail.pop();
            }
        }
        done.insert(here);
        None
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|start| walk(edges, &mut vec![(*start).to_owned()], &mut done))
}

/// `lib.rs` and all files of `src` but the two roots.
fn crate_sources() -> (String, Vec<Source>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = crate::files(&root, &["rs"]).into_iter().filter_map(|path| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let is_root = ["lib.rs", "main.rs"].contains(&name.as_str());
        (!is_root).then(|| Source::new(&name, &fs::read_to_string(&path).unwrap()))
    });
    (fs::read_to_string(root.join("lib.rs")).unwrap(), sources.collect())
}

#[test]
fn every_module_has_one_floor() {
    let (lib, _) = crate_sources();
    let mut modules: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut placed = floors(&lib).concat();
    modules.sort();
    placed.sort();
    assert_eq!(placed, modules, "the table in the docs of lib.rs against its `pub mod` lines");
}

#[test]
fn imports_go_to_a_floor_below() {
    let (lib, sources) = crate_sources();
    let found = not_downward(&floors(&lib), &sources);
    let edges: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(edges, KNOWN_IMPORTS, "the imports that do not go down, against the known ones; by file: {found:#?}");
}

#[test]
fn the_files_of_a_folder_import_one_another_in_no_circle() {
    let (_, sources) = crate_sources();
    let folders: BTreeSet<&[String]> =
        sources.iter().flat_map(|source| (1..source.path.len()).map(|depth| &source.path[..depth])).collect();
    assert!(folders.len() > 10);
    let found: Vec<String> = folders
        .into_iter()
        .filter_map(|folder| circle(&edges(folder, &sources)).map(|circle| format!("{}: {circle}", folder.join("/"))))
        .collect();
    assert_eq!(found, KNOWN_CIRCLES, "the circles, against the known ones");
}

#[test]
fn an_import_that_goes_up_or_across_is_found_in_every_spelling() {
    let lib = "//! | module | what |\n//! | [`cli`] | x |\n//! | [`train`], [`eval`] | y |\n//! | [`data`] | z |\n";
    let found = |file: &str, text: &str| {
        let sources = [Source::new(file, text), Source::new("eval/mod.rs", "macro_rules! score {}")];
        not_downward(&floors(lib), &sources).into_keys().collect::<Vec<_>>().join(", ")
    };
    assert_eq!(found("cli/mod.rs", "use crate::{data::rows::{Row, Origin}, eval};"), "");
    assert_eq!(found("data/rows.rs", "use crate::cli::Args;"), "data -> cli");
    assert_eq!(found("data/rows.rs", "fn f() {\n    crate::train::step()\n}"), "data -> train");
    assert_eq!(found("data/rows.rs", "use super::super::cli;"), "data -> cli");
    assert_eq!(
        found("data/rows.rs", "use crate::{\n    cli::x,\n    train::{a, b},\n};"),
        "data -> cli, data -> train"
    );
    assert_eq!(found("data/rows.rs", "$crate::score!()"), "data -> eval");
    assert_eq!(found("train/mod.rs", "use crate::eval::report;"), "train -> eval");
    assert_eq!(found("data/rows.rs", "use crate::unknown::x;"), "data -> unknown");
    assert_eq!(found("data/rows.rs", "//! As [`crate::cli`] says.\nmod inner {\n    use super::Row;\n}"), "");
}

#[test]
fn a_circle_between_files_is_found_also_through_the_folder() {
    let found = |files: &[(&str, &str)]| {
        let sources: Vec<Source> = files.iter().map(|(file, text)| Source::new(file, text)).collect();
        circle(&edges(&["io".to_owned()], &sources))
    };
    let none = [("io/mod.rs", "mod a;\npub use a::X;\nmod b;"), ("io/a.rs", "struct X;"), ("io/b.rs", "use super::X;")];
    assert_eq!(found(&none), None);
    let direct = [("io/mod.rs", ""), ("io/a.rs", "use super::b::Y;"), ("io/b.rs", "use crate::io::a::X;")];
    assert_eq!(found(&direct).unwrap(), "a -> b -> a");
    let renamed = [("io/mod.rs", "pub use a::{W, X};"), ("io/a.rs", "super::b::f()"), ("io/b.rs", "use super::X;")];
    assert_eq!(found(&renamed).unwrap(), "a -> b -> a");
    let upward = [("io/mod.rs", "mod a;\nfn f() {\n    a::g()\n}\npub fn h() {}"), ("io/a.rs", "use crate::io::h;")];
    assert_eq!(found(&upward).unwrap(), "a -> mod -> a");
    let three = [("io/a.rs", "use super::b;"), ("io/b.rs", "use super::c;"), ("io/c.rs", "use super::a::X;")];
    assert_eq!(found(&three).unwrap(), "a -> b -> c -> a");
}
