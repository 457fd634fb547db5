//! embedding: `h = scale * weight[id]`
//!
//! Shapes    weight (V, D)     ids (N)     h, dh (N, D)
//! Saved     ids
//! Backward  `dweight[id] += scale * dh`, rows in the order of the batch
//! Order     rows are added one after the other
//! Cost      2 * N * D * sizeof(T) bytes

use std::rc::Rc;

use crate::bail;
use crate::dispatch;
use crate::error::Result;
use crate::model::params::Param;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Looks up `ids` in `weight` (V, D) and multiplies by `scale` (Gemma: sqrt(D)). Returns h (N, D).
///
/// An id outside the vocabulary is an error.
pub fn embedding(tape: &mut Tape, ids: &Rc<[u32]>, weight: &Param, scale: f64) -> Result<Var> {
    let (v, d) = (weight.shape()[0], weight.shape()[1]);
    if let Some(id) = ids.iter().find(|&&id| id as usize >= v) {
        bail!("embedding: token id {id} is outside the vocabulary of {v}");
    }
    let mut h = Tensor::empty(tape.device(), &[ids.len(), d], weight.dtype());
    dispatch!(h.dtype(), T => cpu::forward::<T>(h.fresh(), ids, weight.value.as_slice(), d, scale as T));
    let h = tape.var(h);
    let (out, ids, weight) = (h.clone(), ids.clone(), weight.clone());
    tape.push("embedding", move |ctx| {
        let Some(dh) = ctx.take(&out) else { return Ok(()) };
        dispatch!(dh.dtype(), T => cpu::backward::<T>(ctx.param(&weight)?, &ids, dh.as_slice(), d, scale as T));
        Ok(())
    });
    Ok(h)
}

mod cpu {
    use crate::backend::cpu::{Real, for_each_row};

    pub fn forward<T: Real>(h: &mut [T], ids: &[u32], weight: &[T], d: usize, scale: T) {
        for_each_row(h, d, |i, row| {
            let source = &weight[ids[i] as usize * d..][..d];
            row.iter_mut().zip(source).for_each(|(y, &w)| *y = w * scale);
        });
    }

    pub fn backward<T: Real>(dweight: &mut [T], ids: &[u32], dh: &[T], d: usize, scale: T) {
        // Few rows (N, not V): one core writes them about as fast as memory takes them.
        for (&id, row) in ids.iter().zip(dh.chunks_exact(d)) {
            let target = &mut dweight[id as usize * d..][..d];
            target.iter_mut().zip(row).for_each(|(g, &x)| *g += x * scale);
        }
    }
}
