//! `engine export`, and what `engine eval --as` says it costs.

use std::fs;
use std::path::Path;

use engine::io::gguf::GgufFile;
use serde_json::Value;

use crate::exportable::{config_value, plain_weights, write};
use crate::{Run, engine, names, path, quickstart, run, test_rows};

fn export(folder: &Path, extra: &[&str]) -> Run {
    let (model, output) = (path(&folder.join("model")), path(&folder.join("out.gguf")));
    run(&[&["export", "--gguf", "--model", &model, "--output", &output], extra].concat())
}

#[test]
fn export_writes_a_gguf_and_prints_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model"), &config_value(), &plain_weights());
    let done = export(folder.path(), &["--type", "q4_0"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stdout, format!("{}\n", path(&folder.path().join("out.gguf"))));
    assert!(done.stderr.contains("Modelfile"), "{}", done.stderr);
    assert_eq!(GgufFile::open(&folder.path().join("out.gguf")).unwrap().tensor_names().count(), 28);
    assert_eq!(export(folder.path(), &[]).code, 1, "the file is there");
    assert_eq!(export(folder.path(), &["--overwrite"]).code, 0);
}

#[test]
fn export_says_which_types_there_are_and_wants_a_format() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model"), &config_value(), &plain_weights());
    let unknown = export(folder.path(), &["--type", "q4_k"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("f32, f16, bf16, q8_0, q4_0"), "{}", unknown.stderr);
    let (model, output) = (path(&folder.path().join("model")), path(&folder.path().join("out.gguf")));
    let none = run(&["export", "--model", &model, "--output", &output]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("`--gguf`"), "{}", none.stderr);
    assert_eq!(names(folder.path()), ["model"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_no_file_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model"), &config_value(), &plain_weights());
    // A limit on the size of files stands for the full disk: 100 blocks are less than the model.
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -f 100; exec \"$0\" \"$@\""]).arg(engine().get_program());
    limited.args(["export", "--gguf", "--type", "f32", "--model"]).arg(folder.path().join("model"));
    let stopped: Run = limited.arg("--output").arg(folder.path().join("out.gguf")).output().unwrap().into();
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    for part in ["cannot write", "out.gguf", "hint: free some space"] {
        assert!(stopped.stderr.contains(part), "`{part}` is missing in:\n{}", stopped.stderr);
    }
    assert_eq!(names(folder.path()), ["model"]);
}

/// `engine eval` of the quickstart's model.
fn eval(extra: &[&str]) -> Run {
    let (model, tools) = (path(&quickstart().join("model")), path(&quickstart().join("tools.json")));
    let base = ["eval", "--model", &model, "--tools", &tools, "--dataset", &test_rows(), "--max-new-tokens", "40"];
    run(&[&base, extra].concat())
}

fn json(run: &Run) -> Value {
    serde_json::from_str(run.stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn eval_as_gives_both_scores_and_the_difference() {
    let plain = json(&eval(&["--log-format", "json"]));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let priced = eval(&["--as", "q4_0", "--log-format", "json", "--loss", "--report", &path(&file)]);
    assert_eq!(priced.code, 0, "{}", priced.stderr);
    let priced = json(&priced);
    assert_eq!((&priced["type"], &priced["as"]), (&"result".into(), &"q4_0".into()));
    for part in ["correct", "total", "strict", "examples"] {
        assert_eq!(priced["unrounded"][part], plain[part], "the model as it is: {part}");
    }
    let losses = [&priced, &priced["unrounded"]].map(|report| report["eval_loss"].as_f64().unwrap());
    assert!(losses[0] != losses[1], "rounded weights have another loss: {losses:?}");
    let counts = [("tool choice", "/correct"), ("strict: + arguments", "/strict/arguments")];
    for (name, place) in counts {
        let part = priced["price"].as_array().unwrap().iter().find(|part| part["part"] == name).unwrap();
        assert_eq!(&part["before"], plain.pointer(place).unwrap());
        assert_eq!(&part["after"], priced.pointer(place).unwrap());
        let [before, after, better, worse] =
            ["before", "after", "better", "worse"].map(|of| part[of].as_i64().unwrap());
        assert_eq!(after - before, better - worse);
        let [low, high] = [0, 1].map(|end| part["interval"][end].as_f64().unwrap());
        let points = part["points"].as_f64().unwrap();
        assert!(low < points && points < high && (points - 5.0 * (after - before) as f64).abs() < 1e-9, "{part}");
    }
    let written: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(written["price"], priced["price"]);
}

#[test]
fn rounding_to_what_the_weights_are_already_costs_nothing() {
    // The quickstart's weights are bf16.
    let priced = eval(&["--as", "bf16", "--max-drop", "0"]);
    assert_eq!(priced.code, 0, "{}", priced.stderr);
    let line = priced.stdout.lines().find(|line| line.starts_with("tool choice")).unwrap();
    assert!(line.contains("+0.0") && line.contains("0, 0"), "{line}");
    assert!(priced.stdout.contains("as it is") && priced.stdout.contains("as bf16"), "{}", priced.stdout);
}

#[test]
fn max_drop_needs_rounded_weights() {
    let refused = eval(&["--max-drop", "2"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("--max-drop") && refused.stderr.contains("--as q8_0"), "{}", refused.stderr);
    assert_eq!(eval(&["--as", "q8_0", "--max-drop", "-1"]).code, 2);
}
