//! linear: y = x weight^T
//!
//! Shapes    x, dx (N, I)     weight, dweight (O, I)     y, dy (N, O)
//! Saved     x, weight
//! Backward  dx = dy weight;  dweight += dy^T x
//! Cost      2 * N * O * I FLOP forward, twice that backward

use crate::autograd::Param;
use crate::autograd::{Tape, Var};
use crate::device::Tensor;
use crate::dispatch;
use crate::error::Result;
use crate::host::gemm::{Matrix, MatrixMut, Store, Threads, gemm};

/// y (N, O) = x (N, I) weight (O, I)^T, without a bias.
pub fn linear(tape: &mut Tape, x: &Var, weight: &Param) -> Result<Var> {
    let (n, i) = (x.value.shape()[0], x.value.shape()[1]);
    let o = weight.shape()[0];
    assert_eq!(weight.shape()[1], i, "linear: x {:?}, weight {:?}", x.value.shape(), weight.shape());
    let mut y = Tensor::empty(tape.device(), &[n, o], x.value.dtype())?;
    match tape.driver() {
        Some(driver) => device::forward(driver, &mut y, &x.value, &weight.value)?,
        None => dispatch!(y.dtype(), T => {
            let (x, w) = (Matrix::new(x.value.as_slice::<T>(), n, i), Matrix::new(weight.value.as_slice(), o, i));
            gemm(MatrixMut::new(y.fresh(), n, o), Store::Write, 1.0, x, w.t(), Threads::All);
        }),
    }
    let y = tape.var(y);
    let (out, x, weight) = (y.clone(), x.clone(), weight.clone());
    tape.push("linear", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        let mut dx = Tensor::empty(dy.device(), &[n, i], dy.dtype())?;
        if let Some(driver) = dy.device().driver() {
            device::backward_x(driver, dx.address_mut()?, &dy, &weight.value)?;
            device::backward_weight(driver, ctx.param_address(&weight)?, &dy, &x.value)?;
            return ctx.give(&x, dx);
        }
        dispatch!(dy.dtype(), T => {
            let dy = Matrix::new(dy.as_slice::<T>(), n, o);
            let w = Matrix::new(weight.value.as_slice(), o, i);
            gemm(MatrixMut::new(dx.fresh(), n, i), Store::Write, 1.0, dy, w, Threads::All);
            let x = Matrix::new(x.value.as_slice(), n, i);
            gemm(MatrixMut::new(ctx.param(&weight)?, o, i), Store::Accumulate, 1.0, dy.t(), x, Threads::All);
        });
        ctx.give(&x, dx)
    });
    Ok(y)
}

/// The products on a device, shared with `cross_entropy` (the head).
pub(crate) mod device {
    use std::ffi::c_void;

    use crate::device::driver::{Driver, Operand, Product};
    use crate::device::{DType, Tensor};
    use crate::error::Result;

    fn operand(x: &Tensor) -> Operand {
        Operand::new(x.address(), x.shape()[1])
    }

    /// y (N, O) = x (N, I) weight (O, I)^T
    pub fn forward(driver: &dyn Driver, y: &mut Tensor, x: &Tensor, weight: &Tensor) -> Result<()> {
        let (m, n, k) = (y.shape()[0], y.shape()[1], x.shape()[1]);
        let (c, c_dtype) = (y.address_mut()?, y.dtype());
        let (a, b) = (operand(x), operand(weight).t());
        // SAFETY: tensors of these shapes, alive until their pool hands them on in stream order.
        unsafe { driver.product(&Product { c, a, b, m, n, k, dtype: x.dtype(), c_dtype, accumulate: false }) }
    }

    /// dx (N, I) = dy (N, O) weight (O, I); dx is in dy's type
    pub fn backward_x(driver: &dyn Driver, dx: *mut c_void, dy: &Tensor, weight: &Tensor) -> Result<()> {
        let (m, n, k) = (dy.shape()[0], weight.shape()[1], dy.shape()[1]);
        let (a, b) = (operand(dy), operand(weight));
        let (c, dtype) = (dx, dy.dtype());
        // SAFETY: as above; the caller's dx has N * I elements.
        unsafe { driver.product(&Product { c, a, b, m, n, k, dtype, c_dtype: dtype, accumulate: false }) }
    }

    /// dweight (O, I) += dy (N, O)^T x (N, I), in f32
    pub fn backward_weight(driver: &dyn Driver, dweight: *mut c_void, dy: &Tensor, x: &Tensor) -> Result<()> {
        let (m, n, k) = (dy.shape()[1], x.shape()[1], dy.shape()[0]);
        let (a, b) = (operand(dy).t(), operand(x));
        let (c, c_dtype) = (dweight, DType::F32);
        // SAFETY: as above; dweight is the weight's part of the gradients.
        unsafe { driver.product(&Product { c, a, b, m, n, k, dtype: dy.dtype(), c_dtype, accumulate: true }) }
    }
}
