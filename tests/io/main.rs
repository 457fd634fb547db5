//! Model files in and out: configs, safetensors, GGUF, output folders, the hub.
mod atomic;
mod config;
mod folder;
mod gguf;
mod gguf_bad_input;
#[cfg(feature = "hub")]
mod hub;
mod real_model;
mod safetensors;
mod safetensors_bad_input;
mod tiny;
