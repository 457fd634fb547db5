//! Bad input: the exit code, a message with the place and a hint, and nothing written.

use std::fs;

use crate::{engine, folder_with, names, path, quickstart, run, train};

/// Trains on a dataset with this text; asserts that it fails with exit code 1, writes nothing, and says all of `expected`.
fn refuses_dataset(text: &str, expected: &[&str]) {
    let (folder, file) = folder_with("rows.jsonl", text);
    let output = folder.path().join("out");
    let run = train(&output, &["--dataset", &file]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    for part in expected {
        assert!(run.stderr.contains(part), "`{part}` is missing in:\n{}", run.stderr);
    }
    assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    assert!(!output.exists(), "nothing may be written");
}

const GOOD: &str = r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}"#;

#[test]
fn a_line_that_is_not_json_is_named_by_file_and_line() {
    refuses_dataset(&format!("{GOOD}\n{{oops\n"), &["rows.jsonl:2", "JSON"]);
}

#[test]
fn a_row_without_its_field_is_named() {
    refuses_dataset(&format!("{GOOD}\n{{\"chat\": []}}\n"), &["rows.jsonl:2", "hint: "]);
    refuses_dataset(r#"{"user_content": "hi", "tool_name": "search_atlas"}"#, &["rows.jsonl:1", "tool_arguments"]);
}

#[test]
fn an_unknown_role_is_named() {
    refuses_dataset(r#"{"messages": [{"role": "robot", "content": "hi"}]}"#, &["rows.jsonl:1", "robot", "hint: "]);
}

#[test]
fn arguments_that_are_no_json_object_are_named() {
    let call = r#"{"function": {"name": "f", "arguments": "not json"}}"#;
    let row = format!(
        r#"{{"messages": [{{"role": "user", "content": "hi"}}, {{"role": "assistant", "tool_calls": [{call}]}}]}}"#
    );
    refuses_dataset(&row, &["rows.jsonl:1", "arguments"]);
}

#[test]
fn an_empty_dataset_is_refused() {
    refuses_dataset("", &["rows.jsonl"]);
    refuses_dataset("\n\n", &["rows.jsonl"]);
}

#[test]
fn a_dataset_that_does_not_exist_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = train(&folder.path().join("out"), &["--dataset", "no/such/rows.jsonl"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("no/such/rows.jsonl"), "{}", run.stderr);
}

#[test]
fn a_row_longer_than_max_length_is_refused_unless_the_flags_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let refused = train(&output, &["--max-length", "40"]);
    assert_eq!(refused.code, 1);
    for part in ["train.jsonl:1", "40", "--max-length", "--overlong"] {
        assert!(refused.stderr.contains(part), "`{part}` is missing in:\n{}", refused.stderr);
    }
    assert!(!output.exists());

    let truncated = train(&output, &["--max-length", "40", "--overlong", "truncate"]);
    assert_eq!(truncated.code, 0, "{}", truncated.stderr);
    assert!(truncated.stderr.contains("training: ") && truncated.stderr.contains("20"), "{}", truncated.stderr);

    let dropped = train(&output, &["--max-length", "40", "--overlong", "drop"]);
    assert_eq!(dropped.code, 1, "every row is dropped, so there is nothing to train on");
}

#[test]
fn a_tools_file_with_a_property_that_the_template_drops_gets_a_warning() {
    let tools = r#"[{"name": "f", "description": "d", "parameters": {"type": "object", "properties":
        {"type": {"type": "string", "description": "kind"}}}}]"#;
    let (folder, file) = folder_with("tools.json", tools);
    let run = train(&folder.path().join("out"), &["--tools", &file, "--dataset", &rows_for_f(folder.path())]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("warning: ") && run.stderr.contains("`type`"), "{}", run.stderr);
}

/// Rows of the tutorial's form that call `f`.
fn rows_for_f(folder: &std::path::Path) -> String {
    let file = folder.join("f.jsonl");
    let row = r#"{"user_content": "hi", "tool_name": "f", "tool_arguments": "{\"type\": \"x\"}"}"#;
    fs::write(&file, format!("{row}\n{row}\n")).unwrap();
    path(&file)
}

/// A copy of the quickstart's model in which `change` has changed something.
fn broken_model(change: impl FnOnce(&std::path::Path)) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for name in names(&quickstart().join("model")) {
        fs::copy(quickstart().join("model").join(&name), model.join(&name)).unwrap();
    }
    change(&model);
    let model = path(&model);
    (folder, model)
}

