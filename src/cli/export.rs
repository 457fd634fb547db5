//! `engine export`: the model as a file for other programs.

use crate::cli::args::ExportArgs;
use crate::cli::out::{print, say};
use crate::cli::progress::Progress;
use crate::cli::signals;
use crate::error::{Error, Kind, Result, printable};
use crate::io::export::export_gguf;
use crate::io::source::resolve_model;

pub fn run(args: &ExportArgs) -> Result<()> {
    if !args.gguf {
        return Err(Error::usage("the format to write is not named").hint("give `--gguf`, the only one so far"));
    }
    let source = resolve_model(&args.model).map_err(|error| error.or_kind(Kind::Model))?;
    signals::listen("stopping; no file is written");
    let mut progress = None;
    let exported = export_gguf(&source, args.r#type.into(), &args.output, args.overwrite, |done, total| {
        progress.get_or_insert_with(|| Progress::counter("tensors", total as u64)).set_done(done as u64);
        signals::go_on("the export was stopped")
    });
    progress.iter_mut().for_each(Progress::finish);
    let exported = exported?;
    exported.warnings.iter().for_each(|warning| say(&format!("warning: {}", printable(warning))));
    say(&format!("{} MB, and for Ollama `{}`", exported.bytes / 1_000_000, exported.modelfile.display()));
    print(&format!("{}\n", args.output.display()))
}
