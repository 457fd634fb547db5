//! The report file: its shape, and that writing it is all or nothing.

use std::fs;

use engine::eval::report::{Answer, Report};
use engine::eval::verdict::Expected;
use serde_json::{Value, json};

fn report() -> Report {
    let mut report = Report { eval_loss: Some(0.5), ..Report::default() };
    let message = json!({"role": "assistant", "tool_calls": [{"function": {"name": "web", "arguments": {"q": "x"}}}]});
    let tools = ["web".to_owned(), "docs".to_owned()];
    for (line, output) in
        ["<start_function_call>call:web{q:<escape>x<escape>}<end_function_call>", "<start_function_call>call:docs{"]
            .into_iter()
            .enumerate()
    {
        let answer = Answer {
            origin: format!("rows.jsonl:{}", line + 1),
            prompt: "Find x".to_owned(),
            output: output.to_owned(),
            token_ids: vec![48, 6639],
        };
        report.add(answer, Expected::from_messages(std::slice::from_ref(&message)).unwrap(), &tools);
    }
    report
}

#[test]
fn the_report_has_the_documented_shape() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    report().write(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["correct", "total", "strict", "eval_loss", "examples"]
    );
    assert_eq!((&value["correct"], &value["total"], &value["eval_loss"]), (&json!(1), &json!(2), &json!(0.5)));
    assert_eq!(
        value["strict"],
        json!({"format_valid": 1, "name": 1, "arguments": 1, "exact": 1, "missing_call": 0, "spurious_call": 0})
    );
    assert_eq!(
        value["examples"][1],
        json!({
            "origin": "rows.jsonl:2",
            "prompt": "Find x",
            "expected": {"calls": [{"name": "web", "arguments": {"q": "x"}}], "text": null},
            "output": "<start_function_call>call:docs{",
            "calls": [],
            "token_ids": [48, 6639],
            "verdict": "wrong tool",
            "correct": false,
            "format_valid": false,
            "name_correct": false,
            "arguments_correct": false,
            "exact": false,
            "missing_call": false,
            "spurious_call": false,
            "faults": ["the text ends inside a call at byte 31"],
        })
    );
    assert_eq!(value["examples"][0]["verdict"], "correct");
}

#[test]
fn without_an_evaluation_loss_the_report_has_none() {
    let report = Report { eval_loss: None, ..report() };
    assert!(serde_json::to_value(report).unwrap().get("eval_loss").is_none());
}
