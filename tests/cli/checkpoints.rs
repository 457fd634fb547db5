//! Checkpoints and what becomes of an output folder: resume, overwrite, limits, what must match.

use std::fs;
use std::path::Path;

use engine::host::products::choice::Kernel;
use serde_json::Value;

use crate::{folder_with, metrics, names, of_steps, path, quickstart, run, test_rows, train, train_command};

/// Twenty rows in batches of five: four updates an epoch.
const FOUR_STEPS: [&str; 4] = ["--per-device-train-batch-size", "5", "--max-steps", "8"];

fn checkpoints(output: &Path) -> Vec<String> {
    names(output).into_iter().filter(|name| name.starts_with("checkpoint-")).collect()
}

/// A run of eight steps in `output`, whole.
fn trained(output: &Path, extra: &[&str]) -> crate::Run {
    let run = train(output, &[&FOUR_STEPS, extra].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    run
}

fn model(output: &Path) -> Vec<u8> {
    fs::read(output.join("model.safetensors")).unwrap()
}

/// The records without the clock's and the memory's part.
fn timeless(output: &Path) -> Vec<Value> {
    let mut records = metrics(output);
    for record in &mut records {
        let record = record.as_object_mut().unwrap();
        for name in ["step_seconds", "tokens_per_second", "eval_seconds", "train_runtime", "peak_memory_bytes"] {
            record.remove(name);
        }
    }
    records
}

#[test]
fn a_checkpoint_is_saved_after_each_epoch_and_is_a_model_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    trained(&output, &[]);
    assert_eq!(checkpoints(&output), ["checkpoint-4", "checkpoint-8"]);
    let shown = run(&["info", "--model", &path(&output.join("checkpoint-4"))]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    let rows = test_rows();
    let scored = ["eval", "--dataset", &rows, "--max-new-tokens", "2", "--model", &path(&output.join("checkpoint-8"))];
    let tools = path(&quickstart().join("tools.json"));
    let scored = run(&[&scored[..], &["--tools", &tools]].concat());
    assert_eq!(scored.code, 0, "{}", scored.stderr);
    assert!(model(&output) == model(&output.join("checkpoint-8")), "the last checkpoint is the final model");
}

#[test]
fn the_strategy_and_the_limit_say_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let kept = |flags: &[&str]| {
        let output = folder.path().join(flags.join(""));
        trained(&output, flags);
        checkpoints(&output)
    };
    assert_eq!(kept(&["--save-strategy", "no"]), [""; 0]);
    let steps = ["--save-strategy", "steps", "--save-steps", "3"];
    assert_eq!(kept(&steps), ["checkpoint-6", "checkpoint-8"]);
    assert_eq!(kept(&[&steps[..], &["--save-total-limit", "1"]].concat()), ["checkpoint-8"]);
    assert_eq!(
        kept(&[&steps[..], &["--save-total-limit", "0"]].concat()),
        ["checkpoint-3", "checkpoint-6", "checkpoint-8"]
    );
}

#[test]
fn a_run_that_goes_on_from_a_checkpoint_ends_equal_to_the_bit() {
    for flags in [&["--save-dtype", "bf16"][..], &["--save-dtype", "f32"], &["--dtype", "bf16", "--logging-steps", "3"]]
    {
        let folder = tempfile::tempdir().unwrap();
        let (whole, output) = (folder.path().join("whole"), folder.path().join("out"));
        let rows = test_rows();
        let flags = [flags, &["--eval-dataset", &rows, "--save-strategy", "steps", "--save-steps", "3"]].concat();
        trained(&whole, &flags);
        trained(&output, &flags);
        // As if it had been killed after step 7.
        fs::remove_dir_all(output.join("checkpoint-8")).unwrap();
        let second = trained(&output, &[&flags[..], &["--resume-from-checkpoint"]].concat());
        assert!(second.stderr.contains("going on after step 6"), "{}", second.stderr);
        assert!(model(&whole) == model(&output), "{flags:?}");
        assert_eq!(timeless(&whole), timeless(&output), "{flags:?}");
    }
}

