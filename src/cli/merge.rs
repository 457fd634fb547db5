//! `engine merge`: a model and an adapter become a model.

use crate::cli::lora_args::MergeArgs;
use crate::cli::options::existing;
use crate::cli::out::{print, say};
use crate::error::Result;
use crate::io::folder::OutputFolder;
use crate::session::Checkpoint;

pub fn run(args: &MergeArgs) -> Result<()> {
    let existing = existing(args.overwrite_output_dir, false);
    OutputFolder::check(&args.output, existing)?;
    let checkpoint = Checkpoint::open_adapted(&args.model, &args.adapter)?;
    let flat = checkpoint.merged()?;
    let checkpoint = Checkpoint { adapter: None, ..checkpoint };
    let mut folder = OutputFolder::claim(&args.output, existing)?;
    let saved = folder.save_model(&checkpoint.saved_model(&flat, args.save_dtype.into()), &[])?;
    saved.warning.iter().for_each(|warning| say(&warning.warning()));
    print(&format!("{}\n", saved.place.display()))
}
