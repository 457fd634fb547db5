//! What the binary says to programs, and what it can say before the long part.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{names, path, quickstart, run, test_rows, train};

fn objects(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

#[test]
fn a_run_is_a_json_object_a_line_and_the_last_one_is_its_result() {
    let folder = tempfile::tempdir().unwrap();
    let (output, rows) = (folder.path().join("out"), test_rows());
    let flags = ["--eval-dataset", &rows, "--score", "before,after", "--max-new-tokens", "4", "--log-format", "json"];
    let trained = train(&output, &flags);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let lines = objects(&trained.stdout);
    let kinds: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["score", "train", "train", "eval", "summary", "score", "result"]);
    let result = lines.last().unwrap();
    assert_eq!(result["steps"], 2);
    assert_eq!(result["score_after"]["total"], 20);
    assert!(std::path::Path::new(result["output_dir"].as_str().unwrap()).join("model.safetensors").exists());
    assert_eq!(objects(&fs::read_to_string(output.join("metrics.jsonl")).unwrap())[..], lines[..lines.len() - 1]);

    let model = path(&output);
    let tools = path(&quickstart().join("tools.json"));
    let judged = run(&[
        "eval",
        "--model",
        &model,
        "--dataset",
        &rows,
        "--tools",
        &tools,
        "--max-new-tokens",
        "4",
        "--log-format",
        "json",
        "--loss",
    ]);
    let lines = objects(&judged.stdout);
    assert_eq!((lines.len(), &lines[0]["type"], &lines[0]["total"]), (1, &"result".into(), &20.into()));
    assert!(lines[0]["eval_loss"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_dry_run_checks_everything_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let tried = train(&output, &["--dry-run", "--max-steps", "1"]);
    assert_eq!(tried.code, 0, "{}", tried.stderr);
    assert!(tried.stderr.contains("; 1 step\n") && tried.stderr.contains("this was a dry run"), "{}", tried.stderr);
    assert!(!output.exists());
    assert_eq!(train(&output, &[]).code, 0);
    let before = (names(&output), fs::read(output.join("model.safetensors")).unwrap());
    let tried = train(&output, &["--dry-run", "--overwrite-output-dir", "--log-format", "json"]);
    let [result] = &objects(&tried.stdout)[..] else { panic!("{}", tried.stdout) };
    assert_eq!(
        (&result["type"], &result["dry_run"], &result["total_steps"]),
        (&"result".into(), &true.into(), &2.into())
    );
    assert!(result["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{result}");
    assert_eq!((names(&output), fs::read(output.join("model.safetensors")).unwrap()), before);
    assert_eq!(train(&output, &["--dry-run"]).code, 1, "the folder holds a model");
    assert_eq!(train(&folder.path().join("new"), &["--dry-run", "--tools", "none.json"]).code, 1);
}

#[test]
fn what_would_be_found_out_too_late_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let trained = train(&folder.path().join("out"), &["--learning-rate", "0"]);
    assert!(trained.stderr.contains("warning: the learning rate is 0"), "{}", trained.stderr);
    assert!(trained.stderr.contains("learning rate 0,"), "{}", trained.stderr);
    let (model, tools) = (path(&quickstart().join("model")), path(&quickstart().join("tools.json")));
    let rows = test_rows();
    let report = path(&folder.path().join("none/x.json"));
    let judged = run(&["eval", "--model", &model, "--dataset", &rows, "--tools", &tools, "--report", &report]);
    assert_eq!(judged.code, 1);
    assert!(judged.stderr.contains("there is no folder `") && !judged.stderr.contains("score: "), "{}", judged.stderr);
    let cut = run(&["generate", "--model", &model, "--prompt", "hi", "--max-new-tokens", "2"]);
    assert!(cut.stderr.contains("the answer was cut after 2 tokens"), "{}", cut.stderr);
}

#[test]
fn an_answer_whose_last_allowed_token_stops_it_was_not_cut() {
    let folder = tempfile::tempdir().unwrap();
    let source = quickstart().join("model");
    for name in names(&source).iter().filter(|name| *name != "engine.json") {
        fs::copy(source.join(name), folder.path().join(name)).unwrap();
    }
    let config: Value = serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
    // Every token stops.
    let stop: Vec<u64> = (0..config["vocab_size"].as_u64().unwrap()).collect();
    let text = json!({"eos_token_id": stop}).to_string();
    fs::write(folder.path().join("generation_config.json"), text).unwrap();
    let model = path(folder.path());
    let stopped = run(&["generate", "--model", &model, "--prompt", "hi", "--max-new-tokens", "1"]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert!(!stopped.stderr.contains("was cut"), "{}", stopped.stderr);
}

#[test]
fn a_loss_that_stands_out_is_told_of_with_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    let row = |text: &str| format!("{{\"text\": \"{text}\"}}\n");
    fs::write(&rows, row("The same words once more.").repeat(80) + &row("Zyx wvu tsr 98765 qpo!")).unwrap();
    let trained = |extra: &[&str]| {
        let flags = ["--dataset", &path(&rows), "--shuffle", "false", "--per-device-train-batch-size", "1"];
        let more = ["--num-train-epochs", "1", "--max-steps", "81", "--learning-rate", "1e-3"];
        train(&folder.path().join("out"), &[&flags[..], &more[..], &["--overwrite-output-dir"], extra].concat())
    };
    let warned = trained(&[]);
    assert_eq!(warned.code, 0, "{}", warned.stderr);
    assert_eq!(warned.stderr.matches("standard deviations above").count(), 1, "{}", warned.stderr);
    assert!(
        warned.stderr.contains("warning: step 81: ") && warned.stderr.contains("rows.jsonl:81"),
        "{}",
        warned.stderr
    );
    let skipped = trained(&["--loss-spike", "skip"]);
    assert!(skipped.stderr.contains("above those before; the update was skipped; rows: "), "{}", skipped.stderr);
    assert!(!trained(&["--loss-spike-z", "0"]).stderr.contains("standard deviations"));
}

#[test]
fn several_seeds_make_several_runs_and_a_mean() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let rows = test_rows();
    let scored = ["--eval-dataset", &rows, "--score", "before,after", "--max-new-tokens", "4", "--seeds", "2"];
    let trained = train(&output, &[&scored[..], &["--seed", "7"]].concat());
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    assert_eq!(trained.stderr.matches("score before: 20 of 20").count(), 1, "it is the same in both runs");
    let last: Vec<&str> = trained.stdout.lines().rev().take(6).collect();
    for (line, start) in last.iter().zip(["±: 95 %", "mean ", "seed 8 ", "seed 7 ", "before ", "of 20 "]) {
        assert!(line.starts_with(start), "{}", trained.stdout);
    }
    let model = |seed: &str| fs::read(output.join(seed).join("model.safetensors")).unwrap();
    assert!(model("seed-7") != model("seed-8"));
    assert!(output.join("seed-8/score_before.json").exists());
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(output.join("seeds.json")).unwrap()).unwrap();
    assert_eq!(kept["runs"][1]["seed"], 8);
    assert!(kept["tool_choice"]["interval_95"][0].is_number(), "{kept}");

    let single = folder.path().join("single");
    train(&single, &["--data-seed", "8"]);
    assert!(fs::read(single.join("model.safetensors")).unwrap() == model("seed-8"));
    let again = train(&output, &[&scored[..], &["--seed", "8"]].concat());
    assert_eq!((again.code, again.stderr.contains("seed-8` holds a model already")), (1, true), "{}", again.stderr);
    let lines = ["--seeds", "2", "--log-format", "json", "--overwrite-output-dir"];
    let lines = objects(&train(&output, &lines).stdout);
    assert_eq!(lines.iter().filter(|line| line["type"] == "run").count(), 2);
    assert_eq!(lines.last().unwrap()["runs"].as_array().unwrap().len(), 2);
}

