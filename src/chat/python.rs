//! How Python writes values: `str`, `repr`, `json.dumps` and `str.strip`, because chat templates were written for it.

use std::fmt::Write;

use serde_json::Value;

/// `str(value)`: strings as they are, everything else as [`repr`].
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => repr(other),
    }
}

/// `repr(value)`: `None`, `True`, `1e-05`, `['a', {'b': 1}]`.
pub fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number_repr(number),
        Value::String(text) => string_repr(text),
        Value::Array(items) => format!("[{}]", items.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs: Vec<_> = map.iter().map(|(k, v)| format!("{}: {}", string_repr(k), repr(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
pub fn json_dumps(value: &Value, indent: Option<usize>) -> String {
    let mut out = String::new();
    write_json(&mut out, value, indent, 0);
    out
}

/// `text.strip()`: Python also strips the four ASCII separators U+001C..U+001F.
pub fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

fn number_repr(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => float_repr(value),
        _ => number.to_string(),
    }
}

/// The shortest digits that read back as `value`; exponents from 1e16 on and below 1e-4.
fn float_repr(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

fn string_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            c if c == quote => out.extend(['\\', c]),
            // Writing to a string cannot fail.
            c if c.is_control() => _ = write!(out, "\\x{:02x}", c as u32),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

fn write_json(out: &mut String, value: &Value, indent: Option<usize>, depth: usize) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                separate(out, i, indent, depth + 1);
                write_json(out, item, indent, depth + 1);
            }
            close(out, ']', indent, depth);
        }
        Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                separate(out, i, indent, depth + 1);
                *out += &Value::from(key.as_str()).to_string();
                *out += ": ";
                write_json(out, item, indent, depth + 1);
            }
            close(out, '}', indent, depth);
        }
        Value::Number(number) => *out += &number_repr(number),
        other => *out += &other.to_string(),
    }
}

fn separate(out: &mut String, index: usize, indent: Option<usize>, depth: usize) {
    match (index, indent) {
        (0, None) => {}
        (_, None) => *out += ", ",
        (0, Some(width)) => new_line(out, width * depth),
        (_, Some(width)) => {
            out.push(',');
            new_line(out, width * depth);
        }
    }
}

fn close(out: &mut String, bracket: char, indent: Option<usize>, depth: usize) {
    if let Some(width) = indent {
        new_line(out, width * depth);
    }
    out.push(bracket);
}

fn new_line(out: &mut String, spaces: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', spaces));
}
