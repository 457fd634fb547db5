//! The learning rate of every step: constant, linear or cosine, each with an optional warm-up.
//!
//! Equal to transformers' `get_constant_schedule_with_warmup`, `get_linear_schedule_with_warmup` and
//! `get_cosine_schedule_with_warmup` (half a cosine, down to 0).

use std::f64::consts::PI;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the learning rate does after the warm-up (`--lr-scheduler-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Stays at its peak.
    #[default]
    Constant,
    /// Falls in a straight line, to 0 after the last step.
    Linear,
    /// Falls as half a cosine, to 0 after the last step.
    Cosine,
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ScheduleKind::Constant => "constant",
            ScheduleKind::Linear => "linear",
            ScheduleKind::Cosine => "cosine",
        })
    }
}

/// The learning rate as a function of the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What happens after the warm-up.
    pub kind: ScheduleKind,
    /// Steps over which the learning rate rises in a straight line from 0.
    pub warmup_steps: usize,
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
    /// The peak, reached when the warm-up ends.
    pub learning_rate: f64,
}

impl Schedule {
    /// The learning rate of the optimizer step number `step + 1`: `at(0)` is the first step's, and 0 if there is a warm-up.
    pub fn at(&self, step: usize) -> f64 {
        self.learning_rate * self.factor(step)
    }

    fn factor(&self, step: usize) -> f64 {
        let Some(since_warmup) = step.checked_sub(self.warmup_steps) else {
            return step as f64 / self.warmup_steps as f64;
        };
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => self.total_steps.saturating_sub(step) as f64 / decay_steps as f64,
            ScheduleKind::Cosine => {
                let progress = (since_warmup as f64 / decay_steps as f64).min(1.0);
                0.5 * (1.0 + (PI * progress).cos())
            }
        }
    }
}

/// The steps that `--warmup-steps` asks for. `value` is a whole number of steps or, as in transformers, a number below 1: that
/// part of `total_steps`, rounded up (0.1 of 25 steps is 3). Anything else is a usage error.
pub fn warmup_steps(value: f64, total_steps: usize) -> Result<usize> {
    if (0.0..1.0).contains(&value) {
        Ok((total_steps as f64 * value).ceil() as usize)
    } else if value >= 1.0 && value.is_finite() && value.fract() == 0.0 {
        Ok(value as usize)
    } else {
        Err(Error::usage(format!("`--warmup-steps {value}` is neither a number of steps nor a part of the run"))
            .hint("give a whole number of steps, or a number from 0 to below 1 for that part of all steps"))
    }
}
