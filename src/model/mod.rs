//! The model: its configuration, the table of its parameters, and its one forward.
pub mod config;
pub mod generation_config;
pub mod gemma3;
pub mod param_specs;
pub mod params;
