//! The 40 rows and the two tools.

use std::collections::HashSet;

use serde_json::Value;

pub fn read(name: &str) -> Vec<Value> {
    let path = format!("{}/examples/quickstart/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

pub fn tool_names() -> Vec<String> {
    let tools: Value = serde_json::from_str(include_str!("../../examples/quickstart/tools.json")).expect("tools.json");
    let names = tools.as_array().expect("a list").iter().map(|tool| &tool["function"]["name"]);
    names.map(|name| name.as_str().expect("a name").to_string()).collect()
}

#[test]
fn twenty_rows_train_and_twenty_test_half_of_them_for_each_tool() {
    for file in ["train.jsonl", "test.jsonl"] {
        let rows = read(file);
        for name in tool_names() {
            assert_eq!(rows.iter().filter(|row| row["tool_name"] == name.as_str()).count(), 10, "{file}, {name}");
        }
        assert_eq!(rows.len(), 20, "{file}");
    }
}

/// The query of a row of the tutorial's form.
pub fn query(row: &Value) -> String {
    let arguments: Value = serde_json::from_str(row["tool_arguments"].as_str().expect("a string")).expect("JSON");
    arguments["query"].as_str().expect("a query").to_string()
}

#[test]
fn every_query_is_a_stretch_of_whole_words_of_its_prompt_and_every_prompt_differs() {
    let mut seen = HashSet::new();
    for row in read("train.jsonl").into_iter().chain(read("test.jsonl")) {
        let (prompt, query) = (row["user_content"].as_str().expect("a prompt"), query(&row));
        let (before, after) = prompt.split_once(&query).expect("the query is in the prompt");
        assert!(!query.is_empty() && before.ends_with(' '), "{row}");
        assert!(after.starts_with([' ', '.', '?']), "{row}");
        assert!(seen.insert(prompt.to_lowercase()), "{row}");
    }
}

#[test]
fn neither_tool_says_what_it_covers() {
    let tools: Value = serde_json::from_str(include_str!("../../examples/quickstart/tools.json")).expect("tools.json");
    let said: Vec<String> = tools
        .as_array()
        .expect("a list")
        .iter()
        .zip(["minerva", "atlas"])
        .map(|(tool, code)| tool.to_string().to_lowercase().replace(code, "CODE"))
        .collect();
    assert_eq!(said[0], said[1], "the two tools differ by their code name alone");
}
