//! Flags of what is written for other programs, or made of their files.

use std::path::PathBuf;

use clap::Args;

use super::choices::{GgufTypeArg, SaveDtypeArg};
use super::numbers::rate;

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Write a GGUF, the format of llama.cpp and Ollama
    #[arg(long)]
    pub gguf: bool,
    /// Number format of the matrices; norms are kept in f32
    #[arg(long, value_name = "TYPE", value_enum, default_value = "q8_0")]
    pub r#type: GgufTypeArg,
    /// Hugging Face folder, .gguf file with its tokenizer beside it, or hub id
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// File to write; a Modelfile for Ollama comes beside it
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the file, and a Modelfile of others beside it
    #[arg(long)]
    pub overwrite: bool,
}

/// What an export would cost.
#[derive(Debug, Args)]
#[command(next_help_heading = "Evaluation")]
pub struct PriceArgs {
    /// Score the model with its weights rounded as `engine export --type TYPE` rounds them, beside the model as it is, on the
    /// same prompts
    #[arg(long, value_name = "TYPE", value_enum)]
    pub r#as: Option<GgufTypeArg>,
    /// With --as: end with exit code 1 if the tool choice or a strict part of the score falls by more than so many percentage
    /// points on these prompts; 2 points need at least 50 prompts. What is compared is the fall itself, not the end of its interval
    #[arg(long, value_name = "POINTS", value_parser = rate, allow_negative_numbers = true)]
    pub max_drop: Option<f64>,
}

/// The model folder that a command makes of other files.
#[derive(Debug, Args)]
pub struct WrittenModelArgs {
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
