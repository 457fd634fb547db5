//! Dataset files: JSON lines, lists, parquet, folders, hub repositories, and the split.

use std::path::Path;

use engine::data::dataset::{Picked, pick_files, read_dataset};
use engine::data::{Row, RowContent, RowOptions, load_rows, train_test_split};
use serde_json::{Value, json};

#[cfg(feature = "parquet")]
use crate::fixture;

fn load(source: impl AsRef<Path>) -> engine::error::Result<Vec<Row>> {
    load_rows(source.as_ref().to_str().unwrap(), &RowOptions::default())
}

fn text(row: &Row) -> &str {
    match &row.content {
        RowContent::Text { text, .. } => text,
        RowContent::Chat { messages, .. } => messages[0]["content"].as_str().unwrap(),
    }
}

fn texts(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(text).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

#[test]
fn json_lines_are_read_with_their_line_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, "\u{feff}{\"text\": \"a\"}\r\n{\"text\": \"b\"}\n").unwrap();
    let rows = load(&path).unwrap();
    assert_eq!(texts(&rows), ["a", "b"]);
    assert_eq!(rows[1].origin.to_string(), format!("{}:2", path.display()));
}

#[test]
fn whoever_counts_hears_of_every_row_good_or_bad() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, "{\"text\": \"a\"}\n{oops\n{\"text\": \"b\"}\n").unwrap();
    let mut count = 0;
    let dataset = read_dataset(path.to_str().unwrap(), &RowOptions::default(), || count += 1).unwrap();
    assert_eq!((count, dataset.rows.len(), dataset.bad.count), (3, 2, 1));
}

#[test]
fn a_json_file_may_hold_a_list_or_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.json");
    for content in ["[\n {\"text\": \"a\"},\n {\"text\": \"b\"}]", "{\"text\": \"a\"}\n{\"text\": \"b\"}"] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(texts(&load(&path).unwrap()), ["a", "b"]);
    }
}

#[test]
fn every_bad_file_is_refused_with_its_place_and_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], &str); 8] = [
        ("a.jsonl", b"", "a.jsonl` has no rows"),
        ("a.jsonl", b"{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n", "a.jsonl:2` is empty"),
        ("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \n", "a.jsonl:2` is not JSON"),
        ("a.jsonl", b"{\"text\": \"a\"}\n{\"messages\": []}\n", "a.jsonl:2`"),
        ("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n", "a.jsonl:2` is not UTF-8"),
        ("a.json", b"[{\"text\": \"a\"},\n]", "a.json:2` is not JSON"),
        ("a.txt", b"text\na\n", "no .jsonl, .json, .csv or .parquet file"),
        ("a.parquet", b"PAR1", "a.parquet`"),
    ];
    for (name, content, expected) in cases {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let report = load(&path).unwrap_err().report();
        assert!(report.contains(expected), "{report}");
    }
    let report = load(folder.path().join("missing.jsonl")).unwrap_err().report();
    assert!(report.contains("missing.jsonl") && report.contains("hint:"), "{report}");
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_rows_lose_the_null_padding_of_their_schema() {
    let rows = load(fixture("padded.parquet")).unwrap();
    let parts = |row: &Row| match &row.content {
        RowContent::Chat { messages, tools, .. } => {
            let arguments = messages[1]["tool_calls"][0]["function"]["arguments"].clone();
            (arguments, tools[0]["function"]["parameters"]["properties"].clone())
        }
        other => panic!("not a chat: {other:?}"),
    };
    let schema = json!({"type": "string", "description": "D"});
    assert_eq!(parts(&rows[0]), (json!({"city": "Rome"}), json!({"city": schema})));
    assert_eq!(parts(&rows[1]), (json!({"count": 3, "exact": true}), json!({"count": schema})));
    assert_eq!(parts(&rows[2]), (json!({}), json!({"x": schema})));
    assert!(rows[2].origin.to_string().ends_with("padded.parquet:3"));
}

#[cfg(feature = "parquet")]
#[test]
fn a_compression_that_is_not_built_in_is_named_with_a_way_out() {
    let report = load(fixture("zstd.parquet")).unwrap_err().report();
    assert!(report.contains("zstd.parquet") && report.to_lowercase().contains("snappy"), "{report}");
}

