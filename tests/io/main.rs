//! Model files in and out: configs, safetensors, GGUF, output folders, the hub.
mod adapter;
mod atomic;
mod config;
#[path = "../damage/mod.rs"]
mod damage;
mod damaged;
mod export;
mod export_bad_input;
mod exportable;
mod folder;
mod gguf;
mod gguf_bad_input;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_hostile;
#[cfg(feature = "hub")]
mod push;
#[cfg(feature = "hub")]
mod push_refused;
mod random_bytes;
mod real_model;
mod safetensors;
mod safetensors_bad_input;
#[cfg(feature = "hub")]
mod standin;
#[cfg(feature = "hub")]
mod standin_serves;
#[cfg(feature = "hub")]
mod standin_upload;
mod tiny;
