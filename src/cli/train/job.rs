//! One run: its data and places, all checked before the first long computation; then what comes in which order.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::rc::Rc;

use serde::Serialize;

use super::profile::Profiler;
use crate::batch::Example;
use crate::chat::preview::preview;
use crate::cli::args::{LogFormat, TrainArgs};
use crate::cli::check;
use crate::cli::lengths;
use crate::cli::numbers::{by_purpose, counted, gigabytes};
use crate::cli::options::{existing, explain_device, load};
use crate::cli::out::{result, say};
use crate::cli::score::{examples, open};
use crate::cli::signals;
use crate::data::dataset::train_test_split;
use crate::data::rows::Row;
use crate::error::{Context, Error, Kind, Result};
use crate::eval::report::Score;
use crate::io::folder::{Existing, OutputFolder};
use crate::model::gemma3::Gemma3;
use crate::session::about::ShownExample;
use crate::session::selection::Best;
use crate::session::{About, Checkpoint, ComputeDevice, Footprint, Identity, SavedRun, Saves, write_page};
use crate::train::order::Order;

/// A run's data and places, all checked before the first long computation.
pub(super) struct Job<'a> {
    pub(super) args: &'a TrainArgs,
    pub(super) eval_rows: Vec<Row>,
    pub(super) train: Vec<Example>,
    pub(super) eval: Vec<Example>,
    pub(super) total_steps: usize,
    /// How long the rows are, and what their batches come to.
    lengths: String,
    /// What the run goes on from.
    pub(super) resumed: Option<SavedRun>,
}

/// The score before training, once it is known: it does not depend on how a run goes.
pub(super) type Before = Option<(Score, Vec<u8>)>;

/// One run. None: it was a dry one.
pub(super) fn once(args: &TrainArgs, before: &mut Before) -> Result<Option<Summary>> {
    args.hub.check()?;
    let mut device = args.model.open_device()?;
    let profiler = args.profile.then(|| Profiler::around(&mut device)).transpose()?;
    OutputFolder::check(&args.output_dir, mode(args))?;
    if let Some(fallback) = &args.fallback_dir {
        OutputFolder::check(fallback, Existing::Refuse)?;
    }
    let (mut job, checkpoint) = Job::prepare(args)?;
    OutputFolder::require_space(&args.output_dir, checkpoint.saved_bytes(args.save_dtype()))?;
    let footprint = Footprint::of(&checkpoint, &device, &job.train, &args.options())?;
    footprint.require()?;
    if args.dry_run {
        return job.rehearse(&checkpoint, &device, &footprint).map(|()| None);
    }
    let folder = OutputFolder::claim(&args.output_dir, mode(args))?;
    job.resumed = resumed(args)?;
    let model = checkpoint.load_to_train(&device)?;
    explain_device(&device);
    let identity = job.identity(&model)?;
    if let Some(saved) = &job.resumed {
        let differences = [saved.check(&identity)?, saved.choose(model.device())];
        differences.iter().flatten().for_each(|difference| say(&format!("warning: {difference}")));
    }
    folder.begin_run()?;
    job.introduce(&model, &checkpoint, &footprint);
    signals::listen("stopping after this step, and saving; Ctrl-C again to quit at once, without saving");
    let mut about = job.about(&model, &checkpoint, &identity)?;
    about.score_before = job.score_before(&model, &checkpoint, &folder, before)?;
    // What is left of the answers; but not the room that the gradients will have.
    model.device().trim_but_for(model.trained().len() * model.trained().master_dtype().size());
    signals::go_on("nothing was trained, it was before the first step")?;
    let limit = (args.save_total_limit > 0).then_some(args.save_total_limit as usize);
    let (score_before, dtype) = (about.score_before.clone(), args.save_dtype());
    let mut saves = Saves { checkpoint: Rc::new(checkpoint), folder, identity, score_before, dtype, limit };
    profiler.iter().for_each(Profiler::begin);
    let (model, place) = job.train(model, &mut saves, &mut about)?;
    profiler.iter().for_each(|profiler| say(&profiler.table(device.dtype)));
    warn_of(write_page(&place));
    job.score_after(&model, &place, &saves.checkpoint, &mut about)?;
    let pushed = args.hub.push(&place);
    let About { steps, best, score_before, score_after, .. } = about;
    let is_adapter = saves.checkpoint.adapter.is_some();
    let mut summary = Summary { output_dir: place, is_adapter, steps, best, score_before, score_after, pushed: None };
    match pushed {
        Ok(page) => summary.pushed = page,
        Err(error) => {
            if args.log_format == LogFormat::Json {
                result(&summary)?;
            }
            return Err(error);
        }
    }
    Ok(Some(summary))
}

