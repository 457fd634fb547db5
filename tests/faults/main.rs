//! Every call of a save that changes the disk, made to fail and to be the last one before a kill, one after the other: the old
//! model or the new one is there each time, and what is said about it is true.
//!
//! `scripts/fault-test` does it for whole training runs too; without it every few calls of a run are tried.
#![cfg(target_os = "linux")]

mod stopped;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

use engine::io::folder::{Existing, OutputFolder};
use engine::io::manifest::Manifest;

/// Of a training run, every so many calls are tried unless `ENGINE_FAULTS=all`.
const STRIDE: usize = 17;

/// The preloaded library, compiled by the C compiler that links Rust programs.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        assert!(compiled.expect("`cc` is there").success());
        library
    })
}

fn quickstart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart").join(name)
}

fn engine() -> Command {
    Command::new(env!("CARGO_BIN_EXE_engine"))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Fail,
    Kill,
}

/// Where a fault happens: the number of the call, from 1.
#[derive(Clone, Copy, Debug)]
struct At {
    call: usize,
    fault: Fault,
    /// Whether folders can be exchanged in one step.
    exchange: bool,
}

/// Runs `command` with the fault on what is below `below`. None: it ended before that call.
fn with_fault(mut command: Command, below: &Path, at: At) -> Option<Output> {
    let hit = below.with_extension("hit");
    let _ = fs::remove_file(&hit);
    let mode = if at.fault == Fault::Kill { "kill" } else { "fail" };
    command.env("LD_PRELOAD", shim()).env("FAULT_DIR", below).env("FAULT_AT", at.call.to_string());
    command.env("FAULT_MODE", mode).env("FAULT_HIT", &hit);
    if !at.exchange {
        command.env("FAULT_NO_EXCHANGE", "1");
    }
    let output = command.output().unwrap();
    hit.exists().then_some(output)
}

/// A model whose weights follow from `seed`, over what is in `output`.
fn init(folder: &Path, output: &Path, seed: &str) -> Command {
    let mut command = engine();
    command.arg("init").arg("--config").arg(folder.join("config.json")).arg("--tokenizer").arg(quickstart("model"));
    command.arg("--output").arg(output).args(["--seed", seed, "--overwrite-output-dir"]);
    command
}

/// A folder with the config of a tiny model.
fn with_config() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(quickstart("model/config.json")).unwrap()).unwrap();
    let small = [("hidden_size", 8), ("intermediate_size", 16), ("num_attention_heads", 1), ("head_dim", 8)];
    for (name, value) in small.into_iter().chain([("num_hidden_layers", 1), ("num_key_value_heads", 1)]) {
        config[name] = value.into();
    }
    config["layer_types"] = serde_json::json!(["full_attention"]);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn weights(model: &Path) -> Vec<u8> {
    fs::read(model.join("model.safetensors")).unwrap_or_default()
}

fn hidden(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| name.starts_with('.')).collect()
}

/// Everything that must hold of `out` after `output`, the end of a process that was saving `new` over `old`.
fn check_model(at: At, output: &Output, out: &Path, old: &[u8], new: &[u8]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{at:?}: {said}");
    let found = weights(out);
    if at.exchange {
        assert!(found == old || found == new, "{at:?}: neither the old model nor the new one\n{said}");
        Manifest::read(out).unwrap().verify(out).unwrap_or_else(|error| panic!("{at:?}: {error:?}\n{said}"));
    }
    if at.fault == Fault::Fail {
        let code = output.status.code().unwrap();
        assert!(code != 0 || found == new, "{at:?}: it says that all went well\n{said}");
        assert!(!said.contains("is as it was") || found == old, "{at:?}: {said}");
        assert!(!said.contains("is whole and in its place") || found == new, "{at:?}: {said}");
    }
    // Whoever comes next finds one of them, whole, beside the other files, and nothing else.
    drop(OutputFolder::claim(out, Existing::Resume).unwrap_or_else(|error| panic!("{at:?}: {error:?}")));
    let found = weights(out);
    assert!(found == old || found == new, "{at:?}: neither the old model nor the new one after recovery\n{said}");
    Manifest::read(out).unwrap().verify(out).unwrap_or_else(|error| panic!("{at:?}: {error:?}\n{said}"));
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine", "{at:?}");
    assert_eq!(hidden(out.parent().unwrap()), [""; 0], "{at:?}\n{said}");
}

#[test]
fn every_call_of_a_save_may_fail_or_be_the_last() {
    let folder = with_config();
    let kept = folder.path().join("kept");
    for (name, seed) in [("old", "1"), ("new", "2")] {
        assert!(init(folder.path(), &kept.join(name), seed).output().unwrap().status.success());
    }
    let (old, new) = (weights(&kept.join("old")), weights(&kept.join("new")));
    assert!(old != new && !old.is_empty());
    for exchange in [true, false] {
        for fault in [Fault::Fail, Fault::Kill] {
            let mut calls = 0;
            for call in 1.. {
                let at = At { call, fault, exchange };
                let place = folder.path().join("place");
                let out = place.join("out");
                fs::create_dir_all(&place).unwrap();
                assert!(init(folder.path(), &out, "1").output().unwrap().status.success());
                fs::write(out.join("notes.txt"), "mine").unwrap();
                let Some(output) = with_fault(init(folder.path(), &out, "2"), &place, at) else { break };
                check_model(at, &output, &out, &old, &new);
                fs::remove_dir_all(&place).unwrap();
                calls = call;
            }
            assert!(calls > 30, "only {calls} calls were seen");
        }
    }
}

