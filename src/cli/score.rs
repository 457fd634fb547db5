//! Rows and answers with what a terminal should show of them: for `engine eval` and `engine train`.

use crate::batch::Example;
use crate::cli::args::{ModelArgs, RowArgs};
use crate::cli::out::say;
use crate::cli::progress::Progress;
use crate::cli::signals;
use crate::cli::slow::Slow;
use crate::data::rows::Row;
use crate::error::{Error, Kind, Result, printable};
use crate::eval::report::Report;
use crate::model::gemma3::Gemma3;
use crate::session::{Checkpoint, ComputeDevice, Examples, Generation, Prompts};

/// What a table is fitted to where the width is unknown: output that goes to a file or a pipe.
const DEFAULT_WIDTH: usize = 120;

/// The report on all rows that have an expected answer, with a progress bar; None when no row has one.
pub fn score(
    checkpoint: &Checkpoint,
    model: &Gemma3,
    rows: &[Row],
    generation: &Generation,
    title: &str,
) -> Result<Option<Report>> {
    match score_until_stopped(checkpoint, model, rows, generation, title)? {
        Some((_, Some(stopped))) => Err(stopped),
        Some((report, None)) => Ok(Some(report)),
        None => Ok(None),
    }
}

/// [`score`] that, when somebody asks to stop, gives the report on the answers that there are, with the error to end by.
pub fn score_until_stopped(
    checkpoint: &Checkpoint,
    model: &Gemma3,
    rows: &[Row],
    generation: &Generation,
    title: &str,
) -> Result<Option<(Report, Option<Error>)>> {
    let prompts = Prompts::new(checkpoint, rows)?;
    if prompts.is_empty() {
        return Ok(None);
    }
    let mut progress = None;
    let options = checkpoint.generate_options(generation);
    let (report, ended) = prompts.score_until(model, &checkpoint.tokenizer, &options, |done, total| {
        progress.get_or_insert_with(|| Progress::counter(title, total as u64)).set_done(done as u64);
        signals::go_on("the scoring was stopped")
    });
    progress.iter_mut().for_each(Progress::finish);
    match ended {
        Ok(()) => Ok(Some((report, None))),
        Err(error) if error.kind() == Kind::Interrupted => {
            let answered = format!("{} of {} prompts were answered", report.score.total, prompts.len());
            Ok(Some((report, Some(error.context(answered)))))
        }
        Err(error) => Err(error),
    }
}

/// The model that is named, with its adapter, the chat template and the token that ends answers that the flags name.
pub fn open(model: &ModelArgs, rows: &RowArgs) -> Result<Checkpoint> {
    with_flags(model.open()?, rows)
}

/// [`open`], with the model to answer with.
pub fn open_frozen(model: &ModelArgs, rows: &RowArgs, on: &ComputeDevice) -> Result<(Checkpoint, Gemma3)> {
    let (checkpoint, model) = model.open_frozen(on)?;
    Ok((with_flags(checkpoint, rows)?, model))
}

fn with_flags(mut checkpoint: Checkpoint, rows: &RowArgs) -> Result<Checkpoint> {
    if let Some(path) = &rows.chat_template_path {
        checkpoint = checkpoint.with_chat_template(path)?;
    }
    match &rows.eos_token {
        Some(token) => checkpoint.with_eos_token(token),
        None => Ok(checkpoint),
    }
}

/// The examples of `rows`; what should be known about them goes to stderr.
pub fn examples(checkpoint: &Checkpoint, rows: &[Row], args: &RowArgs, name: &str) -> Result<Vec<Example>> {
    let progress = Slow::new("tokenizing", Some(rows.len()));
    let examples =
        Examples::cached(checkpoint, rows, &args.example_options()?, args.cache().as_ref(), || progress.count());
    progress.finish();
    let Examples { examples, warnings, too_long } = examples?;
    warnings.iter().for_each(|w| say(&format!("warning: {}", printable(w))));
    too_long.iter().for_each(|line| say(&format!("{name}: {}", printable(line))));
    Ok(examples)
}

/// The columns that a table on stdout may take: the terminal's, or 120 where stdout is none.
pub fn stdout_width() -> usize {
    console::Term::stdout().size_checked().map_or(DEFAULT_WIDTH, |(_, columns)| usize::from(columns))
}
