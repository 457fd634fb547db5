//! What an evaluation shows on the screen: the tutorial's table, and the score before and after training.

use console::{measure_text_width, truncate_str};

use super::report::{ExampleReport, Report, Score};
use super::statistics::{mcnemar, wilson};
use crate::chat::functiongemma::tokens::{END_CALL, END_TURN, ESCAPE, START_CALL, START_RESPONSE};

/// Narrower than this a table has no room for its three columns; it is then wider than the terminal.
const MIN_WIDTH: usize = 44;
/// Between two columns.
const GAP: &str = "  ";
/// Above the two verdicts.
const VERDICTS: &str = "tool  strict";

/// Short names of control tokens, for cells too narrow for the full ones.
const SHORT_TOKENS: [(&str, &str); 5] = [
    (START_CALL, "<call>"),
    (END_CALL, "</call>"),
    (ESCAPE, "<esc>"),
    (START_RESPONSE, "<response>"),
    (END_TURN, "<end>"),
];

/// The tutorial's table: prompt, output and two verdicts of every example, then the score.
///
/// Each example takes one line of at most `width` columns: cells that are too long are cut and end in `…`, line breaks show
/// as `⏎`. The first verdict is the tutorial's rule; the second is strict, by parsing, and says what the output did.
pub fn examples_table(report: &Report, width: usize) -> String {
    let verdicts: Vec<String> = report.examples.iter().map(verdict_cells).collect();
    let verdict_width = verdicts.iter().map(|cell| measure_text_width(cell)).max().unwrap_or(0).max(VERDICTS.len());
    let longest_prompt = report.examples.iter().map(|e| measure_text_width(&visible(&e.prompt))).max().unwrap_or(0);
    let free = width.max(MIN_WIDTH).saturating_sub(verdict_width + 2 * GAP.len());
    // A prompt takes what it needs, up to two fifths: the output is the longer of the two, and the one to look at.
    let prompt_width = longest_prompt.clamp("prompt".len(), (free * 2 / 5).max("prompt".len()));
    let output_width = free.saturating_sub(prompt_width);

    let line = |prompt: &str, output: &str, verdict: &str| {
        format!("{}{GAP}{}{GAP}{verdict}\n", padded(prompt, prompt_width), padded(output, output_width))
    };
    let mut table = line("prompt", "output", VERDICTS);
    table += &line(&"─".repeat(prompt_width), &"─".repeat(output_width), &"─".repeat(verdict_width));
    for (example, verdict) in report.examples.iter().zip(&verdicts) {
        table += &line(&fitted(&example.prompt, prompt_width), &fitted(&example.output, output_width), verdict);
    }
    table
}

/// The score, a line for each part with its 95 % interval.
pub fn score_table(score: &Score) -> String {
    let mut table = format!("{:<20}{:>12}{:>16}\n", "score", "answers", "95 % interval");
    for (name, count) in parts(score) {
        let cell = format!("{count} of {}", score.total);
        table += &format!("{name:<20}{cell:>12}{:>16}\n", interval(count, score.total));
    }
    table
}

/// The parts of a score by name, and how many answers were right by each.
pub fn parts(score: &Score) -> [(&'static str, usize); 5] {
    [
        ("tool choice", score.correct),
        ("strict: format", score.strict.format_valid),
        ("strict: + name", score.strict.name),
        ("strict: + arguments", score.strict.arguments),
        ("strict: exact", score.strict.exact),
    ]
}

/// The 95 % intervals of the parts of a score, in percent.
pub fn intervals(score: &Score) -> Vec<(f64, f64)> {
    let percent = |(low, high): (f64, f64)| ((100.0 * low).round(), (100.0 * high).round());
    parts(score).iter().map(|(_, count)| percent(wilson(*count, score.total))).collect()
}

fn interval(count: usize, total: usize) -> String {
    let (low, high) = wilson(count, total);
    format!("{:.0} to {:.0} %", 100.0 * low, 100.0 * high)
}

/// The score before and after training, side by side. The last column is the difference.
pub fn before_after(before: &Score, after: &Score) -> String {
    let mut table = format!("{:<20}{:>12}{:>12}\n", "score", "before", "after");
    for ((name, was), (_, is)) in parts(before).into_iter().zip(parts(after)) {
        let (then, now) = (format!("{was} of {}", before.total), format!("{is} of {}", after.total));
        table += &format!("{name:<20}{then:>12}{now:>12}{:>8}\n", difference(was, is));
    }
    table
}

/// How sure the tool choice is: its 95 % intervals, and what becomes of the same prompts, if they are the same. `changes`: so many
/// got better, so many worse.
pub fn certainty(before: &Score, after: &Score, changes: Option<(usize, usize)>) -> String {
    let mut text = format!(
        "tool choice, 95 % intervals (Wilson): {} before, {} after",
        interval(before.correct, before.total),
        interval(after.correct, after.total)
    );
    if let Some((better, worse)) = changes {
        text += &format!(
            "; {better} prompts got better, {worse} worse: p = {:.2e} (McNemar, exact)",
            mcnemar(better, worse)
        );
    }
    text + "\n"
}

fn difference(before: usize, after: usize) -> String {
    match after.cmp(&before) {
        std::cmp::Ordering::Equal => "=".to_owned(),
        std::cmp::Ordering::Greater => format!("+{}", after - before),
        std::cmp::Ordering::Less => format!("-{}", before - after),
    }
}

fn verdict_cells(example: &ExampleReport) -> String {
    let mark = |right| if right { '✓' } else { '✗' };
    format!("{:<4}{GAP}{} {}", mark(example.correct), mark(example.exact), example.verdict)
}

/// `text` on one line: line breaks as `⏎`, other control characters (a terminal would obey them) as `·`.
fn visible(text: &str) -> String {
    let one = |c: char| match c {
        '\n' => '⏎',
        '\t' => ' ',
        c if c.is_control() => '·',
        c => c,
    };
    text.trim().chars().map(one).collect()
}

/// `text` in at most `width` columns: as it is, or with short names for its control tokens, or that cut, never inside one.
fn fitted(text: &str, width: usize) -> String {
    let mut cell = visible(text);
    if measure_text_width(&cell) <= width {
        return cell;
    }
    for (token, short) in SHORT_TOKENS {
        cell = cell.replace(token, short);
    }
    if measure_text_width(&cell) <= width {
        return cell;
    }
    let cut = truncate_str(&cell, width.saturating_sub(1), "").len();
    let inside = |(_, short): &(&str, &str)| {
        cell.match_indices(short).map(|(at, _)| at).find(|at| (at + 1..at + short.len()).contains(&cut))
    };
    let cut = SHORT_TOKENS.iter().find_map(inside).unwrap_or(cut);
    format!("{}…", &cell[..cut])
}

fn padded(cell: &str, width: usize) -> String {
    format!("{cell}{}", " ".repeat(width.saturating_sub(measure_text_width(cell))))
}
