//! A checkpoint: a model folder (or GGUF) with its tokenizer, its configs and its weights.

use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use crate::chat::tokenizer::ChatTokenizer;
use crate::error::{Error, Kind, Result};
use crate::generate::{GenerateOptions, Sampling};
use crate::io::adapter_files::AdapterFolder;
use crate::io::folder::{OutputFolder, Saved};
use crate::io::gguf_type::GgufType;
use crate::io::model_files::{SavedModel, TokenizerFiles};
use crate::io::safetensors::SaveDtype;
use crate::io::source::{ModelSource, resolve_model};
use crate::model::gemma3::Gemma3;
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::{parameter_count, parameter_specs, parameters};
use crate::model::generation_config::GenerationConfig;
use crate::session::adapter_source::AdapterSource;
use crate::session::devices::ComputeDevice;
use crate::session::weights::Weights;

const GENERATION_CONFIG: &str = "generation_config.json";

/// A model's small files: everything but the weights.
pub struct Checkpoint {
    pub source: ModelSource,
    pub config: Gemma3Config,
    pub generation_config: GenerationConfig,
    pub tokenizer: ChatTokenizer,
    /// The tokenizer as it is saved again.
    pub files: TokenizerFiles,
    /// What is trained or used beside the weights.
    pub adapter: Option<AdapterSource>,
    /// The file whose rounding is trained with.
    pub qat: Option<GgufType>,
}

/// How answers are generated. The defaults are those of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// An answer ends here if it has not ended by itself.
    pub max_new_tokens: usize,
    /// Draw tokens with the checkpoint's temperature, top_k and top_p; otherwise take the likeliest.
    pub do_sample: bool,
    /// What is drawn follows from it.
    pub seed: u64,
    /// Capture the decoding of tokens into graphs and replay it, where the device can.
    pub cuda_graphs: bool,
}

impl Default for Generation {
    fn default() -> Self {
        Self { max_new_tokens: 128, do_sample: false, seed: 42, cuda_graphs: true }
    }
}

/// Where a model is, and what it looks like.
fn found(model: &str) -> Result<(ModelSource, Gemma3Config)> {
    let source = resolve_model(model)?;
    let config = source.load_config()?;
    Ok((source, config))
}

/// Whether an adapter has a tokenizer and a chat template of its own.
pub(super) fn has_texts(adapter: &Path) -> bool {
    adapter.join("tokenizer.json").is_file()
}

/// What a checkpoint has beside its weights.
struct Texts {
    generation_config: GenerationConfig,
    tokenizer: ChatTokenizer,
    files: TokenizerFiles,
}

impl Texts {
    /// Of a folder in the place of the model's own.
    fn read(folder: Option<&Path>, source: &ModelSource, config: &Gemma3Config) -> Result<Self> {
        let folder = folder.unwrap_or(source.folder());
        let is_complete = folder.join(GENERATION_CONFIG).is_file();
        let generation = if is_complete { folder } else { source.folder() };
        let generation_config = GenerationConfig::load(generation, config)?;
        let tokenizer = ChatTokenizer::load(folder)?.with_model_vocab(config.vocab_size);
        let files = TokenizerFiles::read(folder)?;
        Ok(Self { generation_config, tokenizer, files })
    }

    fn of(self, source: ModelSource, config: Gemma3Config, adapter: Option<AdapterSource>) -> Checkpoint {
        let Self { generation_config, tokenizer, files } = self;
        Checkpoint { source, config, generation_config, tokenizer, files, adapter, qat: None }
    }
}

impl Checkpoint {
    /// Finds the model (a folder, a GGUF, or a hub id that is downloaded if need be) and reads its configs and tokenizer.
    ///
    /// # Errors
    /// Of kind [`Kind::Model`], or [`Kind::Gated`] when the hub refuses it.
    pub fn open(model: &str) -> Result<Self> {
        Self::open_with(model, None)
    }

    /// [`open`](Self::open) with the tokenizer of another folder.
    pub(super) fn open_with(model: &str, texts: Option<&Path>) -> Result<Self> {
        let open = || {
            let (source, config) = found(model)?;
            let texts = Texts::read(texts, &source, &config)?;
            Ok(texts.of(source, config, None))
        };
        open().map_err(|e: Error| e.or_kind(Kind::Model))
    }

    /// [`open`](Self::open), or [`open_adapted`](Self::open_adapted), and [`load_frozen`](Self::load_frozen), side by side: a tokenizer is read
    /// by one thread, and takes longer than the weights.
    ///
    /// # Errors
    /// As those.
    pub fn open_frozen(model: &str, adapter: Option<&Path>, on: &ComputeDevice) -> Result<(Self, Gemma3)> {
        let open = || {
            let folder = adapter.map(AdapterFolder::open).transpose()?;
            let texts = adapter.filter(|adapter| has_texts(adapter));
            let (source, config) = found(model)?;
            folder.iter().try_for_each(|folder| folder.check(&config))?;
            let adapter = folder.map(AdapterSource::of_folder);
            let weights = Weights { source: &source, config: &config, adapter: adapter.as_ref() };
            let (texts, model) = thread::scope(|scope| {
                let texts = scope.spawn(|| Texts::read(texts, &source, &config));
                let model = weights.load_frozen(on);
                (texts.join().unwrap_or_else(|panic| resume_unwind(panic)), model)
            });
            Ok((texts?.of(source, config, adapter), model?))
        };
        open().map_err(|e: Error| e.or_kind(Kind::Model))
    }

