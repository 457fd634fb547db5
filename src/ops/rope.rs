//! rope: q/k norm and rotary position embedding in one pass over the fused qkv product
//!
//! ```text
//! u = rmsnorm(x, weight) over each head;  y[i] = u[i] cos - u[i + Dh/2] sin;  y[i + Dh/2] = u[i + Dh/2] cos + u[i] sin
//! angle = position / theta^(2i / Dh),  i < Dh/2
//! ```
//!
//! Shapes    qkv, dqkv (N, (H + 2K) * Dh)     q (N, H, Dh)     k, v (N, K, Dh)     q_norm, k_norm (Dh)
//!           cos, sin (N, Dh/2) on the CPU, (positions, Dh/2) on a device
//! Saved     qkv, weights, cos, sin (shared by all layers of a kind); rstd is computed again
//! Backward  the rotation by -angle, then the norm's backward; v passes through
//! Numerics  angles in f32, as transformers does
//! Order     dq_norm, dk_norm are summed over rows and heads in order, in fixed blocks
//! Cost      forward 2 * N * (H + 2K) * Dh * sizeof(T) bytes: memory bound

use std::rc::Rc;

use crate::autograd::Param;
use crate::autograd::{Tape, Var};
use crate::batch::inputs::Slot;
use crate::device::{DType, Device, Tensor};
use crate::error::Result;
use crate::host::simd::add_assign;
use crate::{bail, dispatch};

/// cos and sin of the angles of a batch's rows, (N, Dh/2) each; on a device those of all positions up to some length
/// ([`RotationTable`]), and the positions of the rows.
pub struct Rotation {
    pub cos: Tensor,
    pub sin: Tensor,
    positions: Option<Slot>,
}

/// cos and sin of the positions below a length, (length, Dh/2) f32 each: made once, for every batch.
#[derive(Clone)]
pub struct RotationTable {
    cos: Tensor,
    sin: Tensor,
}

impl RotationTable {
    /// The table of positions below `length`.
    pub fn new(device: &Device, length: usize, head_dim: usize, theta: f64) -> Result<Self> {
        let positions: Vec<u32> = (0..length as u32).collect();
        let host = Rotation::new(&Device::cpu(), &positions, head_dim, theta, DType::F32);
        let send = |x: &Tensor| -> Result<Tensor> {
            let mut sent = Tensor::empty(device, x.shape(), DType::F32)?;
            sent.upload(x.as_slice::<f32>())?;
            Ok(sent)
        };
        Ok(Self { cos: send(&host.cos)?, sin: send(&host.sin)? })
    }

    /// Positions that it knows.
    pub fn length(&self) -> usize {
        self.cos.shape()[0]
    }

    /// The rotation of rows at these positions, each below the table's length.
    pub fn at(&self, positions: Slot) -> Rotation {
        Rotation { cos: self.cos.clone(), sin: self.sin.clone(), positions: Some(positions) }
    }
}

/// A key-value cache of one layer: where the rows of k and v go.
pub struct CacheSlots<'a> {
    /// Keys and values of all slots, (S, K, Dh) each.
    pub k: &'a mut Tensor,
    pub v: &'a mut Tensor,
    /// Slot of each row (N).
    pub slots: &'a [u32],
    /// The same on a device.
    pub sent: Option<&'a Slot>,
}

