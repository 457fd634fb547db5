//! cross_entropy: the head fused with the loss; the logits are never held
//!
//! ```text
//! z = hidden weight^T;  lse = log sum exp z;  loss = sum_t w_t (lse - (1 - s) z[id_t] - s mean z) / divisor
//! ```
//!
//! Shapes    hidden, dhidden (N, D) T     weight (V, D) T     dweight (V, D) A     targets: (row, id, w), sorted by row
//!           s: label smoothing, the part of a target's probability that the whole vocabulary shares
//! Backward  dz = (w_row (softmax(z) - s / V) - sum_t w_t (1 - s) onehot(id_t)) / divisor;  dhidden = dz weight;
//!           dweight += dz^T hidden, unless the weight is frozen
//! Numerics  A inside; rows are summed in f64, in order
//! Cost      only rows with a target reach the head. 2 * R * V * D FLOP forward, twice that backward. Memory: a chunk
//!           of rows at a time, as many as the device has room for, turned in place into their gradient
//!
//! Value and gradient come from one pass, so that logits are computed once; while recording, the forward therefore adds
//! to dweight right away and keeps dhidden for the tape.

use std::ptr;
use std::rc::Rc;

use crate::autograd::{Param, Tape, Var};
use crate::bail;
use crate::batch::inputs::{DeviceArray, Inputs};
use crate::batch::tree::Target;
use crate::device::driver::{Access, engine_dtype};
use crate::device::{Device, Purpose, Tensor};
use crate::error::Result;
use crate::launch;
use crate::ops::embedding::gather;
use crate::ops::linear::{self, Store};
use crate::ops::results::{LossSums, StepResults};

/// What is to be predicted from the rows of a batch, and what the loss is divided by, on the batch's device.
pub struct Targets {
    /// (R) row of the batch
    rows: DeviceArray,
    /// (R + 1) and (M): targets of row r are `starts[r] .. starts[r + 1]`
    starts: DeviceArray,
    ids: DeviceArray,
    weights: DeviceArray,
    /// (N) place in `rows`, u32::MAX for a row that has no target
    places: DeviceArray,
    /// 1 / divisor
    scale: DeviceArray,
    label_smoothing: f64,
    /// R
    num_rows: usize,
    /// M
    num_targets: usize,
}

/// Rows with a target and targets that a launch covers at least: what is free has no target and adds nothing.
#[derive(Clone, Copy, Default)]
pub struct TargetRoom {
    pub rows: usize,
    pub targets: usize,
}

/// The batch and the model that targets are for.
#[derive(Clone, Copy)]
pub struct Predicted {
    /// N
    pub rows: usize,
    /// V
    pub vocabulary: usize,
}

/// How targets make a loss.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// What the sum of their losses is divided by: the number of scored tokens in the whole accumulation window.
    pub divisor: f64,
    /// The part of a target's probability that the whole vocabulary shares; in [0, 1).
    pub label_smoothing: f64,
}

impl From<f64> for Objective {
    /// Nothing is smoothed.
    fn from(divisor: f64) -> Self {
        Self { divisor, label_smoothing: 0.0 }
    }
}

impl Targets {
    /// Appends the targets, sorted by row, to what the batch sends. A target outside the vocabulary is an error.
    pub fn new(
        inputs: &Rc<Inputs>,
        targets: &[Target],
        objective: impl Into<Objective>,
        of: Predicted,
        room: TargetRoom,
    ) -> Result<Self> {
        let Objective { divisor, label_smoothing } = objective.into();
        if let Some(target) = targets.iter().find(|t| t.id as usize >= of.vocabulary) {
            bail!("cross_entropy: target {} is outside the vocabulary of {}", target.id, of.vocabulary);
        }
        let groups: Vec<&[Target]> = targets.chunk_by(|a, b| a.row == b.row).collect();
        let rows: Vec<u32> = groups.iter().map(|group| group[0].row).collect();
        let mut starts = vec![0];
        starts.extend(groups.iter().scan(0, |end, group| {
            *end += group.len() as u32;
            Some(*end)
        }));
        let mut places = vec![u32::MAX; of.rows];
        rows.iter().enumerate().for_each(|(place, &row)| places[row as usize] = place as u32);
        let (r, m) = (room.rows.max(rows.len()), room.targets.max(targets.len()));
        starts.resize(r + 1, targets.len() as u32);
        let weights: Vec<f32> = targets.iter().map(|t| t.weight).collect();
        Ok(Self {
            rows: inputs.push(&rows, r, 0),
            starts: inputs.push(&starts, r + 1, 0),
            ids: inputs.push(&targets.iter().map(|t| t.id).collect::<Vec<_>>(), m, 0),
            weights: inputs.push_f32(&weights, m),
            places: inputs.push(&places, of.rows, u32::MAX),
            scale: inputs.push_f64(1.0 / divisor),
            label_smoothing,
            num_rows: r,
            num_targets: m,
        })
    }
}

/// Loss of `targets` predicted from hidden (N, D) through the tied head `weight` (V, D); waits for the device.
///
/// While recording, the gradient is that of the loss divided by the objective's divisor. No target at all: all sums are 0 and so is the gradient.
pub fn linear_cross_entropy(
    tape: &mut Tape,
    hidden: &Var,
    weight: &Param,
    targets: &[Target],
    objective: impl Into<Objective>,
) -> Result<LossSums> {
    let inputs = Inputs::new(tape.device(), false);
    let of = Predicted { rows: hidden.value.shape()[0], vocabulary: weight.shape()[0] };
    let targets = Targets::new(&inputs, targets, objective, of, TargetRoom::default())?;
    inputs.send()?;
    let mut results = StepResults::zeros(tape.device())?;
    linear_cross_entropy_into(tape, hidden, weight, &targets, &mut results)?;
    Ok(results.read()?.into())
}