#[test]
fn a_run_goes_on_with_the_instructions_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, output) = (folder.path().join("whole"), folder.path().join("out"));
    // Of a machine whose best is this.
    let by = |output: &Path, kernel: Option<&str>, more: &[&str]| {
        let steps = ["--save-strategy", "steps", "--save-steps", "3"];
        let mut command = train_command(output, &[&FOUR_STEPS[..], &steps, more].concat());
        command.env_remove("ENGINE_CPU_PRODUCTS").envs(kernel.map(|kernel| ("ENGINE_CPU_PRODUCTS", kernel)));
        let run: crate::Run = command.output().unwrap().into();
        assert_eq!(run.code, 0, "{}", run.stderr);
        run
    };
    by(&whole, Some("portable"), &[]);
    by(&output, Some("portable"), &[]);
    let stop = || fs::remove_dir_all(output.join("checkpoint-8")).unwrap();
    let other = "with other instructions of a CPU";
    stop();
    let second = by(&output, None, &["--resume-from-checkpoint"]);
    assert!(!second.stderr.contains(other), "{}", second.stderr);
    let has_better =
        Kernel::ALL.iter().take_while(|kernel| **kernel != Kernel::Portable).any(|kernel| kernel.is_available());
    let notice = "goes on with the instructions that it began with (`portable`)";
    let is_told = second.stderr.contains(notice) && second.stderr.contains(", which ENGINE_CPU_PRODUCTS=");
    assert_eq!(is_told, has_better, "{}", second.stderr);
    assert!(model(&whole) == model(&output));
    stop();
    let same = by(&output, Some("portable"), &["--resume-from-checkpoint"]);
    assert!(!same.stderr.contains(notice), "{}", same.stderr);
    stop();
    let third = by(&output, Some("portable-pairs"), &["--resume-from-checkpoint"]);
    assert!(third.stderr.contains(other), "{}", third.stderr);
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, output) = (folder.path().join("whole"), folder.path().join("out"));
    trained(&whole, &[]);
    trained(&output, &[]);
    let damaged = output.join("checkpoint-8/run_state.safetensors");
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let second = trained(&output, &["--resume-from-checkpoint", "latest"]);
    assert!(second.stderr.contains("warning: cannot go on from the checkpoint"), "{}", second.stderr);
    assert!(second.stderr.contains("checkpoint-8/run_state.safetensors"), "{}", second.stderr);
    assert!(second.stderr.contains("going on after step 4"), "{}", second.stderr);
    assert!(model(&whole) == model(&output));
    let third = train(&output, &["--resume-from-checkpoint", &path(&folder.path().join("nowhere"))]);
    assert_eq!(third.code, 1);
    assert!(third.stderr.contains("nowhere"), "{}", third.stderr);
}

#[test]
fn without_a_checkpoint_a_run_starts_from_the_beginning_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let first = trained(&folder.path().join("out"), &["--resume-from-checkpoint", "latest"]);
    assert!(first.stderr.contains("no whole checkpoint in") && first.stderr.contains("from the beginning"));
}

#[test]
fn what_must_match_is_checked_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    trained(&output, &[]);
    let refused = |flags: &[&str], expected: &[&str]| {
        let run = train(&output, &[&FOUR_STEPS[..], &["--resume-from-checkpoint"], flags].concat());
        assert_eq!(run.code, 2, "{}", run.stderr);
        for part in expected {
            assert!(run.stderr.contains(part), "`{part}` is missing in:\n{}", run.stderr);
        }
    };
    refused(&["--learning-rate", "1e-3"], &["`--learning-rate` was 0.00002, now it is 0.001", "checkpoint-8"]);
    refused(
        &["--seed", "7", "--max-steps", "9"],
        &["`--seed` was 42, now it is 7", "`--max-steps` was 8, now it is 9"],
    );
    refused(&["--dataset", &test_rows()], &["the training rows differ"]);
    let other = folder.path().join("other");
    trained(&other, &[]);
    refused(&["--model", &path(&other)], &["the model differ"]);
    // What changes nothing may change.
    trained(&output, &["--resume-from-checkpoint", "--save-total-limit", "1", "--logging-steps", "2"]);
}

