//! residual: sum = h + rmsnorm(x, weight);  y = rmsnorm(sum, next_weight): the norm that closes a block, the residual stream, and the
//! norm that opens the next block, in one pass
//!
//! Shapes    h, x, sum, y and their gradients (N, D) T     weights (D) T     gradients of weights (D) A     rstd (2, N) A
//! Saved     x, sum, weights, rstd
//! Backward  dh = dsum + rmsnorm's dx of (dy, sum), rounded;  dx, dweight as in rmsnorm from (dh, x)
//! Cost      forward 4 * N * D * sizeof(T) bytes, backward 6: memory bound

use std::ptr;

use crate::autograd::{Backward, Param, Rounding, Tape, Var};
use crate::device::Tensor;
use crate::device::driver::engine_dtype;
use crate::error::Result;
use crate::ops::rmsnorm::{self, Saved};
use crate::{err, launch};

/// Two norms with the residual stream between them.
#[derive(Clone)]
pub struct NormPair {
    /// Of x, before it is added.
    pub weight: Param,
    /// Of the sum.
    pub next_weight: Param,
    pub eps: f64,
}

/// (h + rmsnorm(x), rmsnorm of that).
pub fn residual_rmsnorm(tape: &mut Tape, h: &Var, x: &Var, norms: &NormPair) -> Result<(Var, Var)> {
    let (sum, mut y, rstd) = forward(&h.value, &x.value, norms)?;
    let sum = tape.output(sum)?;
    if tape.rounding() != Rounding::None {
        y = rmsnorm::forward(&sum.value, &norms.next_weight, norms.eps)?.0; // of the rounded sum
    }
    let y = tape.output(y)?;
    let outputs = (sum.clone(), y.clone());
    let (y, h, x, norms) = (y.arrival(), h.arrival(), x.clone(), norms.clone());
    tape.push("residual_rmsnorm", move |ctx| {
        let saved = SavedPair { x: &x.value, sum: &sum.value, norms: &norms, rstd: &rstd };
        let (dh, dx) = match (ctx.take(&sum), ctx.take(&y)) {
            (None, None) => return Ok(()),
            (dsum, Some(dy)) if ctx.rounding() == Rounding::None => backward(ctx, dsum.as_ref(), &dy, &saved)?,
            (dsum, dy) => backward_apart(ctx, dsum, dy.as_ref(), &saved)?,
        };
        ctx.give(&x, dx)?;
        ctx.give(&h, dh)
    });
    Ok(outputs)
}

struct SavedPair<'a> {
    x: &'a Tensor,
    sum: &'a Tensor,
    norms: &'a NormPair,
    /// (2, N)
    rstd: &'a Tensor,
}

/// sum, y, and rstd of both norms.
fn forward(h: &Tensor, x: &Tensor, norms: &NormPair) -> Result<(Tensor, Tensor, Tensor)> {
    let (device, (rows, columns)) = (x.device(), (x.shape()[0], x.shape()[1]));
    let mut sum = Tensor::empty(device, &[rows, columns], x.dtype())?;
    let mut y = Tensor::empty(device, &[rows, columns], x.dtype())?;
    let mut rstd = Tensor::empty(device, &[2, rows], x.dtype().accumulator())?;
    let (driver, n, d, dtype) = (device.driver(), rows as u32, columns as u32, engine_dtype(x.dtype()));
    let (s, out, scales) = (sum.address_mut()?, y.address_mut()?, rstd.address_mut()?);
    let (weight, next, eps) = (norms.weight.value.address(), norms.next_weight.value.address(), norms.eps);
    let (h, x, stream) = (h.address(), x.address(), driver.stream());
    // SAFETY: tensors of the shapes that engine.h asks for, alive until their pool hands them on in stream order.
    unsafe {
        launch!(driver, rmsnorm_pair_forward { n, d }(s, out, scales, h, x, weight, next, n, d, eps, dtype, stream))?;
    }
    Ok((sum, y, rstd))
}

/// dh and dx; leaves parts of the gradients of both weights.
fn backward(
    ctx: &mut Backward<'_>,
    dsum: Option<&Tensor>,
    dy: &Tensor,
    saved: &SavedPair<'_>,
) -> Result<(Tensor, Tensor)> {
    let (device, (rows, columns)) = (dy.device(), (dy.shape()[0], dy.shape()[1]));
    let empty = || Tensor::empty(device, &[rows, columns], dy.dtype());
    let (mut dh, mut dx) = (empty()?, empty()?);
    let SavedPair { x, sum, norms, rstd } = *saved;
    let [parts, next_parts] = ctx.gradients().parts_of_two([&norms.weight, &norms.next_weight], rows)?;
    let (driver, n, d, dtype) = (device.driver(), rows as u32, columns as u32, engine_dtype(dy.dtype()));
    let (h_out, x_out, dsum) = (dh.address_mut()?, dx.address_mut()?, dsum.map_or(ptr::null(), Tensor::address));
    let (weight, next) = (norms.weight.value.address(), norms.next_weight.value.address());
    let (rstd, dy, sum, x) = (rstd.address(), dy.address(), sum.address(), x.address());
    let (sums, next_sums, rows, stream) = (parts.address, next_parts.address, parts.rows, driver.stream());
    // SAFETY: as above, and the parts of as many rows.
    unsafe {
        launch!(
            driver,
            rmsnorm_pair_backward { n, d }(
                h_out, x_out, sums, next_sums, rstd, dsum, dy, sum, x, weight, next, n, d, rows, dtype, stream
            )
        )?;
    }
    Ok((dh, dx))
}

/// The same by one norm after the other: where what passes between them is rounded, or nothing came from the second.
fn backward_apart(
    ctx: &mut Backward<'_>,
    dsum: Option<Tensor>,
    dy: Option<&Tensor>,
    saved: &SavedPair<'_>,
) -> Result<(Tensor, Tensor)> {
    let SavedPair { x, sum, norms, rstd } = *saved;
    let n = sum.shape()[0];
    let dh = match (dsum, dy) {
        (dsum, Some(dy)) => {
            let saved = Saved { x: sum, weight: &norms.next_weight, rstd: &rstd.view(n, &[n]) };
            rmsnorm::backward(ctx, dsum.as_ref(), dy, &saved)?
        }
        (Some(dsum), None) => dsum,
        (None, None) => return Err(err!("internal: no gradient at all")),
    };
    let dh = ctx.rounding().apply(dh)?;
    let dx = rmsnorm::backward(ctx, None, &dh, &Saved { x, weight: &norms.weight, rstd: &rstd.view(0, &[n]) })?;
    Ok((dh, dx))
}