impl Rotation {
    /// Angles `position / theta^(2i / head_dim)` of the given positions.
    pub fn new(device: &Device, positions: &[u32], head_dim: usize, theta: f64, dtype: DType) -> Self {
        let half = head_dim / 2;
        let inverse: Vec<f32> = (0..half).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64) as f32).collect();
        let shape = [positions.len(), half];
        let angles = positions.iter().flat_map(|&p| inverse.iter().map(move |&f| (p as f32 * f) as f64));
        dispatch!(dtype, T => {
            let (cos, sin): (Vec<T>, Vec<T>) = angles.map(|angle| (angle.cos() as T, angle.sin() as T)).unzip();
            let (cos, sin) = (Tensor::from_slice(device, &shape, &cos), Tensor::from_slice(device, &shape, &sin));
            Self { cos, sin, positions: None }
        })
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
    let mut q = Tensor::empty(tape.device(), &[n, h, dim], dtype)?;
    let mut k = Tensor::empty(tape.device(), &[n, kv, dim], dtype)?;
    let mut v = Tensor::empty(tape.device(), &[n, kv, dim], dtype)?;
    match tape.driver() {
        Some(driver) => {
            let rope = device::Rope { norms, rotation, slots: None, heads, eps };
            device::forward(driver, (&mut q, &mut k, &mut v), &qkv.value, &rope)?
        }
        None => forward_on_cpu((&mut q, &mut k, &mut v), qkv, norms, rotation, (heads, eps)),
    }
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
        let mut dqkv = Tensor::empty(dq.device(), qkv.value.shape(), dtype)?;
        if let Some(driver) = dq.device().driver() {
            let rope = device::Rope { norms: (&q_norm, &k_norm), rotation: &rotation, slots: None, heads, eps };
            let dnorms = (ctx.param_address(&q_norm)?.cast(), ctx.param_address(&k_norm)?.cast());
            device::backward(driver, (&mut dqkv, dnorms), (&dq, &dk, &dv), &qkv.value, &rope)?;
            return ctx.give(&qkv, dqkv);
        }
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

/// [`qkv_norm_rope`] without a backward, whose keys and values go into their slots of a cache. Returns q, and the keys
/// and values of all slots.
pub fn qkv_norm_rope_cached(
    tape: &mut Tape,
    qkv: &Var,
    norms: (&Param, &Param),
    rotation: &Rc<Rotation>,
    heads: Heads,
    eps: f64,
    cache: CacheSlots<'_>,
) -> Result<(Var, Var, Var)> {
    let (n, dtype) = (qkv.value.shape()[0], qkv.value.dtype());
    let mut q = Tensor::empty(tape.device(), &[n, heads.query, heads.dim], dtype)?;
    match tape.driver() {
        Some(driver) => {
            let rope = device::Rope { norms, rotation, slots: cache.sent, heads, eps };
            device::forward(driver, (&mut q, cache.k, cache.v), &qkv.value, &rope)?;
        }
        None => {
            let mut k = Tensor::empty(tape.device(), &[n, heads.kv, heads.dim], dtype)?;
            let mut v = Tensor::empty(tape.device(), &[n, heads.kv, heads.dim], dtype)?;
            forward_on_cpu((&mut q, &mut k, &mut v), qkv, norms, rotation, (heads, eps));
            dispatch!(dtype, T => {
                cpu::scatter(cache.k.as_mut::<T>()?, k.as_slice(), cache.slots, heads.kv * heads.dim);
                cpu::scatter(cache.v.as_mut::<T>()?, v.as_slice(), cache.slots, heads.kv * heads.dim);
            });
        }
    }
    Ok((tape.var(q), tape.var(cache.k.clone()), tape.var(cache.v.clone())))
}

fn forward_on_cpu(
    (q, k, v): (&mut Tensor, &mut Tensor, &mut Tensor),
    qkv: &Var,
    norms: (&Param, &Param),
    rotation: &Rotation,
    (heads, eps): (Heads, f64),
) {
    let Heads { query: h, kv, .. } = heads;
    dispatch!(qkv.value.dtype(), T => {
        let x = cpu::Fused::<T>::new(qkv, rotation, heads, eps);
        x.forward(q.fresh(), norms.0.value.as_slice(), 0, h);
        x.forward(k.fresh(), norms.1.value.as_slice(), h, kv);
        x.copy(v.fresh(), h + kv, kv);
    });
}

mod device {
    use std::ptr;

    use super::{Heads, Rotation};
    use crate::autograd::Param;
    use crate::batch::inputs::Slot;
    use crate::device::bindings::{engine_heads, engine_rope};
    use crate::device::driver::{Driver, engine_dtype};
    use crate::device::{DType, Purpose, Tensor};
    use crate::err;
    use crate::error::Result;
    use crate::launch;

