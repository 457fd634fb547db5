//! What would make a run worthless, as far as the tokenizer has to tell: rows that are too long or of which nothing is scored.

use std::time::Instant;

use rayon::prelude::*;
use serde_json::Value;

use super::examples::{ExampleOptions, default_loss};
use super::token_cache::{TokenCache, cached};
use crate::batch::Example;
use crate::chat::functiongemma::tokens;
use crate::chat::tokenizer::ChatTokenizer;
use crate::data::check::{check_rows, overlap};
use crate::data::finding::{Finding, Problem};
use crate::data::length::{Lengths, Overlong};
use crate::data::rows::{Row, RowContent};
use crate::error::Result;

/// All that is wrong with the rows themselves, with those of an evaluation beside them.
pub fn check_data(train: &[Row], eval: &[Row]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rows in [train, eval] {
        findings.extend(check_rows(rows));
        findings.extend(rows.iter().filter_map(control_tokens));
    }
    findings.extend(overlap(train, eval));
    findings
}

/// What the tokenizer tells of rows.
#[derive(Debug, Default)]
pub struct Tokenized {
    pub findings: Vec<Finding>,
    /// Tokens of every row that can be rendered, before any is cut off.
    pub lengths: Lengths,
    /// About a cache that could not be used.
    pub warnings: Vec<String>,
}

impl Tokenized {
    /// Renders and tokenizes all rows on all cores, unless `cache` has them; `done` is called after each.
    pub fn new(
        rows: &[Row],
        tokenizer: &ChatTokenizer,
        options: &ExampleOptions,
        cache: Option<&TokenCache>,
        done: impl Fn() + Sync,
    ) -> Self {
        let mut warnings = Vec::new();
        let entry = cache.and_then(|cache| cache.entry(tokenizer, rows, options.loss));
        let started = Instant::now();
        let known = cached(entry.as_ref(), rows, tokenizer, |warning| warnings.push(warning));
        let is_known = known.is_some();
        let examples: Vec<Result<Example>> = match known {
            Some(examples) => examples.into_iter().map(Ok).collect(),
            None => {
                let example = |row| tokenizer.example(row, options.loss.unwrap_or_else(|| default_loss(row)));
                rows.par_iter().map(example).inspect(|_| done()).collect()
            }
        };
        let took = started.elapsed();
        let findings =
            rows.par_iter().zip(&examples).filter_map(|(row, example)| look(row, example, options)).collect();
        let lengths = Lengths::new(examples.iter().flatten().map(|example| example.ids.len()).collect());
        if let (Some(entry), false, Ok(examples)) = (entry, is_known, examples.into_iter().collect::<Result<Vec<_>>>())
            && let Err(error) = entry.keep(&examples, took)
        {
            warnings.push(error.line());
        }
        Self { findings, lengths, warnings }
    }
}

/// What is wrong with a row's tokens.
fn look(row: &Row, example: &Result<Example>, options: &ExampleOptions) -> Option<Finding> {
    let finding = |problem, text: String| Some(Finding::new(&row.origin, problem, text));
    let example = match example {
        Ok(example) => example,
        Err(error) => return finding(Problem::NotRendered, error.line()),
    };
    let (length, most) = (example.ids.len(), options.max_length);
    let is_scored = |most: usize| example.scored.iter().take(most).skip(1).any(|scored| *scored);
    let found = format!("{length} tokens, more than the {most} of `--max-length`");
    match options.overlong {
        _ if !is_scored(length) => {
            finding(Problem::NothingScored, "no token is scored, so that it teaches nothing".into())
        }
        _ if length <= most => None,
        Overlong::Refuse => finding(Problem::Refused, format!("{found}: training refuses it")),
        Overlong::Drop => finding(Problem::TooLong, format!("{found}: training leaves it out")),
        Overlong::Truncate if is_scored(most) => finding(Problem::TooLong, format!("{found}: its end is cut off")),
        Overlong::Truncate => {
            let text = format!("{found}: every token that is scored is cut off, so that it teaches nothing");
            finding(Problem::NothingScored, text)
        }
    }
}

/// Spellings of control tokens in a chat. They stay ordinary text, which is hardly what was meant.
fn control_tokens(row: &Row) -> Option<Finding> {
    let RowContent::Chat { messages, tools, .. } = &row.content else { return None };
    let mut found = Vec::new();
    messages.iter().chain(&**tools).for_each(|value| collect(value, &mut found));
    if found.is_empty() {
        return None;
    }
    let text = format!("the text spells `{}`, which the model will read as ordinary text", found.join("`, `"));
    Some(Finding::new(&row.origin, Problem::ControlToken, text))
}

fn collect(value: &Value, found: &mut Vec<&'static str>) {
    match value {
        Value::String(text) if text.contains(['<', '[']) => {
            let spelt = tokens::ALL.into_iter().filter(|token| text.contains(token));
            spelt.for_each(|token| {
                if !found.contains(&token) {
                    found.push(token);
                }
            });
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(map) => map.values().for_each(|item| collect(item, found)),
        _ => {}
    }
}
