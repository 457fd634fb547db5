//! One example as the model sees it, with the scored tokens marked.

use super::tokenizer::ChatTokenizer;
use crate::batch::Example;
use crate::error::printable;

/// The text of `example`, scored runs in green or between `⟦` and `⟧`, and a line that counts the tokens. The first
/// token is never predicted and so never marked.
pub fn preview(example: &Example, tokenizer: &ChatTokenizer, color: bool) -> String {
    let (open, close) = if color { ("\x1b[32m", "\x1b[0m") } else { ("⟦", "⟧") };
    let mut out = String::new();
    for (text, scored) in pieces(example, tokenizer) {
        let text = printable(&text);
        out += &if scored { format!("{open}{text}{close}") } else { text.into_owned() };
    }
    let scored = example.scored.iter().skip(1).filter(|scored| **scored).count();
    let count = format!("{}: {} tokens, {scored} scored", printable(&example.origin), example.ids.len());
    format!("{}\n{count}\n", out.trim_end_matches('\n'))
}

/// The text of `example` in runs of tokens that are scored, or are not. The first token is never predicted and so never scored.
pub fn pieces(example: &Example, tokenizer: &ChatTokenizer) -> Vec<(String, bool)> {
    let is_scored = |t: usize| t > 0 && example.scored[t];
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < example.ids.len() {
        let scored = is_scored(start);
        let end = (start..example.ids.len()).find(|t| is_scored(*t) != scored).unwrap_or(example.ids.len());
        pieces.push((tokenizer.decode(&example.ids[start..end]), scored));
        start = end;
    }
    pieces
}

/// A line for each token of `example`: its number, its id, a `*` where it is scored, its text.
pub fn id_lines(example: &Example, tokenizer: &ChatTokenizer) -> String {
    let line = |(t, id): (usize, &u32)| {
        let scored = if t > 0 && example.scored[t] { '*' } else { ' ' };
        format!("{t:>6} {id:>7} {scored} {}\n", shown(*id, tokenizer))
    };
    example.ids.iter().enumerate().map(line).collect()
}

/// The text of one token for a line of its own.
pub fn shown(id: u32, tokenizer: &ChatTokenizer) -> String {
    let text = tokenizer.token_text(id).replace('\n', "\\n").replace('\t', "\\t");
    printable(&text).into_owned()
}
