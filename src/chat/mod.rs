//! From conversations to tokens: chat templates, control tokens, the tokenizer, and FunctionGemma's format.

pub mod control;
pub mod functiongemma;
pub mod preview;
pub mod python;
pub mod template;
pub mod tokenizer;

pub use preview::preview;
pub use template::{ChatTemplate, FUNCTIONGEMMA_TEMPLATE};
pub use tokenizer::{ChatTokenizer, LossOn, Prompt};
