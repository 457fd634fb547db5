//! Reads Jinja source as far as it must be known before it is compiled: where its literals are, how much nests in it, and
//! what transformers' dialect has that minijinja does not.
//!
//! It finds tags, strings and brackets just as minijinja's lexer does, so that what is text here is text there.

use std::ops::Range;

use crate::bail;
use crate::error::Result;

/// Bytes of a template. The largest of a known model has about 30 KB.
const MAX_SOURCE: usize = 1 << 20;
/// Names, numbers and operators in one tag: compiling recurses over them. Known templates have up to 200.
const MAX_TAG_TOKENS: usize = 2000;
/// `elif`s and `set`s of a template: compiling recurses over the first, values grow deeper by the second.
const MAX_STATEMENTS: usize = 5000;

/// The filter through which every value goes that is kept in a namespace.
pub const KEEP: &str = "__keep";

/// What stands in a template's source.
#[derive(Debug, Default)]
struct Scan {
    /// The texts between tags and the insides of strings.
    literals: Vec<Range<usize>>,
    /// What is to be replaced for minijinja.
    replacements: Vec<(Range<usize>, &'static str)>,
    /// Tags of kinds that count against [`MAX_STATEMENTS`].
    statements: usize,
    /// Most tokens in one tag.
    longest_tag: usize,
}

/// The literals of `source` in their order: the texts between tags and the insides of strings.
pub fn literals(source: &str) -> Vec<Range<usize>> {
    Scanner::scan(source).literals
}

/// `source` as minijinja compiles it: transformers' own `{% generation %}` tags become blocks that change nothing, and what is
/// assigned to a namespace goes through the filter [`KEEP`].
///
/// # Errors
/// A source so large or so nested that nothing but an attack is.
pub fn prepare(source: &str) -> Result<String> {
    if source.len() > MAX_SOURCE {
        bail!("the chat template has {} bytes: {MAX_SOURCE} are the most", source.len());
    }
    let scan = Scanner::scan(source);
    if scan.longest_tag > MAX_TAG_TOKENS {
        bail!("the chat template has a tag of {} tokens: {MAX_TAG_TOKENS} are the most", scan.longest_tag);
    }
    if scan.statements > MAX_STATEMENTS {
        bail!("the chat template has {} `set` and `elif`: {MAX_STATEMENTS} are the most", scan.statements);
    }
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    for (range, replacement) in scan.replacements {
        out += &source[at..range.start];
        out += replacement;
        at = range.end;
    }
    Ok(out + &source[at..])
}

struct Scanner<'a> {
    source: &'a str,
    at: usize,
    /// Brackets that are open: an end of a tag inside of them is none.
    balance: isize,
    found: Scan,
}

impl<'a> Scanner<'a> {
    fn scan(source: &'a str) -> Scan {
        let mut scanner = Self { source, at: 0, balance: 0, found: Scan::default() };
        while scanner.at < source.len() {
            scanner.text();
        }
        scanner.found
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// Text up to the next tag, and that tag.
    fn text(&mut self) {
        let rest = self.rest();
        let opens = |at: &usize| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
        let Some(length) = rest.match_indices('{').map(|(at, _)| at).find(opens) else {
            self.found.literals.push(self.at..self.source.len());
            self.at = self.source.len();
            return;
        };
        self.found.literals.push(self.at..self.at + length);
        self.at += length + 2;
        match rest.as_bytes()[length + 1] {
            b'#' => self.at = self.source[self.at..].find("#}").map_or(self.source.len(), |end| self.at + end + 2),
            b'{' => self.tag("}}"),
            _ => match basic_tag(self.rest(), "raw") {
                Some(length) => {
                    self.at += length;
                    self.raw();
                }
                None => self.block(),
            },
        }
    }

    /// The text of a raw block.
    fn raw(&mut self) {
        let ends = self.rest().match_indices("{%").find_map(|(at, _)| {
            let length = basic_tag(&self.rest()[at + 2..], "endraw")?;
            Some((at, at + 2 + length))
        });
        let (text, end) = ends.unwrap_or((self.rest().len(), self.rest().len()));
        self.found.literals.push(self.at..self.at + text);
        self.at += end;
    }

    /// A `{% %}` tag.
    fn block(&mut self) {
        let start = self.at + usize::from(self.rest().starts_with(['-', '+']));
        let inside = &self.source[start..];
        let start = start + inside.len() - inside.trim_start_matches(is_space).len();
        let word = self.source[start..].split(|c| !is_name(c)).next().unwrap_or_default();
        let (tag, end) = (start..start + word.len(), start + word.len());
        self.tag("%}");
        let closing = self.source[..self.at].trim_end_matches("%}").trim_end_matches(['-', '+']).len().max(end);
        match word {
            "generation" => self.found.replacements.push((tag, "if true")),
            "endgeneration" => self.found.replacements.push((tag, "endif")),
            "elif" => self.found.statements += 1,
            "set" => {
                self.found.statements += 1;
                let (target, value) = self.source[end..closing].split_once('=').unwrap_or_default();
                if target.contains('.') {
                    let from = closing - value.len();
                    self.found.replacements.push((from..from, "("));
                    self.found.replacements.push((closing..closing, ")|__keep "));
                }
            }
            _ => {}
        }
    }

    /// From behind the start of a tag to behind its end.
    fn tag(&mut self, end: &str) {
        if self.rest().starts_with(['-', '+']) {
            self.at += 1;
        }
        let mut tokens = 0;
        while let Some(c) = self.rest().chars().next() {
            let rest = self.rest();
            let signed = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if self.balance == 0 && signed.starts_with(end) {
                self.at += rest.len() - signed.len() + end.len();
                break;
            }
            match c {
                '\'' | '"' => self.string(c),
                '(' | '[' | '{' => self.balance += 1,
                ')' | ']' | '}' => self.balance -= 1,
                _ => {}
            }
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            self.at += match c {
                '\'' | '"' => 0,
                c if is_name(c) => length,
                c => c.len_utf8(),
            };
            tokens += usize::from(!is_space(c) && !matches!(c, ',' | ':' | '\'' | '"'));
        }
        self.found.longest_tag = self.found.longest_tag.max(tokens);
    }

    /// From before the opening quote to behind the closing one.
    fn string(&mut self, quote: char) {
        self.at += 1;
        let mut escaped = false;
        let ends = |(_, byte): &(usize, u8)| {
            let ends = !escaped && *byte == quote as u8;
            escaped = !escaped && *byte == b'\\';
            ends
        };
        let length = self.rest().bytes().enumerate().find(ends).map_or(self.rest().len(), |(at, _)| at);
        self.found.literals.push(self.at..self.at + length);
        self.at = (self.at + length + 1).min(self.source.len());
    }
}

/// The length of what is left of a tag that holds `name` alone, from behind its `{%`.
fn basic_tag(rest: &str, name: &str) -> Option<usize> {
    let inside = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start_matches(is_space).strip_prefix(name)?;
    let inside = inside.trim_start_matches(is_space);
    let end = inside.strip_prefix(['-', '+']).unwrap_or(inside).strip_prefix("%}")?;
    Some(rest.len() - end.len())
}

fn is_space(c: char) -> bool {
    c.is_ascii_whitespace()
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
