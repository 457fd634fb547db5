//! The steps of a run, and what is kept of it however it ends.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::job::Job;
use super::scores::score_record;
use crate::cli::args::{LogFormat, ReportTo};
use crate::cli::numbers::{by_purpose, gigabytes};
use crate::cli::out::{line, say};
use crate::cli::progress::Progress;
use crate::cli::signals;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::io::atomic::replace_file;
use crate::io::folder::{OutputFolder, Saved, is_disk_full};
use crate::io::run_files::{ABOUT, EVENTS, METRICS, PLOT, PLOT_PNG};
use crate::model::gemma3::Gemma3;
use crate::session::saves::best_of;
use crate::session::{self, About, Checkpoint, LossPlot, Observer, Outcome, Run, SavedRun, Saves};
use crate::train::metrics::{MetricsWriter, Record, read_records};
use crate::train::options::Metric;
use crate::train::tensorboard::EventWriter;

/// While a save waits for room on the disk, this long between two attempts.
const RETRY: Duration = Duration::from_secs(5);

/// How the steps of a run ended.
enum Ended {
    Finished,
    /// Somebody asked to stop: the step was finished, the rest was not run.
    Interrupted,
    Diverged(Error),
}

impl Job<'_> {
    /// Who is told what the run measures, from here on as before.
    fn observe(&self, run: &mut Run, saves: &Saves, about: &About) -> Result<()> {
        let before = |name| self.resumed.as_ref().map_or(Ok(Vec::new()), |saved| saved.file(name));
        let lines = before(METRICS)?;
        if self.args.report_to.contains(&ReportTo::Jsonl) {
            run.observe(MetricsWriter::create(&saves.folder.live(METRICS), &lines)?);
        }
        if self.args.report_to.contains(&ReportTo::Tensorboard) {
            let events = before(EVENTS)?;
            let mut writer = EventWriter::create(&saves.folder.live(EVENTS), &events)?;
            if events.is_empty() {
                writer.text("settings", &format!("```json\n{:#}\n```", about.settings))?;
            }
            run.observe(writer);
        }
        run.observe(LossPlot::new(&saves.folder.live(PLOT), &saves.folder.live(PLOT_PNG), read_records(&lines)));
        if self.args.log_format == LogFormat::Json {
            run.observe(JsonLines);
        }
        run.observe(Progress::training(run.total_steps(), run.position().step));
        if let (None, Some(score)) = (&self.resumed, &saves.score_before) {
            run.tell(&score_record(0, score));
        }
        Ok(())
    }

    /// The trained model, saved, and where. Whatever ends the run, what was trained is on the disk before a word is said of it.
    pub(super) fn train(&mut self, model: Gemma3, saves: &mut Saves, about: &mut About) -> Result<(Gemma3, PathBuf)> {
        let (train, eval) = (std::mem::take(&mut self.train), std::mem::take(&mut self.eval));
        let mut run = Run::prepare(model, train, eval, self.args.options())?;
        if let Some(saved) = &self.resumed {
            saved.restore(&mut run)?;
        }
        self.observe(&mut run, saves, about)?;
        run.stop_when(signals::stopped);
        self.judge(&mut run, &saves.checkpoint)?;
        match steps(&mut run, saves)? {
            Ended::Finished => self.finish(run, saves, about),
            Ended::Interrupted => {
                let step = run.position().step;
                let saved = save_once_there_is_room(&mut run, saves);
                let warning = saved.as_ref().ok().and_then(|saved| saved.warning.as_ref());
                warning.iter().for_each(|warning| run.warn(warning));
                run.finish();
                let saved = saved.map_err(|error| {
                    error.context(format!("the run as of step {step} could not be saved")).of_kind(Kind::Interrupted)
                })?;
                Err(Error::interrupted(format!("the run as of step {step} is saved in `{}`", saved.place.display()))
                    .hint("the same command with `--resume-from-checkpoint` goes on from there"))
            }
            Ended::Diverged(error) => {
                let step = run.position().step;
                let text = match saves.save_diverged(run.model(), step) {
                    Ok(saved) => {
                        saved.warning.iter().for_each(|warning| run.warn(warning));
                        format!("training stopped; the model before that step is saved in `{}`", saved.place.display())
                    }
                    Err(unsaved) => {
                        format!("training stopped; the model before that step could not be saved: {}", unsaved.line())
                    }
                };
                run.finish();
                Err(error.context(text))
            }
        }
    }

    /// Scores the model at each evaluation, if that is what tells the best one.
    fn judge(&self, run: &mut Run, checkpoint: &Rc<Checkpoint>) -> Result<()> {
        let options = run.options();
        if !options.selects() || options.metric_for_best_model == Metric::EvalLoss {
            return Ok(());
        }
        let prompts = session::Prompts::new(checkpoint, &self.eval_rows)?;
        if prompts.is_empty() {
            return Err(Error::usage("no evaluation row has an answer to score, so no score tells the best model")
                .hint("give `--metric-for-best-model eval_loss`"));
        }
        let checkpoint = checkpoint.clone();
        let options = checkpoint.generate_options(&self.args.generation());
        prompts.check_room(&options, run.model().config.max_position_embeddings)?;
        run.judge_with(move |model| {
            let asked = "the evaluation was asked to stop";
            let report = prompts.score(model, &checkpoint.tokenizer, &options, |_, _| signals::go_on(asked))?;
            Ok(report.score)
        });
        Ok(())
    }

    fn finish(&self, mut run: Run, saves: &mut Saves, about: &mut About) -> Result<(Gemma3, PathBuf)> {
        let best = match self.args.load_best_model_at_end.then(|| load_best(&mut run, &saves.folder)).transpose() {
            Ok(best) => best.flatten(),
            Err(error) => {
                run.warn(&error.context("the best model cannot be loaded; the last one is saved"));
                None
            }
        };
        let early = (run.position().step < run.total_steps()).then_some(run.position().step);
        (about.steps, about.best) = (run.position().step, run.selection().best);
        about.ended = Some(jiff::Timestamp::now());
        about.peak_memory = run.model().device().peak_by_purpose();
        if let Err(error) = replace_file(&saves.folder.live(ABOUT), about.text().as_bytes()) {
            run.warn(&error);
        }
        let model = run.finish().model;
        let saved = saves.save_final(&model, self.args.fallback_dir.as_deref(), wait_for_room)?;
        saved.warning.iter().for_each(|warning| say(&warning.warning()));
        if let Some(step) = early {
            say(&format!("stopped early, after step {step}: the evaluations did not get better"));
        }
        if let Some(best) = &best {
            say(&format!("the best model is that of step {}", best.step()));
        }
        report_memory(model.device());
        model.device().trim();
        say(&format!("saved the model in `{}`", saved.place.display()));
        Ok((model, saved.place))
    }
}

