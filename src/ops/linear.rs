//! linear: y = x weight^T
//!
//! Shapes    x, dx (N, I)     weight, dweight (O, I)     y, dy (N, O)
//! Saved     x, weight
//! Backward  dx = dy weight;  dweight += dy^T x
//! Cost      2 * N * O * I FLOP forward, twice that backward

use crate::backend::gemm::{Matrix, MatrixMut, Store, Threads, gemm};
use crate::dispatch;
use crate::error::Result;
use crate::model::params::Param;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// y (N, O) = x (N, I) weight (O, I)^T, without a bias.
pub fn linear(tape: &mut Tape, x: &Var, weight: &Param) -> Result<Var> {
    let (n, i) = (x.value.shape()[0], x.value.shape()[1]);
    let o = weight.shape()[0];
    assert_eq!(weight.shape()[1], i, "linear: x {:?}, weight {:?}", x.value.shape(), weight.shape());
    let mut y = Tensor::empty(tape.device(), &[n, o], x.value.dtype());
    dispatch!(y.dtype(), T => {
        let (x, w) = (Matrix::new(x.value.as_slice::<T>(), n, i), Matrix::new(weight.value.as_slice(), o, i));
        gemm(MatrixMut::new(y.fresh(), n, o), Store::Write, 1.0, x, w.t(), Threads::All);
    });
    let y = tape.var(y);
    let (out, x, weight) = (y.clone(), x.clone(), weight.clone());
    tape.push("linear", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        let mut dx = Tensor::empty(dy.device(), &[n, i], dy.dtype());
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
