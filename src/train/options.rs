//! What a training run does, beside model and data: the options of TRL's `SFTConfig` that this engine has.

use std::collections::BTreeMap;

use crate::autograd::Recompute;
use crate::error::{Error, Result};
use crate::model::gemma3::Gemma3;
use crate::train::schedule::{Schedule, ScheduleKind, ScheduleKwargs, warmup_steps};
use crate::train::step::{Regularization, Step};

/// When the evaluation loss is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvalStrategy {
    No,
    /// After each epoch, and after the last step.
    #[default]
    Epoch,
    /// After every so many steps, and after the last one.
    Steps(u64),
}

/// When a run is saved as a checkpoint, so that it can go on from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveStrategy {
    No,
    /// After each epoch, and after the last step.
    #[default]
    Epoch,
    /// After every so many steps, and after the last one.
    Steps(u64),
    /// After each evaluation that is the best so far.
    Best,
}

/// Which rows come into a batch together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grouping {
    /// Whichever come next.
    #[default]
    None,
    /// Rows of similar length.
    Length,
    /// Rows that begin alike.
    Prefix,
}

/// What tells models of a run apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metric {
    /// Less is better; of all others more is.
    #[default]
    EvalLoss,
    /// Part of the answers with the right tool, by the tutorial's rule. Answers are generated at each evaluation for this and
    /// those below.
    Score,
    /// Part of the answers that keep to the grammar.
    Format,
    /// And call the right functions.
    Name,
    /// And with the right arguments.
    Arguments,
    /// And say nothing else.
    Exact,
}

impl Metric {
    /// As records name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::EvalLoss => "eval_loss",
            Self::Score => "eval_score",
            Self::Format => "eval_format",
            Self::Name => "eval_name",
            Self::Arguments => "eval_arguments",
            Self::Exact => "eval_exact",
        }
    }

    pub fn is_better_when_lower(self) -> bool {
        self == Self::EvalLoss
    }
}

/// What becomes of a step whose loss stands out from those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LossSpike {
    /// It is done, and told of.
    #[default]
    Warn,
    /// It is told of; weights and moments stay as they are.
    Skip,
}

