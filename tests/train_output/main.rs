//! What a training run shows and leaves behind: learning rates, metrics, the loss plot, progress.

mod metrics;
mod plot;
mod progress;
mod schedule;
mod tensorboard;

use engine::train::metrics::{EvalRecord, TrainRecord};

/// A training record at `step` of five to the epoch.
fn train_record(step: u64, loss: f64) -> TrainRecord {
    TrainRecord {
        step,
        epoch: step as f64 / 5.0,
        loss,
        grad_norm: 122.61,
        learning_rate: 5e-5,
        entropy: 0.5906,
        mean_token_accuracy: 0.8889,
        num_tokens: 648 * step,
        step_seconds: 0.5,
        tokens_per_second: 1296.0,
    }
}

/// An evaluation record after `epoch` epochs of five steps.
fn eval_record(epoch: u64, eval_loss: f64) -> EvalRecord {
    EvalRecord {
        step: 5 * epoch,
        epoch: epoch as f64,
        eval_loss,
        eval_entropy: 0.25,
        eval_mean_token_accuracy: 0.9375,
        eval_seconds: 1.5,
        scores: Default::default(),
    }
}
