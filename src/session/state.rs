//! All that a run knows beside its settings and its data: a run that goes on from its state is equal to the bit to one that
//! never stopped.

use serde::{Deserialize, Serialize};

use super::selection::Selection;
use crate::ops::results::LossSums;
use crate::train::spike::RecentLosses;

/// The state of a run between two of its steps. It belongs to no device.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The master weights of what is trained, in the order of its table.
    pub weights: Vec<f32>,
    /// AdamW's first and second moments, in the same order.
    pub moments: [Vec<f32>; 2],
    pub progress: Progress,
}

/// The state but for its three long runs of numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Where the run is in its data.
    pub position: Position,
    /// The last update that has changed the weights, where their copy in bf16 is rounded by its number; none before the first.
    /// Others were skipped.
    #[serde(default)]
    pub split_by: Option<u64>,
    /// What the order of the rows follows from, together with the epoch: all that is random in training. None: the rows
    /// are not shuffled.
    pub shuffle_seed: Option<u64>,
    /// An evaluation is due before the next update.
    pub evaluation_due: bool,
    /// A checkpoint is due before the next update.
    pub save_due: bool,
    /// Input tokens seen, prompts included, shared prefixes counted in every row.
    pub num_tokens: u64,
    /// What no record has told yet.
    pub unlogged: Unlogged,
    /// What the next losses are compared with.
    #[serde(default)]
    pub recent: RecentLosses,
    /// Seconds that the run has taken.
    pub seconds: f64,
    /// What the evaluations so far have shown.
    pub selection: Selection,
}

impl Progress {
    /// The update that the weights are of.
    pub fn weights_of(&self) -> u64 {
        self.split_by.unwrap_or(self.position.step)
    }
}

/// Where a run is in its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Updates done.
    pub step: u64,
    /// Whole passes over the rows done.
    pub epoch: u64,
    /// Updates done in the pass that has begun.
    pub window: usize,
}

/// Sums over the updates since the last training record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unlogged {
    pub steps: u64,
    /// Of the updates' means.
    pub loss: f64,
    pub entropy: f64,
    pub accuracy: f64,
    pub tokens: u64,
    pub seconds: f64,
    /// Of the last update.
    pub grad_norm: f64,
    pub learning_rate: f64,
}

impl Unlogged {
    /// Adds an update that scored `sums`, saw so many tokens and took so many seconds.
    pub(super) fn add(&mut self, sums: &LossSums, tokens: u64, seconds: f64) {
        // No scored token: loss 0, not 0/0.
        let scored = sums.scored.max(1.0);
        self.steps += 1;
        self.loss += sums.loss / scored;
        self.entropy += sums.entropy / scored;
        self.accuracy += sums.correct / scored;
        self.tokens += tokens;
        self.seconds += seconds;
    }
}
