//! A training run, as TRL's `SFTTrainer` does it: batches, accumulation windows, clip, AdamW, evaluations, records. Whoever
//! has one may step it, stop it, look at its model, and take its state out.

use std::time::Instant;

use super::observer::Observer;
use super::selection::{Selection, score_lines};
use super::state::{Position, Unlogged};
use crate::batch::Example;
use crate::batch::tree::TokenTree;
use crate::err;
use crate::error::{Error, Kind, Result};
use crate::eval::report::Score;
use crate::model::gemma3::Gemma3;
use crate::ops::adamw::AdamW;
use crate::train::evaluate::evaluate;
use crate::train::metrics::{EvalRecord, Record, SummaryRecord, TrainRecord, peak_memory_bytes};
use crate::train::options::{EvalStrategy, Metric, SaveStrategy, TrainOptions};
use crate::train::order::{Order, Window};
use crate::train::schedule::Schedule;
use crate::train::spike::RecentLosses;
use crate::train::step::{PreparedWindow, Step, StepResult};

/// What a step of a run did.
#[derive(Debug)]
pub enum Outcome {
    /// One update of the weights.
    Updated,
    /// The loss of the evaluation examples was computed.
    Evaluated,
    /// Nothing: this is the moment for a checkpoint, if somebody wants to keep one.
    SaveDue,
    /// Nothing: it was asked to stop in the middle of an evaluation, which is still due.
    Interrupted,
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

/// What judges the model at each evaluation.
type Judge = Box<dyn FnMut(&Gemma3) -> Result<Score>>;

/// The host's part of the next update, done while the device is busy with this one. A run is the same without it: its state does not have it.
pub(super) struct Ahead {
    /// Of which it is.
    position: Position,
    /// Of the epoch that begins there.
    windows: Option<Vec<Window>>,
    /// None: it cannot be made, and the update itself will tell why.
    prepared: Option<PreparedWindow>,
}

/// A run in progress.
pub struct Run {
    pub(super) model: Gemma3,
    pub(super) train: Vec<Example>,
    pub(super) eval: Vec<Example>,
    pub(super) options: TrainOptions,
    pub(super) schedule: Schedule,
    pub(super) order: Order,
    pub(super) updates: Step,
    pub(super) position: Position,
    /// Of the epoch that the position is in.
    pub(super) windows: Vec<Window>,
    pub(super) ahead: Option<Ahead>,
    pub(super) evaluation_due: bool,
    pub(super) save_due: bool,
    pub(super) num_tokens: u64,
    pub(super) unlogged: Unlogged,
    pub(super) recent: RecentLosses,
    pub(super) selection: Selection,
    pub(super) judge: Option<Judge>,
    pub(super) stop: fn() -> bool,
    pub(super) started: Instant,
    /// Before it was put back from a state.
    pub(super) seconds_before: f64,
    pub(super) observers: Vec<Box<dyn Observer>>,
    pub(super) failures: Vec<Error>,
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
        options.check_evaluated(!eval.is_empty())?;
        let order = Order::new(&options, &train)?;
        let schedule = options.schedule(order.total_steps(&train)?)?;
        let updates = options.step(&model)?;
        let evaluation_due = options.eval_on_start && !eval.is_empty();
        Ok(Self {
            windows: order.windows(&train, 0),
            ahead: None,
            model,
            train,
            eval,
            options,
            schedule,
            order,
            updates,
            position: Position::default(),
            evaluation_due,
            save_due: false,
            num_tokens: 0,
            unlogged: Unlogged::default(),
            recent: RecentLosses::default(),
            selection: Selection::default(),
            judge: None,
            stop: || false,
            started: Instant::now(),
            seconds_before: 0.0,
            observers: Vec::new(),
            failures: Vec::new(),
        })
    }

    /// Generates and judges answers at each evaluation, for a metric that needs them.
    pub fn judge_with(&mut self, judge: impl FnMut(&Gemma3) -> Result<Score> + 'static) {
        self.judge = Some(Box::new(judge));
    }

    /// What is asked in long evaluations whether to stop there.
    pub fn stop_when(&mut self, stop: fn() -> bool) {
        self.stop = stop;
    }

