//! `engine train`: score, train with evaluation and checkpoints, save, score again.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;

use crate::batch::Example;
use crate::chat::preview::preview;
use crate::cli::args::{LogFormat, ReportTo, ScoreArg, TrainArgs};
use crate::cli::check;
use crate::cli::lengths;
use crate::cli::numbers::counted;
use crate::cli::options::{existing, explain_device, load};
use crate::cli::out::{line, print, result, say};
use crate::cli::progress::Progress;
use crate::cli::score::{examples, open, score, stdout_width};
use crate::cli::signals;
use crate::data::dataset::train_test_split;
use crate::data::rows::Row;
use crate::device::{Device, Purpose};
use crate::error::{Context, Error, Kind, Result};
use crate::eval::report::{Report, Score, right_by_origin};
use crate::eval::statistics::changes;
use crate::eval::table::{before_after, certainty, examples_table, score_table};
use crate::io::atomic::replace_file;
use crate::io::folder::{Existing, OutputFolder};
use crate::io::run_files::{ABOUT, ANSWERS_AFTER, ANSWERS_BEFORE, EVENTS, METRICS, PLOT};
use crate::model::gemma3::Gemma3;
use crate::session::about::ShownExample;
use crate::session::saves::best_of;
use crate::session::selection::{Best, score_lines};
use crate::session::{
    self, About, Checkpoint, ComputeDevice, Identity, LossPlot, Observer, Outcome, Run, SavedRun, Saves, write_page,
};
use crate::train::metrics::{MetricsWriter, Record, ScoreRecord, read_records};
use crate::train::options::Metric;
use crate::train::order::Order;
use crate::train::tensorboard::EventWriter;

/// While the final model waits for room on the disk, this long between two attempts.
const RETRY: Duration = Duration::from_secs(5);

/// A run's data and places, all checked before the first long computation.
struct Job<'a> {
    args: &'a TrainArgs,
    eval_rows: Vec<Row>,
    train: Vec<Example>,
    eval: Vec<Example>,
    total_steps: usize,
    /// How long the rows are, and what their batches come to.
    lengths: String,
    /// What the run goes on from.
    resumed: Option<SavedRun>,
}

/// How the steps of a run ended.
enum Ended {
    Finished,
    /// Somebody asked to stop: the step was finished, the rest was not run.
    Interrupted,
    Diverged(Error),
}

pub fn run(args: &TrainArgs) -> Result<()> {
    args.hub.check()?;
    let device = args.model.open_device()?;
    OutputFolder::check(&args.output_dir, mode(args))?;
    if let Some(fallback) = &args.fallback_dir {
        OutputFolder::check(fallback, Existing::Refuse)?;
    }
    let (mut job, checkpoint) = Job::prepare(args)?;
    if args.dry_run {
        return job.rehearse(&checkpoint, &device);
    }
    let folder = OutputFolder::claim(&args.output_dir, mode(args))?;
    folder.require_space(checkpoint.saved_bytes(args.save_dtype.into()))?;
    job.resumed = resumed(args)?;
    let model = checkpoint.load(&device)?;
    explain_device(&device);
    let identity = Identity::new(&model, &job.train, &job.eval, &args.options())?;
    if let Some(saved) = &job.resumed {
        saved.check(&identity)?.iter().for_each(|difference| say(&format!("warning: {difference}")));
    }
    folder.begin_run()?;
    job.introduce(&model, &checkpoint);
    signals::listen("stopping after this step, and saving; Ctrl-C again to quit at once, without saving");
    let mut about = job.about(&model, &checkpoint, &identity)?;
    about.score_before = job.score_before(&model, &checkpoint, &folder)?;
    model.device().trim();
    signals::go_on("nothing was trained, it was before the first step")?;
    let limit = (args.save_total_limit > 0).then_some(args.save_total_limit as usize);
    let (score_before, dtype) = (about.score_before.clone(), args.save_dtype.into());
    let mut saves = Saves { checkpoint: Rc::new(checkpoint), folder, identity, score_before, dtype, limit };
    let (model, place) = job.train(model, &mut saves, &mut about)?;
    warn_of(write_page(&place));
    job.score_after(&model, &place, &saves.checkpoint, &mut about)?;
    let pushed = args.hub.push(&place)?;
    match (args.log_format, &pushed) {
        (LogFormat::Json, _) => result(&Summary::new(&place, &about, &pushed)),
        (LogFormat::Text, Some(page)) => print(&format!("{page}\n")),
        (LogFormat::Text, None) => Ok(()),
    }
}

