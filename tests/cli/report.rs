//! `report.html`: what is in it, and that text from data stays text.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{path, quickstart, run};

/// A run with a score before and after, of four rows.
fn trained(output: &Path, extra: &[&str]) {
    let rows = output.with_extension("jsonl");
    let lines = fs::read_to_string(quickstart().join("test.jsonl")).unwrap();
    fs::write(&rows, lines.lines().take(4).collect::<Vec<_>>().join("\n")).unwrap();
    let [model, train, tools] = ["model", "train.jsonl", "tools.json"].map(|name| path(&quickstart().join(name)));
    let flags = ["train", "--model", &model, "--dataset", &train, "--tools", &tools, "--eval-dataset", &path(&rows)];
    let more = ["--output-dir", &path(output), "--max-steps", "2", "--max-new-tokens", "8", "--save-strategy", "no"];
    let done = run(&[&flags[..], &more[..], extra].concat());
    assert_eq!(done.code, 0, "{}", done.stderr);
}

/// What a page was made of.
fn data(page: &Path) -> Value {
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_run_leaves_a_page_with_settings_curves_scores_and_every_answer() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    trained(&out, &[]);
    let data = data(&out.join("report.html"));
    assert_eq!(data["run"]["settings"]["max_steps"], 2);
    assert_eq!(data["run"]["score_after"]["total"], 4);
    assert!(data["run"]["peak_memory"]["weights"].as_u64().unwrap() > 1 << 20);
    let shown = data["run"]["first_examples"].as_array().unwrap();
    assert_eq!(shown.len(), 5);
    for (row, line) in shown.iter().zip(1..) {
        assert!(row["origin"].as_str().unwrap().ends_with(&format!("train.jsonl:{line}")), "{row}");
        assert!(row["pieces"].as_array().unwrap().iter().any(|piece| piece[1] == true));
    }
    let kinds: Vec<&str> = data["metrics"].as_array().unwrap().iter().map(|r| r["type"].as_str().unwrap()).collect();
    for kind in ["train", "eval", "summary", "score"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    for when in ["before", "after"] {
        assert_eq!(data[when]["examples"].as_array().unwrap().len(), 4);
        assert_eq!(data["intervals"][when].as_array().unwrap().len(), 5);
    }
    assert!(data["certainty"].as_str().unwrap().contains("McNemar"));
}

#[test]
fn without_a_score_or_metrics_there_is_still_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    trained(&out, &["--score", "none", "--report-to", "none"]);
    let data = data(&out.join("report.html"));
    assert_eq!((&data["after"], &data["metrics"]), (&Value::Null, &json!([])));
}

#[test]
fn text_from_data_cannot_leave_its_place_and_the_page_can_be_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    trained(&out, &[]);
    let hostile = "</script><script>alert(1)</script><!--\u{2028}";
    let file = out.join("score_after.json");
    let mut answers: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for (field, text) in [("prompt", json!(hostile)), ("output", json!(hostile)), ("verdict", json!(hostile))] {
        answers["examples"][0][field] = text;
    }
    answers["examples"][0]["calls"] = json!([{"name": hostile, "arguments": {hostile: hostile}}]);
    fs::write(&file, answers.to_string()).unwrap();
    let made = run(&["report", &path(&out)]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(!page.contains("alert(1)<") && !page.contains('\u{2028}'));
    assert_eq!(data(&out.join("report.html"))["after"]["examples"][0]["prompt"], hostile);

    fs::remove_file(out.join("run.json")).unwrap();
    let refused = run(&["report", &path(&out)]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("run.json") && refused.stderr.contains("cannot make `"), "{}", refused.stderr);
}
