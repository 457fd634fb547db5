//! The two streams: data goes to stdout, talk to stderr. That somebody has closed one, or that it leads to a full disk, must not
//! cost a user the work of hours, so nothing here panics.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Context, Result};

/// A line to stderr. Where it cannot be written nobody reads it.
pub fn say(line: &str) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "{line}").and_then(|()| stderr.flush());
}

/// Text to stdout. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// Stdout refuses, for example because its disk is full.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context(|| "cannot write to stdout"),
    }
}

/// A JSON object to stdout, as a line.
///
/// # Errors
/// As [`print`].
pub fn line(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).context(|| "internal: a record is no JSON")?;
    print(&(text + "\n"))
}

/// The last line of a command for programs: what came of it, and that this is it.
///
/// # Errors
/// As [`print`].
pub fn result(value: &impl Serialize) -> Result<()> {
    let mut value = serde_json::to_value(value).context(|| "internal: the result is no JSON")?;
    if let Value::Object(fields) = &mut value {
        fields.shift_insert(0, "type".to_owned(), json!("result"));
    }
    line(&value)
}
