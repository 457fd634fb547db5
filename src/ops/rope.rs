//! rope: q/k norm and rotary position embedding in one pass over the fused qkv product
//!
//! ```text
//! u = rmsnorm(x, weight) over each head;  y[i] = u[i] cos - u[i + Dh/2] sin;  y[i + Dh/2] = u[i + Dh/2] cos + u[i] sin
//! angle = position / theta^(2i / Dh),  i < Dh/2
//! ```
//!
//! Shapes    qkv, dqkv (N, (H + 2K) * Dh) T     q (N, H, Dh) T     k, v (N, K, Dh) T     q_norm, k_norm (Dh) T
//!           cos, sin (P, Dh/2) A     positions (N), each below P
//! Saved     qkv, weights, cos, sin (shared by all layers of a kind); rstd is computed again
//! Backward  the rotation by -angle, then the norm's backward; v passes through. dk and dv may come in parts, which it adds up
//! Numerics  angles in f32, as transformers does
//! Order     dq_norm, dk_norm are summed over rows and heads in order, in fixed blocks
//! Cost      forward 2 * N * (H + 2K) * Dh * sizeof(T) bytes: memory bound

use std::ptr;
use std::rc::Rc;

use crate::autograd::{Backward, Param, Rounding, Tape, Var};
use crate::bail;
use crate::batch::inputs::DeviceArray;
use crate::device::bindings::{engine_heads, engine_rope};
use crate::device::driver::{Access, engine_dtype};
use crate::device::{DType, Device, Tensor};
use crate::error::Result;
use crate::launch;
use crate::ops::attention::{KeyParts, Qkv};

/// cos and sin of the positions below a length, (P, Dh/2) each: made once, for every batch.
#[derive(Clone)]
pub struct RotationTable {
    cos: Tensor,
    sin: Tensor,
}

impl RotationTable {
    /// The table of positions below `length`, beside compute in `dtype`: angles `position / theta^(2i / head_dim)`.
    pub fn new(device: &Device, length: usize, head_dim: usize, theta: f64, dtype: DType) -> Result<Self> {
        let half = head_dim / 2;
        let inverse: Vec<f32> = (0..half).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64) as f32).collect();
        let table = |of_angle: fn(f64) -> f64| {
            let row = |position: usize| inverse.iter().map(move |&f| of_angle(f64::from(position as f32 * f)));
            let values: Vec<f64> = (0..length).flat_map(row).collect();
            let mut table = Tensor::empty(device, &[length, half], dtype.accumulator())?;
            match dtype.accumulator() {
                DType::F64 => table.upload(&values)?,
                _ => table.upload(&values.iter().map(|&x| x as f32).collect::<Vec<_>>())?,
            }
            Ok(table)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// Positions that it knows.
    pub fn length(&self) -> usize {
        self.cos.shape()[0]
    }

    /// The rotation of rows at these positions, each below `depth` and that below the table's length. A captured graph may be given deeper ones.
    pub fn at(&self, positions: DeviceArray, depth: usize) -> Rotation {
        Rotation { table: self.clone(), positions, depth }
    }
}

/// How the rows of a batch are rotated.
pub struct Rotation {
    table: RotationTable,
    positions: DeviceArray,
    depth: usize,
}

/// A key-value cache of one layer: where the rows of k and v go.
pub struct CacheSlots<'a> {
    /// Keys and values of all slots, (S, K, Dh) each.
    pub k: &'a mut Tensor,
    pub v: &'a mut Tensor,
    /// Slot of each row (N).
    pub slots: &'a DeviceArray,
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

/// What is done to each head of q and k, beside activations.
#[derive(Clone)]
pub struct NormRope {
    pub q_norm: Param,
    pub k_norm: Param,
    pub rotation: Rc<Rotation>,
    pub heads: Heads,
    pub eps: f64,
}

impl NormRope {
    /// What the launchers read for n rows; `slots`: the rows of k and v to write, null for the rows themselves.
    pub(super) fn description(&self, n: usize, slots: *const u32) -> Result<engine_rope> {
        let Heads { query, kv, dim } = self.heads;
        let rows = n.min(self.rotation.depth);
        let angles = |table: &Tensor| table.address_of(0, rows * dim / 2);
        Ok(engine_rope {
            q_norm: self.q_norm.value.address(),
            k_norm: self.k_norm.value.address(),
            cos: angles(&self.rotation.table.cos),
            sin: angles(&self.rotation.table.sin),
            positions: self.rotation.positions.address()?,
            slots,
            n: n as u32,
            heads: engine_heads { query: query as u32, kv: kv as u32, dim: dim as u32 },
            eps: self.eps,
        })
    }
}

