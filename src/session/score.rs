//! Generates the answers to the prompts of a dataset and judges them.

use crate::chat::tokenizer::{ChatTokenizer, Prompt};
use crate::data::rows::{Row, RowContent};
use crate::error::{Context, Result};
use crate::eval::report::{Answer, Report};
use crate::eval::verdict::Expected;
use crate::generate::{GenerateOptions, generate_into, longest};
use crate::model::gemma3::Gemma3;
use crate::session::{Checkpoint, Generation};

/// The report on every answer of the assistant in the rows, each given the true history before it; None when no row has one. `progress` is told how many answers have
/// been generated, of how many; its error ends the scoring.
///
/// # Errors
/// A row cannot be rendered, the device fails, or `progress` says so.
pub fn score(
    checkpoint: &Checkpoint,
    model: &Gemma3,
    rows: &[Row],
    generation: &Generation,
    progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Option<Report>> {
    let prompts = Prompts::new(checkpoint, rows)?;
    if prompts.is_empty() {
        return Ok(None);
    }
    prompts.score(model, &checkpoint.tokenizer, &checkpoint.generate_options(generation), progress).map(Some)
}

/// The prompts of a dataset, tokenized, and the answers that are due.
pub struct Prompts(Vec<(Prompt, Expected)>);

impl Prompts {
    /// Of every answer of the assistant in the rows, each with the true history before it.
    ///
    /// # Errors
    /// A row cannot be rendered.
    pub fn new(checkpoint: &Checkpoint, rows: &[Row]) -> Result<Self> {
        let mut prompts = Vec::new();
        for row in rows.iter().filter(|row| has_prompt(row)) {
            for prompt in checkpoint.tokenizer.prompts(row)? {
                if !prompt.expected.is_empty() {
                    let expected = Expected::from_messages(&prompt.expected).context(|| prompt.origin.clone())?;
                    prompts.push((prompt, expected));
                }
            }
        }
        Ok(Self(prompts))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a model made for so many `positions` has room for every answer, as generating them would find out.
    ///
    /// # Errors
    /// A usage error: it has not.
    pub fn check_room(&self, options: &GenerateOptions, positions: usize) -> Result<()> {
        let ids: Vec<&[u32]> = self.0.iter().map(|(prompt, _)| &prompt.ids[..]).collect();
        longest(&ids, options.max_new_tokens, positions).map(|_| ())
    }

    /// Answers and judges them all.
    ///
    /// # Errors
    /// The device fails, or `progress` says so.
    pub fn score(
        &self,
        model: &Gemma3,
        tokenizer: &ChatTokenizer,
        options: &GenerateOptions,
        progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<Report> {
        let (report, ended) = self.score_until(model, tokenizer, options, progress);
        ended.map(|()| report)
    }

    /// [`score`](Self::score) that also gives the report on the answers that had ended before an error.
    pub fn score_until(
        &self,
        model: &Gemma3,
        tokenizer: &ChatTokenizer,
        options: &GenerateOptions,
        mut progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> (Report, Result<()>) {
        let ids: Vec<&[u32]> = self.0.iter().map(|(prompt, _)| &prompt.ids[..]).collect();
        let mut outputs = Vec::new();
        let ended = progress(0, ids.len())
            .and_then(|()| generate_into(&mut outputs, model, &ids, options, |done| progress(done, ids.len())));
        let mut report = Report::default();
        for ((prompt, expected), token_ids) in self.0.iter().zip(outputs) {
            if !options.has_ended(&token_ids) {
                continue;
            }
            let output = tokenizer.decode(&token_ids);
            let answer = Answer { origin: prompt.origin.clone(), prompt: prompt.user.clone(), output, token_ids };
            report.add(answer, expected.clone(), &prompt.tool_names);
        }
        (report, ended)
    }

    /// Answers that are due.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Plain text asks nothing.
fn has_prompt(row: &Row) -> bool {
    !matches!(row.content, RowContent::Text { prompt: None, .. })
}