/// What came of a run, for programs.
#[derive(Serialize)]
struct Summary<'a> {
    output_dir: &'a Path,
    steps: u64,
    best: Option<Best>,
    score_before: &'a Option<Score>,
    score_after: &'a Option<Score>,
    /// The model's page on the hub.
    pushed: &'a Option<String>,
}

impl<'a> Summary<'a> {
    fn new(output_dir: &'a Path, about: &'a About, pushed: &'a Option<String>) -> Self {
        let About { steps, best, score_before, score_after, .. } = about;
        Self { output_dir, steps: *steps, best: *best, score_before, score_after, pushed }
    }
}

/// What is not worth failing for.
fn warn_of(result: Result<()>) {
    if let Err(error) = result {
        say(&error.warning());
    }
}

/// What becomes of an earlier run in the output folder.
fn mode(args: &TrainArgs) -> Existing {
    existing(args.overwrite_output_dir, args.resume_from_checkpoint.is_some())
}

impl<'a> Job<'a> {
    fn prepare(args: &'a TrainArgs) -> Result<(Self, Checkpoint)> {
        let row_options = args.rows.row_options_to_check()?;
        let rows = load(&args.dataset, &row_options)?;
        let (train_rows, eval_rows) = match (&args.eval_dataset, args.test_size) {
            (Some(eval), _) => (rows, load(eval, &row_options)?),
            (None, Some(size)) => train_test_split(rows, size, args.shuffle, args.generation.seed)?,
            (None, None) => (rows, Vec::new()),
        };
        check::warn(&train_rows, &eval_rows, args.strict)?;
        let checkpoint = open(&args.model.model, &args.rows)?;
        let train = examples(&checkpoint, &train_rows, &args.rows, "training")?;
        let eval = examples(&checkpoint, &eval_rows, &args.rows, "evaluation")?;
        if train.is_empty() {
            return Err(Error::new(format!("`{}` has no row to train on", args.dataset)).of_kind(Kind::Data));
        }
        let options = args.options();
        options.check_evaluated(!eval.is_empty())?;
        let order = Order::new(&options, &train)?;
        let total_steps = options.schedule(order.total_steps(&train)?)?.total_steps;
        let lengths = lengths::line(&order, &train);
        if options.learning_rate == 0.0 {
            say("warning: the learning rate is 0: the steps will change nothing");
        }
        Ok((Self { args, eval_rows, train, eval, total_steps, lengths, resumed: None }, checkpoint))
    }

    /// What can be known without the steps.
    fn rehearse(&mut self, checkpoint: &Checkpoint, device: &ComputeDevice) -> Result<()> {
        self.resumed = resumed(self.args)?;
        let model = checkpoint.load(device)?;
        explain_device(device);
        if let Some(saved) = &self.resumed {
            let identity = Identity::new(&model, &self.train, &self.eval, &self.args.options())?;
            saved.check(&identity)?.iter().for_each(|difference| say(&format!("warning: {difference}")));
        }
        self.introduce(&model, checkpoint);
        say("nothing was trained or written: this was a dry run");
        match self.args.log_format {
            LogFormat::Json => result(&serde_json::json!({"dry_run": true, "total_steps": self.total_steps})),
            LogFormat::Text => Ok(()),
        }
    }

    /// What is about to happen, and one example with its scored tokens marked.
    fn introduce(&self, model: &Gemma3, checkpoint: &Checkpoint) {
        say(&format!(
            "{} parameters; {}, {}; {}",
            model.params.len(),
            counted(self.train.len(), "training row"),
            counted(self.eval.len(), "evaluation row"),
            counted(self.total_steps, "step")
        ));
        say(&self.lengths);
        if let Some(saved) = &self.resumed {
            return say(&format!("going on after step {} from `{}`", saved.step(), saved.path().display()));
        }
        if let Some(example) = self.train.first() {
            let color = std::io::stderr().is_terminal();
            say(&format!("first example, scored tokens marked:\n{}", preview(example, &checkpoint.tokenizer, color)));
        }
    }

