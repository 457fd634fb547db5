//! Models in and out: hub, Hugging Face folders, safetensors, GGUF.
mod convert;
pub mod folder;
pub mod gguf;
mod gguf_blocks;
mod gguf_model;
pub mod import;
pub mod safetensors;
pub mod source;
