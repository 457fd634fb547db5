//! `engine eval`: the table of prompts, outputs and verdicts; with `--report` as JSON, with `--loss` the loss too.

use crate::cli::args::EvalArgs;
use crate::cli::loading::{Checkpoint, device, row_options};
use crate::cli::score::score;
use crate::data::dataset::load_rows;
use crate::err;
use crate::error::Result;
use crate::eval::table::{examples_table, stdout_width};
use crate::train::evaluate::evaluate;

pub fn run(args: &EvalArgs) -> Result<()> {
    let device = device(&args.model)?;
    let rows = load_rows(&args.dataset, &row_options(&args.rows)?)?;
    let checkpoint = Checkpoint::open(&args.model.model)?;
    let examples = if args.loss { checkpoint.examples(&rows, &args.rows, "evaluation")? } else { Vec::new() };
    let model = checkpoint.load(&device)?;
    let mut report = score(&checkpoint, &model, &rows, &args.generation, "score")?
        .ok_or_else(|| err!("`{}` has no row with an answer to score", args.dataset))?;
    if args.loss {
        let sums = evaluate(&model, &examples)?;
        report.eval_loss = Some(sums.loss / sums.scored.max(1.0));
    }
    print!("{}", examples_table(&report, stdout_width()));
    if let Some(loss) = report.eval_loss {
        println!("evaluation loss {loss:.4}");
    }
    match &args.report {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}
