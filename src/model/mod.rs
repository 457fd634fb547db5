//! The model: its configuration, the table of its parameters, and its one forward.
pub mod config;
mod fields;
pub mod gemma3;
pub mod generation_config;
pub mod param_specs;
pub mod params;
