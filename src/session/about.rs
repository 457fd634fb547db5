//! `run.json`: what a run is of and what came of it, for whoever finds its folder later.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::identity::Identity;
use super::selection::Best;
use crate::batch::Example;
use crate::chat::preview::pieces;
use crate::chat::tokenizer::ChatTokenizer;
use crate::eval::report::Score;

/// A run, as it is recorded beside its model.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// The version of this program.
    pub engine: &'static str,
    /// The model that the run began with, as the user named it.
    pub model: String,
    pub parameters: usize,
    /// All of them, or those of the adapter.
    pub trained_parameters: usize,
    pub training_rows: usize,
    pub evaluation_rows: usize,
    /// Threads of the CPU.
    pub threads: usize,
    pub system: String,
    /// Hashes of what the result follows from, the settings among it, the device and the number format.
    pub identity: Identity,
    /// Every flag, as a config file has it.
    pub settings: Value,
    /// When this process began with the run; one that goes on begins again.
    pub started: Timestamp,
    /// When the model was saved. None: it is not yet.
    pub ended: Option<Timestamp>,
    /// Updates done.
    pub steps: u64,
    /// The best evaluation, where one was looked for.
    pub best: Option<Best>,
    /// The most bytes that tensors took, by purpose.
    pub peak_memory: BTreeMap<String, usize>,
    /// The first training rows as the model sees them.
    pub first_examples: Vec<ShownExample>,
    pub score_before: Option<Score>,
    pub score_after: Option<Score>,
}

/// A row as the model sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ShownExample {
    /// Where it came from: `file:line`.
    pub origin: String,
    /// Its text in pieces, and whether their tokens are scored.
    pub pieces: Vec<(String, bool)>,
}

impl ShownExample {
    /// Rows that a report shows.
    const MOST: usize = 5;

    /// The first of these.
    pub fn first(examples: &[Example], tokenizer: &ChatTokenizer) -> Vec<Self> {
        let shown = |example: &Example| Self { origin: example.origin.clone(), pieces: pieces(example, tokenizer) };
        examples.iter().take(Self::MOST).map(shown).collect()
    }
}

impl About {
    /// This program on this machine.
    pub const ENGINE: &str = env!("CARGO_PKG_VERSION");

    /// The operating system and the instruction set.
    pub fn system() -> String {
        format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
    }

    /// As the file has it.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}
