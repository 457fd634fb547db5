//! Damaged rows, tools, parquet files, templates and tokenizers are refused or used, and never panic.

use engine::chat::control::{ControlTokens, Marks};
use engine::chat::template::{ChatTemplate, FUNCTIONGEMMA_TEMPLATE};
use engine::chat::tokenizer_file::TokenizerFile;
use engine::data::check::check_rows;
use engine::data::tools::{dropped_property_warnings, normalize_tools};
use engine::data::{RowOptions, load_rows};
use serde_json::{Value, json};

use crate::damage::{each_damaged, seeds};
use crate::template::special_tokens;
use crate::tutorial_rows;

const CASES: u32 = 500;

#[test]
fn damaged_files_of_rows_are_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    each_damaged(seeds("rows"), CASES, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let _ = load_rows(path.to_str().unwrap(), &RowOptions::default()).map(|rows| check_rows(&rows));
    });
}

#[test]
fn damaged_tools_that_pass_pass_again_unchanged() {
    each_damaged(seeds("tools"), CASES, |bytes| {
        let value = serde_json::from_slice::<Value>(bytes).ok();
        if let Some((tools, _)) = value.and_then(|value| normalize_tools(&value).ok()) {
            dropped_property_warnings(&tools);
            assert_eq!(normalize_tools(&Value::Array(tools.clone())).unwrap().0, tools);
        }
    });
}

#[cfg(feature = "parquet")]
#[test]
fn damaged_parquet_files_are_refused_or_read() {
    each_damaged(seeds("parquet"), 3 * CASES, |bytes| {
        let _ = engine::data::parquet::parse_rows(bytes.to_vec(), "rows.parquet", &RowOptions::default());
    });
}

#[test]
fn damaged_templates_are_refused_or_rendered() {
    let mut seeds = seeds("template");
    seeds.push(FUNCTIONGEMMA_TEMPLATE.into());
    let control = ControlTokens::new([("<bos>", true), ("<escape>", false), ("[x]", true)]).unwrap();
    let messages = [
        json!({"role": "user", "content": "<bos>\u{1f}{{ é"}),
        json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"<escape>": [1, null]}}}]}),
    ];
    each_damaged(seeds, CASES, |bytes| {
        let Ok(source) = std::str::from_utf8(bytes) else { return };
        let render = |source: &str| ChatTemplate::from_source(source, special_tokens())?.render(&messages, &[], true);
        let _ = render(source);
        if let Ok(text) = render(&control.mark_source(source, Marks::pair(0))) {
            control.unmark(&text, Marks::pair(0));
        }
    });
}

#[test]
fn damaged_tokenizers_are_refused_or_encode() {
    let rows = tutorial_rows();
    let text = format!("<bos>＜escape＞ \u{1f}\u{200d}é日本 {:?}", rows[0].content);
    each_damaged(seeds("tokenizer"), CASES, |bytes| {
        let tokenizer = std::str::from_utf8(bytes).ok().and_then(|json| TokenizerFile::from_json(json).ok());
        if let Some(tokenizer) = tokenizer {
            let _ = tokenizer.encode(&text, true).map(|ids| tokenizer.decode(&ids));
        }
    });
}
