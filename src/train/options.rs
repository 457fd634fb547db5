//! What a training run does, beside model and data: the options of TRL's `SFTConfig` that this engine has.

use crate::error::Result;
use crate::train::schedule::{Schedule, ScheduleKind, warmup_steps};

/// When the evaluation loss is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvalStrategy {
    No,
    /// After each epoch, and after the last step.
    #[default]
    Epoch,
    /// After every so many steps, and after the last one.
    Steps(u64),
}

/// The settings of a run. The defaults are those of the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// Passes over the rows; a part of one is fine.
    pub num_train_epochs: f64,
    /// Updates of the weights; None: as many as the epochs have.
    pub max_steps: Option<u64>,
    /// Rows of one forward and backward.
    pub per_device_train_batch_size: usize,
    /// Forwards and backwards of one update.
    pub gradient_accumulation_steps: usize,
    /// The peak.
    pub learning_rate: f64,
    /// What the learning rate does after the warm-up.
    pub lr_scheduler_type: ScheduleKind,
    /// Updates over which the learning rate rises from 0; below 1: that part of the run.
    pub warmup_steps: f64,
    /// Of matrices; vectors never decay.
    pub weight_decay: f64,
    /// AdamW's decay of the two moments.
    pub betas: (f64, f64),
    pub eps: f64,
    /// Gradients are scaled down to this global norm; 0: never.
    pub max_grad_norm: f64,
    /// A new order of the rows in each epoch; otherwise the order of the file.
    pub shuffle: bool,
    /// The orders follow from it.
    pub seed: u64,
    pub eval_strategy: EvalStrategy,
    /// Updates per training record.
    pub logging_steps: u64,
    /// Capture steps into graphs and replay them, where the device can.
    pub cuda_graphs: bool,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            num_train_epochs: 3.0,
            max_steps: None,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            learning_rate: 2e-5,
            lr_scheduler_type: ScheduleKind::Linear,
            warmup_steps: 0.0,
            weight_decay: 0.0,
            betas: (0.9, 0.999),
            eps: 1e-8,
            max_grad_norm: 1.0,
            shuffle: true,
            seed: 42,
            eval_strategy: EvalStrategy::Epoch,
            logging_steps: 1,
            cuda_graphs: true,
        }
    }
}

impl TrainOptions {
    /// Updates in an epoch of `examples` rows, at least 1.
    pub fn steps_per_epoch(&self, examples: usize) -> u64 {
        let batches = examples.div_ceil(self.per_device_train_batch_size.max(1));
        batches.div_ceil(self.gradient_accumulation_steps.max(1)).max(1) as u64
    }

    /// The learning rates of a run over `examples` rows, and with them its length.
    ///
    /// # Errors
    /// A usage error: `warmup_steps` is neither a number of steps nor a part of the run.
    pub fn schedule(&self, examples: usize) -> Result<Schedule> {
        let epochs = || (self.num_train_epochs * self.steps_per_epoch(examples) as f64).ceil() as u64;
        let total_steps = self.max_steps.unwrap_or_else(epochs) as usize;
        Ok(Schedule {
            kind: self.lr_scheduler_type,
            warmup_steps: warmup_steps(self.warmup_steps, total_steps)?,
            total_steps,
            learning_rate: self.learning_rate,
        })
    }
}
