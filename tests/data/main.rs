//! Tests of `engine::data`: from dataset files to token ids.

mod check;
mod control;
#[path = "../damage/mod.rs"]
mod damage;
mod damaged;
mod dataset;
mod forgery;
mod forms;
mod hostile;
#[cfg(feature = "hub")]
mod hub;
mod large;
mod length;
#[cfg(feature = "parquet")]
mod parquet_hostile;
mod preview;
mod python;
mod real;
mod rows;
mod schema;
mod sources;
mod template;
mod tiny;
mod tokenizer;

use std::path::{Path, PathBuf};

use engine::data::{Row, RowOptions, load_rows};
use serde_json::{Value, json};

/// A file of `tests/fixtures/data`.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data").join(name)
}

/// The JSON objects of a JSONL fixture.
fn json_lines(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The list under `key`, nothing if it is null.
fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The tutorial's 40 rows with its two tools.
fn tutorial_rows() -> Vec<Row> {
    let tool = |name: &str, description: &str| {
        let query = json!({"type": "string", "description": "query string"});
        let parameters = json!({"type": "object", "properties": {"query": query}, "required": ["query"]});
        json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})
    };
    let tools = vec![
        tool("search_knowledge_base", "Search internal company documents, policies and project data."),
        tool("search_google", "Search public information."),
    ];
    let options = RowOptions { tools: Some(tools), ..Default::default() };
    load_rows(fixture("simple_tool_calling.jsonl").to_str().unwrap(), &options).unwrap()
}
