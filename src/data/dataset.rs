//! Datasets from disk or the hub: their rows, what they were taken for, and splitting off a test set.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use serde_json::Value;

use super::calls::CallStyle;
#[cfg(feature = "hub")]
pub use super::files::fetch_dataset;
pub use super::files::{Picked, pick_files};
use super::files::{locate, name_and_split, other_split};
use super::read::{Sink, read_file};
use super::rows::{Row, RowContent, RowOptions};
use super::tools::WROTE_OUT;
use crate::error::{Error, Kind, Result};
use crate::{bail, err};

/// Bad rows that an error lists.
const MOST_SHOWN: usize = 20;

/// Rows, and what a user should be told of how they were found.
#[derive(Debug, Default)]
pub struct Dataset {
    pub rows: Vec<Row>,
    /// A line each: the forms that were recognised, files that were left out.
    pub notes: Vec<String>,
    pub bad: BadRows,
}

/// Rows that cannot be used.
#[derive(Debug, Default)]
pub struct BadRows {
    pub count: usize,
    /// What is wrong with the first 20 of them, by `file:line`.
    pub first: Vec<Error>,
}

/// Rows of `source`: a `.jsonl`, `.json`, `.csv` or `.parquet` file, a folder of them, a pattern such as `data/*.jsonl`, or a
/// dataset of the Hugging Face hub (`owner/name`); several with commas between them. `source:split` takes the files named
/// after the split, or the rows whose `metadata` names it; without it a file gives all its rows, a folder or hub dataset
/// its `train` files where any are named so.
///
/// # Errors
/// Nothing found, no rows, or bad rows, the first 20 of them named by `file:line`: of kind [`Kind::Data`], or
/// [`Kind::Gated`].
pub fn load_dataset(source: &str, options: &RowOptions) -> Result<Dataset> {
    load_dataset_counted(source, options, || {})
}

/// [`load_dataset`] that calls `done` after each row.
///
/// # Errors
/// As there.
pub fn load_dataset_counted(source: &str, options: &RowOptions, done: impl FnMut()) -> Result<Dataset> {
    let mut dataset = read_dataset(source, options, done)?;
    let (rows, bad) = (dataset.rows.len(), std::mem::take(&mut dataset.bad));
    bad.refuse(rows).map_err(|error| error.or_kind(Kind::Data))?;
    Ok(dataset)
}

/// [`load_dataset_counted`] that keeps what is wrong with bad rows beside the good ones.
///
/// # Errors
/// Nothing found, or no rows.
pub fn read_dataset(source: &str, options: &RowOptions, done: impl FnMut()) -> Result<Dataset> {
    collect(source, options, done).map_err(|error| error.or_kind(Kind::Data))
}

/// The rows of [`load_dataset`].
///
/// # Errors
/// As there.
pub fn load_rows(source: &str, options: &RowOptions) -> Result<Vec<Row>> {
    load_dataset(source, options).map(|dataset| dataset.rows)
}

/// Row `number` (from 1) of `source`; what comes behind it is not read.
///
/// # Errors
/// There is no such row, or it is bad.
pub fn load_row(source: &str, number: usize, options: &RowOptions) -> Result<Row> {
    let mut count = 0;
    let mut found = None;
    let take = |row| {
        count += 1;
        if count < number {
            return ControlFlow::Continue(());
        }
        found = Some(row);
        ControlFlow::Break(())
    };
    let read = each_row(source, options, &mut Vec::new(), take);
    let missing = || err!("there is no row {number}: `{source}` has {count} rows");
    read.and_then(|()| found.unwrap_or_else(|| Err(missing()))).map_err(|error| error.or_kind(Kind::Data))
}

fn collect(source: &str, options: &RowOptions, mut done: impl FnMut()) -> Result<Dataset> {
    let mut dataset = Dataset::default();
    let Dataset { rows, notes, bad } = &mut dataset;
    let mut last = None;
    each_row(source, options, notes, |row| {
        done();
        match row {
            Ok(mut row) => {
                share_tools(&mut row, &mut last);
                rows.push(row);
            }
            Err(error) => bad.add(error),
        }
        ControlFlow::Continue(())
    })?;
    notes.extend(form_notes(source, rows));
    Ok(dataset)
}

/// Gives a row the `last` row's list of tools if its own is the same: most of a dataset's memory would be copies of it.
fn share_tools(row: &mut Row, last: &mut Option<Arc<Vec<Value>>>) {
    let RowContent::Chat { tools, .. } = &mut row.content else { return };
    match last {
        Some(last) if *last == *tools => *tools = last.clone(),
        _ => *last = Some(tools.clone()),
    }
}

