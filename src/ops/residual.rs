//! residual: y = h + rmsnorm(x),  the norm after a block fused with the add that closes it
//!
//! Shapes    h, x, y, dy, dh, dx (N, D)     weight, dweight (D)     rstd (N)
//! Saved     x, weight, rstd
//! Backward  dh = dy (handed on, not copied);  dx, dweight as in rmsnorm
//! Cost      forward 3 * N * D * sizeof(T) bytes: memory bound

use crate::autograd::Param;
use crate::autograd::{Tape, Var};
use crate::device::Tensor;
use crate::dispatch;
use crate::error::Result;
use crate::ops::rmsnorm::{cpu as norm, device};

/// h + rmsnorm(x, weight).
pub fn residual_rmsnorm(tape: &mut Tape, h: &Var, x: &Var, weight: &Param, eps: f64) -> Result<Var> {
    let (n, d) = (x.value.shape()[0], x.value.shape()[1]);
    let mut y = Tensor::empty(tape.device(), &[n, d], x.value.dtype())?;
    let mut rstd = Tensor::empty(tape.device(), &[n], y.dtype().accumulator())?;
    match tape.driver() {
        Some(driver) => device::forward(driver, (&mut y, &mut rstd), Some(&h.value), &x.value, weight, eps)?,
        None => dispatch!(y.dtype(), T => {
            let x = x.value.as_slice::<T>();
            norm::statistics(rstd.fresh(), x, d, eps);
            cpu::forward(y.fresh(), h.value.as_slice(), x, rstd.as_slice(), weight.value.as_slice());
        }),
    }
    let y = tape.var(y);
    let (out, h, x, weight) = (y.clone(), h.clone(), x.clone(), weight.clone());
    tape.push("residual_rmsnorm", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        if dy.device().driver().is_some() {
            let dx = device::backward(ctx, None, &dy, (&x.value, &weight, &rstd))?;
            ctx.give(&x, dx)?;
            return ctx.give(&h, dy);
        }
        let mut dx = Tensor::empty(dy.device(), &[n, d], dy.dtype())?;
        dispatch!(dy.dtype(), T => {
            let (x, rstd, w) = (x.value.as_slice::<T>(), rstd.as_slice(), weight.value.as_slice());
            norm::backward_x(dx.fresh(), dy.as_slice(), x, rstd, w);
            norm::backward_weight(ctx.param(&weight)?, dy.as_slice(), x, rstd);
        });
        ctx.give(&x, dx)?;
        ctx.give(&h, dy)
    });
    Ok(y)
}

mod cpu {
    use crate::host::simd::{Real, for_each_row};

    pub fn forward<T: Real>(y: &mut [T], h: &[T], x: &[T], rstd: &[T], weight: &[T]) {
        let d = weight.len();
        for_each_row(y, d, |i, y| {
            let (h, x, rstd) = (&h[i * d..][..d], &x[i * d..][..d], rstd[i]);
            for j in 0..d {
                y[j] = h[j] + x[j] * rstd * (T::ONE + weight[j]);
            }
        });
    }
}
