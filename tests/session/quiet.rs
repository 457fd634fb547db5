//! Below the command line nothing prints, and nothing knows a terminal, clap or an exit code.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn only_the_command_line_talks() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let words = ["println!", "print!", "dbg!", "clap::", "indicatif", "ExitCode", "process::exit", "Term::std"];
    for path in sources(&src) {
        if path.starts_with(src.join("cli")) || path == src.join("main.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let word = words.iter().find(|word| line.contains(*word));
            assert!(word.is_none(), "{}:{} has `{}`", path.display(), number + 1, word.unwrap());
        }
    }
}