/// Gives the run's model the weights of its best evaluation, if they are not those it has.
fn load_best(run: &mut Run, folder: &OutputFolder) -> Result<Option<SavedRun>> {
    let best = best_of(run, folder)?;
    best.iter().try_for_each(|best| best.restore_weights(run))?;
    Ok(best)
}

/// Steps until the run ends, one way or another, with a checkpoint whenever one is due. That one cannot be written does not end
/// the run.
fn steps(run: &mut Run, saves: &Saves) -> Result<Ended> {
    let mut kept = run.position().step;
    loop {
        let outcome = match run.step() {
            Ok(outcome) => outcome,
            Err(error) => return Err(saves.rescue(run, error, kept)),
        };
        match outcome {
            Outcome::Finished => return Ok(Ended::Finished),
            Outcome::Diverged(error) => return Ok(Ended::Diverged(error)),
            Outcome::Interrupted => return Ok(Ended::Interrupted),
            Outcome::SaveDue => match saves.save_checkpoint(run) {
                Ok(saved) => {
                    saved.warning.iter().for_each(|warning| run.warn(warning));
                    kept = run.position().step;
                }
                Err(error) => run.warn(&error.context("no checkpoint was written; the run goes on")),
            },
            Outcome::Updated | Outcome::Evaluated => {}
        }
        if signals::stopped() && !run.is_finished() {
            return Ok(Ended::Interrupted);
        }
    }
}

/// A checkpoint of a run that was asked to stop. While the disk is full it waits: a second Ctrl-C ends the process.
fn save_once_there_is_room(run: &mut Run, saves: &Saves) -> Result<Saved> {
    loop {
        match saves.save_checkpoint(run) {
            Err(error) if is_disk_full(&error) => wait(&error, "the run", || false),
            saved => return saved,
        };
    }
}

/// The disk has no room for the final model: tries again until somebody made some, or asks to stop.
fn wait_for_room(error: &Error) -> bool {
    wait(error, "the model", signals::stopped)
}

/// Whether to try again to save, after a while. `what` is lost otherwise.
fn wait(error: &Error, what: &str, gives_up: fn() -> bool) -> bool {
    say(&format!("{}\n\nwaiting for room on the disk; Ctrl-C gives {what} up", error.warning()));
    let begun = std::time::Instant::now();
    while begun.elapsed() < RETRY {
        if gives_up() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}

/// A run's records on stdout.
struct JsonLines;

impl Observer for JsonLines {
    fn record(&mut self, record: &Record) -> Result<()> {
        line(record).map_err(|error| error.context("no more records are printed"))
    }
}

fn report_memory(device: &Device) {
    let parts = by_purpose(&device.peak_by_purpose());
    say(&format!("peak memory of tensors {}: {parts}", gigabytes(device.peak_bytes())));
}
