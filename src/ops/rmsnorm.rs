//! rmsnorm: y = x * rstd * (1 + weight),  rstd = 1 / sqrt(mean(x^2) + eps)
//!
//! Shapes    x, y, dy, dx (N, D) T     weight (D) T     dweight (D) A     rstd (N) A
//! Saved     x, weight, rstd
//! Backward  g = dy * (1 + weight);  dx = rstd * (g - x * rstd^2 * mean(g * x));  dweight += sum_N dy * x * rstd
//! Order     dweight is summed over the rows in order, in fixed blocks
//! Cost      forward 2 * N * D * sizeof(T) bytes: memory bound

use std::ptr;

use crate::autograd::{Backward, Param, Tape, Var};
use crate::device::bindings::ENGINE_NORM_CHUNK;
use crate::device::driver::engine_dtype;
use crate::device::{Purpose, Tensor};
use crate::error::Result;
use crate::launch;

/// Root-mean-square norm over the last axis with Gemma's (1 + weight).
pub fn rmsnorm(tape: &mut Tape, x: &Var, weight: &Param, eps: f64) -> Result<Var> {
    let Normed { y, rstd } = forward(None, &x.value, weight, eps)?;
    let y = tape.output(y)?;
    let (out, x, weight) = (y.clone(), x.clone(), weight.clone());
    tape.push("rmsnorm", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        // What has arrived by the residual is added before the one rounding.
        let dh = ctx.take(&x);
        let dx = backward(ctx, dh.as_ref(), &dy, &Saved { x: &x.value, weight: &weight, rstd: &rstd })?;
        ctx.give(&x, dx)
    });
    Ok(y)
}

/// What the forward makes.
pub(super) struct Normed {
    pub y: Tensor,
    pub rstd: Tensor,
}

/// What the backward reads beside gradients.
pub(super) struct Saved<'a> {
    pub x: &'a Tensor,
    pub weight: &'a Param,
    pub rstd: &'a Tensor,
}

/// y = [h +] rmsnorm(x), and rstd. Shared with `residual`.
pub(super) fn forward(h: Option<&Tensor>, x: &Tensor, weight: &Param, eps: f64) -> Result<Normed> {
    let (device, (rows, columns)) = (x.device(), (x.shape()[0], x.shape()[1]));
    let mut y = Tensor::empty(device, &[rows, columns], x.dtype())?;
    let mut rstd = Tensor::empty(device, &[rows], x.dtype().accumulator())?;
    let (driver, n, d, dtype) = (device.driver(), rows as u32, columns as u32, engine_dtype(x.dtype()));
    let (out, scale) = (y.address_mut()?, rstd.address_mut()?);
    let (h, x, weight) = (h.map_or(ptr::null(), Tensor::address), x.address(), weight.value.address());
    // SAFETY: tensors of the shapes that engine.h asks for, alive until their pool hands them on in stream order.
    unsafe {
        launch!(driver, rmsnorm_forward { n, d }(out, scale, h, x, weight, n, d, eps, dtype, driver.stream()))?;
    }
    Ok(Normed { y, rstd })
}

/// dx = [dh +] the gradient of the norm's input; adds to that of its weight. Shared with `residual`.
pub(super) fn backward(ctx: &mut Backward<'_>, dh: Option<&Tensor>, dy: &Tensor, saved: &Saved<'_>) -> Result<Tensor> {
    let (device, (rows, columns)) = (dy.device(), (dy.shape()[0], dy.shape()[1]));
    let mut dx = Tensor::empty(device, &[rows, columns], dy.dtype())?;
    let chunks = rows.div_ceil(ENGINE_NORM_CHUNK as usize);
    let mut scratch = Tensor::empty(&device.of(Purpose::Scratch), &[chunks, columns], dy.dtype().accumulator())?;
    let (driver, n, d, dtype) = (device.driver(), rows as u32, columns as u32, engine_dtype(dy.dtype()));
    let (out, dweight, scratch) = (dx.address_mut()?, ctx.param(saved.weight)?, scratch.address_mut()?);
    let (dh, dy, x) = (dh.map_or(ptr::null(), Tensor::address), dy.address(), saved.x.address());
    let (rstd, weight, stream) = (saved.rstd.address(), saved.weight.value.address(), driver.stream());
    // SAFETY: as above; dweight is the weight's part of the gradients.
    unsafe {
        launch!(
            driver,
            rmsnorm_backward { n, d }(out, dweight, scratch, rstd, dh, dy, x, weight, n, d, dtype, stream)
        )?;
    }
    Ok(dx)
}
