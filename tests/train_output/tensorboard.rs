//! Event files for TensorBoard: read back by a reader that knows the format only, and by TensorBoard's own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use engine::train::metrics::{Record, ScoreRecord};
use engine::train::tensorboard::EventWriter;
use serde_json::Value;

use crate::{eval_record, train_record};

fn written(folder: &Path) -> PathBuf {
    let path = folder.join("events.out.tfevents.engine");
    let mut writer = EventWriter::create(&path, b"").unwrap();
    writer.text("settings", "learning rate 1e-4").unwrap();
    writer.write(&Record::Train(train_record(1, 7.5))).unwrap();
    writer.write(&Record::Eval(eval_record(1, 1.75))).unwrap();
    drop(writer);
    // A run that goes on.
    let before = fs::read(&path).unwrap();
    let mut writer = EventWriter::create(&path, &before).unwrap();
    writer.write(&Record::Train(train_record(2, 6.25))).unwrap();
    let scores = BTreeMap::from([("eval_score".to_owned(), 0.75)]);
    EventWriter::open(&path).unwrap().write(&Record::Score(ScoreRecord { step: 2, total: 20, scores })).unwrap();
    path
}

/// The payloads of a TFRecord file, whose lengths are checked and whose CRCs are not.
fn records(bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        found.push(&rest[12..12 + length]);
        rest = &rest[16 + length..];
    }
    found
}

#[test]
fn every_record_is_one_event_and_the_version_comes_once() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(written(folder.path())).unwrap();
    let records = records(&bytes);
    assert_eq!(records.len(), 6);
    let holds = |record: &[u8], text: &str| record.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds(records[0], "brain.Event:2") && !records[1..].iter().any(|record| holds(record, "brain.Event")));
    assert!(holds(records[1], "learning rate 1e-4"));
    for tag in ["train/loss", "train/grad_norm", "train/learning_rate", "train/mean_token_accuracy", "train/num_tokens"]
    {
        assert!(holds(records[2], tag) && holds(records[4], tag), "{tag}");
    }
    assert!(holds(records[3], "eval/loss") && holds(records[5], "eval/score"));
    // Field 2 (the value) of wire type 5 (32 bits), after the tag's text.
    let loss = [b"train/loss\x15".as_slice(), &7.5f32.to_le_bytes()].concat();
    assert!(records[2].windows(loss.len()).any(|part| part == loss));
}

/// The CRC of the value that the format's description gives, and the mask undone.
#[test]
fn lengths_and_data_carry_masked_crcs() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(written(folder.path())).unwrap();
    let unmasked = |at: usize| {
        let masked = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        masked.wrapping_sub(0xa282_ead8).rotate_left(15)
    };
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(unmasked(8), crc32c_bit_by_bit(&bytes[..8]));
    assert_eq!(unmasked(12 + length), crc32c_bit_by_bit(&bytes[12..12 + length]));
    assert_eq!(crc32c_bit_by_bit(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
}

fn crc32c_bit_by_bit(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
#[ignore = "needs python3 with the package `tensorboard`"]
fn tensorboards_own_reader_finds_every_number_and_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/train_output/read_events.py");
    let output = Command::new("python3").arg(script).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["scalars"]["train/loss"], serde_json::json!([[1, 7.5], [2, 6.25]]));
    assert_eq!(found["scalars"]["eval/loss"], serde_json::json!([[5, 1.75]]));
    assert_eq!(found["scalars"]["eval/score"], serde_json::json!([[2, 0.75]]));
    assert_eq!(found["texts"]["settings"], "learning rate 1e-4");
}
