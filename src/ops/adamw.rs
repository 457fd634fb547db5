//! adamw: decoupled weight decay Adam (torch.optim.AdamW) over a flat run of parameters
//!
//! ```text
//! g' = clip_factor * g;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
//! p = p (1 - lr decay) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//! ```
//!
//! Shapes    parameters, m, v, gradients (n) A
//! Numerics  master weights and moments in A, whatever the compute type; a step's constants are computed in f64. Beside compute in
//!           bf16 the weights are in halves, of which ops read the upper one. An update is often too small for it: rounded at
//!           random, by numbers that follow from index and step, it is not lost.
//!           A copy that is rounded to blocks is made in a launch of its own ([`Params::rounded_in`])
//! Order     elementwise
//! Cost      28 bytes per parameter, whole or in halves: memory bound

use crate::autograd::{Params, Span, WeightsToUpdate};
use crate::device::bindings::engine_adamw_step;
use crate::device::driver::{Access, engine_dtype};
use crate::device::{DType, Device, Tensor};
use crate::error::Result;
use crate::launch;
use crate::ops::results::StepResults;

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub learning_rate: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
}

impl AdamW {
    fn numbers(&self, split_by: u64) -> engine_adamw_step {
        let AdamW { learning_rate, betas: (beta1, beta2), eps, weight_decay, step } = *self;
        let power = |beta: f64| beta.powi(step as i32);
        engine_adamw_step {
            learning_rate,
            weight_decay,
            eps,
            beta1,
            beta2,
            one_minus_beta1: 1.0 - beta1,
            one_minus_beta2: 1.0 - beta2,
            rate: learning_rate / (1.0 - power(beta1)),
            root: 1.0 / (1.0 - power(beta2)).sqrt(),
            step: step as f64,
            split_by: split_by as f64,
        }
    }
}

/// What an update reads beside the flat tensors, in device memory, so that a captured step can be replayed: which
/// parameters decay, and the numbers of the next step.
pub struct Plan {
    /// (G + 1) u64, as twice as many words: group g covers `starts[g] .. starts[g + 1]`.
    starts: Tensor,
    /// (G) f32: 1 where the group decays, else 0.
    decays: Tensor,
    /// One `engine_adamw_step`.
    step: Tensor,
}

impl Plan {
    /// Neighbours that decay alike are one group.
    pub fn new(device: &Device, spans: &[Span]) -> Result<Self> {
        let (mut starts, mut decays) = (Vec::new(), Vec::new());
        for group in spans.chunk_by(|a, b| a.decay == b.decay) {
            starts.push(group[0].offset as u64);
            decays.push(if group[0].decay { 1.0f32 } else { 0.0 });
        }
        starts.push(spans.last().map_or(0, |span| span.range().end) as u64);
        let words: &[u32] = bytemuck::cast_slice(&starts);
        let numbers = size_of::<engine_adamw_step>() / size_of::<f64>();
        let mut plan = Self {
            starts: Tensor::empty(device, &[words.len()], DType::U32)?,
            decays: Tensor::empty(device, &[decays.len()], DType::F32)?,
            step: Tensor::empty(device, &[numbers], DType::F64)?,
        };
        plan.starts.upload(words)?;
        plan.decays.upload(&decays)?;
        Ok(plan)
    }

    /// Sends the numbers of the next step of `params`.
    pub fn set(&mut self, hyper: &AdamW, params: &Params) -> Result<()> {
        let s = hyper.numbers(params.split_by().unwrap_or(0));
        let betas = [s.beta1, s.beta2, s.one_minus_beta1, s.one_minus_beta2];
        let rest = [s.rate, s.root, s.step, s.split_by];
        self.step.upload(&[&[s.learning_rate, s.weight_decay, s.eps][..], &betas, &rest].concat())
    }
}

/// The flat tensors that an update changes beside the parameters, all of their length.
pub struct Moments<'a> {
    pub m: &'a mut Tensor,
    pub v: &'a mut Tensor,
}

/// Queues one update of every parameter, by gradients times the results' clip_factor. Nothing happens when that factor is NaN.
/// If something did, the parameters are to be told ([`Params::updated`]), also when a graph does it again.
pub fn adamw(
    params: &mut Params,
    moments: Moments<'_>,
    gradients: &Tensor,
    plan: &Plan,
    results: &StepResults,
) -> Result<()> {
    let (n, dtype) = (params.len() as u64, engine_dtype(params.master_dtype()));
    let WeightsToUpdate { parameters, copy } = params.for_update();
    let (device, update) = (gradients.device().clone(), |x: &mut Tensor| x.address_to(x.len(), Access::Update));
    let driver = device.driver();
    let copy = copy.map_or(Ok(std::ptr::null_mut()), update)?;
    let gradients = gradients.address();
    let (values, m, v) = (update(parameters)?, update(moments.m)?, update(moments.v)?);
    let (results, step, starts) = (results.address(), plan.step.address().cast(), plan.starts.address().cast());
    let (decays, groups, stream) = (plan.decays.address().cast(), plan.decays.len() as u32, driver.stream());
    // SAFETY: flat runs of n elements of one type, or of the halves of them; the plan's arrays are of these parameters.
    unsafe {
        launch!(
            driver,
            adamw { n }(values, m, v, copy, gradients, results, step, starts, decays, groups, n, dtype, stream)
        )?;
    }
    params.round_to_blocks()
}
