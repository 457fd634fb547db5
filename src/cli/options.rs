//! Flags become the options of the session layer.

use crate::chat::tokenizer::{ChatTokenizer, LossOn};
use crate::cli::args::*;
use crate::cli::out::say;
use crate::cli::slow::Slow;
use crate::data::dataset::{Dataset, load_dataset_counted};
use crate::data::forms::COLUMNS;
use crate::data::length::Overlong;
use crate::data::rows::{Row, RowOptions};
use crate::data::tools::{WROTE_OUT, load_tools};
use crate::device::DType;
use crate::error::{Error, Result, printable};
use crate::io::folder::Existing;
use crate::io::gguf_type::GgufType;
use crate::io::safetensors::SaveDtype;
use crate::io::source::resolve_model;
use crate::model::gemma3::Gemma3;
use crate::session::{Checkpoint, ComputeDevice, ExampleOptions, Generation, TokenCache, devices};
use crate::train::options::{EvalStrategy, LossSpike, Metric, SaveStrategy, TrainOptions};
use crate::train::schedule::ScheduleKind;

impl From<SaveDtypeArg> for SaveDtype {
    fn from(dtype: SaveDtypeArg) -> Self {
        match dtype {
            SaveDtypeArg::F32 => SaveDtype::F32,
            SaveDtypeArg::Bf16 => SaveDtype::Bf16,
        }
    }
}

impl From<GgufTypeArg> for GgufType {
    fn from(kind: GgufTypeArg) -> Self {
        match kind {
            GgufTypeArg::F32 => GgufType::F32,
            GgufTypeArg::F16 => GgufType::F16,
            GgufTypeArg::Bf16 => GgufType::Bf16,
            GgufTypeArg::Q8_0 => GgufType::Q8_0,
            GgufTypeArg::Q4_0 => GgufType::Q4_0,
        }
    }
}

impl From<QatArg> for GgufType {
    fn from(kind: QatArg) -> Self {
        match kind {
            QatArg::Q8_0 => GgufType::Q8_0,
            QatArg::Q4_0 => GgufType::Q4_0,
        }
    }
}

impl From<ScheduleArg> for ScheduleKind {
    fn from(kind: ScheduleArg) -> Self {
        match kind {
            ScheduleArg::Constant => ScheduleKind::Constant,
            ScheduleArg::Linear => ScheduleKind::Linear,
            ScheduleArg::Cosine => ScheduleKind::Cosine,
            ScheduleArg::CosineWithRestarts => ScheduleKind::CosineWithRestarts,
            ScheduleArg::CosineWithMinLr => ScheduleKind::CosineWithMinLr,
            ScheduleArg::Polynomial => ScheduleKind::Polynomial,
            ScheduleArg::InverseSqrt => ScheduleKind::InverseSqrt,
        }
    }
}

impl ModelArgs {
    /// The model that is named, with its adapter.
    pub fn open(&self) -> Result<Checkpoint> {
        match &self.adapter {
            Some(adapter) => Checkpoint::open_adapted(&self.model, adapter),
            None => Checkpoint::open(&self.model),
        }
    }

    /// [`open`](Self::open), with the model to answer with.
    pub fn open_frozen(&self, on: &ComputeDevice) -> Result<(Checkpoint, Gemma3)> {
        Checkpoint::open_frozen(&self.model, self.adapter.as_deref(), on)
    }

    /// Opens the device.
    pub fn open_device(&self) -> Result<ComputeDevice> {
        let dtype = match (self.bf16, self.dtype) {
            (Some(true), _) | (None, DtypeArg::Bf16) => Some(DType::Bf16),
            (Some(false), _) | (None, DtypeArg::F32) => Some(DType::F32),
            (None, DtypeArg::Auto) => None,
        };
        devices::open(self.device, dtype)
    }
}

impl From<MetricArg> for Metric {
    fn from(metric: MetricArg) -> Self {
        match metric {
            MetricArg::EvalLoss => Metric::EvalLoss,
            MetricArg::Score => Metric::Score,
            MetricArg::Format => Metric::Format,
            MetricArg::Name => Metric::Name,
            MetricArg::Arguments => Metric::Arguments,
            MetricArg::Exact => Metric::Exact,
        }
    }
}