#[test]
fn a_model_is_replaced_only_when_that_was_asked_for_and_by_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    trained(&output, &[]);
    let (before, before_metrics) = (model(&output), metrics(&output));
    let refused = train(&output, &["--seed", "2"]);
    assert_eq!(refused.code, 1);
    for part in ["holds a model already", "--overwrite-output-dir", "--resume-from-checkpoint"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let diverged = train(&output, &["--overwrite-output-dir", "--learning-rate", "1e30", "--max-steps", "5"]);
    assert_eq!(diverged.code, 1, "{}", diverged.stderr);
    assert!(diverged.stderr.contains("diverged-"), "{}", diverged.stderr);
    assert!(before == model(&output) && before_metrics == metrics(&output), "the old run is as it was");
    let kept = names(&output).into_iter().find(|name| name.starts_with("diverged-")).unwrap();
    assert_eq!(run(&["info", "--model", &path(&output.join(kept))]).code, 0);

    let second = train(&output, &["--overwrite-output-dir", "--seed", "2"]);
    assert_eq!(second.code, 0, "{}", second.stderr);
    assert!(before != model(&output));
    assert_eq!(of_steps(&metrics(&output), "step"), [1.0, 2.0]);
    assert_eq!(checkpoints(&output), ["checkpoint-2"]);
}

#[test]
fn the_best_model_can_be_kept_and_taken_at_the_end_and_a_run_that_gets_no_better_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let rows = test_rows();
    // The rate rises until it is far too large: the third evaluation is the best one.
    let flags = ["--eval-dataset", &rows, "--learning-rate", "0.05", "--warmup-steps", "24", "--max-grad-norm", "0"];
    let flags = [&flags[..], &["--per-device-train-batch-size", "5", "--save-total-limit", "1"]].concat();
    let flags =
        [&flags[..], &["--load-best-model-at-end", "--early-stopping-patience", "2", "--max-steps", "24"]].concat();
    let run = train(&output, &flags);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let records = metrics(&output);
    let evals: Vec<(u64, f64)> = records
        .iter()
        .filter_map(|record| Some((record["step"].as_u64()?, record.get("eval_loss")?.as_f64()?)))
        .collect();
    let best = evals.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let last = evals.last().unwrap().0;
    assert!(last < 24, "it was stopped early: {evals:?}");
    assert_eq!((last - best.0) / 4, 2, "after two evaluations that were no better: {evals:?}");
    assert!(run.stderr.contains(&format!("the best model is that of step {}", best.0)), "{}", run.stderr);
    assert!(run.stderr.contains("stopped early"), "{}", run.stderr);
    assert_eq!(checkpoints(&output).len(), 2, "the best and the last");
    assert!(model(&output) == model(&output.join(format!("checkpoint-{}", best.0))));
}

#[test]
fn a_score_can_tell_the_best_model() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let rows = test_rows();
    let flags = ["--eval-dataset", &rows, "--save-strategy", "best", "--metric-for-best-model", "score"];
    trained(&output, &[&flags[..], &["--max-new-tokens", "3"]].concat());
    let scores: Vec<f64> = metrics(&output).iter().filter_map(|record| record.get("eval_score")?.as_f64()).collect();
    assert_eq!(scores.len(), 2);
    assert_eq!(checkpoints(&output).len(), if scores[1] > scores[0] { 2 } else { 1 });
    let no_rows = train(&folder.path().join("none"), &["--save-strategy", "best"]);
    assert_eq!(no_rows.code, 2);
    assert!(no_rows.stderr.contains("no evaluations to tell the best model by"), "{}", no_rows.stderr);
}

/// One row to evaluate on.
fn one_row() -> (tempfile::TempDir, String) {
    let rows = fs::read_to_string(test_rows()).unwrap();
    folder_with("row.jsonl", rows.lines().next().unwrap())
}

#[test]
fn a_best_model_at_the_end_follows_from_how_answers_are_generated_if_they_tell_it() {
    let (folder, row) = one_row();
    for (metric, refused) in [("score", true), ("eval_loss", false)] {
        let output = folder.path().join(metric);
        let flags = ["--eval-dataset", &row, "--load-best-model-at-end", "--metric-for-best-model", metric];
        let flags = [&flags[..], &["--max-steps", "1", "--do-sample", "--data-seed", "42"]].concat();
        let first = train(&output, &[&flags[..], &["--max-new-tokens", "2"]].concat());
        assert_eq!(first.code, 0, "{}", first.stderr);
        let cases: [(&[&str], &str); 3] = [
            (&["--max-new-tokens", "3"], "`--max-new-tokens` was 2, now it is 3"),
            (&["--max-new-tokens", "2", "--do-sample", "false"], "`--do-sample` was true, now it is false"),
            (&["--max-new-tokens", "2", "--seed", "7"], "`--seed (of answers)` was 42, now it is 7"),
        ];
        for (other, difference) in cases {
            let again = [&flags[..], other, &["--resume-from-checkpoint", "--dry-run"]].concat();
            let again = train(&output, &again);
            assert_eq!(again.code, if refused { 2 } else { 0 }, "{metric}, {other:?}: {}", again.stderr);
            assert_eq!(again.stderr.contains(difference), refused, "{metric}, {other:?}: {}", again.stderr);
        }
    }
}

