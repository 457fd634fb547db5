//! Runs that are killed at random moments, in steps, in evaluations and inside saves, end equal to the bit to one that was not.
//!
//! `scripts/kill-test N` does it N times; without it a few kills are tried.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Kills, unless `ENGINE_KILLS` says how many.
const KILLS: usize = 20;
/// The same of a run of LoRA, which differs in what it saves alone.
const KILLS_OF_LORA: usize = 5;

/// A model so small that a run spends much of its time in saves and evaluations.
const CONFIG: &str = r#"{
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": 4096,
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 512, "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
    "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0
}"#;

fn quickstart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart").join(name)
}

fn engine() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A folder with the tiny model in it.
fn with_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shape: Value = serde_json::from_str(&fs::read_to_string(quickstart("model/config.json")).unwrap()).unwrap();
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    for name in ["vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"] {
        config[name] = shape[name].clone();
    }
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let made = engine()
        .args(["init", "--config"])
        .arg(folder.path().join("config.json"))
        .arg("--tokenizer")
        .arg(quickstart("model"))
        .arg("--output")
        .arg(folder.path().join("model"))
        .status();
    assert!(made.unwrap().success());
    folder
}

/// The run that is killed: 15 steps, an evaluation and a checkpoint after every fifth, and a checkpoint in between.
fn training(folder: &Path, output: &Path, flags: &[&str]) -> Command {
    let mut command = engine();
    command.arg("train").arg("--model").arg(folder.join("model")).arg("--output-dir").arg(output);
    command.arg("--dataset").arg(quickstart("train.jsonl")).arg("--eval-dataset").arg(quickstart("test.jsonl"));
    command.arg("--tools").arg(quickstart("tools.json"));
    command.args(["--per-device-train-batch-size", "4", "--num-train-epochs", "3", "--learning-rate", "1e-2"]);
    command.args(["--save-strategy", "steps", "--save-steps", "2", "--score", "none", "--resume-from-checkpoint"]);
    command.args(flags);
    command
}

/// What must be equal: the weights, and the metrics without the clock's and the memory's part.
fn result(output: &Path) -> (Vec<u8>, Vec<Value>) {
    let text = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for record in &mut records {
        let record = record.as_object_mut().unwrap();
        for name in ["step_seconds", "tokens_per_second", "eval_seconds", "train_runtime", "peak_memory_bytes"] {
            record.remove(name);
        }
    }
    let weights =
        fs::read(output.join("model.safetensors")).or_else(|_| fs::read(output.join("adapter_model.safetensors")));
    (weights.unwrap(), records)
}

/// Starts the run and kills it after `delay`, unless it ends before.
fn killed_after(delay: Duration, mut command: Command) -> Option<ExitStatus> {
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    while started.elapsed() < delay {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

#[test]
fn a_run_killed_at_any_moment_and_started_again_ends_equal_to_the_bit() {
    kill(&[], KILLS);
}

#[test]
fn a_run_of_lora_killed_at_any_moment_and_started_again_ends_equal_to_the_bit() {
    kill(&["--lora-r", "4", "--lora-target-modules", "all-linear"], KILLS_OF_LORA);
}

/// Kills runs with these flags.
fn kill(flags: &[&str], kills: usize) {
    let kills = env::var("ENGINE_KILLS").ok().map_or(kills, |kills| kills.parse().expect("ENGINE_KILLS is a number"));
    let seed = env::var("ENGINE_KILL_SEED").ok().map_or(1, |seed| seed.parse().expect("ENGINE_KILL_SEED is a number"));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let folder = with_model();
    let whole = folder.path().join("whole");
    let started = Instant::now();
    assert!(training(folder.path(), &whole, flags).status().unwrap().success());
    let duration = started.elapsed();
    let expected = result(&whole);
    assert!(expected.1.len() > 15 && !expected.0.is_empty());

    let (mut killed, mut runs) = (0, 0);
    while killed < kills {
        let output = folder.path().join(format!("run-{runs}"));
        runs += 1;
        // Killed again and again: recovery is killed too.
        let status = loop {
            let delay = if killed < kills { duration.mul_f64(rng.random_range(0.0..1.1)) } else { Duration::MAX };
            match killed_after(delay, training(folder.path(), &output, flags)) {
                Some(status) => break status,
                None => killed += 1,
            }
            for checkpoint in checkpoints(&output) {
                assert!(is_whole(&checkpoint), "seed {seed}, run {runs}: `{}` is not whole", checkpoint.display());
            }
        };
        assert!(status.success(), "seed {seed}, run {runs}: the last start of the run failed");
        assert!(result(&output) == expected, "seed {seed}, run {runs}: its result differs");
        let left: Vec<String> = names(folder.path()).into_iter().filter(|name| name.starts_with('.')).collect();
        assert!(left.is_empty(), "seed {seed}, run {runs}: {left:?} are left");
        fs::remove_dir_all(&output).unwrap();
    }
    println!("{killed} kills in {runs} runs: no difference, no checkpoint that was not whole");
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn checkpoints(output: &Path) -> Vec<PathBuf> {
    let names = names(output).into_iter().filter(|name| name.starts_with("checkpoint-"));
    names.map(|name| output.join(name)).collect()
}

fn is_whole(checkpoint: &Path) -> bool {
    engine::session::SavedRun::open(checkpoint).is_ok()
}
