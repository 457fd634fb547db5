//! What an evaluation shows on the screen: the tutorial's table, and the score before and after training.

use console::{measure_text_width, truncate_str};

use super::report::{ExampleReport, Report, Score};
use crate::chat::functiongemma::tokens::{END_CALL, END_TURN, ESCAPE, START_CALL, START_RESPONSE};

/// Narrower than this a table has no room for its three columns; it is then wider than the terminal.
const MIN_WIDTH: usize = 40;
/// Between two columns.
const GAP: &str = "  ";

/// Short names of control tokens, for cells too narrow for the full ones.
const SHORT_TOKENS: [(&str, &str); 5] = [
    (START_CALL, "<call>"),
    (END_CALL, "</call>"),
    (ESCAPE, "<esc>"),
    (START_RESPONSE, "<response>"),
    (END_TURN, "<end>"),
];

/// The tutorial's table: prompt, output and verdict of every example, then the score.
///
/// Each example takes one line of at most `width` columns: cells that are too long are cut and end in `…`, line breaks show
/// as `⏎`. The mark before the verdict is the tutorial's rule, the word after it what the output did.
pub fn examples_table(report: &Report, width: usize) -> String {
    let verdicts: Vec<String> = report.examples.iter().map(verdict_cell).collect();
    let verdict_width = verdicts.iter().map(|cell| measure_text_width(cell)).max().unwrap_or(0).max("verdict".len());
    let longest_prompt = report.examples.iter().map(|e| measure_text_width(&visible(&e.prompt))).max().unwrap_or(0);
    let free = width.max(MIN_WIDTH).saturating_sub(verdict_width + 2 * GAP.len());
    // A prompt takes what it needs, up to two fifths: the output is the longer of the two, and the one to look at.
    let prompt_width = longest_prompt.clamp("prompt".len(), (free * 2 / 5).max("prompt".len()));
    let output_width = free.saturating_sub(prompt_width);

    let line = |prompt: &str, output: &str, verdict: &str| {
        format!("{}{GAP}{}{GAP}{verdict}\n", padded(prompt, prompt_width), padded(output, output_width))
    };
    let mut table = line("prompt", "output", "verdict");
    table += &line(&"─".repeat(prompt_width), &"─".repeat(output_width), &"─".repeat(verdict_width));
    for (example, verdict) in report.examples.iter().zip(&verdicts) {
        table += &line(&fitted(&example.prompt, prompt_width), &fitted(&example.output, output_width), verdict);
    }
    table += &format!("\n{} of {} correct\n", report.score.correct, report.score.total);
    table
}

/// The score before and after training, side by side. The last column is the difference.
pub fn before_after(before: &Score, after: &Score) -> String {
    let mut table = format!("{:<20}{:>12}{:>12}\n", "score", "before", "after");
    let mut line = |name: &str, count: fn(&Score) -> usize| {
        let cell = |score: &Score| format!("{} of {}", count(score), score.total);
        let (was, is) = (cell(before), cell(after));
        table += &format!("{name:<20}{was:>12}{is:>12}{:>8}\n", difference(count(before), count(after)));
    };
    line("tool choice", |score| score.correct);
    line("strict: format", |score| score.strict.format_valid);
    line("strict: + name", |score| score.strict.name);
    line("strict: + arguments", |score| score.strict.arguments);
    line("strict: exact", |score| score.strict.exact);
    table
}

fn difference(before: usize, after: usize) -> String {
    match after.cmp(&before) {
        std::cmp::Ordering::Equal => "=".to_owned(),
        std::cmp::Ordering::Greater => format!("+{}", after - before),
        std::cmp::Ordering::Less => format!("-{}", before - after),
    }
}

fn verdict_cell(example: &ExampleReport) -> String {
    format!("{} {}", if example.correct { '✓' } else { '✗' }, example.verdict)
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
