//! One example as the model sees it, with the scored tokens marked.

use super::tokenizer::ChatTokenizer;
use crate::batch::Example;

/// The text of `example`, scored runs in green or between `⟦` and `⟧`, and a line that counts the tokens. The first
/// token is never predicted and so never marked.
pub fn preview(example: &Example, tokenizer: &ChatTokenizer, color: bool) -> String {
    let (open, close) = if color { ("\x1b[32m", "\x1b[0m") } else { ("⟦", "⟧") };
    let is_scored = |t: usize| t > 0 && example.scored[t];
    let mut out = String::new();
    let mut start = 0;
    while start < example.ids.len() {
        let scored = is_scored(start);
        let end = (start..example.ids.len()).find(|t| is_scored(*t) != scored).unwrap_or(example.ids.len());
        let text = printable(&tokenizer.decode(&example.ids[start..end]));
        out += &if scored { format!("{open}{text}{close}") } else { text };
        start = end;
    }
    let scored = (0..example.ids.len()).filter(|t| is_scored(*t)).count();
    let count = format!("{}: {} tokens, {scored} scored", example.origin, example.ids.len());
    format!("{}\n{count}\n", out.trim_end_matches('\n'))
}

/// Data may hold terminal escapes; they are shown, not obeyed.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}
