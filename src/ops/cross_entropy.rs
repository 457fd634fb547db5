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

use std::rc::Rc;

use crate::autograd::Param;
use crate::autograd::{Tape, Var};
use crate::batch::inputs::{Inputs, Slot};
use crate::batch::tree::Target;
use crate::device::{DType, Purpose, Tensor};
use crate::dispatch;
use crate::error::Result;
use crate::host::gemm::{Matrix, MatrixMut, Store, Threads, gemm};

/// Most bytes of logits in memory at once, on the CPU.
pub const CHUNK_BYTES: usize = 384 << 20;
/// And on a device that runs kernels: large, for its products like many rows.
const DEVICE_CHUNK_BYTES: usize = 1 << 30;

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

impl LossSums {
    /// The sums that a loss was added to, [`linear_cross_entropy_into`].
    pub fn of(sums: &[f64]) -> Self {
        Self { loss: sums[0], entropy: sums[1], correct: sums[2], scored: sums[3] }
    }
}

/// What is to be predicted from the rows of a batch, and what the loss is divided by.
pub struct Targets {
    targets: Rc<[Target]>,
    divisor: f64,
    sent: Option<Sent>,
}

/// The targets on a device.
struct Sent {
    /// (R) row of the batch
    rows: Slot,
    /// (R + 1) and (M): targets of row r are `starts[r] .. starts[r + 1]`
    starts: Slot,
    ids: Slot,
    weights: Slot,
    /// (N) place in `rows`, u32::MAX for a row that has no target
    places: Slot,
    /// 1 / divisor
    scale: Slot,
    r: usize,
    m: usize,
}

impl Targets {
    /// Targets sorted by row, for ops on the CPU. The divisor is the number of scored tokens in the whole accumulation
    /// window.
    pub fn new(targets: &[Target], divisor: f64) -> Self {
        Self { targets: targets.into(), divisor, sent: None }
    }