    /// Rows of one partial sum of the norms' gradients, as kernels/rope.cu has it.
    const CHUNK: usize = 64;

    /// What the kernels read beside activations.
    pub struct Rope<'a> {
        pub norms: (&'a Param, &'a Param),
        pub rotation: &'a Rotation,
        pub slots: Option<&'a Slot>,
        pub heads: Heads,
        pub eps: f64,
    }

    impl Rope<'_> {
        fn of_rows(&self, n: usize) -> Result<engine_rope> {
            let positions = self.rotation.positions.as_ref();
            let positions = positions.ok_or_else(|| err!("internal: positions are not on the device"))?;
            let Heads { query, kv, dim } = self.heads;
            Ok(engine_rope {
                q_norm: self.norms.0.value.address(),
                k_norm: self.norms.1.value.address(),
                cos: self.rotation.cos.address().cast(),
                sin: self.rotation.sin.address().cast(),
                positions: positions.address()?,
                slots: self.slots.map_or(Ok(ptr::null()), Slot::address)?,
                n: n as u32,
                eps: self.eps as f32,
                heads: engine_heads { query: query as u32, kv: kv as u32, dim: dim as u32 },
            })
        }
    }

    pub fn forward(
        driver: &dyn Driver,
        (q, k, v): (&mut Tensor, &mut Tensor, &mut Tensor),
        qkv: &Tensor,
        rope: &Rope<'_>,
    ) -> Result<()> {
        let n = qkv.shape()[0];
        let (rope, dtype, stream) = (rope.of_rows(n)?, engine_dtype(qkv.dtype()), driver.stream());
        let (q, k, v, qkv) = (q.address_mut()?, k.address_mut()?, v.address_mut()?, qkv.address());
        // SAFETY: tensors of the shapes that engine.h asks for; slots are below S.
        unsafe { launch!(driver.kernels(), rope_forward { n }(q, k, v, qkv, &rope, dtype, stream)) }
    }

    pub fn backward(
        driver: &dyn Driver,
        (dqkv, dnorms): (&mut Tensor, (*mut f32, *mut f32)),
        (dq, dk, dv): (&Tensor, &Tensor, &Tensor),
        qkv: &Tensor,
        rope: &Rope<'_>,
    ) -> Result<()> {
        let (n, dim) = (qkv.shape()[0], rope.heads.dim);
        let purpose = dqkv.device().of(Purpose::Scratch);
        let mut scratch = Tensor::empty(&purpose, &[n.div_ceil(CHUNK), 2, dim], DType::F32)?;
        let (rope, dtype, stream) = (rope.of_rows(n)?, engine_dtype(qkv.dtype()), driver.stream());
        let (dqkv, scratch) = (dqkv.address_mut()?, scratch.address_mut()?.cast());
        let (dq, dk, dv, qkv) = (dq.address(), dk.address(), dv.address(), qkv.address());
        // SAFETY: as above; the norms' gradients are their parts of the gradients.
        unsafe {
            launch!(
                driver.kernels(),
                rope_backward { n }(dqkv, dnorms.0, dnorms.1, scratch, dq, dk, dv, qkv, &rope, dtype, stream)
            )
        }
    }
}

mod cpu {
    use rayon::prelude::*;

    use super::{Heads, Rotation};
    use crate::autograd::Var;
    use crate::host::simd::{Real, add_assign, for_each_row, vectorized};
    use crate::ops::rmsnorm::cpu::{row_backward, row_forward, row_rstd};

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

    /// Copies rows of `width` elements to their slots.
    pub fn scatter<T: Real>(all: &mut [T], rows: &[T], slots: &[u32], width: usize) {
        for (&slot, row) in slots.iter().zip(rows.chunks_exact(width)) {
            all[slot as usize * width..][..width].copy_from_slice(row);
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
