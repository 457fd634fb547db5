//! cross_entropy: the head fused with the loss; the logits are never held
//!
//! ```text
//! z = hidden weight^T;  lse = log sum exp z;  loss = sum_t w_t (lse - z[id_t]) / divisor
//! ```
//!
//! Shapes    hidden, dhidden (N, D)     weight, dweight (V, D)     targets: (row, id, w), sorted by row
//! Backward  dz = (w_row softmax(z) - sum_t w_t onehot(id_t)) / divisor;  dhidden = dz weight;  dweight += dz^T hidden
//! Numerics  f32 inside; sums over the vocabulary in blocks that are folded in f64
//! Cost      only rows with a target reach the head. 2 * R * V * D FLOP forward, twice that backward. Memory: a chunk
//!           of rows at a time, at most [`CHUNK_BYTES`] of logits, turned in place into their gradient
//!
//! Value and gradient come from one pass, so that logits are computed once; while recording, the forward therefore adds
//! to dweight right away and keeps dhidden for the tape.

use crate::backend::gemm::{Matrix, MatrixMut, Store, Threads, gemm};
use crate::data::tree::Target;
use crate::dispatch;
use crate::error::Result;
use crate::model::params::Param;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Most bytes of logits in memory at once.
pub const CHUNK_BYTES: usize = 384 << 20;

/// Sums over the scored tokens of a batch; divide by `scored` for means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSums {
    /// Sum of w * (-log p(target)), in nats.
    pub loss: f64,
    /// Sum of w * entropy of the predicted distribution, in nats.
    pub entropy: f64,
    /// Sum of w where the target has the largest logit (the first of equals).
    pub correct: f64,
    /// Sum of w: the number of scored tokens.
    pub scored: f64,
}

impl std::ops::AddAssign for LossSums {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.entropy += other.entropy;
        self.correct += other.correct;
        self.scored += other.scored;
    }
}

/// Loss of `targets` predicted from hidden (N, D) through the tied head `weight` (V, D).
///
/// While recording, the gradient is that of `loss / divisor`; the divisor is the number of scored tokens in the whole
/// accumulation window. No target at all: all sums are 0 and so is the gradient.
pub fn linear_cross_entropy(
    tape: &mut Tape,
    hidden: &Var,
    weight: &Param,
    targets: &[Target],
    divisor: f64,
) -> Result<LossSums> {
    let (v, d) = (weight.shape()[0], weight.shape()[1]);
    let dtype = hidden.value.dtype();
    let rows = cpu::group_by_row(targets);
    let most_rows = (CHUNK_BYTES / (v * dtype.size())).max(1);
    // Chunks of even size: the last one should not be a sliver.
    let chunk_rows = rows.len().div_ceil(rows.len().div_ceil(most_rows).max(1)).max(1);
    let mut sums = LossSums::default();
    let mut dhidden = tape.is_recording().then(|| Tensor::zeros(tape.device(), hidden.value.shape(), dtype));
    for rows in rows.chunks(chunk_rows) {
        let mut logits = Tensor::empty(tape.device(), &[rows.len(), v], dtype);
        dispatch!(dtype, T => {
            let x = cpu::gather(hidden.value.as_slice::<T>(), rows, d);
            let x = Matrix::new(&x, rows.len(), d);
            let w = Matrix::new(weight.value.as_slice(), v, d);
            gemm(MatrixMut::new(logits.fresh(), rows.len(), v), Store::Write, 1.0, x, w.t(), Threads::All);
            let scale = dhidden.is_some().then_some(1.0 / divisor);
            sums += cpu::loss_rows::<T>(logits.fresh(), rows, v, scale);
            if let (Some(dhidden), Some(gradients)) = (&mut dhidden, tape.gradients()) {
                let dz = Matrix::new(logits.as_slice::<T>(), rows.len(), v);
                let mut dx = vec![0.0; rows.len() * d];
                gemm(MatrixMut::new(&mut dx, rows.len(), d), Store::Write, 1.0, dz, w, Threads::All);
                cpu::scatter(dhidden.as_mut()?, &dx, rows, d);
                gemm(MatrixMut::new(gradients.slice(weight)?, v, d), Store::Accumulate, 1.0, dz.t(), x, Threads::All);
            }
        });
    }
    if let Some(dhidden) = dhidden {
        let hidden = hidden.clone();
        tape.push("cross_entropy", move |ctx| ctx.give(&hidden, dhidden));
    }
    Ok(sums)
}

