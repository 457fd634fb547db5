//! What numbers a flag takes, and how they are said.

use std::collections::BTreeMap;

/// A whole number above 0.
pub fn positive(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("not a whole number".into()),
    }
}

/// A number that is not negative.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        Ok(_) => Err("must be a finite number that is not negative".into()),
        Err(_) => Err("not a number".into()),
    }
}

/// A number from 0 to below 1.
pub fn below_one(text: &str) -> Result<f64, String> {
    match rate(text)? {
        x if x < 1.0 => Ok(x),
        _ => Err("must be below 1".into()),
    }
}

/// A number above 0.
pub fn positive_number(text: &str) -> Result<f64, String> {
    match rate(text)? {
        0.0 => Err("must be above 0".into()),
        x => Ok(x),
    }
}

/// `1 step`, `2 steps`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `5.04 GB`
pub fn gigabytes(bytes: usize) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// `activations 0.51 GB, gradients 1.07 GB, ..`
pub fn by_purpose(bytes: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = bytes.iter().map(|(name, bytes)| format!("{name} {}", gigabytes(*bytes))).collect();
    parts.join(", ")
}
