//! `engine train`: what a run leaves behind.

use std::fs;

use crate::{folder_with, metrics, names, of_steps, path, quickstart, run, train};

#[test]
fn a_run_writes_a_whole_model_folder_metrics_and_a_plot() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let test = path(&quickstart().join("test.jsonl"));
    let run = train(&output, &["--eval-dataset", &test]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let written = names(&output);
    for name in [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "loss.png",
        "loss.svg",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        assert!(written.iter().any(|n| n == name), "{name} is missing in {written:?}");
    }
    assert_eq!(names(folder.path()), ["out"], "no temporary folder stays");

    let records = metrics(&output);
    assert_eq!(of_steps(&records, "step"), [1.0, 2.0]);
    for name in ["loss", "grad_norm", "tokens_per_second"] {
        assert!(of_steps(&records, name).iter().all(|value| *value > 0.0), "{records:?}");
    }
    let evals: Vec<_> = records.iter().filter(|record| record.get("eval_loss").is_some()).collect();
    assert_eq!(evals.len(), 1);
    assert!(evals[0]["eval_loss"].as_f64().unwrap() > 0.0);
    assert!((0.0..=1.0).contains(&evals[0]["eval_mean_token_accuracy"].as_f64().unwrap()));
    assert!(records.last().unwrap()["train_runtime"].as_f64().unwrap() > 0.0);
    assert_eq!(records.len(), 4);
}

/// The weights and the records (less the clock) of a run with these flags.
fn outcome(flags: &[&str]) -> (Vec<u8>, Vec<f64>) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let run = train(&output, flags);
    assert_eq!(run.code, 0, "{}", run.stderr);
    (fs::read(output.join("model.safetensors")).unwrap(), of_steps(&metrics(&output), "loss"))
}

#[test]
fn the_same_run_twice_is_equal_to_the_bit_and_another_seed_is_not() {
    let first = outcome(&["--seed", "7"]);
    assert!(first == outcome(&["--seed", "7"]));
    assert!(first.1 != outcome(&["--seed", "8"]).1, "the seed shuffles the rows");
    assert!(outcome(&["--shuffle", "false", "--seed", "7"]) == outcome(&["--shuffle", "false", "--seed", "8"]));
}

#[test]
fn accumulating_two_batches_of_two_is_one_batch_of_four() {
    let whole = outcome(&["--per-device-train-batch-size", "4", "--shuffle", "false"]).1;
    let parts = outcome(&["--gradient-accumulation-steps", "2", "--shuffle", "false"]).1;
    for (a, b) in whole.iter().zip(&parts) {
        assert!((a - b).abs() < 1e-5 * a, "{whole:?} {parts:?}");
    }
}

#[test]
fn gradient_checkpointing_gives_the_same_model_and_takes_less_memory() {
    let expected = outcome(&["--max-steps", "4"]);
    // As users of TRL type it, and in a config file.
    assert!(outcome(&["--max-steps", "4", "--gradient_checkpointing", "True"]) == expected);
    let (folder, file) = folder_with("train.yaml", "gradient_checkpointing: true\n");
    assert!(outcome(&["--max-steps", "4", "--config", &file]) == expected);
    let memory = |flags: &[&str]| {
        let said = train(&folder.path().join("out"), &[&["--dry-run"], flags].concat()).stderr;
        let activations = said.split_once("memory for the steps: ").unwrap().1.split_once("activations ").unwrap().1;
        activations.split_once(" GB").unwrap().0.parse::<f64>().unwrap()
    };
    assert!(memory(&["--config", &file]) < 0.6 * memory(&[]));
}

