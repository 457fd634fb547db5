//! mlp: y = geglu(x gate_up^T) down^T, the gated block of a layer
//!
//! Where a batch has few rows and the device joins small products, [`geglu`](super::geglu) is the end of the product before it, and
//! its backward that of the product after it: two launches less, and what one would hand to the other is not read again.
//!
//! Shapes    x, dx (N, D) T     gate_up (2F, D) T     down (D, F) T     pre, dpre (N, 2F) T     h (N, F) T     y, dy (N, D) T
//! Saved     x, pre, h, gate_up, down
//! Backward  dpre = geglu_backward(dy down, pre);  dx = dpre gate_up;  ddown += dy^T h;  dgate_up += dpre^T x
//! Numerics  joined, the gradient of h is not rounded

use std::ptr;

use crate::autograd::{Param, Tape, Var};
use crate::device::Tensor;
use crate::device::bindings::engine_norm_pair;
use crate::device::driver::{MOST_SMALL_ROWS, engine_dtype};
use crate::error::Result;
use crate::launch;
use crate::ops::geglu::geglu;
use crate::ops::linear::{Store, backward_weight, backward_x, forward, linear};
use crate::ops::stream::Stream;

/// y (N, D) of x (N, D) through gate_up (2F, D), whose rows are those of the gate and then of the up, and down (D, F).
pub fn mlp(tape: &mut Tape, x: &Var, gate_up: &Param, down: &Param) -> Result<Var> {
    if is_joined(&x.value, gate_up, down) {
        return joined(tape, x, gate_up, down);
    }
    let pre = linear(tape, x, gate_up)?;
    let h = geglu(tape, &pre)?;
    linear(tape, &h, down)
}

/// [`mlp`] of the norm of a residual stream, which it opens with.
pub fn opening_mlp(tape: &mut Tape, stream: &mut Stream, gate_up: &Param, down: &Param) -> Result<Var> {
    if !stream.left().is_some_and(|x| is_joined(x, gate_up, down)) {
        let [_, x] = stream.normed(tape)?;
        return mlp(tape, &x, gate_up, down);
    }
    let h = stream.open(tape, |x, norms| {
        let mut h = Tensor::empty(x.device(), &[x.shape()[0], down.shape()[1]], x.dtype())?;
        forward_geglu(&mut h, None, x, &gate_up.value, norms)?;
        Ok(h)
    })?;
    linear(tape, &h, down)
}

fn is_joined(x: &Tensor, gate_up: &Param, down: &Param) -> bool {
    let is_even = |weight: &Param| weight.shape()[1].is_multiple_of(8) && weight.value.is_at_multiple_of(16);
    let is_small = x.shape()[0] <= MOST_SMALL_ROWS && x.device().driver().joins_small_products(x.dtype());
    is_small && is_even(gate_up) && is_even(down)
}

fn joined(tape: &mut Tape, x: &Var, gate_up: &Param, down: &Param) -> Result<Var> {
    let (n, d, f) = (x.value.shape()[0], x.value.shape()[1], down.shape()[1]);
    let empty = |width: usize| Tensor::empty(tape.device(), &[n, width], x.value.dtype());
    let mut pre = if tape.is_recording() { Some(empty(2 * f)?) } else { None };
    let (mut h, mut y) = (empty(f)?, empty(d)?);
    forward_geglu(&mut h, pre.as_mut(), &x.value, &gate_up.value, ptr::null())?;
    forward(&mut y, &h, &down.value, Store::Written)?;
    let y = tape.output(y)?;
    let Some(pre) = pre else { return Ok(y) };
    let (out, arrival, x) = (y.arrival(), x.arrival(), x.value.clone());
    let (gate_up, down) = (gate_up.clone(), down.clone());
    tape.push("mlp", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        let (mut dpre, mut dx) =
            (Tensor::empty(dy.device(), pre.shape(), dy.dtype())?, Tensor::empty(dy.device(), x.shape(), dy.dtype())?);
        backward_geglu(&mut dpre, &dy, &down.value, &pre)?;
        backward_weight(ctx.gradients(), &down, &dy, &h)?;
        backward_x(dx.address_mut()?, &dpre, &gate_up.value, Store::Written)?;
        backward_weight(ctx.gradients(), &gate_up, &dpre, &x)?;
        ctx.give(&arrival, dx)
    });
    Ok(y)
}

/// h (N, F) = geglu(pre), pre (N, 2F) = x (N, D) weight (2F, D)^T, or of what the norms give for x
fn forward_geglu(
    h: &mut Tensor,
    pre: Option<&mut Tensor>,
    x: &Tensor,
    weight: &Tensor,
    norms: *const engine_norm_pair,
) -> Result<()> {
    let (driver, dtype) = (x.device().driver(), engine_dtype(x.dtype()));
    let (n, d, f) = (x.shape()[0] as u32, x.shape()[1] as u32, h.shape()[1] as u32);
    let pre = pre.map_or(Ok(ptr::null_mut()), Tensor::address_mut)?;
    let (h, x, weight) = (h.address_mut()?, x.address(), weight.address());
    // SAFETY: tensors of these shapes, alive until their pool hands them on in stream order.
    unsafe {
        launch!(driver, linear_geglu_forward { n, d, f }(h, pre, x, weight, norms, n, d, f, dtype, driver.stream()))
    }
}

/// dpre (N, 2F) = geglu_backward(dy (N, D) weight (D, F), pre (N, 2F))
fn backward_geglu(dpre: &mut Tensor, dy: &Tensor, weight: &Tensor, pre: &Tensor) -> Result<()> {
    let (driver, dtype) = (dy.device().driver(), engine_dtype(dy.dtype()));
    let (n, d, f) = (dy.shape()[0] as u32, dy.shape()[1] as u32, weight.shape()[1] as u32);
    let (dpre, dy, weight, pre) = (dpre.address_mut()?, dy.address(), weight.address(), pre.address());
    // SAFETY: as above.
    unsafe {
        launch!(driver, linear_geglu_backward { n, d, f }(dpre, dy, weight, pre, n, d, f, dtype, driver.stream()))
    }
}
