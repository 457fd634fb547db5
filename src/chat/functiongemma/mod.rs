//! FunctionGemma's chat format: its control tokens, how it is written (`template.jinja`), and how a call is read back.

pub mod parser;
mod render;
pub mod tokens;

pub use render::render;
