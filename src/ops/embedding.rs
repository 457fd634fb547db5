//! embedding: `h = scale * weight[id]`
//!
//! Shapes    weight (V, D)     ids (N)     h, dh (N, D)
//! Saved     ids
//! Backward  `dweight[id] += scale * dh`, rows in the order of the batch
//! Order     rows are added one after the other
//! Cost      2 * N * D * sizeof(T) bytes

use std::rc::Rc;

use crate::autograd::Param;
use crate::autograd::{Tape, Var};
use crate::bail;
use crate::batch::inputs::{Inputs, Slot};
use crate::device::Tensor;
use crate::dispatch;
use crate::error::Result;

/// Token ids of a batch (N).
#[derive(Clone)]
pub struct TokenIds {
    ids: Rc<[u32]>,
    sent: Option<Sent>,
}

/// The ids on a device, and its rows grouped by id, so that a block owns an id.
#[derive(Clone)]
struct Sent {
    ids: Slot,
    rows: Slot,
    starts: Slot,
    distinct: usize,
}

impl From<&[u32]> for TokenIds {
    fn from(ids: &[u32]) -> Self {
        Self { ids: ids.into(), sent: None }
    }
}

impl TokenIds {
    /// Ids for the device of `inputs`, and its rows grouped by id for the backward.
    pub fn new(inputs: &Rc<Inputs>, ids: &[u32]) -> Self {
        if inputs.device().driver().is_none() {
            return ids.into();
        }
        let n = ids.len();
        let mut rows: Vec<u32> = (0..n as u32).collect();
        rows.sort_by_key(|&row| ids[row as usize]);
        let begins = |&i: &u32| i == 0 || ids[rows[i as usize] as usize] != ids[rows[i as usize - 1] as usize];
        let mut starts: Vec<u32> = (0..n as u32).filter(begins).collect();
        // Where the launch is to be the same for every batch of this size, all rows count: runs beyond the last id are
        // empty.
        let distinct = if inputs.is_fixed() { n } else { starts.len() };
        starts.push(n as u32);
        let starts = inputs.push(&starts, n + 1, n as u32);
        let sent = Sent { ids: inputs.push(ids, n, 0), rows: inputs.push(&rows, n, 0), starts, distinct };
        Self { ids: ids.into(), sent: Some(sent) }
    }
}

/// Looks up `ids` in `weight` (V, D) and multiplies by `scale` (Gemma: sqrt(D)). Returns h (N, D).
///
/// An id outside the vocabulary is an error.
pub fn embedding(tape: &mut Tape, ids: &TokenIds, weight: &Param, scale: f64) -> Result<Var> {
    let (v, d) = (weight.shape()[0], weight.shape()[1]);
    if let Some(id) = ids.ids.iter().find(|&&id| id as usize >= v) {
        bail!("embedding: token id {id} is outside the vocabulary of {v}");
    }
    let mut h = Tensor::empty(tape.device(), &[ids.ids.len(), d], weight.dtype())?;
    match tape.driver() {
        Some(driver) => device::forward(driver, &mut h, &weight.value, ids, scale)?,
        None => {
            dispatch!(h.dtype(), T => cpu::forward::<T>(h.fresh(), &ids.ids, weight.value.as_slice(), d, scale as T))
        }
    }
    let h = tape.var(h);
    let (out, ids, weight) = (h.clone(), ids.clone(), weight.clone());
    tape.push("embedding", move |ctx| {
        let Some(dh) = ctx.take(&out) else { return Ok(()) };
        if let Some(driver) = dh.device().driver() {
            return device::backward(driver, ctx.param_address(&weight)?, &dh, &ids, scale);
        }
        dispatch!(dh.dtype(), T => cpu::backward::<T>(ctx.param(&weight)?, &ids.ids, dh.as_slice(), d, scale as T));
        Ok(())
    });
    Ok(h)
}

/// The kernels; `cross_entropy` and the head of generation gather rows with the forward.
pub(crate) mod device {
    use std::ffi::c_void;

    use super::TokenIds;
    use crate::device::Tensor;
    use crate::device::driver::{Driver, engine_dtype};
    use crate::err;
    use crate::error::Result;
    use crate::launch;

    pub fn forward(driver: &dyn Driver, h: &mut Tensor, weight: &Tensor, ids: &TokenIds, scale: f64) -> Result<()> {
        let sent = ids.sent.as_ref().ok_or_else(|| err!("internal: token ids are not on the device"))?;
        // SAFETY: as many ids as h has rows, each below V (checked by the op).
        unsafe { gather(driver, h, weight, sent.ids.address()?, scale) }
    }

    /// `h[i] = scale * weight[ids[i]]`, zeros for the id u32::MAX.
    ///
    /// # Safety
    /// `ids` are as many as h has rows, in device memory, each u32::MAX or below the rows of `weight`.
    pub unsafe fn gather(
        driver: &dyn Driver,
        h: &mut Tensor,
        weight: &Tensor,
        ids: *const u32,
        scale: f64,
    ) -> Result<()> {
        let (n, d, dtype) = (h.shape()[0] as u32, h.shape()[1] as u32, engine_dtype(h.dtype()));
        let (h, weight, scale) = (h.address_mut()?, weight.address(), scale as f32);
        // SAFETY: the caller's promise, and tensors of these shapes.
        unsafe {
            launch!(driver.kernels(), embedding_forward { n, d }(h, weight, ids, n, d, scale, dtype, driver.stream()))
        }
    }

    pub fn backward(driver: &dyn Driver, dweight: *mut c_void, dh: &Tensor, ids: &TokenIds, scale: f64) -> Result<()> {
        let sent = ids.sent.as_ref().ok_or_else(|| err!("internal: token ids are not on the device"))?;
        let (d, u, dtype) = (dh.shape()[1] as u32, sent.distinct as u32, engine_dtype(dh.dtype()));
        let (rows, starts, ids) = (sent.rows.address()?, sent.starts.address()?, sent.ids.address()?);
        let (dweight, dh, scale) = (dweight.cast(), dh.address(), scale as f32);
        // SAFETY: dweight is the weight's part of the gradients; the rest are tensors and arrays of the batch.
        unsafe {
            launch!(
                driver.kernels(),
                embedding_backward { u, d }(dweight, dh, ids, rows, starts, u, d, scale, dtype, driver.stream())
            )
        }
    }
}

mod cpu {
    use crate::host::simd::{Real, for_each_row};

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
