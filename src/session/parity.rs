//! Serving parity: whether another chat template makes the same tokens of a dataset as the checkpoint's does.
//!
//! A runtime that brings a template of its own may serve a model with prompts that it has never seen. Compared are the prompt
//! of every answer, given or due (what serving renders, with the true history before it), and every whole conversation (what training renders),
//! both encoded by the checkpoint's tokenizer, in which what data spell never becomes a control token.

use std::ops::Range;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;
use similar::{Algorithm, capture_diff_slices_deadline, group_diff_ops};

use crate::chat::tokenizer::{ChatTokenizer, LossOn, Prompt};
use crate::data::rows::{Row, RowContent};
use crate::error::{Kind, Result};

/// Equal tokens that are shown before and behind a difference.
const CONTEXT: usize = 3;

/// Texts of any known dataset take milliseconds. What is not compared by then counts as replaced.
const PATIENCE: Duration = Duration::from_secs(10);

/// What of a row is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// All before an answer, and where the model is to go on.
    Prompt,
    /// All of it, answers too.
    Conversation,
}

/// One text as two templates render it.
#[derive(Clone, Debug)]
pub struct Compared {
    pub part: Part,
    /// `file:line`, of one answer of several `file:line, turn 2 of 3`.
    pub origin: String,
    /// The ids that the checkpoint's template gives.
    pub model: Vec<u32>,
    /// The ids that the other template gives, or why it gives none.
    pub other: Result<Vec<u32>, String>,
}

/// A step from the checkpoint's tokens to the other template's; ranges of token indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The same tokens on both sides.
    Equal { model: Range<usize>, other: Range<usize> },
    /// The other side has the second tokens where the checkpoint has the first; one of them may be none.
    Differs { model: Range<usize>, other: Range<usize> },
}

impl Compared {
    pub fn is_equal(&self) -> bool {
        self.other.as_ref().is_ok_and(|other| *other == self.model)
    }

    /// The differences, each between up to three equal tokens; those that are nearer than that to one another stand together.
    /// Nothing where all is equal or the other template refuses.
    pub fn differences(&self) -> Vec<Vec<Step>> {
        let Ok(other) = &self.other else { return Vec::new() };
        let deadline = Some(Instant::now() + PATIENCE);
        let steps = capture_diff_slices_deadline(Algorithm::Myers, &self.model, other, deadline);
        let groups = group_diff_ops(steps, CONTEXT);
        let step = |of: similar::DiffOp| match of.as_tag_tuple() {
            (similar::DiffTag::Equal, model, other) => Step::Equal { model, other },
            (_, model, other) => Step::Differs { model, other },
        };
        groups.into_iter().map(|group| group.into_iter().map(step).collect()).collect()
    }
}

/// Renders the chats among `rows` with the templates of two tokenizers that are otherwise the same; plain text is left out.
///
/// # Errors
/// A row that the model's own template refuses, by `file:line`.
pub fn compare(model: &ChatTokenizer, other: &ChatTokenizer, rows: &[Row]) -> Result<Vec<Compared>> {
    let compared: Result<Vec<_>> = rows.par_iter().map(|row| compare_row(model, other, row)).collect();
    Ok(compared.map_err(|error| error.or_kind(Kind::Data))?.into_iter().flatten().collect())
}

fn compare_row(model: &ChatTokenizer, other: &ChatTokenizer, row: &Row) -> Result<Vec<Compared>> {
    let RowContent::Chat { messages, .. } = &row.content else { return Ok(Vec::new()) };
    let theirs = prompts(other, row).map_err(|error| error.line());
    let prompt = |(i, prompt): (usize, Prompt)| {
        let other = theirs.as_ref().map(|theirs| theirs[i].ids.clone()).map_err(String::clone);
        Compared { part: Part::Prompt, origin: prompt.origin, model: prompt.ids, other }
    };
    let mut compared: Vec<Compared> = prompts(model, row)?.into_iter().enumerate().map(prompt).collect();
    if messages.iter().any(is_answer) {
        let ids = |tokenizer: &ChatTokenizer| tokenizer.example(row, LossOn::All).map(|example| example.ids);
        let (model, other) = (ids(model)?, ids(other).map_err(|error| error.line()));
        compared.push(Compared { part: Part::Conversation, origin: row.origin.to_string(), model, other });
    }
    Ok(compared)
}

/// The prompt of every answer in a row, and of the one that is due where it ends with the user.
fn prompts(tokenizer: &ChatTokenizer, row: &Row) -> Result<Vec<Prompt>> {
    let RowContent::Chat { messages, prompt_messages, .. } = &row.content else { return Ok(Vec::new()) };
    let before_answer = messages.iter().rposition(is_answer).unwrap_or(messages.len());
    // A row that starts with its only answer has no prompt for it.
    let asks = messages[..before_answer].iter().any(|message| !is_answer(message));
    let mut prompts = if asks { tokenizer.prompts(row)? } else { Vec::new() };
    if prompt_messages.is_none() && messages.last().is_some_and(|message| message["role"] == "user") {
        prompts.push(tokenizer.prompt(row)?);
    }
    Ok(prompts)
}

fn is_answer(message: &Value) -> bool {
    message["role"] == "assistant"
}
