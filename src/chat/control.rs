//! Keeps control tokens out of the data: a chat's own strings must not turn into `<end_of_turn>` or `<escape>`.
//!
//! A tokenizer cannot tell `<escape>` written by the template from `<escape>` typed by a user. So the template is marked, not
//! the data: every spelling of a control token in its text and its string literals is put between two marks, Unicode
//! noncharacters that occur nowhere in the row. In the rendered text a control token is one only where the two marks stand
//! around it. Whatever else spells one came from the data, whatever the template did to it: there the text is cut behind the
//! first character. Encoded piece by piece, the spelling stays ordinary text, and decoding gives it back unchanged.
//!
//! A template may also build a token, `'<|' ~ role ~ '|>'`. So the beginning of a spelling at the end of a literal gets the
//! opening mark, and the end of one at the start of a literal the closing mark.

use std::collections::HashSet;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use serde_json::Value;

use super::functiongemma::tokens;
use super::jinja::literals;
use crate::error::{Context, Result};
use crate::{bail, err};

/// No tokenizer that anyone uses has a longer control token. Without a limit, looking for them is quadratic in it.
const MAX_SPELLING: usize = 1024;

/// How many pairs of marks there are: U+FDD0 and U+FDD1, to U+FDEE and U+FDEF.
pub const MARK_PAIRS: usize = 16;

/// The spellings of a tokenizer's control tokens.
#[derive(Debug)]
pub struct ControlTokens {
    spellings: HashSet<String>,
    /// What a literal may end with, to be completed by the next: beginnings of spellings that are no words.
    beginnings: HashSet<String>,
    /// What a literal may start with, to complete the one before.
    endings: HashSet<String>,
    /// Length in bytes.
    longest: usize,
    finder: AhoCorasick,
}

/// What stands before and behind a control token that a template writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    pub open: char,
    pub close: char,
}

impl Marks {
    /// Pair `number` of [`MARK_PAIRS`].
    pub fn pair(number: usize) -> Self {
        let mark = |offset: usize| char::from_u32(0xfdd0 + (2 * number + offset) as u32).unwrap_or('\u{fdd0}');
        Self { open: mark(0), close: mark(1) }
    }
}

/// Rendered text, and what of it is control tokens.
#[derive(Debug, Default, PartialEq)]
pub struct Rendered {
    pub text: String,
    /// Byte offsets at which the text must be cut before it is encoded.
    pub cuts: Vec<usize>,
    /// Where the template's own control tokens are, in bytes: all that the text may be encoded to.
    pub tokens: Vec<(usize, usize)>,
}

