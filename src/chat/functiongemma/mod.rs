//! FunctionGemma's chat format: how it is written, and how a call is read back.

pub mod parser;
mod render;

pub use render::render;
