//! What happens to examples that are longer than `--max-length`: never silently.

use std::fmt;

use crate::batch::Example;
use crate::err;
use crate::error::Result;

/// What to do with an example that is too long (`--overlong`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlong {
    /// Keep its first `max_length` tokens, as TRL does.
    #[default]
    Truncate,
    /// Leave it out.
    Drop,
    /// Stop with an error.
    Refuse,
}

/// The longest example in tokens, and what to do with longer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxLength {
    pub max_length: usize,
    pub policy: Overlong,
}

impl MaxLength {
    /// The examples to train on, and a line for the user if any was too long.
    ///
    /// # Errors
    /// Under [`Overlong::Refuse`] the first example that is too long, by `file:line`; under [`Overlong::Drop`] that no
    /// example is left.
    pub fn apply(&self, mut examples: Vec<Example>) -> Result<(Vec<Example>, Option<String>)> {
        let total = examples.len();
        let too_long = |example: &Example| example.ids.len() > self.max_length;
        let count = examples.iter().filter(|example| too_long(example)).count();
        let Some(longest) = examples.iter().filter(|e| too_long(e)).max_by_key(|e| e.ids.len()) else {
            return Ok((examples, None));
        };
        let (origin, length) = (longest.origin.clone(), longest.ids.len());
        let found = format!("{count} of {total} examples are longer than {} tokens", self.max_length);
        let longest = format!("the longest, `{origin}`, has {length}");
        let hint = "raise `--max-length`, or choose `--overlong truncate` or `--overlong drop`";
        match self.policy {
            Overlong::Refuse => {
                let first = examples.iter().find(|example| too_long(example)).map_or("", |example| &example.origin);
                Err(err!("{found}: the first is `{first}`; {longest}").hint(hint))
            }
            Overlong::Drop => {
                examples.retain(|example| !too_long(example));
                if examples.is_empty() {
                    return Err(err!("{found}, and dropping them leaves none").hint(hint));
                }
                Ok((examples, Some(format!("{found} and were dropped; {longest}"))))
            }
            Overlong::Truncate => {
                let silenced =
                    examples.iter_mut().filter(|e| too_long(e)).map(|e| self.truncate(e)).filter(|s| *s).count();
                let mut report = format!("{found} and were truncated; {longest}");
                if silenced > 0 {
                    report += &format!("; {silenced} of them lost every scored token and teach nothing");
                }
                Ok((examples, Some(report)))
            }
        }
    }

    /// Whether the cut took the last scored token.
    fn truncate(&self, example: &mut Example) -> bool {
        let scores = |example: &Example| example.scored.iter().skip(1).any(|scored| *scored);
        let before = scores(example);
        example.ids.truncate(self.max_length);
        example.scored.truncate(self.max_length);
        before && !scores(example)
    }
}

/// How long rows are, in tokens.
#[derive(Clone, Debug, Default)]
pub struct Lengths(Vec<usize>);

impl Lengths {
    pub fn new(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        Self(lengths)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The length that a share of the rows does not exceed; 0 where there are none.
    pub fn quantile(&self, share: f64) -> usize {
        let at = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(at.saturating_sub(1)).copied().unwrap_or(0)
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, median, most_rows, most] = [0.0, 0.5, 0.95, 1.0].map(|share| self.quantile(share));
        write!(f, "least {least}, median {median}, 95 % at most {most_rows}, most {most}")
    }
}
