//! `engine eval`: the table of prompts, outputs and verdicts; with `--report` as JSON, with `--loss` the loss too.

use std::path::Path;

use crate::cli::args::{EvalArgs, LogFormat};
use crate::cli::options::{explain_device, load};
use crate::cli::out::{print, result};
use crate::cli::score::{examples, open, score_until_stopped, stdout_width};
use crate::cli::signals;
use crate::err;
use crate::error::{Kind, Result};
use crate::eval::table::{examples_table, score_table};
use crate::train::evaluate::evaluate;

pub fn run(args: &EvalArgs) -> Result<()> {
    if let Some(path) = &args.report {
        require_folder(path)?;
    }
    let device = args.model.open_device()?;
    let rows = load(&args.dataset, &args.rows.row_options()?)?;
    let checkpoint = open(&args.model.model, &args.rows)?;
    let examples = if args.loss { examples(&checkpoint, &rows, &args.rows, "evaluation")? } else { Vec::new() };
    let model = checkpoint.load(&device)?;
    explain_device(&device);
    signals::listen("stopping; what is answered by now is shown and written");
    let (mut report, stopped) = score_until_stopped(&checkpoint, &model, &rows, &args.generation, "score")?
        .ok_or_else(|| err!("`{}` has no row with an answer to score", args.dataset).of_kind(Kind::Data))?;
    if args.loss && stopped.is_none() {
        let sums = evaluate(&model, &examples, 0.0, || signals::go_on("the loss was not computed"))?;
        report.eval_loss = Some(sums.loss / sums.scored.max(1.0));
    }
    if let Some(path) = &args.report {
        report.write(path)?;
    }
    match args.log_format {
        LogFormat::Json => result(&report)?,
        LogFormat::Text => {
            let loss = report.eval_loss.map(|loss| format!("evaluation loss {loss:.4}\n")).unwrap_or_default();
            print(&format!("{}\n{}{loss}", examples_table(&report, stdout_width()), score_table(&report.score)))?;
        }
    }
    stopped.map_or(Ok(()), Err)
}

/// Better known before the answers are generated than after.
fn require_folder(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(err!("there is no folder `{}` for the report", folder.display())),
        _ => Ok(()),
    }
}
