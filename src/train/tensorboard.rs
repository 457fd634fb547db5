//! Event files that TensorBoard reads: records of length and CRC, each an `Event` message of TensorFlow's `event.proto`.
//!
//! Only the fields that are written are declared; their numbers and types are those of tensorflow/core/util/event.proto,
//! framework/summary.proto and framework/tensor.proto.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::{Message, Oneof};

use super::log_file::LogFile;
use super::metrics::{EvalRecord, Record, TrainRecord};
use crate::error::Result;

/// TensorFlow's type number of strings.
const DT_STRING: i32 = 7;

#[derive(Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5")]
    what: Option<What>,
}

#[derive(Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
}

#[derive(Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
    #[prost(oneof = "Content", tags = "2, 8")]
    content: Option<Content>,
}

#[derive(Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    Scalar(f32),
    #[prost(message, tag = "8")]
    Text(Tensor),
}

#[derive(Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin: Option<Plugin>,
}

#[derive(Message)]
struct Plugin {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(bytes = "vec", repeated, tag = "8")]
    strings: Vec<Vec<u8>>,
}

/// Writes a run's records as TensorBoard's events, under the names that TRL gives them.
#[derive(Debug)]
pub struct EventWriter(LogFile);

impl EventWriter {
    /// Starts the file anew, as [`LogFile::create`]; `before`: what the run has written before, if anything.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn create(path: &Path, before: &[u8]) -> Result<Self> {
        let mut writer = Self(LogFile::create(path, before)?);
        if before.is_empty() {
            writer.event(0, What::FileVersion("brain.Event:2".into()))?;
        }
        Ok(writer)
    }

    /// Goes on with a file that a run has written.
    ///
    /// # Errors
    /// As [`LogFile::open`].
    pub fn open(path: &Path) -> Result<Self> {
        LogFile::open(path).map(Self)
    }

    /// Text in Markdown under a name.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn text(&mut self, tag: &str, text: &str) -> Result<()> {
        let metadata = Metadata { plugin: Some(Plugin { name: "text".into() }) };
        let tensor = Tensor { dtype: DT_STRING, strings: vec![text.as_bytes().to_vec()] };
        let value = Value { tag: tag.into(), metadata: Some(metadata), content: Some(Content::Text(tensor)) };
        self.event(0, What::Summary(Summary { value: vec![value] }))
    }

    /// The numbers of a record.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let (step, values) = match record {
            Record::Train(train) => (train.step, train_scalars(train)),
            Record::Eval(eval) => (eval.step, eval_scalars(eval)),
            Record::Score(score) => (score.step, score.scores.iter().map(|(name, x)| (scored(name), *x)).collect()),
            Record::Summary(_) => return Ok(()),
        };
        let scalar = |(tag, x)| Value { tag, metadata: None, content: Some(Content::Scalar(x as f32)) };
        let value = values.into_iter().map(scalar).collect();
        self.event(step, What::Summary(Summary { value }))
    }

    fn event(&mut self, step: u64, what: What) -> Result<()> {
        let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let data = Event { wall_time, step: step as i64, what: Some(what) }.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        let parts = [&length[..], &masked_crc(&length), &data, &masked_crc(&data)];
        self.0.append(&parts.concat())
    }
}

/// As TFRecord files have it: rotated and shifted, so that a CRC of data with CRCs in it is no worse.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn train_scalars(record: &TrainRecord) -> Vec<(String, f64)> {
    let TrainRecord { epoch, loss, grad_norm, learning_rate, entropy, mean_token_accuracy, num_tokens, .. } = *record;
    let values = [
        ("loss", loss),
        ("grad_norm", grad_norm),
        ("learning_rate", learning_rate),
        ("entropy", entropy),
        ("mean_token_accuracy", mean_token_accuracy),
        ("num_tokens", num_tokens as f64),
        ("epoch", epoch),
        ("tokens_per_second", record.tokens_per_second),
    ];
    values.into_iter().map(|(name, x)| (format!("train/{name}"), x)).collect()
}

fn eval_scalars(record: &EvalRecord) -> Vec<(String, f64)> {
    let values = [
        ("eval/loss", record.eval_loss),
        ("eval/entropy", record.eval_entropy),
        ("eval/mean_token_accuracy", record.eval_mean_token_accuracy),
        ("eval/runtime", record.eval_seconds),
    ];
    let measured = values.into_iter().map(|(name, x)| (name.to_owned(), x));
    measured.chain(record.scores.iter().map(|(name, x)| (scored(name), *x))).collect()
}

/// `eval/score` of `eval_score`.
fn scored(name: &str) -> String {
    name.replacen('_', "/", 1)
}
