//! One optimizer step: forward and backward of every micro-batch, clip, AdamW.
//!
//! On a device the host only queues, and reads loss and norm once at the end. Batches are padded to a few sizes
//! ([`Bucket`]): the second step of a size is captured into a graph, later ones replay it, so that a step costs one
//! upload, one launch and one download.

use std::collections::HashMap;
use std::rc::Rc;

use crate::autograd::Gradients;
use crate::autograd::Tape;
use crate::batch::inputs::Inputs;
use crate::batch::tree::TokenTree;
use crate::device::driver::{Driver, Graph};
use crate::device::{DType, Purpose, Tensor};
use crate::err;
use crate::error::Result;
use crate::model::gemma3::{Batch, Gemma3};
use crate::ops::adamw::{self, AdamW, AdamWState, adamw};
use crate::ops::clip::{self, clip_factor, global_norm};
use crate::ops::cross_entropy::{LossSums, Targets, linear_cross_entropy, linear_cross_entropy_into};

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
    /// Whether the update was applied: it is not when the loss or the norm is not finite.
    pub fn is_finite(&self) -> bool {
        self.sums.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// What stays between steps: gradients, moments, and on a device the graphs.
pub struct Step {
    gradients: Gradients,
    m: Tensor,
    v: Tensor,
    max_grad_norm: f64,
    on_device: Option<OnDevice>,
}

struct OnDevice {
    plan: adamw::device::Plan,
    /// Four sums of the loss in f64, then norm and factor in f32, in the room of one more f64.
    results: Tensor,
    /// By the number of micro-batches and their size. None: seen once, not captured yet.
    graphs: HashMap<(usize, Bucket), Option<Captured>>,
    use_graphs: bool,
}

struct Captured {
    graph: Box<dyn Graph>,
    /// What the graph reads beside weights: its addresses must stay, those of the rotation's tables too.
    batches: Vec<Prepared>,
}

/// The size that batches are padded to: rows, rows with a target, targets.
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

/// A micro-batch on the device.
struct Prepared {
    inputs: Rc<Inputs>,
    batch: Batch,
    targets: Targets,
}

impl Step {
    /// Allocates gradients and moments. `use_graphs`: capture and replay, on a device.
    pub fn new(model: &Gemma3, weight_decay: f64, max_grad_norm: f64, use_graphs: bool) -> Result<Self> {
        let device = model.device();
        let moments = device.of(Purpose::Optimizer);
        let on_device = match device.driver() {
            None => None,
            Some(_) => Some(OnDevice {
                plan: adamw::device::Plan::new(&moments, model.params.spans(), weight_decay)?,
                results: Tensor::empty(&moments, &[5], DType::F64)?,
                graphs: HashMap::new(),
                use_graphs,
            }),
        };
        let (m, v) = (model.params.zeros(&moments)?, model.params.zeros(&moments)?);
        Ok(Self { gradients: model.params.gradients()?, m, v, max_grad_norm, on_device })
    }

    /// AdamW's first and second moments, laid out as the parameters.
    pub fn moments(&self) -> (&Tensor, &Tensor) {
        (&self.m, &self.v)
    }

    /// Puts moments back.
    ///
    /// # Panics
    /// When they are not as many as the parameters.
    pub fn set_moments(&mut self, [m, v]: &[Vec<f32>; 2]) -> Result<()> {
        self.m.upload(m)?;
        self.v.upload(v)
    }

    /// One update from the micro-batches of a window. When loss or norm are not finite, the weights stay as they are.
    pub fn run(&mut self, model: &mut Gemma3, trees: Vec<TokenTree>, hyper: &AdamW) -> Result<StepResult> {
        let scored = trees.iter().map(TokenTree::num_scored).sum::<f64>().max(1.0);
        if self.on_device.is_some() {
            self.on_device(model, trees, scored, hyper)
        } else {
            self.on_cpu(model, &trees, scored, hyper)
        }
    }

    /// Forward and backward of every micro-batch; all divide by the count of the whole window.
    fn on_cpu(&mut self, model: &mut Gemma3, trees: &[TokenTree], scored: f64, hyper: &AdamW) -> Result<StepResult> {
        let mut sums = LossSums::default();
        for tree in trees {
            let mut tape = Tape::recording(model.device(), &mut self.gradients);
            let hidden = model.forward(&mut tape, &model.batch(tree)?, None)?;
            sums += linear_cross_entropy(&mut tape, &hidden, &model.embedding(), &tree.targets, scored)?;
            drop(hidden);
            tape.backward()?;
        }
        let result = StepResult { sums, grad_norm: global_norm(&self.gradients.values) };
        if result.is_finite() {
            let hyper = AdamW { clip: clip_factor(result.grad_norm, self.max_grad_norm), ..*hyper };
            let (spans, params) = model.params.parts();
            let gradients = &mut self.gradients.values;
            adamw(AdamWState { params, gradients, m: &mut self.m, v: &mut self.v }, spans, &hyper)?;
        }
        Ok(result)
    }

    fn on_device(
        &mut self,
        model: &mut Gemma3,
        trees: Vec<TokenTree>,
        scored: f64,
        hyper: &AdamW,
    ) -> Result<StepResult> {
        let bucket = Bucket::of(&trees);
        let key = (trees.len(), bucket);
        let batches: Vec<Prepared> = trees
            .into_iter()
            .map(|tree| prepare(model, tree.padded(bucket.rows), scored, bucket))
            .collect::<Result<_>>()?;
        let mut own = self.on_device.take().ok_or_else(|| err!("internal: no device"))?;
        let result = self.queue_step(&mut own, model, key, batches, hyper);
        self.on_device = Some(own);
        result
    }

    fn queue_step(
        &mut self,
        own: &mut OnDevice,
        model: &mut Gemma3,
        key: (usize, Bucket),
        batches: Vec<Prepared>,
        hyper: &AdamW,
    ) -> Result<StepResult> {
        own.plan.set(hyper)?;
        let device = model.device().clone();
        let driver = device.driver().ok_or_else(|| err!("internal: no device"))?;
        let send = || batches.iter().try_for_each(|batch| batch.inputs.send());
        match own.graphs.get(&key) {
            _ if !own.use_graphs => {
                send()?;
                self.queue(own, model, &batches)?;
            }
            Some(Some(captured)) => {
                for (known, new) in captured.batches.iter().zip(&batches) {
                    known.inputs.replace(&new.inputs)?;
                }
                captured.graph.launch()?;
            }
            Some(None) => {
                let graph = device.for_graph(|| {
                    send()?;
                    self.capture(driver, own, model, &batches)
                })?;
                graph.launch()?;
                own.graphs.insert(key, Some(Captured { graph, batches }));
            }
            None => {
                // The first of its size: memory is allocated, algorithms are chosen, modules are loaded.
                device.for_graph(|| {
                    send()?;
                    self.queue(own, model, &batches)
                })?;
                if own.graphs.len() < MOST_GRAPHS {
                    own.graphs.insert(key, None);
                }
            }
        }
        read(&own.results)
    }

    fn capture(
        &mut self,
        driver: &dyn Driver,
        own: &mut OnDevice,
        model: &mut Gemma3,
        batches: &[Prepared],
    ) -> Result<Box<dyn Graph>> {
        driver.begin_capture()?;
        let queued = self.queue(own, model, batches);
        // The capture must end whatever happened in it.
        let graph = driver.end_capture();
        queued?;
        graph
    }

    /// Queues the whole step.
    fn queue(&mut self, own: &mut OnDevice, model: &mut Gemma3, batches: &[Prepared]) -> Result<()> {
        own.results.zero()?;
        for Prepared { batch, targets, .. } in batches {
            let mut tape = Tape::recording(model.device(), &mut self.gradients);
            let hidden = model.forward(&mut tape, batch, None)?;
            linear_cross_entropy_into(&mut tape, &hidden, &model.embedding(), targets, &mut own.results)?;
            drop(hidden);
            tape.backward()?;
        }
        let results = own.results.address_mut()?;
        let norm = results.cast::<f32>().wrapping_add(2 * LOSS_SUMS);
        let factor = norm.wrapping_add(1);
        // SAFETY: norm and factor lie in the fifth number of the results, the loss is the first.
        unsafe {
            clip::device::queue((norm, factor), &self.gradients.values, results.cast(), self.max_grad_norm)?;
            own.plan.queue(&mut model.params, &mut self.gradients.values, (&mut self.m, &mut self.v), factor)
        }
    }
}

/// Numbers in f64 at the front of a step's results.
const LOSS_SUMS: usize = 4;

fn prepare(model: &Gemma3, tree: TokenTree, scored: f64, bucket: Bucket) -> Result<Prepared> {
    let inputs = Inputs::new(model.device(), true);
    let batch = model.batch_of(&inputs, &tree, (&tree.ids, &tree.slots, &tree.positions), false)?;
    let bounds = (bucket.scored_rows, bucket.targets);
    let targets = Targets::sent(&inputs, &tree.targets, scored, tree.len(), bounds);
    Ok(Prepared { inputs, batch, targets })
}

/// Waits for the step and reads what it measured.
fn read(results: &Tensor) -> Result<StepResult> {
    let numbers = results.download::<f64>()?;
    let grad_norm = f32::from_bits(numbers[LOSS_SUMS].to_bits() as u32);
    Ok(StepResult { sums: LossSums::of(&numbers), grad_norm: f64::from(grad_norm) })
}