#[test]
fn answers_that_have_no_room_are_refused_before_the_first_step_not_at_the_first_evaluation() {
    let (folder, row) = one_row();
    let flags = ["--eval-dataset", &row, "--save-strategy", "best", "--metric-for-best-model", "score"];
    let refused = train(&folder.path().join("out"), &[&flags[..], &["--max-new-tokens", "40000"]].concat());
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    for part in ["40000 new tokens after a prompt of", "positions there are", "lower `--max-new-tokens`"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    assert!(!refused.stderr.contains("step 1/"), "{}", refused.stderr);
}

#[test]
fn two_runs_do_not_write_to_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let mut first = crate::train_command(&output, &["--max-steps", "100000"]).spawn().unwrap();
    while !output.join("metrics.jsonl").exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first run ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let second = train(&output, &[]);
    // Killed: its lock goes with it.
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(second.code, 1, "{}", second.stderr);
    assert!(second.stderr.contains("another run is writing to"), "{}", second.stderr);
    assert_eq!(train(&output, &[]).code, 0);
}

#[test]
fn a_config_file_can_ask_for_all_of_it() {
    let text = "overwrite_output_dir = true\nsave_strategy = \"steps\"\nsave_steps = 1\nsave_total_limit = 1\n";
    let (folder, file) = folder_with("train.toml", text);
    let output = folder.path().join("out");
    trained(&output, &[]);
    trained(&output, &["--config", &file]);
    assert_eq!(checkpoints(&output), ["checkpoint-8"]);
}

#[test]
fn what_a_killed_run_left_is_not_saved_beside_another_runs_model() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    for over_a_model in [false, true] {
        let mut first =
            crate::train_command(&output, &["--max-steps", "100000", "--overwrite-output-dir"]).spawn().unwrap();
        let live = output.join(if over_a_model { "unfinished-metrics.jsonl" } else { "metrics.jsonl" });
        while !live.exists() {
            assert!(first.try_wait().unwrap().is_none(), "the first run ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        first.kill().unwrap();
        first.wait().unwrap();
        fs::write(
            live.with_file_name(
                live.file_name().unwrap().to_str().unwrap().replace("metrics.jsonl", "score_before.json"),
            ),
            "{}",
        )
        .unwrap();
        let second = train(&output, &["--report-to", "none", "--overwrite-output-dir"]);
        assert_eq!(second.code, 0, "{}", second.stderr);
        let left = names(&output);
        for name in ["metrics.jsonl", "events.out.tfevents.engine", "score_before.json"] {
            assert!(!left.iter().any(|file| file.ends_with(name)), "{name} is of the killed run: {left:?}");
        }
    }
}

#[test]
fn a_best_checkpoint_that_is_gone_does_not_cost_the_trained_model() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let rows = test_rows();
    let flags = ["--eval-dataset", &rows, "--learning-rate", "0.05", "--warmup-steps", "24", "--max-grad-norm", "0"];
    let flags =
        [&flags[..], &["--per-device-train-batch-size", "5", "--load-best-model-at-end", "--max-steps", "16"]].concat();
    assert_eq!(train(&output, &flags).code, 0);
    assert!(model(&output) == model(&output.join("checkpoint-12")), "the third evaluation is the best one");
    fs::remove_dir_all(output.join("checkpoint-12")).unwrap();
    fs::remove_file(output.join("model.safetensors")).unwrap();
    let again = train(&output, &[&flags[..], &["--resume-from-checkpoint"]].concat());
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(
        again.stderr.contains("warning: ") && again.stderr.contains("the best step 12 is gone"),
        "{}",
        again.stderr
    );
    assert!(model(&output) == model(&output.join("checkpoint-16")));
}