    fn about(&self, model: &Gemma3, checkpoint: &Checkpoint, identity: &Identity) -> Result<About> {
        Ok(About {
            engine: About::ENGINE,
            model: self.args.model.model.clone(),
            parameters: model.params.len(),
            training_rows: self.train.len(),
            evaluation_rows: self.eval.len(),
            threads: rayon::current_num_threads(),
            system: About::system(),
            identity: identity.clone(),
            settings: serde_json::to_value(self.args).context(|| "internal: the settings are no JSON")?,
            started: jiff::Timestamp::now(),
            ended: None,
            steps: 0,
            best: None,
            peak_memory: BTreeMap::new(),
            first_examples: ShownExample::first(&self.train, &checkpoint.tokenizer),
            score_before: None,
            score_after: None,
        })
    }

    /// Taken once in a run: one that goes on has it from its checkpoint.
    fn score_before(&self, model: &Gemma3, checkpoint: &Checkpoint, folder: &OutputFolder) -> Result<Option<Score>> {
        let answers = folder.live(ANSWERS_BEFORE);
        if let Some(saved) = &self.resumed {
            if saved.score_before().is_some() {
                replace_file(&answers, &saved.file(ANSWERS_BEFORE)?)?;
            }
            return Ok(saved.score_before().cloned());
        }
        if !self.args.score.contains(&ScoreArg::Before) {
            return Ok(None);
        }
        let report = score(checkpoint, model, &self.eval_rows, &self.args.generation, "score before")?;
        let Some(report) = report else { return Ok(None) };
        replace_file(&answers, report.text()?.as_bytes())?;
        if !self.args.score.contains(&ScoreArg::After) && self.args.log_format == LogFormat::Text {
            print(&format!("{}\n{}", examples_table(&report, stdout_width()), score_table(&report.score)))?;
        }
        Ok(Some(report.score))
    }

    /// The score of the trained model, if it is asked for: recorded, then shown.
    fn score_after(&self, model: &Gemma3, place: &Path, checkpoint: &Checkpoint, about: &mut About) -> Result<()> {
        if !self.args.score.contains(&ScoreArg::After) {
            return Ok(());
        }
        let Some(after) = score(checkpoint, model, &self.eval_rows, &self.args.generation, "score after")? else {
            return Ok(());
        };
        about.score_after = Some(after.score.clone());
        let recorded = self.record_after(place, about, &after);
        warn_of(recorded.map_err(|e| e.context("the score after training is not recorded")));
        warn_of(write_page(place));
        match self.args.log_format {
            LogFormat::Json => Ok(()),
            LogFormat::Text => report(place, about.score_before.as_ref(), &after),
        }
    }

