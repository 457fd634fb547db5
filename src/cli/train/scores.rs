//! The score before and after a run: taken, recorded, shown.

use std::path::Path;

use super::job::{Before, Job, warn_of};
use crate::cli::args::{LogFormat, ReportTo, ScoreArg};
use crate::cli::out::{line, print};
use crate::cli::score::{score, stdout_width};
use crate::error::Result;
use crate::eval::report::{Report, Score, right_by_origin};
use crate::eval::statistics::changes;
use crate::eval::table::{before_after, certainty, examples_table, score_table};
use crate::io::atomic::replace_file;
use crate::io::folder::OutputFolder;
use crate::io::run_files::{ABOUT, ANSWERS_AFTER, ANSWERS_BEFORE, EVENTS, METRICS};
use crate::model::gemma3::Gemma3;
use crate::session::selection::score_lines;
use crate::session::{About, Checkpoint, write_page};
use crate::train::metrics::{MetricsWriter, Record, ScoreRecord};
use crate::train::tensorboard::EventWriter;

impl Job<'_> {
    /// Taken once in a run: one that goes on has it from its checkpoint.
    pub(super) fn score_before(
        &self,
        model: &Gemma3,
        checkpoint: &Checkpoint,
        folder: &OutputFolder,
        known: &mut Before,
    ) -> Result<Option<Score>> {
        let answers = folder.live(ANSWERS_BEFORE);
        if let Some(saved) = &self.resumed {
            if saved.score_before().is_some() {
                replace_file(&answers, &saved.file(ANSWERS_BEFORE)?)?;
            }
            return Ok(saved.score_before().cloned());
        }
        if !self.args.score.contains(&ScoreArg::Before) {
            return Ok(None);
        }
        if let Some((score, text)) = known {
            replace_file(&answers, text)?;
            return Ok(Some(score.clone()));
        }
        let report = score(checkpoint, model, &self.eval_rows, &self.args.generation(), "score before")?;
        let Some(report) = report else { return Ok(None) };
        let text = report.text()?.into_bytes();
        replace_file(&answers, &text)?;
        *known = Some((report.score.clone(), text));
        if !self.args.score.contains(&ScoreArg::After) && self.args.log_format == LogFormat::Text {
            print(&format!("{}\n{}", examples_table(&report, stdout_width()), score_table(&report.score)))?;
        }
        Ok(Some(report.score))
    }

    /// The score of the trained model, if it is asked for: recorded, then shown.
    pub(super) fn score_after(
        &self,
        model: &Gemma3,
        place: &Path,
        checkpoint: &Checkpoint,
        about: &mut About,
    ) -> Result<()> {
        if !self.args.score.contains(&ScoreArg::After) {
            return Ok(());
        }
        let Some(after) = score(checkpoint, model, &self.eval_rows, &self.args.generation(), "score after")? else {
            return Ok(());
        };
        about.score_after = Some(after.score.clone());
        let recorded = self.record_after(place, about, &after);
        warn_of(recorded.map_err(|e| e.context("the score after training is not recorded")));
        warn_of(write_page(place));
        match self.args.log_format {
            LogFormat::Json => Ok(()),
            LogFormat::Text => report(place, about.score_before.as_ref(), &after),
        }
    }

    /// What is known only after the model was saved.
    fn record_after(&self, place: &Path, about: &About, report: &Report) -> Result<()> {
        replace_file(&place.join(ANSWERS_AFTER), report.text()?.as_bytes())?;
        replace_file(&place.join(ABOUT), about.text().as_bytes())?;
        let record = score_record(about.steps, &report.score);
        if self.args.log_format == LogFormat::Json {
            line(&record)?;
        }
        if self.args.report_to.contains(&ReportTo::Jsonl) {
            MetricsWriter::open(&place.join(METRICS))?.write(&record)?;
        }
        if self.args.report_to.contains(&ReportTo::Tensorboard) {
            EventWriter::open(&place.join(EVENTS))?.write(&record)?;
        }
        Ok(())
    }
}

/// A score as observers are told of it.
pub(super) fn score_record(step: u64, score: &Score) -> Record {
    Record::Score(ScoreRecord { step, total: score.total as u64, scores: score_lines(score) })
}

/// The table of answers after training, then before and after side by side: the last thing on stdout.
fn report(place: &Path, before: Option<&Score>, after: &Report) -> Result<()> {
    let mut text = format!("{}\n", examples_table(after, stdout_width()));
    match before {
        Some(before) => {
            text += &before_after(before, &after.score);
            text += &format!("\n{}", certainty(before, &after.score, changed(place, after)));
        }
        None => text += &score_table(&after.score),
    }
    print(&text)
}

/// How many prompts got better and how many worse, if the answers before training are there.
fn changed(place: &Path, after: &Report) -> Option<(usize, usize)> {
    let before: serde_json::Value = serde_json::from_slice(&std::fs::read(place.join(ANSWERS_BEFORE)).ok()?).ok()?;
    let now: Vec<_> = after.examples.iter().map(|example| (example.origin.as_str(), example.correct)).collect();
    changes(&right_by_origin(&before)?, &now)
}
