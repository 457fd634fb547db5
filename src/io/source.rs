//! What `--model` means: a folder, a GGUF with its tokenizer beside it, or a model of the hub.

use std::path::{Path, PathBuf};

use half::bf16;
use rayon::prelude::*;

use super::{
    adapter_files::ADAPTER_CONFIG,
    convert::CHUNK,
    gguf::GgufFile,
    safetensors::{FolderWeights, check_model, read_model},
};
use crate::device::room;
use crate::err;
use crate::error::Result;
use crate::hub::is_hub_id;
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::{Parameter, parameter_count, parameter_specs, parameters};

/// A model on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A Hugging Face folder.
    Folder(PathBuf),
    /// A GGUF file; the tokenizer and the chat template are in its folder.
    Gguf(PathBuf),
}

impl ModelSource {
    /// The folder with the tokenizer, the chat template and the configs.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            Self::Gguf(file) => file.parent().unwrap_or(Path::new("")),
        }
    }

    /// The checked config: `config.json`, or for a GGUF without one what its metadata says.
    ///
    /// # Errors
    /// As [`Gemma3Config::load`] and [`GgufFile::open`]; the config and the GGUF contradict each other.
    pub fn load_config(&self) -> Result<Gemma3Config> {
        match self {
            Self::Folder(folder) => Gemma3Config::load(folder),
            Self::Gguf(file) => GgufFile::open(file)?.config(self.folder()),
        }
    }

    /// Whether the files hold the weights that `config` asks for, by their headers alone: to be asked before there is memory
    /// taken for them.
    ///
    /// # Errors
    /// As [`check_model`] and [`GgufFile::check_model`].
    pub fn check(&self, config: &Gemma3Config) -> Result<()> {
        match self {
            Self::Folder(folder) => check_model(folder, &parameter_specs(config)),
            Self::Gguf(file) => GgufFile::open(file)?.check_model(&parameters(config)),
        }
    }

    /// The weights as f32, laid out by [`parameter_specs`].
    ///
    /// # Errors
    /// As [`read_model`] and [`GgufFile::read_model`].
    pub fn load_flat(&self, config: &Gemma3Config) -> Result<Vec<f32>> {
        self.check(config)?;
        let mut flat = room::zeroed(parameter_count(&parameter_specs(config)), "the weights")?;
        self.load_into(config, &mut flat)?;
        Ok(flat)
    }

    /// [`ModelSource::load_flat`] into a buffer of [`parameter_count`] elements.
    ///
    /// # Errors
    /// As [`ModelSource::load_flat`].
    pub fn load_into(&self, config: &Gemma3Config, flat: &mut [f32]) -> Result<()> {
        match self {
            Self::Folder(folder) => read_model(folder, &parameter_specs(config), flat),
            Self::Gguf(file) => GgufFile::open(file)?.read_model(&parameters(config), flat),
        }
    }
}

impl ModelSource {
    /// [`ModelSource::load_flat`] into a buffer of bf16, rounded to nearest even: nothing is kept in f32.
    ///
    /// # Errors
    /// As [`ModelSource::load_flat`].
    pub fn load_rounded(&self, config: &Gemma3Config, mut flat: &mut [bf16]) -> Result<()> {
        let (weights, parameters) = (Weights::open(self, config)?, parameters(config));
        let mut parts = Vec::new();
        for parameter in &parameters {
            let (own, rest) = flat.split_at_mut(parameter.spec.len());
            flat = rest;
            let chunks = own.chunks_mut(CHUNK).enumerate();
            parts.extend(chunks.map(|(chunk, to)| (parameter, chunk * CHUNK, to)));
        }
        parts.into_par_iter().try_for_each_init(Vec::new, |values: &mut Vec<f32>, (parameter, first, to)| {
            values.resize(to.len(), 0.0);
            weights.read_part(parameter, first, values)?;
            to.iter_mut().zip(values).for_each(|(to, value)| *to = bf16::from_f32(*value));
            Ok(())
        })
    }
}

/// The weights of a model on disk, to be read a part at a time.
pub(super) enum Weights {
    Folder(FolderWeights),
    Gguf(GgufFile),
}

impl Weights {
    /// # Errors
    /// As [`ModelSource::check`].
    pub fn open(source: &ModelSource, config: &Gemma3Config) -> Result<Self> {
        match source {
            ModelSource::Folder(folder) => FolderWeights::open(folder, &parameter_specs(config)).map(Self::Folder),
            ModelSource::Gguf(path) => {
                let file = GgufFile::open(path)?;
                file.check_model(&parameters(config))?;
                Ok(Self::Gguf(file))
            }
        }
    }

    /// The elements of a parameter from `first` on, row-major. `first` and the end of `out` are ends of rows or multiples of 256.
    ///
    /// # Errors
    /// The file cannot be read, or an element is NaN or infinite.
    pub fn read_part(&self, parameter: &Parameter, first: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Folder(folder) => folder.read_part(&parameter.spec.name, first, out),
            Self::Gguf(file) => file.read_parameter(parameter, first, out),
        }
    }
}

/// Finds the model that `spec` names: an existing folder, a `.gguf` file, or an `owner/name` of the hub, which is
/// downloaded unless it is in the cache.
///
/// # Errors
/// Nothing of that name exists, the GGUF has no tokenizer beside it, or the hub refuses.
pub fn resolve_model(spec: &str) -> Result<ModelSource> {
    let path = Path::new(spec);
    if path.is_dir() {
        if path.join(ADAPTER_CONFIG).is_file() && !path.join("config.json").is_file() {
            return Err(err!("`{spec}` is an adapter, not a model")
                .hint(format!("give `--model` its base and `--adapter {spec}`, or merge them with `engine merge`")));
        }
        return Ok(ModelSource::Folder(path.into()));
    }
    if path.is_file() {
        return resolve_file(path);
    }
    if is_hub_id(spec) && !spec.ends_with(".gguf") {
        download(spec).map(ModelSource::Folder)
    } else {
        Err(not_found(spec))
    }
}

fn resolve_file(path: &Path) -> Result<ModelSource> {
    let shown = path.display();
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("gguf")) {
        return Err(err!("the model `{shown}` is a file").hint("give the folder it is in, or a `.gguf` file"));
    }
    let source = ModelSource::Gguf(path.into());
    if !source.folder().join("tokenizer.json").is_file() {
        return Err(err!("there is no `tokenizer.json` beside `{shown}`").hint(format!(
            "put the checkpoint's tokenizer files beside it, or run \
             `engine import --gguf {shown} --tokenizer DIR --output DIR`"
        )));
    }
    Ok(source)
}

fn not_found(spec: &str) -> crate::error::Error {
    err!("the model `{spec}` does not exist")
        .hint("give a folder, a `.gguf` file, or a hub id such as `google/functiongemma-270m-it`")
}

#[cfg(feature = "hub")]
fn download(id: &str) -> Result<PathBuf> {
    super::download::download_model(&crate::hub::Hub::from_env()?, id)
}

#[cfg(not(feature = "hub"))]
fn download(id: &str) -> Result<PathBuf> {
    Err(not_found(id)
        .context(format!("`{id}` is no folder, and this build cannot download from the hub (feature `hub`)")))
}
