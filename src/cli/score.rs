//! Generates the answers to a dataset's prompts and judges them: for `engine eval`, and before and after training.

use crate::cli::args::GenerationArgs;
use crate::cli::loading::Checkpoint;
use crate::data::rows::{Row, RowContent};
use crate::data::tools::tool_name;
use crate::error::{Context, Result};
use crate::eval::report::{Answer, Report};
use crate::eval::verdict::Expected;
use crate::generate::generate;
use crate::model::gemma3::Gemma3;
use crate::train::progress::Progress;

/// The report on all rows that have an expected answer; None when no row has one.
pub fn score(
    checkpoint: &Checkpoint,
    model: &Gemma3,
    rows: &[Row],
    args: &GenerationArgs,
    title: &str,
) -> Result<Option<Report>> {
    let tokenizer = &checkpoint.tokenizer;
    let rows = rows.iter().filter(|row| has_prompt(row));
    let mut prompts: Vec<_> = rows.map(|row| tokenizer.prompt(row)).collect::<Result<_>>()?;
    prompts.retain(|prompt| !prompt.expected.is_empty());
    if prompts.is_empty() {
        return Ok(None);
    }
    let ids: Vec<&[u32]> = prompts.iter().map(|p| &p.ids[..]).collect();
    let mut progress = Progress::counter(title, ids.len() as u64);
    let options = checkpoint.generate_options(args);
    let outputs = generate(model, &ids, &options, |done| progress.set_done(done as u64))?;
    progress.finish();
    let mut report = Report::default();
    for (prompt, token_ids) in prompts.into_iter().zip(outputs) {
        let expected = Expected::from_messages(&prompt.expected).context(|| prompt.origin.clone())?;
        let names: Vec<String> = prompt.tools.iter().filter_map(tool_name).map(str::to_owned).collect();
        let output = tokenizer.decode(&token_ids);
        report.add(Answer { origin: prompt.origin, prompt: prompt.user, output, token_ids }, expected, &names);
    }
    Ok(Some(report))
}

/// Plain text asks nothing.
fn has_prompt(row: &Row) -> bool {
    !matches!(row.content, RowContent::Text { prompt: None, .. })
}