/// Gives `take` the rows of all files of `source`, until it has enough.
fn each_row(
    source: &str,
    options: &RowOptions,
    notes: &mut Vec<String>,
    mut take: impl FnMut(Result<Row>) -> ControlFlow<()>,
) -> Result<()> {
    let mut seen = HashSet::new();
    let is_done = Cell::new(false);
    for part in parts(source) {
        let (name, split) = name_and_split(part);
        let picked = locate(name, split)?;
        notes.extend(left_out_note(name, &picked));
        let split = split.filter(|_| !picked.named_after_split);
        let any = Cell::new(false);
        let sink: &mut Sink = &mut |row| {
            if row.as_ref().is_ok_and(|row| split.is_some() && row.split.as_deref() != split) {
                return ControlFlow::Continue(());
            }
            any.set(true);
            let next = take(row);
            is_done.set(next.is_break());
            next
        };
        for file in &picked.files {
            if !seen.insert(std::fs::canonicalize(file).unwrap_or_else(|_| file.into())) {
                return Err(err!("`{file}` is given twice in `{source}`").hint("each of its rows would count twice"));
            }
            read_file(file, options, sink)?;
            if is_done.get() {
                return Ok(());
            }
        }
        if let Some(split) = split.filter(|_| !any.get()) {
            bail!("`{name}` has no file named after the split `{split}` and no row whose `metadata` is `{split}`");
        }
    }
    Ok(())
}

/// Sources with commas between them, unless it is a single one that has a comma in its name.
fn parts(source: &str) -> Vec<&str> {
    if Path::new(source).exists() {
        return vec![source];
    }
    source.split(',').map(str::trim).collect()
}

impl BadRows {
    fn add(&mut self, error: Error) {
        self.count += 1;
        if self.first.len() < MOST_SHOWN {
            self.first.push(error);
        }
    }

    /// What is wrong, in one error, if anything is; `good` rows are there beside them.
    ///
    /// # Errors
    /// There are bad rows.
    pub fn refuse(mut self, good: usize) -> Result<()> {
        if self.count <= 1 {
            return self.first.pop().map_or(Ok(()), Err);
        }
        let lines: String = self.first.iter().map(|error| format!("\n  {}", error.line())).collect();
        let rest = self.count - self.first.len();
        let more = if rest > 0 { format!("\n  and {rest} more") } else { String::new() };
        let error = err!("{} of {} rows cannot be used:{lines}{more}", self.count, self.count + good);
        Err(match self.first.iter().find_map(Error::advice) {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }
}

/// What a folder or repository was split into, where only a part of it is taken.
fn left_out_note(name: &str, picked: &Picked) -> Option<String> {
    let shown = |files: &[String]| {
        let name =
            |file: &String| Path::new(file).file_name().map_or(file.clone(), |name| name.to_string_lossy().into());
        let names = files.iter().take(3).map(|file| format!("`{}`", name(file))).collect::<Vec<_>>().join(", ");
        let rest = files.len().saturating_sub(3);
        if rest > 0 { format!("{names} and {rest} more") } else { names }
    };
    let other = other_split(&picked.left_out).unwrap_or("NAME");
    (!picked.left_out.is_empty()).then(|| {
        format!(
            "`{name}`: took {}, left out {}; `{name}:{other}` takes the files that are named after `{other}`",
            shown(&picked.files),
            shown(&picked.left_out)
        )
    })
}

/// What the rows were recognised as.
fn form_notes(source: &str, rows: &[Row]) -> Vec<String> {
    let mut counts = BTreeMap::new();
    for row in rows {
        counts.entry((row.form.fields, row.form.calls)).or_insert((row.form, 0usize)).1 += 1;
    }
    let forms = counts.values().map(|(form, count)| match count {
        1 => format!("1 row, {form}"),
        count => format!("{count} rows, {form}"),
    });
    let mut notes = Vec::new();
    if !rows.is_empty() {
        notes.push(format!("`{source}`: {}", forms.collect::<Vec<_>>().join("; ")));
    }
    if rows.iter().any(|row| row.form.calls == CallStyle::Text) {
        notes.push(
            "`<tool_call>` text is read as calls, and the tools that a system message declares for it as tools; that \
             message is replaced by FunctionGemma's"
                .into(),
        );
    }
    if rows.iter().any(|row| row.form.wrote_out_schemas) {
        notes.push(WROTE_OUT.into());
    }
    notes
}

/// Splits `rows` as `datasets.train_test_split` does: below 1 `test_size` is a share (rounded up), otherwise a number of
/// rows. The test rows are the last ones; with `shuffle` the rows are shuffled first, the same way for the same `seed`.
///
/// # Errors
/// Usage errors: a size that is no positive number, a fraction above 1, or that leaves no training row.
pub fn train_test_split<T>(mut rows: Vec<T>, test_size: f64, shuffle: bool, seed: u64) -> Result<(Vec<T>, Vec<T>)> {
    let count = if test_size < 1.0 { (test_size * rows.len() as f64).ceil() } else { test_size };
    if !(test_size > 0.0 && count.fract() == 0.0) {
        return Err(Error::usage(format!("`--test-size {test_size}` is neither a share below 1 nor a number of rows")));
    }
    if count >= rows.len() as f64 {
        let message = format!("`--test-size {test_size}` leaves no training row of {}", rows.len());
        return Err(Error::usage(message));
    }
    if shuffle {
        rows.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed));
    }
    let test = rows.split_off(rows.len() - count as usize);
    Ok((rows, test))
}
