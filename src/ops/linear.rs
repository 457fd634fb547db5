//! linear: y = x weight^T
//!
//! Shapes    x, dx (N, I) T     weight (O, I) T     dweight (O, I) A     y, dy (N, O) T
//! Saved     x unless the weight is frozen, weight
//! Backward  dx = dy weight;  dweight += dy^T x, unless it is frozen
//! Cost      2 * N * O * I FLOP forward, twice that backward. By the device's products; those of a few rows forward by `linear_few_rows`,
//!           where the device joins small products

use std::ffi::c_void;
use std::ptr;

use crate::autograd::{Gradients, Param, Tape, Var};
use crate::device::Tensor;
use crate::device::bindings::{ENGINE_FEW_ROWS, engine_norm_pair};
use crate::device::driver::{Operand, Product, engine_dtype};
use crate::error::Result;
use crate::launch;
use crate::ops::stream::Stream;

/// y (N, O) = x (N, I) weight (O, I)^T, without a bias.
pub fn linear(tape: &mut Tape, x: &Var, weight: &Param) -> Result<Var> {
    let (n, i, o) = (x.value.shape()[0], x.value.shape()[1], weight.shape()[0]);
    assert_eq!(weight.shape()[1], i, "linear: x {:?}, weight {:?}", x.value.shape(), weight.shape());
    let [y] = tape.kept(|| {
        let mut y = Tensor::empty(x.value.device(), &[n, o], x.value.dtype())?;
        forward(&mut y, &x.value, &weight.value, Store::Written)?;
        Ok([y])
    })?;
    let y = tape.output(y)?;
    let (out, arrival, weight) = (y.arrival(), x.arrival(), weight.clone());
    let x = (!weight.is_frozen()).then(|| x.value.clone());
    tape.push("linear", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        let mut dx = Tensor::empty(dy.device(), &[n, i], dy.dtype())?;
        backward_x(dx.address_mut()?, &dy, &weight.value, Store::Written)?;
        if let Some(x) = x {
            backward_weight(ctx.gradients(), &weight, &dy, &x)?;
        }
        ctx.give(&arrival, dx)
    });
    Ok(y)
}

/// [`linear`] of the norm of a residual stream: y (N, O) of a block that opens with it.
pub fn opening_linear(tape: &mut Tape, stream: &mut Stream, weight: &Param) -> Result<Var> {
    let does_the_norms = |x: &Tensor| is_for_few_rows(x, &weight.value, Store::Written);
    if !stream.left().is_some_and(does_the_norms) {
        let [_, x] = stream.normed(tape)?;
        return linear(tape, &x, weight);
    }
    stream.open(tape, |x, norms| {
        let mut y = Tensor::empty(x.device(), &[x.shape()[0], weight.shape()[0]], x.dtype())?;
        forward_few_rows(&mut y, x, &weight.value, norms)?;
        Ok(y)
    })
}

/// What becomes of what a product's output held before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    /// `=`
    Written,
    /// `+=`
    Added,
}

fn operand(x: &Tensor) -> Operand {
    Operand::new(x.address(), x.shape()[1])
}

/// Elements of a weight up to which a product of few rows is not a library's: a larger one fills a GPU by itself.
const MOST_OF_FEW_ROWS: usize = 1 << 24;

/// Whether `forward` is a kernel of the table.
fn is_for_few_rows(x: &Tensor, weight: &Tensor, store: Store) -> bool {
    let is_small = x.shape()[0] <= ENGINE_FEW_ROWS as usize && weight.len() <= MOST_OF_FEW_ROWS;
    let is_even = weight.shape().iter().all(|width| width.is_multiple_of(8));
    let is_aligned = [x, weight].iter().all(|matrix| matrix.is_at_multiple_of(16));
    let is_known = store == Store::Written && is_even && is_aligned;
    is_small && is_known && x.device().driver().joins_products(x.dtype())
}

/// y (N, O) = x (N, I) weight (O, I)^T of few rows, or of what the norms give for x
fn forward_few_rows(y: &mut Tensor, x: &Tensor, weight: &Tensor, norms: *const engine_norm_pair) -> Result<()> {
    let (driver, dtype) = (x.device().driver(), engine_dtype(x.dtype()));
    let (n, i, o) = (x.shape()[0] as u32, x.shape()[1] as u32, weight.shape()[0] as u32);
    let (y, x, weight) = (y.address_mut()?, x.address(), weight.address());
    // SAFETY: as below.
    unsafe { launch!(driver, linear_few_rows { n, i, o }(y, x, weight, norms, n, i, o, dtype, driver.stream())) }
}

/// y (N, O) = or += x (N, I) weight (O, I)^T
pub(super) fn forward(y: &mut Tensor, x: &Tensor, weight: &Tensor, store: Store) -> Result<()> {
    if is_for_few_rows(x, weight, store) {
        return forward_few_rows(y, x, weight, ptr::null());
    }
    let (m, n, k) = (y.shape()[0], y.shape()[1], x.shape()[1]);
    let (c, c_dtype) = (y.address_mut()?, y.dtype());
    let (a, b) = (operand(x), operand(weight).t());
    let product = Product { c, a, b, m, n, k, dtype: x.dtype(), c_dtype, accumulate: store == Store::Added };
    // SAFETY: tensors of these shapes, alive until their pool hands them on in stream order.
    unsafe { x.device().driver().product(&product) }
}

/// dx (N, I) = or += dy (N, O) weight (O, I); dx is in dy's type
pub(super) fn backward_x(dx: *mut c_void, dy: &Tensor, weight: &Tensor, store: Store) -> Result<()> {
    let (m, n, k) = (dy.shape()[0], weight.shape()[1], dy.shape()[1]);
    let (a, b, dtype) = (operand(dy), operand(weight), dy.dtype());
    let product = Product { c: dx, a, b, m, n, k, dtype, c_dtype: dtype, accumulate: store == Store::Added };
    // SAFETY: as above; the caller's dx has N * I elements.
    unsafe { dy.device().driver().product(&product) }
}

/// dweight (O, I) = or += dy (N, O)^T x (N, I), in A, now or at the end of the backward; nothing for a frozen weight
pub(super) fn backward_weight(gradients: &mut Gradients, weight: &Param, dy: &Tensor, x: &Tensor) -> Result<()> {
    if weight.is_frozen() || gradients.put_off(weight, dy, x)? {
        return Ok(());
    }
    let (c, adds) = gradients.address_to_write_or_add(weight)?;
    // SAFETY: dweight is the weight's part of the gradients.
    unsafe { outer(c, dy, x, if adds { Store::Added } else { Store::Written }) }
}

/// c (O, I) = or += dy (N, O)^T x (N, I), in A
///
/// # Safety
/// c has O * I elements on the device of dy.
pub(super) unsafe fn outer(c: *mut c_void, dy: &Tensor, x: &Tensor, store: Store) -> Result<()> {
    let (m, n, k) = (dy.shape()[1], x.shape()[1], dy.shape()[0]);
    let (a, b, dtype) = (operand(dy).t(), operand(x), dy.dtype());
    let product = Product { c, a, b, m, n, k, dtype, c_dtype: dtype.accumulator(), accumulate: store == Store::Added };
    // SAFETY: as above; c is the caller's promise.
    unsafe { dy.device().driver().product(&product) }
}
