//! `engine train`: score, train with evaluation, save, plot, score again.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::batch::Example;
use crate::chat::preview::preview;
use crate::cli::args::{ScoreArg, TrainArgs};
use crate::cli::options::explain_device;
use crate::cli::progress::Progress;
use crate::cli::score::{examples, score, stdout_width};
use crate::data::dataset::{load_rows, train_test_split};
use crate::data::rows::Row;
use crate::device::{Device, Purpose};
use crate::error::{Error, Kind, Result};
use crate::eval::report::Report;
use crate::eval::table::{before_after, examples_table};
use crate::io::folder::OutputFolder;
use crate::model::gemma3::Gemma3;
use crate::session::{Checkpoint, LossPlot, Outcome, Run};
use crate::train::metrics::MetricsWriter;

static STOP: AtomicBool = AtomicBool::new(false);

/// A run's data and places, all checked before the first long computation.
struct Job<'a> {
    args: &'a TrainArgs,
    checkpoint: Checkpoint,
    folder: OutputFolder,
    eval_rows: Vec<Row>,
    train: Vec<Example>,
    eval: Vec<Example>,
    total_steps: usize,
}

/// How a run ended. The model holds the weights of the last good update in every case.
enum Ended {
    Finished,
    /// Ctrl-C: the step was finished, the rest was not run.
    Interrupted {
        step: u64,
    },
    Diverged(Error),
}

pub fn run(args: &TrainArgs) -> Result<()> {
    let device = args.model.open_device()?;
    OutputFolder::check(&args.output_dir)?;
    let mut job = Job::prepare(args)?;
    let model = job.checkpoint.load(&device)?;
    explain_device(&device);
    job.introduce(&model);
    listen_for_ctrl_c();
    let before = job.score_if(&model, ScoreArg::Before, "score before")?;
    model.device().trim();
    if STOP.load(Ordering::Relaxed) {
        return Err(Error::interrupted("nothing was trained, it was before the first step"));
    }
    let (model, ended) = job.train(model)?;
    report_memory(model.device());
    model.device().trim();
    job.checkpoint.save(&model, &job.folder, args.save_dtype.into())?;
    let saved = job.folder.path().display();
    match ended {
        Ended::Finished => eprintln!("saved the model in `{saved}`"),
        Ended::Interrupted { step } => {
            return Err(Error::interrupted(format!("the model as of step {step} is saved in `{saved}`")));
        }
        Ended::Diverged(error) => {
            return Err(error.context(format!("training stopped; the model before that step is saved in `{saved}`")));
        }
    }
    let after = job.score_if(&model, ScoreArg::After, "score after")?;
    report(before, after);
    Ok(())
}

impl<'a> Job<'a> {
    fn prepare(args: &'a TrainArgs) -> Result<Self> {
        let row_options = args.rows.row_options()?;
        let rows = load_rows(&args.dataset, &row_options)?;
        let (train_rows, eval_rows) = match (&args.eval_dataset, args.test_size) {
            (Some(eval), _) => (rows, load_rows(eval, &row_options)?),
            (None, Some(size)) => train_test_split(rows, size, args.shuffle, args.generation.seed)?,
            (None, None) => (rows, Vec::new()),
        };
        let checkpoint = Checkpoint::open(&args.model.model)?;
        let train = examples(&checkpoint, &train_rows, &args.rows, "training")?;
        let eval = examples(&checkpoint, &eval_rows, &args.rows, "evaluation")?;
        if train.is_empty() {
            return Err(Error::new(format!("`{}` has no row to train on", args.dataset)).of_kind(Kind::Data));
        }
        let total_steps = args.options().schedule(train.len())?.total_steps;
        let folder = OutputFolder::claim(&args.output_dir)?;
        folder.require_space(checkpoint.saved_bytes(args.save_dtype.into()))?;
        Ok(Self { args, checkpoint, folder, eval_rows, train, eval, total_steps })
    }

    /// What is about to happen, and one example with its scored tokens marked.
    fn introduce(&self, model: &Gemma3) {
        eprintln!(
            "{} parameters; {} training rows, {} evaluation rows; {} steps",
            model.params.len(),
            self.train.len(),
            self.eval.len(),
            self.total_steps
        );
        if let Some(example) = self.train.first() {
            let color = std::io::stderr().is_terminal();
            eprintln!("first example, scored tokens marked:\n{}", preview(example, &self.checkpoint.tokenizer, color));
        }
    }

    fn score_if(&self, model: &Gemma3, when: ScoreArg, title: &str) -> Result<Option<Report>> {
        if !self.args.score.contains(&when) {
            return Ok(None);
        }
        score(&self.checkpoint, model, &self.eval_rows, &self.args.generation, title)
    }

    fn train(&mut self, model: Gemma3) -> Result<(Gemma3, Ended)> {
        let (train, eval) = (std::mem::take(&mut self.train), std::mem::take(&mut self.eval));
        let mut run = Run::prepare(model, train, eval, self.args.options())?;
        run.observe(MetricsWriter::create(&self.folder.path().join("metrics.jsonl"))?);
        run.observe(LossPlot::new(&self.folder.path().join("loss.svg")));
        run.observe(Progress::training(run.total_steps()));
        let ended = loop {
            match run.step()? {
                Outcome::Finished => break Ended::Finished,
                Outcome::Diverged(error) => break Ended::Diverged(error),
                Outcome::Updated | Outcome::Evaluated => {}
            }
            if STOP.load(Ordering::Relaxed) && !run.is_trained() {
                break Ended::Interrupted { step: run.position().step };
            }
        };
        Ok((run.finish().model, ended))
    }
}

/// What tensors took at most, by purpose: the bill of this run.
fn report_memory(device: &Device) {
    let gigabytes = |bytes: usize| format!("{:.2} GB", bytes as f64 / 1e9);
    let part =
        |purpose| format!("{} {}", format!("{purpose:?}").to_lowercase(), gigabytes(device.peak_bytes_of(purpose)));
    let parts: Vec<String> = Purpose::ALL.into_iter().map(part).collect();
    eprintln!("peak memory of tensors {}: {}", gigabytes(device.peak_bytes()), parts.join(", "));
}

/// The table of the last score, then before and after side by side: the last thing on the screen.
fn report(before: Option<Report>, after: Option<Report>) {
    let Some(last) = after.as_ref().or(before.as_ref()) else { return };
    println!("{}", examples_table(last, stdout_width()));
    if let (Some(before), Some(after)) = (&before, &after) {
        print!("{}", before_after(&before.score, &after.score));
    }
}

/// The first Ctrl-C asks the run to stop after its step, the second ends the process.
fn listen_for_ctrl_c() {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(Kind::Interrupted.exit_code().into());
        }
        eprintln!("\nstopping after this step; Ctrl-C again to quit at once, without saving");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("warning: Ctrl-C will end the run without saving: {error}");
    }
}