/// The settings of a run. The defaults are those of the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// Passes over the rows; a part of one is fine.
    pub num_train_epochs: f64,
    /// Updates of the weights; None: as many as the epochs have.
    pub max_steps: Option<u64>,
    /// Rows of one forward and backward.
    pub per_device_train_batch_size: usize,
    /// Rows are packed, so many tokens in a pack at most, and a batch takes packs; None: it takes rows.
    pub packing: Option<usize>,
    /// A batch takes as many rows as have so many distinct tokens, instead of a number of rows.
    pub max_tokens_per_batch: Option<usize>,
    /// Which rows come into a batch together.
    pub group_by: Grouping,
    /// Forwards and backwards of one update.
    pub gradient_accumulation_steps: usize,
    /// The peak.
    pub learning_rate: f64,
    /// What the learning rate does after the warm-up.
    pub lr_scheduler_type: ScheduleKind,
    /// What some schedules take beside it.
    pub lr_scheduler_kwargs: ScheduleKwargs,
    /// Updates over which the learning rate rises from 0; below 1: that part of the run.
    pub warmup_steps: f64,
    /// Of matrices; vectors never decay.
    pub weight_decay: f64,
    /// AdamW's decay of the two moments.
    pub betas: (f64, f64),
    pub eps: f64,
    /// Gradients are scaled down to this global norm; 0: never.
    pub max_grad_norm: f64,
    /// The part of each target's probability that the whole vocabulary shares, in [0, 1).
    pub label_smoothing_factor: f64,
    /// NEFTune's noise on the embeddings of training rows; 0: none.
    pub neftune_noise_alpha: f64,
    /// A new order of the rows in each epoch; otherwise the order of the file.
    pub shuffle: bool,
    /// The orders follow from it.
    pub seed: u64,
    pub eval_strategy: EvalStrategy,
    /// Evaluate before the first update too.
    pub eval_on_start: bool,
    /// No evaluation before so many epochs, or updates where these are counted; the last one is always made.
    pub eval_delay: f64,
    pub save_strategy: SaveStrategy,
    /// What the best model is the best by.
    pub metric_for_best_model: Metric,
    /// End with the weights of the best evaluation, not the last ones.
    pub load_best_model_at_end: bool,
    /// Stop when so many evaluations in a row were not the best so far.
    pub early_stopping_patience: Option<u64>,
    /// Updates per training record.
    pub logging_steps: u64,
    /// A training record of the first update too.
    pub logging_first_step: bool,
    /// A loss that is so many standard deviations above those of the last steps is told of; 0: none is.
    pub loss_spike_z: f64,
    /// What happens then beside that.
    pub loss_spike: LossSpike,
    /// Capture steps into graphs and replay them, where the device can.
    pub cuda_graphs: bool,
    /// Keep of each layer what enters and what leaves it for the backward, and compute the rest again there.
    pub gradient_checkpointing: bool,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            num_train_epochs: 3.0,
            max_steps: None,
            per_device_train_batch_size: 8,
            packing: None,
            max_tokens_per_batch: None,
            group_by: Grouping::None,
            gradient_accumulation_steps: 1,
            learning_rate: 2e-5,
            lr_scheduler_type: ScheduleKind::Linear,
            lr_scheduler_kwargs: ScheduleKwargs::default(),
            warmup_steps: 0.0,
            weight_decay: 0.0,
            betas: (0.9, 0.999),
            eps: 1e-8,
            max_grad_norm: 1.0,
            label_smoothing_factor: 0.0,
            neftune_noise_alpha: 0.0,
            shuffle: true,
            seed: 42,
            eval_strategy: EvalStrategy::Epoch,
            eval_on_start: false,
            eval_delay: 0.0,
            save_strategy: SaveStrategy::Epoch,
            metric_for_best_model: Metric::EvalLoss,
            load_best_model_at_end: false,
            early_stopping_patience: None,
            logging_steps: 1,
            logging_first_step: false,
            loss_spike_z: 6.0,
            loss_spike: LossSpike::Warn,
            cuda_graphs: true,
            gradient_checkpointing: false,
        }
    }
}

