//! Models: what a checkpoint's configuration says, and the forward.

pub(crate) mod fields;
pub mod gemma3;
pub mod generation_config;
