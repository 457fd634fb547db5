//! What a run leaves on the disk: checkpoints that it can go on from, and the model at its end.
//!
//! A checkpoint is a folder `checkpoint-STEP` in the output folder, and a model folder (or an adapter's) like any other. Beside the model it holds
//! [`STATE`], [`ARRAYS`], and what the run has written so far.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::Checkpoint;
use super::identity::Identity;
use super::restore::Array;
use super::run::Run;
use super::state::Progress;
use crate::device::Device;
use crate::err;
use crate::error::{Context, Error, Kind, Result};
use crate::eval::report::Score;
use crate::io::adapter_files::AdapterFolder;
use crate::io::arrays::{read_array, write_arrays};
use crate::io::folder::{Existing, OutputFolder, Saved, checkpoints, is_disk_full};
use crate::io::manifest::Manifest;
use crate::io::new_folder::NewFolder;
use crate::io::run_files::{ANSWERS_BEFORE, EVENTS, METRICS};
use crate::io::safetensors::{SaveDtype, read_model};
use crate::model::gemma3::Gemma3;
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::parameter_specs;
use crate::train::options::{SaveStrategy, TrainOptions};

/// Where a run is, and what it is a run of.
pub const STATE: &str = "run_state.json";
/// AdamW's moments, and the master weights where the model beside them is rounded.
pub const ARRAYS: &str = "run_state.safetensors";
/// What grows while the run goes on: a checkpoint has it as it was then.
const LOGS: [&str; 2] = [METRICS, EVENTS];

/// What [`STATE`] holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedState {
    identity: Identity,
    progress: Progress,
    /// The score that the model had before the run, where it was taken.
    score_before: Option<Score>,
    /// Whether the weights beside it, of the model or of the adapter, are the master weights themselves.
    model_is_exact: bool,
    /// How the device computed products: [`Driver::choices`](crate::device::driver::Driver::choices).
    #[serde(default)]
    choices: Option<String>,
}

/// Saves a run: its checkpoints, and at the end its model.
pub struct Saves {
    pub checkpoint: Rc<Checkpoint>,
    pub folder: OutputFolder,
    pub identity: Identity,
    pub score_before: Option<Score>,
    /// What saved weights are rounded to.
    pub dtype: SaveDtype,
    /// So many of the newest checkpoints stay. None: all.
    pub limit: Option<usize>,
}

impl Saves {
    /// Saves the run as it is, and removes checkpoints beyond the limit.
    ///
    /// # Errors
    /// The disk is full or refuses, or the device fails. Earlier checkpoints are then as they were.
    pub fn save_checkpoint(&self, run: &mut Run) -> Result<Saved> {
        let step = run.position().step;
        let name = OutputFolder::checkpoint_name(step);
        let mut saved = self.folder.save_inside(&name, |folder| self.write(folder, run))?;
        let removed = self.remove_old(run).context(|| "checkpoints beyond the limit are still there");
        saved.warning = saved.warning.or(removed.err());
        Ok(saved)
    }

    /// What to say of the `error` that ended a step: before that the run is saved as of its last update, unless that is update `saved`,
    /// which is on the disk. Only evaluations and what finds no memory leave a run as it was before them; of other errors nothing is saved.
    pub fn rescue(&self, run: &mut Run, error: Error, saved: u64) -> Error {
        let step = run.position().step;
        if step == saved || !(run.is_evaluation_due() || error.kind() == Kind::OutOfMemory) {
            return error;
        }
        match self.save_checkpoint(run) {
            Ok(saved) => {
                saved.warning.iter().for_each(|warning| run.warn(warning));
                let place = saved.place.display();
                error.context(format!("training stopped; the run as of step {step} is saved in `{place}`, and goes on from there with `--resume-from-checkpoint`"))
            }
            Err(unsaved) => error
                .context(format!("training stopped; the run as of step {step} could not be saved: {}", unsaved.line())),
        }
    }

    /// Saves the model of a run that diverged, as of its last good update, as `diverged-STEP`.
    ///
    /// # Errors
    /// As [`save_checkpoint`](Self::save_checkpoint).
    pub fn save_diverged(&self, model: &Gemma3, step: u64) -> Result<Saved> {
        let masters = model.trained().masters()?;
        let flat = masters.read::<f32>()?;
        let saved = self.checkpoint.saved_model(&flat, self.dtype);
        self.folder.save_inside(&format!("diverged-{step}"), |folder| saved.write_to(folder))
    }

