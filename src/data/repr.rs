//! Python's way to write a dictionary, which some datasets hold where JSON is meant: `{'name': 'f', 'exact': True}`.

use serde_json::Value;

use super::json;

/// The value of a text that is JSON, or what Python's `repr` makes of the same value; the error is that of JSON.
///
/// # Errors
/// It is neither.
pub fn parse_json_or_repr(text: &str) -> serde_json::Result<Value> {
    json::parse(text).or_else(|error| as_json(text).and_then(|text| json::parse(&text).ok()).ok_or(error))
}

/// Quotes and words as JSON has them; None where a string does not end.
fn as_json(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' | '"' => string(rest, first, &mut out)?,
            c if c.is_ascii_alphabetic() => word(rest, &mut out),
            c => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    Some(out)
}

/// Copies the string that `text` begins with; its length in `text`.
fn string(text: &str, quote: char, out: &mut String) -> Option<usize> {
    let mut content = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => {
                *out += &Value::from(content).to_string();
                return Some(at + 1);
            }
            '\\' => content.push(escaped(chars.next()?.1, &mut chars)?),
            c => content.push(c),
        }
    }
    None
}

fn escaped(c: char, chars: &mut impl Iterator<Item = (usize, char)>) -> Option<char> {
    let mut code = |digits: usize| {
        let text: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
        char::from_u32(u32::from_str_radix(&text, 16).ok()?)
    };
    match c {
        'n' => Some('\n'),
        't' => Some('\t'),
        'r' => Some('\r'),
        'x' => code(2),
        'u' => code(4),
        'U' => code(8),
        '\\' | '\'' | '"' | '/' => Some(c),
        _ => None,
    }
}

/// Copies the word that `text` begins with; its length in `text`.
fn word(text: &str, out: &mut String) -> usize {
    let length = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    *out += match &text[..length] {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    length
}
