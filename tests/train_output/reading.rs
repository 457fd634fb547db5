//! Reads a `metrics.jsonl` back, for tests of several parts.

use std::fs;
use std::path::Path;

use engine::error::{Context, Result};
use engine::train::metrics::Record;
use engine::{bail, err};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads the records of a `metrics.jsonl`. A last line that is not whole, of a run that was killed or is writing it right
/// now, is left out; any other fault is an error that names `file:line`.
pub fn read_metrics(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).context(|| format!("cannot read `{}`", path.display()))?;
    let mut records = Vec::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match parse_record(line) {
            Ok(record) => records.push(record),
            Err(_) if !line.ends_with('\n') => {}
            Err(error) => {
                return Err(error.context(format!("`{}:{}` is no metrics record", path.display(), index + 1)));
            }
        }
    }
    Ok(records)
}

fn parse_record(line: &str) -> Result<Record> {
    let value: Value = serde_json::from_str(line).context(|| "not JSON")?;
    if value.get("loss").is_some() {
        typed(value).map(Record::Train)
    } else if value.get("eval_loss").is_some() {
        typed(value).map(Record::Eval)
    } else if value.get("train_runtime").is_some() {
        typed(value).map(Record::Summary)
    } else {
        bail!("it has none of `loss`, `eval_loss` and `train_runtime`")
    }
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| err!("{error}"))
}
