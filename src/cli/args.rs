//! The command line, declared once: clap's parser and help, and the keys of the config file, come from these structs.
//!
//! Flags stand in the order in which their reader meets them: model, data, optimization, evaluation, generation, output.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand};
use serde::Serialize;

pub use super::batch_args::BatchArgs;
pub use super::choices::*;
pub use super::data_args::{CheckArgs, OverlongArg, RowArgs};
pub use super::export_args::{ExportArgs, PriceArgs, WrittenModelArgs};
pub use super::lora_args::{LoraArgs, MergeArgs};
use super::numbers::{below_one, positive, positive_number, rate};
pub use super::parity_args::ParityArgs;
use crate::cli::hub_args::{HubArgs, PushArgs};
use crate::session::DeviceName;
use crate::train::schedule::ScheduleKwargs;

/// Fine-tunes FunctionGemma (Gemma 3 270M) for tool calling and scores the result.
#[derive(Debug, Parser)]
#[command(
    name = "engine",
    version,
    max_term_width = 100,
    after_help = "Example, with a tiny model that comes with the source:
  engine train --config examples/quickstart/train.toml

`engine COMMAND --help` lists a command's flags, with an example."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fine-tune a model on chats, with its score before and after
    #[command(after_help = "Example:
  engine train --model google/functiongemma-270m-it --dataset train.jsonl --tools tools.json \\
      --eval-dataset test.jsonl --output-dir trained")]
    Train(Box<TrainArgs>),
    /// Score a model on chats: does it call the right tool, with the right arguments?
    #[command(after_help = "Example:
  engine eval --model trained --dataset test.jsonl --tools tools.json --report report.json")]
    Eval(EvalArgs),
    /// Answer one prompt, or a conversation at the terminal
    #[command(after_help = "Example:
  engine generate --model trained --tools tools.json --prompt \"What is the weather in Oslo?\"")]
    Generate(GenerateArgs),
    /// Show a row of a dataset as the model sees it, and which of its tokens are trained on
    #[command(after_help = "Example:
  engine preview --model trained --dataset train.jsonl --tools tools.json --row 3")]
    Preview(PreviewArgs),
    /// Make report.html of a run anew, from the files in its folder
    #[command(after_help = "Example:
  engine report trained")]
    Report {
        /// The output folder of the run
        folder: PathBuf,
    },
    /// Check a dataset before a run: calls that break their tool's schema, tools that the model sees garbled, duplicates
    #[command(after_help = "Example:
  engine check --model trained --dataset train.jsonl --eval-dataset test.jsonl --tools tools.json")]
    Check(CheckArgs),
    /// Compare a model's chat template with the one that it is to be served with, token by token
    #[command(
        long_about = "Compare a model's chat template with the one that it is to be served with, token by token.

Each chat of the dataset is rendered by both: the prompt of every answer, with the true history before it, and the whole \
conversation as it is trained on. Equal tokens are a space, those of the model's template alone a `-`, those of the other one alone \
a `+`, each with its index on either side. Exit code 0: all are equal; 1: some differ.",
        after_help = "Example:
  engine parity --model trained --dataset test.jsonl --tools tools.json --against served.jinja"
    )]
    Parity(ParityArgs),
    /// Push a model to the Hugging Face hub
    #[command(
        long_about = "Push a model to the Hugging Face hub, as one commit.

Pushed are the files of the model, those of its run (run.json with all flags, metrics.jsonl, the plot, TensorBoard's events, \
score_*.json and report.html with the prompts and answers of the evaluation rows) and README.md, \
a model card that is made from run.json if the folder has none. Checkpoints, engine.json, unfinished files and links are not.

The token is that of HF_TOKEN, or of `hf auth login`; HF_ENDPOINT names another hub.",
        after_help = "Example:
  engine push trained --hub-model-id me/my-functiongemma --hub-private"
    )]
    Push(PushArgs),
    /// Convert a GGUF file to a Hugging Face folder
    #[command(after_help = "Example:
  engine import --gguf gemma-3-270m-Q4_K_M.gguf --tokenizer functiongemma-270m-it --output model")]
    Import(ImportArgs),
    /// Add an adapter to the model that it was trained beside, and write the model that they make
    #[command(after_help = "Example:
  engine merge --model google/functiongemma-270m-it --adapter trained --output merged")]
    Merge(MergeArgs),
    /// Write a model as a GGUF file, for llama.cpp and Ollama
    #[command(
        long_about = "Write a model as a GGUF file, for llama.cpp and Ollama.

The file holds weights, tokenizer, chat template and stop tokens. q8_0 has half the size of bf16 and costs next to nothing; q4_0 is \
smaller still and may cost a small model much: `engine eval --as q4_0` tells how much. Beside the file a Modelfile is written \
with which Ollama renders FunctionGemma's prompts and reads its calls: `ollama create NAME -f Modelfile`.

