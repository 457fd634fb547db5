//! attention: o = softmax(scale * q k^T + mask) v over the token tree, grouped kv heads, sliding window
//!
//! Shapes    q, o, dq, do (N, H, Dh) T     k, v, dk, dv (S, K, Dh) T     lse (N, H) A
//! Saved     q, k, v, o, lse (log-sum-exp of the scaled, masked scores)
//! Backward  p = exp(s - lse);  dv = p^T do;  ds = p * (do v^T - rowsum(do * o));  dq = scale ds k;  dk = scale ds^T q
//! Order     dq by tiles of queries, dk and dv by tiles of keys: every sum has one owner and a fixed order. Where there are few
//!           tiles, a head of a group has an owner of its own, and who made k and v adds up the parts
//! Cost      4 * Dh FLOP forward, 14 * Dh backward per visible (query, key, head) of the tiles

use std::cell::Cell;
use std::ptr::null;
use std::rc::Rc;

use crate::autograd::{Tape, Var};
use crate::batch::inputs::DeviceArray;
use crate::batch::mask::AttentionMask;
use crate::device::bindings::{ENGINE_ATTENTION_KEYS, ENGINE_DECODE_SPLITS, engine_attention, engine_heads};
use crate::device::driver::engine_dtype;
use crate::device::{DType, Purpose, Tensor};
use crate::error::Result;
use crate::{bail, launch};

/// What attention reads: q (N, H, Dh), k and v (S, K, Dh).
#[derive(Clone)]
pub struct Qkv {
    pub q: Var,
    pub k: Var,
    pub v: Var,
    /// Where dk and dv may be left in parts: of the op that made k and v, if it adds them up.
    pub parts: Option<KeyParts>,
}

/// dk and dv on their way from attention's backward to the op that made k and v, in parts (N, H, Dh) A: that of kv head i is the sum of
/// parts i * H / K and following, in order.
#[derive(Clone, Default)]
pub struct KeyParts(Rc<Cell<Option<[Tensor; 2]>>>);

impl KeyParts {
    fn leave(&self, parts: [Tensor; 2]) -> Result<()> {
        match self.0.replace(Some(parts)) {
            None => Ok(()),
            Some(_) => bail!("internal: parts of dk and dv were left twice"),
        }
    }

    /// What attention's backward has left; None where dk and dv were given whole.
    pub fn take(&self) -> Option<[Tensor; 2]> {
        self.0.take()
    }
}

/// Attention under `mask`. Returns o (N, H * Dh).
pub fn attention(tape: &mut Tape, qkv: &Qkv, mask: &Rc<AttentionMask>, softmax_scale: f64) -> Result<Var> {
    if mask.decoding {
        return tape.output(decode(qkv, mask, softmax_scale)?);
    }
    let [o, lse] = tape.kept(|| forward(qkv, mask, softmax_scale))?;
    let o = tape.output(o)?;
    let (out, qkv, mask) = (o.clone(), qkv.clone(), mask.clone());
    tape.push("attention", move |ctx| {
        let Some(d_o) = ctx.take(&out) else { return Ok(()) };
        let [dq, dk, dv] = backward(&d_o, &out.value, &lse, &qkv, &mask, softmax_scale)?;
        ctx.give(&qkv.q, dq)?;
        match &qkv.parts {
            Some(parts) if dk.shape() != qkv.k.value.shape() => parts.leave([dk, dv]),
            _ => {
                ctx.give(&qkv.k, dk)?;
                ctx.give(&qkv.v, dv)
            }
        }
    });
    Ok(o)
}

/// What the launchers read beside activations.
fn description_of(qkv: &Qkv, mask: &AttentionMask, scale: f64) -> Result<engine_attention> {
    let (q, k) = (&qkv.q.value, qkv.k.value.shape());
    let &[n, query, dim] = q.shape() else { panic!("attention: q of shape {:?}", q.shape()) };
    let heads_at_once = heads_at_once(qkv) as u32;
    Ok(engine_attention { heads_at_once, ..description([n, query, dim], k, q.dtype(), mask, scale)? })
}

/// What the launchers read beside activations, for q of shape (N, H, Dh) and k of shape (S, K, Dh). A backward adds up dk and dv over all
/// heads of a group.
pub(super) fn description(
    q: [usize; 3],
    k: &[usize],
    dtype: DType,
    mask: &AttentionMask,
    scale: f64,
) -> Result<engine_attention> {
    assert_eq!((q[0], k[0]), (mask.num_rows, mask.num_slots), "attention: mask");
    Ok(engine_attention {
        slots: mask.placement.slots.address()?,
        positions: mask.placement.positions.address()?,
        end: mask.placement.end.address()?,
        key_positions: mask.placement.key_positions.address()?,
        key_starts: mask.key_starts.address()?,
        key_tiles: mask.key_tiles.address()?,
        query_starts: mask.query_starts.address()?,
        query_tiles: mask.query_tiles.address()?,
        arrived: mask.arrived.as_ref().map_or(Ok(null()), DeviceArray::address)?.cast_mut(),
        window: mask.window,
        n: q[0] as u32,
        s: k[0] as u32,
        heads: engine_heads { query: q[1] as u32, kv: k[1] as u32, dim: q[2] as u32 },
        heads_at_once: (q[1] / k[1].max(1)) as u32,
        scale,
        dtype: engine_dtype(dtype),
    })
}