/// A training run with checkpoints, in `out`.
fn training(model: &Path, out: &Path) -> Command {
    let mut command = engine();
    command.arg("train").arg("--model").arg(model).arg("--output-dir").arg(out);
    command.arg("--dataset").arg(quickstart("train.jsonl")).arg("--tools").arg(quickstart("tools.json"));
    command.args(["--per-device-train-batch-size", "10", "--num-train-epochs", "2", "--learning-rate", "1e-2"]);
    command.args(["--save-strategy", "steps", "--save-steps", "1", "--score", "none", "--resume-from-checkpoint"]);
    command
}

#[test]
fn a_training_run_survives_every_fault_and_ends_with_the_same_model() {
    let all = env::var("ENGINE_FAULTS").is_ok_and(|which| which == "all");
    let folder = with_config();
    let model = folder.path().join("model");
    assert!(init(folder.path(), &model, "1").output().unwrap().status.success());
    let whole = folder.path().join("whole");
    assert!(training(&model, &whole).output().unwrap().status.success());
    let expected = weights(&whole);
    let stride = if all { 1 } else { STRIDE };
    for fault in [Fault::Fail, Fault::Kill] {
        for call in (1..).step_by(stride) {
            let at = At { call, fault, exchange: true };
            let place = folder.path().join("place");
            let out = place.join("out");
            fs::create_dir_all(&place).unwrap();
            let Some(output) = with_fault(training(&model, &out), &place, at) else { break };
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("panicked"), "{at:?}: {said}");
            if output.status.success() {
                assert!(weights(&out) == expected, "{at:?}: it ended well with another model\n{said}");
            } else {
                assert!(fault == Fault::Kill || said.contains("error: "), "{at:?}: {said}");
                assert!(
                    weights(&out).is_empty() || weights(&out) == expected,
                    "{at:?}: a model of no finished run\n{said}"
                );
            }
            let again = training(&model, &out).output().unwrap();
            let said = format!("{said}\nagain:\n{}", String::from_utf8_lossy(&again.stderr));
            assert!(again.status.success() && weights(&out) == expected, "{at:?}: {said}");
            assert_eq!([hidden(&place), hidden(&out)].concat(), [""; 0], "{at:?}: {said}");
            fs::remove_dir_all(&place).unwrap();
        }
    }
}

#[test]
fn a_final_save_that_fails_goes_to_the_fallback_folder_with_its_metrics() {
    let folder = with_config();
    let model = folder.path().join("model");
    assert!(init(folder.path(), &model, "1").output().unwrap().status.success());
    let whole = folder.path().join("whole");
    assert!(training(&model, &whole).output().unwrap().status.success());
    let mut fallbacks = 0;
    for call in (1..).step_by(3) {
        let place = folder.path().join("place");
        let fallback = folder.path().join("fallback");
        fs::create_dir_all(&place).unwrap();
        let mut command = training(&model, &place.join("out"));
        command.args(["--save-strategy", "no", "--fallback-dir"]).arg(&fallback);
        let at = At { call, fault: Fault::Fail, exchange: true };
        let Some(output) = with_fault(command, &place, at) else { break };
        let said = String::from_utf8_lossy(&output.stderr);
        if fallback.exists() {
            assert!(output.status.success() && said.contains(fallback.to_str().unwrap()), "{at:?}: {said}");
            assert!(weights(&fallback) == weights(&whole), "{at:?}: {said}");
            assert!(fs::read_to_string(fallback.join("metrics.jsonl")).unwrap().contains("train_runtime"), "{at:?}");
            assert!(said.contains("warning: cannot save the model"), "{at:?}: {said}");
            assert!(weights(&place.join("out")).is_empty(), "{at:?}: {said}");
            fs::remove_dir_all(&fallback).unwrap();
            fallbacks += 1;
        }
        fs::remove_dir_all(&place).unwrap();
    }
    assert!(fallbacks > 2, "only {fallbacks} faults were in the final save");
}

#[test]
fn a_final_save_waits_for_room_on_a_full_disk() {
    let folder = with_config();
    let model = folder.path().join("model");
    assert!(init(folder.path(), &model, "1").output().unwrap().status.success());
    let whole = folder.path().join("whole");
    assert!(training(&model, &whole).output().unwrap().status.success());
    for freed in [true, false] {
        let out = folder.path().join(format!("out-{freed}"));
        let room = folder.path().join(format!("room-{freed}"));
        let mut command = training(&model, &out);
        command.args(["--save-strategy", "no"]).env("LD_PRELOAD", shim()).env("FAULT_FULL_UNTIL", &room);
        // Where the model is made, after the first write, which tries the folder: what is written to the run's own folder finds room.
        command.env("FAULT_DIR", folder.path().join(format!(".tmp-out-{freed}"))).env("FAULT_AT", "2");
        let mut run = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
        let said: Vec<String> = lines.by_ref().take_while(|line| !line.starts_with("waiting for room")).collect();
        let said = said.join("\n");
        assert!(said.contains("warning: cannot save the model") && said.contains("hint: "), "{said}");
        assert!(run.try_wait().unwrap().is_none(), "it does not wait: {said}");
        if freed {
            fs::write(&room, "").unwrap();
        } else {
            let pid = rustix::process::Pid::from_child(&run);
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        }
        let rest: Vec<String> = lines.collect();
        assert_eq!(run.wait().unwrap().code(), Some(if freed { 0 } else { 1 }), "{said}\n{}", rest.join("\n"));
        assert_eq!(weights(&out) == weights(&whole), freed);
        assert_eq!(hidden(folder.path()), [""; 0]);
    }
}