    /// What is known only after the model was saved.
    fn record_after(&self, place: &Path, about: &About, report: &Report) -> Result<()> {
        replace_file(&place.join(ANSWERS_AFTER), report.text()?.as_bytes())?;
        replace_file(&place.join(ABOUT), about.text().as_bytes())?;
        let record = score_record(about.steps, &report.score);
        if self.args.log_format == LogFormat::Json {
            line(&record)?;
        }
        if self.args.report_to.contains(&ReportTo::Jsonl) {
            MetricsWriter::open(&place.join(METRICS))?.write(&record)?;
        }
        if self.args.report_to.contains(&ReportTo::Tensorboard) {
            EventWriter::open(&place.join(EVENTS))?.write(&record)?;
        }
        Ok(())
    }

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
        run.observe(LossPlot::new(&saves.folder.live(PLOT), read_records(&lines)));
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
    fn train(&mut self, model: Gemma3, saves: &mut Saves, about: &mut About) -> Result<(Gemma3, PathBuf)> {
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
                let saved = saves.save_checkpoint(&run)?;
                let step = run.position().step;
                saved.warning.iter().for_each(|warning| run.warn(warning));
                run.finish();
                Err(Error::interrupted(format!("the run as of step {step} is saved in `{}`", saved.place.display()))
                    .hint("the same command with `--resume-from-checkpoint` goes on from there"))
            }
            Ended::Diverged(error) => {
                let step = run.position().step;
                let saved = saves.save_diverged(run.model(), step)?;
                saved.warning.iter().for_each(|warning| run.warn(warning));
                run.finish();
                let place = saved.place.display();
                let text = format!("training stopped; the model before that step is saved in `{place}`");
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
        let options = checkpoint.generate_options(&self.args.generation.options());
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
        about.peak_memory = peak_memory(run.model().device());
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

/// The checkpoint that the run goes on from, if it does.
fn resumed(args: &TrainArgs) -> Result<Option<SavedRun>> {
    match args.resume_from_checkpoint.as_deref() {
        None => Ok(None),
        Some("latest") => {
            let mut passed_over = Vec::new();
            let saved = SavedRun::latest(&args.output_dir, &mut passed_over)?;
            passed_over.iter().for_each(|error| say(&error.warning()));
            if saved.is_none() {
                let shown = args.output_dir.display();
                say(&format!("there is no whole checkpoint in `{shown}`: starting from the beginning"));
            }
            Ok(saved)
        }
        Some(path) => SavedRun::open(&PathBuf::from(path)).map(Some),
    }
}

/// Steps until the run ends, one way or another, with a checkpoint whenever one is due. That one cannot be written does not end
/// the run.
fn steps(run: &mut Run, saves: &Saves) -> Result<Ended> {
    loop {
        match run.step()? {
            Outcome::Finished => return Ok(Ended::Finished),
            Outcome::Diverged(error) => return Ok(Ended::Diverged(error)),
            Outcome::Interrupted => return Ok(Ended::Interrupted),
            Outcome::SaveDue => match saves.save_checkpoint(run) {
                Ok(saved) => saved.warning.iter().for_each(|warning| run.warn(warning)),
                Err(error) => run.warn(&error.context("no checkpoint was written; the run goes on")),
            },
            Outcome::Updated | Outcome::Evaluated => {}
        }
        if signals::stopped() && !run.is_finished() {
            return Ok(Ended::Interrupted);
        }
    }
}

/// The disk has no room for the final model: tries again until somebody made some, or asks to stop.
fn wait_for_room(error: &Error) -> bool {
    say(&format!("{}\n\nwaiting for room on the disk; Ctrl-C gives the model up", error.warning()));
    let begun = std::time::Instant::now();
    while begun.elapsed() < RETRY {
        if signals::stopped() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}

/// What tensors took at most, by purpose: the bill of this run.
fn peak_memory(device: &Device) -> BTreeMap<String, usize> {
    let name = |purpose: Purpose| format!("{purpose:?}").to_lowercase();
    Purpose::ALL.into_iter().map(|purpose| (name(purpose), device.peak_bytes_of(purpose))).collect()
}

fn report_memory(device: &Device) {
    let gigabytes = |bytes: usize| format!("{:.2} GB", bytes as f64 / 1e9);
    let parts: Vec<String> =
        peak_memory(device).into_iter().map(|(name, bytes)| format!("{name} {}", gigabytes(bytes))).collect();
    say(&format!("peak memory of tensors {}: {}", gigabytes(device.peak_bytes()), parts.join(", ")));
}

/// A run's records on stdout.
struct JsonLines;

impl Observer for JsonLines {
    fn record(&mut self, record: &Record) -> Result<()> {
        line(record).map_err(|error| error.context("no more records are printed"))
    }
}

/// A score as observers are told of it.
fn score_record(step: u64, score: &Score) -> Record {
    Record::Score(ScoreRecord { step, total: score.total as u64, scores: score_lines(score) })
}

/// The table of answers after training, then before and after side by side: the last thing on stdout.
fn report(place: &Path, before: Option<&Score>, after: &Report) -> Result<()> {
    let mut text = format!("{}\n", examples_table(after, stdout_width()));
    match before {
        Some(before) => {
            text += &before_after(before, &after.score);
            text += &format!("\n{}", certainty(before, &after.score, changed(place, after)));
        }
        None => text += &score_table(&after.score),
    }
    print(&text)
}

/// How many prompts got better and how many worse, if the answers before training are there.
fn changed(place: &Path, after: &Report) -> Option<(usize, usize)> {
    let before: serde_json::Value = serde_json::from_slice(&std::fs::read(place.join(ANSWERS_BEFORE)).ok()?).ok()?;
    let now: Vec<_> = after.examples.iter().map(|example| (example.origin.as_str(), example.correct)).collect();
    changes(&right_by_origin(&before)?, &now)
}
