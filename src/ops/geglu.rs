//! geglu: y = gelu(gate) * up,  gelu(g) = g/2 * (1 + tanh(c * (g + a g^3))),  c = sqrt(2/pi), a = 0.044715
//!
//! Shapes    x = [gate, up], dx (N, 2F) T     y, dy (N, F) T
//! Saved     x
//! Backward  dgate = dy * up * gelu'(gate);  dup = dy * gelu(gate)
//!           gelu'(g) = (1 + t)/2 + g/2 * (1 - t^2) * c * (1 + 3 a g^2),  t = tanh(..)
//! Cost      forward 3 * N * F * sizeof(T) bytes and one exp per element

use crate::autograd::{Tape, Var};
use crate::device::Tensor;
use crate::device::driver::engine_dtype;
use crate::error::Result;
use crate::launch;

/// gelu_tanh(gate) * up of x (N, 2F), whose rows hold gate then up. Returns (N, F).
pub fn geglu(tape: &mut Tape, x: &Var) -> Result<Var> {
    let y = tape.output(forward(&x.value)?)?;
    let (out, x) = (y.arrival(), x.clone());
    tape.push("geglu", move |ctx| {
        let Some(dy) = ctx.take(&out) else { return Ok(()) };
        let dx = backward(&dy, &x.value)?;
        ctx.give(&x, dx)
    });
    Ok(y)
}

fn forward(x: &Tensor) -> Result<Tensor> {
    let (rows, width) = (x.shape()[0], x.shape()[1] / 2);
    let mut y = Tensor::empty(x.device(), &[rows, width], x.dtype())?;
    let (driver, n, f, dtype) = (x.device().driver(), rows as u32, width as u32, engine_dtype(x.dtype()));
    let (out, x) = (y.address_mut()?, x.address());
    // SAFETY: x (N, 2F) and y (N, F), alive until their pool hands them on in stream order.
    unsafe { launch!(driver, geglu_forward { n, f }(out, x, n, f, dtype, driver.stream()))? };
    Ok(y)
}

fn backward(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let mut dx = Tensor::empty(dy.device(), x.shape(), dy.dtype())?;
    let (driver, dtype) = (dy.device().driver(), engine_dtype(dy.dtype()));
    let (n, f) = (dy.shape()[0] as u32, dy.shape()[1] as u32);
    let (out, dy, x) = (dx.address_mut()?, dy.address(), x.address());
    // SAFETY: as above.
    unsafe { launch!(driver, geglu_backward { n, f }(out, dy, x, n, f, dtype, driver.stream()))? };
    Ok(dx)
}
