//! The model: its configuration and the list of its parameters.
pub mod config;
mod fields;
pub mod generation_config;
pub mod param_specs;