mod cpu {
    use rayon::prelude::*;

    use super::LossSums;
    use crate::backend::cpu::{Real, max_of, sum_of, vectorized};
    use crate::data::tree::Target;

    /// The targets of one row.
    pub fn group_by_row(targets: &[Target]) -> Vec<&[Target]> {
        targets.chunk_by(|a, b| a.row == b.row).collect()
    }

    pub fn gather<T: Real>(hidden: &[T], rows: &[&[Target]], d: usize) -> Vec<T> {
        rows.iter().flat_map(|row| &hidden[row[0].row as usize * d..][..d]).copied().collect()
    }

    pub fn scatter<T: Real>(dhidden: &mut [T], dx: &[T], rows: &[&[Target]], d: usize) {
        for (row, dx) in rows.iter().zip(dx.chunks_exact(d)) {
            dhidden[row[0].row as usize * d..][..d].copy_from_slice(dx);
        }
    }

    /// Loss sums of a chunk of logits; with a scale, turns the logits into the gradient of scale * loss.
    pub fn loss_rows<T: Real>(logits: &mut [T], rows: &[&[Target]], v: usize, scale: Option<f64>) -> LossSums {
        let per_row: Vec<LossSums> = logits
            .par_chunks_mut(v)
            .zip(rows)
            .map(|(logits, targets)| vectorized(|| loss_row(logits, targets, scale)))
            .collect();
        let mut sums = LossSums::default();
        per_row.into_iter().for_each(|row| sums += row);
        sums
    }

    fn loss_row<T: Real>(z: &mut [T], targets: &[Target], scale: Option<f64>) -> LossSums {
        let max = max_of(z);
        let mut sums = LossSums::default();
        let first_max = || z.iter().position(|&x| x == max);
        let hit = targets.iter().any(|t| z[t.id as usize] == max).then(first_max).flatten();
        let target_logits: Vec<f64> = targets.iter().map(|t| z[t.id as usize].to_f64()).collect();
        let (sum, moment) = exponentials(z, max);
        let lse = max.to_f64() + sum.ln();
        let entropy = sum.ln() - moment / sum;
        for (target, logit) in targets.iter().zip(target_logits) {
            let w = target.weight as f64;
            sums.loss += w * (lse - logit);
            sums.entropy += w * entropy;
            sums.correct += if hit == Some(target.id as usize) { w } else { 0.0 };
            sums.scored += w;
        }
        if let Some(scale) = scale {
            let factor = T::from_f64(sums.scored * scale / sum);
            z.iter_mut().for_each(|x| *x = *x * factor);
            for target in targets {
                z[target.id as usize] += T::from_f64(-(target.weight as f64) * scale);
            }
        }
        sums
    }

    /// Replaces z by exp(z - max); returns the sums of exp(z - max) and of (z - max) * exp(z - max).
    #[inline(always)]
    fn exponentials<T: Real>(z: &mut [T], max: T) -> (f64, f64) {
        const BLOCK: usize = 1024;
        let (mut sum, mut moment) = (0.0, 0.0);
        let mut terms = [T::ZERO; BLOCK];
        for block in z.chunks_mut(BLOCK) {
            let terms = &mut terms[..block.len()];
            for (x, term) in block.iter_mut().zip(terms.iter_mut()) {
                let shifted = *x - max;
                *x = shifted.exp();
                // Far below the maximum exp is 0 and the term's limit is 0, not 0 * -inf.
                *term = if *x > T::ZERO { shifted * *x } else { T::ZERO };
            }
            sum += sum_of(block.len(), |i| block[i]).to_f64();
            moment += sum_of(terms.len(), |i| terms[i]).to_f64();
        }
        (sum, moment)
    }
}
