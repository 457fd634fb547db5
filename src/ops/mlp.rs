//! mlp: y = geglu(x gate_up^T) down^T, the gated block of a layer
//!
//! On a device that joins products, [`geglu`](super::geglu) is the end of the product before it, and its backward that of the product after it:
//! two launches less, what one would hand to the other is not read again, and h is kept by nobody, for the backward gives it again. So it is for
//! batches of few rows, which launches and memory bound, and of many; between the two a library's products are the faster ones.
//!
//! Shapes    x, dx (N, D) T     gate_up (2F, D) T     down (D, F) T     pre, dpre (N, 2F) T     h (N, F) T     y, dy (N, D) T
//! Saved     x, pre, gate_up, down; h where the ops are not joined
//! Backward  dpre = geglu_backward(dy down, pre);  dx = dpre gate_up;  ddown += dy^T h;  dgate_up += dpre^T x
//! Numerics  joined, the gradient of h is not rounded

use std::ptr;

use crate::autograd::{Param, Tape, Var};
use crate::device::Tensor;
use crate::device::bindings::{ENGINE_MANY_ROWS, engine_norm_pair};
use crate::device::driver::{MOST_SMALL_ROWS, engine_dtype};
use crate::error::Result;
use crate::ops::geglu::geglu;
use crate::ops::linear::{Store, backward_weight, backward_x, forward, linear};
use crate::ops::stream::Stream;
use crate::{err, launch};

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
    let rows = x.shape()[0];
    let joins = rows <= MOST_SMALL_ROWS || rows >= ENGINE_MANY_ROWS as usize;
    joins && x.device().driver().joins_products(x.dtype()) && is_even(gate_up) && is_even(down)
}

fn joined(tape: &mut Tape, x: &Var, gate_up: &Param, down: &Param) -> Result<Var> {
    let (n, d, f) = (x.value.shape()[0], x.value.shape()[1], down.shape()[1]);
    let empty = |width: usize| Tensor::empty(x.value.device(), &[n, width], x.value.dtype());
    let unit = |pre: Option<&mut Tensor>| {
        let mut h = empty(f)?;
        forward_geglu(&mut h, pre, &x.value, &gate_up.value, ptr::null()).map(|()| h)
    };
    let product = |h: Tensor| {
        let mut y = empty(d)?;
        forward(&mut y, &h, &down.value, Store::Written).map(|()| y)
    };
    if !tape.is_for_backward() {
        return tape.output(product(unit(None)?)?);
    }
    let (mut h, is_wanted) = (None, tape.keeps_results());
    let [pre] = tape.kept(|| {
        let mut pre = empty(if is_wanted { 2 * f } else { 0 })?;
        h = Some(unit(is_wanted.then_some(&mut pre))?);
        Ok([pre])
    })?;
    let [y] = tape.kept(|| {
        let h = h.ok_or_else(|| err!("internal: a product was not kept, and what it reads was"))?;
        Ok([product(h)?])
    })?;
    let y = tape.output(y)?;
    let (out, arrival, x) = (y.arrival(), x.arrival(), x.value.clone());
    let (gate_up, down) = (gate_up.clone(), down.clone());
    tape.push("mlp", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        let like = |shape: &[usize]| Tensor::empty(dy.device(), shape, dy.dtype());
        let (mut dpre, mut h) = (like(pre.shape())?, like(&[n, f])?);
        backward_geglu(&mut dpre, &mut h, &dy, &down.value, &pre)?;
        backward_weight(ctx.gradients(), &down, &dy, &h)?;
        drop(h);
        let mut dx = like(x.shape())?;
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

/// dpre (N, 2F) = geglu_backward(dy (N, D) weight (D, F), pre (N, 2F)), and h (N, F) = geglu(pre) again
fn backward_geglu(dpre: &mut Tensor, h: &mut Tensor, dy: &Tensor, weight: &Tensor, pre: &Tensor) -> Result<()> {
    let (driver, dtype) = (dy.device().driver(), engine_dtype(dy.dtype()));
    let (n, d, f) = (dy.shape()[0] as u32, dy.shape()[1] as u32, weight.shape()[1] as u32);
    let (dpre, h) = (dpre.address_mut()?, h.address_mut()?);
    let (dy, weight, pre) = (dy.address(), weight.address(), pre.address());
    // SAFETY: as above.
    unsafe {
        launch!(driver, linear_geglu_backward { n, d, f }(dpre, h, dy, weight, pre, n, d, f, dtype, driver.stream()))
    }
}
