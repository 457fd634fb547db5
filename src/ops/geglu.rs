//! geglu: y = gelu(gate) * up,  gelu(g) = g/2 * (1 + tanh(c * (g + a g^3))),  c = sqrt(2/pi), a = 0.044715
//!
//! Shapes    x = [gate, up], dx (N, 2F)     y, dy (N, F)
//! Saved     x
//! Backward  dgate = dy * up * gelu'(gate);  dup = dy * gelu(gate)
//!           gelu'(g) = (1 + t)/2 + g/2 * (1 - t^2) * c * (1 + 3 a g^2),  t = tanh(..)
//! Cost      forward 3 * N * F * sizeof(T) bytes and one exp per element

use crate::autograd::{Tape, Var};
use crate::device::Tensor;
use crate::dispatch;
use crate::error::Result;

/// gelu_tanh(gate) * up of x (N, 2F), whose rows hold gate then up. Returns (N, F).
pub fn geglu(tape: &mut Tape, x: &Var) -> Result<Var> {
    let (n, f) = (x.value.shape()[0], x.value.shape()[1] / 2);
    let mut y = Tensor::empty(tape.device(), &[n, f], x.value.dtype())?;
    match tape.driver() {
        Some(driver) => device::forward(driver, &mut y, &x.value)?,
        None => dispatch!(y.dtype(), T => cpu::forward::<T>(y.fresh(), x.value.as_slice(), f)),
    }
    let y = tape.var(y);
    let (out, x) = (y.clone(), x.clone());
    tape.push("geglu", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        let mut dx = Tensor::empty(dy.device(), &[n, 2 * f], dy.dtype())?;
        match dy.device().driver() {
            Some(driver) => device::backward(driver, &mut dx, &dy, &x.value)?,
            None => dispatch!(dy.dtype(), T => cpu::backward::<T>(dx.fresh(), dy.as_slice(), x.value.as_slice(), f)),
        }
        ctx.give(&x, dx)
    });
    Ok(y)
}

mod device {
    use crate::device::Tensor;
    use crate::device::driver::{Driver, engine_dtype};
    use crate::error::Result;
    use crate::launch;

    pub fn forward(driver: &dyn Driver, y: &mut Tensor, x: &Tensor) -> Result<()> {
        let (n, f, dtype) = (y.shape()[0] as u32, y.shape()[1] as u32, engine_dtype(x.dtype()));
        let (y, x) = (y.address_mut()?, x.address());
        // SAFETY: x (N, 2F) and y (N, F), alive until their pool hands them on in stream order.
        unsafe { launch!(driver.kernels(), geglu_forward { n, f }(y, x, n, f, dtype, driver.stream())) }
    }

    pub fn backward(driver: &dyn Driver, dx: &mut Tensor, dy: &Tensor, x: &Tensor) -> Result<()> {
        let (n, f, dtype) = (dy.shape()[0] as u32, dy.shape()[1] as u32, engine_dtype(x.dtype()));
        let (dx, dy, x) = (dx.address_mut()?, dy.address(), x.address());
        // SAFETY: as above.
        unsafe { launch!(driver.kernels(), geglu_backward { n, f }(dx, dy, x, n, f, dtype, driver.stream())) }
    }
}

mod cpu {
    use crate::host::simd::{Real, for_each_row};

    const C: f64 = 0.797_884_560_802_865_4; // sqrt(2 / pi)
    const A: f64 = 0.044_715;

    /// tanh(c * (g + a g^3))
    #[inline(always)]
    fn inner_tanh<T: Real>(g: T) -> T {
        (T::from_f64(C) * (g + T::from_f64(A) * g * g * g)).tanh()
    }

    pub fn forward<T: Real>(y: &mut [T], x: &[T], f: usize) {
        let half = T::from_f64(0.5);
        for_each_row(y, f, |i, y| {
            let (gate, up) = x[i * 2 * f..][..2 * f].split_at(f);
            for j in 0..f {
                y[j] = half * gate[j] * (T::ONE + inner_tanh(gate[j])) * up[j];
            }
        });
    }

    pub fn backward<T: Real>(dx: &mut [T], dy: &[T], x: &[T], f: usize) {
        let (half, c, a3) = (T::from_f64(0.5), T::from_f64(C), T::from_f64(3.0 * A));
        for_each_row(dx, 2 * f, |i, dx| {
            let (gate, up) = x[i * 2 * f..][..2 * f].split_at(f);
            let (dgate, dup) = dx.split_at_mut(f);
            let dy = &dy[i * f..][..f];
            for j in 0..f {
                let g = gate[j];
                let t = inner_tanh(g);
                let slope = half * (T::ONE + t) + half * g * (T::ONE - t * t) * c * (T::ONE + a3 * g * g);
                dgate[j] = dy[j] * up[j] * slope;
                dup[j] = dy[j] * half * g * (T::ONE + t);
            }
        });
    }
}