/// What becomes of an earlier run in the output folder. Who asks to go on with it does not want it gone.
pub fn existing(overwrite: bool, resume: bool) -> Existing {
    match (overwrite, resume) {
        (_, true) => Existing::Resume,
        (true, _) => Existing::Overwrite,
        _ => Existing::Refuse,
    }
}

/// Why `--device auto` did not take a GPU, for stderr: said when all else is well.
pub fn explain_device(device: &ComputeDevice) {
    if let Some(reason) = &device.fallback {
        say(&format!("computing on the CPU: {reason}"));
    }
}

/// The rows of a dataset. What they were taken for, and what was left out, goes to stderr.
pub fn load(source: &str, options: &RowOptions) -> Result<Vec<Row>> {
    let progress = Slow::new("reading rows", None);
    let dataset = load_dataset_counted(source, options, || progress.count());
    progress.finish();
    let Dataset { rows, notes, .. } = dataset?;
    notes.iter().for_each(|note| say(&printable(note)));
    Ok(rows)
}

impl RowArgs {
    /// The tokenizer of a model, with the chat template and the token that ends answers that these flags name.
    pub fn tokenizer(&self, model: &str) -> Result<ChatTokenizer> {
        let mut tokenizer = ChatTokenizer::load(resolve_model(model)?.folder())?;
        if let Some(path) = &self.chat_template_path {
            tokenizer = tokenizer.with_template(path)?;
        }
        match &self.eos_token {
            Some(token) => tokenizer.with_eos_token(token),
            None => Ok(tokenizer),
        }
    }

    /// What these flags add to rows; warnings about the tools go to stderr.
    pub fn row_options(&self) -> Result<RowOptions> {
        self.options_with_warnings(|_| true)
    }

    /// [`row_options`](Self::row_options) for rows that are checked, which says most of these warnings of each tool.
    pub fn row_options_to_check(&self) -> Result<RowOptions> {
        self.options_with_warnings(|warning| warning.contains(WROTE_OUT))
    }

    fn options_with_warnings(&self, is_said: impl Fn(&str) -> bool) -> Result<RowOptions> {
        let tools = match &self.tools {
            None => None,
            Some(path) => {
                let (tools, warnings) = load_tools(path)?;
                let said = warnings.iter().filter(|warning| is_said(warning));
                said.for_each(|warning| say(&format!("warning: {}", printable(warning))));
                Some(tools)
            }
        };
        let (system, parse_tool_responses) = (self.system.clone(), self.parse_tool_responses);
        Ok(RowOptions { tools, system, columns: self.columns()?, parse_tool_responses })
    }

    /// The pairs of `--column`.
    fn columns(&self) -> Result<Vec<(String, String)>> {
        let known = || format!("a field is one of `{}`", COLUMNS.join("`, `"));
        let pair = |text: &String| match text.split_once('=') {
            Some((field, column)) if COLUMNS.contains(&field) && !column.is_empty() => {
                Ok((field.into(), column.into()))
            }
            Some((field, column)) if !column.is_empty() => {
                Err(Error::usage(format!("`--column {text}`: there is no field `{field}`")).hint(known()))
            }
            _ => Err(Error::usage(format!("`--column {text}` is no NAME=COLUMN"))
                .hint("for example `--column user_content=question`")),
        };
        let mut columns: Vec<(String, String)> = Vec::new();
        for text in &self.column {
            let (field, column) = pair(text)?;
            // As with other flags, the last one wins.
            columns.retain(|(known, _)| *known != field);
            columns.push((field, column));
        }
        Ok(columns)
    }

    /// Where tokens are kept, if they are to be and there is a place for it.
    pub fn cache(&self) -> Option<TokenCache> {
        TokenCache::of_user().filter(|_| self.cache_tokens)
    }