Only models with Gemma's tokenizer can be exported. An export that is killed leaves a hidden file beside the output, `.tmp-` and six letters: \
it may be deleted.",
        after_help = "Example:
  engine export --gguf --type q8_0 --model trained --output trained-q8_0.gguf"
    )]
    Export(ExportArgs),
    /// Create a model with random weights
    #[command(after_help = "Example:
  engine init --config model/config.json --output untrained --seed 1")]
    Init(InitArgs),
    /// Print a script that completes commands and flags in a shell
    #[command(after_help = "Example:
  engine completions bash")]
    Completions {
        /// The shell that it is for
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command into a folder
    #[command(after_help = "Example:
  engine man ~/.local/share/man/man1")]
    Man {
        /// An existing folder
        folder: PathBuf,
    },
    /// Show a model's shape, the available devices and build features
    #[command(after_help = "Example:
  engine info --model trained")]
    Info(InfoArgs),
}

/// The model and where it runs.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Hugging Face folder, .gguf file with its tokenizer beside it, or hub id such as google/functiongemma-270m-it
    #[arg(long, alias = "model-name-or-path", value_name = "MODEL")]
    pub model: String,
    /// Folder of an adapter of the model, of `engine train --lora-r` or PEFT; training goes on with it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Where to compute: auto (a GPU if there is one), cpu, cuda, or cuda:N for the GPU of that number
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceName::Auto)]
    pub device: DeviceName,
    /// Number format to compute in
    #[arg(long, value_name = "DTYPE", value_enum, default_value = "auto")]
    pub dtype: DtypeArg,
    /// As TRL's users ask for it
    #[arg(long, hide = true, overrides_with = "dtype", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    #[serde(skip)]
    pub bf16: Option<bool>,
}

/// How answers are generated.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Generation")]
pub struct GenerationArgs {
    /// Maximum tokens per answer
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    pub max_new_tokens: u64,
    /// Draw each token at random, by the checkpoint's temperature, top_k and top_p; false: always take the most likely one
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub do_sample: bool,
    /// Seed of everything random: drawn tokens and, in training, the order of the rows
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}

