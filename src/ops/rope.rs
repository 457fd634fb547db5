//! rope: q/k norm and rotary position embedding in one pass over the fused qkv product
//!
//! ```text
//! u = rmsnorm(x, weight) over each head;  y[i] = u[i] cos - u[i + Dh/2] sin;  y[i + Dh/2] = u[i + Dh/2] cos + u[i] sin
//! angle = position / theta^(2i / Dh),  i < Dh/2
//! ```
//!
//! Shapes    qkv, dqkv (N, (H + 2K) * Dh)     q (N, H, Dh)     k, v (N, K, Dh)     q_norm, k_norm (Dh)     cos, sin (N, Dh/2)
//! Saved     qkv, weights, cos, sin (shared by all layers of a kind); rstd is computed again
//! Backward  the rotation by -angle, then the norm's backward; v passes through
//! Numerics  angles in f32, as transformers does
//! Order     dq_norm, dk_norm are summed over rows and heads in order, in fixed blocks
//! Cost      forward 2 * N * (H + 2K) * Dh * sizeof(T) bytes: memory bound

use std::rc::Rc;

use crate::backend::cpu::add_assign;
use crate::error::Result;
use crate::model::params::Param;
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Device, Tensor};
use crate::{bail, dispatch};

/// cos and sin of every position's angles, (N, Dh/2) each.
pub struct Rotation {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rotation {
    /// Angles `position / theta^(2i / head_dim)` of the given positions.
    pub fn new(device: &Device, positions: &[u32], head_dim: usize, theta: f64, dtype: DType) -> Self {
        let half = head_dim / 2;
        let inverse: Vec<f32> = (0..half).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64) as f32).collect();
        let mut cos = Tensor::empty(device, &[positions.len(), half], dtype);
        let mut sin = Tensor::empty(device, &[positions.len(), half], dtype);
        dispatch!(dtype, T => {
            let (cos, sin) = (cos.fresh::<T>(), sin.fresh::<T>());
            for (n, &position) in positions.iter().enumerate() {
                for (i, &frequency) in inverse.iter().enumerate() {
                    let angle = (position as f32 * frequency) as f64;
                    cos[n * half + i] = angle.cos() as T;
                    sin[n * half + i] = angle.sin() as T;
                }
            }
        });
        Self { cos, sin }
    }
}

/// Heads of the fused product.
#[derive(Clone, Copy)]
pub struct Heads {
    /// H
    pub query: usize,
    /// K
    pub kv: usize,
    /// Dh
    pub dim: usize,
}

/// q (N, H, Dh), k, v (N, K, Dh) from qkv: q and k normed per head and rotated, v copied.
pub fn qkv_norm_rope(
    tape: &mut Tape,
    qkv: &Var,
    norms: (&Param, &Param),
    rotation: &Rc<Rotation>,
    heads: Heads,
    eps: f64,
) -> Result<(Var, Var, Var)> {
    let n = qkv.value.shape()[0];
    let Heads { query: h, kv, dim } = heads;
    let dtype = qkv.value.dtype();
    let mut q = Tensor::empty(tape.device(), &[n, h, dim], dtype);
    let mut k = Tensor::empty(tape.device(), &[n, kv, dim], dtype);
    let mut v = Tensor::empty(tape.device(), &[n, kv, dim], dtype);
    dispatch!(dtype, T => {
        let x = cpu::Fused::<T>::new(qkv, rotation, heads, eps);
        x.forward(q.fresh(), norms.0.value.as_slice(), 0, h);
        x.forward(k.fresh(), norms.1.value.as_slice(), h, kv);
        x.copy(v.fresh(), h + kv, kv);
    });
    let (q, k, v) = (tape.var(q), tape.var(k), tape.var(v));
    let outputs = (q.clone(), k.clone(), v.clone());
    let (qkv, rotation) = (qkv.clone(), rotation.clone());
    let (q_norm, k_norm) = (norms.0.clone(), norms.1.clone());
    tape.push("qkv_norm_rope", move |ctx| {
        let (q, k, v) = &outputs;
        let (dq, dk, dv) = match (ctx.take(q), ctx.take(k), ctx.take(v)) {
            (Some(dq), Some(dk), Some(dv)) => (dq, dk, dv),
            (None, None, None) => return Ok(()),
            _ => bail!("internal: a gradient reached only some of q, k and v"),
        };
        let mut dqkv = Tensor::empty(dq.device(), qkv.value.shape(), dtype);
        dispatch!(dtype, T => {
            let x = cpu::Fused::<T>::new(&qkv, &rotation, heads, eps);
            let out = dqkv.fresh::<T>();
            let sum = x.backward(out, dq.as_slice(), q_norm.value.as_slice(), 0, h);
            add_assign(ctx.param(&q_norm)?, &sum);
            let sum = x.backward(out, dk.as_slice(), k_norm.value.as_slice(), h, kv);
            add_assign(ctx.param(&k_norm)?, &sum);
            x.backward_copy(out, dv.as_slice(), h + kv, kv);
        });
        ctx.give(&qkv, dqkv)
    });
    Ok((q, k, v))
}

