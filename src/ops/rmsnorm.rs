//! rmsnorm: y = x * rstd * (1 + weight),  rstd = 1 / sqrt(mean(x^2) + eps)
//!
//! Shapes    x, y, dy, dx (N, D)     weight, dweight (D)     rstd (N)
//! Saved     x, weight, rstd
//! Backward  g = dy * (1 + weight);  dx = rstd * (g - x * rstd^2 * mean(g * x));  dweight += sum_N dy * x * rstd
//! Order     dweight is summed over the rows in order, in fixed blocks
//! Cost      forward 2 * N * D * sizeof(T) bytes: memory bound

use crate::autograd::Param;
use crate::autograd::{Tape, Var};
use crate::device::Tensor;
use crate::dispatch;
use crate::error::Result;

/// Root-mean-square norm over the last axis with Gemma's (1 + weight).
pub fn rmsnorm(tape: &mut Tape, x: &Var, weight: &Param, eps: f64) -> Result<Var> {
    let (n, d) = (x.value.shape()[0], x.value.shape()[1]);
    let mut y = Tensor::empty(tape.device(), &[n, d], x.value.dtype())?;
    let mut rstd = Tensor::empty(tape.device(), &[n], y.dtype().accumulator())?;
    match tape.driver() {
        Some(driver) => device::forward(driver, (&mut y, &mut rstd), None, &x.value, weight, eps)?,
        None => dispatch!(y.dtype(), T => {
            let (x, w) = (x.value.as_slice::<T>(), weight.value.as_slice());
            cpu::statistics(rstd.fresh(), x, d, eps);
            cpu::forward(y.fresh(), rstd.as_slice::<T>(), x, w);
        }),
    }
    let y = tape.var(y);
    let (out, x, weight) = (y.clone(), x.clone(), weight.clone());
    tape.push("rmsnorm", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        if dy.device().driver().is_some() {
            // What has arrived by the residual is added before the one rounding.
            let dh = ctx.take(&x);
            let dx = device::backward(ctx, dh.as_ref(), &dy, (&x.value, &weight, &rstd))?;
            return ctx.give(&x, dx);
        }
        let mut dx = Tensor::empty(dy.device(), &[n, d], dy.dtype())?;
        dispatch!(dy.dtype(), T => {
            let (x, rstd, w) = (x.value.as_slice::<T>(), rstd.as_slice(), weight.value.as_slice());
            cpu::backward_x(dx.fresh(), dy.as_slice(), x, rstd, w);
            cpu::backward_weight(ctx.param(&weight)?, dy.as_slice(), x, rstd);
        });
        ctx.give(&x, dx)
    });
    Ok(y)
}

/// The kernels, shared with `residual`.
pub(crate) mod device {
    use std::ptr;

    use crate::autograd::Backward;
    use crate::autograd::Param;
    use crate::device::driver::{Driver, engine_dtype};
    use crate::device::{DType, Purpose, Tensor};
    use crate::error::Result;
    use crate::launch;

    /// Rows of one partial sum of dweight, as kernels/rmsnorm.cu has it.
    const CHUNK: usize = 64;

    /// y = [h +] rmsnorm(x), and rstd.
    pub fn forward(
        driver: &dyn Driver,
        (y, rstd): (&mut Tensor, &mut Tensor),
        h: Option<&Tensor>,
        x: &Tensor,
        weight: &Param,
        eps: f64,
    ) -> Result<()> {
        let (n, d) = (x.shape()[0] as u32, x.shape()[1] as u32);
        let (y, rstd, dtype) = (y.address_mut()?, rstd.address_mut()?.cast(), engine_dtype(x.dtype()));
        let h = h.map_or(ptr::null(), Tensor::address);
        let (x, weight, eps) = (x.address(), weight.value.address(), eps as f32);
        // SAFETY: tensors of the shapes that engine.h asks for, alive until their pool hands them on in stream order.
        unsafe {
            launch!(
                driver.kernels(),
                rmsnorm_forward { n, d }(y, rstd, h, x, weight, n, d, eps, dtype, driver.stream())
            )
        }
    }

