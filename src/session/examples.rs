//! Rows become examples: tokenized, what is scored marked, none too long.

use std::time::Instant;

use rayon::prelude::*;

use crate::batch::Example;
use crate::chat::tokenizer::LossOn;
use crate::data::length::{MaxLength, Overlong};
use crate::data::rows::{Row, RowContent, mixed_splits};
use crate::err;
use crate::error::{Kind, Result};
use crate::session::Checkpoint;
use crate::session::token_cache::{TokenCache, cached};

/// How rows become examples. The defaults are those of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExampleOptions {
    /// What the loss counts. None: as in TRL, the completion of a prompt/completion row and all of any other.
    pub loss: Option<LossOn>,
    /// The longest example in tokens.
    pub max_length: usize,
    /// What happens to a longer one.
    pub overlong: Overlong,
}

impl Default for ExampleOptions {
    fn default() -> Self {
        Self { loss: None, max_length: 1024, overlong: Overlong::Refuse }
    }
}

/// Examples, and what should be known about them.
#[derive(Debug)]
pub struct Examples {
    pub examples: Vec<Example>,
    /// About the rows themselves, and a cache that could not be used.
    pub warnings: Vec<String>,
    /// How many rows were too long, and what became of them.
    pub too_long: Option<String>,
}

impl Examples {
    /// Tokenizes rows as `checkpoint` does.
    ///
    /// # Errors
    /// A row that cannot be rendered or is too long, by `file:line`; no row has a scored token (left).
    pub fn new(checkpoint: &Checkpoint, rows: &[Row], options: &ExampleOptions) -> Result<Self> {
        Self::cached(checkpoint, rows, options, None, || {})
    }

    /// [`new`](Self::new) that looks into `cache` first and keeps there what took long, and calls `done` after each row that it
    /// tokenizes, from whatever thread.
    ///
    /// # Errors
    /// As there.
    pub fn cached(
        checkpoint: &Checkpoint,
        rows: &[Row],
        options: &ExampleOptions,
        cache: Option<&TokenCache>,
        done: impl Fn() + Sync,
    ) -> Result<Self> {
        let tokenizer = &checkpoint.tokenizer;
        let mut warnings: Vec<String> = mixed_splits(rows).into_iter().collect();
        let entry = cache.and_then(|cache| cache.entry(tokenizer, rows, options.loss));
        let examples = match cached(entry.as_ref(), rows, tokenizer, |warning| warnings.push(warning)) {
            Some(examples) => examples,
            None => {
                let started = Instant::now();
                let example = |row| tokenizer.example(row, options.loss.unwrap_or_else(|| default_loss(row)));
                let examples: Result<Vec<Example>> = rows.par_iter().map(example).inspect(|_| done()).collect();
                let examples = examples.map_err(|error| error.or_kind(Kind::Data))?;
                if let Some(Err(error)) = entry.map(|entry| entry.keep(&examples, started.elapsed())) {
                    warnings.push(error.line());
                }
                examples
            }
        };
        let limit = MaxLength { max_length: options.max_length, policy: options.overlong };
        let (examples, too_long) = limit.apply(examples).map_err(|error| error.or_kind(Kind::Data))?;
        let is_scored = |example: &Example| example.scored.iter().skip(1).any(|scored| *scored);
        if !examples.is_empty() && !examples.iter().any(is_scored) {
            return Err(err!("no example has a scored token, so that there is nothing to learn")
                .hint("raise `--max-length`: answers come last and are cut off first")
                .of_kind(Kind::Data));
        }
        Ok(Self { examples, warnings, too_long })
    }
}

/// What is scored when nothing says it.
pub fn default_loss(row: &Row) -> LossOn {
    match &row.content {
        RowContent::Chat { prompt_messages: Some(_), .. } | RowContent::Text { prompt: Some(_), .. } => {
            LossOn::Completion
        }
        _ => LossOn::All,
    }
}