/// What came of a run, for programs.
#[derive(Serialize)]
pub(super) struct Summary {
    pub(super) output_dir: PathBuf,
    /// Whether an adapter lies there, in the place of a model.
    pub(super) is_adapter: bool,
    pub(super) steps: u64,
    pub(super) best: Option<Best>,
    pub(super) score_before: Option<Score>,
    pub(super) score_after: Option<Score>,
    /// The model's page on the hub.
    pub(super) pushed: Option<String>,
}

/// What is not worth failing for.
pub(super) fn warn_of(result: Result<()>) {
    if let Err(error) = result {
        say(&error.warning());
    }
}

/// What becomes of an earlier run in the output folder.
pub(super) fn mode(args: &TrainArgs) -> Existing {
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
        let checkpoint = adapted(open(&args.model, &args.rows)?, args)?;
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

    /// What the run is of.
    fn identity(&self, model: &Gemma3) -> Result<Identity> {
        let options = self.args.options();
        let identity = Identity::new(model, &self.train, &self.eval, &options)?;
        Ok(identity.with_answers(&options, &self.args.generation()))
    }

    /// What can be known without the steps.
    fn rehearse(&mut self, checkpoint: &Checkpoint, device: &ComputeDevice, footprint: &Footprint) -> Result<()> {
        self.resumed = resumed(self.args)?;
        let model = checkpoint.load_to_train(device)?;
        explain_device(device);
        if let Some(saved) = &self.resumed {
            saved.check(&self.identity(&model)?)?.iter().for_each(|difference| say(&format!("warning: {difference}")));
        }
        self.introduce(&model, checkpoint, footprint);
        say("nothing was trained or written: this was a dry run");
        match self.args.log_format {
            LogFormat::Json => result(&serde_json::json!({
                "dry_run": true,
                "total_steps": self.total_steps,
                "memory_bytes": footprint.bytes,
            })),
            LogFormat::Text => Ok(()),
        }
    }

    /// What is about to happen, and one example with its scored tokens marked.
    fn introduce(&self, model: &Gemma3, checkpoint: &Checkpoint, footprint: &Footprint) {
        let trained = match model.adapter() {
            Some(adapter) => format!(", {} of an adapter are trained", adapter.params.len()),
            None => String::new(),
        };
        say(&format!(
            "{} parameters{trained}; {}, {}; {}",
            model.params.len(),
            counted(self.train.len(), "training row"),
            counted(self.eval.len(), "evaluation row"),
            counted(self.total_steps, "step")
        ));
        say(&self.lengths);
        say(&memory(footprint));
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
            trained_parameters: model.trained().len(),
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
}

/// With the adapter or the rounding that the flags ask for.
fn adapted(checkpoint: Checkpoint, args: &TrainArgs) -> Result<Checkpoint> {
    let checkpoint = match args.lora.lora() {
        Some(lora) => checkpoint.with_lora(lora, &args.model.model, args.generation.seed)?,
        None => checkpoint,
    };
    match args.optimization.qat {
        Some(kind) => checkpoint.with_qat(kind.into()),
        None => Ok(checkpoint),
    }
}

/// What the steps will take, for a person.
fn memory(footprint: &Footprint) -> String {
    let free = footprint.free.map(|free| format!(" of {} that are free", gigabytes(free as usize)));
    let parts = by_purpose(&footprint.by_purpose);
    format!("memory for the steps: {}{} ({parts})", gigabytes(footprint.bytes), free.unwrap_or_default())
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
