//! One optimizer step: forward and backward of every micro-batch, clip, AdamW.
//!
//! The host only queues, and reads what was measured once at the end; what is to be sent for the next step may be made in between. Where the device captures graphs, batches are padded to a
//! few sizes ([`Bucket`]): the second step of a size is captured, later ones replay it, so that a step costs one upload, one
//! launch and one download.

use std::borrow::Cow;
use std::rc::Rc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::autograd::{Gradients, Recompute, Tape};
use crate::bail;
use crate::batch::inputs::Inputs;
use crate::batch::tree::TokenTree;
use crate::device::graphs::{self, Graphs};
use crate::device::{Purpose, Tensor};
use crate::error::Result;
use crate::model::gemma3::{Batch, Gemma3};
use crate::ops::adamw::{AdamW, Moments, Plan, adamw};
use crate::ops::clip::{clip_factor, clip_factor_of_sums};
use crate::ops::cross_entropy::{Objective, Predicted, TargetRoom, Targets, linear_cross_entropy_into};
use crate::ops::embedding::Noise;
use crate::ops::results::{LossSums, StepResults};

/// Rows of a micro-batch of which everything that the backward reads is kept, at most: a layer of the 270M keeps 24 KB of one in bf16. Of more rows
/// what costs little is computed again: 18 KB, and by the bill of a step (`cargo bench --bench bill`) 2 % more time.
const MOST_KEPT_ROWS: usize = 4096;

/// Graphs that are kept; batches of yet another size are queued kernel by kernel.
const MOST_GRAPHS: usize = 64;

/// What a step measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Over the scored tokens of the whole window.
    pub sums: LossSums,
    /// Global L2 norm of the gradient, before clipping.
    pub grad_norm: f64,
}

impl StepResult {
    /// The loss of a scored token; 0 when none is.
    pub fn mean_loss(&self) -> f64 {
        self.sums.loss / self.sums.scored.max(1.0)
    }

    /// Whether the update was applied: it is not when the loss or the norm is not finite.
    pub fn is_finite(&self) -> bool {
        self.sums.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// What makes the task of a step harder than it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Regularization {
    /// The part of each target's probability that the whole vocabulary shares.
    pub label_smoothing: f64,
    /// NEFTune: embeddings get noise of at most alpha / sqrt(L * D), with L the tokens of the longest row; 0: none.
    pub neftune_noise_alpha: f64,
    /// The noise follows from it, and so does a LoRA's dropout.
    pub seed: u64,
}

/// What stays between steps: gradients, moments, graphs.
pub struct Step {
    gradients: Gradients,
    m: Tensor,
    v: Tensor,
    max_grad_norm: f64,
    regularization: Regularization,
    /// None: by the rows of a micro-batch.
    recompute: Option<Recompute>,
    plan: Plan,
    results: StepResults,
    /// None: steps are queued kernel by kernel.
    graphs: Option<Rc<Graphs<Size, Vec<Prepared>, ()>>>,
}

/// What one graph serves.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Size {
    batches: usize,
    bucket: Bucket,
    /// Whether the update of the weights is part of it.
    updates: bool,
}

/// The size that batches are padded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    rows: usize,
    scored_rows: usize,
    targets: usize,
}

impl Bucket {
    /// The smallest that holds each of `trees`.
    pub fn of(trees: &[TokenTree]) -> Self {
        let most = |f: fn(&TokenTree) -> usize| rounded(trees.iter().map(f).max().unwrap_or(0));
        Self {
            rows: most(TokenTree::len),
            scored_rows: most(|tree| tree.targets.chunk_by(|a, b| a.row == b.row).count()),
            targets: most(|tree| tree.targets.len()),
        }
    }
}

/// Up to a multiple of 64, or of a sixteenth of the next power of two: few sizes, little waste.
fn rounded(n: usize) -> usize {
    n.next_multiple_of((n.next_power_of_two() / 16).max(64)).max(64)
}

