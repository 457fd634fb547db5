//! Flags of LoRA, by the names and defaults of peft's `LoraConfig`, and of adapters.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use serde::Serialize;

use super::choices::SaveDtypeArg;
use super::numbers::{below_one, positive, rate};
use crate::error::{Error, Result};
use crate::model::gemma3::lora::Lora;

/// What is trained in the place of all weights.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "LoRA")]
pub struct LoraArgs {
    /// Train a LoRA of this rank and save it as an adapter; the model stays as it is [without a number: 8]
    #[arg(long, value_name = "R", num_args = 0..=1, default_missing_value = "8", value_parser = positive, conflicts_with = "adapter")]
    pub lora_r: Option<u64>,
    /// Updates are scaled by alpha / r
    #[arg(long, value_name = "X", default_value_t = 8.0, value_parser = rate, requires = "lora_r", allow_negative_numbers = true)]
    pub lora_alpha: f64,
    /// Dropout of what updates are computed from: only 0 so far
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = below_one, requires = "lora_r", allow_negative_numbers = true)]
    pub lora_dropout: f64,
    /// Modules that get an update, with commas: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; all-linear: all of them
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        overrides_with = "lora_target_modules",
        default_value = "q_proj,v_proj",
        requires = "lora_r"
    )]
    pub lora_target_modules: Vec<String>,
    /// Scale updates by alpha / sqrt(r)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, requires = "lora_r")]
    pub use_rslora: bool,
    /// Modules that are trained whole and saved with the adapter, with commas: embed_tokens, norm
    #[arg(long, value_name = "NAMES", value_delimiter = ',', overrides_with = "modules_to_save", requires = "lora_r")]
    pub modules_to_save: Vec<String>,
}

impl LoraArgs {
    /// The LoRA to begin, if one is asked for.
    ///
    /// # Errors
    /// A usage error: what is asked for is not there yet.
    pub fn lora(&self) -> Result<Option<Lora>> {
        let Some(rank) = self.lora_r else { return Ok(None) };
        let lora = Lora {
            rank: rank as usize,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            target_modules: self.lora_target_modules.clone(),
            use_rslora: self.use_rslora,
            modules_to_save: self.modules_to_save.clone(),
        };
        check_dropout(&lora).map(|()| Some(lora))
    }
}

/// Whether training can do what an adapter asks for.
///
/// # Errors
/// A usage error: it cannot.
pub fn check_dropout(lora: &Lora) -> Result<()> {
    if lora.dropout == 0.0 {
        return Ok(());
    }
    Err(Error::usage(format!("`lora_dropout` is {}, and training has no dropout yet", lora.dropout))
        .hint("give `--lora-dropout 0`; in an adapter, set it in its adapter_config.json"))
}

#[derive(Debug, Args)]
pub struct MergeArgs {
    /// The model that the adapter was trained beside: Hugging Face folder, .gguf file with its tokenizer beside it, or hub id
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// Folder of the adapter, of `engine train --lora-r` or PEFT
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Replace the model that the folder holds
    #[arg(long)]
    pub overwrite_output_dir: bool,
    /// Number format of the saved weights
    #[arg(long, value_name = "DTYPE", value_enum, default_value = "bf16")]
    pub save_dtype: SaveDtypeArg,
}