    /// Puts the run's model into the output folder, with the run's metrics. Where that fails it goes to `fallback`; with none
    /// and a full disk, `wait` is told why, and whether to try again is what it says.
    ///
    /// # Errors
    /// The disk refuses, or is full and nobody waits.
    pub fn save_final(
        &mut self,
        model: &Gemma3,
        fallback: Option<&Path>,
        mut wait: impl FnMut(&Error) -> bool,
    ) -> Result<Saved> {
        let masters = model.trained().masters()?;
        let flat = masters.read::<f32>()?;
        let model = self.checkpoint.saved_model(&flat, self.dtype);
        loop {
            let files = self.folder.run_files();
            match (self.folder.save_model(&model, &files), fallback) {
                (Ok(saved), _) => return Ok(saved),
                (Err(error), Some(fallback)) => {
                    let mut folder = OutputFolder::claim(fallback, Existing::Refuse)
                        .map_err(|second| second.context(error.report()))?;
                    let saved = folder.save_model(&model, &files).map_err(|second| second.context(error.report()))?;
                    return Ok(Saved { warning: Some(error), ..saved });
                }
                (Err(error), None) if !is_disk_full(&error) || !wait(&error) => return Err(error),
                (Err(_), None) => {}
            }
        }
    }

    fn write(&self, folder: &mut NewFolder, run: &mut Run) -> Result<()> {
        let [weights, m, v] = run.arrays()?;
        self.checkpoint.saved_model(&weights, self.dtype).write_to(folder)?;
        let model_is_exact = self.dtype == SaveDtype::F32 || self.checkpoint.adapter.is_some();
        let mut arrays = vec![(name(Array::M), &*m), (name(Array::V), &*v)];
        if !model_is_exact {
            arrays.push((name(Array::Weights), &*weights));
        }
        folder.write(ARRAYS, |file| write_arrays(file, &arrays))?;
        for name in LOGS.into_iter().chain([ANSWERS_BEFORE]) {
            let live = self.folder.live(name);
            if live.is_file() {
                folder.put(name, &fs::read(&live).context(|| format!("cannot read `{}`", live.display()))?)?;
            }
        }
        let state = SavedState {
            identity: self.identity.clone(),
            progress: run.progress(),
            score_before: self.score_before.clone(),
            model_is_exact,
            choices: run.model().device().driver().choices(),
        };
        let text = serde_json::to_string_pretty(&state).context(|| "internal: the state is no JSON")?;
        folder.put(STATE, text.as_bytes())
    }

    /// The newest stay, and the best where it is needed at the end or is what is saved.
    fn remove_old(&self, run: &Run) -> Result<()> {
        let Some(limit) = self.limit else { return Ok(()) };
        let TrainOptions { load_best_model_at_end, save_strategy, .. } = *run.options();
        let keeps_best = load_best_model_at_end || save_strategy == SaveStrategy::Best;
        let best = run.selection().best.filter(|_| keeps_best).map(|best| best.step);
        let mut left = self.folder.checkpoints()?;
        let now = run.position().step;
        let surplus = left.len().saturating_sub(limit);
        left.retain(|(step, _)| *step != now && Some(*step) != best);
        left.iter().take(surplus).try_for_each(|(step, _)| self.folder.remove_checkpoint(*step))
    }
}

/// A checkpoint on the disk whose files are all as they were written.
#[derive(Debug)]
pub struct SavedRun {
    path: PathBuf,
    state: SavedState,
}

