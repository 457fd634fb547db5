//! `engine train`: score, train with evaluation, save, plot, score again.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::batch::Example;
use crate::chat::preview::preview;
use crate::cli::args::{EvalStrategyArg, OptimizationArgs, ScoreArg, TrainArgs};
use crate::cli::loading::{Checkpoint, device, row_options};
use crate::cli::score::score;
use crate::data::dataset::{load_rows, train_test_split};
use crate::data::rows::Row;
use crate::device::{Device, Purpose};
use crate::error::{Error, Result};
use crate::eval::report::Report;
use crate::eval::table::{before_after, examples_table, stdout_width};
use crate::io::folder::{OutputFolder, SavedModel};
use crate::io::safetensors::SaveDtype;
use crate::model::gemma3::Gemma3;
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::{parameter_count, parameter_specs};
use crate::train::metrics::{MetricsWriter, Record, SummaryRecord, peak_memory_bytes};
use crate::train::plot::plot_losses;
use crate::train::progress::Progress;
use crate::train::schedule::{Schedule, warmup_steps};
use crate::train::trainer::{EvalStrategy, Outcome, TrainOptions, Trainer, steps_per_epoch};

/// Exit code after Ctrl-C, as shells have it: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

static STOP: AtomicBool = AtomicBool::new(false);

/// A run's data and places, all checked before the first long computation.
struct Run<'a> {
    args: &'a TrainArgs,
    checkpoint: Checkpoint,
    folder: OutputFolder,
    eval_rows: Vec<Row>,
    train: Vec<Example>,
    eval: Vec<Example>,
    options: TrainOptions,
}

