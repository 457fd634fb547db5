//! Gemma 3: its configuration, the table of its parameters, what LoRA trains beside them, and its one forward.

pub mod adapter;
pub mod config;
mod forward;
mod layer;
pub mod lora;
pub mod table;

pub use forward::{Batch, Gemma3, KvCache};
