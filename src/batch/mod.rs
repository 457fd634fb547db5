//! A batch: examples as a token tree, who sees whom in it, and what of it is sent to the device.

pub mod growth;
pub mod inputs;
pub mod mask;
pub mod tree;

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
