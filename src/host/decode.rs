//! The attention of tokens that continue prompts, one each. The contract is in kernels/engine.h.
//!
//! Keys that all rows look at (prompts begin alike) are multiplied for all of them at once; a row's other keys are a task of
//! their own, read once for all query heads that read one kv head.

use std::ffi::c_void;
use std::ops::Range;

use rayon::prelude::*;

use super::attention::Inputs;
use super::gemm::{Matrix, Store};
use super::launcher::{Scratch, elements_mut, run, with_dtype};
use super::products::{MOST_ROWS, product};
use super::rope::rope_forward;
use super::simd::{Real, Scalar, max_of, sum_of, vectorized};
use super::visible::{Tile, query_tiles};
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
            let (inputs, tiles) = unsafe { (Inputs::<T>::new(attention, [q, k, v]), query_tiles(attention, 1)) };
            if !inputs.q.is_empty() {
                // SAFETY: as above: as many as of q.
                attend_all(&inputs, unsafe { elements_mut::<T>(o, inputs.q.len()) }, &tiles);
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

/// o (N, H, Dh).
fn attend_all<T: Scalar>(inputs: &Inputs<T>, o: &mut [T], tiles: &[Tile]) {
    let (group, dim, shared) = (inputs.group(), inputs.dim, shared(tiles));
    let (rows, row) = (tiles.len() * group, inputs.heads * dim);
    let tails: Vec<Tile> = tiles.iter().map(|tile| tile.after(shared.end)).collect();
    let all = Tile { own: 0..tiles.len(), other: vec![shared.clone()] };
    // A row has room for one score where nothing is shared: no chunk is empty.
    let width = shared.len().max(1);
    for head in 0..inputs.kv_heads {
        let q = inputs.query_rows(inputs.q, &all, head);
        let mut scores = vec![T::Acc::ZERO; rows * width];
        let mut p = vec![T::zeroed(); rows * width];
        let [mut sums, mut of_rows] = [(); 2].map(|()| vec![T::Acc::ZERO; rows * dim]);
        if !shared.is_empty() {
            let k = inputs.key_rows(inputs.k, &all, head);
            // As many rows at once as a skinny product has at most: what one row gives then follows from it alone.
            let some = (MOST_ROWS / group).max(1) * group;
            for (scores, q) in scores.chunks_mut(some * width).zip(q.chunks(some * dim)) {
                let q = Matrix::new(q, q.len() / dim, dim);
                product(scores, Store::Write, q, Matrix::new(&k, width, dim).t());
            }
        }
        let of_shared = p.par_chunks_mut(group * width).zip(scores.par_chunks(group * width));
        let each = of_rows.par_chunks_mut(group * dim).zip(q.par_chunks(group * dim)).zip(&tails).zip(of_shared);
        each.for_each(|(((o, q), tail), (p, scores))| {
            attend(inputs, o, q, tail, head, (p, scores, &shared));
        });
        if !shared.is_empty() {
            let v = inputs.key_rows(inputs.v, &all, head);
            product(&mut sums, Store::Write, Matrix::new(&p, rows, width), Matrix::new(&v, width, dim));
        }
        let part = head * group * dim..(head + 1) * group * dim;
        let both = of_rows.chunks_exact(group * dim).zip(sums.chunks_exact(group * dim));
        for (o, (of_row, sums)) in o.chunks_exact_mut(row).zip(both) {
            vectorized!(for ((o, a), b) in o[part.clone()].iter_mut().zip(of_row).zip(sums) {
                *o = T::narrow(*a + *b);
            });
        }
    }
}

/// What a row's other keys give to its o, for the heads (G, Dh) that read a kv head; of the shared ones p (G, keys).
fn attend<T: Scalar>(
    inputs: &Inputs<T>,
    o: &mut [T::Acc],
    q: &[T],
    tail: &Tile,
    head: usize,
    (p_of_shared, scores, shared): (&mut [T], &[T::Acc], &Range<usize>),
) {
    let (group, dim, first) = (inputs.group(), inputs.dim, shared.len());
    let keys = Tile { own: tail.own.clone(), other: [std::slice::from_ref(shared), &tail.other].concat() };
    let (width, visible) = (keys.width(), inputs.mask.of_tile(&keys));
    let mut p = vec![T::Acc::ZERO; group * width];
    let (slot, q) = (inputs.kv_heads * dim, Matrix::new(q, group, dim));
    let mut at = first;
    for range in &tail.other {
        let k = &inputs.k[range.start * slot + head * dim..range.end * slot];
        let mut products = vec![T::Acc::ZERO; group * range.len()];
        product(&mut products, Store::Write, q, Matrix::strided(k, range.len(), dim, slot).t());
        for (p, products) in p.chunks_exact_mut(width).zip(products.chunks_exact(range.len())) {
            p[at..][..range.len()].copy_from_slice(products);
        }
        at += range.len();
    }
    vectorized!({
        for (p, scores) in p.chunks_exact_mut(width).zip(scores.chunks_exact(first.max(1))) {
            p[..first].copy_from_slice(&scores[..first]);
        }
        for p in p.chunks_exact_mut(width) {
            for (p, &visible) in p.iter_mut().zip(&visible) {
                *p = if visible != 0 { *p * inputs.scale } else { T::Acc::NEG_INFINITY };
            }
            softmax(p);
        }
        for (to, p) in p_of_shared.chunks_exact_mut(first.max(1)).zip(p.chunks_exact(width)) {
            for (to, p) in to.iter_mut().zip(&p[..first]) {
                *to = T::narrow(*p);
            }
        }
        let mut keys = (first..).zip(tail.keys());
        let v = |j: usize| &inputs.v[j * slot + head * dim..][..dim];
        loop {
            let some: [Option<(usize, usize)>; KEYS] = std::array::from_fn(|_| keys.next());
            if let [Some(a), Some(b), Some(c), Some(d)] = some {
                let rows = [a, b, c, d].map(|(_, j)| v(j));
                for (h, o) in o.chunks_exact_mut(dim).enumerate() {
                    add_rows(o, [a, b, c, d].map(|(at, _)| p[h * width + at]), rows);
                }
                continue;
            }
            for (at, j) in some.into_iter().flatten() {
                for (h, o) in o.chunks_exact_mut(dim).enumerate() {
                    add_rows(o, [p[h * width + at]], [v(j)]);
                }
            }
            break;
        }
    });
}

/// Keys whose values are added at once.
const KEYS: usize = 4;

/// Numbers that loops take at once: blocks of them, so that no index is checked within.
const LANES: usize = 16;

/// o += the rows, each times its weight, one after the other.
#[inline(always)]
fn add_rows<T: Scalar, const N: usize>(o: &mut [T::Acc], weights: [T::Acc; N], rows: [&[T]; N]) {
    let rows = rows.map(|row| row[..o.len()].as_chunks::<LANES>());
    let (blocks, rest) = o.as_chunks_mut::<LANES>();
    for (block, o) in blocks.iter_mut().enumerate() {
        let mut sums = *o;
        for n in 0..N {
            let row = &rows[n].0[block];
            for l in 0..LANES {
                sums[l] += weights[n] * row[l].wide();
            }
        }
        *o = sums;
    }
    for (i, o) in rest.iter_mut().enumerate() {
        for n in 0..N {
            *o += weights[n] * rows[n].1[i].wide();
        }
    }
}

/// Slots that every tile begins with: none where they are too few to gain anything. Windows may begin anywhere.
fn shared(tiles: &[Tile]) -> Range<usize> {
    const FEW: usize = 32;
    let first = tiles[0].other.first().cloned().unwrap_or_default();
    let end = |tile: &Tile| tile.other.first().filter(|range| range.start == first.start).map_or(0, |range| range.end);
    let range = first.start..tiles.iter().map(end).min().unwrap_or(0);
    if tiles.len() < 2 || range.len() < FEW { 0..0 } else { range }
}

/// In place.
#[inline(always)]
fn softmax<A: Real>(p: &mut [A]) {
    let max = max_of(p);
    p.iter_mut().for_each(|x| *x = (*x - max).exp());
    let inverse = A::ONE / sum_of([&*p], |[p]| p);
    p.iter_mut().for_each(|x| *x = *x * inverse);
}
