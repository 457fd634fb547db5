//! Fills templates: `{blank}` is drawn from the word lists, `[..]` marks the words that become an argument.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;

use crate::words::Words;

/// A request in words, and the arguments found in it.
#[derive(Clone, Debug)]
pub struct Phrase {
    pub text: String,
    /// Parameter and its value as text; the parameter of `[words]` is `query`.
    pub arguments: Vec<(String, String)>,
}

/// Expands `template`. `[name:words]` and `[name=value:words]` name their parameter, `[words]` is the query.
/// No blank gives the same words twice in one phrase. `made_up`: blanks are filled with words that nobody knows.
pub fn expand(template: &str, words: &Words, made_up: bool, rng: &mut ChaCha8Rng) -> Phrase {
    let mut phrase = Phrase { text: String::new(), arguments: Vec::new() };
    let mut used = HashSet::new();
    let mut rest = template;
    while let Some(open) = rest.find('[') {
        let close = open + rest[open..].find(']').unwrap_or(rest.len() - open);
        phrase.text += &fill(&rest[..open], (words, made_up), &mut used, rng);
        let (parameter, value, inner) = head(&rest[open + 1..close]);
        let inner = fill(inner, (words, made_up), &mut used, rng);
        push(&mut phrase.arguments, parameter, value.unwrap_or(&inner));
        phrase.text += &inner;
        rest = rest.get(close + 1..).unwrap_or("");
    }
    phrase.text += &fill(rest, (words, made_up), &mut used, rng);
    capitalize(&mut phrase.text);
    phrase
}

/// Splits `name=value:words` into its three parts.
fn head(span: &str) -> (&str, Option<&str>, &str) {
    match span.split_once(':') {
        None => ("query", None, span),
        Some((head, inner)) => match head.split_once('=') {
            None => (head, None, inner),
            Some((parameter, value)) => (parameter, Some(value), inner),
        },
    }
}

/// Adds an argument; a second span of the same parameter is appended to the first.
fn push(arguments: &mut Vec<(String, String)>, parameter: &str, value: &str) {
    match arguments.iter_mut().find(|(name, _)| name == parameter) {
        Some((_, text)) => *text += &format!(" {value}"),
        None => arguments.push((parameter.to_string(), value.to_string())),
    }
}

/// Replaces the blanks of `text`, also those inside the words drawn.
fn fill(text: &str, (words, made_up): (&Words, bool), used: &mut HashSet<String>, rng: &mut ChaCha8Rng) -> String {
    let mut text = text.to_string();
    while let Some(open) = text.find('{') {
        let close = open + text[open..].find('}').unwrap_or_else(|| panic!("`{text}`: a blank without an end"));
        let mut drawn = words.draw(&text[open + 1..close], used, rng);
        used.insert(drawn.clone());
        if made_up && !drawn.contains('{') {
            drawn = words.disguise(&drawn, rng);
        }
        text.replace_range(open..=close, &drawn);
    }
    text
}

fn capitalize(text: &mut str) {
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
}
