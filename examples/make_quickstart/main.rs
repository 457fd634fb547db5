//! Makes what the quickstart's model is pretrained from: a tokenizer, a config and synthetic tool-calling chats.
//!
//! The only input is a seed; the same seed gives the same files. Everything is written by this program from the word lists
//! beside it, so that the data is the project's own. The quickstart's rows are read for one purpose: to keep
//! everything that resembles them out of the chats.
//!
//!     cargo run --release --example make_quickstart -- --output-dir target/quickstart

mod chats;
mod config;
mod phrase;
mod pool;
mod tokenizer;
mod tools;
mod words;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Parser;
use engine::error::{Context, Result};
use serde_json::Value;

/// The command line.
#[derive(Parser)]
struct Arguments {
    /// Folder that receives `pretrain.jsonl`, `names.jsonl`, `validation.jsonl` and `model/` (tokenizer and config)
    #[arg(long)]
    output_dir: PathBuf,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rows of `pretrain.jsonl`; each run of `--group` rows shares its tools
    #[arg(long, default_value_t = 64_000)]
    rows: usize,
    /// Rows of `names.jsonl`, likewise
    #[arg(long, default_value_t = 3_840)]
    name_rows: usize,
    /// Rows of `validation.jsonl`
    #[arg(long, default_value_t = 200)]
    validation_rows: usize,
    /// Consecutive rows that declare the same tools in the same order
    #[arg(long, default_value_t = 16)]
    group: usize,
    /// Tokens of the vocabulary, control tokens and bytes included
    #[arg(long, default_value_t = 1_024)]
    vocab_size: usize,
}

fn main() {
    if let Err(error) = run(&Arguments::parse()) {
        eprintln!("{}", error.report());
        std::process::exit(error.exit_code().into());
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let pool = pool::Pool::load()?;
    let model = arguments.output_dir.join("model");
    fs::create_dir_all(&model).context(|| format!("cannot create `{}`", model.display()))?;
    let rows = chats::write_chats(&pool, chats::words_and_tools, arguments.seed, arguments.rows, arguments.group);
    write_rows(&arguments.output_dir.join("pretrain.jsonl"), &rows)?;
    let names = chats::write_chats(&pool, chats::names, arguments.seed + 2, arguments.name_rows, arguments.group);
    write_rows(&arguments.output_dir.join("names.jsonl"), &names)?;
    let validation = chats::write_validation(&pool, arguments.seed + 1, arguments.validation_rows);
    write_rows(&arguments.output_dir.join("validation.jsonl"), &validation)?;

    let tokenizer = tokenizer::train(&rows, arguments.vocab_size)?;
    let files = [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer::tokenizer_config()),
        ("special_tokens_map.json", tokenizer::special_tokens_map()),
        ("config.json", config::config(arguments.vocab_size)),
        ("generation_config.json", config::generation_config()),
    ];
    for (name, value) in files {
        let path = model.join(name);
        fs::write(&path, format!("{value:#}\n")).context(|| format!("cannot write `{}`", path.display()))?;
    }
    println!(
        "{} and {} rows and a vocabulary of {} in `{}`",
        rows.len(),
        validation.len(),
        arguments.vocab_size,
        arguments.output_dir.display()
    );
    Ok(())
}

fn write_rows(path: &Path, rows: &[Value]) -> Result<()> {
    let mut text = Vec::new();
    for row in rows {
        writeln!(text, "{row}").context(|| "cannot format a row")?;
    }
    fs::write(path, text).context(|| format!("cannot write `{}`", path.display()))
}