impl ControlTokens {
    /// Of a tokenizer's added tokens `(text, special)` those that control: the special ones, [`tokens::ALL`] and `<unusedN>`
    /// (tokenizers do not flag all of these). Runs of newlines, `<table>` and the like stay ordinary.
    ///
    /// # Errors
    /// A token of more than 1,024 bytes.
    pub fn new<'a>(added: impl IntoIterator<Item = (&'a str, bool)>) -> Result<Self> {
        let controls = |(text, special): &(&str, bool)| {
            !text.is_empty() && (*special || tokens::ALL.contains(text) || is_unused(text))
        };
        let spellings: HashSet<String> = added.into_iter().filter(controls).map(|(text, _)| text.to_string()).collect();
        let longest = spellings.iter().map(String::len).max().unwrap_or(0);
        if longest > MAX_SPELLING {
            bail!("a control token of {longest} bytes: {MAX_SPELLING} are the most");
        }
        let (mut beginnings, mut endings) = (HashSet::new(), HashSet::new());
        for text in &spellings {
            let inner = || text.char_indices().skip(1).map(|(at, _)| at);
            if text.starts_with(|c: char| !c.is_alphanumeric()) {
                beginnings.extend(inner().map(|at| text[..at].to_string()));
            }
            if text.ends_with(|c: char| !c.is_alphanumeric()) {
                endings.extend(inner().map(|at| text[at..].to_string()));
            }
        }
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&spellings);
        let finder = finder.context(|| "cannot look for the control tokens")?;
        Ok(Self { spellings, beginnings, endings, longest, finder })
    }

    /// Whether `text` is the spelling of a control token.
    pub fn contains(&self, text: &str) -> bool {
        self.spellings.contains(text)
    }

    /// The number of a pair of [marks](Marks::pair) of which neither occurs in `values`.
    ///
    /// # Errors
    /// All pairs are in use.
    pub fn choose_marks(&self, values: &[&[Value]]) -> Result<usize> {
        let mut used = [false; MARK_PAIRS];
        values.iter().copied().flatten().for_each(|value| note_marks(value, &mut used));
        used.iter()
            .position(|used| !used)
            .ok_or_else(|| err!("the row holds all of the noncharacters U+FDD0 to U+FDEF"))
    }

    /// A template's source with marks around the control tokens in its text and its string literals.
    pub fn mark_source(&self, source: &str, marks: Marks) -> String {
        let mut out = String::with_capacity(source.len() * 2);
        let mut at = 0;
        for literal in literals(source) {
            out += &source[at..literal.start];
            at = literal.end;
            self.mark_literal(&source[literal], marks, &mut out);
        }
        out + &source[at..]
    }

    /// [`Self::mark_source`] of a text that is one literal, such as the value of `bos_token`.
    pub fn mark_text(&self, text: &str, marks: Marks) -> String {
        let mut out = String::new();
        self.mark_literal(text, marks, &mut out);
        out
    }

    fn mark_literal(&self, literal: &str, marks: Marks, out: &mut String) {
        let mut at = 0;
        for token in self.finder.find_iter(literal) {
            self.mark_ends(&literal[at..token.start()], marks, out);
            out.push(marks.open);
            *out += &literal[token.range()];
            out.push(marks.close);
            at = token.end();
        }
        self.mark_ends(&literal[at..], marks, out);
    }

    /// Marks what may become a token together with what comes before and behind; inside a literal that is what an escape
    /// or a format (`%s`, `{}`) writes.
    fn mark_ends(&self, text: &str, marks: Marks, out: &mut String) {
        for piece in text.split_inclusive(['%', '{', '\\']) {
            let (inner, separator) = piece.split_at(piece.trim_end_matches(['%', '{', '\\']).len());
            let ends = inner.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= self.longest);
            let head = ends.filter(|end| self.endings.contains(&inner[..*end])).last().unwrap_or(0);
            let starts = inner.char_indices().map(|(at, _)| at).rev();
            let starts = starts.take_while(|at| inner.len() - at <= self.longest && *at >= head);
            let tail = starts.filter(|at| self.beginnings.contains(&inner[*at..])).last();
            *out += &inner[..head];
            out.extend((head > 0).then_some(marks.close));
            *out += &inner[head..tail.unwrap_or(inner.len())];
            out.extend(tail.map(|_| marks.open));
            *out += &inner[tail.unwrap_or(inner.len())..];
            *out += separator;
        }
    }

    /// Takes the marks out of a rendered text. A spelling that stood between them is a token, every other is cut.
    pub fn unmark(&self, rendered: &str, marks: Marks) -> Rendered {
        let mut text = String::with_capacity(rendered.len());
        let (mut opens, mut closes) = (Vec::new(), Vec::new());
        for c in rendered.chars() {
            match c {
                c if c == marks.open => opens.push(text.len()),
                c if c == marks.close => closes.push(text.len()),
                c => text.push(c),
            }
        }
        let (mut cuts, mut tokens) = (Vec::new(), Vec::new());
        let mut at = 0;
        while let Some(found) = self.finder.find(Input::new(&text).range(at..)) {
            let start = found.start();
            let token = opens.binary_search(&start).ok().and_then(|_| self.token_end(&text, start, &closes));
            at = match token {
                Some(end) => end,
                None => start + text[start..].chars().next().map_or(1, char::len_utf8),
            };
            tokens.extend(token.map(|end| (start, end)));
            // Also behind a token of the template, where what follows would make a longer one of it.
            cuts.extend((token != Some(found.end())).then_some(at));
        }
        Rendered { text, cuts, tokens }
    }

    /// Where the token ends that was opened at `start`: at the first closing mark that makes it a spelling.
    fn token_end(&self, text: &str, start: usize, closes: &[usize]) -> Option<usize> {
        let later = &closes[closes.partition_point(|close| *close <= start)..];
        let mut near = later.iter().copied().take_while(|close| close - start <= self.longest);
        near.find(|close| self.spellings.contains(&text[start..*close]))
    }
}

fn is_unused(text: &str) -> bool {
    let number = text.strip_prefix("<unused").and_then(|rest| rest.strip_suffix('>'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn note_marks(value: &Value, used: &mut [bool; MARK_PAIRS]) {
    let mut note = |text: &str| {
        // All of them begin with this byte in UTF-8, and almost no text has it.
        if text.as_bytes().contains(&0xef) {
            let marks = text.chars().filter(|c| ('\u{fdd0}'..='\u{fdef}').contains(c));
            marks.for_each(|mark| used[(mark as usize - 0xfdd0) / 2] = true);
        }
    };
    match value {
        Value::String(text) => note(text),
        Value::Array(items) => items.iter().for_each(|item| note_marks(item, used)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            note_marks(item, used);
            if key.contains(|c| ('\u{fdd0}'..='\u{fdef}').contains(&c)) {
                note_marks(&Value::from(key.as_str()), used);
            }
        }),
        _ => {}
    }
}
