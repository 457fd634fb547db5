//! `engine check`: what would make a run on a dataset worthless, by `file:line`; and what `engine train` says of it.

use std::collections::BTreeMap;

use crate::chat::tokenizer::ChatTokenizer;
use crate::cli::args::CheckArgs;
use crate::cli::numbers::counted;
use crate::cli::out::{print, say};
use crate::cli::slow::Slow;
use crate::data::check::{summary, without_calls};
use crate::data::dataset::{Dataset, read_dataset, train_test_split};
use crate::data::finding::{Finding, Problem};
use crate::data::rows::Row;
use crate::err;
use crate::error::{Error, Kind, Result, printable};
use crate::io::source::resolve_model;
use crate::session::check::{Tokenized, check_data};

/// Findings of one problem that are listed without `--all`.
const MOST_LISTED: usize = 20;

/// Rows of a dataset, and how many cannot be used.
struct Read {
    rows: Vec<Row>,
    bad: usize,
}

pub fn run(args: &CheckArgs) -> Result<()> {
    let (row_options, example_options) = (args.rows.row_options_to_check()?, args.rows.example_options()?);
    let read = |source: &String| {
        let progress = Slow::new("reading rows", None);
        let dataset = read_dataset(source, &row_options, || progress.count());
        progress.finish();
        let Dataset { rows, notes, bad } = dataset?;
        notes.iter().for_each(|note| say(&printable(note)));
        print(&bad_lines(&bad.first, bad.count))?;
        Ok::<_, Error>(Read { rows, bad: bad.count })
    };
    let mut train = read(&args.dataset)?;
    let mut eval = args.eval_dataset.as_ref().map(read).transpose()?.unwrap_or(Read { rows: Vec::new(), bad: 0 });
    if let Some(size) = args.test_size {
        (train.rows, eval.rows) = train_test_split(train.rows, size, args.shuffle, args.seed)?;
    }
    let mut findings = check_data(&train.rows, &eval.rows);
    let mut facts = call_facts(&train.rows);
    if let Some(model) = &args.model {
        let mut tokenizer = ChatTokenizer::load(resolve_model(model)?.folder())?;
        if let Some(path) = &args.rows.chat_template_path {
            tokenizer = tokenizer.with_template(path)?;
        }
        for (name, rows) in [("training", &train.rows), ("evaluation", &eval.rows)] {
            let progress = Slow::new("tokenizing", Some(rows.len()));
            let cache = args.rows.cache();
            let tokenized = Tokenized::new(rows, &tokenizer, &example_options, cache.as_ref(), || progress.count());
            progress.finish();
            tokenized.warnings.iter().for_each(|warning| say(&format!("warning: {}", printable(warning))));
            facts += &length_facts(name, &tokenized);
            findings.extend(tokenized.findings);
        }
    } else {
        say("without `--model` no tokens are counted");
    }
    print(&(listed(&findings, args.all) + &facts))?;
    let bad = train.bad + eval.bad;
    let errors = bad + findings.iter().filter(|finding| finding.problem.is_error()).count();
    let warnings = bad + findings.len() - errors;
    let rows = train.rows.len() + eval.rows.len() + bad;
    let total =
        format!("{} and {} in {}", counted(errors, "error"), counted(warnings, "warning"), counted(rows, "row"));
    if errors > 0 || args.strict && warnings > 0 {
        return Err(err!("{total}").of_kind(Kind::Data));
    }
    say(&total);
    Ok(())
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
    let kind = |problem: Problem| if problem.is_error() { "error" } else { "warning" };
    let mut text = String::new();
    for finding in findings {
        let count = counts.entry(finding.problem).or_default();
        *count += 1;
        if all || *count <= MOST_LISTED {
            text += &format!("{}: {}\n", kind(finding.problem), printable(&finding.to_string()));
        }
    }
    for (problem, count) in counts.into_iter().filter(|(_, count)| !all && *count > MOST_LISTED) {
        let more = count - MOST_LISTED;
        text += &format!("{}: {problem}: {more} more; `--all` lists them\n", kind(problem));
    }
    text
}

fn call_facts(rows: &[Row]) -> String {
    let (silent, chats) = without_calls(rows);
    match chats {
        0 => String::new(),
        _ => {
            format!("{silent} of {chats} training chats call no tool ({:.0} %)\n", 100.0 * silent as f64 / chats as f64)
        }
    }
}

fn length_facts(name: &str, tokenized: &Tokenized) -> String {
    let lengths = &tokenized.lengths;
    if lengths.is_empty() { String::new() } else { format!("tokens of {name} rows: {lengths}\n") }
}
