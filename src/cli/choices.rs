//! What a flag may be set to, where that is one of a few words.

use clap::ValueEnum;
use serde::Serialize;

/// The number format that a model computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DtypeArg {
    /// bf16 on a GPU, f32 on the CPU
    Auto,
    F32,
    Bf16,
}

/// The number format of saved weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveDtypeArg {
    F32,
    Bf16,
}

/// The number format of a GGUF's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum GgufTypeArg {
    F32,
    F16,
    Bf16,
    /// 8 bits and a scale for 32 weights
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits and a scale for 32 weights; the embedding, which is the head too, as q8_0
    #[value(name = "q4_0")]
    Q4_0,
}

/// The number format that weights are rounded to in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QatArg {
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ScheduleArg {
    /// Stays at its peak
    #[value(alias = "constant_with_warmup")]
    Constant,
    /// Falls in a straight line to 0
    Linear,
    /// Falls as half a cosine to 0
    Cosine,
    /// Falls as half a cosine `num_cycles` times
    #[value(alias = "cosine_with_hard_restarts")]
    CosineWithRestarts,
    /// Falls as half a cosine to `min_lr`, or to `min_lr_rate` of the peak
    CosineWithMinLr,
    /// Falls as a `power` of what is left, to `lr_end`
    Polynomial,
    /// Falls as 1 / sqrt(step / `timescale`)
    InverseSqrt,
}

/// When the evaluation loss is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalStrategyArg {
    /// Never
    No,
    /// After every epoch and at the end
    Epoch,
    /// Every `--eval-steps` updates and at the end
    Steps,
}

/// When the run is saved as a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveStrategyArg {
    /// Never, unless the run is interrupted
    No,
    /// After every epoch and at the end
    Epoch,
    /// Every `--save-steps` updates and at the end
    Steps,
    /// After every evaluation that is the best so far
    Best,
}

/// What becomes of a step whose loss stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossSpikeArg {
    /// Do it
    Warn,
    /// Leave weights and moments as they are
    Skip,
}

/// What the best model is the best by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum MetricArg {
    /// The loss on the evaluation rows
    EvalLoss,
    /// Answers with the right tool, by the tutorial's rule
    Score,
    /// Answers that keep to the grammar
    Format,
    /// And call the right functions
    Name,
    /// And with the right arguments
    Arguments,
    /// And say nothing else
    Exact,
}

/// Who is told what the run measures, while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportTo {
    /// An event file for TensorBoard
    Tensorboard,
    /// metrics.jsonl, one JSON object a line
    Jsonl,
    /// Nobody
    None,
}

/// What stdout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// People: tables
    Text,
    /// Programs: a JSON object a line, the last one of type `result`
    Json,
}

/// When answers are generated and judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreArg {
    /// Before training
    Before,
    /// After training
    After,
    /// Never
    None,
}
