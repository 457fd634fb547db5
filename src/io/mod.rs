//! Models in and out: hub, Hugging Face folders, safetensors, GGUF.
pub mod safetensors;