mod cpu {
    use rayon::prelude::*;

    use super::{Heads, Rotation};
    use crate::backend::cpu::{Real, add_assign, for_each_row, vectorized};
    use crate::ops::rmsnorm::cpu::{row_backward, row_forward, row_rstd};
    use crate::tape::Var;

    /// The fused product and the rotation of its rows. Heads are addressed by (first head, number of heads).
    pub struct Fused<'a, T> {
        x: &'a [T],
        cos: &'a [T],
        sin: &'a [T],
        width: usize,
        dim: usize,
        eps: f64,
    }

    impl<'a, T: Real> Fused<'a, T> {
        pub fn new(qkv: &'a Var, rotation: &'a Rotation, heads: Heads, eps: f64) -> Self {
            let width = (heads.query + 2 * heads.kv) * heads.dim;
            let (cos, sin) = (rotation.cos.as_slice(), rotation.sin.as_slice());
            Self { x: qkv.value.as_slice(), cos, sin, width, dim: heads.dim, eps }
        }

        fn head(&self, row: usize, head: usize) -> &'a [T] {
            &self.x[row * self.width + head * self.dim..][..self.dim]
        }

        fn angles(&self, row: usize) -> (&'a [T], &'a [T]) {
            let half = self.dim / 2;
            (&self.cos[row * half..][..half], &self.sin[row * half..][..half])
        }

        pub fn forward(&self, y: &mut [T], weight: &[T], first: usize, heads: usize) {
            for_each_row(y, heads * self.dim, |row, y| {
                let (cos, sin) = self.angles(row);
                for (h, y) in y.chunks_exact_mut(self.dim).enumerate() {
                    let x = self.head(row, first + h);
                    row_forward(y, x, weight, row_rstd(x, self.eps));
                    rotate(y, cos, sin, T::ONE);
                }
            });
        }

        pub fn copy(&self, y: &mut [T], first: usize, heads: usize) {
            let width = heads * self.dim;
            for_each_row(y, width, |row, y| y.copy_from_slice(&self.x[row * self.width + first * self.dim..][..width]));
        }

        /// Writes the heads' part of dqkv; returns the gradient of the norm's weight (Dh).
        pub fn backward(&self, dqkv: &mut [T], dy: &[T], weight: &[T], first: usize, heads: usize) -> Vec<T> {
            const ROWS: usize = 64;
            let task = |(block, dqkv): (usize, &mut [T])| {
                let mut dweight = vec![T::ZERO; self.dim];
                vectorized(|| {
                    for (r, dqkv) in dqkv.chunks_exact_mut(self.width).enumerate() {
                        let row = block * ROWS + r;
                        for h in 0..heads {
                            let mut dy = dy[(row * heads + h) * self.dim..][..self.dim].to_vec();
                            let dx = &mut dqkv[(first + h) * self.dim..][..self.dim];
                            self.backward_head(dx, &mut dy, weight, &mut dweight, (row, first + h));
                        }
                    }
                });
                dweight
            };
            let partial: Vec<Vec<T>> = dqkv.par_chunks_mut(ROWS * self.width).enumerate().map(task).collect();
            let mut sum = vec![T::ZERO; self.dim];
            partial.iter().for_each(|p| add_assign(&mut sum, p));
            sum
        }

        #[inline(always)]
        fn backward_head(&self, dx: &mut [T], dy: &mut [T], weight: &[T], dweight: &mut [T], at: (usize, usize)) {
            let x = self.head(at.0, at.1);
            let (cos, sin) = self.angles(at.0);
            let rstd = row_rstd(x, self.eps);
            rotate(dy, cos, sin, -T::ONE);
            row_backward(dx, dy, x, weight, rstd);
            for i in 0..self.dim {
                dweight[i] += dy[i] * x[i] * rstd;
            }
        }

        pub fn backward_copy(&self, dqkv: &mut [T], dv: &[T], first: usize, heads: usize) {
            let width = heads * self.dim;
            for_each_row(dqkv, self.width, |row, dqkv| {
                dqkv[first * self.dim..][..width].copy_from_slice(&dv[row * width..][..width]);
            });
        }
    }

    /// Rotates the halves of y by the angles, or back by them when `direction` is -1.
    #[inline(always)]
    fn rotate<T: Real>(y: &mut [T], cos: &[T], sin: &[T], direction: T) {
        let half = y.len() / 2;
        let (low, high) = y.split_at_mut(half);
        let (high, cos, sin) = (&mut high[..half], &cos[..half], &sin[..half]);
        for i in 0..half {
            let (a, b, s) = (low[i], high[i], direction * sin[i]);
            low[i] = a * cos[i] - b * s;
            high[i] = b * cos[i] + a * s;
        }
    }
}
