//! rmsnorm: y = x * rstd * (1 + weight),  rstd = 1 / sqrt(mean(x^2) + eps)
//!
//! Shapes    x, y, dy, dx (N, D) T     weight (D) T     dweight (D) A     rstd (N) A
//! Saved     x, weight, rstd
//! Backward  g = dy * (1 + weight);  dx = rstd * (g - x * rstd^2 * mean(g * x));  dweight += sum_N dy * x * rstd
//! Order     dweight is summed over some rows in order, and then over these sums in order
//! Cost      forward 2 * N * D * sizeof(T) bytes: memory bound

use std::ptr;

use crate::autograd::{Backward, Param, Tape, Var};
use crate::device::Tensor;
use crate::device::driver::engine_dtype;
use crate::error::Result;
use crate::launch;

/// Root-mean-square norm over the last axis with Gemma's (1 + weight).
pub fn rmsnorm(tape: &mut Tape, x: &Var, weight: &Param, eps: f64) -> Result<Var> {
    let (y, rstd) = forward(&x.value, weight, eps)?;
    let y = tape.output(y)?;
    let (out, x, weight) = (y.arrival(), x.clone(), weight.clone());
    tape.push("rmsnorm", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        // What has arrived by the residual is added before the one rounding.
        let dh = ctx.take(&x);
        let dx = backward(ctx, dh.as_ref(), &dy, &Saved { x: &x.value, weight: &weight, rstd: &rstd })?;
        ctx.give(&x, dx)
    });
    Ok(y)
}

/// What the backward reads beside gradients.
pub(super) struct Saved<'a> {
    pub x: &'a Tensor,
    pub weight: &'a Param,
    pub rstd: &'a Tensor,
}

/// y = rmsnorm(x), and rstd. Shared with `residual`.
pub(super) fn forward(x: &Tensor, weight: &Param, eps: f64) -> Result<(Tensor, Tensor)> {
    let (device, (rows, columns)) = (x.device(), (x.shape()[0], x.shape()[1]));
    let mut y = Tensor::empty(device, &[rows, columns], x.dtype())?;
    let mut rstd = Tensor::empty(device, &[rows], x.dtype().accumulator())?;
    let (driver, n, d, dtype) = (device.driver(), rows as u32, columns as u32, engine_dtype(x.dtype()));
    let (out, scale) = (y.address_mut()?, rstd.address_mut()?);
    let (x, weight) = (x.address(), weight.value.address());
    // SAFETY: tensors of the shapes that engine.h asks for, alive until their pool hands them on in stream order.
    unsafe { launch!(driver, rmsnorm_forward { n, d }(out, scale, x, weight, n, d, eps, dtype, driver.stream()))? };
    Ok((y, rstd))
}

/// dx = [dh +] the gradient of the norm's input; leaves parts of that of its weight. Shared with `residual`.
pub(super) fn backward(ctx: &mut Backward<'_>, dh: Option<&Tensor>, dy: &Tensor, saved: &Saved<'_>) -> Result<Tensor> {
    let (device, (rows, columns)) = (dy.device(), (dy.shape()[0], dy.shape()[1]));
    let mut dx = Tensor::empty(device, &[rows, columns], dy.dtype())?;
    let parts = ctx.gradients().parts(saved.weight, rows)?;
    let (driver, n, d, dtype) = (device.driver(), rows as u32, columns as u32, engine_dtype(dy.dtype()));
    let (out, dh, dy) = (dx.address_mut()?, dh.map_or(ptr::null(), Tensor::address), dy.address());
    let (x, rstd, weight) = (saved.x.address(), saved.rstd.address(), saved.weight.value.address());
    let (sums, rows, stream) = (parts.address, parts.rows, driver.stream());
    // SAFETY: as above, and the parts of as many rows.
    unsafe {
        launch!(driver, rmsnorm_backward { n, d }(out, sums, rstd, dh, dy, x, weight, n, d, rows, dtype, stream))?;
    }
    Ok(dx)
}