pub fn run(args: &TrainArgs) -> Result<ExitCode> {
    let device = device(&args.model)?;
    OutputFolder::check(&args.output_dir)?;
    let run = Run::prepare(args)?;
    let mut model = run.checkpoint.load(&device)?;
    run.introduce(&model);
    listen_for_ctrl_c();
    let before = run.score_if(&model, ScoreArg::Before, "score before")?;
    model.device().trim();
    if STOP.load(Ordering::Relaxed) {
        eprintln!("interrupted before the first step: nothing was trained");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let outcome = run.train(&mut model)?;
    report_memory(model.device());
    model.device().trim();
    run.save(&model)?;
    let saved = run.folder.path().display();
    match outcome {
        Outcome::Finished => eprintln!("saved the model in `{saved}`"),
        Outcome::Interrupted { step } => {
            eprintln!("interrupted: the model as of step {step} is saved in `{saved}`");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Outcome::Diverged(error) => {
            return Err(error.context(format!("training stopped; the model before that step is saved in `{saved}`")));
        }
    }
    let after = run.score_if(&model, ScoreArg::After, "score after")?;
    report(before, after);
    Ok(ExitCode::SUCCESS)
}

impl<'a> Run<'a> {
    fn prepare(args: &'a TrainArgs) -> Result<Self> {
        let row_options = row_options(&args.rows)?;
        let rows = load_rows(&args.dataset, &row_options)?;
        let (train_rows, eval_rows) = match (&args.eval_dataset, args.test_size) {
            (Some(eval), _) => (rows, load_rows(eval, &row_options)?),
            (None, Some(size)) => train_test_split(rows, size, args.shuffle, args.generation.seed)?,
            (None, None) => (rows, Vec::new()),
        };
        let checkpoint = Checkpoint::open(&args.model.model)?;
        let train = checkpoint.examples(&train_rows, &args.rows, "training")?;
        let eval = checkpoint.examples(&eval_rows, &args.rows, "evaluation")?;
        let options = train_options(args, train.len())?;
        let folder = OutputFolder::claim(&args.output_dir)?;
        folder.require_space(saved_bytes(&checkpoint.config, args.save_dtype.into()))?;
        Ok(Self { args, checkpoint, folder, eval_rows, train, eval, options })
    }

    /// What is about to happen, and one example with its scored tokens marked.
    fn introduce(&self, model: &Gemma3) {
        let schedule = &self.options.schedule;
        eprintln!(
            "{} parameters; {} training rows, {} evaluation rows; {} steps",
            model.params.len(),
            self.train.len(),
            self.eval.len(),
            schedule.total_steps
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

    fn train(&self, model: &mut Gemma3) -> Result<Outcome> {
        let started = Instant::now();
        let mut metrics = Some(MetricsWriter::create(&self.folder.path().join("metrics.jsonl"))?);
        let mut progress = Progress::training(self.options.schedule.total_steps as u64);
        let mut records = Vec::new();
        let mut observe = |record: &Record| {
            match record {
                Record::Train(train) => progress.step(train),
                Record::Eval(eval) => progress.evaluation(eval),
                Record::Summary(_) => {}
            }
            records.push(record.clone());
            // A run is worth more than its record: a full disk may have room again when the model is saved.
            if let Some(Err(error)) = metrics.as_mut().map(|metrics| metrics.write(record)) {
                progress.println(&format!("warning: no more metrics are written\n{}", error.report()));
                metrics = None;
            }
            Ok(())
        };
        let trainer = Trainer::new(model, &self.options, &self.train, &self.eval)?;
        let outcome = trainer.run(&mut observe, &STOP)?;
        let train_runtime = started.elapsed().as_secs_f64();
        observe(&Record::Summary(SummaryRecord { train_runtime, peak_memory_bytes: peak_memory_bytes() }))?;
        progress.finish();
        if let Err(error) = plot_losses(&records, &self.folder.path().join("loss.svg")) {
            eprintln!("warning: there is no loss plot\n{}", error.report());
        }
        Ok(outcome)
    }

    fn save(&self, model: &Gemma3) -> Result<()> {
        let values = &model.params.values;
        self.folder.save_model(&SavedModel {
            source: self.checkpoint.source.folder(),
            config: &self.checkpoint.config,
            generation_config: &self.checkpoint.generation_config,
            flat: &values.read::<f32>()?,
            dtype: self.args.save_dtype.into(),
            chat_template: Some(self.checkpoint.tokenizer.template().source()),
        })
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

/// About what the model folder takes: the weights, and room for the tokenizer and the metrics.
fn saved_bytes(config: &Gemma3Config, dtype: SaveDtype) -> u64 {
    let element = match dtype {
        SaveDtype::F32 => 4,
        SaveDtype::Bf16 => 2,
    };
    (parameter_count(&parameter_specs(config)) * element) as u64 + (64 << 20)
}

/// The table of the last score, then before and after side by side: the last thing on the screen.
fn report(before: Option<Report>, after: Option<Report>) {
    let Some(last) = after.as_ref().or(before.as_ref()) else { return };
    println!("{}", examples_table(last, stdout_width()));
    if let (Some(before), Some(after)) = (&before, &after) {
        print!("{}", before_after(&before.score, &after.score));
    }
}

fn train_options(args: &TrainArgs, examples: usize) -> Result<TrainOptions> {
    let o: &OptimizationArgs = &args.optimization;
    let mut options = TrainOptions {
        per_device_train_batch_size: o.per_device_train_batch_size as usize,
        gradient_accumulation_steps: o.gradient_accumulation_steps as usize,
        schedule: Schedule {
            kind: o.lr_scheduler_type,
            warmup_steps: 0,
            total_steps: 0,
            learning_rate: o.learning_rate,
        },
        weight_decay: o.weight_decay,
        betas: (0.9, 0.999),
        eps: 1e-8,
        max_grad_norm: o.max_grad_norm,
        shuffle_seed: args.shuffle.then_some(args.generation.seed),
        eval_strategy: match args.eval_strategy {
            EvalStrategyArg::No => EvalStrategy::No,
            EvalStrategyArg::Epoch => EvalStrategy::Epoch,
            EvalStrategyArg::Steps => EvalStrategy::Steps(args.eval_steps),
        },
        logging_steps: args.logging_steps,
        graphs: args.cuda_graphs,
    };
    let epochs = || (o.num_train_epochs * steps_per_epoch(examples, &options) as f64).ceil() as u64;
    let total = o.max_steps.unwrap_or_else(epochs);
    if examples == 0 {
        return Err(Error::new(format!("`{}` has no row to train on", args.dataset)));
    }
    options.schedule.total_steps = total as usize;
    options.schedule.warmup_steps = warmup_steps(o.warmup_steps, total as usize)?;
    Ok(options)
}

/// The first Ctrl-C asks the run to stop after its step, the second ends the process.
fn listen_for_ctrl_c() {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
        eprintln!("\nstopping after this step; Ctrl-C again to quit at once, without saving");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("warning: Ctrl-C will end the run without saving: {error}");
    }
}
