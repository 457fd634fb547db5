//! Models in and out: the hub's, Hugging Face folders, safetensors, GGUF; files that are written whole or not at all.

pub mod adapter_files;
pub mod arrays;
pub mod atomic;
mod convert;
#[cfg(feature = "hub")]
pub mod download;
pub mod export;
pub mod folder;
pub mod gguf;
mod gguf_blocks;
mod gguf_header;
mod gguf_model;
pub mod gguf_type;
pub mod gguf_vocab;
pub mod import;
pub mod lock;
pub mod manifest;
pub mod model_files;
mod modelfile;
pub mod new_file;
pub mod new_folder;
#[cfg(feature = "hub")]
pub mod publish;
pub mod run_files;
pub mod safetensors;
pub mod source;
mod swap;
mod weight_file;
