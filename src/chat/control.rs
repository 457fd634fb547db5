//! Keeps control tokens out of the data: a chat's own strings must not turn into `<end_of_turn>` or `<escape>`.
//!
//! A tokenizer cannot tell `<escape>` written by the template from `<escape>` typed by a user. So before rendering, the
//! first character of everything in the data that spells a control token is followed by a mark, a Unicode noncharacter
//! that occurs nowhere in the row. In the rendered text the marks are taken out again, and the text is cut where they
//! stood: encoded piece by piece, the spelling stays ordinary text, and decoding gives it back unchanged.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use super::functiongemma::tokens;
use crate::err;
use crate::error::Result;

/// The spellings of a tokenizer's control tokens.
#[derive(Debug, Default)]
pub struct ControlTokens {
    /// Every spelling with all its beginnings: what a marked string may end with.
    beginnings: HashSet<String>,
    spellings: HashSet<String>,
    first: BTreeSet<char>,
    longest: usize,
}

/// Rendered text and the byte offsets after which it must be cut before it is encoded.
#[derive(Debug, PartialEq)]
pub struct Rendered {
    pub text: String,
    pub cuts: Vec<usize>,
}

impl ControlTokens {
    /// Of a tokenizer's added tokens `(text, special)` those that control: the special ones, [`tokens::ALL`] and `<unusedN>`
    /// (tokenizers do not flag all of these). Runs of newlines, `<table>` and the like stay ordinary.
    pub fn new<'a>(added: impl IntoIterator<Item = (&'a str, bool)>) -> Self {
        let mut control = Self::default();
        for (text, special) in added {
            if !text.is_empty() && (special || tokens::ALL.contains(&text) || is_unused(text)) {
                control.first.extend(text.chars().next());
                control.longest = control.longest.max(text.len());
                control.beginnings.extend(text.char_indices().skip(1).map(|(end, _)| text[..end].to_string()));
                control.spellings.insert(text.to_string());
            }
        }
        control
    }

    /// Whether `text` is the spelling of a control token.
    pub fn contains(&self, text: &str) -> bool {
        self.spellings.contains(text)
    }

    /// A character that occurs in none of `values` and means nothing: the mark for one row.
    ///
    /// # Errors
    /// All 32 noncharacters of the block are in use.
    pub fn choose_mark(&self, values: &[&[Value]]) -> Result<char> {
        let used = |mark: char| values.iter().copied().flatten().any(|value| occurs(value, mark));
        ('\u{fdd0}'..='\u{fdef}')
            .find(|mark| !used(*mark))
            .ok_or_else(|| err!("the row holds all of the noncharacters U+FDD0 to U+FDEF"))
    }

    /// `value` with `mark` after the first character of every control token spelt in its strings and keys, and of every
    /// beginning of one that a template could complete by joining strings.
    pub fn mark(&self, value: &Value, mark: char) -> Value {
        match value {
            Value::String(text) => self.mark_text(text, mark).into(),
            Value::Array(items) => items.iter().map(|item| self.mark(item, mark)).collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, item)| (self.mark_text(key, mark), self.mark(item, mark)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }

    fn mark_text(&self, text: &str, mark: char) -> String {
        let mut out = String::with_capacity(text.len());
        for (start, c) in text.char_indices() {
            out.push(c);
            let rest = &text[start..];
            if self.first.contains(&c) && (self.starts(rest) || self.beginnings.contains(rest.trim_end())) {
                out.push(mark);
            }
        }
        out
    }

    /// Takes the marks out of a rendered text; a cut stays where the text now spells a control token.
    pub fn unmark(&self, rendered: &str, mark: char) -> Rendered {
        let mut text = String::with_capacity(rendered.len());
        let mut marked = Vec::new();
        for c in rendered.chars() {
            match text.chars().next_back() {
                Some(before) if c == mark => marked.push(text.len() - before.len_utf8()),
                _ if c == mark => {}
                _ => text.push(c),
            }
        }
        let first_length = |start: usize| text[start..].chars().next().map_or(0, char::len_utf8);
        let cuts =
            marked.into_iter().filter(|start| self.starts(&text[*start..])).map(|s| s + first_length(s)).collect();
        Rendered { text, cuts }
    }

    /// Whether `text` starts with a control token.
    fn starts(&self, text: &str) -> bool {
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= self.longest);
        ends.into_iter().any(|end| self.spellings.contains(&text[..end]))
    }
}

fn is_unused(text: &str) -> bool {
    let number = text.strip_prefix("<unused").and_then(|rest| rest.strip_suffix('>'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn occurs(value: &Value, mark: char) -> bool {
    match value {
        Value::String(text) => text.contains(mark),
        Value::Array(items) => items.iter().any(|item| occurs(item, mark)),
        Value::Object(map) => map.iter().any(|(key, item)| key.contains(mark) || occurs(item, mark)),
        _ => false,
    }
}