#[test]
fn a_flag_wins_over_the_config_file_and_the_file_over_the_default() {
    let (folder, file) = folder_with("train.toml", "max_steps = 3\nlearning_rate = 1e-4\nshuffle = false\n");
    let output = folder.path().join("out");
    // `train` passes --max-steps 2.
    let run = train(&output, &["--config", &file, "--lr-scheduler-type", "constant"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(of_steps(&metrics(&output), "learning_rate"), [1e-4, 1e-4]);
}

#[test]
fn a_second_run_that_may_overwrite_replaces_the_first_ones_model() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    assert_eq!(train(&output, &["--seed", "1"]).code, 0);
    let first = fs::read(output.join("model.safetensors")).unwrap();
    assert_eq!(train(&output, &["--seed", "2", "--overwrite-output-dir"]).code, 0);
    assert!(first != fs::read(output.join("model.safetensors")).unwrap());
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_the_old_model_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    assert_eq!(train(&output, &[]).code, 0);
    let first = fs::read(output.join("model.safetensors")).unwrap();

    // A limit on the size of files stands for the full disk: 1000 blocks are less than the model.
    let full = crate::train_command(&output, &["--seed", "1", "--overwrite-output-dir", "--save-strategy", "no"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -f 1000; exec \"$0\" \"$@\""]).arg(full.get_program()).args(full.get_args());
    let stopped: crate::Run = limited.output().unwrap().into();
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    for part in ["cannot save the model", "model.safetensors", "hint: "] {
        assert!(stopped.stderr.contains(part), "`{part}` is missing in:\n{}", stopped.stderr);
    }
    assert!(first == fs::read(output.join("model.safetensors")).unwrap());
    assert_eq!(names(folder.path()), ["out"], "no temporary folder stays");
}

#[test]
fn what_was_trained_can_be_trained_and_scored_again() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    assert_eq!(train(&first, &["--save-dtype", "f32"]).code, 0);
    assert_eq!(train(&second, &["--model", &path(&first)]).code, 0);
    let q = quickstart();
    let report = folder.path().join("report.json");
    let run = run(&[
        "eval",
        "--model",
        &path(&second),
        "--dataset",
        &path(&q.join("test.jsonl")),
        "--tools",
        &path(&q.join("tools.json")),
        "--max-new-tokens",
        "4",
        "--loss",
        "--report",
        &path(&report),
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!(report["total"], 20);
    assert!(report["eval_loss"].as_f64().unwrap() > 0.0);
    let example = &report["examples"][0];
    for key in ["prompt", "expected", "output", "token_ids", "verdict"] {
        assert!(!example[key].is_null(), "{key} is missing in {example}");
    }
    assert!(example["token_ids"].as_array().unwrap().len() <= 4);
}

#[test]
fn the_score_before_and_after_is_the_last_thing_on_the_screen() {
    let folder = tempfile::tempdir().unwrap();
    let test = path(&quickstart().join("test.jsonl"));
    let flags = ["--eval-dataset", &test, "--score", "before,after", "--max-new-tokens", "4"];
    let run = train(&folder.path().join("out"), &flags);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let (prompts, table) = run.stdout.split_once("\nscore ").unwrap();
    assert!(table.contains("before") && table.contains("after") && table.contains("of 20"), "{}", run.stdout);
    assert!(table.ends_with("(McNemar, exact)\n"), "{}", run.stdout);
    assert!(prompts.contains("tool  strict"), "the table of prompts stands above it");
}

#[test]
fn a_part_of_the_rows_can_be_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let run = train(&output, &["--test-size", "0.25"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("15 training rows, 5 evaluation rows"), "{}", run.stderr);
}

#[test]
fn a_flag_that_is_a_list_replaces_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let test = path(&quickstart().join("test.jsonl"));
    let flags = ["--eval-dataset", &test, "--score", "before,after", "--score", "none"];
    let run = train(&folder.path().join("out"), &flags);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);
}

#[test]
fn a_run_is_recorded_with_its_settings_its_data_and_every_answer() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let test = path(&quickstart().join("test.jsonl"));
    let flags = ["--eval-dataset", &test, "--score", "before,after", "--max-new-tokens", "4", "--weight-decay", "0.25"];
    let run = train(&output, &flags);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(output.join(name)).unwrap()).unwrap()
    };
    let about = json("run.json");
    assert_eq!(about["settings"]["weight_decay"], 0.25);
    assert_eq!(about["settings"]["dataset"], path(&quickstart().join("train.jsonl")));
    assert_eq!(about["identity"]["settings"]["max-steps"], "2");
    assert_eq!(
        (&about["training_rows"], &about["evaluation_rows"], &about["steps"]),
        (&20.into(), &20.into(), &2.into())
    );
    assert_eq!((&about["score_before"]["total"], &about["score_after"]["total"]), (&20.into(), &20.into()));
    assert!(about["started"].as_str().unwrap() <= about["ended"].as_str().unwrap());
    for name in ["score_before.json", "score_after.json"] {
        assert_eq!(json(name)["examples"].as_array().unwrap().len(), 20, "{name}");
    }
    let records = metrics(&output);
    let kinds: Vec<&str> = records.iter().map(|record| record["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["score", "train", "train", "eval", "summary", "score"]);
    assert!(fs::metadata(output.join("events.out.tfevents.engine")).unwrap().len() > 500);

    let quiet = folder.path().join("quiet");
    assert_eq!(train(&quiet, &["--report-to", "none"]).code, 0);
    let written = names(&quiet);
    assert!(!written.iter().any(|name| name.contains("metrics") || name.contains("events")), "{written:?}");
}