    /// How rows become examples.
    ///
    /// # Errors
    /// A usage error: two flags that exclude each other.
    pub fn example_options(&self) -> Result<ExampleOptions> {
        let loss = match (self.completion_only_loss, self.assistant_only_loss) {
            (Some(true), true) => {
                return Err(Error::usage("`--completion-only-loss` and `--assistant-only-loss` exclude each other"));
            }
            (_, true) => Some(LossOn::Assistant),
            (Some(true), _) => Some(LossOn::Completion),
            (Some(false), _) => Some(LossOn::All),
            (None, _) => None,
        };
        let overlong = match self.overlong {
            OverlongArg::Error => Overlong::Refuse,
            OverlongArg::Truncate => Overlong::Truncate,
            OverlongArg::Drop => Overlong::Drop,
        };
        Ok(ExampleOptions { loss, max_length: self.max_length as usize, overlong })
    }
}

impl GenerationArgs {
    /// How answers are generated.
    pub fn options(&self) -> Generation {
        let GenerationArgs { max_new_tokens, do_sample, seed } = *self;
        Generation { max_new_tokens: max_new_tokens as usize, do_sample, seed, cuda_graphs: true }
    }
}

impl TrainArgs {
    /// How the weights are saved: with `--qat` as they are, for the export is to round the numbers that were rounded in training.
    pub fn save_dtype(&self) -> SaveDtype {
        match (self.save_dtype, self.optimization.qat) {
            (Some(dtype), _) => dtype.into(),
            (None, Some(_)) => SaveDtype::F32,
            (None, None) => SaveDtype::Bf16,
        }
    }

    /// How answers are generated in training.
    pub fn generation(&self) -> Generation {
        Generation { cuda_graphs: self.optimization.cuda_graphs, ..self.generation.options() }
    }

    /// The settings of the run.
    pub fn options(&self) -> TrainOptions {
        let o = &self.optimization;
        TrainOptions {
            num_train_epochs: o.num_train_epochs,
            max_steps: o.max_steps,
            per_device_train_batch_size: o.per_device_train_batch_size as usize,
            packing: self.batches.packing.then_some(self.rows.max_length as usize),
            max_tokens_per_batch: self.batches.max_tokens_per_batch.map(|tokens| tokens as usize),
            group_by: self.batches.grouping(),
            gradient_accumulation_steps: o.gradient_accumulation_steps as usize,
            learning_rate: o.learning_rate,
            lr_scheduler_type: o.lr_scheduler_type.into(),
            lr_scheduler_kwargs: o.lr_scheduler_kwargs,
            warmup_steps: o.warmup_steps,
            weight_decay: o.weight_decay,
            betas: (o.adam_beta1, o.adam_beta2),
            eps: o.adam_epsilon,
            max_grad_norm: o.max_grad_norm,
            label_smoothing_factor: o.label_smoothing_factor,
            neftune_noise_alpha: o.neftune_noise_alpha,
            shuffle: self.shuffle,
            seed: self.data_seed.unwrap_or(self.generation.seed),
            eval_strategy: match self.eval_strategy {
                EvalStrategyArg::No => EvalStrategy::No,
                EvalStrategyArg::Epoch => EvalStrategy::Epoch,
                EvalStrategyArg::Steps => EvalStrategy::Steps(self.eval_steps),
            },
            eval_on_start: self.eval_on_start,
            eval_delay: self.eval_delay,
            save_strategy: match self.save_strategy {
                SaveStrategyArg::No => SaveStrategy::No,
                SaveStrategyArg::Epoch => SaveStrategy::Epoch,
                SaveStrategyArg::Steps => SaveStrategy::Steps(self.save_steps),
                SaveStrategyArg::Best => SaveStrategy::Best,
            },
            metric_for_best_model: self.metric_for_best_model.into(),
            load_best_model_at_end: self.load_best_model_at_end,
            early_stopping_patience: self.early_stopping_patience,
            logging_steps: self.logging_steps,
            logging_first_step: self.logging_first_step,
            loss_spike_z: o.loss_spike_z,
            loss_spike: match o.loss_spike {
                LossSpikeArg::Warn => LossSpike::Warn,
                LossSpikeArg::Skip => LossSpike::Skip,
            },
            cuda_graphs: o.cuda_graphs,
            gradient_checkpointing: o.gradient_checkpointing,
        }
    }
}
