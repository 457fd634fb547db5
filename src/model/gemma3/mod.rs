//! Gemma 3: its configuration, the table of its parameters, and its one forward.

pub mod config;
mod forward;
pub mod table;

pub use forward::{Batch, Gemma3, KvCache};
