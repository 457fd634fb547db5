//! The config file of `engine train`: what it holds is taken for flags, and the flags are read.
#![no_main]

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};
use engine::cli::args::Cli;
use engine::cli::config_file::arguments;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(flags) = arguments(text, Path::new("train.toml")) else { return };
    let start = ["engine", "train", "--model=m", "--dataset=d"].map(OsString::from);
    let command = Cli::command().mut_subcommands(|command| command.args_override_self(true));
    if let Ok(matches) = command.try_get_matches_from(start.into_iter().chain(flags)) {
        let _ = Cli::from_arg_matches(&matches);
    }
});
