//! Which token comes next: the likeliest, or one drawn as transformers draws it (temperature, then top-k, then top-p).

use crate::device::Tensor;
use crate::dispatch;
use crate::error::Result;
use crate::host::simd::{Real, sum_of};

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

/// The next token of each row of logits (R, V). `sampling` None: the likeliest, the first of equals. Otherwise row r
/// draws with `uniforms[r]`, a number in 0..1.
pub fn choose(logits: &Tensor, uniforms: &[f32], sampling: Option<&Sampling>) -> Result<Vec<u32>> {
    if let Some(driver) = logits.device().driver() {
        return device::choose(driver, logits, uniforms, sampling);
    }
    let vocabulary = logits.shape()[1];
    let tokens = dispatch!(logits.dtype(), T => {
        let rows = logits.as_slice::<T>().chunks_exact(vocabulary).zip(uniforms);
        let token = |(row, &uniform): (&[T], &f32)| match sampling {
            Some(sampling) => draw(row, sampling, uniform.into()),
            None => argmax(row),
        };
        rows.map(|row| token(row) as u32).collect()
    });
    Ok(tokens)
}

/// Index of the largest logit, the first of equals.
fn argmax<T: PartialOrd>(logits: &[T]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

fn draw<T: Real>(logits: &[T], sampling: &Sampling, uniform: f64) -> usize {
    let mut candidates: Vec<(usize, f64)> = logits.iter().map(|x| x.to_f64()).enumerate().collect();
    let descending = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if sampling.top_k > 0 && sampling.top_k < candidates.len() {
        candidates.select_nth_unstable_by(sampling.top_k - 1, descending);
        candidates.truncate(sampling.top_k);
    }
    candidates.sort_by(descending);
    let largest = candidates[0].1;
    let mut weights: Vec<f64> = candidates.iter().map(|&(_, x)| ((x - largest) / sampling.temperature).exp()).collect();
    let total = sum_of(weights.len(), |i| weights[i]);
    // The smallest set of most likely tokens whose probabilities reach top_p.
    let mut reached = 0.0;
    let keep = weights.iter().position(|w| {
        reached += w / total;
        reached >= sampling.top_p
    });
    weights.truncate(keep.map_or(weights.len(), |last| last + 1));
    let mut point = uniform * weights.iter().sum::<f64>();
    let drawn = weights.iter().position(|&w| {
        point -= w;
        point < 0.0
    });
    candidates[drawn.unwrap_or(weights.len() - 1)].0
}

mod device {
    use std::ptr;

    use super::Sampling;
    use crate::device::bindings::engine_sampling;
    use crate::device::driver::{Driver, engine_dtype};
    use crate::device::{DType, Purpose, Tensor};
    use crate::error::Result;
    use crate::launch;

    /// The next token of each row of logits; row r draws with `uniforms[r]`.
    pub fn choose(
        driver: &dyn Driver,
        logits: &Tensor,
        uniforms: &[f32],
        sampling: Option<&Sampling>,
    ) -> Result<Vec<u32>> {
        let (rows, vocabulary) = (logits.shape()[0], logits.shape()[1]);
        let scratch = logits.device().of(Purpose::Scratch);
        let mut tokens = Tensor::empty(&scratch, &[rows], DType::U32)?;
        let mut drawn = Tensor::empty(&scratch, &[rows], DType::F32)?;
        drawn.upload(uniforms)?;
        let sampling = sampling.map(|s| engine_sampling {
            temperature: s.temperature as f32,
            top_k: s.top_k as u32,
            top_p: s.top_p as f32,
        });
        let how = sampling.as_ref().map_or(ptr::null(), ptr::from_ref);
        let (r, v, dtype, stream) = (rows as u32, vocabulary as u32, engine_dtype(logits.dtype()), driver.stream());
        let (out, drawn) = (tokens.address_mut()?.cast(), drawn.address().cast());
        // SAFETY: tensors of the shapes that engine.h asks for.
        unsafe {
            launch!(driver.kernels(), sample { r, v }(out, logits.address(), drawn, how, r, v, dtype, stream))?;
        }
        tokens.download()
    }
}
