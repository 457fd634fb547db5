//! `engine train --qat`: the scores of the run are those of `engine eval --as` on the model that it leaves.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{metrics, path, quickstart, run, test_rows, train};

/// The report of `engine eval` on the quickstart's test rows.
fn eval(model: &Path, extra: &[&str]) -> Value {
    let (model, rows, tools) = (path(model), test_rows(), path(&quickstart().join("tools.json")));
    let flags = ["eval", "--model", &model, "--dataset", &rows, "--tools", &tools, "--loss", "--log-format", "json"];
    let scored = run(&[&flags, extra].concat());
    assert_eq!(scored.code, 0, "{}", scored.stderr);
    serde_json::from_str(scored.stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_run_with_rounded_weights_scores_what_eval_as_does() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let rows = test_rows();
    let flags = ["--qat", "q4_0", "--eval-dataset", &rows, "--score", "after", "--learning-rate", "1e-3"];
    let more = ["--max-steps", "6", "--device", "cpu", "--max-new-tokens", "40", "--completion-only-loss", "true"];
    let trained = train(&output, &[&flags[..], &more].concat());
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let loss = metrics(&output).iter().filter_map(|record| record["eval_loss"].as_f64()).next_back().unwrap();
    let score: Value = serde_json::from_slice(&fs::read(output.join("score_after.json")).unwrap()).unwrap();
    let (cpu, completion) = (["--device", "cpu", "--max-new-tokens", "40"], ["--completion-only-loss", "true"]);
    let priced = eval(&output, &[&cpu[..], &completion, &["--as", "q4_0"]].concat());
    assert_eq!(priced["eval_loss"].as_f64().unwrap(), loss, "the loss");
    assert_eq!(priced["correct"], score["correct"], "the score");
    assert!(priced["unrounded"]["eval_loss"].as_f64().unwrap() != loss, "the weights as they are");
}

#[test]
fn weights_are_saved_as_they_are_unless_a_flag_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let size = |name: &str, flags: &[&str]| {
        let output = folder.path().join(name);
        let trained = train(&output, flags);
        assert_eq!(trained.code, 0, "{}", trained.stderr);
        fs::metadata(output.join("model.safetensors")).unwrap().len()
    };
    let plain = size("plain", &[]);
    assert!(size("rounded", &["--qat", "q8_0"]) > plain * 19 / 10);
    assert_eq!(size("bf16", &["--qat", "q8_0", "--save-dtype", "bf16"]), plain);
}

#[test]
fn adapters_and_other_types_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    for (flags, said) in [
        (&["--qat", "q4_0", "--lora-r", "4"][..], "an adapter cannot be trained with rounded weights"),
        (&["--qat", "bf16"], "q8_0, q4_0"),
    ] {
        let refused = train(&output, flags);
        assert!(refused.code == 2 && refused.stderr.contains(said), "{flags:?}: {}", refused.stderr);
    }
    assert!(!output.exists());
}
