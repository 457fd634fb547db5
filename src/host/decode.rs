//! The attention of tokens that continue prompts, one each. The contract is in kernels/engine.h.
//!
//! Keys that all rows look at (prompts begin alike) are multiplied for all of them at once; a row's other keys are a task of
//! their own, read once for all query heads that read one kv head.

use std::borrow::Cow;
use std::ffi::c_void;
use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Matrix, Store};
use super::launcher::{Scratch, elements, elements_mut, run, with_dtype};
use super::products::{MOST_ROWS, product};
use super::rope::rope_forward;
use super::simd::{Real, Scalar, max_of, sum_of, sum_of_both, vectorized};
use super::visible::{Mask, Tile, query_tiles};
use crate::device::bindings::{engine_attention, engine_rope, engine_status, engine_stream};

pub unsafe extern "C" fn attention_decode(
    o: *mut c_void,
    _scratch: *mut c_void,
    q: *const c_void,
    k: *const c_void,
    v: *const c_void,
    attention: *const engine_attention,
    _stream: engine_stream,
) -> engine_status {
    // SAFETY: the table's contract.
    let attention = unsafe { &*attention };
    run(|| {
        with_dtype!(attention.dtype, T => {
            // SAFETY: as above.
            let (cache, tiles) = unsafe { (Cache::<T>::new(attention, [k, v]), query_tiles(attention, 1)) };
            let len = tiles.len() * attention.heads.query as usize * cache.dim;
            // SAFETY: as above.
            let (o, q) = unsafe { (elements_mut::<T>(o, len), elements::<T>(q, len)) };
            if len > 0 {
                cache.attend_all(o, q, &tiles);
            }
        })
    })
}

pub unsafe extern "C" fn rope_attention_decode(
    o: *mut c_void,
    scratch: *mut c_void,
    k: *mut c_void,
    v: *mut c_void,
    qkv: *const c_void,
    rope: *const engine_rope,
    attention: *const engine_attention,
    stream: engine_stream,
) -> engine_status {
    // SAFETY: the table's contract.
    let (of, dtype) = unsafe { (&*attention, (*attention).dtype) };
    let mut q = Scratch::new((of.n * of.heads.query * of.heads.dim) as usize);
    let q = q.address();
    // SAFETY: as above.
    unsafe {
        match rope_forward(q, k, v, qkv, rope, dtype, stream) {
            engine_status::ENGINE_OK => attention_decode(o, scratch, q, k, v, attention, stream),
            bad => bad,
        }
    }
}

/// Keys and values, and who sees them.
struct Cache<'a, T> {
    /// (S, K, Dh)
    k: &'a [T],
    v: &'a [T],
    scale: f64,
    mask: Mask<'a>,
    /// K, Dh, and query heads of a kv head
    kv_heads: usize,
    dim: usize,
    group: usize,
}

