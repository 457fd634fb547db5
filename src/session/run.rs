//! A training run, as TRL's `SFTTrainer` does it: batches, accumulation windows, clip, AdamW, evaluations, records. Whoever
//! has one may step it, stop it, look at its model, and take its state out.

use std::time::Instant;

use super::observer::Observer;
use super::state::{Position, State, Unlogged};
use crate::batch::Example;
use crate::batch::tree::TokenTree;
use crate::device::{DType, Purpose, Tensor};
use crate::err;
use crate::error::{Error, Kind, Result};
use crate::model::gemma3::Gemma3;
use crate::ops::adamw::AdamW;
use crate::train::evaluate::evaluate;
use crate::train::metrics::{EvalRecord, Record, SummaryRecord, TrainRecord, peak_memory_bytes};
use crate::train::options::{EvalStrategy, TrainOptions};
use crate::train::order::{Window, windows};
use crate::train::schedule::Schedule;
use crate::train::step::Step;

/// What a step of a run did.
#[derive(Debug)]
pub enum Outcome {
    /// One update of the weights.
    Updated,
    /// The loss of the evaluation examples was computed.
    Evaluated,
    /// Nothing: the run has done all that it should.
    Finished,
    /// Nothing: the loss or the gradient of the update is not finite. The weights are those of the last good update.
    Diverged(Error),
}

/// What a run leaves.
pub struct Trained {
    pub model: Gemma3,
    /// Why observers were told no more. The model is not touched by it.
    pub failures: Vec<Error>,
}

/// A run in progress.
pub struct Run {
    model: Gemma3,
    train: Vec<Example>,
    eval: Vec<Example>,
    options: TrainOptions,
    schedule: Schedule,
    updates: Step,
    position: Position,
    /// Of the epoch that the position is in.
    windows: Vec<Window>,
    evaluation_due: bool,
    num_tokens: u64,
    unlogged: Unlogged,
    started: Instant,
    /// Before it was put back from a state.
    seconds_before: f64,
    observers: Vec<Box<dyn Observer>>,
    failures: Vec<Error>,
}

impl Run {
    /// Makes everything ready for the first step: gradients, moments, the order of the rows.
    ///
    /// # Errors
    /// There is nothing to train on, the options contradict themselves, or memory is short.
    pub fn prepare(model: Gemma3, train: Vec<Example>, eval: Vec<Example>, options: TrainOptions) -> Result<Self> {
        if train.is_empty() {
            return Err(err!("there is no example to train on").of_kind(Kind::Data));
        }
        let schedule = options.schedule(train.len())?;
        let updates = Step::new(&model, options.max_grad_norm, options.cuda_graphs)?;
        Ok(Self {
            windows: windows(&options, train.len(), 0),
            model,
            train,
            eval,
            options,
            schedule,
            updates,
            position: Position::default(),
            evaluation_due: false,
            num_tokens: 0,
            unlogged: Unlogged::default(),
            started: Instant::now(),
            seconds_before: 0.0,
            observers: Vec::new(),
            failures: Vec::new(),
        })
    }

    /// The run that `state` was taken out of, with the same examples and options. `model` gives its shape and its device;
    /// its weights are replaced by those of the state.
    ///
    /// # Errors
    /// As [`Run::prepare`], or the state is not of such a run.
    pub fn from_state(
        state: State,
        model: Gemma3,
        train: Vec<Example>,
        eval: Vec<Example>,
        options: TrainOptions,
    ) -> Result<Self> {
        let mut run = Self::prepare(with_weights(model, &state)?, train, eval, options)?;
        run.check_fits(&state)?;
        run.updates.set_moments(&state.moments)?;
        run.windows = windows(&run.options, run.train.len(), state.position.epoch);
        run.position = state.position;
        run.evaluation_due = state.evaluation_due;
        run.num_tokens = state.num_tokens;
        run.unlogged = state.unlogged;
        run.seconds_before = state.seconds;
        Ok(run)
    }

    /// All that a run needs to go on from here, copied out of it.
    ///
    /// # Errors
    /// The device fails, or the master weights are not f32.
    pub fn state(&self) -> Result<State> {
        let values = &self.model.params.values;
        if values.dtype() != DType::F32 {
            return Err(err!("internal: the state of a run whose master weights are {:?}", values.dtype()));
        }
        let (m, v) = self.updates.moments();
        Ok(State {
            weights: values.download()?,
            moments: [m.download()?, v.download()?],
            position: self.position,
            shuffle_seed: self.shuffle_seed(),
            evaluation_due: self.evaluation_due,
            num_tokens: self.num_tokens,
            unlogged: self.unlogged.clone(),
            seconds: self.seconds(),
        })
    }