fn refuses_model(change: impl FnOnce(&std::path::Path), expected: &[&str]) {
    let (folder, model) = broken_model(change);
    let output = folder.path().join("out");
    let run = train(&output, &["--model", &model]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    for part in expected {
        assert!(run.stderr.contains(part), "`{part}` is missing in:\n{}", run.stderr);
    }
    assert!(!output.join("model.safetensors").exists());
}

#[test]
fn truncated_weights_are_refused() {
    let cut = |model: &std::path::Path| {
        let file = model.join("model.safetensors");
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    };
    refuses_model(cut, &["model.safetensors"]);
}

#[test]
fn weights_of_another_shape_are_refused_with_the_tensor_named() {
    let grow = |model: &std::path::Path| {
        let file = model.join("config.json");
        let text = fs::read_to_string(&file).unwrap();
        let changed = text.replace("\"intermediate_size\": 256", "\"intermediate_size\": 257");
        assert_ne!(changed, text);
        fs::write(&file, changed).unwrap();
    };
    refuses_model(grow, &["mlp.", "257"]);
}

#[test]
fn another_architecture_is_refused() {
    let rename = |model: &std::path::Path| {
        let file = model.join("config.json");
        fs::write(&file, fs::read_to_string(&file).unwrap().replace("gemma3_text", "llama")).unwrap();
    };
    refuses_model(rename, &["llama"]);
}

#[test]
fn a_template_that_raises_names_the_row_and_what_it_said() {
    let raise = |model: &std::path::Path| {
        fs::write(model.join("chat_template.jinja"), "{{ raise_exception('roles must alternate') }}").unwrap();
    };
    refuses_model(raise, &["train.jsonl:1", "roles must alternate"]);
}

#[test]
fn a_gguf_with_a_wrong_magic_is_refused() {
    let (folder, file) = folder_with("model.gguf", "GGML and then nothing of any use at all");
    let output = folder.path().join("out");
    let tokenizer = path(&quickstart().join("model"));
    let run = run(&["import", "--gguf", &file, "--tokenizer", &tokenizer, "--output", &path(&output)]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("model.gguf") && run.stderr.contains("does not start with `GGUF`"), "{}", run.stderr);
    assert!(!output.exists());
}

#[test]
fn usage_errors_exit_with_2_and_name_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    for (flags, named) in [
        (&["--learning-rat", "1"][..], "--learning-rat"),
        (&["--learning-rate", "-1"], "--learning-rate"),
        (&["--learning-rate", "NaN"], "--learning-rate"),
        (&["--weight-decay", "inf"], "--weight-decay"),
        (&["--num-train-epochs", "0"], "--num-train-epochs"),
        (&["--per-device-train-batch-size", "0"], "--per-device-train-batch-size"),
        (&["--lr-scheduler-type", "sine"], "--lr-scheduler-type"),
        (&["--completion-only-loss", "--assistant-only-loss"], "--assistant-only-loss"),
        (&["--eval-dataset", "a", "--test-size", "0.5"], "--test-size"),
        (&["--warmup-steps", "1.5"], "--warmup-steps"),
    ] {
        let run = train(&output, flags);
        assert_eq!(run.code, 2, "{flags:?}: {}", run.stderr);
        assert!(run.stderr.contains(named), "{flags:?}: {}", run.stderr);
        assert!(!output.exists());
    }
    assert_eq!(engine().output().unwrap().status.code(), Some(2), "no command");
}

#[test]
fn a_config_file_with_an_unknown_key_is_a_usage_error() {
    let (folder, file) = folder_with("train.toml", "learning_rat = 1e-3\n");
    let run = train(&folder.path().join("out"), &["--config", &file]);
    assert_eq!(run.code, 2);
    for part in ["train.toml", "`learning_rat`", "hint: "] {
        assert!(run.stderr.contains(part), "`{part}` is missing in:\n{}", run.stderr);
    }
    let (folder, file) = folder_with("train.toml", "learning_rate = \n");
    assert_eq!(train(&folder.path().join("out"), &["--config", &file]).code, 2);
}

#[test]
fn an_output_folder_that_is_not_ours_is_left_alone() {
    let (folder, file) = folder_with("thesis.txt", "years of work");
    let run = train(folder.path(), &[]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("hint: "), "{}", run.stderr);
    assert_eq!(names(folder.path()), ["thesis.txt"]);
    assert_eq!(fs::read_to_string(file).unwrap(), "years of work");
}

#[test]
fn devices_that_this_build_lacks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    if engine::cuda::missing().is_some() {
        let run = train(&folder.path().join("out"), &["--device", "cuda"]);
        assert_eq!(run.code, 1);
        assert!(run.stderr.contains("hint: "), "{}", run.stderr);
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_weights() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let flags = ["--learning-rate", "1e30", "--max-steps", "5", "--shuffle", "false"];
    let stopped = train(&output, &flags);
    assert_eq!(stopped.code, 1);
    for part in ["step 2", "train.jsonl:3", "train.jsonl:4", "hint: "] {
        assert!(stopped.stderr.contains(part), "`{part}` is missing in:\n{}", stopped.stderr);
    }
    let info = run(&["info", "--model", &path(&output.join("diverged-1"))]);
    assert_eq!(info.code, 0, "the saved folder is whole: {}", info.stderr);
    assert!(!output.join("model.safetensors").exists(), "it is not the model of a finished run");
}
