//! From files to tokens: rows -> conversations -> chat template -> [`Example`] -> token tree.

pub mod control;
pub mod dataset;
pub mod functiongemma;
pub mod hub;
pub mod length;
pub mod messages;
pub mod parquet;
pub mod preview;
pub mod python;
pub mod rows;
pub mod strftime;
pub mod template;
pub mod tokenizer;
pub mod tools;
pub mod tree;

pub use dataset::{load_rows, train_test_split};
pub use length::{MaxLength, Overlong};
pub use preview::preview;
pub use rows::{Origin, Row, RowContent, RowOptions, row_warnings};
pub use template::{ChatTemplate, FUNCTIONGEMMA_TEMPLATE};
pub use tokenizer::{ChatTokenizer, LossOn, Prompt};
pub use tools::load_tools;

/// One training or evaluation example as the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Token ids, bos included.
    pub ids: Vec<u32>,
    /// `scored[t]`: token `t` is a target of the loss (`scored[0]` is never used: nothing predicts the first token).
    pub scored: Vec<bool>,
    /// Where it came from: `file:line`.
    pub origin: String,
}