    /// Tells `observer` of everything from now on.
    pub fn observe(&mut self, observer: impl Observer + 'static) {
        self.observers.push(Box::new(observer));
    }

    /// The model as of the last update.
    pub fn model(&self) -> &Gemma3 {
        &self.model
    }

    /// Where the run is in its data.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Updates that the run does in all.
    pub fn total_steps(&self) -> u64 {
        self.schedule.total_steps as u64
    }

    /// Whether all updates are done. An evaluation may still be due.
    pub fn is_trained(&self) -> bool {
        self.position.step >= self.total_steps()
    }

    /// Does the next thing: an update, or the evaluation that is due after one. Between two steps a run may be stopped,
    /// looked at, and its state taken out.
    ///
    /// # Errors
    /// The device fails.
    pub fn step(&mut self) -> Result<Outcome> {
        if self.evaluation_due {
            let record = self.evaluate()?;
            self.evaluation_due = false;
            self.tell(&Record::Eval(record));
            return Ok(Outcome::Evaluated);
        }
        if self.is_trained() {
            return Ok(Outcome::Finished);
        }
        if let Some(error) = self.update()? {
            return Ok(Outcome::Diverged(error));
        }
        self.evaluation_due = self.evaluates_here();
        if self.is_trained() || self.position.step.is_multiple_of(self.options.logging_steps.max(1)) {
            let record = self.record();
            self.tell(&Record::Train(record));
        }
        Ok(Outcome::Updated)
    }

    /// Steps until the run is finished or has diverged.
    ///
    /// # Errors
    /// It diverged, or the device fails.
    pub fn run_to_end(&mut self) -> Result<()> {
        loop {
            match self.step()? {
                Outcome::Updated | Outcome::Evaluated => {}
                Outcome::Finished => return Ok(()),
                Outcome::Diverged(error) => return Err(error),
            }
        }
    }

    /// Ends the run, finished or not: the observers get the summary and their end, what only training needs is freed.
    pub fn finish(mut self) -> Trained {
        let train_runtime = self.seconds();
        self.tell(&Record::Summary(SummaryRecord { train_runtime, peak_memory_bytes: peak_memory_bytes() }));
        self.tell_each(&mut |observer| observer.end());
        // From now on the model answers as the one that will be saved, whose weights are rounded to nearest.
        if let Err(error) = self.model.params.renew_copy(None) {
            self.failures.push(error);
        }
        Trained { model: self.model, failures: self.failures }
    }

    /// One update from the next window's micro-batches; Some when the loss or the gradient is not finite.
    fn update(&mut self) -> Result<Option<Error>> {
        let started = Instant::now();
        let learning_rate = self.schedule.at(self.position.step as usize);
        let window = &self.windows[self.position.window];
        let tree = |indices: &Vec<usize>| {
            TokenTree::from_examples(&indices.iter().map(|&i| &self.train[i]).collect::<Vec<_>>())
        };
        let trees = window.iter().map(tree).collect();
        let TrainOptions { betas, eps, weight_decay, .. } = self.options;
        let step = self.position.step + 1;
        let hyper = AdamW { learning_rate, betas, eps, weight_decay, step };
        let result = self.updates.run(&mut self.model, trees, &hyper)?;
        if !result.is_finite() {
            let loss = result.sums.loss / result.sums.scored.max(1.0);
            return Ok(Some(self.diverged(loss, result.grad_norm, window)));
        }
        let tokens = window.iter().flatten().map(|&i| self.train[i].ids.len() as u64).sum();
        self.num_tokens += tokens;
        self.unlogged.add(&result.sums, tokens, started.elapsed().as_secs_f64());
        (self.unlogged.grad_norm, self.unlogged.learning_rate) = (result.grad_norm, learning_rate);
        self.advance();
        Ok(None)
    }

