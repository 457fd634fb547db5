//! residual: sum = h + rmsnorm(x, weight);  y = rmsnorm(sum, next_weight): the norm that closes a block, the residual stream, and the
//! norm that opens the next block, in one pass
//!
//! [`Stream`] is the residual stream through all blocks: of few rows that nobody trains on, the norms are part of the next product.
//!
//! Shapes    h, x, sum, y and their gradients (N, D) T     weights (D) T     gradients of weights (D) A     rstd (2, N) A
//! Saved     x, sum, weights, rstd
//! Backward  dh = dsum + rmsnorm's dx of (dy, sum), rounded;  dx, dweight as in rmsnorm from (dh, x)
//! Cost      forward 4 * N * D * sizeof(T) bytes, backward 6: memory bound

use std::ptr;

use crate::autograd::{Backward, Param, Rounding, Tape, Var};
use crate::device::Tensor;
use crate::device::bindings::{ENGINE_NORMED_ROWS, ENGINE_NORMED_WIDTH, engine_norm_pair};
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

/// The residual stream between two blocks, and what the next block opens with.
///
/// Where the next block may open with a product of few rows, on a device that joins small products, the norms are left to it.
pub struct Stream {
    /// (N, D): with every block that has been closed
    h: Var,
    opening: Opening,
}

enum Opening {
    /// The norm of h.
    Normed(Var),
    /// What the last block gives, and the norms that close it.
    Left(Var, NormPair),
    /// A product has done the norms that were left to it.
    Done,
}

impl Stream {
    /// A residual stream and its norm.
    pub fn new([h, x]: [Var; 2]) -> Self {
        Self { h, opening: Opening::Normed(x) }
    }

    /// Adds what a block gives, normed.
    pub fn close(&mut self, tape: &mut Tape, x: &Var, norms: &NormPair) -> Result<()> {
        let may_be_left = !tape.is_recording() && tape.rounding() == Rounding::None;
        self.opening = Opening::Left(x.clone(), norms.clone());
        if !(may_be_left && is_known(&self.h.value, &x.value, norms)) {
            self.normed(tape)?;
        }
        Ok(())
    }

    /// The stream and its norm.
    pub fn normed(&mut self, tape: &mut Tape) -> Result<[Var; 2]> {
        if let Opening::Left(x, norms) = &self.opening {
            let (sum, y) = residual_rmsnorm(tape, &self.h, x, norms)?;
            *self = Self::new([sum, y]);
        }
        match &self.opening {
            Opening::Normed(x) => Ok([self.h.clone(), x.clone()]),
            _ => Err(err!("internal: a block opens twice")),
        }
    }

    /// What the last block gives, if its norms were left to a product.
    pub(super) fn left(&self) -> Option<&Tensor> {
        if let Opening::Left(x, _) = &self.opening { Some(&x.value) } else { None }
    }

    /// Lets `product` do what was left to it, with what the last block gives.
    pub(super) fn open(
        &mut self,
        tape: &mut Tape,
        product: impl FnOnce(&Tensor, &engine_norm_pair) -> Result<Tensor>,
    ) -> Result<Var> {
        let Opening::Left(x, norms) = &self.opening else { return Err(err!("internal: no norms were left")) };
        let mut sum = Tensor::empty(tape.device(), x.value.shape(), x.value.dtype())?;
        let NormPair { weight, next_weight, eps } = norms;
        let (weight, next_weight) = (weight.value.address(), next_weight.value.address());
        let (to, h) = (sum.address_mut()?, self.h.value.address());
        let y = product(&x.value, &engine_norm_pair { sum: to, h, weight, next_weight, eps: *eps })?;
        *self = Self { h: tape.output(sum)?, opening: Opening::Done };
        tape.output(y)
    }
}

/// Whether a product of few rows can do these norms.
fn is_known(h: &Tensor, x: &Tensor, NormPair { weight, next_weight, .. }: &NormPair) -> bool {
    let (rows, width) = (x.shape()[0], x.shape()[1]);
    let is_small = rows <= ENGINE_NORMED_ROWS as usize && width <= ENGINE_NORMED_WIDTH as usize;
    let is_even = [h, x, &weight.value, &next_weight.value].iter().all(|tensor| tensor.is_at_multiple_of(16));
    is_small && is_even && width.is_multiple_of(8) && x.device().driver().joins_small_products(x.dtype())
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