/// The micro-batches of an update, ready to be sent. Nothing of the weights is in them, so that they may be made before the update that comes
/// first is done.
pub struct PreparedWindow {
    batches: Vec<Prepared>,
    /// None: nothing is padded.
    bucket: Option<Bucket>,
    /// The update that they are for, from 1.
    step: u64,
}

/// A step that is queued, whose results are not read yet.
#[must_use]
pub struct Queued {
    /// Whether the update waits for an answer.
    asks: bool,
    /// Its number.
    step: u64,
}

/// What is random in a micro-batch.
struct Random {
    noise: Option<Noise>,
    dropout_key: Option<[u32; 2]>,
}

/// A micro-batch whose arrays are ready to be sent.
struct Prepared {
    inputs: Rc<Inputs>,
    batch: Batch,
    targets: Targets,
}

impl Prepared {
    /// `bucket`: the size to pad to.
    fn new(
        model: &Gemma3,
        tree: TokenTree,
        objective: Objective,
        random: Random,
        bucket: Option<Bucket>,
    ) -> Result<Self> {
        let inputs = Inputs::new(model.device(), bucket.is_some());
        let room = bucket.map(|b| TargetRoom { rows: b.scored_rows, targets: b.targets }).unwrap_or_default();
        let tree = tree.padded(bucket.map_or(0, |b| b.rows));
        let mut batch = model.batch_of(&inputs, &tree, tree.rows(), false)?;
        if let Some(mut noise) = random.noise {
            batch = model.with_noise(batch, &inputs, &mut noise);
        }
        if let Some(key) = random.dropout_key {
            batch = model.with_dropout(batch, &inputs, key);
        }
        let of = Predicted { rows: tree.len(), vocabulary: model.config.vocab_size };
        let targets = Targets::new(&inputs, &tree.targets, objective, of, room)?;
        Ok(Self { inputs, batch, targets })
    }
}

impl Step {
    /// Allocates gradients and moments. `use_graphs`: capture and replay, where the device can.
    pub fn new(model: &Gemma3, max_grad_norm: f64, use_graphs: bool) -> Result<Self> {
        let device = model.device().of(Purpose::Optimizer);
        let can_capture = device.driver().captures_graphs();
        let graphs = (use_graphs && can_capture).then(|| Rc::new(Graphs::new(&device, MOST_GRAPHS)));
        Ok(Self {
            gradients: model.trained().gradients()?,
            m: model.trained().zeros(&device)?,
            v: model.trained().zeros(&device)?,
            max_grad_norm,
            regularization: Regularization::default(),
            recompute: None,
            plan: Plan::new(&device, model.trained().spans())?,
            results: StepResults::zeros(&device)?,
            graphs,
        })
    }

    pub fn with_regularization(self, regularization: Regularization) -> Self {
        Self { regularization, ..self }
    }

    /// How much of the layers is computed again in the backward: less memory, more work, and the same results to the bit. None: of a large batch what
    /// costs little.
    pub fn recomputing(self, recompute: Option<Recompute>) -> Self {
        Self { recompute, ..self }
    }

    /// AdamW's first and second moments, laid out as the trained parameters.
    pub fn moments(&self) -> (&Tensor, &Tensor) {
        (&self.m, &self.v)
    }

    /// The moments, to put others back.
    pub fn moments_mut(&mut self) -> (&mut Tensor, &mut Tensor) {
        (&mut self.m, &mut self.v)
    }

