//! `report.html`: a run on one page that needs nothing beside it, made from the files that the run left.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Context, Result};
use crate::eval::report::{Score, right_by_origin};
use crate::eval::statistics::changes;
use crate::eval::table::{certainty, intervals};
use crate::io::atomic::replace_file;
use crate::io::run_files::{ABOUT, ANSWERS_AFTER, ANSWERS_BEFORE, METRICS, PAGE};

/// The page without its data.
const TEMPLATE: &str = include_str!("page.html");
/// Where the data goes.
const PLACE: &str = "__DATA__";

/// Makes the page of the run whose files are in `folder`, and puts it there.
///
/// # Errors
/// There is no `run.json`, a file is not what a run writes, or the disk refuses.
pub fn write_page(folder: &Path) -> Result<()> {
    let failed = || format!("cannot make `{}`", folder.join(PAGE).display());
    let text = page(folder).context(failed)?;
    replace_file(&folder.join(PAGE), text.as_bytes())
}

fn page(folder: &Path) -> Result<String> {
    let run = required(folder, ABOUT)?;
    let [before, after] = [ANSWERS_BEFORE, ANSWERS_AFTER].map(|name| optional(folder, name));
    let (before, after) = (before?, after?);
    let score = |name: &str| serde_json::from_value::<Option<Score>>(run[name].clone()).ok().flatten();
    let (was, is) = (score("score_before"), score("score_after"));
    let mut data = Map::new();
    data.insert(
        "intervals".into(),
        json!({"before": was.as_ref().map(intervals), "after": is.as_ref().map(intervals)}),
    );
    if let (Some(was), Some(is)) = (&was, &is) {
        let changed = before
            .as_ref()
            .zip(after.as_ref())
            .and_then(|(before, after)| changes(&right_by_origin(before)?, &right_by_origin(after)?));
        data.insert("certainty".into(), certainty(was, is, changed).into());
    }
    data.insert("metrics".into(), records(folder)?.into());
    data.insert("before".into(), before.into());
    data.insert("after".into(), after.into());
    data.insert("run".into(), run);
    Ok(TEMPLATE.replacen(PLACE, &for_script(&Value::Object(data)), 1))
}

/// JSON that cannot end the element of a page that it stands in.
fn for_script(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

fn required(folder: &Path, name: &str) -> Result<Value> {
    let path = folder.join(name);
    let text = fs::read(&path).context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_slice(&text).context(|| format!("`{}` is not JSON", path.display()))
}

fn optional(folder: &Path, name: &str) -> Result<Option<Value>> {
    if folder.join(name).exists() { required(folder, name).map(Some) } else { Ok(None) }
}

/// The lines of `metrics.jsonl` as they are; one that a killed run has cut short is left out.
fn records(folder: &Path) -> Result<Vec<Value>> {
    let path = folder.join(METRICS);
    match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(|| format!("cannot read `{}`", path.display())),
        Ok(lines) => Ok(lines.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()),
    }
}
