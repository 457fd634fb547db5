//! Losses that stand out from those before them: a bad row, or a learning rate that is too high.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// So many losses are compared with.
const WINDOW: usize = 50;
/// With fewer a deviation says nothing.
const LEAST: usize = 20;
/// Losses that hardly differ make every difference large: no deviation below this part of the mean counts.
const FLOOR: f64 = 0.05;

/// The losses of the last steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecentLosses(VecDeque<f64>);

impl RecentLosses {
    /// Takes in the loss of a step. By how many standard deviations of those before it, it is above their mean; None while they are
    /// too few.
    ///
    /// A loss above `most` deviations (0: no bound) is kept as one of so many: what stood out once stands out the next time, and a
    /// level that lasts is got used to.
    pub fn add(&mut self, loss: f64, most: f64) -> Option<f64> {
        let n = self.0.len() as f64;
        let mean = self.0.iter().sum::<f64>() / n;
        let variance = self.0.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0);
        let deviation = variance.sqrt().max(FLOOR * mean.abs());
        let z = (self.0.len() >= LEAST).then(|| (loss - mean) / deviation).filter(|z| z.is_finite());
        let stands_out = most > 0.0 && z.is_some_and(|z| z > most);
        if self.0.len() == WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(if stands_out { mean + most * deviation } else { loss });
        z
    }
}
