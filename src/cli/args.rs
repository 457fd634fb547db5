//! The command line, declared once: clap's parser and help, and the keys of the config file, come from these structs.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::io::safetensors::SaveDtype;
use crate::train::schedule::ScheduleKind;

/// Fine-tunes FunctionGemma (Gemma 3 270M) for tool calling and scores the result.
#[derive(Debug, Parser)]
#[command(name = "engine", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model on chats, score it before and after, save it
    Train(Box<TrainArgs>),
    /// Score a model on chats: which tool it calls, and with what arguments
    Eval(EvalArgs),
    /// Answer one prompt
    Generate(GenerateArgs),
    /// Show how a row of a dataset reaches the model, and which tokens are scored
    Preview(PreviewArgs),
    /// Turn a GGUF into a Hugging Face folder
    Import(ImportArgs),
    /// Make a model with random weights
    Init(InitArgs),
    /// Tell about a model, the devices and what this build can do
    Info(InfoArgs),
}

/// Where ops run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    Auto,
    Cpu,
    Cuda,
    Emulated,
}

/// What the model computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// bf16 on a GPU, f32 on the CPU
    Auto,
    F32,
    Bf16,
}

/// What weights are saved in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SaveDtypeArg {
    F32,
    Bf16,
}

impl From<SaveDtypeArg> for SaveDtype {
    fn from(dtype: SaveDtypeArg) -> Self {
        match dtype {
            SaveDtypeArg::F32 => SaveDtype::F32,
            SaveDtypeArg::Bf16 => SaveDtype::Bf16,
        }
    }
}

/// What happens to a row longer than `--max-length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverlongArg {
    /// Stop before anything is trained
    Error,
    /// Keep the first tokens
    Truncate,
    /// Leave the row out
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EvalStrategyArg {
    No,
    Epoch,
    Steps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScoreArg {
    Before,
    After,
    None,
}

/// The model and where it runs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Hugging Face folder, .gguf file with its tokenizer beside it, or hub id such as google/functiongemma-270m-it
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceArg,
    /// What to compute in
    #[arg(long, value_enum, default_value = "auto")]
    pub dtype: DtypeArg,
}

/// How rows become examples.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Data")]
pub struct RowArgs {
    /// JSON file with the tool declarations of rows that carry none
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
    /// Developer message for rows that have none
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of a row
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = positive)]
    pub max_length: u64,
    /// What to do with a longer row
    #[arg(long, value_enum, default_value = "error")]
    pub overlong: OverlongArg,
    /// Score only the completion: a prompt/completion row's completion, or a chat's last answer [default: true for prompt/completion rows, else false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub completion_only_loss: Option<bool>,
    /// Score only what the assistant says, in every turn
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub assistant_only_loss: bool,
}

/// How answers are generated.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Generation")]
pub struct GenerationArgs {
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    pub max_new_tokens: u64,
    /// Draw tokens with the checkpoint's top_k, top_p and temperature; otherwise always the likeliest
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub do_sample: bool,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// TOML file whose keys are these flags' names with underscores; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Folder for the model, metrics.jsonl and loss.svg
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output_dir: PathBuf,
    /// What weights are saved in
    #[arg(long, value_enum, default_value = "bf16", help_heading = "Output")]
    pub save_dtype: SaveDtypeArg,
    /// On a GPU, capture each training step of a size into a graph and replay it; losses are equal either way
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set, help_heading = "Optimization")]
    pub cuda_graphs: bool,
    /// Steps that one training record sums up
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive, help_heading = "Output")]
    pub logging_steps: u64,
    /// Rows to train on: .jsonl, .json or .parquet file, or hub id
    #[arg(long, value_name = "DATASET", help_heading = "Data")]
    pub dataset: String,
    /// Rows to evaluate and score on
    #[arg(long, value_name = "DATASET", help_heading = "Data", conflicts_with = "test_size")]
    pub eval_dataset: Option<String>,
    /// Part (below 1) or number of the rows to hold out for evaluation
    #[arg(long, value_name = "X", help_heading = "Data", value_parser = positive_number, allow_negative_numbers = true)]
    pub test_size: Option<f64>,
    #[command(flatten)]
    pub rows: RowArgs,
    /// New order of the rows in every epoch; false: file order
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set, help_heading = "Data")]
    pub shuffle: bool,
    #[command(flatten)]
    pub optimization: OptimizationArgs,
    /// When to compute the evaluation loss
    #[arg(long, value_enum, default_value = "epoch", help_heading = "Evaluation")]
    pub eval_strategy: EvalStrategyArg,
    /// Steps between evaluations with `--eval-strategy steps`
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = positive, help_heading = "Evaluation")]
    pub eval_steps: u64,
    /// When to score the answers to the evaluation rows
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        overrides_with = "score",
        default_value = "before,after",
        help_heading = "Evaluation"
    )]
    pub score: Vec<ScoreArg>,
    #[command(flatten)]
    pub generation: GenerationArgs,
}

