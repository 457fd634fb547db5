//! sample: the next token of each row of logits. The contract is in kernels/engine.h.

use std::cmp::Ordering;
use std::ffi::c_void;

use rayon::prelude::*;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{Real, Scalar, max_of, sum_of, vectorized};
use crate::device::bindings::{engine_dtype, engine_sampling, engine_status, engine_stream};

pub unsafe extern "C" fn sample(
    tokens: *mut u32,
    _best: *mut u64,
    logits: *const c_void,
    uniforms: *const f32,
    sampling: *const engine_sampling,
    r: u32,
    v: u32,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (r, v) = (r as usize, v as usize);
    if v == 0 {
        return engine_status::ENGINE_OK;
    }
    run(|| {
        // SAFETY: sampling is there or null.
        if let Some(sampling) = unsafe { sampling.as_ref() } {
            assert!(sampling.temperature > 0.0, "a temperature of {}", sampling.temperature);
        }
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract.
            let (tokens, logits) = unsafe { (elements_mut::<u32>(tokens.cast(), r), elements::<T>(logits, r * v)) };
            // SAFETY: as above; sampling is there or null, and the numbers are there with it.
            let draws = unsafe { sampling.as_ref().map(|sampling| (sampling, elements::<f32>(uniforms.cast(), r))) };
            tokens.par_iter_mut().zip(logits.par_chunks(v)).enumerate().for_each(|(row, (token, logits))| {
                *token = match draws {
                    None => argmax(logits),
                    Some((sampling, uniforms)) => draw(logits, sampling, f64::from(uniforms[row])),
                };
            });
        })
    })
}

/// Index of the largest logit, the first of equals; NaN is below all.
fn argmax<T: Scalar>(logits: &[T]) -> u32 {
    // NaN is never the largest, nor equal to it.
    vectorized!({
        let largest = max_of(logits);
        logits.iter().position(|x| x.wide() == largest).unwrap_or(0) as u32
    })
}

/// A token and its logit.
#[derive(Clone, Copy)]
struct Candidate {
    token: u32,
    logit: f64,
}

/// Larger logits first, of equals the first token.
fn descending(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

fn draw<T: Scalar>(logits: &[T], sampling: &engine_sampling, uniform: f64) -> u32 {
    // -0 becomes 0, and NaN is never drawn.
    let candidate = |(token, x): (usize, &T)| Candidate { token: token as u32, logit: x.wide().to_f64() + 0.0 };
    let numbers = logits.iter().enumerate().map(candidate).filter(|c| !c.logit.is_nan());
    let mut candidates: Vec<Candidate> = numbers.collect();
    if candidates.is_empty() {
        return 0;
    }
    let top_k = sampling.top_k as usize;
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k - 1, descending);
        candidates.truncate(top_k);
    }
    candidates.sort_unstable_by(descending);
    let (largest, temperature) = (candidates[0].logit, f64::from(sampling.temperature));
    // The largest may be infinite: less itself it would be NaN.
    let weight = |c: &Candidate| if c.logit == largest { 1.0 } else { ((c.logit - largest) / temperature).exp() };
    let mut weights: Vec<f64> = candidates.iter().map(weight).collect();
    let total = sum_of([&weights], |[weight]| weight);
    // The smallest set of most likely tokens whose probabilities reach top_p.
    let mut reached = 0.0;
    let keep = weights.iter().position(|w| {
        reached += w / total;
        reached >= f64::from(sampling.top_p)
    });
    weights.truncate(keep.map_or(weights.len(), |last| last + 1));
    let mut point = uniform * weights.iter().sum::<f64>();
    let drawn = weights.iter().position(|&w| {
        point -= w;
        point < 0.0
    });
    // Where rounding leaves nothing: the last that can be drawn, as the first can.
    let last = weights.iter().rposition(|&w| w > 0.0);
    candidates[drawn.or(last).unwrap_or(0)].token
}