/// Query heads over which a block adds up dk and dv: all of a group where their blocks keep the device busy or nobody takes parts,
/// else one.
fn heads_at_once(qkv: &Qkv) -> usize {
    let (q, k) = (&qkv.q.value, qkv.k.value.shape());
    let blocks = (k[1] * k[0].div_ceil(ENGINE_ATTENTION_KEYS as usize)).max(1);
    let whole = qkv.parts.is_none() || blocks >= q.device().driver().blocks_at_once();
    if whole { q.shape()[1] / k[1].max(1) } else { 1 }
}

/// o (N, H * Dh) and lse (N, H)
fn forward(qkv: &Qkv, mask: &AttentionMask, scale: f64) -> Result<[Tensor; 2]> {
    let (attention, q) = (description_of(qkv, mask, scale)?, &qkv.q.value);
    let (device, rows, heads, dim) = (q.device(), q.shape()[0], q.shape()[1], q.shape()[2]);
    let mut o = Tensor::empty(device, &[rows, heads * dim], q.dtype())?;
    let mut lse = Tensor::empty(device, &[rows, heads], q.dtype().accumulator())?;
    let (driver, n, s, tiles) = (device.driver(), attention.n, attention.s, mask.num_tiles);
    let (out, sums) = (o.address_mut()?, lse.address_mut()?);
    let (q, k, v) = (q.address(), qkv.k.value.address(), qkv.v.value.address());
    // SAFETY: tensors of the shapes that engine.h asks for, and the mask of these rows and slots.
    unsafe { launch!(driver, attention_forward { n, s, tiles }(out, sums, q, k, v, &attention, driver.stream()))? };
    Ok([o, lse])
}

/// Room for the parts of an o (N, H * Dh) in decoding.
pub(super) fn decode_scratch(o: &Tensor, heads: usize, dim: usize) -> Result<Tensor> {
    let parts = [o.shape()[0] * heads, ENGINE_DECODE_SPLITS as usize, dim + 2];
    Tensor::empty(&o.device().of(Purpose::Scratch), &parts, o.dtype().accumulator())
}

/// o (N, H * Dh) of rows that lie far apart, without what a backward needs.
fn decode(qkv: &Qkv, mask: &AttentionMask, scale: f64) -> Result<Tensor> {
    let (attention, q) = (description_of(qkv, mask, scale)?, &qkv.q.value);
    let (device, rows, heads, dim) = (q.device(), q.shape()[0], q.shape()[1], q.shape()[2]);
    let mut o = Tensor::empty(device, &[rows, heads * dim], q.dtype())?;
    let mut scratch = decode_scratch(&o, heads, dim)?;
    let (driver, n, s, tiles) = (device.driver(), attention.n, attention.s, mask.num_tiles);
    let (out, scratch) = (o.address_mut()?, scratch.address_mut()?);
    let cached = |cache: &Tensor| cache.address_of(0, mask.listed_slots * cache.len() / cache.shape()[0].max(1));
    let (q, k, v) = (q.address(), cached(&qkv.k.value), cached(&qkv.v.value));
    // SAFETY: as above; each row is a tile of its own.
    unsafe { launch!(driver, attention_decode { n, s, tiles }(out, scratch, q, k, v, &attention, driver.stream()))? };
    Ok(o)
}

/// dq, dk, dv; the latter two (N, H, Dh) A where they are parts
fn backward(
    d_o: &Tensor,
    o: &Tensor,
    lse: &Tensor,
    qkv: &Qkv,
    mask: &AttentionMask,
    scale: f64,
) -> Result<[Tensor; 3]> {
    let (attention, device, dtype) = (description_of(qkv, mask, scale)?, d_o.device(), d_o.dtype());
    let whole = attention.heads_at_once * attention.heads.kv == attention.heads.query;
    let (scratch, like_k) = (device.of(Purpose::Scratch), qkv.k.value.shape());
    let sums = || match whole {
        true => Tensor::empty(device, like_k, dtype),
        false => Tensor::empty(&scratch, qkv.q.value.shape(), lse.dtype()),
    };
    let (mut dq, mut dk, mut dv) = (Tensor::empty(device, qkv.q.value.shape(), dtype)?, sums()?, sums()?);
    let mut delta = Tensor::empty(&scratch, lse.shape(), lse.dtype())?;
    let (driver, n, s, tiles) = (device.driver(), attention.n, attention.s, mask.num_tiles);
    let (q_out, k_out, v_out) = (dq.address_mut()?, dk.address_mut()?, dv.address_mut()?);
    let (delta, lse, d_o, o) = (delta.address_mut()?, lse.address(), d_o.address(), o.address());
    let (q, k, v) = (qkv.q.value.address(), qkv.k.value.address(), qkv.v.value.address());
    let stream = driver.stream();
    // SAFETY: as above; rows are slots in training.
    unsafe {
        launch!(
            driver,
            attention_backward { n, s, tiles }(q_out, k_out, v_out, delta, lse, d_o, o, q, k, v, &attention, stream)
        )?;
    }
    Ok([dq, dk, dv])
}
