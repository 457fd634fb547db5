//! Which token comes next: the likeliest, or one drawn as transformers draws it (temperature, then top-k, then top-p).

use crate::batch::inputs::DeviceArray;
use crate::device::Tensor;
use crate::error::Result;
use crate::ops::sample::{Draw, queue_sample};

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it: below 1 likely tokens become likelier.
    pub temperature: f64,
    /// Only the so many likeliest tokens. 0: no limit.
    pub top_k: usize,
    /// Only the fewest likeliest tokens whose probabilities add up to this. 1: no limit.
    pub top_p: f64,
    /// Each sequence draws from its own stream of this seed: an output does not depend on what it is decoded beside.
    pub seed: u64,
}

/// Queues the choice of the next token of each row of logits (R, V); the tokens (R) stay on the device. `sampling` None: the
/// likeliest, the first of equals. Otherwise row r draws with number r of `uniforms`, which are in 0..1.
pub fn choose(logits: &Tensor, uniforms: &DeviceArray, sampling: Option<&Sampling>) -> Result<Tensor> {
    let draw = sampling.map(|s| Draw { temperature: s.temperature, top_k: s.top_k, top_p: s.top_p });
    queue_sample(logits, uniforms, draw.as_ref())
}
