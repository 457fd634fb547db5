//! `metrics.jsonl`: what is written, and when.

use std::fs;
use std::path::Path;

use engine::train::metrics::{MetricsWriter, Record, ScoreRecord, SummaryRecord, peak_memory_bytes, read_records};
use serde_json::{Value, json};

use crate::{eval_record, train_record};

fn records() -> Vec<Record> {
    vec![
        Record::Train(train_record(1, 7.4297)),
        Record::Eval(eval_record(1, 1.8195)),
        Record::Score(ScoreRecord { step: 5, total: 20, scores: [("eval_score".to_owned(), 0.4)].into() }),
        Record::Summary(SummaryRecord { train_runtime: 62.5, peak_memory_bytes: Some(5_500_000_000) }),
    ]
}

/// The lines of a file, as JSON.
fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn records_have_the_documented_names_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut writer = MetricsWriter::create(&path, b"").unwrap();
    for record in records() {
        writer.write(&record).unwrap();
    }
    assert_eq!(
        lines(&path),
        [
            json!({
                "type": "train", "step": 1, "epoch": 0.2, "loss": 7.4297, "grad_norm": 122.61, "learning_rate": 5e-5, "entropy": 0.5906,
                "mean_token_accuracy": 0.8889, "num_tokens": 648, "step_seconds": 0.5, "tokens_per_second": 1296.0,
            }),
            json!({
                "type": "eval", "step": 5, "epoch": 1.0, "eval_loss": 1.8195, "eval_entropy": 0.25, "eval_mean_token_accuracy": 0.9375,
                "eval_seconds": 1.5,
            }),
            json!({"type": "score", "step": 5, "total": 20, "eval_score": 0.4}),
            json!({"type": "summary", "train_runtime": 62.5, "peak_memory_bytes": 5_500_000_000_u64}),
        ]
    );
}

#[test]
fn what_was_written_is_read_back_and_a_line_cut_short_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut writer = MetricsWriter::create(&path, b"").unwrap();
    records().iter().for_each(|record| writer.write(record).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!(read_records(&bytes), records());
    bytes.truncate(bytes.len() - 5);
    assert_eq!(read_records(&bytes), records()[..3]);
}

#[test]
fn a_record_is_in_the_file_before_the_next_one_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut writer = MetricsWriter::create(&path, b"").unwrap();
    for (count, record) in records().iter().enumerate() {
        writer.write(record).unwrap();
        assert_eq!(lines(&path).len(), count + 1);
    }
}

#[test]
fn nan_is_written_as_null() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    MetricsWriter::create(&path, b"").unwrap().write(&Record::Train(train_record(3, f64::NAN))).unwrap();
    let record = &lines(&path)[0];
    assert_eq!((&record["loss"], &record["step"]), (&Value::Null, &json!(3)));
}

#[test]
fn a_folder_that_is_missing_and_a_full_disk_are_errors_that_name_the_file() {
    let error = MetricsWriter::create(Path::new("/no/such/folder/metrics.jsonl"), b"").unwrap_err();
    assert!(error.to_string().contains("`/no/such/folder/metrics.jsonl`"), "{error}");
    if cfg!(target_os = "linux") {
        let error = MetricsWriter::create(Path::new("/dev/full"), b"").unwrap().write(&records()[0]).unwrap_err();
        assert!(error.to_string().contains("cannot write to `/dev/full`"), "{error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_peak_of_memory_never_falls_and_counts_what_was_freed() {
    let before = peak_memory_bytes().unwrap();
    let block = std::hint::black_box(vec![1_u8; 256 << 20]);
    drop(block);
    let after = peak_memory_bytes().unwrap();
    assert!(after >= before && after >= 256 << 20, "{before} {after}");
    assert!(after < 64 << 30, "{after} is not in bytes");
}
