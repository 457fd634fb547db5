//! Evaluation loss: the same forward, in trees as large as fit, averaged over all scored tokens.

use crate::autograd::Tape;
use crate::batch::Example;
use crate::batch::tree::TokenTree;
use crate::error::Result;
use crate::model::gemma3::Gemma3;
use crate::ops::cross_entropy::{Objective, linear_cross_entropy};
use crate::ops::results::LossSums;

/// Tokens, before sharing, of one evaluation batch: large, for the more rows, the more prefixes are shared.
const BATCH_TOKENS: usize = 8192;

/// Loss sums over all scored tokens of `examples`, with targets smoothed as in training; `go_on` is asked before each batch and ends
/// it by an error. How they are batched does not change the result: nothing is padded, and the mean is over tokens (TRL
/// averages the means of its batches instead).
pub fn evaluate(
    model: &Gemma3,
    examples: &[Example],
    label_smoothing: f64,
    mut go_on: impl FnMut() -> Result<()>,
) -> Result<LossSums> {
    let objective = Objective { label_smoothing, ..1.0.into() };
    let mut sums = LossSums::default();
    let mut rest = examples;
    while !rest.is_empty() {
        let (batch, tail) = rest.split_at(batch_len(rest));
        rest = tail;
        go_on()?;
        let tree = TokenTree::from_examples(&batch.iter().collect::<Vec<_>>());
        let mut tape = Tape::inference(model.device());
        let hidden = model.forward(&mut tape, &model.batch(&tree)?, None)?;
        sums += linear_cross_entropy(&mut tape, &hidden, &model.embedding(), &tree.targets, objective)?;
    }
    Ok(sums)
}

/// How many of the first examples make a batch: at least one.
fn batch_len(examples: &[Example]) -> usize {
    let mut tokens = 0;
    let fits = examples.iter().take_while(|e| {
        tokens += e.ids.len();
        tokens <= BATCH_TOKENS
    });
    fits.count().max(1)
}
