//! Flags of what leaves for other programs.

use std::path::PathBuf;

use clap::Args;

use super::choices::GgufTypeArg;

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
