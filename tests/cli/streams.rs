//! Streams that break: what was computed is on the disk before anything is said, and nothing panics.

use std::fs::{self, File, OpenOptions};
use std::process::{Command, Stdio};

use crate::{engine, path, quickstart, train_command};

/// A pipe that nobody reads.
fn broken_pipe() -> Stdio {
    let mut child = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
    let pipe = child.stdin.take().unwrap();
    child.wait().unwrap();
    pipe.into()
}

fn full_disk() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_training_whose_stderr_breaks_is_saved() {
    for stderr in [broken_pipe, full_disk] {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let test = path(&quickstart().join("test.jsonl"));
        let flags = ["--eval-dataset", &test, "--score", "before", "--max-new-tokens", "2"];
        let status = train_command(&output, &flags).stderr(stderr()).stdout(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(0));
        assert!(output.join("model.safetensors").exists());
    }
}

#[test]
fn a_report_is_written_whatever_becomes_of_stdout() {
    for (stdout, code) in [(broken_pipe as fn() -> Stdio, 0), (full_disk, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("report.json");
        let q = quickstart();
        let output = engine()
            .args(["eval", "--model", &path(&q.join("model")), "--dataset", &path(&q.join("test.jsonl"))])
            .args(["--tools", &path(&q.join("tools.json")), "--max-new-tokens", "2", "--report", &path(&report)])
            .stdout(stdout())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert!(fs::read_to_string(&report).unwrap().contains("\"examples\""));
        assert_eq!(said.contains("cannot write to stdout"), code == 1, "{said}");
    }
}

#[test]
fn commands_that_only_print_end_quietly_when_their_reader_has_gone() {
    let model = path(&quickstart().join("model"));
    let rows = path(&quickstart().join("train.jsonl"));
    let tools = path(&quickstart().join("tools.json"));
    let preview = ["preview", "--model", &model, "--dataset", &rows, "--tools", &tools];
    let generate = ["generate", "--model", &model, "--prompt", "hi", "--max-new-tokens", "2"];
    for arguments in [&["info"][..], &["--help"], &["train", "--help"], &preview, &generate] {
        let output = engine().args(arguments).stdout(broken_pipe()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.contains("panicked")), (Some(0), false), "{arguments:?}: {said}");
    }
}

#[test]
fn an_error_message_that_cannot_be_written_still_has_its_exit_code() {
    let status = engine().args(["info", "--model", "no/such/model"]).stderr(full_disk()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    let usage = engine().arg("--no-such-flag").stderr(full_disk()).status().unwrap();
    assert_eq!(usage.code(), Some(2));
    let closed =
        engine().arg("info").stdout(File::create("/dev/null").unwrap()).stderr(broken_pipe()).status().unwrap();
    assert_eq!(closed.code(), Some(0));
}
