//! Sizes that no machine has, and machines with little memory: an error, never a panic, an abort or a signal.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Run, path, quickstart, run};

/// The quickstart's model with these fields of its config changed.
fn model_with(fields: Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(quickstart().join("model")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let file = folder.path().join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    fs::write(file, config.to_string()).unwrap();
    folder
}

/// Runs `engine` with these arguments and an address space of so many kilobytes.
fn run_within(kilobytes: u64, arguments: &[&str]) -> Run {
    within(kilobytes, arguments).into()
}

fn within(kilobytes: u64, arguments: &[&str]) -> Output {
    let script = format!("ulimit -v {kilobytes}; exec \"$0\" \"$@\"");
    Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_engine")]).args(arguments).output().unwrap()
}

/// The fewest megabytes in which the program begins: with fewer, the system's loader ends it.
fn fewest_megabytes() -> u64 {
    (16..64).find(|megabytes| within(megabytes << 10, &["--version"]).status.success()).unwrap()
}

fn generate_with(model: &Path) -> [String; 5] {
    ["generate", "--prompt", "hi", "--model", &path(model)].map(str::to_owned)
}

fn as_str(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// 2 billion parameters, of which the file holds none.
fn large_config() -> Value {
    json!({"vocab_size": 1 << 20, "hidden_size": 2048, "max_position_embeddings": u32::MAX})
}

/// 63 billion parameters.
fn huge_config() -> Value {
    json!({"vocab_size": 1 << 22, "hidden_size": 15_000, "intermediate_size": 1 << 10})
}

#[test]
fn a_config_of_more_parameters_than_the_file_holds_is_refused_by_the_header_alone() {
    for fields in [huge_config(), large_config()] {
        let model = model_with(fields);
        let arguments = generate_with(model.path());
        // No more memory than the true model takes.
        let run = run_within(1 << 20, &as_str(&arguments));
        assert_eq!(run.code, 1, "{}", run.stderr);
        assert!(run.stderr.contains("`model.embed_tokens.weight` has shape [1024, 128]"), "{}", run.stderr);
    }
}

#[test]
fn weights_for_which_there_is_no_memory_are_refused_before_they_are_read() {
    let model = model_with(large_config());
    let weights = model.path().join("model.safetensors");
    sparse_weights(&weights, &model.path().join("config.json"));
    let arguments = generate_with(model.path());
    let run = run_within(2 << 20, &as_str(&arguments));
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("out of memory: ") && run.stderr.contains("hint: "), "{}", run.stderr);
    let init =
        ["init", "--config", &path(&model.path().join("config.json")), "--output", &path(&model.path().join("new"))]
            .map(str::to_owned);
    let run = run_within(2 << 20, &as_str(&init));
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("there is no memory for the weights"), "{}", run.stderr);
}

/// A file with a header for all that the config asks for, and zeros that take no room on the disk.
fn sparse_weights(file: &Path, config: &Path) {
    use engine::model::gemma3::{config::Gemma3Config, table::parameter_specs};
    let config = serde_json::from_str(&fs::read_to_string(config).unwrap()).unwrap();
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for spec in parameter_specs(&Gemma3Config::from_value(config).unwrap()) {
        let end = at + 2 * spec.len();
        header.insert(spec.name, json!({"dtype": "BF16", "shape": spec.shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    fs::write(file, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    let size = (8 + header.len() + at) as u64;
    fs::File::options().write(true).open(file).unwrap().set_len(size).unwrap();
}

#[test]
fn more_new_tokens_than_there_are_positions_are_a_usage_error() {
    let model = path(&quickstart().join("model"));
    for tokens in ["9000000000", "18446744073709551615", "40000"] {
        let run = run(&["generate", "--prompt", "hi", "--model", &model, "--max-new-tokens", tokens]);
        assert_eq!(run.code, 2, "{}", run.stderr);
        assert!(run.stderr.contains("new tokens after a prompt of"), "{}", run.stderr);
    }
}

#[test]
fn little_memory_is_an_error_whatever_it_is_too_little_for() {
    let folder = tempfile::tempdir().unwrap();
    let (q, output) = (quickstart(), path(&folder.path().join("out")));
    let [model, dataset, tools] = ["model", "train.jsonl", "tools.json"].map(|name| path(&q.join(name)));
    let train = [
        ["train", "--model", &model, "--dataset", &dataset, "--tools", &tools][..].to_vec(),
        ["--output-dir", &output, "--max-steps", "1", "--score", "none"].to_vec(),
    ]
    .concat();
    let mut failed = 0;
    for megabytes in [fewest_megabytes(), 32, 40, 48, 64, 80, 96, 104, 112, 120] {
        let run = run_within(megabytes << 10, &train);
        assert!(matches!(run.code, 0 | 1), "{megabytes} MB: exit code {}\n{}", run.code, run.stderr);
        assert!(!run.stderr.contains("panicked"), "{megabytes} MB: {}", run.stderr);
        failed += usize::from(run.code == 1);
        if run.code == 1 {
            let said = ["memory", "Cannot allocate"].iter().any(|word| run.stderr.contains(word));
            assert!(said && run.stderr.contains("error: "), "{megabytes} MB: {}", run.stderr);
        }
        let _ = fs::remove_dir_all(&output);
    }
    assert!(failed > 0);
}