#[test]
fn a_split_after_the_name_picks_rows_by_their_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let line = |split: &str, text: &str| json!({"metadata": split, "text": text}).to_string() + "\n";
    std::fs::write(&path, line("train", "a") + &line("eval", "b")).unwrap();
    assert_eq!(texts(&load(&path).unwrap()), ["a", "b"]);
    assert_eq!(texts(&load(format!("{}:eval", path.display())).unwrap()), ["b"]);
    assert!(load(format!("{}:dev", path.display())).unwrap_err().report().contains("`dev`"));
}

#[test]
fn a_folder_gives_its_train_files_or_those_of_a_split() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    for (name, text) in [("data/train-2.jsonl", "b"), ("data/train-1.jsonl", "a"), ("data/test.jsonl", "c")] {
        std::fs::write(folder.path().join(name), json!({"text": text}).to_string()).unwrap();
    }
    assert_eq!(texts(&load(folder.path()).unwrap()), ["a", "b"]);
    assert_eq!(texts(&load(format!("{}:test", folder.path().display())).unwrap()), ["c"]);
    assert!(load(format!("{}:dev", folder.path().display())).unwrap_err().report().contains("`dev`"));
}

#[test]
fn files_are_picked_by_split_and_format() {
    let pick = |files: &[&str], split| pick_files(&names(files), split).map(|p| (p.files, p.named_after_split)).ok();
    let parquet =
        ["README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-0.parquet"];
    assert_eq!(pick(&parquet, None), Some((names(&parquet[1..3]), true)));
    assert_eq!(pick(&parquet, Some("test")), Some((names(&parquet[3..]), true)));
    assert_eq!(pick(&parquet, Some("dev")), None);
    let both = ["train.parquet", "train.jsonl", "dataset_infos.json", ".cache/train.jsonl"];
    assert_eq!(pick(&both, None), Some((names(&["train.jsonl"]), true)));
    assert_eq!(pick(&["dataset.jsonl", "x.json"], None), Some((names(&["dataset.jsonl"]), false)));
    assert_eq!(pick(&["dataset.jsonl"], Some("eval")), Some((names(&["dataset.jsonl"]), false)));
    assert_eq!(pick(&["eval.jsonl", "test.jsonl"], None), None);
    assert_eq!(pick(&["en/train/0.parquet", "de/train/0.parquet"], None), None);
    assert_eq!(pick(&["README.md"], None), None);
    assert_eq!(pick(&["constraint.jsonl", "training.txt"], None), Some((names(&["constraint.jsonl"]), false)));
    assert_eq!(
        pick_files(&names(&["mobile_train.jsonl"]), None).unwrap(),
        Picked { files: names(&["mobile_train.jsonl"]), named_after_split: true, left_out: Vec::new() }
    );
}

#[test]
fn the_test_rows_are_the_last_ones_and_a_share_is_rounded_up() {
    let split = |size: f64| train_test_split((0..10).collect::<Vec<_>>(), size, false, 0).unwrap();
    assert_eq!(split(0.5), ((0..5).collect(), (5..10).collect()));
    assert_eq!(split(0.11), ((0..8).collect(), (8..10).collect()));
    assert_eq!(split(1.0), ((0..9).collect(), vec![9]));
    assert_eq!(split(3.0).1.len(), 3);
}

#[test]
fn a_shuffled_split_is_the_same_for_the_same_seed_and_loses_no_row() {
    let split = |seed| train_test_split((0..100).collect::<Vec<_>>(), 0.25, true, seed).unwrap();
    assert_eq!(split(1), split(1));
    assert_ne!(split(1), split(2));
    let (train, test) = split(1);
    assert_ne!(test, (75..100).collect::<Vec<_>>());
    let mut all = [train, test].concat();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
}

#[test]
fn an_impossible_test_size_is_a_usage_error() {
    for size in [0.0, -1.0, f64::NAN, f64::INFINITY, 1.5, 4.0, 0.99] {
        let error = train_test_split(vec![0; 4], size, false, 0).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{size}");
    }
}

#[test]
fn numbers_keep_every_digit_on_the_way_from_a_file() {
    let row: Value = serde_json::from_str("{\"x\": 51.24817837550541}").unwrap();
    assert_eq!(row["x"].to_string(), "51.24817837550541");
}
