//! Rows become examples: tokenized, what is scored marked, none too long.

use rayon::prelude::*;

use crate::batch::Example;
use crate::chat::tokenizer::LossOn;
use crate::data::length::{MaxLength, Overlong};
use crate::data::rows::{Row, RowContent, mixed_splits};
use crate::err;
use crate::error::{Error, Kind, Result};
use crate::session::Checkpoint;

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
    /// About the rows themselves.
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
        Self::counted(checkpoint, rows, options, || {})
    }

    /// [`new`](Self::new) that calls `done` after each row, from whatever thread.
    ///
    /// # Errors
    /// As there.
    pub fn counted(
        checkpoint: &Checkpoint,
        rows: &[Row],
        options: &ExampleOptions,
        done: impl Fn() + Sync,
    ) -> Result<Self> {
        let example = |row| checkpoint.tokenizer.example(row, options.loss.unwrap_or_else(|| default_loss(row)));
        let limit = MaxLength { max_length: options.max_length, policy: options.overlong };
        let examples: Result<Vec<Example>> = rows.par_iter().map(example).inspect(|_| done()).collect();
        let (examples, too_long) = examples.and_then(|e| limit.apply(e)).map_err(|e: Error| e.or_kind(Kind::Data))?;
        let is_scored = |example: &Example| example.scored.iter().skip(1).any(|scored| *scored);
        if !examples.is_empty() && !examples.iter().any(is_scored) {
            return Err(err!("no example has a scored token, so that there is nothing to learn")
                .hint("raise `--max-length`: answers come last and are cut off first")
                .of_kind(Kind::Data));
        }
        Ok(Self { examples, warnings: mixed_splits(rows).into_iter().collect(), too_long })
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
