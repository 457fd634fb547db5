//! The learning rate of every step: transformers' schedules, each with an optional warm-up.
//!
//! Equal to the functions of `transformers.optimization` that `--lr-scheduler-type` names there, but that `constant` has a warm-up if
//! one is asked for.

use std::f64::consts::PI;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the learning rate does after the warm-up (`--lr-scheduler-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Stays at its peak.
    #[default]
    Constant,
    /// Falls in a straight line, to 0 after the last step.
    Linear,
    /// Falls as half a cosine, to 0 after the last step; `num_cycles` 0.5.
    Cosine,
    /// Falls as half a cosine `num_cycles` (1) times.
    CosineWithRestarts,
    /// Falls as half a cosine to `min_lr`, or to the part `min_lr_rate` of the peak.
    CosineWithMinLr,
    /// Falls as a `power` (1) of what is left, to `lr_end` (1e-7).
    Polynomial,
    /// Falls as 1 / sqrt(step / `timescale`); `timescale` is the warm-up, 10,000 without one.
    InverseSqrt,
}

impl ScheduleKind {
    /// As transformers names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::CosineWithRestarts => "cosine_with_restarts",
            Self::CosineWithMinLr => "cosine_with_min_lr",
            Self::Polynomial => "polynomial",
            Self::InverseSqrt => "inverse_sqrt",
        }
    }

    /// The keys of `--lr-scheduler-kwargs` that it takes.
    fn takes(self) -> &'static [&'static str] {
        match self {
            Self::Constant | Self::Linear => &[],
            Self::Cosine | Self::CosineWithRestarts => &["num_cycles"],
            Self::CosineWithMinLr => &["num_cycles", "min_lr", "min_lr_rate"],
            Self::Polynomial => &["power", "lr_end"],
            Self::InverseSqrt => &["timescale"],
        }
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What some schedules take beside the warm-up (`--lr-scheduler-kwargs`); None: transformers' default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleKwargs {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_cycles: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// A learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_end: Option<f64>,
    /// A learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// A part of the peak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_rate: Option<f64>,
    /// Steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timescale: Option<f64>,
}

impl ScheduleKwargs {
    /// From a JSON object, `{"min_lr_rate": 0.1}`, or the same shorter, `min_lr_rate=0.1`, several with commas.
    ///
    /// # Errors
    /// A usage error: it is neither, or has a key or a value that no schedule takes.
    pub fn parse(text: &str) -> Result<Self> {
        let object = if text.trim_start().starts_with('{') {
            text.to_owned()
        } else {
            let pairs = text.split(',').map(|pair| match pair.split_once('=') {
                Some((key, value)) => format!("{:?}: {}", key.trim(), value.trim()),
                None => pair.to_owned(),
            });
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        };
        let parsed: Self = serde_json::from_str(&object).map_err(|error| {
            Error::usage(format!(
                "{error}; numbers by name are asked for, such as `min_lr_rate=0.1` or `{{\"min_lr_rate\": 0.1}}`"
            ))
        })?;
        match parsed.given().into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            Some((key, value)) => Err(Error::usage(format!("`{key}` cannot be {value}"))),
            None => Ok(parsed),
        }
    }

    fn given(&self) -> Vec<(&'static str, f64)> {
        let all = [
            ("num_cycles", self.num_cycles),
            ("power", self.power),
            ("lr_end", self.lr_end),
            ("min_lr", self.min_lr),
            ("min_lr_rate", self.min_lr_rate),
            ("timescale", self.timescale),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// Whether `kind` takes these, and has what it needs, with the peak `learning_rate`.
    ///
    /// # Errors
    /// A usage error: it does not, or has not.
    pub fn check(&self, kind: ScheduleKind, learning_rate: f64) -> Result<()> {
        if let Some((key, _)) = self.given().into_iter().find(|(key, _)| !kind.takes().contains(key)) {
            let takes = match kind.takes() {
                [] => "nothing".to_owned(),
                keys => format!("`{}`", keys.join("`, `")),
            };
            return Err(Error::usage(format!(
                "`--lr-scheduler-kwargs`: `{kind}` does not take `{key}`; it takes {takes}"
            )));
        }
        match kind {
            ScheduleKind::CosineWithMinLr if self.min_lr.is_some() == self.min_lr_rate.is_some() => Err(Error::usage(
                "`--lr-scheduler-type cosine_with_min_lr` needs `min_lr` or `min_lr_rate`, one of the two",
            )
            .hint("for example `--lr-scheduler-kwargs min_lr_rate=0.1`")),
            ScheduleKind::Polynomial if self.lr_end() >= learning_rate => Err(Error::usage(format!(
                "`--lr-scheduler-type polynomial` ends at `lr_end` {:e}, which is not below the peak {learning_rate:e}",
                self.lr_end()
            ))),
            ScheduleKind::InverseSqrt if self.timescale == Some(0.0) => {
                Err(Error::usage("`--lr-scheduler-kwargs`: `timescale` must be above 0"))
            }
            _ => Ok(()),
        }
    }

    fn lr_end(&self) -> f64 {
        self.lr_end.unwrap_or(1e-7)
    }
}

/// As [`ScheduleKwargs::parse`] reads it.
impl fmt::Display for ScheduleKwargs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.given().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&pairs.join(","))
    }
}

/// The learning rate as a function of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Schedule {
    /// What happens after the warm-up.
    pub kind: ScheduleKind,
    pub kwargs: ScheduleKwargs,
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
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = (since_warmup as f64 / decay_steps).min(1.0);
        let kwargs = &self.kwargs;
        let cosine = |cycles: f64| 0.5 * (1.0 + (PI * cycles).cos());
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => self.total_steps.saturating_sub(step) as f64 / decay_steps,
            ScheduleKind::Cosine => cosine(2.0 * kwargs.num_cycles.unwrap_or(0.5) * progress).max(0.0),
            ScheduleKind::CosineWithRestarts if progress >= 1.0 => 0.0,
            ScheduleKind::CosineWithRestarts => cosine(kwargs.num_cycles.unwrap_or(1.0) * progress % 1.0).max(0.0),
            ScheduleKind::CosineWithMinLr => {
                let least = kwargs.min_lr_rate.unwrap_or(kwargs.min_lr.unwrap_or(0.0) / self.learning_rate);
                let falling = cosine(2.0 * kwargs.num_cycles.unwrap_or(0.5) * progress);
                (falling * (1.0 - least) + least).max(0.0)
            }
            ScheduleKind::Polynomial => {
                let range = self.learning_rate - kwargs.lr_end();
                (range * (1.0 - progress).powf(kwargs.power.unwrap_or(1.0)) + kwargs.lr_end()) / self.learning_rate
            }
            ScheduleKind::InverseSqrt => {
                let warmup = self.warmup_steps as f64;
                let timescale = kwargs.timescale.unwrap_or(if warmup > 0.0 { warmup } else { 10_000.0 });
                1.0 / ((step as f64 + timescale - warmup) / timescale).sqrt()
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
