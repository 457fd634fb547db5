//! `engine check`: what would make a run on a dataset worthless, by `file:line`; and what `engine train` says of it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::args::{CheckArgs, LogFormat};
use crate::cli::numbers::counted;
use crate::cli::out::{line, print, result, say};
use crate::cli::slow::Slow;
use crate::data::Lengths;
use crate::data::check::{summary, without_calls};
use crate::data::dataset::{Dataset, read_dataset, train_test_split};
use crate::data::finding::{Finding, Problem};
use crate::data::rows::Row;
use crate::err;
use crate::error::{Error, Kind, Result, printable};
use crate::session::check::{Tokenized, check_data};

/// Findings of one problem that are listed without `--all`.
const MOST_LISTED: usize = 20;

/// Rows of a dataset, and how many cannot be used.
struct Read {
    rows: Vec<Row>,
    bad: usize,
}

/// What a check came to, for programs.
#[derive(Serialize)]
struct Summary {
    errors: usize,
    warnings: usize,
    rows: usize,
    /// Rows that cannot be used at all; of them the first are findings.
    bad_rows: usize,
    chats: usize,
    chats_without_calls: usize,
    /// In tokens, by what the rows are for.
    lengths: BTreeMap<&'static str, LengthFacts>,
}

/// How long rows are, in tokens.
#[derive(Serialize)]
struct LengthFacts {
    least: usize,
    median: usize,
    /// 95 % of the rows are not longer.
    most_rows: usize,
    most: usize,
}

pub fn run(args: &CheckArgs) -> Result<()> {
    let (row_options, example_options) = (args.rows.row_options_to_check()?, args.rows.example_options()?);
    let read = |source: &String| {
        let progress = Slow::new("reading rows", None);
        let dataset = read_dataset(source, &row_options, || progress.count());
        progress.finish();
        let Dataset { rows, notes, bad } = dataset?;
        notes.iter().for_each(|note| say(&printable(note)));
        match args.log_format {
            LogFormat::Text => print(&bad_lines(&bad.first, bad.count))?,
            LogFormat::Json => {
                let row = |error: &Error| finding("error", "bad row", None, &error.line());
                bad.first.iter().try_for_each(|error| line(&row(error)))?;
            }
        }
        Ok::<_, Error>(Read { rows, bad: bad.count })
    };
    let mut train = read(&args.dataset)?;
    let mut eval = args.eval_dataset.as_ref().map(read).transpose()?.unwrap_or(Read { rows: Vec::new(), bad: 0 });
    if let Some(size) = args.test_size {
        (train.rows, eval.rows) = train_test_split(train.rows, size, args.shuffle, args.seed)?;
    }
    let mut findings = check_data(&train.rows, &eval.rows);
    let mut lengths = BTreeMap::new();
    if let Some(model) = &args.model {
        let tokenizer = args.rows.tokenizer(model)?;
        for (name, rows) in [("training", &train.rows), ("evaluation", &eval.rows)] {
            let progress = Slow::new("tokenizing", Some(rows.len()));
            let cache = args.rows.cache();
            let tokenized = Tokenized::new(rows, &tokenizer, &example_options, cache.as_ref(), || progress.count());
            progress.finish();
            tokenized.warnings.iter().for_each(|warning| say(&format!("warning: {}", printable(warning))));
            if !tokenized.lengths.is_empty() {
                lengths.insert(name, tokenized.lengths);
            }
            findings.extend(tokenized.findings);
        }
    } else {
        say("without `--model` no tokens are counted");
    }
    let bad_rows = train.bad + eval.bad;
    let errors = bad_rows + findings.iter().filter(|finding| finding.problem.is_error()).count();
    let warnings = bad_rows + findings.len() - errors;
    let rows = train.rows.len() + eval.rows.len() + bad_rows;
    let (chats_without_calls, chats) = without_calls(&train.rows);
    match args.log_format {
        LogFormat::Text => {
            let facts = call_facts(chats_without_calls, chats) + &length_facts(&lengths);
            print(&(listed(&findings, args.all) + &facts))?;
        }
        LogFormat::Json => {
            let of = |found: &Finding| {
                let problem = found.problem.to_string();
                finding(level(found.problem), &problem, Some(&found.place), &found.text)
            };
            findings.iter().try_for_each(|found| line(&of(found)))?;
            let facts = |lengths: Lengths| {
                let [least, median, most_rows, most] = [0.0, 0.5, 0.95, 1.0].map(|share| lengths.quantile(share));
                LengthFacts { least, median, most_rows, most }
            };
            let lengths = lengths.into_iter().map(|(name, lengths)| (name, facts(lengths))).collect();
            result(&Summary { errors, warnings, rows, bad_rows, chats, chats_without_calls, lengths })?;
        }
    }
    let total =
        format!("{} and {} in {}", counted(errors, "error"), counted(warnings, "warning"), counted(rows, "row"));
    if errors > 0 || args.strict && warnings > 0 {
        return Err(err!("{total}").of_kind(Kind::Data));
    }
    say(&total);
    Ok(())
}