impl SavedRun {
    /// The checkpoint in the folder `path`, verified.
    ///
    /// # Errors
    /// It is none, or a file is missing or changed.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || {
            Manifest::read(path)?.verify(path)?;
            let file = path.join(STATE);
            let text = fs::read(&file).context(|| format!("cannot read `{}`", file.display()))?;
            let state =
                serde_json::from_slice(&text).context(|| format!("`{}` is of another version", file.display()))?;
            Ok(Self { path: path.to_owned(), state })
        };
        open().map_err(|error: Error| {
            error.context(format!("cannot go on from the checkpoint `{}`", path.display())).or_kind(Kind::Model)
        })
    }

    /// The newest whole checkpoint in an output folder; why newer ones were passed over goes to `passed_over`.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn latest(folder: &Path, passed_over: &mut Vec<Error>) -> Result<Option<Self>> {
        if !folder.is_dir() {
            return Ok(None);
        }
        for (_, path) in checkpoints(folder)?.into_iter().rev() {
            match Self::open(&path) {
                Ok(saved) => return Ok(Some(saved)),
                Err(error) => passed_over.push(error),
            }
        }
        Ok(None)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Updates done.
    pub fn step(&self) -> u64 {
        self.state.progress.position.step
    }

    /// The score that the model had before the run.
    pub fn score_before(&self) -> Option<&Score> {
        self.state.score_before.as_ref()
    }

    /// A file of the run as it was at the checkpoint: [`METRICS`], [`EVENTS`] or [`ANSWERS_BEFORE`]. Empty: there was none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn file(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.context(|| format!("cannot read `{}`", path.display())),
        }
    }

    /// As [`Identity::check`].
    ///
    /// # Errors
    /// As [`Identity::check`].
    pub fn check(&self, now: &Identity) -> Result<Option<String>> {
        let place = || format!("cannot go on from `{}`", self.path.display());
        self.state.identity.check(now).map_err(|error| error.context(place()))
    }

    /// Makes the device compute products as that of the checkpoint did. Why it cannot is returned, or that it would be faster otherwise; nothing
    /// on another device, as [`check`](Self::check) tells.
    pub fn choose(&self, device: &Device) -> Option<String> {
        let (choices, driver) = (self.state.choices.as_ref()?, device.driver());
        if self.state.identity.device() != driver.name() {
            return None;
        }
        if !driver.choose(choices) {
            let why = "the run was computed with other instructions of a CPU, another driver or another cuBLASLt: its numbers will \
                       differ in the last bits";
            return Some(why.into());
        }
        driver.own_choice().map(|own| {
            format!(
                "the run goes on with the instructions that it began with (`{choices}`), so that it ends equal to the bit; this \
                 machine's own are {own}"
            )
        })
    }

    /// Puts a run that was just prepared where this one was.
    ///
    /// # Errors
    /// It is of another run, or a file cannot be read.
    pub fn restore(&self, run: &mut Run) -> Result<()> {
        let (config, is_adapter) = (run.model().config.clone(), run.model().adapter().is_some());
        run.restore(self.state.progress.clone(), |array, out| self.read(array, out, &config, is_adapter))
    }

    /// Gives a run's model the weights of this checkpoint: at the end, those of the best one.
    ///
    /// # Errors
    /// A file cannot be read. The run's weights are then as they were.
    pub fn restore_weights(&self, run: &mut Run) -> Result<()> {
        let mut weights = Vec::new();
        let len = run.model().trained().len();
        weights.try_reserve_exact(len).context(|| format!("no memory for {len} weights"))?;
        weights.resize(len, 0.0);
        self.read(Array::Weights, &mut weights, &run.model().config, run.model().adapter().is_some())?;
        run.replace_weights(self.state.progress.weights_of(), |out| {
            out.copy_from_slice(&weights);
            Ok(())
        })
    }

    fn read(&self, array: Array, out: &mut [f32], config: &Gemma3Config, is_adapter: bool) -> Result<()> {
        if array == Array::Weights && is_adapter {
            return AdapterFolder::open(&self.path)?.read_into(config, out);
        }
        if array == Array::Weights && self.state.model_is_exact {
            return read_model(&self.path, &parameter_specs(config), out);
        }
        read_array(&self.path.join(ARRAYS), name(array), out)
    }
}

/// As TRL's and transformers' users know the moments.
fn name(array: Array) -> &'static str {
    match array {
        Array::Weights => "weights",
        Array::M => "exp_avg",
        Array::V => "exp_avg_sq",
    }
}

/// The checkpoint of the best evaluation, if it is not where the run ended.
///
/// # Errors
/// It is gone or damaged.
pub fn best_of(run: &Run, folder: &OutputFolder) -> Result<Option<SavedRun>> {
    let Some(best) = run.selection().best.filter(|best| best.step != run.position().step) else { return Ok(None) };
    let found = folder.checkpoints()?.into_iter().find(|(step, _)| *step == best.step);
    let (_, path) = found.ok_or_else(|| err!("the checkpoint of the best step {} is gone", best.step))?;
    SavedRun::open(&path).map(Some)
}
