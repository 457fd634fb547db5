//! What rounding its weights costs a model: its score as it is and as an export would give it back, on the same prompts.

use serde::Serialize;

use super::report::{ExampleReport, Report, json_text};
use super::statistics::{changes, mcnemar, paired_difference};
use super::table::parts;
use crate::error::{Error, Result};

/// A part of the score, before and after the weights were rounded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartPrice {
    /// As in the table of scores.
    pub part: &'static str,
    /// Right answers of the model as it is.
    pub before: usize,
    /// Of the rounded one.
    pub after: usize,
    /// Prompts that only the rounded model answers right.
    pub better: usize,
    /// Prompts that only the model as it is answers right.
    pub worse: usize,
    /// What it rises by, in percentage points.
    pub points: f64,
    /// Tango's 95 % interval of that.
    pub interval: (f64, f64),
    /// McNemar's exact test.
    pub p_value: f64,
}

/// An evaluation of a model with rounded weights beside that of the model as it is. Its JSON is the [`Report`] on the rounded
/// one, with `as`, `price` (a [`PartPrice`] for each part of the score) and `unrounded`, the report on the other.
#[derive(Debug, Serialize)]
pub struct PricedReport {
    /// The name of the number format.
    pub r#as: &'static str,
    /// By part of the score.
    pub price: Vec<PartPrice>,
    #[serde(flatten)]
    pub rounded: Report,
    pub unrounded: Report,
}

impl PricedReport {
    /// Compares two reports on the same prompts.
    ///
    /// # Errors
    /// They are not.
    pub fn new(name: &'static str, unrounded: Report, rounded: Report) -> Result<Self> {
        let names = parts(&rounded.score).map(|(part, _)| part);
        let (total, counts) = (rounded.score.total, parts(&unrounded.score).into_iter().zip(parts(&rounded.score)));
        let mut price = Vec::new();
        for (i, ((_, before), (_, after))) in counts.enumerate() {
            let (better, worse) = changes(&verdicts(&unrounded, i), &verdicts(&rounded, i))
                .ok_or_else(|| Error::new("internal: the two reports are not on the same prompts"))?;
            let (low, high) = paired_difference(better, worse, total);
            price.push(PartPrice {
                part: names[i],
                before,
                after,
                better,
                worse,
                points: 100.0 * (better as f64 - worse as f64) / total.max(1) as f64,
                interval: (100.0 * low, 100.0 * high),
                p_value: mcnemar(better, worse),
            });
        }
        Ok(Self { r#as: name, price, rounded, unrounded })
    }

    /// Whether no part of the score falls by more than `most` percentage points.
    ///
    /// # Errors
    /// Names the part that falls most.
    pub fn check_drop(&self, most: f64) -> Result<()> {
        let lowest = self.price.iter().min_by(|a, b| a.points.total_cmp(&b.points));
        let Some(part) = lowest.filter(|part| -part.points > most) else { return Ok(()) };
        let (name, total) = (self.r#as, self.rounded.score.total);
        Err(Error::new(format!(
            "as {name}, the score `{}` falls by {:.1} points, from {} to {} of {total}: more than the {most} of `--max-drop`",
            part.part, -part.points, part.before, part.after
        ))
        .hint("export with more bits, for example as q8_0"))
    }

    /// The scores side by side, a line for each part.
    pub fn table(&self) -> String {
        let total = self.rounded.score.total;
        let name = format!("as {}", self.r#as);
        let header = ["score", "as it is", &name, "points", "95 % interval", "better, worse", "p"];
        let mut table = line(header);
        for part in &self.price {
            let (low, high) = part.interval;
            table += &line([
                part.part,
                &format!("{} of {total}", part.before),
                &format!("{} of {total}", part.after),
                &format!("{:+.1}", part.points),
                &format!("{low:+.1} to {high:+.1}"),
                &format!("{}, {}", part.better, part.worse),
                &format!("{:.2}", part.p_value),
            ]);
        }
        table + "intervals: Tango's, of the difference on the same prompts; p: McNemar, exact\n"
    }

    /// As indented JSON.
    ///
    /// # Errors
    /// A number is none.
    pub fn text(&self) -> Result<String> {
        json_text(self)
    }
}

fn line([name, before, after, points, interval, changes, p]: [&str; 7]) -> String {
    format!("{name:<20}{before:>12}{after:>12}{points:>9}{interval:>18}{changes:>15}{p:>7}\n")
}

/// By prompt, whether it is right by the i-th of [`parts`].
fn verdicts(report: &Report, i: usize) -> Vec<(&str, bool)> {
    let right = |e: &ExampleReport| [e.correct, e.format_valid, e.name_correct, e.arguments_correct, e.exact][i];
    report.examples.iter().map(|example| (example.origin.as_str(), right(example))).collect()
}
