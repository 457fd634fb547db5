//! The adapter of a checkpoint: its settings, and where its weights come from.

use crate::error::Result;
use crate::io::adapter_files::{AdapterConfig, AdapterFolder};
use crate::model::gemma3::adapter::begin;
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::lora::Lora;
use crate::model::gemma3::table::parameter_count;

/// An adapter of a checkpoint.
#[derive(Clone, Debug)]
pub struct AdapterSource {
    /// As it is saved again.
    pub config: AdapterConfig,
    origin: Origin,
}

/// Where its weights come from.
#[derive(Clone, Debug)]
enum Origin {
    /// They begin as nothing.
    Seed(u64),
    Folder(AdapterFolder),
}

impl AdapterSource {
    /// That begins as nothing, beside the model that its user named `base`.
    pub(super) fn of_seed(lora: Lora, base: &str, seed: u64) -> Self {
        Self { config: AdapterConfig { lora, base: Some(base.to_owned()) }, origin: Origin::Seed(seed) }
    }

    pub(super) fn of_folder(folder: AdapterFolder) -> Self {
        Self { config: folder.config.clone(), origin: Origin::Folder(folder) }
    }

    /// The weights that it begins with; `model`: those of the model.
    pub(super) fn read(&self, config: &Gemma3Config, model: &[f32], out: &mut [f32]) -> Result<()> {
        match &self.origin {
            Origin::Seed(seed) => begin(config, &self.config.lora, *seed, model, out),
            Origin::Folder(folder) => folder.read_into(config, out),
        }
    }

    /// Number of its parameters.
    pub(super) fn len(&self, config: &Gemma3Config) -> Result<usize> {
        self.config.lora.specs(config).map(|specs| parameter_count(&specs))
    }
}