#[derive(Clone, Debug, Args, Serialize)]
pub struct TrainArgs {
    /// TOML or YAML file with any of these flags, underscores for hyphens (learning_rate = 1e-4); flags override it. Paths in
    /// it are relative to its folder
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,
    /// Rows to train on: .jsonl, .json, .csv or .parquet file, folder, pattern or hub id; several with commas
    #[arg(long, alias = "dataset-name", value_name = "DATASET", help_heading = "Data")]
    pub dataset: String,
    /// Rows to evaluate and score on; they are not trained on
    #[arg(long, value_name = "DATASET", help_heading = "Data", conflicts_with = "test_size")]
    pub eval_dataset: Option<String>,
    /// Hold out this many rows of the dataset for evaluation; below 1: this fraction of them
    #[arg(long, value_name = "X", help_heading = "Data", value_parser = positive_number, allow_negative_numbers = true)]
    pub test_size: Option<f64>,
    #[command(flatten)]
    #[serde(flatten)]
    pub rows: RowArgs,
    /// Refuse to train on what `engine check` finds, errors and warnings
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = "Data")]
    pub strict: bool,
    /// Shuffle the rows anew in every epoch; false: keep the order of the file
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = "Data")]
    pub shuffle: bool,
    /// Seed of the order of the rows [default: --seed]
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub data_seed: Option<u64>,
    /// Train so many times, each with another order of the rows in a folder `seed-S` of the output folder, and give the mean score
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=30), help_heading = "Data")]
    pub seeds: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub batches: BatchArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub optimization: OptimizationArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub lora: LoraArgs,
    /// When to compute the loss on the evaluation rows
    #[arg(long, value_name = "WHEN", value_enum, default_value = "epoch", help_heading = "Evaluation")]
    pub eval_strategy: EvalStrategyArg,
    /// Updates between evaluations with `--eval-strategy steps`
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = positive, help_heading = "Evaluation")]
    pub eval_steps: u64,
    /// Compute it before the first update too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = "Evaluation")]
    pub eval_on_start: bool,
    /// Wait with it for so many epochs, or updates with `--eval-strategy steps`
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = rate, allow_negative_numbers = true, help_heading = "Evaluation")]
    pub eval_delay: f64,
    /// When to answer the evaluation rows and judge the answers; several with commas
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        value_delimiter = ',',
        overrides_with = "score",
        default_value = "before,after",
        help_heading = "Evaluation"
    )]
    pub score: Vec<ScoreArg>,
    /// What the best model is the best by; for all but eval_loss, answers are generated at each evaluation
    #[arg(long, value_name = "METRIC", value_enum, default_value = "eval_loss", help_heading = "Evaluation")]
    pub metric_for_best_model: MetricArg,
    /// End with the weights of the best evaluation, not the last ones
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = "Evaluation")]
    pub load_best_model_at_end: bool,
    /// Stop when this many evaluations in a row were not the best so far
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Evaluation")]
    pub early_stopping_patience: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    pub generation: GenerationArgs,
    /// Folder for the trained model, checkpoints, metrics.jsonl and the loss plot
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output_dir: PathBuf,
    /// Start anew in a folder that holds a run: its checkpoints go at once, its model stays until the new one is whole. Without effect
    /// where --resume-from-checkpoint is given
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = "Output")]
    pub overwrite_output_dir: bool,
    /// Go on with a run that was stopped, from its newest whole checkpoint or the one in DIR; wins over --overwrite-output-dir
    #[arg(
        long,
        value_name = "latest|DIR",
        num_args = 0..=1,
        default_missing_value = "latest",
        help_heading = "Output"
    )]
    pub resume_from_checkpoint: Option<String>,
    /// When to save the run, so that it can go on from there
    #[arg(long, value_name = "WHEN", value_enum, default_value = "epoch", help_heading = "Output")]
    pub save_strategy: SaveStrategyArg,
    /// Updates between checkpoints with `--save-strategy steps`
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = positive, help_heading = "Output")]
    pub save_steps: u64,
    /// Checkpoints to keep, the newest and the best; 0: all
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Output")]
    pub save_total_limit: u64,
    /// Folder for the model if the disk of the output folder is full at the end [default: wait for room]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub fallback_dir: Option<PathBuf>,
    /// Number format of the saved weights; those of an adapter are saved in f32 [default: bf16; with --qat f32]
    #[arg(long, value_name = "DTYPE", value_enum, help_heading = "Output")]
    pub save_dtype: Option<SaveDtypeArg>,
    /// What to write the measurements for; several with commas
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        value_delimiter = ',',
        overrides_with = "report_to",
        default_value = "tensorboard,jsonl",
        help_heading = "Output"
    )]
    pub report_to: Vec<ReportTo>,
    /// Updates per line of metrics.jsonl and of the log
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive, help_heading = "Output")]
    pub logging_steps: u64,
    /// What stdout is for: a table for people, or a JSON object a line for programs, the last one of type `result`
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Output")]
    pub log_format: LogFormat,
    /// Print where the time of the steps went, by op and by product, beside what this machine could do at best; on the CPU
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = "Output")]
    pub profile: bool,
    /// Do everything but the steps: read and check data, model, settings and folder, and write nothing
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = "Output")]
    pub dry_run: bool,
    /// A line for the first update too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, help_heading = "Output")]
    pub logging_first_step: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub hub: HubArgs,
}

