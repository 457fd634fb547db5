//! Flags of LoRA, by the names and defaults of peft's `LoraConfig`, and of adapters.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use serde::Serialize;

use super::export_args::WrittenModelArgs;
use super::numbers::{below_one, positive, rate};
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
    /// Part of what updates are computed from that is left out at random, in training
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
    pub fn lora(&self) -> Option<Lora> {
        Some(Lora {
            rank: self.lora_r? as usize,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            target_modules: self.lora_target_modules.clone(),
            use_rslora: self.use_rslora,
            modules_to_save: self.modules_to_save.clone(),
        })
    }
}

#[derive(Debug, Args)]
pub struct MergeArgs {
    /// The model that the adapter was trained beside: Hugging Face folder, .gguf file with its tokenizer beside it, or hub id
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// Folder of the adapter, of `engine train --lora-r` or PEFT
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    #[command(flatten)]
    pub written: WrittenModelArgs,
}
