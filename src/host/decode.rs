//! The attention of tokens that continue prompts, one each. The contract is in kernels/engine.h.
//!
//! A task is a row. Its query heads that read one kv head are the rows of one product with each range of keys that it sees. Only
//! these are widened from bf16: a cache has far more.

use std::ffi::c_void;
use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Matrix, MatrixMut, Product, Store, Threads, gemm};
use super::launcher::{Scratch, elements, elements_mut, run, with_dtype};
use super::rope::rope_forward;
use super::simd::{Real, Scalar, max_of, sum_of, vectorized};
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
            let row = attention.heads.query as usize * cache.dim;
            // SAFETY: as above.
            let (o, q) = unsafe { (elements_mut::<T>(o, tiles.len() * row), elements::<T>(q, tiles.len() * row)) };
            if row > 0 {
                o.par_chunks_mut(row).zip(q.par_chunks(row)).zip(&tiles).for_each(|((o, q), tile)| {
                    T::fill_from_wide(o, |o| cache.attend(o, &T::widened(q), tile));
                });
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

impl<'a, T: Scalar<Acc: Product>> Cache<'a, T> {
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

    /// o (H, Dh) of the tile's one row, from its q.
    fn attend(&self, o: &mut [T::Acc], q: &[T::Acc], tile: &Tile) {
        let (group, width, dim) = (self.group, tile.width(), self.dim);
        let mut p = vec![T::Acc::ZERO; group * width];
        for (head, (o, q)) in o.chunks_exact_mut(group * dim).zip(q.chunks_exact(group * dim)).enumerate() {
            let mut at = 0;
            for range in &tile.other {
                let k = T::widened(self.rows(self.k, range));
                let scores = MatrixMut::strided(&mut p[at..], group, range.len(), width);
                let scale = T::Acc::from_f64(self.scale);
                let q = Matrix::new(q, group, dim);
                gemm(scores, Store::Write, scale, q, self.of_head(&k, head, range).t(), Threads::One);
                at += range.len();
            }
            self.hide(&mut p, tile);
            vectorized!(p.chunks_exact_mut(width).for_each(softmax));
            let (mut at, mut store) = (0, Store::Write);
            for range in &tile.other {
                let v = T::widened(self.rows(self.v, range));
                let weights = Matrix::strided(&p[at..], group, range.len(), width);
                let sums = MatrixMut::new(&mut *o, group, dim);
                gemm(sums, store, T::Acc::ONE, weights, self.of_head(&v, head, range), Threads::One);
                at += range.len();
                store = Store::Accumulate;
            }
        }
    }

    /// The scores of keys that the row does not see become -inf.
    fn hide(&self, p: &mut [T::Acc], tile: &Tile) {
        let width = tile.width();
        for (at, j) in tile.keys().enumerate() {
            if !self.mask.sees(tile.own.start, j) {
                p.iter_mut().skip(at).step_by(width).for_each(|p| *p = T::Acc::NEG_INFINITY);
            }
        }
    }

    /// Some slots of k or v.
    fn rows(&self, x: &'a [T], slots: &Range<usize>) -> &'a [T] {
        let slot = self.kv_heads * self.dim;
        &x[slots.start * slot..slots.end * slot]
    }

    /// A kv head of these.
    fn of_head<'b>(&self, x: &'b [T::Acc], head: usize, slots: &Range<usize>) -> Matrix<'b, T::Acc> {
        Matrix::strided(&x[head * self.dim..], slots.len(), self.dim, self.kv_heads * self.dim)
    }
}

/// In place.
#[inline(always)]
fn softmax<A: Real>(p: &mut [A]) {
    let max = max_of(p);
    p.iter_mut().for_each(|x| *x = (*x - max).exp());
    let inverse = A::ONE / sum_of([&*p], |[p]| p);
    p.iter_mut().for_each(|x| *x = *x * inverse);
}
