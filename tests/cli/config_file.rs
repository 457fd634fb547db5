//! Damaged config files: refused, or flags that are refused or read.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};
use engine::cli::args::Cli;
use engine::cli::config_file::arguments;

use crate::damage::{each_damaged, seeds};

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
