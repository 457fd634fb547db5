//! `engine completions` and `engine man`: what clap's declarations say, for shells and for `man`.

use std::path::Path;

use clap::CommandFactory;

use crate::cli::args::Cli;
use crate::cli::out::print;
use crate::error::{Context, Result};

pub fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "engine", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// A page for the program and one for each of its commands.
pub fn pages(folder: &Path) -> Result<()> {
    let written = clap_mangen::generate_to(Cli::command(), folder);
    written.context(|| format!("cannot write the manual to `{}`", folder.display()))?;
    print(&format!("{}\n", folder.join("engine.1").display()))
}
