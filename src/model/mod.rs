//! Models: what a checkpoint's configuration says, and the forward.

mod fields;
pub mod gemma3;
pub mod generation_config;
