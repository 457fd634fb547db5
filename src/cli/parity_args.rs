//! Flags of `engine parity`.

use std::path::PathBuf;

use clap::Args;

use super::choices::LogFormat;
use super::data_args::RowArgs;

#[derive(Debug, Args)]
pub struct ParityArgs {
    /// Folder with the tokenizer and the chat template (weights are not needed), or hub id
    #[arg(long, value_name = "MODEL", help_heading = "Model")]
    pub model: String,
    /// Jinja file with the other chat template, such as the one that a runtime brings for this model
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub against: PathBuf,
    /// Rows: .jsonl, .json, .csv or .parquet file, folder, pattern or hub id; several with commas
    #[arg(long, value_name = "DATASET", help_heading = "Data")]
    pub dataset: String,
    #[command(flatten)]
    pub rows: RowArgs,
    /// Show all that differs, not only the first 3 prompts and conversations and 60 lines of each
    #[arg(long, help_heading = "Output")]
    pub all: bool,
    /// What stdout is for: people, or a JSON object a line for programs: all that differs, and last one of type `result`
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Output")]
    pub log_format: LogFormat,
}
