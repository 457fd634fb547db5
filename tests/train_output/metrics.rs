//! `metrics.jsonl`: what is written, what is read back, what is refused.

use std::fs;
use std::path::Path;

use engine::train::metrics::{MetricsWriter, Record, SummaryRecord, peak_memory_bytes};
use serde_json::{Value, json};

use crate::reading::read_metrics;
use crate::{eval_record, train_record};

fn records() -> Vec<Record> {
    vec![
        Record::Train(train_record(1, 7.4297)),
        Record::Eval(eval_record(1, 1.8195)),
        Record::Summary(SummaryRecord { train_runtime: 62.5, peak_memory_bytes: Some(5_500_000_000) }),
    ]
}

#[test]
fn records_have_the_documented_names_and_are_read_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut writer = MetricsWriter::create(&path).unwrap();
    for record in records() {
        writer.write(&record).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines,
        [
            json!({
                "step": 1, "epoch": 0.2, "loss": 7.4297, "grad_norm": 122.61, "learning_rate": 5e-5, "entropy": 0.5906,
                "mean_token_accuracy": 0.8889, "num_tokens": 648, "step_seconds": 0.5, "tokens_per_second": 1296.0,
            }),
            json!({
                "step": 5, "epoch": 1.0, "eval_loss": 1.8195, "eval_entropy": 0.25, "eval_mean_token_accuracy": 0.9375,
                "eval_seconds": 1.5,
            }),
            json!({"train_runtime": 62.5, "peak_memory_bytes": 5_500_000_000_u64}),
        ]
    );
    assert_eq!(read_metrics(&path).unwrap(), records());
}

#[test]
fn a_record_is_in_the_file_before_the_next_one_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut writer = MetricsWriter::create(&path).unwrap();
    for (count, record) in records().iter().enumerate() {
        writer.write(record).unwrap();
        assert_eq!(read_metrics(&path).unwrap().len(), count + 1);
    }
}

#[test]
fn nan_is_written_as_null_and_read_back_as_nan() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    MetricsWriter::create(&path).unwrap().write(&Record::Train(train_record(3, f64::NAN))).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains("\"loss\":null"));
    let [Record::Train(record)] = &read_metrics(&path).unwrap()[..] else { panic!("not one training record") };
    assert!(record.loss.is_nan());
    assert_eq!((record.step, record.entropy), (3, 0.5906));
}

#[test]
fn a_last_line_cut_off_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    MetricsWriter::create(&path).unwrap().write(&records()[0]).unwrap();
    let line = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{line}{}", &line[..line.len() / 2])).unwrap();
    assert_eq!(read_metrics(&path).unwrap(), records()[..1]);
}

#[test]
fn a_line_that_is_no_record_is_an_error_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let good = serde_json::to_string(&records()[0]).unwrap();
    for (bad, part) in [
        ("{\"step\": 1", "not JSON"),
        ("{\"step\": 1}", "none of `loss`"),
        ("[]", "none of `loss`"),
        ("{\"loss\": 1.0}", "missing field"),
        ("{\"train_runtime\": \"long\"}", "invalid type"),
    ] {
        fs::write(&path, format!("{good}\n\n{bad}\n{good}\n")).unwrap();
        let report = read_metrics(&path).unwrap_err().report();
        assert!(report.contains("metrics.jsonl:3` is no metrics record") && report.contains(part), "{report}");
    }
}

#[test]
fn a_folder_that_is_missing_and_a_full_disk_are_errors_that_name_the_file() {
    let error = MetricsWriter::create(Path::new("/no/such/folder/metrics.jsonl")).unwrap_err();
    assert!(error.to_string().contains("`/no/such/folder/metrics.jsonl`"), "{error}");
    if cfg!(target_os = "linux") {
        let error = MetricsWriter::create(Path::new("/dev/full")).unwrap().write(&records()[0]).unwrap_err();
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
