//! Which model of a run is the best so far, and whether it is worth going on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::eval::report::Score;
use crate::train::options::Metric;

/// What the evaluations of a run have shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// The best value of the metric, and the step that it was measured after.
    pub best: Option<Best>,
    /// Evaluations since then.
    pub without_improvement: u64,
}

/// The best value so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub value: f64,
    pub step: u64,
}

impl Selection {
    /// Takes in a value that was measured after `step`. Whether it is the best so far: the first of equal ones is.
    pub(super) fn improves(&mut self, metric: Metric, value: f64, step: u64) -> bool {
        let better = |best: Best| if metric.is_better_when_lower() { value < best.value } else { value > best.value };
        let improved = value.is_finite() && self.best.is_none_or(better);
        if improved {
            self.best = Some(Best { value, step });
            self.without_improvement = 0;
        } else {
            self.without_improvement += 1;
        }
        improved
    }
}

/// The lines of a score as parts of the answers, 0 to 1, by the names that metrics have.
pub fn score_lines(score: &Score) -> BTreeMap<String, f64> {
    let part = |count: usize| count as f64 / score.total.max(1) as f64;
    let lines = [
        (Metric::Score, score.correct),
        (Metric::Format, score.strict.format_valid),
        (Metric::Name, score.strict.name),
        (Metric::Arguments, score.strict.arguments),
        (Metric::Exact, score.strict.exact),
    ];
    lines.into_iter().map(|(metric, count)| (metric.name().to_owned(), part(count))).collect()
}