    /// dx = [dh +] the gradient of the norm's input; adds to that of its weight.
    pub fn backward(
        ctx: &mut Backward<'_>,
        dh: Option<&Tensor>,
        dy: &Tensor,
        (x, weight, rstd): (&Tensor, &Param, &Tensor),
    ) -> Result<Tensor> {
        let driver = dy.device().driver().expect("the caller has looked");
        let (n, d) = (x.shape()[0], x.shape()[1]);
        let mut dx = Tensor::empty(dy.device(), &[n, d], dy.dtype())?;
        let mut scratch = Tensor::empty(&dy.device().of(Purpose::Scratch), &[n.div_ceil(CHUNK), d], DType::F32)?;
        let (out, dweight, scratch) =
            (dx.address_mut()?, ctx.param_address(weight)?.cast(), scratch.address_mut()?.cast());
        let dh = dh.map_or(ptr::null(), Tensor::address);
        let (rstd, dy, x, weight) = (rstd.address().cast(), dy.address(), x.address(), weight.value.address());
        let (n, d, dtype, stream) = (n as u32, d as u32, engine_dtype(dx.dtype()), driver.stream());
        // SAFETY: as above; dweight is the weight's part of the gradients.
        unsafe {
            launch!(
                driver.kernels(),
                rmsnorm_backward { n, d }(out, dweight, scratch, rstd, dh, dy, x, weight, n, d, dtype, stream)
            )?;
        }
        Ok(dx)
    }
}

/// The arithmetic, shared with `residual` (the norm fused with an add) and `rope` (the norm of q and k).
pub(crate) mod cpu {
    use rayon::prelude::*;

    use crate::host::simd::{Real, dot, for_each_row, sum_of, vectorized};

    /// 1 / sqrt(mean(x^2) + eps) of one row.
    #[inline(always)]
    pub fn row_rstd<T: Real>(x: &[T], eps: f64) -> T {
        T::ONE / (dot(x, x) / T::from_f64(x.len() as f64) + T::from_f64(eps)).sqrt()
    }

    /// y = x * rstd * (1 + weight) for one row.
    #[inline(always)]
    pub fn row_forward<T: Real>(y: &mut [T], x: &[T], weight: &[T], rstd: T) {
        let (x, weight) = (&x[..y.len()], &weight[..y.len()]);
        for i in 0..y.len() {
            y[i] = x[i] * rstd * (T::ONE + weight[i]);
        }
    }

    /// dx of one row, from dy; x is the input of the norm.
    #[inline(always)]
    pub fn row_backward<T: Real>(dx: &mut [T], dy: &[T], x: &[T], weight: &[T], rstd: T) {
        let n = dx.len();
        let (dy, x, weight) = (&dy[..n], &x[..n], &weight[..n]);
        let mean = sum_of(n, |i| dy[i] * (T::ONE + weight[i]) * x[i]) / T::from_f64(n as f64);
        let c = rstd * rstd * mean;
        for i in 0..n {
            dx[i] = rstd * (dy[i] * (T::ONE + weight[i]) - x[i] * c);
        }
    }

    pub fn statistics<T: Real>(rstd: &mut [T], x: &[T], d: usize, eps: f64) {
        for_each_row(rstd, 1, |i, rstd| rstd[0] = row_rstd(&x[i * d..][..d], eps));
    }

    pub fn forward<T: Real>(y: &mut [T], rstd: &[T], x: &[T], weight: &[T]) {
        let d = weight.len();
        for_each_row(y, d, |i, y| row_forward(y, &x[i * d..], weight, rstd[i]));
    }

    pub fn backward_x<T: Real>(dx: &mut [T], dy: &[T], x: &[T], rstd: &[T], weight: &[T]) {
        let d = weight.len();
        for_each_row(dx, d, |i, dx| row_backward(dx, &dy[i * d..], &x[i * d..], weight, rstd[i]));
    }

    /// dweight += sum over rows of dy * x * rstd. One partial sum per 64 rows, added in order.
    pub fn backward_weight<T: Real>(dweight: &mut [T], dy: &[T], x: &[T], rstd: &[T]) {
        const ROWS: usize = 64;
        let d = dweight.len();
        let partial = |(dy, (x, rstd)): (&[T], (&[T], &[T]))| {
            let mut sum = vec![T::ZERO; d];
            vectorized(|| {
                for ((dy, x), &rstd) in dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(rstd) {
                    for i in 0..d {
                        sum[i] += dy[i] * x[i] * rstd;
                    }
                }
            });
            sum
        };
        let blocks = dy.par_chunks(ROWS * d).zip(x.par_chunks(ROWS * d).zip(rstd.par_chunks(ROWS)));
        let sums: Vec<Vec<T>> = blocks.map(partial).collect();
        for sum in sums {
            dweight.iter_mut().zip(sum).for_each(|(g, s)| *g += s);
        }
    }
}
