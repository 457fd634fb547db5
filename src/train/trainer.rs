//! The training loop, as TRL's SFTTrainer runs it: batches, accumulation windows, clip, AdamW, evaluation, records.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::batch::Example;
use crate::batch::tree::TokenTree;
use crate::error::{Error, Result};
use crate::model::gemma3::Gemma3;
use crate::ops::adamw::AdamW;
use crate::ops::results::LossSums;
use crate::train::evaluate::evaluate;
use crate::train::metrics::{EvalRecord, Record, TrainRecord};
use crate::train::schedule::Schedule;
use crate::train::step::Step;
use crate::{bail, err};

/// When the evaluation loss is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalStrategy {
    No,
    /// After each epoch, and after the last step.
    Epoch,
    /// After every so many steps.
    Steps(u64),
}

/// What a run does, beside the data.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Examples of one forward and backward.
    pub per_device_train_batch_size: usize,
    /// Forwards and backwards of one update.
    pub gradient_accumulation_steps: usize,
    pub schedule: Schedule,
    pub weight_decay: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    /// Gradients are scaled down to this global norm; 0: never.
    pub max_grad_norm: f64,
    /// None: file order.
    pub shuffle_seed: Option<u64>,
    pub eval_strategy: EvalStrategy,
    /// Steps that one training record sums up.
    pub logging_steps: u64,
    /// Capture steps into graphs and replay them, where the device can.
    pub graphs: bool,
}

/// How a run ended. The model holds the weights of the last good update in every case.
#[derive(Debug)]
pub enum Outcome {
    Finished,
    /// Ctrl-C: the step was finished, the rest was not run.
    Interrupted {
        step: u64,
    },
    /// A loss or gradient that is not finite; the update was not applied.
    Diverged(Error),
}

/// Updates in an epoch of `examples` rows, at least 1.
pub fn steps_per_epoch(examples: usize, options: &TrainOptions) -> u64 {
    let batches = examples.div_ceil(options.per_device_train_batch_size);
    batches.div_ceil(options.gradient_accumulation_steps).max(1) as u64
}

/// A run in progress.
pub struct Trainer<'a> {
    model: &'a mut Gemma3,
    options: &'a TrainOptions,
    train: &'a [Example],
    eval: &'a [Example],
    updates: Step,
    step: u64,
    num_tokens: u64,
    /// What has been summed up since the last record.
    unlogged: Unlogged,
}

/// Sums over the steps since the last training record.
#[derive(Default)]
struct Unlogged {
    steps: u64,
    loss: f64,
    entropy: f64,
    accuracy: f64,
    tokens: u64,
    seconds: f64,
    /// Of the last step.
    grad_norm: f64,
    learning_rate: f64,
}

impl<'a> Trainer<'a> {
    /// Allocates gradients and moments. An error when there is nothing to train on.
    pub fn new(
        model: &'a mut Gemma3,
        options: &'a TrainOptions,
        train: &'a [Example],
        eval: &'a [Example],
    ) -> Result<Self> {
        if train.is_empty() {
            bail!("there is no example to train on");
        }
        let updates = Step::new(model, options.max_grad_norm, options.graphs)?;
        let unlogged = Unlogged::default();
        Ok(Self { model, options, train, eval, updates, step: 0, num_tokens: 0, unlogged })
    }

    /// Runs to the schedule's last step. `observe` gets every record; `stop` is looked at after each step.
    pub fn run(mut self, observe: &mut dyn FnMut(&Record) -> Result<()>, stop: &AtomicBool) -> Result<Outcome> {
        let total = self.options.schedule.total_steps as u64;
        for epoch in 0.. {
            for window in self.windows(epoch) {
                if let Some(error) = self.update(&window)? {
                    return Ok(Outcome::Diverged(error));
                }
                let done = self.step >= total;
                if done || self.step.is_multiple_of(self.options.logging_steps.max(1)) {
                    observe(&Record::Train(self.record()))?;
                }
                if stop.load(Ordering::Relaxed) && !done {
                    return Ok(Outcome::Interrupted { step: self.step });
                }
                if self.evaluation_is_due(done) {
                    observe(&Record::Eval(self.evaluate()?))?;
                }
                if done {
                    return Ok(Outcome::Finished);
                }
            }
        }
        unreachable!("a schedule has a last step")
    }

