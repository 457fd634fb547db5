//! Models in and out: hub, Hugging Face folders, safetensors, GGUF.
mod convert;
pub mod folder;
pub mod gguf;
mod gguf_blocks;
mod gguf_model;
#[cfg(feature = "hub")]
pub mod hub;
pub mod import;
pub mod safetensors;
pub mod source;