/// A finding for programs.
fn finding(level: &str, problem: &str, place: Option<&str>, text: &str) -> Value {
    json!({"type": "finding", "level": level, "problem": problem, "place": place, "text": text})
}

fn level(problem: Problem) -> &'static str {
    if problem.is_error() { "error" } else { "warning" }
}

/// Says what is wrong with the rows that a run is about to use, a line for each problem.
///
/// # Errors
/// Anything is, and it is `strict`.
pub fn warn(train: &[Row], eval: &[Row], strict: bool) -> Result<()> {
    let findings = check_data(train, eval);
    summary(&findings).iter().for_each(|line| say(&format!("warning: {}", printable(line))));
    if strict && !findings.is_empty() {
        let count = counted(findings.len(), "finding");
        return Err(err!("{count} in the rows, and `--strict` lets none pass")
            .hint("`engine check` lists them; repair or remove the rows, or leave out `--strict`")
            .of_kind(Kind::Data));
    }
    Ok(())
}

/// What is wrong with rows that cannot be used at all.
fn bad_lines(first: &[Error], count: usize) -> String {
    let mut text: String = first.iter().map(|error| format!("error: {}\n", printable(&error.line()))).collect();
    if count > first.len() {
        text += &format!("error: {} more rows cannot be used\n", count - first.len());
    }
    if let Some(hint) = first.iter().find_map(Error::advice) {
        text += &format!("hint: {}\n", printable(hint));
    }
    text
}

/// A line for each finding, of each problem the first 20 unless `all` are asked for.
fn listed(findings: &[Finding], all: bool) -> String {
    let mut counts: BTreeMap<Problem, usize> = BTreeMap::new();
    let mut text = String::new();
    for finding in findings {
        let count = counts.entry(finding.problem).or_default();
        *count += 1;
        if all || *count <= MOST_LISTED {
            text += &format!("{}: {}\n", level(finding.problem), printable(&finding.to_string()));
        }
    }
    for (problem, count) in counts.into_iter().filter(|(_, count)| !all && *count > MOST_LISTED) {
        let more = count - MOST_LISTED;
        text += &format!("{}: {problem}: {more} more; `--all` lists them\n", level(problem));
    }
    text
}

fn call_facts(silent: usize, chats: usize) -> String {
    match chats {
        0 => String::new(),
        _ => {
            format!("{silent} of {chats} training chats call no tool ({:.0} %)\n", 100.0 * silent as f64 / chats as f64)
        }
    }
}

fn length_facts(lengths: &BTreeMap<&str, Lengths>) -> String {
    lengths.iter().rev().map(|(name, lengths)| format!("tokens of {name} rows: {lengths}\n")).collect()
}
