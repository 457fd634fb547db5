//! decode: the attention of tokens that continue prompts, one each, over a cache that their keys and values go to
//!
//! [`qkv_norm_rope_cached`] and [`attention`], which a device that joins small products does in one launch: a token is the only one
//! that sees its own key, so whoever meets it can make it.
//!
//! Shapes    qkv (N, (H + 2K) * Dh) T     cache k, v (S, K, Dh) T     o (N, H * Dh) T
//! Backward  none
//! Cost      reads the keys and values that are seen: memory bound

use std::rc::Rc;

use crate::autograd::{Tape, Var};
use crate::batch::mask::AttentionMask;
use crate::device::Tensor;
use crate::device::driver::Access;
use crate::error::Result;
use crate::launch;
use crate::ops::attention::{attention, decode_scratch, description};
use crate::ops::rope::{CacheSlots, Heads, NormRope, qkv_norm_rope_cached};

/// Query heads on one kv head, of which one block takes all.
const MOST_OF_A_GROUP: usize = 16;

/// o (N, H * Dh) of rows that decode, from their fused product (N, (H + 2K) * Dh).
pub fn decode_attention(
    tape: &mut Tape,
    qkv: &Var,
    how: &NormRope,
    cache: CacheSlots<'_>,
    mask: &Rc<AttentionMask>,
    softmax_scale: f64,
) -> Result<Var> {
    if is_joined(&qkv.value, how.heads) {
        return tape.output(joined(&qkv.value, how, cache, mask, softmax_scale)?);
    }
    let qkv = qkv_norm_rope_cached(tape, qkv, how, cache)?;
    attention(tape, &qkv, mask, softmax_scale)
}

fn is_joined(qkv: &Tensor, Heads { query, kv, dim }: Heads) -> bool {
    let is_known = query <= MOST_OF_A_GROUP * kv && dim.is_multiple_of(2);
    is_known && qkv.device().driver().joins_products(qkv.dtype())
}

fn joined(qkv: &Tensor, how: &NormRope, cache: CacheSlots<'_>, mask: &AttentionMask, scale: f64) -> Result<Tensor> {
    let (n, Heads { query, dim, .. }, CacheSlots { k, v, slots }) = (qkv.shape()[0], how.heads, cache);
    let attention = description([n, query, dim], k.shape(), qkv.dtype(), mask, scale)?;
    let rope = how.description(n, slots.address()?)?;
    let mut o = Tensor::empty(qkv.device(), &[n, query * dim], qkv.dtype())?;
    let mut scratch = decode_scratch(&o, query, dim)?;
    let (driver, s, tiles) = (qkv.device().driver(), attention.s, mask.num_tiles);
    let (out, scratch, stream) = (o.address_mut()?, scratch.address_mut()?, driver.stream());
    let (of_slot, size) = (k.len() / k.shape()[0].max(1), k.dtype().size());
    let used =
        |cache: &mut Tensor| cache.address_to(mask.listed_slots * of_slot, Access::UpdatePart(n * of_slot * size));
    let (k, v) = (used(k)?, used(v)?);
    // SAFETY: tensors of the shapes that engine.h asks for; slots are below S and seen by their rows alone, positions are below P.
    unsafe {
        launch!(
            driver,
            rope_attention_decode { n, s, tiles }(out, scratch, k, v, qkv.address(), &rope, &attention, stream)
        )?;
    }
    Ok(o)
}
