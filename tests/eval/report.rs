//! The report file: its shape, and that writing it is all or nothing.

use std::fs;
use std::path::Path;

use engine::eval::report::{Answer, Report, Score, write_atomically};
use engine::eval::verdict::Expected;
use serde_json::{Value, json};

fn report() -> Report {
    let mut report = Report { eval_loss: Some(0.5), ..Report::default() };
    let message = json!({"role": "assistant", "tool_calls": [{"function": {"name": "web", "arguments": {"q": "x"}}}]});
    let tools = ["web".to_owned(), "docs".to_owned()];
    for (line, output) in
        ["<start_function_call>call:web{q:<escape>x<escape>}<end_function_call>", "<start_function_call>call:docs{"]
            .into_iter()
            .enumerate()
    {
        let answer = Answer {
            origin: format!("rows.jsonl:{}", line + 1),
            prompt: "Find x".to_owned(),
            output: output.to_owned(),
            token_ids: vec![48, 6639],
        };
        report.add(answer, Expected::from_messages(std::slice::from_ref(&message)).unwrap(), &tools);
    }
    report
}

#[test]
fn the_report_has_the_documented_shape() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    report().write(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["correct", "total", "strict", "eval_loss", "examples"]
    );
    assert_eq!((&value["correct"], &value["total"], &value["eval_loss"]), (&json!(1), &json!(2), &json!(0.5)));
    assert_eq!(
        value["strict"],
        json!({"format_valid": 1, "name": 1, "arguments": 1, "exact": 1, "missing_call": 0, "spurious_call": 0})
    );
    assert_eq!(
        value["examples"][1],
        json!({
            "origin": "rows.jsonl:2",
            "prompt": "Find x",
            "expected": {"calls": [{"name": "web", "arguments": {"q": "x"}}], "text": null},
            "output": "<start_function_call>call:docs{",
            "token_ids": [48, 6639],
            "verdict": "wrong tool",
            "correct": false,
            "format_valid": false,
            "name_correct": false,
            "arguments_correct": false,
            "exact": false,
            "missing_call": false,
            "spurious_call": false,
            "faults": ["the text ends inside a call at byte 31"],
        })
    );
    assert_eq!(value["examples"][0]["verdict"], "correct");
    let score: Score = serde_json::from_value(value).unwrap();
    assert_eq!(score, report().score, "the score can be read back from a report");
}

#[test]
fn without_an_evaluation_loss_the_report_has_none() {
    let report = Report { eval_loss: None, ..report() };
    assert!(serde_json::to_value(report).unwrap().get("eval_loss").is_none());
}

#[test]
fn writing_replaces_the_file_and_leaves_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    write_atomically(&path, b"old").unwrap();
    write_atomically(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_path_that_cannot_be_written_is_named_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no/such/report.json");
    let error = write_atomically(&missing, b"x").unwrap_err();
    assert!(error.report().contains(&missing.display().to_string()), "{}", error.report());
    let error = write_atomically(folder.path(), b"x").unwrap_err();
    assert!(error.to_string().contains("is a folder"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(write_atomically(Path::new("/"), b"x").is_err());
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_is_written_to_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    write_atomically(Path::new("/dev/null"), b"x").unwrap();
    let error = write_atomically(Path::new("/dev/full"), b"x").unwrap_err();
    assert!(error.report().contains("cannot write `/dev/full`"), "{}", error.report());
    assert!(fs::metadata("/dev/full").unwrap().file_type().is_char_device());
}

/// Runs itself again as a process whose files may not grow beyond a few blocks, which fails as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_leaves_the_old_file_and_no_other() {
    const FOLDER: &str = "ENGINE_TEST_REPORT_FOLDER";
    if let Some(folder) = std::env::var_os(FOLDER) {
        write_atomically(&Path::new(&folder).join("report.json"), &vec![b'x'; 1 << 20]).expect_err("the disk is full");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    fs::write(&path, "old").unwrap();
    let limited =
        "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact report::a_disk_that_fills_up_leaves_the_old_file_and_no_other";
    let mut child = std::process::Command::new("sh");
    child.args(["-c", limited]).arg(std::env::current_exe().unwrap()).env(FOLDER, folder.path());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_to_the_new_text() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    write_atomically(&link, b"new").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&file).unwrap(), b"new");
}
