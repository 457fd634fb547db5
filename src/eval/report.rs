//! The JSON report of an evaluation (`--report FILE`) and the score that sums it up.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::verdict::{Expected, Verdict};
use crate::chat::functiongemma::parser::parse_output;
use crate::error::{Context, Result};
use crate::io::atomic::write_atomically;

/// How many of `total` outputs were right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// Right by the tutorial's rule: the expected tool is named and no other.
    pub correct: usize,
    /// Outputs judged.
    pub total: usize,
    /// Right by parsing the output.
    pub strict: StrictScore,
}

/// Counts of outputs, each of the `total`; see [`Verdict`] for what each means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrictScore {
    /// Kept to the grammar.
    pub format_valid: usize,
    /// And called the right functions.
    pub name: usize,
    /// And with the right arguments.
    pub arguments: usize,
    /// And said nothing else.
    pub exact: usize,
    /// Made no call where one was due.
    pub missing_call: usize,
    /// Made a call where none was due.
    pub spurious_call: usize,
}

impl Score {
    /// Adds one output's verdict.
    pub fn count(&mut self, verdict: &Verdict) {
        self.total += 1;
        self.correct += usize::from(verdict.correct);
        self.strict.format_valid += usize::from(verdict.format_valid);
        self.strict.name += usize::from(verdict.name_correct);
        self.strict.arguments += usize::from(verdict.arguments_correct);
        self.strict.exact += usize::from(verdict.exact);
        self.strict.missing_call += usize::from(verdict.missing_call);
        self.strict.spurious_call += usize::from(verdict.spurious_call);
    }
}

/// One prompt, what the model made of it, and the verdict.
#[derive(Debug, Serialize)]
pub struct ExampleReport {
    /// Where the row came from: `file:line`.
    pub origin: String,
    /// The user's last message.
    pub prompt: String,
    /// The answer due.
    pub expected: Expected,
    /// The generated text, control tokens kept.
    pub output: String,
    /// The calls in it, as far as it keeps to the grammar.
    pub calls: Vec<Value>,
    /// The generated token ids.
    pub token_ids: Vec<u32>,
    /// The verdict's label, e.g. `wrong tool`.
    pub verdict: String,
    /// [`Verdict::correct`].
    pub correct: bool,
    /// [`Verdict::format_valid`].
    pub format_valid: bool,
    /// [`Verdict::name_correct`].
    pub name_correct: bool,
    /// [`Verdict::arguments_correct`].
    pub arguments_correct: bool,
    /// [`Verdict::exact`].
    pub exact: bool,
    /// [`Verdict::missing_call`].
    pub missing_call: bool,
    /// [`Verdict::spurious_call`].
    pub spurious_call: bool,
    /// What breaks the grammar, and at which byte of `output`.
    pub faults: Vec<String>,
}

/// An evaluation: `{"correct", "total", "strict", "eval_loss", "examples"}`.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The sum over all examples.
    #[serde(flatten)]
    pub score: Score,
    /// Mean loss over the scored tokens of all rows, when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// Every example, in the order of the dataset.
    pub examples: Vec<ExampleReport>,
}

/// Whether each prompt of a report, as it was written, was answered right by the tutorial's rule, by where the row is.
pub fn right_by_origin(report: &Value) -> Option<Vec<(&str, bool)>> {
    let examples = report["examples"].as_array()?;
    examples.iter().map(|example| Some((example["origin"].as_str()?, example["correct"].as_bool()?))).collect()
}

/// One generated answer, before judgement.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Where the row came from: `file:line`.
    pub origin: String,
    /// The user's last message.
    pub prompt: String,
    /// The generated text, control tokens kept.
    pub output: String,
    /// The generated token ids.
    pub token_ids: Vec<u32>,
}

impl Report {
    /// Judges `answer` against `expected`, adds both and counts the verdict; `tool_names` are the tools the prompt declared.
    pub fn add(&mut self, answer: Answer, expected: Expected, tool_names: &[String]) {
        let verdict = super::verdict::judge(&answer.output, &expected, tool_names);
        let calls = parse_output(&answer.output).calls;
        self.score.count(&verdict);
        self.examples.push(ExampleReport {
            origin: answer.origin,
            prompt: answer.prompt,
            expected,
            output: answer.output,
            calls: calls.into_iter().map(|c| json!({"name": c.name, "arguments": c.arguments})).collect(),
            token_ids: answer.token_ids,
            verdict: verdict.label.to_string(),
            correct: verdict.correct,
            format_valid: verdict.format_valid,
            name_correct: verdict.name_correct,
            arguments_correct: verdict.arguments_correct,
            exact: verdict.exact,
            missing_call: verdict.missing_call,
            spurious_call: verdict.spurious_call,
            faults: verdict.faults.iter().map(ToString::to_string).collect(),
        });
    }

    /// Writes the report as indented JSON, all of it or nothing.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.text()?.as_bytes())
    }

    /// The report as indented JSON.
    pub fn text(&self) -> Result<String> {
        json_text(self)
    }
}

/// Indented JSON of a report.
pub(super) fn json_text(report: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(report).context(|| "cannot write the report as JSON")?;
    Ok(text + "\n")
}
