//! Runs are taken apart and put back: the state of a run, and the run of a state.

use std::borrow::Cow;

use super::run::Run;
use super::state::{Progress, State};
use crate::batch::Example;
use crate::device::DType;
use crate::err;
use crate::error::{Error, Kind, Result};
use crate::model::gemma3::Gemma3;
use crate::train::options::TrainOptions;

/// The long runs of numbers of a [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Array {
    /// Of what is trained.
    Weights,
    /// AdamW's first moment.
    M,
    /// AdamW's second moment.
    V,
}

impl Run {
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
        let mut run = Self::prepare(model, train, eval, options)?;
        let State { weights, moments: [m, v], progress } = state;
        let parameters = run.model.trained().len();
        if [&weights, &m, &v].iter().any(|values| values.len() != parameters) {
            let text = format!("the state is of another model: this one has {parameters} trained parameters");
            return Err(Error::new(text).of_kind(Kind::Model));
        }
        run.restore(progress, |array, out| {
            out.copy_from_slice(match array {
                Array::Weights => &weights,
                Array::M => &m,
                Array::V => &v,
            });
            Ok(())
        })?;
        Ok(run)
    }

    /// Puts a run that has not begun where another of the same examples and options was: `read` fills its numbers. After an
    /// error the run is of no use.
    ///
    /// # Errors
    /// The state is not of such a run, or `read` fails.
    pub fn restore(&mut self, progress: Progress, read: impl Fn(Array, &mut [f32]) -> Result<()>) -> Result<()> {
        let windows = self.order.windows(&self.train, progress.position.epoch);
        self.check_fits(&progress, windows.len())?;
        self.replace_weights(progress.weights_of(), |out| read(Array::Weights, out))?;
        let (m, v) = self.updates.moments_mut();
        m.fill_with(|out| read(Array::M, out))?;
        v.fill_with(|out| read(Array::V, out))?;
        self.windows = windows;
        self.position = progress.position;
        self.evaluation_due = progress.evaluation_due;
        self.save_due = progress.save_due;
        self.num_tokens = progress.num_tokens;
        self.unlogged = progress.unlogged;
        self.recent = progress.recent;
        self.seconds_before = progress.seconds;
        self.selection = progress.selection;
        Ok(())
    }

    /// Gives the model other weights, those that it had when update `step` was the last that changed them.
    ///
    /// # Errors
    /// The master weights are not f32, or `read` fails.
    pub fn replace_weights(&mut self, step: u64, read: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
        self.check_masters()?;
        self.updates.replace_weights(&mut self.model, step, read)
    }

    /// All that a run needs to go on from here, copied out of it.
    ///
    /// # Errors
    /// The device fails, or the master weights are not f32.
    pub fn state(&mut self) -> Result<State> {
        let progress = self.progress();
        let [weights, m, v] = self.arrays()?.map(Cow::into_owned);
        Ok(State { weights, moments: [m, v], progress })
    }

    /// The state but for its long runs of numbers.
    pub fn progress(&self) -> Progress {
        Progress {
            position: self.position,
            split_by: self.model.trained().split_by(),
            shuffle_seed: self.shuffle_seed(),
            evaluation_due: self.evaluation_due,
            save_due: self.save_due,
            num_tokens: self.num_tokens,
            unlogged: self.unlogged.clone(),
            recent: self.recent.clone(),
            seconds: self.seconds(),
            selection: self.selection.clone(),
        }
    }

    /// The state's long runs of numbers, in the order of [`Array`]: on the CPU as far as possible in place, else copied.
    ///
    /// # Errors
    /// The device fails, or the master weights are not f32.
    pub fn arrays(&mut self) -> Result<[Cow<'_, [f32]>; 3]> {
        self.check_masters()?;
        self.updates.numbers(&self.model)
    }

    fn check_masters(&self) -> Result<()> {
        match self.model.trained().master_dtype() {
            DType::F32 => Ok(()),
            other => Err(err!("internal: the state of a run whose master weights are {other:?}")),
        }
    }

    fn shuffle_seed(&self) -> Option<u64> {
        self.options.shuffle.then_some(self.options.seed)
    }

    /// `updates`: those of the epoch that the state is in.
    fn check_fits(&self, state: &Progress, updates: usize) -> Result<()> {
        if state.shuffle_seed != self.shuffle_seed() {
            let [state, run] = [state.shuffle_seed, self.shuffle_seed()].map(|seed| match seed {
                Some(seed) => format!("`--seed {seed}`"),
                None => "`--shuffle false`".into(),
            });
            return Err(Error::usage(format!("the state is of a run with {state}, this one has {run}")));
        }
        if state.position.window >= updates {
            return Err(err!("the state is of a run with more updates in an epoch than {updates}"));
        }
        Ok(())
    }
}