/// q (N, H, Dh), k, v (N, K, Dh) from qkv: q and k normed per head and rotated, v copied.
pub fn qkv_norm_rope(tape: &mut Tape, qkv: &Var, how: &NormRope) -> Result<Qkv> {
    let (n, dtype, Heads { query, kv, dim }) = (qkv.value.shape()[0], qkv.value.dtype(), how.heads);
    let empty = |heads: usize| Tensor::empty(qkv.value.device(), &[n, heads, dim], dtype);
    let (mut q, mut k, mut v) = (empty(query)?, empty(kv)?, empty(kv)?);
    forward([&mut q, &mut k, &mut v], &qkv.value, &how.description(n, ptr::null())?)?;
    // A tape that rounds is given what it rounds.
    let parts = (tape.rounding() == Rounding::None).then(KeyParts::default);
    let outputs = Qkv { q: tape.output(q)?, k: tape.output(k)?, v: tape.output(v)?, parts: parts.clone() };
    let out = [&outputs.q, &outputs.k, &outputs.v].map(Var::arrival);
    let (qkv, how) = (qkv.clone(), how.clone());
    tape.push("qkv_norm_rope", move |ctx| {
        let [dq, dk, dv] = out.each_ref().map(|y| ctx.take(y));
        let parts = parts.and_then(|parts| parts.take());
        let gradients = match (dq, dk, dv, parts) {
            (Some(dq), Some(dk), Some(dv), None) => [dq, dk, dv],
            (Some(dq), None, None, Some([dk, dv])) => [dq, dk, dv],
            (None, None, None, None) => return Ok(()),
            _ => bail!("internal: a gradient reached only some of q, k and v, or in parts and whole"),
        };
        let dqkv = backward(ctx, &gradients, &qkv.value, &how)?;
        ctx.give(&qkv, dqkv)
    });
    Ok(outputs)
}

/// [`qkv_norm_rope`] without a backward, whose keys and values go into their slots of a cache. Returns q, and the keys
/// and values of all slots.
pub fn qkv_norm_rope_cached(tape: &mut Tape, qkv: &Var, how: &NormRope, cache: CacheSlots<'_>) -> Result<Qkv> {
    let (n, heads) = (qkv.value.shape()[0], how.heads);
    let mut q = Tensor::empty(tape.device(), &[n, heads.query, heads.dim], qkv.value.dtype())?;
    let rope = how.description(n, cache.slots.address()?)?;
    forward([&mut q, cache.k, cache.v], &qkv.value, &rope)?;
    Ok(Qkv { q: tape.output(q)?, k: tape.var(cache.k.clone()), v: tape.var(cache.v.clone()), parts: None })
}

fn forward([q, k, v]: [&mut Tensor; 3], qkv: &Tensor, rope: &engine_rope) -> Result<()> {
    let (driver, n, dtype) = (qkv.device().driver(), rope.n, engine_dtype(qkv.dtype()));
    // Of a cache some slots are written.
    let new = (n * rope.heads.kv * rope.heads.dim) as usize;
    let (q, k, v) = (q.address_mut()?, k.address_to(new, Access::Write)?, v.address_to(new, Access::Write)?);
    // SAFETY: tensors of the shapes that engine.h asks for; slots are below S, positions below P.
    unsafe { launch!(driver, rope_forward { n }(q, k, v, qkv.address(), rope, dtype, driver.stream())) }
}

/// dqkv from dq, dk and dv, the latter two whole or in parts; leaves parts of the gradients of the norms.
fn backward(ctx: &mut Backward<'_>, [dq, dk, dv]: &[Tensor; 3], qkv: &Tensor, how: &NormRope) -> Result<Tensor> {
    let (device, n, dtype) = (qkv.device(), qkv.shape()[0], qkv.dtype());
    let mut dqkv = Tensor::empty(device, qkv.shape(), dtype)?;
    let [q_parts, k_parts] = ctx.gradients().parts_of_two([&how.q_norm, &how.k_norm], n)?;
    let rope = how.description(n, ptr::null())?;
    let split = (dk.shape()[1] / how.heads.kv.max(1)) as u32;
    let (driver, n, dtype) = (device.driver(), rope.n, engine_dtype(dtype));
    let (out, q_sums, k_sums, rows) = (dqkv.address_mut()?, q_parts.address, k_parts.address, q_parts.rows);
    let (dq, dk, dv, qkv, stream) = (dq.address(), dk.address(), dv.address(), qkv.address(), driver.stream());
    // SAFETY: as above, and the parts of as many rows.
    unsafe {
        launch!(driver, rope_backward { n }(out, q_sums, k_sums, dq, dk, dv, qkv, &rope, split, rows, dtype, stream))?;
    }
    Ok(dqkv)
}