    /// The settings of the run.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// What the evaluations so far have shown.
    pub fn selection(&self) -> &Selection {
        &self.selection
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

    /// Whether all updates are done. An evaluation and a checkpoint may still be due.
    pub fn is_trained(&self) -> bool {
        let patience = self.options.early_stopping_patience;
        let stopped_early = patience.is_some_and(|most| self.selection.without_improvement >= most);
        stopped_early || self.position.step >= self.total_steps()
    }

    /// Whether an evaluation comes next.
    pub fn is_evaluation_due(&self) -> bool {
        self.evaluation_due
    }

    /// Whether nothing at all is left to do.
    pub fn is_finished(&self) -> bool {
        self.is_trained() && !self.evaluation_due && !self.save_due
    }

    /// Tells the observers of something that went wrong and does not end the run.
    pub fn warn(&mut self, warning: &Error) {
        self.observers.iter_mut().for_each(|observer| observer.warning(warning));
    }

    /// Does the next thing: an update, or the evaluation that is due after one. Between two steps a run may be stopped,
    /// looked at, and its state taken out.
    ///
    /// # Errors
    /// The device fails.
    pub fn step(&mut self) -> Result<Outcome> {
        if self.evaluation_due {
            return match self.evaluate() {
                Ok(record) => {
                    self.evaluation_due = false;
                    self.select(&record);
                    self.tell(&Record::Eval(record));
                    Ok(Outcome::Evaluated)
                }
                Err(error) if error.kind() == Kind::Interrupted => Ok(Outcome::Interrupted),
                Err(error) => Err(error),
            };
        }
        if std::mem::take(&mut self.save_due) {
            return Ok(Outcome::SaveDue);
        }
        if self.is_trained() {
            return Ok(Outcome::Finished);
        }
        if let Some(error) = self.update()? {
            return Ok(Outcome::Diverged(error));
        }
        self.evaluation_due = self.evaluates_here();
        self.save_due = self.saves_here();
        if self.is_trained() || self.logs_here() {
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
                Outcome::Updated | Outcome::Evaluated | Outcome::SaveDue => {}
                Outcome::Interrupted => return Err(Error::interrupted("the run was asked to stop")),
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
        if let Err(error) = self.updates.round_to_nearest(&mut self.model) {
            self.failures.push(error);
        }
        Trained { model: self.model, failures: self.failures }
    }

    /// One update from the next window's micro-batches; Some when the loss or the gradient is not finite.
    fn update(&mut self) -> Result<Option<Error>> {
        let started = Instant::now();
        let learning_rate = self.schedule.at(self.position.step as usize);
        let TrainOptions { betas, eps, weight_decay, .. } = self.options;
        let step = self.position.step + 1;
        let hyper = AdamW { learning_rate, betas, eps, weight_decay, step };
        let ahead = self.ahead.take().filter(|ahead| ahead.position == self.position);
        let prepared = match ahead.and_then(|ahead| ahead.prepared) {
            Some(prepared) => prepared,
            None => self.prepared(&self.windows[self.position.window], step)?,
        };
        let queued = self.updates.queue(&mut self.model, prepared, &hyper, self.options.skips_spikes())?;
        self.ahead = self.look_ahead();
        let mut z = None;
        let (recent, options) = (&mut self.recent, &self.options);
        let result = self.updates.finish(&mut self.model, queued, |result| {
            z = result.is_finite().then(|| recent.add(result.mean_loss(), options.loss_spike_z)).flatten();
            !is_spike(options, z)
        })?;
        let window = &self.windows[self.position.window];
        if !result.is_finite() {
            return Ok(Some(self.diverged(&result, window)));
        }
        let spike = z.filter(|_| is_spike(&self.options, z)).map(|z| self.spike(result.mean_loss(), z));
        let tokens = window.iter().flatten().map(|&i| self.train[i].ids.len() as u64).sum();
        self.num_tokens += tokens;
        self.unlogged.add(&result.sums, tokens, started.elapsed().as_secs_f64());
        (self.unlogged.grad_norm, self.unlogged.learning_rate) = (result.grad_norm, learning_rate);
        spike.iter().for_each(|warning| self.warn(warning));
        self.advance();
        Ok(None)
    }

    /// What to say of a loss that stands out.
    fn spike(&self, loss: f64, z: f64) -> Error {
        let step = self.position.step + 1;
        let rows = self.rows_of(&self.windows[self.position.window]);
        let skipped = if self.options.skips_spikes() { "; the update was skipped" } else { "" };
        let above = format!("the loss {loss:.4} is {z:.0} standard deviations above those before");
        err!("step {step}: {above}{skipped}; rows: {rows}")
            .hint("look at these rows with `engine preview`; lower `--learning-rate` if it goes on")
    }

    fn rows_of(&self, window: &Window) -> String {
        let rows: Vec<&str> = window.iter().flatten().map(|&i| self.train[i].origin.as_str()).collect();
        rows.join(", ")
    }

    /// The micro-batches of update `step`.
    fn prepared(&self, window: &Window, step: u64) -> Result<PreparedWindow> {
        let tree = |indices: &Vec<usize>| {
            TokenTree::from_examples(&indices.iter().map(|&i| &self.train[i]).collect::<Vec<_>>())
        };
        self.updates.prepare(&self.model, window.iter().map(tree).collect(), step)
    }

    /// What the update after this one needs of the host, if there is one.
    fn look_ahead(&self) -> Option<Ahead> {
        let position = self.next_position();
        if position.step >= self.total_steps() {
            return None;
        }
        let windows = (position.window == 0).then(|| self.order.windows(&self.train, position.epoch));
        let window = &windows.as_ref().unwrap_or(&self.windows)[position.window];
        let prepared = self.prepared(window, position.step + 1).ok();
        Some(Ahead { position, windows, prepared })
    }

    /// Of the next window, which may be the first of a new epoch.
    fn next_position(&self) -> Position {
        let Position { step, epoch, window } = self.position;
        if window + 1 == self.windows.len() {
            Position { step: step + 1, epoch: epoch + 1, window: 0 }
        } else {
            Position { step: step + 1, epoch, window: window + 1 }
        }
    }

    /// To the next window.
    fn advance(&mut self) {
        self.position = self.next_position();
        if self.position.window == 0 {
            let ahead = self.ahead.as_mut().filter(|ahead| ahead.position == self.position);
            let windows = ahead.and_then(|ahead| ahead.windows.take());
            self.windows = windows.unwrap_or_else(|| self.order.windows(&self.train, self.position.epoch));
        }
    }

    fn diverged(&self, result: &StepResult, window: &Window) -> Error {
        let (step, rows) = (self.position.step + 1, self.rows_of(window));
        let (loss, grad_norm) = (result.mean_loss(), result.grad_norm);
        err!("step {step}: loss {loss}, gradient norm {grad_norm}; rows of the batch: {rows}")
            .hint("lower `--learning-rate`, or look at these rows with `engine preview`")
    }

    /// Whether an evaluation follows the update that was just done.
    fn evaluates_here(&self) -> bool {
        if self.eval.is_empty() {
            return false;
        }
        let delay = self.options.eval_delay;
        match self.options.eval_strategy {
            EvalStrategy::No => false,
            _ if self.is_trained() => true,
            EvalStrategy::Epoch => self.position.window == 0 && self.epochs() >= delay,
            EvalStrategy::Steps(n) => self.position.step.is_multiple_of(n.max(1)) && self.position.step as f64 >= delay,
        }
    }

    /// Whether a record follows the update that was just done, and is not the last.
    fn logs_here(&self) -> bool {
        let first = self.options.logging_first_step && self.position.step == 1;
        first || self.position.step.is_multiple_of(self.options.logging_steps.max(1))
    }

    /// Whether a checkpoint follows the update that was just done.
    fn saves_here(&self) -> bool {
        match self.options.save_strategy {
            SaveStrategy::No | SaveStrategy::Best => false,
            SaveStrategy::Epoch => self.is_trained() || self.position.window == 0,
            SaveStrategy::Steps(n) => self.is_trained() || self.position.step.is_multiple_of(n.max(1)),
        }
    }

    /// Takes in what an evaluation measured: the best model is kept, a run that got no better ends.
    fn select(&mut self, record: &EvalRecord) {
        if !self.options.selects() {
            return;
        }
        let metric = self.options.metric_for_best_model;
        let value = match metric {
            Metric::EvalLoss => Some(record.eval_loss),
            _ => record.scores.get(metric.name()).copied(),
        };
        let improved = self.selection.improves(metric, value.unwrap_or(f64::NAN), self.position.step);
        let keeps_best = self.options.load_best_model_at_end || self.options.save_strategy == SaveStrategy::Best;
        self.save_due |= improved && keeps_best;
        self.save_due |=
            self.is_trained() && !matches!(self.options.save_strategy, SaveStrategy::No | SaveStrategy::Best);
    }

    fn evaluate(&mut self) -> Result<EvalRecord> {
        let started = Instant::now();
        let stop = self.stop;
        let go_on = || if stop() { Err(Error::interrupted("the evaluation was asked to stop")) } else { Ok(()) };
        let sums = evaluate(&self.model, &self.eval, self.options.label_smoothing_factor, go_on)?;
        let judged = self.judge.as_mut().map(|judge| judge(&self.model)).transpose()?;
        let scored = sums.scored.max(1.0);
        Ok(EvalRecord {
            step: self.position.step,
            epoch: self.epochs(),
            eval_loss: sums.loss / scored,
            eval_entropy: sums.entropy / scored,
            eval_mean_token_accuracy: sums.correct / scored,
            eval_seconds: started.elapsed().as_secs_f64(),
            scores: judged.map(|score| score_lines(&score)).unwrap_or_default(),
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
        self.position.epoch as f64 + self.position.window as f64 / self.windows.len() as f64
    }

    pub(super) fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// Tells the observers what was measured beside the run's own steps.
    pub fn tell(&mut self, record: &Record) {
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

/// Whether a loss that is `z` deviations above those before it stands out.
fn is_spike(options: &TrainOptions, z: Option<f64>) -> bool {
    options.loss_spike_z > 0.0 && z.is_some_and(|z| z >= options.loss_spike_z)
}
