//! `engine eval`: the table of prompts, outputs and verdicts; with `--report` as JSON, with `--loss` the loss too, with `--as`
//! beside the score of the model as it is.

use std::mem::ManuallyDrop;
use std::path::Path;

use crate::batch::Example;
use crate::cli::args::{EvalArgs, LogFormat};
use crate::cli::options::{explain_device, load};
use crate::cli::out::{print, result};
use crate::cli::score::{examples, open, open_frozen, score, score_until_stopped, stdout_width};
use crate::cli::signals;
use crate::data::rows::Row;
use crate::err;
use crate::error::{Error, Kind, Result};
use crate::eval::price::PricedReport;
use crate::eval::report::Report;
use crate::eval::table::{examples_table, score_table};
use crate::io::atomic::write_atomically;
use crate::io::gguf_type::GgufType;
use crate::model::gemma3::Gemma3;
use crate::session::{Checkpoint, ComputeDevice};
use crate::train::evaluate::evaluate;

pub fn run(args: &EvalArgs) -> Result<()> {
    if let Some(path) = &args.report {
        require_folder(path)?;
    }
    if args.price.max_drop.is_some() && args.price.r#as.is_none() {
        return Err(
            Error::usage("`--max-drop` compares with rounded weights").hint("say which, for example `--as q8_0`")
        );
    }
    let device = args.model.open_device()?;
    let rows = load(&args.dataset, &args.rows.row_options()?)?;
    let (checkpoint, model) = match args.price.r#as {
        // It loads a model twice, one after the other.
        Some(_) => (open(&args.model, &args.rows)?, None),
        None => open_frozen(&args.model, &args.rows, &device).map(|(checkpoint, model)| (checkpoint, Some(model)))?,
    };
    let examples = if args.loss { examples(&checkpoint, &rows, &args.rows, "evaluation")? } else { Vec::new() };
    // To free a tokenizer's half a million pieces takes longer than to end.
    let job = ManuallyDrop::new(Job { args, device, rows, checkpoint, examples });
    match (args.price.r#as, model) {
        (Some(kind), _) => job.price(kind.into()),
        (None, Some(model)) => job.score(&model),
        (None, None) => Err(err!("internal: there is no model to score")),
    }
}

struct Job<'a> {
    args: &'a EvalArgs,
    device: ComputeDevice,
    rows: Vec<Row>,
    checkpoint: Checkpoint,
    /// What the loss is computed on, if it is asked for.
    examples: Vec<Example>,
}

impl Job<'_> {
    fn score(&self, model: &Gemma3) -> Result<()> {
        explain_device(&self.device);
        signals::listen("stopping; what is answered by now is shown and written");
        let generation = self.args.generation.options();
        let scored = score_until_stopped(&self.checkpoint, model, &self.rows, &generation, "score")?;
        let (mut report, stopped) = scored.ok_or_else(|| self.nothing_to_score())?;
        if stopped.is_none() {
            self.add_loss(&mut report, model)?;
        }
        if let Some(path) = &self.args.report {
            report.write(path)?;
        }
        match self.args.log_format {
            LogFormat::Json => result(&report)?,
            LogFormat::Text => {
                let table = examples_table(&report, stdout_width());
                print(&format!("{table}\n{}{}", score_table(&report.score), loss_line("", &report)))?;
            }
        }
        stopped.map_or(Ok(()), Err)
    }

    /// The score with weights rounded to `kind`, beside that of the model as it is.
    fn price(&self, kind: GgufType) -> Result<()> {
        let model = self.checkpoint.load_frozen(&self.device)?;
        explain_device(&self.device);
        signals::listen("stopping; nothing is shown and written");
        let unrounded = self.report(&model, "score as it is")?;
        // There is memory for one of the two.
        drop(model);
        let model = self.checkpoint.load_as(&self.device, kind)?;
        let rounded = self.report(&model, &format!("score as {}", kind.name()))?;
        let priced = PricedReport::new(kind.name(), unrounded, rounded)?;
        if let Some(path) = &self.args.report {
            write_atomically(path, priced.text()?.as_bytes())?;
        }
        match self.args.log_format {
            LogFormat::Json => result(&priced)?,
            LogFormat::Text => {
                let table = examples_table(&priced.rounded, stdout_width());
                let before = loss_line(" as it is", &priced.unrounded);
                let after = loss_line(&format!(" as {}", kind.name()), &priced.rounded);
                print(&format!("{table}\n{}{before}{after}", priced.table()))?;
            }
        }
        self.args.price.max_drop.map_or(Ok(()), |most| priced.check_drop(most))
    }

    fn report(&self, model: &Gemma3, title: &str) -> Result<Report> {
        let scored = score(&self.checkpoint, model, &self.rows, &self.args.generation.options(), title)?;
        let mut report = scored.ok_or_else(|| self.nothing_to_score())?;
        self.add_loss(&mut report, model)?;
        Ok(report)
    }

    fn add_loss(&self, report: &mut Report, model: &Gemma3) -> Result<()> {
        if self.args.loss {
            let sums = evaluate(model, &self.examples, 0.0, || signals::go_on("the loss was not computed"))?;
            report.eval_loss = Some(sums.loss / sums.scored.max(1.0));
        }
        Ok(())
    }

    fn nothing_to_score(&self) -> Error {
        err!("`{}` has no row with an answer to score", self.args.dataset).of_kind(Kind::Data)
    }
}

fn loss_line(of: &str, report: &Report) -> String {
    report.eval_loss.map(|loss| format!("evaluation loss{of} {loss:.4}\n")).unwrap_or_default()
}

/// Better known before the answers are generated than after.
fn require_folder(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(err!("there is no folder `{}` for the report", folder.display())),
        _ => Ok(()),
    }
}
