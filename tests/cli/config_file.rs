//! Damaged config files: refused, or flags that are refused or read.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};
use engine::cli::args::Cli;
use engine::cli::config_file::arguments;

use crate::damage::{each_damaged, seeds};
use crate::{folder_with, train};

#[test]
fn a_flag_wins_over_one_of_the_file_that_it_cannot_be_given_with() {
    let lora = "lora_r = 4\nlora_alpha = 16\nmodules_to_save = [\"norm\"]\n";
    // What the file says, what is typed, and what has to be said; None: all is well.
    let cases: [(&str, &[&str], Option<&str>); 9] = [
        ("eval_dataset = \"nowhere.jsonl\"\n", &["--test-size", "2"], None),
        ("eval_dataset = \"nowhere.jsonl\"\n", &["--test-size=2"], None),
        ("test_size = 2\n", &["--eval-dataset", "nowhere.jsonl"], Some("nowhere.jsonl")),
        (lora, &["--adapter", "nowhere"], Some("nowhere")),
        ("adapter = \"nowhere\"\n", &["--lora-r", "4"], None),
        ("group_by_prefix = true\n", &["--group-by-length"], None),
        ("group_by_length = true\n", &["--group_by_prefix", "true"], None),
        // Not a choice of the other one.
        ("group_by_length = true\n", &["--group-by-prefix", "false"], Some("cannot be used with")),
        ("", &["--eval-dataset", "a", "--test-size", "2"], Some("cannot be used with")),
    ];
    for (text, typed, refused) in cases {
        let (folder, file) = folder_with("train.toml", text);
        let output = folder.path().join("out");
        let run = train(&output, &[&["--config", &file, "--dry-run"], typed].concat());
        match refused {
            None => assert_eq!(run.code, 0, "{text}{typed:?}: {}", run.stderr),
            Some(part) => {
                assert!(run.code != 0 && run.stderr.contains(part), "{text}{typed:?}: {}", run.stderr);
                let clash = part == "cannot be used with";
                assert!(clash || !run.stderr.contains("cannot be used with"), "{text}{typed:?}: {}", run.stderr);
            }
        }
    }
}

#[test]
fn damaged_config_files_are_refused_or_become_flags() {
    each_damaged(seeds("toml"), 300, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let Ok(flags) = arguments(text, Path::new("train.toml")) else { return };
        let start = ["engine", "train"].map(OsString::from);
        if let Ok(matches) = Cli::command().try_get_matches_from(start.into_iter().chain(flags)) {
            let _ = Cli::from_arg_matches(&matches);
        }
    });
}
