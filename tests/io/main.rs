//! Model files in and out: configs, safetensors, GGUF, output folders, the hub.
mod atomic;
mod config;
#[path = "../damage/mod.rs"]
mod damage;
mod damaged;
mod folder;
mod gguf;
mod gguf_bad_input;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_hostile;
mod random_bytes;
mod real_model;
mod safetensors;
mod safetensors_bad_input;
#[cfg(feature = "hub")]
mod standin;
mod tiny;
