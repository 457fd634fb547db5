//! FunctionGemma's chat format: its control tokens, how it is written (`template.jinja`), and how a call is read back.
//!
//! The format has corners that look like mistakes; a model has seen them in training, so the template keeps them: properties
//! named like a word of JSON Schema vanish, `parameters` without a `type` loses its closing brace, a user turn straight after
//! a tool response has no opening marker, and raw argument strings are preceded by twenty spaces.

pub mod parser;
pub mod tokens;