/// AdamW and what surrounds it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Optimization")]
pub struct OptimizationArgs {
    /// Passes over the rows
    #[arg(long, value_name = "X", default_value_t = 3.0, value_parser = positive_number, allow_negative_numbers = true)]
    pub num_train_epochs: f64,
    /// Updates; wins over the epochs
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_steps: Option<u64>,
    /// Rows of a forward and backward
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub per_device_train_batch_size: u64,
    /// Forwards and backwards of an update
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub gradient_accumulation_steps: u64,
    /// Peak learning rate
    #[arg(long, value_name = "X", default_value_t = 2e-5, value_parser = rate, allow_negative_numbers = true)]
    pub learning_rate: f64,
    /// Learning rate after the warm-up
    #[arg(long, value_enum, default_value = "linear")]
    pub lr_scheduler_type: ScheduleKind,
    /// Updates over which the learning rate rises from 0; below 1: that part of the run
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = rate, allow_negative_numbers = true)]
    pub warmup_steps: f64,
    /// Decoupled weight decay of the matrices
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = rate, allow_negative_numbers = true)]
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; 0: never
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = rate, allow_negative_numbers = true)]
    pub max_grad_norm: f64,
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows to score: .jsonl, .json or .parquet file, or hub id
    #[arg(long, value_name = "DATASET", help_heading = "Data")]
    pub dataset: String,
    #[command(flatten)]
    pub rows: RowArgs,
    #[command(flatten)]
    pub generation: GenerationArgs,
    /// Write every prompt, output and verdict to this JSON file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Also compute the evaluation loss
    #[arg(long)]
    pub loss: bool,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What the user says
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// JSON file with tool declarations
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
    /// Developer message [default with tools: the sentence FunctionGemma was trained with]
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub generation: GenerationArgs,
}

#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// Folder with the tokenizer and the chat template (weights are not needed), or hub id
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// Rows: .jsonl, .json or .parquet file, or hub id
    #[arg(long, value_name = "DATASET", help_heading = "Data")]
    pub dataset: String,
    /// Which row, from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub row: u64,
    #[command(flatten)]
    pub rows: RowArgs,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The GGUF file
    #[arg(long, value_name = "FILE")]
    pub gguf: PathBuf,
    /// Folder with the tokenizer, chat template and configs
    #[arg(long, value_name = "DIR")]
    pub tokenizer: PathBuf,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// What weights are saved in
    #[arg(long, value_enum, default_value = "bf16")]
    pub save_dtype: SaveDtypeArg,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// config.json of the model to make
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Folder with the tokenizer [default: the config's folder]
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// What weights are saved in
    #[arg(long, value_enum, default_value = "f32")]
    pub save_dtype: SaveDtypeArg,
}

#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Hugging Face folder, .gguf file or hub id
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
}

fn positive(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("not a whole number".into()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        Ok(_) => Err("must be a finite number that is not negative".into()),
        Err(_) => Err("not a number".into()),
    }
}

fn positive_number(text: &str) -> Result<f64, String> {
    match rate(text)? {
        0.0 => Err("must be above 0".into()),
        x => Ok(x),
    }
}
