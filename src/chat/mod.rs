//! From conversations to tokens: chat templates, control tokens, the tokenizer, and FunctionGemma's format.

pub mod control;
pub mod functiongemma;
mod jinja;
pub mod preview;
pub mod python;
mod sandbox;
mod scored;
pub mod template;
pub mod tokenizer;
pub mod tokenizer_file;

pub use preview::preview;
pub use template::{ChatTemplate, FUNCTIONGEMMA_TEMPLATE};
pub use tokenizer::{ChatTokenizer, LossOn, Prompt};