impl TrainOptions {
    /// What does the updates of such a run.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn step(&self, model: &Gemma3) -> Result<Step> {
        let step = Step::new(model, self.max_grad_norm, self.cuda_graphs)?;
        let recompute = self.gradient_checkpointing.then_some(Recompute::Full);
        Ok(step.with_regularization(self.regularization()).recomputing(recompute))
    }

    pub fn regularization(&self) -> Regularization {
        let &Self { label_smoothing_factor: label_smoothing, neftune_noise_alpha, seed, .. } = self;
        Regularization { label_smoothing, neftune_noise_alpha, seed }
    }

    /// Whether a step may turn out not to be done.
    pub fn skips_spikes(&self) -> bool {
        self.loss_spike == LossSpike::Skip && self.loss_spike_z > 0.0
    }

    /// Whether anything follows from what evaluations measure.
    pub fn selects(&self) -> bool {
        self.ends_by_evaluations() || self.save_strategy == SaveStrategy::Best
    }

    /// Whether the weights of a finished run follow from evaluations.
    fn ends_by_evaluations(&self) -> bool {
        self.load_best_model_at_end || self.early_stopping_patience.is_some()
    }

    /// Whether they follow from what is answered there.
    pub fn ends_by_answers(&self) -> bool {
        self.ends_by_evaluations() && self.metric_for_best_model != Metric::EvalLoss
    }

    /// Whether a run that needs evaluations has them; `has_rows`: whether there are rows to evaluate on.
    ///
    /// # Errors
    /// A usage error: it has not.
    pub fn check_evaluated(&self, has_rows: bool) -> Result<()> {
        if !self.selects() || (has_rows && self.eval_strategy != EvalStrategy::No) {
            return Ok(());
        }
        Err(Error::usage("there are no evaluations to tell the best model by")
            .hint("give `--eval-dataset` or `--test-size`, and an `--eval-strategy` other than no"))
    }

    /// The settings that the weights of a finished run follow from, by the names of their flags: beside those of answers
    /// ([`ends_by_answers`](Self::ends_by_answers)), which are others' to tell.
    pub fn that_change_the_result(&self) -> BTreeMap<String, String> {
        let mut settings = vec![
            ("num-train-epochs", self.num_train_epochs.to_string()),
            ("max-steps", self.max_steps.map_or("unset".into(), |steps| steps.to_string())),
            ("per-device-train-batch-size", self.per_device_train_batch_size.to_string()),
            ("gradient-accumulation-steps", self.gradient_accumulation_steps.to_string()),
            ("learning-rate", self.learning_rate.to_string()),
            ("lr-scheduler-type", self.lr_scheduler_type.name().to_owned()),
            ("warmup-steps", self.warmup_steps.to_string()),
            ("weight-decay", self.weight_decay.to_string()),
            ("adam-betas", format!("{:?}", self.betas)),
            ("adam-epsilon", self.eps.to_string()),
            ("max-grad-norm", self.max_grad_norm.to_string()),
            ("shuffle", self.shuffle.to_string()),
            ("seed", self.seed.to_string()),
        ];
        let tokens = [("packing", self.packing), ("max-tokens-per-batch", self.max_tokens_per_batch)];
        settings.extend(tokens.into_iter().filter_map(|(name, tokens)| Some((name, tokens?.to_string()))));
        match self.group_by {
            Grouping::None => {}
            Grouping::Length => settings.push(("group-by-length", true.to_string())),
            Grouping::Prefix => settings.push(("group-by-prefix", true.to_string())),
        }
        if self.lr_scheduler_kwargs != ScheduleKwargs::default() {
            settings.push(("lr-scheduler-kwargs", self.lr_scheduler_kwargs.to_string()));
        }
        let regularization = [
            ("label-smoothing-factor", self.label_smoothing_factor),
            ("neftune-noise-alpha", self.neftune_noise_alpha),
        ];
        settings.extend(regularization.into_iter().filter(|(_, x)| *x > 0.0).map(|(name, x)| (name, x.to_string())));
        if self.skips_spikes() {
            settings.push(("loss-spike", format!("skip above {}", self.loss_spike_z)));
        }
        if self.ends_by_evaluations() {
            let patience = self.early_stopping_patience.map_or("unset".into(), |n| n.to_string());
            settings.extend([
                ("eval-strategy", format!("{:?}", self.eval_strategy).to_lowercase()),
                ("eval-delay", self.eval_delay.to_string()),
                ("eval-on-start", self.eval_on_start.to_string()),
                ("metric-for-best-model", self.metric_for_best_model.name().to_owned()),
                ("load-best-model-at-end", self.load_best_model_at_end.to_string()),
                ("early-stopping-patience", patience),
            ]);
        }
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The learning rates of a run of so many updates.
    ///
    /// # Errors
    /// A usage error: `warmup_steps` is neither a number of steps nor a part of the run.
    pub fn schedule(&self, total_steps: u64) -> Result<Schedule> {
        let total_steps = total_steps as usize;
        self.lr_scheduler_kwargs.check(self.lr_scheduler_type, self.learning_rate)?;
        Ok(Schedule {
            kind: self.lr_scheduler_type,
            kwargs: self.lr_scheduler_kwargs,
            warmup_steps: warmup_steps(self.warmup_steps, total_steps)?,
            total_steps,
            learning_rate: self.learning_rate,
        })
    }
}
