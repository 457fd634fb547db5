//! The `engine` binary as its users meet it: what it writes, what it says, how it exits.

mod bad_input;
mod batches;
mod check;
mod checkpoints;
mod commands;
mod comparison;
mod config_file;
#[path = "../damage/mod.rs"]
mod damage;
mod devices;
mod export;
#[allow(dead_code)]
#[path = "../io/exportable.rs"]
mod exportable;
mod interrupt;
mod lora;
mod parity;
mod programs;
#[cfg(feature = "hub")]
mod push;
mod qat;
mod quickstart;
mod report;
mod sizes;
mod spelling;
#[cfg(feature = "hub")]
#[allow(dead_code)]
#[path = "../io/standin.rs"]
mod standin;
#[cfg(feature = "hub")]
#[allow(dead_code)]
#[path = "../io/standin_upload.rs"]
mod standin_upload;
mod streams;
mod train;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The quickstart's folder: a small model and 40 rows.
fn quickstart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart")
}

/// The quickstart's rows that are not trained on.
fn test_rows() -> String {
    path(&quickstart().join("test.jsonl"))
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn engine() -> Command {
    Command::new(env!("CARGO_BIN_EXE_engine"))
}

/// What one run left behind.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Run {
            code: output.status.code().expect("the process was not killed"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn run(arguments: &[&str]) -> Run {
    engine().args(arguments).output().unwrap().into()
}

/// What a command says to what is piped in.
fn with_input(command: &mut Command, input: &str) -> Run {
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().unwrap();
    // It may have ended without reading all of it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// `engine train` of the quickstart's model for two steps into `output`, without scoring; `extra` flags win.
fn train_command(output: &Path, extra: &[&str]) -> Command {
    let q = quickstart();
    let mut command = engine();
    command.args(["train", "--model", &path(&q.join("model")), "--tools", &path(&q.join("tools.json"))]);
    command.args(["--dataset", &path(&q.join("train.jsonl")), "--output-dir", &path(output)]);
    command.args(["--max-steps", "2", "--per-device-train-batch-size", "2", "--score", "none"]);
    command.args(extra);
    command
}

fn train(output: &Path, extra: &[&str]) -> Run {
    train_command(output, extra).output().unwrap().into()
}

/// The records of the run that wrote `output`.
fn metrics(output: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `name` of every training step.
fn of_steps(records: &[Value], name: &str) -> Vec<f64> {
    let steps = records.iter().filter(|record| record.get("loss").is_some());
    steps.map(|step| step[name].as_f64().unwrap()).collect()
}

/// A temporary folder with one file in it.
fn folder_with(name: &str, text: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    (folder, path(&file))
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