    /// Targets for the device of `inputs`, of a batch of n rows; room is kept for `bounds` (rows, targets), which the
    /// launch then covers: what is free has no target and adds nothing.
    pub fn sent(inputs: &Rc<Inputs>, targets: &[Target], divisor: f64, n: usize, bounds: (usize, usize)) -> Self {
        let mut all = Self::new(targets, divisor);
        if inputs.device().driver().is_none() {
            return all;
        }
        let groups = cpu::group_by_row(targets);
        let rows: Vec<u32> = groups.iter().map(|group| group[0].row).collect();
        let mut starts = vec![0];
        starts.extend(groups.iter().scan(0, |end, group| {
            *end += group.len() as u32;
            Some(*end)
        }));
        let mut places = vec![u32::MAX; n];
        rows.iter().enumerate().for_each(|(place, &row)| places[row as usize] = place as u32);
        let (r, m) = (bounds.0.max(rows.len()), bounds.1.max(targets.len()));
        starts.resize(r + 1, targets.len() as u32);
        let weights: Vec<f32> = targets.iter().map(|t| t.weight).collect();
        all.sent = Some(Sent {
            rows: inputs.push(&rows, r, 0),
            starts: inputs.push(&starts, r + 1, 0),
            ids: inputs.push(&targets.iter().map(|t| t.id).collect::<Vec<_>>(), m, 0),
            weights: inputs.push_f32(&weights, m),
            places: inputs.push(&places, n, u32::MAX),
            scale: inputs.push_f32(&[(1.0 / divisor) as f32], 1),
            r,
            m,
        });
        all
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
    let inputs = Inputs::new(tape.device(), false);
    let targets = Targets::sent(&inputs, targets, divisor, hidden.value.shape()[0], (0, 0));
    inputs.send()?;
    let mut sums = Tensor::zeros(tape.device(), &[4], DType::F64)?;
    linear_cross_entropy_into(tape, hidden, weight, &targets, &mut sums)?;
    Ok(LossSums::of(&sums.download()?))
}

/// [`linear_cross_entropy`] that adds its sums to `sums` (4) f64 on the device: [`LossSums`] in the order of its fields.
/// The host waits for nothing.
pub fn linear_cross_entropy_into(
    tape: &mut Tape,
    hidden: &Var,
    weight: &Param,
    targets: &Targets,
    sums: &mut Tensor,
) -> Result<()> {
    let dhidden = match tape.device().clone().driver() {
        Some(driver) => device::forward(driver, tape, (&hidden.value, weight), targets, sums)?,
        None => on_cpu(tape, hidden, weight, targets, sums)?,
    };
    if let Some(dhidden) = dhidden {
        let hidden = hidden.clone();
        tape.push("cross_entropy", move |ctx| ctx.give(&hidden, dhidden));
    }
    Ok(())
}

/// Adds to the sums, and while recording to dweight; then returns dhidden.
fn on_cpu(
    tape: &mut Tape,
    hidden: &Var,
    weight: &Param,
    targets: &Targets,
    sums: &mut Tensor,
) -> Result<Option<Tensor>> {
    let (v, d) = (weight.shape()[0], weight.shape()[1]);
    let dtype = hidden.value.dtype();
    let (rows, divisor) = (cpu::group_by_row(&targets.targets), targets.divisor);
    let most_rows = (CHUNK_BYTES / (v * dtype.size())).max(1);
    // Chunks of even size: the last one should not be a sliver.
    let chunk_rows = rows.len().div_ceil(rows.len().div_ceil(most_rows).max(1)).max(1);
    let mut total = LossSums::default();
    let rounding = tape.rounding();
    let zeros = || Tensor::zeros(tape.device(), hidden.value.shape(), dtype);
    let mut dhidden = tape.is_recording().then(zeros).transpose()?;
    for rows in rows.chunks(chunk_rows) {
        let mut logits = Tensor::empty(&tape.device().of(Purpose::Scratch), &[rows.len(), v], dtype)?;
        dispatch!(dtype, T => {
            let x = cpu::gather(hidden.value.as_slice::<T>(), rows, d);
            let x = Matrix::new(&x, rows.len(), d);
            let w = Matrix::new(weight.value.as_slice(), v, d);
            gemm(MatrixMut::new(logits.fresh(), rows.len(), v), Store::Write, 1.0, x, w.t(), Threads::All);
            rounding.apply(&mut logits)?;
            let scale = dhidden.is_some().then_some(1.0 / divisor);
            total += cpu::loss_rows::<T>(logits.fresh(), rows, v, scale);
            rounding.apply(&mut logits)?;
            if let (Some(dhidden), Some(gradients)) = (&mut dhidden, tape.gradients()) {
                let dz = Matrix::new(logits.as_slice::<T>(), rows.len(), v);
                let mut dx = vec![0.0; rows.len() * d];
                gemm(MatrixMut::new(&mut dx, rows.len(), d), Store::Write, 1.0, dz, w, Threads::All);
                cpu::scatter(dhidden.as_mut()?, &dx, rows, d);
                gemm(MatrixMut::new(gradients.slice(weight)?, v, d), Store::Accumulate, 1.0, dz.t(), x, Threads::All);
            }
        });
    }
    for (sum, term) in sums.as_mut::<f64>()?.iter_mut().zip([total.loss, total.entropy, total.correct, total.scored]) {
        *sum += term;
    }
    Ok(dhidden)
}

mod device {
    use std::ptr;

    use super::{DEVICE_CHUNK_BYTES, Sent, Targets};
    use crate::autograd::Param;
    use crate::autograd::Tape;
    use crate::device::driver::{Driver, engine_dtype};
    use crate::device::{DType, Device, Purpose, Tensor};
    use crate::err;
    use crate::error::Result;
    use crate::launch;
    use crate::ops::embedding::device::gather;
    use crate::ops::linear::device as products;

