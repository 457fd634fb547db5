//! The part of the command line that is about data: how rows become examples, and the flags of `engine check`.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};
use serde::Serialize;

use super::choices::LogFormat;
use super::numbers::{positive, positive_number};

/// What happens to a row longer than `--max-length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OverlongArg {
    /// Stop before anything is trained
    Error,
    /// Keep the first tokens
    Truncate,
    /// Leave the row out
    Drop,
}

/// How rows become examples.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Data")]
pub struct RowArgs {
    /// Jinja file with a chat template in the place of the model's own
    #[arg(long, value_name = "FILE")]
    pub chat_template_path: Option<PathBuf>,
    /// Token that ends answers and rows of plain text in the place of the model's own
    #[arg(long, value_name = "TOKEN")]
    pub eos_token: Option<String>,
    /// JSON file with tool declarations, for rows that have none of their own
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
    /// Developer message (system prompt) for rows that have none
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Take the dataset's column COLUMN for the field NAME, such as user_content=question; may be given several times
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',')]
    pub column: Vec<String>,
    /// Take a tool's response that is the JSON text of an object for that object, not for a string
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub parse_tool_responses: bool,
    /// Maximum tokens per row
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = positive)]
    pub max_length: u64,
    /// What to do with a row that has more
    #[arg(long, value_name = "WHAT", value_enum, default_value = "error")]
    pub overlong: OverlongArg,
    /// Compute the loss on the completion only: of a prompt/completion row the completion, of a chat the last answer
    /// [default: true for prompt/completion rows, else false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub completion_only_loss: Option<bool>,
    /// Compute the loss on the assistant's messages only, of every turn
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub assistant_only_loss: bool,
    /// Keep the tokens of rows that take over a second to tokenize in ~/.cache/engine/tokens, and take them from there the next
    /// time; at most 4 GB, the longest unused go first
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, alias = "load-from-cache-file")]
    pub cache_tokens: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// TOML or YAML file for `engine train`: what it says of model and data is taken
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder with the tokenizer and the chat template, or hub id; without it no tokens are counted
    #[arg(long, value_name = "MODEL", help_heading = "Model")]
    pub model: Option<String>,
    /// Rows to train on: .jsonl, .json, .csv or .parquet file, folder, pattern or hub id; several with commas
    #[arg(long, value_name = "DATASET", help_heading = "Data")]
    pub dataset: String,
    /// Rows to evaluate on; those that are trained on too are found
    #[arg(long, value_name = "DATASET", help_heading = "Data", conflicts_with = "test_size")]
    pub eval_dataset: Option<String>,
    /// Take this many rows of the dataset for those to evaluate on, the same as `engine train` does; below 1: this fraction of them
    #[arg(long, value_name = "X", help_heading = "Data", value_parser = positive_number, allow_negative_numbers = true)]
    pub test_size: Option<f64>,
    /// Whether these rows are drawn; false: they are the last ones
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = "Data")]
    pub shuffle: bool,
    /// Seed that they are drawn by
    #[arg(long, value_name = "N", default_value_t = 42, help_heading = "Data")]
    pub seed: u64,
    #[command(flatten)]
    pub rows: RowArgs,
    /// Exit with 1 for warnings, too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = "Output")]
    pub strict: bool,
    /// List all findings, not only the first 20 of a kind
    #[arg(long, help_heading = "Output")]
    pub all: bool,
    /// What stdout is for: people, or a JSON object a line for programs: all findings, and last one of type `result`
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Output")]
    pub log_format: LogFormat,
}