    /// The master weights of what `model` trains, and AdamW's first and second moments: on the CPU where they are, as far as they
    /// are whole, else copied.
    ///
    /// # Errors
    /// The device fails.
    pub fn numbers<'a>(&'a mut self, model: &'a Gemma3) -> Result<[Cow<'a, [f32]>; 3]> {
        let weights = model.trained().masters_in(&mut self.gradients.values)?.read()?;
        Ok([weights, self.m.read()?, self.v.read()?])
    }

    /// Gives `model` the master weights that it had when update `step` was the last, which `fill` writes.
    ///
    /// # Errors
    /// `fill` fails: the weights are then as they were, or of no use.
    pub fn replace_weights(
        &mut self,
        model: &mut Gemma3,
        step: u64,
        fill: impl FnOnce(&mut [f32]) -> Result<()>,
    ) -> Result<()> {
        model.trained_mut().set_masters(step, self.room(), fill)
    }

    /// Rounds what `model` computes in to nearest, as it will be saved.
    ///
    /// # Errors
    /// The device fails.
    pub fn round_to_nearest(mut self, model: &mut Gemma3) -> Result<()> {
        model.trained_mut().round_as_after(0, self.room())
    }

    /// One update from the micro-batches of a window. When loss or norm are not finite, the weights stay as they are.
    pub fn run(&mut self, model: &mut Gemma3, trees: Vec<TokenTree>, hyper: &AdamW) -> Result<StepResult> {
        self.run_if(model, trees, hyper, false, |_| true)
    }

    /// [`run`](Self::run), after which `sees` is told what was measured. With `asks` it is told before the weights change, which
    /// costs a wait for the device, and false leaves weights and moments as they are.
    ///
    /// It is [`prepare`](Self::prepare), [`queue`](Self::queue) and [`finish`](Self::finish).
    pub fn run_if(
        &mut self,
        model: &mut Gemma3,
        trees: Vec<TokenTree>,
        hyper: &AdamW,
        asks: bool,
        sees: impl FnOnce(&StepResult) -> bool,
    ) -> Result<StepResult> {
        let window = self.prepare(model, trees, hyper.step)?;
        let queued = self.queue(model, window, hyper, asks)?;
        self.finish(model, queued, sees)
    }

    /// The micro-batches of update `step` (from 1), for [`queue`](Self::queue). The device is asked to do nothing.
    ///
    /// # Errors
    /// A token is outside the vocabulary.
    pub fn prepare(&self, model: &Gemma3, trees: Vec<TokenTree>, step: u64) -> Result<PreparedWindow> {
        let scored = trees.iter().map(TokenTree::num_scored).sum::<f64>().max(1.0);
        let bucket = model.device().driver().captures_graphs().then(|| Bucket::of(&trees));
        let objective = Objective { divisor: scored, label_smoothing: self.regularization.label_smoothing };
        let prepare = |(i, tree): (usize, TokenTree)| {
            let noise = self.noise(&tree, step, i as u64, model.config.hidden_size);
            let random = Random { noise, dropout_key: self.dropout_key(model, step, i as u64) };
            Prepared::new(model, tree, objective, random, bucket)
        };
        let batches = trees.into_iter().enumerate().map(prepare).collect::<Result<_>>()?;
        Ok(PreparedWindow { batches, bucket, step })
    }

    /// Queues one update, with `asks` up to the norm of its gradient. Returns before the device has done it.
    ///
    /// # Errors
    /// The device fails, or `window` is for another update than `hyper`.
    pub fn queue(&mut self, model: &mut Gemma3, window: PreparedWindow, hyper: &AdamW, asks: bool) -> Result<Queued> {
        let PreparedWindow { batches, bucket, step } = window;
        if step != hyper.step {
            bail!("internal: micro-batches of update {step} for update {}", hyper.step);
        }
        self.plan.set(hyper, model.trained())?;
        match (bucket, self.graphs.clone()) {
            (Some(bucket), Some(graphs)) => {
                let size = Size { batches: batches.len(), bucket, updates: !asks };
                graphs.run(size, batches, |batches| self.launch(model, batches, !asks))?;
            }
            _ => {
                graphs::Inputs::send(&batches)?;
                self.launch(model, &batches, !asks)?;
            }
        }
        Ok(Queued { asks, step })
    }

    /// Waits for a step and tells `sees` what was measured; where it asks, true lets the update be done.
    ///
    /// # Errors
    /// The device fails.
    pub fn finish(
        &mut self,
        model: &mut Gemma3,
        queued: Queued,
        sees: impl FnOnce(&StepResult) -> bool,
    ) -> Result<StepResult> {
        let results = self.results.read()?;
        let result = StepResult { sums: results.into(), grad_norm: results.grad_norm };
        let accepted = sees(&result) || !queued.asks;
        if queued.asks && accepted {
            self.update(model)?;
        }
        if accepted && result.is_finite() {
            model.trained_mut().updated(queued.step);
        }
        Ok(result)
    }

    /// The noise of micro-batch `number` of update `step`: the same whenever it is made.
    fn noise(&self, tree: &TokenTree, step: u64, number: u64, d: usize) -> Option<Noise> {
        let Regularization { neftune_noise_alpha: alpha, seed, .. } = self.regularization;
        if alpha == 0.0 {
            return None;
        }
        let longest = tree.positions.iter().max().map_or(1, |&position| position as usize + 1);
        let rng = generator(seed, step, number);
        Some(Noise { amplitude: alpha / ((longest * d) as f64).sqrt(), rng })
    }

    /// What the dropout of a LoRA in micro-batch `number` of update `step` follows from.
    fn dropout_key(&self, model: &Gemma3, step: u64, number: u64) -> Option<[u32; 2]> {
        model.adapter().filter(|adapter| adapter.lora.dropout > 0.0)?;
        // No update has such a number: the noise has other streams.
        let mut rng = generator(self.regularization.seed, step | 1 << 63, number);
        Some([rng.random(), rng.random()])
    }

    /// Queues the step, all of it if it `updates`, else up to the gradient's norm.
    fn launch(&mut self, model: &mut Gemma3, batches: &[Prepared], updates: bool) -> Result<()> {
        self.results.zero()?;
        self.gradients.begin_step();
        for Prepared { batch, targets, .. } in batches {
            let by_rows = if batch.rows() > MOST_KEPT_ROWS { Recompute::Selective } else { Recompute::Nothing };
            let tape = Tape::recording(model.device(), &mut self.gradients);
            let mut tape = tape.recomputing(self.recompute.unwrap_or(by_rows));
            let hidden = model.forward(&mut tape, batch, None)?;
            linear_cross_entropy_into(&mut tape, &hidden, &model.embedding(), targets, &mut self.results)?;
            drop(hidden);
            tape.backward()?;
        }
        match self.gradients.sums_of_squares() {
            Some(sums) => clip_factor_of_sums(&mut self.results, &sums, self.max_grad_norm)?,
            None => clip_factor(&mut self.results, &self.gradients.values, self.max_grad_norm)?,
        }
        if updates { self.update(model) } else { Ok(()) }
    }

    /// Room for as many numbers as are trained: between two updates nobody needs what the gradients were.
    fn room(&mut self) -> &mut Tensor {
        &mut self.gradients.values
    }

    /// Queues the update of the weights.
    fn update(&mut self, model: &mut Gemma3) -> Result<()> {
        let moments = Moments { m: &mut self.m, v: &mut self.v };
        adamw(model.trained_mut(), moments, &self.gradients.values, &self.plan, &self.results)
    }
}

/// Random numbers for micro-batch `number`.
fn generator(seed: u64, stream: u64, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    // No micro-batch needs so many words.
    rng.set_word_pos(u128::from(number) << 40);
    rng
}

impl graphs::Inputs for Vec<Prepared> {
    fn send(&self) -> Result<()> {
        self.iter().try_for_each(|batch| batch.inputs.send())
    }

    fn replace(&self, new: &Self) -> Result<()> {
        self.iter().zip(new).try_for_each(|(known, new)| known.inputs.replace(&new.inputs))
    }
}