/// [`linear_cross_entropy`] that adds its sums to `results` on the device. The host waits for nothing.
pub fn linear_cross_entropy_into(
    tape: &mut Tape,
    hidden: &Var,
    weight: &Param,
    targets: &Targets,
    results: &mut StepResults,
) -> Result<()> {
    let (device, shape, dtype) = (tape.device().clone(), hidden.value.shape(), hidden.value.dtype());
    let scratch = device.of(Purpose::Scratch);
    let (r, d) = (targets.num_rows, shape[1]);
    let recording = tape.is_recording();
    if let Some(gradients) = tape.gradients().filter(|_| r == 0) {
        gradients.address(weight)?; // It has one even where no row has a target: 0.
    }
    let mut dx = if recording { Some(Tensor::empty(&scratch, &[r, d], dtype)?) } else { None };
    for rows in chunks(&device, r, weight.shape()[0] * dtype.size()) {
        let mut chunk = Chunk::new(&scratch, hidden, weight, targets, rows)?;
        chunk.logits = tape.rounding().apply(chunk.logits)?;
        chunk.loss(targets, results, recording)?;
        chunk.logits = tape.rounding().apply(chunk.logits)?;
        if let (Some(dx), Some(gradients)) = (&mut dx, tape.gradients()) {
            let part = dx.address_mut()?.cast::<u8>().wrapping_add(chunk.first * d * dtype.size());
            linear::backward_x(part.cast(), &chunk.logits, &weight.value, Store::Written)?;
            linear::backward_weight(gradients, weight, &chunk.logits, &chunk.x)?;
            gradients.write_waiting()?; // the logits' memory is wanted
        }
    }
    let Some(dx) = dx else { return Ok(()) };
    let mut dhidden = Tensor::empty(&device, shape, dtype)?;
    // SAFETY: N places, each below R or none.
    unsafe { gather(&mut dhidden, &dx, targets.places.address()?, 1.0)? };
    let hidden = hidden.arrival();
    tape.push("cross_entropy", move |ctx| ctx.give(&hidden, dhidden));
    Ok(())
}

/// Rows 0 .. r in chunks of even size (the last one should not be a sliver), as many at once as the device has room for.
fn chunks(device: &Device, r: usize, row_bytes: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let most = (device.driver().logits_bytes() / row_bytes.max(1)).max(1);
    let rows = r.div_ceil(r.div_ceil(most).max(1)).max(1);
    (0..r).step_by(rows).map(move |first| first..(first + rows).min(r))
}

/// Some of the rows that have a target.
struct Chunk {
    /// First of them among all that have one.
    first: usize,
    /// (rows, D) hidden
    x: Tensor,
    /// (rows, V), and then their gradient
    logits: Tensor,
}

impl Chunk {
    fn new(
        scratch: &Device,
        hidden: &Var,
        weight: &Param,
        targets: &Targets,
        rows: std::ops::Range<usize>,
    ) -> Result<Self> {
        let (len, dtype) = (rows.len(), hidden.value.dtype());
        let mut x = Tensor::empty(scratch, &[len, hidden.value.shape()[1]], dtype)?;
        let mut logits = Tensor::empty(scratch, &[len, weight.shape()[0]], dtype)?;
        // SAFETY: the chunk's part of the R rows, each below N.
        unsafe { gather(&mut x, &hidden.value, targets.rows.address()?.wrapping_add(rows.start), 1.0)? };
        linear::forward(&mut logits, &x, &weight.value, Store::Written)?;
        Ok(Self { first: rows.start, x, logits })
    }

    /// Adds the chunk's loss; while recording the logits become its gradient.
    fn loss(&mut self, targets: &Targets, results: &mut StepResults, recording: bool) -> Result<()> {
        let (device, dtype) = (self.logits.device().clone(), self.logits.dtype());
        let (r, v) = (self.logits.shape()[0] as u32, self.logits.shape()[1] as u32);
        let mut target_logits = Tensor::empty(&device, &[targets.num_targets.max(1)], dtype.accumulator())?;
        let mut row_sums = Tensor::empty(&device, &[r as usize, 4], dtype.accumulator())?;
        let (kept, sums) = (target_logits.address_mut()?, row_sums.address_mut()?);
        let access = if recording { Access::Update } else { Access::Read };
        let (logits, results) = (self.logits.address_to(self.logits.len(), access)?, results.address_mut()?);
        let starts = targets.starts.address()?.wrapping_add(self.first);
        let (ids, weights) = (targets.ids.address()?, targets.weights.address()?.cast());
        let scale = if recording { targets.scale.address()?.cast() } else { ptr::null() };
        let smoothing = targets.label_smoothing as f32;
        let (driver, dtype) = (device.driver(), engine_dtype(dtype));
        let stream = driver.stream();
        // SAFETY: tensors and arrays of the shapes that engine.h asks for; ids are below V.
        unsafe {
            launch!(
                driver,
                cross_entropy { r, v }(
                    logits, results, kept, sums, starts, ids, weights, scale, smoothing, r, v, dtype, stream
                )
            )
        }
    }
}
