//! residual: y = h + rmsnorm(x),  the norm after a block fused with the add that closes it
//!
//! Shapes    h, x, y, dy, dh, dx (N, D) T     weight (D) T     dweight (D) A     rstd (N) A
//! Saved     x, weight, rstd
//! Backward  dh = dy (handed on, not copied);  dx, dweight as in rmsnorm
//! Cost      forward 3 * N * D * sizeof(T) bytes: memory bound

use crate::autograd::{Param, Tape, Var};
use crate::error::Result;
use crate::ops::rmsnorm::{Normed, Saved, backward, forward};

/// h + rmsnorm(x, weight).
pub fn residual_rmsnorm(tape: &mut Tape, h: &Var, x: &Var, weight: &Param, eps: f64) -> Result<Var> {
    let Normed { y, rstd } = forward(Some(&h.value), &x.value, weight, eps)?;
    let y = tape.output(y)?;
    let (out, h, x, weight) = (y.clone(), h.clone(), x.clone(), weight.clone());
    tape.push("residual_rmsnorm", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        let dx = backward(ctx, None, &dy, &Saved { x: &x.value, weight: &weight, rstd: &rstd })?;
        ctx.give(&x, dx)?;
        ctx.give(&h, dy)
    });
    Ok(y)
}
