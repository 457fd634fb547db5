//! `engine` fine-tunes FunctionGemma (Gemma 3 270M) for tool calling and scores the result.
pub mod backend;
pub mod data;
pub mod error;
pub mod eval;
pub mod io;
pub mod model;
pub mod ops;
pub mod tape;
pub mod tensor;
pub mod train;
