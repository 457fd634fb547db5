//! Generates the answers to the prompts of a dataset and judges them.

use crate::data::rows::{Row, RowContent};
use crate::data::tools::tool_name;
use crate::error::{Context, Result};
use crate::eval::report::{Answer, Report};
use crate::eval::verdict::Expected;
use crate::generate::generate;
use crate::model::gemma3::Gemma3;
use crate::session::{Checkpoint, Generation};

/// The report on all rows that have an expected answer; None when no row has one. `progress` is told how many answers have
/// been generated, of how many.
pub fn score(
    checkpoint: &Checkpoint,
    model: &Gemma3,
    rows: &[Row],
    generation: &Generation,
    mut progress: impl FnMut(usize, usize),
) -> Result<Option<Report>> {
    let tokenizer = &checkpoint.tokenizer;
    let rows = rows.iter().filter(|row| has_prompt(row));
    let mut prompts: Vec<_> = rows.map(|row| tokenizer.prompt(row)).collect::<Result<_>>()?;
    prompts.retain(|prompt| !prompt.expected.is_empty());
    if prompts.is_empty() {
        return Ok(None);
    }
    let ids: Vec<&[u32]> = prompts.iter().map(|p| &p.ids[..]).collect();
    progress(0, ids.len());
    let options = checkpoint.generate_options(generation);
    let outputs = generate(model, &ids, &options, |done| progress(done, ids.len()))?;
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
