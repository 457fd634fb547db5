//! `engine import`: a GGUF and a tokenizer become a Hugging Face folder.

use std::path::Path;

use super::folder::{Existing, OutputFolder, Saved};
use super::model_files::{SavedModel, TokenizerFiles};
use super::safetensors::SaveDtype;
use super::source::ModelSource;
use crate::err;
use crate::error::{Context, Result};
use crate::model::generation_config::GenerationConfig;

/// Decodes `file` and saves it to `output` with the tokenizer files, configs and chat template of `tokenizer`.
/// `config.json` may be missing there: the GGUF's metadata then makes one.
///
/// # Errors
/// The GGUF or the tokenizer folder cannot be used, or `output` is not ours; nothing is left behind.
pub fn import_gguf(
    file: &Path,
    tokenizer: &Path,
    output: &Path,
    existing: Existing,
    dtype: SaveDtype,
) -> Result<Saved> {
    if !tokenizer.join("tokenizer.json").is_file() {
        return Err(err!("`{}` has no `tokenizer.json`", tokenizer.display()).hint(
            "give `--tokenizer` the folder of the original checkpoint, or of any model with the same tokenizer",
        ));
    }
    OutputFolder::check(output, existing)?;
    let gguf = super::gguf::GgufFile::open(file)?;
    let config = gguf.config(tokenizer)?;
    let generation_config = GenerationConfig::load(tokenizer, &config)?;
    let template = read_template(tokenizer)?;
    let files = TokenizerFiles::read(tokenizer)?;
    let flat = ModelSource::Gguf(file.into()).load_flat(&config)?;
    let mut folder = OutputFolder::claim(output, existing)?;
    let model = SavedModel {
        tokenizer: &files,
        config: &config,
        generation_config: &generation_config,
        flat: &flat,
        dtype,
        adapter: None,
        chat_template: template.as_deref(),
    };
    folder.save_model(&model, &[])
}

/// The folder's `chat_template.jinja`, if it has one.
fn read_template(folder: &Path) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).context(|| format!("cannot read `{}`", path.display())),
    }
}