    /// The windows of an epoch: per update its micro-batches, as indices of examples.
    fn windows(&self, epoch: u64) -> Vec<Vec<Vec<usize>>> {
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        if let Some(seed) = self.options.shuffle_seed {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(epoch);
            order.shuffle(&mut rng);
        }
        let batches: Vec<Vec<usize>> =
            order.chunks(self.options.per_device_train_batch_size).map(<[usize]>::to_vec).collect();
        batches.chunks(self.options.gradient_accumulation_steps).map(<[Vec<usize>]>::to_vec).collect()
    }

    /// One update from a window's micro-batches; Some when the loss or the gradient is not finite.
    fn update(&mut self, window: &[Vec<usize>]) -> Result<Option<Error>> {
        let started = Instant::now();
        let learning_rate = self.options.schedule.at(self.step as usize);
        let tree = |indices: &Vec<usize>| {
            TokenTree::from_examples(&indices.iter().map(|&i| &self.train[i]).collect::<Vec<_>>())
        };
        let result = self.updates.run(self.model, window.iter().map(tree).collect(), &self.hyper(learning_rate))?;
        let (sums, grad_norm) = (result.sums, result.grad_norm);
        // No scored token: loss 0, not 0/0.
        let scored = sums.scored.max(1.0);
        if !result.is_finite() {
            return Ok(Some(self.diverged(sums.loss / scored, grad_norm, window)));
        }
        self.step += 1;
        let tokens: usize = window.iter().flatten().map(|&i| self.train[i].ids.len()).sum();
        self.num_tokens += tokens as u64;
        self.unlogged.add(&sums, scored, (grad_norm, learning_rate), (tokens as u64, started.elapsed().as_secs_f64()));
        Ok(None)
    }

    /// The next update's numbers.
    fn hyper(&self, learning_rate: f64) -> AdamW {
        let TrainOptions { betas, eps, weight_decay, .. } = *self.options;
        AdamW { learning_rate, betas, eps, weight_decay, step: self.step + 1 }
    }

    fn diverged(&self, loss: f64, grad_norm: f64, window: &[Vec<usize>]) -> Error {
        let rows: Vec<&str> = window.iter().flatten().map(|&i| self.train[i].origin.as_str()).collect();
        err!("step {}: loss {loss}, gradient norm {grad_norm}; rows of the batch: {}", self.step + 1, rows.join(", "))
            .hint("lower `--learning-rate`, or look at these rows with `engine preview`")
    }

    fn evaluation_is_due(&self, done: bool) -> bool {
        if self.eval.is_empty() {
            return false;
        }
        match self.options.eval_strategy {
            EvalStrategy::No => false,
            EvalStrategy::Epoch => done || self.step.is_multiple_of(steps_per_epoch(self.train.len(), self.options)),
            EvalStrategy::Steps(n) => done || self.step.is_multiple_of(n),
        }
    }

    fn evaluate(&self) -> Result<EvalRecord> {
        let started = Instant::now();
        let sums = evaluate(self.model, self.eval)?;
        let scored = sums.scored.max(1.0);
        Ok(EvalRecord {
            step: self.step,
            epoch: self.epoch(),
            eval_loss: sums.loss / scored,
            eval_entropy: sums.entropy / scored,
            eval_mean_token_accuracy: sums.correct / scored,
            eval_seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Epochs done so far.
    fn epoch(&self) -> f64 {
        self.step as f64 / steps_per_epoch(self.train.len(), self.options) as f64
    }

    /// The record of the steps since the last one: means, and the last step's gradient norm and learning rate.
    fn record(&mut self) -> TrainRecord {
        let sums = std::mem::take(&mut self.unlogged);
        let steps = sums.steps.max(1) as f64;
        TrainRecord {
            step: self.step,
            epoch: self.epoch(),
            loss: sums.loss / steps,
            grad_norm: sums.grad_norm,
            learning_rate: sums.learning_rate,
            entropy: sums.entropy / steps,
            mean_token_accuracy: sums.accuracy / steps,
            num_tokens: self.num_tokens,
            step_seconds: sums.seconds / steps,
            tokens_per_second: sums.tokens as f64 / sums.seconds,
        }
    }
}

impl Unlogged {
    fn add(&mut self, sums: &LossSums, scored: f64, (norm, rate): (f64, f64), (tokens, seconds): (u64, f64)) {
        self.steps += 1;
        self.loss += sums.loss / scored;
        self.entropy += sums.entropy / scored;
        self.accuracy += sums.correct / scored;
        (self.grad_norm, self.learning_rate) = (norm, rate);
        self.tokens += tokens;
        self.seconds += seconds;
    }
}
