//! cross_entropy: loss of a chunk of logits, turned in place into their gradient. The contract is in kernels/engine.h.

use std::ffi::c_void;

use rayon::prelude::*;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{Real, Scalar, max_of, sum_of, vectorized};
use crate::device::bindings::{engine_dtype, engine_status, engine_step_results, engine_stream};

/// Elements of a row that are summed up in A.
const BLOCK: usize = 1024;

pub unsafe extern "C" fn cross_entropy(
    logits: *mut c_void,
    results: *mut engine_step_results,
    _target_logits: *mut c_void,
    _row_sums: *mut c_void,
    starts: *const u32,
    ids: *const u32,
    weights: *const f32,
    scale: *const f64,
    smoothing: f32,
    r: u32,
    v: u32,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (r, v) = (r as usize, v as usize);
    if r == 0 || v == 0 {
        return engine_status::ENGINE_OK;
    }
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract; the targets of these rows end where the last start says.
            let (logits, starts) = unsafe { (elements_mut::<T>(logits, r * v), elements::<u32>(starts.cast(), r + 1)) };
            let m = starts[r] as usize;
            // SAFETY: as above.
            let (ids, weights) = unsafe { (elements::<u32>(ids.cast(), m), elements::<f32>(weights.cast(), m)) };
            // SAFETY: as above; the scale is there or null.
            let scale = unsafe { scale.as_ref().copied() };
            let smoothing = f64::from(smoothing);
            let row = |(row, logits): (usize, &mut [T])| {
                let range = starts[row] as usize..starts[row + 1] as usize;
                let targets = Targets { ids: &ids[range.clone()], weights: &weights[range] };
                vectorized!(loss_row(logits, &targets, scale, smoothing))
            };
            let rows: Vec<Sums> = logits.par_chunks_mut(v).enumerate().map(row).collect();
            // SAFETY: as above.
            let results = unsafe { &mut *results };
            for row in rows {
                results.loss += row.loss;
                results.entropy += row.entropy;
                results.correct += row.correct;
                results.scored += row.scored;
            }
        })
    })
}

/// The targets of one row.
struct Targets<'a> {
    ids: &'a [u32],
    weights: &'a [f32],
}

impl Targets<'_> {
    fn each(&self) -> impl Iterator<Item = (usize, f64)> {
        self.ids.iter().zip(self.weights).map(|(&id, &weight)| (id as usize, f64::from(weight)))
    }
}

/// What a row adds to the results.
#[derive(Default)]
struct Sums {
    loss: f64,
    entropy: f64,
    correct: f64,
    scored: f64,
}

/// A row's loss; with a scale, z becomes the gradient of scale * loss. `smoothing` of each target's probability is spread over
/// all of z. Powers are computed twice rather than kept: that costs less than a row of A.
#[inline(always)]
fn loss_row<T: Scalar>(z: &mut [T], targets: &Targets<'_>, scale: Option<f64>, smoothing: f64) -> Sums {
    let max = max_of(z);
    let mut sums = Sums::default();
    let first_max = || z.iter().position(|x| x.wide() == max);
    let hit = targets.ids.iter().any(|&id| z[id as usize].wide() == max).then(first_max).flatten();
    let logits: Vec<T::Acc> = targets.ids.iter().map(|&id| z[id as usize].wide()).collect();
    let spread = if smoothing > 0.0 { smoothing * mean(z) } else { 0.0 };
    let (sum, moment) = exponentials(z, max);
    let lse = max.to_f64() + sum.ln();
    let entropy = sum.ln() - moment / sum;
    for ((id, w), logit) in targets.each().zip(&logits) {
        sums.loss += w * (lse - (1.0 - smoothing) * logit.to_f64() - spread);
        sums.entropy += w * entropy;
        sums.correct += if hit == Some(id) { w } else { 0.0 };
        sums.scored += w;
    }
    if let Some(scale) = scale {
        let factor = T::Acc::from_f64(sums.scored * scale / sum);
        let spread = T::Acc::from_f64(-sums.scored * scale * smoothing / z.len() as f64);
        for z in z.iter_mut() {
            *z = T::narrow((z.wide() - max).exp() * factor + spread);
        }
        for ((id, _), logit) in targets.each().zip(logits) {
            let own = targets.each().filter(|(other, _)| *other == id);
            let own = own.map(|(_, w)| T::Acc::from_f64(-w * scale * (1.0 - smoothing)));
            z[id] = T::narrow(own.fold((logit - max).exp() * factor + spread, |sum, term| sum + term));
        }
    }
    sums
}

/// The mean of z.
#[inline(always)]
fn mean<T: Scalar>(z: &[T]) -> f64 {
    let sums = z.chunks(BLOCK).map(|block| sum_of([block], |[z]| z.wide()).to_f64());
    sums.sum::<f64>() / z.len() as f64
}

/// The sums of exp(z - max) and of (z - max) * exp(z - max).
#[inline(always)]
fn exponentials<T: Scalar>(z: &[T], max: T::Acc) -> (f64, f64) {
    let (mut sum, mut moment) = (0.0, 0.0);
    let far = T::Acc::from_f64(-1000.0);
    let (mut powers, mut terms) = ([T::Acc::ZERO; BLOCK], [T::Acc::ZERO; BLOCK]);
    for block in z.chunks(BLOCK) {
        let n = block.len();
        let (powers, terms) = (&mut powers[..n], &mut terms[..n]);
        for i in 0..n {
            let shifted = block[i].wide() - max;
            powers[i] = shifted.exp();
            // Far below the maximum exp is 0 and the term's limit is 0, not 0 * -inf.
            terms[i] = if shifted < far { far } else { shifted } * powers[i];
        }
        sum += sum_of([&*powers], |[power]| power).to_f64();
        moment += sum_of([&*terms], |[term]| term).to_f64();
    }
    (sum, moment)
}
