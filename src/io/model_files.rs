//! The files of a model folder as they are written: weights, configs, chat template, tokenizer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::adapter_files::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterConfig};
use super::manifest::MARKER;
use super::new_folder::NewFolder;
use super::safetensors::{SaveDtype, write_model};
use crate::err;
use crate::error::{Context, Result};
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::parameter_specs;
use crate::model::generation_config::GenerationConfig;

/// The weights. A folder with this file holds a model.
pub const WEIGHTS: &str = "model.safetensors";

/// The weights of a model or of an adapter: one of them is in a folder that holds either.
pub(super) const ALL_WEIGHTS: [&str; 2] = [WEIGHTS, ADAPTER_WEIGHTS];

/// Tokenizer files, copied where the source has them; the first one is required.
const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"];

/// Those of them that say which tokens are special.
const NAMES_OF_TOKENS: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// Whether a new model replaces the file of this name.
pub(super) fn is_of_a_model(name: &str) -> bool {
    let files = ["config.json", "generation_config.json", "chat_template.jinja", ADAPTER_CONFIG, MARKER];
    files.iter().chain(&ALL_WEIGHTS).chain(&TOKENIZER_FILES).any(|file| name == *file)
}

/// A tokenizer's files, byte by byte, read before a long run: what the save at its end needs cannot go away meanwhile.
#[derive(Clone, Debug, Default)]
pub struct TokenizerFiles(Vec<(&'static str, Vec<u8>)>);

impl TokenizerFiles {
    /// The files that `folder` has.
    ///
    /// # Errors
    /// There is no `tokenizer.json`, a file cannot be read, or it is a link that leads out of the model.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for name in TOKENIZER_FILES {
            let path = folder.join(name);
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && name != TOKENIZER_FILES[0] => continue,
                Ok(found) if found.is_symlink() => check_link(folder, &path)?,
                _ => {}
            }
            files.push((name, fs::read(&path).context(|| format!("cannot read `{}`", path.display()))?));
        }
        Ok(Self(files))
    }

    /// The text of one of them.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self, name: &str) -> Result<&str> {
        let bytes = self.0.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, bytes)| bytes);
        std::str::from_utf8(bytes).context(|| format!("`{name}` is not UTF-8"))
    }

    /// With another `eos_token` in the files that name one.
    ///
    /// # Errors
    /// A file is no JSON object.
    pub fn with_eos_token(mut self, token: &str) -> Result<Self> {
        for (name, bytes) in self.0.iter_mut().filter(|(name, _)| NAMES_OF_TOKENS.contains(name)) {
            let mut names: Map<String, Value> =
                serde_json::from_slice(bytes).context(|| format!("`{name}` is no JSON object"))?;
            names.insert("eos_token".into(), token.into());
            *bytes = pretty(&names.into()).into_bytes();
        }
        Ok(self)
    }
}

/// A link may lead to a file of the same model, which in the hub's cache lies in `blobs` beside `snapshots`. Any other file
/// would be copied into whatever is made of the model, and published with it.
fn check_link(folder: &Path, path: &Path) -> Result<()> {
    let failed = || format!("cannot resolve the link `{}`", path.display());
    let folder = folder.canonicalize().context(failed)?;
    let target = path.canonicalize().context(failed)?;
    let blobs: Option<PathBuf> = folder.ancestors().nth(2).map(|model| model.join("blobs"));
    if target.starts_with(&folder) || blobs.is_some_and(|blobs| target.starts_with(blobs)) {
        return Ok(());
    }
    Err(err!("`{}` is a link out of its folder, to `{}`", path.display(), target.display())
        .hint("put a copy of the file in its place, if it belongs to the model"))
}

/// A model to save, or an adapter.
pub struct SavedModel<'a> {
    pub tokenizer: &'a TokenizerFiles,
    /// Written as `config.json` with the dtype updated; not beside an adapter.
    pub config: &'a Gemma3Config,
    /// Written as `generation_config.json`.
    pub generation_config: &'a GenerationConfig,
    /// The weights, laid out by [`parameter_specs`]; those of an adapter by its own table.
    pub flat: &'a [f32],
    /// What the weights are rounded to; those of an adapter are not.
    pub dtype: SaveDtype,
    /// The adapter of the model that is saved in its place.
    pub adapter: Option<&'a AdapterConfig>,
    /// Written as `chat_template.jinja`; `None` leaves it to what `tokenizer_config.json` may hold.
    pub chat_template: Option<&'a str>,
}

impl SavedModel<'_> {
    /// Writes what transformers, PEFT and vLLM load unchanged.
    ///
    /// # Errors
    /// The disk is full or refuses, or a weight is not finite.
    pub fn write_to(&self, folder: &mut NewFolder) -> Result<()> {
        match self.adapter {
            None => {
                let specs = parameter_specs(self.config);
                folder.write(WEIGHTS, |file| write_model(file, &specs, self.flat, self.dtype))?;
                let config = self.config.to_value(self.dtype.config_name());
                folder.put("config.json", pretty(&config).as_bytes())?;
            }
            Some(adapter) => {
                let specs = adapter.lora.specs(self.config)?;
                folder.write(ADAPTER_WEIGHTS, |file| write_model(file, &specs, self.flat, SaveDtype::F32))?;
                folder.put(ADAPTER_CONFIG, pretty(&adapter.to_value()).as_bytes())?;
            }
        }
        folder.put("generation_config.json", pretty(&self.generation_config.to_value()).as_bytes())?;
        if let Some(template) = self.chat_template {
            folder.put("chat_template.jinja", template.as_bytes())?;
        }
        for (name, bytes) in &self.tokenizer.0 {
            folder.put(name, bytes)?;
        }
        Ok(())
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
