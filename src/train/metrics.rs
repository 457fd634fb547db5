//! `metrics.jsonl`: what a run measured, one JSON object a line, written as it happens.
//!
//! Four kinds of record, told apart by their `type`: `train`, `eval`, `score`, and when training is over `summary`. JSON has no NaN: it
//! is written as `null`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::log_file::LogFile;
use crate::error::{Context, Result};

/// One optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    /// Optimizer steps done, this one included.
    pub step: u64,
    /// Passes over the dataset done, this step included: 1.5 is half-way through the second.
    pub epoch: f64,
    /// Mean negative log-likelihood (nats) over the step's scored tokens.
    pub loss: f64,
    /// Euclidean norm of all gradients, before clipping.
    pub grad_norm: f64,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// Mean entropy (nats) of the predictions over the scored tokens.
    pub entropy: f64,
    /// Part of the scored tokens whose prediction was right, 0 to 1.
    pub mean_token_accuracy: f64,
    /// Input tokens seen since the run began, prompts included, shared prefixes counted in every row.
    pub num_tokens: u64,
    /// Duration of the step in seconds.
    pub step_seconds: f64,
    /// The step's input tokens divided by its duration.
    pub tokens_per_second: f64,
}

/// One evaluation of the loss on the rows held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Optimizer steps done.
    pub step: u64,
    /// Passes over the training rows done.
    pub epoch: f64,
    /// Mean negative log-likelihood (nats) over all scored tokens.
    pub eval_loss: f64,
    /// Mean entropy (nats) over all scored tokens.
    pub eval_entropy: f64,
    /// Part of all scored tokens whose prediction was right, 0 to 1.
    pub eval_mean_token_accuracy: f64,
    /// Duration of the evaluation in seconds.
    pub eval_seconds: f64,
    /// Lines of the score as parts of the answers, 0 to 1, where answers were generated too: `eval_score` and others.
    #[serde(flatten)]
    pub scores: BTreeMap<String, f64>,
}

/// Answers that were generated and judged, before the training or after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreRecord {
    /// Optimizer steps done.
    pub step: u64,
    /// Answers.
    pub total: u64,
    /// Lines of the score as parts of the answers, 0 to 1: `eval_score` and others.
    #[serde(flatten)]
    pub scores: BTreeMap<String, f64>,
}

/// The end of the training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SummaryRecord {
    /// Duration of the training in seconds, evaluations included.
    pub train_runtime: f64,
    /// The most memory that the process held at any time; `null` where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// A training step.
    Train(TrainRecord),
    /// An evaluation.
    Eval(EvalRecord),
    /// Answers judged.
    Score(ScoreRecord),
    /// The end of the training.
    Summary(SummaryRecord),
}

/// Writes a run's records to its `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsWriter(LogFile);

impl MetricsWriter {
    /// Starts the file anew, as [`LogFile::create`].
    ///
    /// # Errors
    /// As [`LogFile::create`].
    pub fn create(path: &Path, before: &[u8]) -> Result<Self> {
        LogFile::create(path, before).map(Self)
    }

    /// Goes on with a file that a run has written.
    ///
    /// # Errors
    /// As [`LogFile::open`].
    pub fn open(path: &Path) -> Result<Self> {
        LogFile::open(path).map(Self)
    }

    /// Appends one line. When this returns it is in the file, if not yet on the disk: killing the run loses no record.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record).context(|| "internal: a record is no JSON")?;
        line.push(b'\n');
        self.0.append(&line)
    }
}

/// The records of lines that [`MetricsWriter`] wrote.
pub fn read_records(lines: &[u8]) -> Vec<Record> {
    lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// The most physical memory that this process has held at any time, in bytes: `VmHWM` of Linux's `/proc/self/status`. `None`
/// on other systems.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