    /// With the chat template of a file in the place of its own: rows are rendered by it, and it is saved with the model.
    ///
    /// # Errors
    /// The file cannot be read, or is no template.
    pub fn with_chat_template(self, path: &Path) -> Result<Self> {
        Ok(Self { tokenizer: self.tokenizer.with_template(path)?, ..self })
    }

    /// With another `eos_token`, which ends answers beside the checkpoint's own, and is saved with the model.
    ///
    /// # Errors
    /// A usage error: the tokenizer has no such token.
    pub fn with_eos_token(self, token: &str) -> Result<Self> {
        let generation_config = self.generation_config.with_stop_token(self.tokenizer.eos_id(token)?);
        let (tokenizer, files) = (self.tokenizer.with_eos_token(token)?, self.files.with_eos_token(token)?);
        Ok(Self { generation_config, tokenizer, files, ..self })
    }

    /// Reads the weights, with the adapter added to them, to train them: f32 masters on the device, and what ops compute in.
    ///
    /// # Errors
    /// Of kind [`Kind::Model`], or [`Kind::OutOfMemory`].
    pub fn load(&self, on: &ComputeDevice) -> Result<Gemma3> {
        self.read(on, |_| Ok(()))?.computed_in(on.dtype)
    }

    /// Reads the weights, with the adapter added to them, to answer with them: nothing but what ops compute in is kept.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_frozen(&self, on: &ComputeDevice) -> Result<Gemma3> {
        self.weights().load_frozen(on)
    }

    /// [`load_frozen`](Self::load_frozen) with the weights rounded as a GGUF of type `kind` holds them.
    ///
    /// # Errors
    /// As there, and as [`GgufType::round`].
    pub fn load_as(&self, on: &ComputeDevice, kind: GgufType) -> Result<Gemma3> {
        let parameters = parameters(&self.config);
        kind.check(&parameters).map_err(|error| error.or_kind(Kind::Model))?;
        self.read(on, |values| kind.round(&parameters, values))?.frozen_in(on.dtype)
    }

    /// The model in f32, `change`d as it is read.
    pub(super) fn read(&self, on: &ComputeDevice, change: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<Gemma3> {
        self.weights().read(on, change)
    }

    /// What its weights are read with.
    pub(super) fn weights(&self) -> Weights<'_> {
        Weights { source: &self.source, config: &self.config, adapter: self.adapter.as_ref() }
    }

    /// Puts what was trained with this checkpoint's tokenizer and configs into a folder, whole or not at all.
    ///
    /// # Errors
    /// As [`OutputFolder::save_model`].
    pub fn save(&self, model: &Gemma3, folder: &mut OutputFolder, dtype: SaveDtype) -> Result<Saved> {
        folder.save_model(&self.saved_model(&model.trained().masters()?.read::<f32>()?, dtype), &[])
    }

    /// What was trained with this checkpoint's tokenizer and configs, as it is written: a model, or the adapter.
    pub fn saved_model<'a>(&'a self, flat: &'a [f32], dtype: SaveDtype) -> SavedModel<'a> {
        SavedModel {
            tokenizer: &self.files,
            config: &self.config,
            generation_config: &self.generation_config,
            flat,
            dtype,
            adapter: self.adapter.as_ref().map(|adapter| &adapter.config),
            chat_template: Some(self.tokenizer.template().source()),
        }
    }

    /// About what [`save`](Self::save) writes, in bytes: the weights, and room for the tokenizer and the metrics.
    pub fn saved_bytes(&self, dtype: SaveDtype) -> u64 {
        let element = match dtype {
            SaveDtype::F32 => 4,
            SaveDtype::Bf16 => 2,
        };
        let of_model = parameter_count(&parameter_specs(&self.config)) * element;
        let of_adapter = self.adapter.as_ref().map(|adapter| adapter.len(&self.config).unwrap_or_default() * 4);
        of_adapter.unwrap_or(of_model) as u64 + (64 << 20)
    }

    /// How this checkpoint generates: its stop tokens, and when tokens are drawn its numbers for that.
    pub fn generate_options(&self, generation: &Generation) -> GenerateOptions {
        let config = &self.generation_config;
        let sampling = generation.do_sample.then_some(Sampling {
            temperature: config.temperature,
            top_k: config.top_k,
            top_p: config.top_p,
            seed: generation.seed,
        });
        GenerateOptions {
            max_new_tokens: generation.max_new_tokens,
            stop: config.eos_token_id.clone(),
            sampling,
            use_graphs: generation.cuda_graphs,
        }
    }
}