/// AdamW and what surrounds it.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Optimization")]
pub struct OptimizationArgs {
    /// Passes over the training rows
    #[arg(long, aliases = ["epochs", "num-epochs"], value_name = "X", default_value_t = 3.0, value_parser = positive_number, allow_negative_numbers = true)]
    pub num_train_epochs: f64,
    /// Total optimizer updates; overrides --num-train-epochs
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_steps: Option<u64>,
    /// Rows per forward and backward pass
    #[arg(long, aliases = ["batch-size", "train-batch-size"], value_name = "N", default_value_t = 8, value_parser = positive)]
    pub per_device_train_batch_size: u64,
    /// Forward and backward passes per optimizer update
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub gradient_accumulation_steps: u64,
    /// Peak learning rate
    #[arg(long, alias = "lr", value_name = "X", default_value = "2e-5", value_parser = rate, allow_negative_numbers = true)]
    pub learning_rate: f64,
    /// What the learning rate does after the warm-up
    #[arg(long, value_name = "SCHEDULE", value_enum, default_value = "linear")]
    pub lr_scheduler_type: ScheduleArg,
    /// What the schedule takes beside it, by transformers' names: min_lr_rate=0.1, several with commas, or a JSON object
    #[arg(long, value_name = "KEY=X", default_value = "", hide_default_value = true, value_parser = schedule_kwargs)]
    pub lr_scheduler_kwargs: ScheduleKwargs,
    /// Updates in which the learning rate rises from 0 to its peak; below 1: this fraction of the run
    #[arg(long, alias = "warmup-ratio", value_name = "X", default_value_t = 0.0, value_parser = rate, allow_negative_numbers = true)]
    pub warmup_steps: f64,
    /// AdamW's decay of the first moment
    #[arg(long, value_name = "X", default_value_t = 0.9, value_parser = below_one, allow_negative_numbers = true)]
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment
    #[arg(long, value_name = "X", default_value_t = 0.999, value_parser = below_one, allow_negative_numbers = true)]
    pub adam_beta2: f64,
    /// What AdamW adds to the root of the second moment
    #[arg(long, value_name = "X", default_value = "1e-8", value_parser = rate, allow_negative_numbers = true)]
    pub adam_epsilon: f64,
    /// AdamW's weight decay, of matrices only
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = rate, allow_negative_numbers = true)]
    pub weight_decay: f64,
    /// Scale gradients down to this norm; 0: never
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = rate, allow_negative_numbers = true)]
    pub max_grad_norm: f64,
    /// Part of each target's probability that the whole vocabulary shares; the loss is that of such targets
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = below_one, allow_negative_numbers = true)]
    pub label_smoothing_factor: f64,
    /// NEFTune: noise on the embeddings of training rows, at most X / sqrt(tokens of the longest row * width); 0: none
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = rate, allow_negative_numbers = true)]
    pub neftune_noise_alpha: f64,
    /// Compute with the weights as `engine export --type TYPE` rounds them, and update the weights as they are: then the export costs
    /// little. Losses and scores of the run are those of the export
    #[arg(long, value_name = "TYPE", value_enum)]
    pub qat: Option<QatArg>,
    /// Warn of a step whose loss is so many standard deviations above those of the 50 before it; 0: never
    #[arg(long, value_name = "X", default_value_t = 6.0, value_parser = rate, allow_negative_numbers = true)]
    pub loss_spike_z: f64,
    /// What becomes of such a step
    #[arg(long, value_name = "WHAT", value_enum, default_value = "warn")]
    pub loss_spike: LossSpikeArg,
    /// On a GPU, record a step of training or generation once and replay it: faster, with the same results
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub cuda_graphs: bool,
    /// Keep only what enters and leaves each layer for the backward and compute the rest again there: less memory, more time, the same results
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub gradient_checkpointing: bool,
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows to score on: .jsonl, .json, .csv or .parquet file, folder, pattern or hub id; several with commas
    #[arg(long, value_name = "DATASET", help_heading = "Data")]
    pub dataset: String,
    #[command(flatten)]
    pub rows: RowArgs,
    /// Compute the loss on the rows too
    #[arg(long, help_heading = "Evaluation")]
    pub loss: bool,
    #[command(flatten)]
    pub price: PriceArgs,
    #[command(flatten)]
    pub generation: GenerationArgs,
    /// What stdout is for: a table for people, or one JSON object of type `result` for programs
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Output")]
    pub log_format: LogFormat,
    /// Write every prompt, answer and verdict to this JSON file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What the user says
    #[arg(long, value_name = "TEXT", help_heading = "Data")]
    pub prompt: Option<String>,
    /// Go on with what is typed or piped in, a line at a time: what the user says next, or the response of a tool that was called
    #[arg(long, help_heading = "Data")]
    pub chat: bool,
    /// JSON file with the declarations of the tools that the model may call
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub tools: Option<PathBuf>,
    /// Developer message (system prompt) [default with tools: the sentence FunctionGemma was trained with]
    #[arg(long, value_name = "TEXT", help_heading = "Data")]
    pub system: Option<String>,
    #[command(flatten)]
    pub generation: GenerationArgs,
}

#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// Folder with the tokenizer and the chat template (weights are not needed), or hub id
    #[arg(long, value_name = "MODEL", help_heading = "Model")]
    pub model: String,
    /// Rows: .jsonl, .json, .csv or .parquet file, folder, pattern or hub id; several with commas
    #[arg(long, value_name = "DATASET", help_heading = "Data")]
    pub dataset: String,
    /// Number of the row to show, from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive, help_heading = "Data")]
    pub row: u64,
    /// Print the id and the text of every token too, a `*` before the scored ones
    #[arg(long, help_heading = "Data")]
    pub ids: bool,
    #[command(flatten)]
    pub rows: RowArgs,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// GGUF file to convert
    #[arg(long, value_name = "FILE")]
    pub gguf: PathBuf,
    /// Folder with the tokenizer, the chat template and the configs of the original checkpoint
    #[arg(long, value_name = "DIR")]
    pub tokenizer: PathBuf,
    #[command(flatten)]
    pub written: WrittenModelArgs,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// config.json of the model to create
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Folder with the tokenizer [default: the folder of the config]
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Replace the model that the folder holds
    #[arg(long)]
    pub overwrite_output_dir: bool,
    /// Number format of the saved weights
    #[arg(long, value_name = "DTYPE", value_enum, default_value = "f32")]
    pub save_dtype: SaveDtypeArg,
}

#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Hugging Face folder, .gguf file or hub id
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// What stdout is for: people, or one JSON object of type `result` for programs
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

fn schedule_kwargs(text: &str) -> Result<ScheduleKwargs, String> {
    ScheduleKwargs::parse(text).map_err(|error| error.to_string())
}