    /// As `on_cpu`.
    pub fn forward(
        driver: &dyn Driver,
        tape: &mut Tape,
        (hidden, weight): (&Tensor, &Param),
        targets: &Targets,
        sums: &mut Tensor,
    ) -> Result<Option<Tensor>> {
        let sent = targets.sent.as_ref().ok_or_else(|| err!("internal: targets are not on the device"))?;
        let (v, d, dtype) = (weight.shape()[0], weight.shape()[1], hidden.dtype());
        let (n, r) = (hidden.shape()[0], sent.r);
        let scratch = tape.device().of(Purpose::Scratch);
        let recording = tape.is_recording();
        let mut dx = if recording { Some(Tensor::empty(&scratch, &[r, d], dtype)?) } else { None };
        let most_rows = (DEVICE_CHUNK_BYTES / (v * dtype.size())).max(1);
        let chunk_rows = r.div_ceil(r.div_ceil(most_rows).max(1)).max(1);
        for first in (0..r).step_by(chunk_rows) {
            let rows = chunk_rows.min(r - first);
            let mut x = Tensor::empty(&scratch, &[rows, d], dtype)?;
            let mut logits = Tensor::empty(&scratch, &[rows, v], dtype)?;
            // SAFETY: the chunk's part of the R rows, each below N.
            unsafe { gather(driver, &mut x, hidden, sent.rows.address()?.wrapping_add(first), 1.0)? };
            products::forward(driver, &mut logits, &x, &weight.value)?;
            loss(driver, &scratch, (&mut logits, sums), sent, (first, recording))?;
            if let (Some(dx), Some(gradients)) = (&mut dx, tape.gradients()) {
                let part = dx.address_mut()?.cast::<u8>().wrapping_add(first * d * dtype.size());
                products::backward_x(driver, part.cast(), &logits, &weight.value)?;
                products::backward_weight(driver, gradients.address(weight)?, &logits, &x)?;
            }
        }
        let Some(dx) = dx else { return Ok(None) };
        let mut dhidden = Tensor::empty(tape.device(), &[n, d], dtype)?;
        // SAFETY: N places, each below R or none.
        unsafe { gather(driver, &mut dhidden, &dx, sent.places.address()?, 1.0)? };
        Ok(Some(dhidden))
    }

    /// Adds the loss of a chunk of logits, which become their gradient while recording.
    fn loss(
        driver: &dyn Driver,
        scratch: &Device,
        (logits, sums): (&mut Tensor, &mut Tensor),
        sent: &Sent,
        (first, recording): (usize, bool),
    ) -> Result<()> {
        let (r, v, dtype) = (logits.shape()[0], logits.shape()[1], engine_dtype(logits.dtype()));
        let mut target_logits = Tensor::empty(scratch, &[sent.m.max(1)], DType::F32)?;
        let mut row_sums = Tensor::empty(scratch, &[r, 4], DType::F32)?;
        let kept = (target_logits.address_mut()?.cast(), row_sums.address_mut()?.cast());
        let (logits, sums) = (logits.address_mut()?, sums.address_mut()?.cast());
        let starts = sent.starts.address()?.wrapping_add(first);
        let (ids, weights) = (sent.ids.address()?, sent.weights.address()?.cast());
        let scale = if recording { sent.scale.address()?.cast() } else { ptr::null() };
        let (r, v, stream) = (r as u32, v as u32, driver.stream());
        // SAFETY: tensors and arrays of the shapes that engine.h asks for; ids are below V.
        unsafe {
            launch!(
                driver.kernels(),
                cross_entropy { r, v }(logits, sums, kept.0, kept.1, starts, ids, weights, scale, r, v, dtype, stream)
            )
        }
    }
}

mod cpu {
    use rayon::prelude::*;

    use super::LossSums;
    use crate::batch::tree::Target;
    use crate::host::simd::{Real, max_of, sum_of, vectorized};

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