impl<'a, T: Scalar> Cache<'a, T> {
    /// # Safety
    /// All is there as kernels/engine.h says, k and v in T.
    unsafe fn new(attention: &'a engine_attention, [k, v]: [*const c_void; 2]) -> Self {
        let (s, dim) = (attention.s as usize, attention.heads.dim as usize);
        let (heads, kv_heads) = (attention.heads.query as usize, attention.heads.kv as usize);
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} query heads on {kv_heads} kv heads");
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                k: elements(k, s * kv_heads * dim),
                v: elements(v, s * kv_heads * dim),
                scale: attention.scale,
                mask: Mask::new(attention),
                kv_heads,
                dim,
                group: heads / kv_heads,
            }
        }
    }

    /// o (N, H, Dh) from q.
    fn attend_all(&self, o: &mut [T], q: &[T], tiles: &[Tile]) {
        let (group, dim, shared) = (self.group, self.dim, shared(tiles));
        let (row, of_head) = (q.len() / tiles.len(), tiles.len() * group);
        let tails: Vec<Tile> = tiles.iter().map(|tile| tile.after(shared.end)).collect();
        for head in 0..self.kv_heads {
            let part = head * group * dim..(head + 1) * group * dim;
            let mut of_group = Vec::with_capacity(of_head * dim);
            q.chunks_exact(row).for_each(|row| of_group.extend_from_slice(&row[part.clone()]));
            let q = of_group;
            let [k, v] = [self.k, self.v].map(|x| self.of_head_alone(x, head, &shared));
            let mut scores = vec![T::Acc::ZERO; of_head * shared.len()];
            let mut p = vec![T::zeroed(); scores.len()];
            let mut sums = vec![T::Acc::ZERO; of_head * dim];
            let mut of_rows = vec![T::Acc::ZERO; of_head * dim];
            if !shared.is_empty() {
                // As many rows at once as a skinny product has at most: what one row gives then follows from it alone.
                let rows = (MOST_ROWS / group).max(1) * group;
                for (scores, q) in scores.chunks_mut(rows * shared.len()).zip(q.chunks(rows * dim)) {
                    let q = Matrix::new(q, q.len() / dim, dim);
                    product(scores, Store::Write, q, Matrix::new(&k, shared.len(), dim).t());
                }
            }
            let of_row = group * shared.len().max(1);
            let shared_rows = p.par_chunks_mut(of_row).zip(scores.par_chunks(of_row));
            let nothing = (0..tiles.len()).into_par_iter().map(|_| Default::default());
            let rows = of_rows.par_chunks_mut(group * dim).zip(q.par_chunks(group * dim)).zip(&tails);
            let attend = |((o, q), tail): ((&mut [T::Acc], &[T]), &Tile), (p, scores): (&mut [T], &[T::Acc])| {
                self.attend(o, &T::widened(q), tail, head, (p, scores, &shared));
            };
            if shared.is_empty() {
                rows.zip(nothing).for_each(|(row, shared)| attend(row, shared));
            } else {
                rows.zip(shared_rows).for_each(|(row, shared)| attend(row, shared));
                product(
                    &mut sums,
                    Store::Write,
                    Matrix::new(&p, of_head, shared.len()),
                    Matrix::new(&v, shared.len(), dim),
                );
            }
            let both = of_rows.chunks_exact(group * dim).zip(sums.chunks_exact(group * dim));
            for (o, (of_row, sums)) in o.chunks_exact_mut(row).zip(both) {
                vectorized!(for ((o, a), b) in o[part.clone()].iter_mut().zip(of_row).zip(sums) {
                    *o = T::narrow(*a + *b);
                });
            }
        }
    }

    /// What a row's other keys give to its o, for the heads (G, Dh) that read a kv head; of the shared ones p (G, keys).
    fn attend(
        &self,
        o: &mut [T::Acc],
        q: &[T::Acc],
        tail: &Tile,
        head: usize,
        (p_of_shared, scores, shared): (&mut [T], &[T::Acc], &Range<usize>),
    ) {
        let (group, dim, first) = (self.group, self.dim, shared.len());
        let keys = Tile { own: tail.own.clone(), other: [std::slice::from_ref(shared), &tail.other].concat() };
        let (width, visible) = (keys.width(), self.mask.of_tile(&keys));
        let scale = T::Acc::from_f64(self.scale);
        let mut p = vec![T::Acc::ZERO; group * width];
        let slot = self.kv_heads * dim;
        vectorized!({
            for (p, scores) in p.chunks_exact_mut(width).zip(scores.chunks_exact(first.max(1))) {
                p[..first].copy_from_slice(scores);
            }
            for (at, j) in (first..).zip(tail.keys()) {
                let k = &self.k[j * slot + head * dim..][..dim];
                for h in 0..group {
                    p[h * width + at] = sum_of_both([&q[h * dim..][..dim]], [k], |[q], [k]| q * k.wide());
                }
            }
            for p in p.chunks_exact_mut(width) {
                for (p, &visible) in p.iter_mut().zip(&visible) {
                    *p = if visible != 0 { *p * scale } else { T::Acc::NEG_INFINITY };
                }
                softmax(p);
            }
            for (to, p) in p_of_shared.chunks_exact_mut(first.max(1)).zip(p.chunks_exact(width)) {
                for (to, p) in to.iter_mut().zip(p) {
                    *to = T::narrow(*p);
                }
            }
            for (at, j) in (first..).zip(tail.keys()) {
                let v = &self.v[j * slot + head * dim..][..dim];
                for (h, o) in o.chunks_exact_mut(dim).enumerate() {
                    let weight = p[h * width + at];
                    for (o, v) in o.iter_mut().zip(v) {
                        *o += weight * v.wide();
                    }
                }
            }
        });
    }

    /// (slots, Dh)
    fn of_head_alone(&self, x: &'a [T], head: usize, slots: &Range<usize>) -> Cow<'a, [T]> {
        let x = self.rows(x, slots);
        if self.kv_heads == 1 {
            return x.into();
        }
        let mut gathered = Vec::with_capacity(slots.len() * self.dim);
        let slots = x.chunks_exact(self.kv_heads * self.dim);
        slots.for_each(|slot| gathered.extend_from_slice(&slot[head * self.dim..][..self.dim]));
        gathered.into()
    }

    /// Some slots of k or v.
    fn rows(&self, x: &'a [T], slots: &Range<usize>) -> &'a [T] {
        let slot = self.kv_heads * self.dim;
        &x[slots.start * slot..slots.end * slot]
    }
}

/// Slots that every tile begins with: none where they are too few to gain anything.
fn shared(tiles: &[Tile]) -> Range<usize> {
    const FEW: usize = 32;
    let first = tiles[0].other.first().cloned().unwrap_or_default();
    let end = |tile: &Tile| tile.other.first().filter(|range| range.start == first.start).map_or(0, |range| range.end);
    let range = first.start..tiles.iter().map(end).min().unwrap_or(0);
    if tiles.len() < 2 || range.len() < FEW { first.start..first.start } else { range }
}

/// In place.
#[inline(always)]
fn softmax<A: Real>(p: &mut [A]) {
    let max = max_of(p);
    p.iter_mut().for_each(|x| *x = (*x - max).exp());
    let inverse = A::ONE / sum_of([&*p], |[p]| p);
    p.iter_mut().for_each(|x| *x = *x * inverse);
}