    /// To the next window, which may be the first of a new epoch.
    fn advance(&mut self) {
        let Position { step, epoch, window } = self.position;
        self.position = Position { step: step + 1, epoch, window: window + 1 };
        if window + 1 == self.windows.len() {
            self.position = Position { step: step + 1, epoch: epoch + 1, window: 0 };
            self.windows = windows(&self.options, self.train.len(), epoch + 1);
        }
    }

    fn diverged(&self, loss: f64, grad_norm: f64, window: &Window) -> Error {
        let rows: Vec<&str> = window.iter().flatten().map(|&i| self.train[i].origin.as_str()).collect();
        let step = self.position.step + 1;
        err!("step {step}: loss {loss}, gradient norm {grad_norm}; rows of the batch: {}", rows.join(", "))
            .hint("lower `--learning-rate`, or look at these rows with `engine preview`")
    }

    /// Whether an evaluation follows the update that was just done.
    fn evaluates_here(&self) -> bool {
        if self.eval.is_empty() {
            return false;
        }
        match self.options.eval_strategy {
            EvalStrategy::No => false,
            EvalStrategy::Epoch => self.is_trained() || self.position.window == 0,
            EvalStrategy::Steps(n) => self.is_trained() || self.position.step.is_multiple_of(n.max(1)),
        }
    }

    fn evaluate(&self) -> Result<EvalRecord> {
        let started = Instant::now();
        let sums = evaluate(&self.model, &self.eval)?;
        let scored = sums.scored.max(1.0);
        Ok(EvalRecord {
            step: self.position.step,
            epoch: self.epochs(),
            eval_loss: sums.loss / scored,
            eval_entropy: sums.entropy / scored,
            eval_mean_token_accuracy: sums.correct / scored,
            eval_seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// The record of the updates since the last one: means, and the last update's gradient norm and learning rate.
    fn record(&mut self) -> TrainRecord {
        let sums = std::mem::take(&mut self.unlogged);
        let steps = sums.steps.max(1) as f64;
        TrainRecord {
            step: self.position.step,
            epoch: self.epochs(),
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

    /// Epochs done so far, 1.5 in the middle of the second.
    fn epochs(&self) -> f64 {
        self.position.step as f64 / self.options.steps_per_epoch(self.train.len()) as f64
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    fn shuffle_seed(&self) -> Option<u64> {
        self.options.shuffle.then_some(self.options.seed)
    }

    fn check_fits(&self, state: &State) -> Result<()> {
        if state.shuffle_seed != self.shuffle_seed() {
            let [state, run] = [state.shuffle_seed, self.shuffle_seed()].map(|seed| match seed {
                Some(seed) => format!("`--seed {seed}`"),
                None => "`--shuffle false`".into(),
            });
            return Err(Error::usage(format!("the state is of a run with {state}, this one has {run}")));
        }
        if state.position.window >= self.windows.len() {
            return Err(err!("the state is of a run with more updates in an epoch than {}", self.windows.len()));
        }
        Ok(())
    }

    fn tell(&mut self, record: &Record) {
        self.tell_each(&mut |observer| observer.record(record));
    }

    /// An observer that fails is told no more; the others hear of it.
    fn tell_each(&mut self, what: &mut dyn FnMut(&mut dyn Observer) -> Result<()>) {
        let before = self.failures.len();
        self.observers.retain_mut(|observer| match what(observer.as_mut()) {
            Ok(()) => true,
            Err(error) => {
                self.failures.push(error);
                false
            }
        });
        for failure in &self.failures[before..] {
            self.observers.iter_mut().for_each(|observer| observer.warning(failure));
        }
    }
}

/// A model of the same shape on the same device, with the weights of a state.
fn with_weights(model: Gemma3, state: &State) -> Result<Gemma3> {
    let parameters = model.params.len();
    if [&state.weights, &state.moments[0], &state.moments[1]].iter().any(|values| values.len() != parameters) {
        return Err(err!("the state is of another model: this one has {parameters} parameters").of_kind(Kind::Model));
    }
    let (config, device) = (model.config.clone(), model.device().of(Purpose::Weights));
    let dtype = model.params.dtype();
    drop(model);
    let mut values = Tensor::empty(&device, &[parameters], DType::F32)?;
    values.upload(&state.weights)?;
    let mut model = Gemma3::new(config, values)?.computed_in(dtype)?;
    if state.position.step > 0 {
        model.params.renew_copy(Some(state.position.step))?;
    }
    Ok(model)
}