#[test]
fn seeds_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (extra, says) in [
        (&["--shuffle", "false"][..], "all runs would be the same"),
        (&["--data-seed", "3"], "sets `--data-seed`"),
        (&["--push-to-hub", "--hub-model-id", "a/b"], "makes several models"),
        (&["--resume-from-checkpoint", "somewhere"], "each run's newest checkpoint"),
        (&["--seeds", "31"], "31"),
    ] {
        let refused = train(&folder.path().join("out"), &[&["--seeds", "2"], extra].concat());
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
}

#[test]
fn a_profile_names_the_ops_of_the_steps_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, profiled] = ["plain", "profiled"].map(|name| folder.path().join(name));
    train(&plain, &[]);
    let trained = train(&profiled, &["--profile"]);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    for op in [
        "y = x W^T, W ",
        "dW += dy^T x, W ",
        "adamw ",
        "attention_backward ",
        "cross_entropy ",
        "outside ops ",
        "floor: ",
    ] {
        assert!(trained.stderr.contains(op), "{op}: {}", trained.stderr);
    }
    assert!(!trained.stderr.contains("attention_decode"), "the answers do not count");
    let model = |output: &Path| fs::read(output.join("model.safetensors")).unwrap();
    assert!(model(&plain) == model(&profiled));
}
