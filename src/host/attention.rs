//! attention: softmax(scale * q k^T + mask) v over the token tree, and its gradients. The contract is in kernels/engine.h.
//!
//! A task is a tile of queries (or, for dk and dv, of keys). The tiles of the other side that it needs join to ranges, and
//! each range is one matrix product per head. bf16 is widened first and rounded once at the end.

use std::borrow::Cow;
use std::ffi::c_void;
use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Matrix, MatrixMut, Product, Store, Threads, gemm};
use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{Real, Scalar, dot, for_each_row, max_of, sum_of, vectorized};
use crate::device::bindings::{ENGINE_HOST_ATTENTION_TILE, engine_attention, engine_status, engine_stream};

const TILE: usize = ENGINE_HOST_ATTENTION_TILE as usize;

pub unsafe extern "C" fn attention_forward(
    o: *mut c_void,
    lse: *mut c_void,
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
            let inputs = unsafe { Inputs::new::<T>(attention, [q, k, v]) };
            let rows = inputs.n * inputs.heads;
            // SAFETY: as above.
            let (o, lse) = unsafe { (elements_mut::<T>(o, rows * inputs.dim), elements_mut(lse, rows)) };
            // SAFETY: as above.
            let tiles = unsafe { query_tiles(attention, TILE) };
            T::fill_from_wide(o, |o| inputs.forward(&tiles, o, lse));
        })
    })
}

pub unsafe extern "C" fn attention_backward(
    dq: *mut c_void,
    dk: *mut c_void,
    dv: *mut c_void,
    _scratch: *mut c_void,
    lse: *const c_void,
    d_o: *const c_void,
    o: *const c_void,
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
            let inputs = unsafe { Inputs::new::<T>(attention, [q, k, v]) };
            assert_eq!(inputs.n, inputs.s, "a backward is over all rows");
            assert_eq!(attention.heads_at_once * attention.heads.kv, attention.heads.query, "the host gives no parts");
            let (rows, keys) = (inputs.n * inputs.heads, inputs.s * inputs.kv_heads);
            // SAFETY: as above.
            let saved = unsafe {
                let (d_o, o) = (elements::<T>(d_o, rows * inputs.dim), elements::<T>(o, rows * inputs.dim));
                Saved::new::<T>(d_o, o, elements(lse, rows), inputs.dim)
            };
            // SAFETY: as above.
            let (by_query, by_key) = unsafe { (query_tiles(attention, TILE), key_tiles(attention)) };
            // SAFETY: as above.
            let (dq, dk) = unsafe { (elements_mut::<T>(dq, rows * inputs.dim), elements_mut::<T>(dk, keys * inputs.dim)) };
            // SAFETY: as above.
            let dv = unsafe { elements_mut::<T>(dv, keys * inputs.dim) };
            T::fill_from_wide(dq, |dq| inputs.backward_q(&by_query, dq, &saved));
            T::fill_from_wide(dk, |dk| T::fill_from_wide(dv, |dv| inputs.backward_kv(&by_key, dk, dv, &saved)));
        })
    })
}

/// A tile of queries or keys, and the ranges of the other side that it needs.
pub(super) struct Tile {
    /// Rows of queries, or slots of keys.
    pub own: Range<usize>,
    /// Slots of keys, or rows of queries.
    pub other: Vec<Range<usize>>,
}

/// # Safety
/// The arrays are there as kernels/engine.h says; a tile of queries is `tile_rows` rows.
pub(super) unsafe fn query_tiles(attention: &engine_attention, tile_rows: usize) -> Vec<Tile> {
    let (n, s) = (attention.n as usize, attention.s as usize);
    // SAFETY: the caller's promise.
    let slots = unsafe { elements::<u32>(attention.slots.cast(), n) };
    // SAFETY: as above.
    let end = unsafe { elements::<u32>(attention.end.cast(), s) };
    // SAFETY: as above.
    let lists = unsafe { lists(attention.key_starts, attention.key_tiles, n.div_ceil(tile_rows)) };
    let tile = |(t, tiles): (usize, &[u32])| {
        let own = t * tile_rows..((t + 1) * tile_rows).min(n);
        // Slots ascend, and nobody sees what comes after it. A slot that holds nothing may hold NaN.
        let last = s.min(slots[own.end - 1] as usize + 1);
        let other = ranges(tiles, 0..last).into_iter().flat_map(|range| held(range, end)).collect();
        Tile { own, other }
    };
    lists.into_iter().enumerate().map(tile).collect()
}

/// # Safety
/// As [`query_tiles`]; rows are slots.
unsafe fn key_tiles(attention: &engine_attention) -> Vec<Tile> {
    let s = attention.s as usize;
    // SAFETY: the caller's promise.
    let lists = unsafe { lists(attention.query_starts, attention.query_tiles, s.div_ceil(TILE)) };
    let tile = |(t, tiles): (usize, &[u32])| {
        let own = t * TILE..((t + 1) * TILE).min(s);
        let other = ranges(tiles, own.start..s);
        Tile { own, other }
    };
    lists.into_iter().enumerate().map(tile).collect()
}

/// # Safety
/// `starts` are `owners` + 1, and `tiles` as many as the last of them says.
unsafe fn lists<'a>(starts: *const u32, tiles: *const u32, owners: usize) -> Vec<&'a [u32]> {
    // SAFETY: the caller's promise.
    let starts = unsafe { elements::<u32>(starts.cast(), owners + 1) };
    // SAFETY: as above.
    let tiles = unsafe { elements::<u32>(tiles.cast(), starts[owners] as usize) };
    starts.windows(2).map(|bounds| &tiles[bounds[0] as usize..bounds[1] as usize]).collect()
}

/// Ascending tiles as ranges within `bounds`; neighbours join.
fn ranges(tiles: &[u32], bounds: Range<usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for &tile in tiles {
        let range = (tile as usize * TILE).max(bounds.start)..((tile as usize + 1) * TILE).min(bounds.end);
        match ranges.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    ranges
}

/// The parts of a range of slots that hold something.
fn held(range: Range<usize>, end: &[u32]) -> Vec<Range<usize>> {
    let first = range.start;
    let runs = end[range].chunk_by(|a, b| (*a == 0) == (*b == 0));
    let runs = runs.scan(first, |at, run| {
        let slots = *at..*at + run.len();
        *at = slots.end;
        Some((slots, run[0] > 0))
    });
    runs.filter(|(_, holds)| *holds).map(|(slots, _)| slots).collect()
}

pub(super) fn width(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(|r| r.len()).sum()
}

/// Who sees whom.
pub(super) struct Mask<'a> {
    slots: &'a [u32],
    positions: &'a [u32],
    end: &'a [u32],
    key_positions: &'a [u32],
    window: u32,
}

impl<'a> Mask<'a> {
    /// # Safety
    /// The arrays are there as kernels/engine.h says.
    pub unsafe fn new(attention: &engine_attention) -> Self {
        let (n, s) = (attention.n as usize, attention.s as usize);
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                slots: elements(attention.slots.cast(), n),
                positions: elements(attention.positions.cast(), n),
                end: elements(attention.end.cast(), s),
                key_positions: elements(attention.key_positions.cast(), s),
                window: attention.window,
            }
        }
    }

    /// Whether the query of row `row` sees the key in slot `j`.
    #[inline(always)]
    pub fn sees(&self, row: usize, j: usize) -> bool {
        let i = self.slots[row];
        j as u32 <= i && i < self.end[j] && self.positions[row].wrapping_sub(self.key_positions[j]) < self.window
    }
}

/// What attention reads, in A.
struct Inputs<'a, A: Real> {
    q: Cow<'a, [A]>,
    k: Cow<'a, [A]>,
    v: Cow<'a, [A]>,
    mask: Mask<'a>,
    scale: A,
    /// N
    n: usize,
    /// S
    s: usize,
    /// H, K, Dh
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

/// What the backward reads beside the inputs.
struct Saved<'a, A: Real> {
    d_o: Cow<'a, [A]>,
    lse: &'a [A],
    /// rowsum(do * o) per row and head
    delta: Vec<A>,
}

impl<'a, A: Real> Saved<'a, A> {
    fn new<T: Scalar<Acc = A>>(d_o: &'a [T], o: &[T], lse: &'a [A], dim: usize) -> Self {
        let mut delta = vec![A::ZERO; lse.len()];
        for_each_row(
            &mut delta,
            1,
            #[inline(always)]
            |i, delta| delta[0] = dot(&d_o[i * dim..][..dim], &o[i * dim..][..dim]),
        );
        Self { d_o: T::widened(d_o), lse, delta }
    }
}

impl<'a, A: Product> Inputs<'a, A> {
    /// # Safety
    /// All is there as kernels/engine.h says, q, k and v in T.
    unsafe fn new<T: Scalar<Acc = A>>(attention: &engine_attention, [q, k, v]: [*const c_void; 3]) -> Self {
        let (n, s, dim) = (attention.n as usize, attention.s as usize, attention.heads.dim as usize);
        let (heads, kv_heads) = (attention.heads.query as usize, attention.heads.kv as usize);
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} query heads on {kv_heads} kv heads");
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                q: T::widened(elements(q, n * heads * dim)),
                k: T::widened(elements(k, s * kv_heads * dim)),
                v: T::widened(elements(v, s * kv_heads * dim)),
                mask: Mask::new(attention),
                scale: A::from_f64(attention.scale),
                n,
                s,
                heads,
                kv_heads,
                dim,
            }
        }
    }

    fn forward(&self, tiles: &[Tile], o: &mut [A], lse: &mut [A]) {
        let o = split(o, tiles, self.heads * self.dim);
        let lse = split(lse, tiles, self.heads);
        tiles.par_iter().zip(o).zip(lse).for_each(|((tile, o), lse)| {
            let width = width(&tile.other);
            let mut p = vec![A::ZERO; tile.own.len() * width];
            for h in 0..self.heads {
                self.scores(&mut p, tile.own.clone(), &tile.other, h);
                vectorized!(softmax(&mut p, width, &mut lse[h..], self.heads));
                self.weighted_sum(&mut o[h * self.dim..], (&p, width), tile, &self.v, h, A::ONE);
            }
        });
    }

    fn backward_q(&self, tiles: &[Tile], dq: &mut [A], saved: &Saved<A>) {
        tiles.par_iter().zip(split(dq, tiles, self.heads * self.dim)).for_each(|(tile, dq)| {
            let width = width(&tile.other);
            let mut p = vec![A::ZERO; tile.own.len() * width];
            let mut ds = p.clone();
            for h in 0..self.heads {
                self.score_gradients((&mut p, &mut ds), tile.own.clone(), &tile.other, h, saved);
                self.weighted_sum(&mut dq[h * self.dim..], (&ds, width), tile, &self.k, h, self.scale);
            }
        });
    }

    fn backward_kv(&self, tiles: &[Tile], dk: &mut [A], dv: &mut [A], saved: &Saved<A>) {
        let dk = split(dk, tiles, self.kv_heads * self.dim);
        let dv = split(dv, tiles, self.kv_heads * self.dim);
        tiles.par_iter().zip(dk).zip(dv).for_each(|((tile, dk), dv)| {
            dk.fill(A::ZERO);
            dv.fill(A::ZERO);
            for h in 0..self.heads {
                for rows in &tile.other {
                    self.key_tile_backward(&mut *dk, &mut *dv, (tile.own.clone(), rows.clone()), h, saved);
                }
            }
        });
    }

    /// Adds head h's part, from queries `rows`, to dk and dv of keys `own`.
    fn key_tile_backward(
        &self,
        dk: &mut [A],
        dv: &mut [A],
        (own, rows): (Range<usize>, Range<usize>),
        h: usize,
        saved: &Saved<A>,
    ) {
        let mut p = vec![A::ZERO; rows.len() * own.len()];
        let mut ds = p.clone();
        self.score_gradients((&mut p, &mut ds), rows.clone(), std::slice::from_ref(&own), h, saved);
        let at = h / (self.heads / self.kv_heads) * self.dim;
        let target = |d: &'_ mut [A], w: &[A], x: &[A], alpha: A| {
            let out = MatrixMut::strided(&mut d[at..], own.len(), self.dim, self.kv_heads * self.dim);
            let w = Matrix::new(w, rows.len(), own.len());
            gemm(out, Store::Accumulate, alpha, w.t(), self.query_rows(x, rows.clone(), h), Threads::One);
        };
        target(dv, &p, &saved.d_o, A::ONE);
        target(dk, &ds, &self.q, self.scale);
    }

    /// p = exp(s - lse) and ds = p * (do v^T - delta), without the scale, of some queries and keys.
    fn score_gradients(
        &self,
        (p, ds): (&mut [A], &mut [A]),
        rows: Range<usize>,
        keys: &[Range<usize>],
        h: usize,
        saved: &Saved<A>,
    ) {
        let width = width(keys);
        self.scores(p, rows.clone(), keys, h);
        let d_o = self.query_rows(&saved.d_o, rows.clone(), h);
        let mut at = 0;
        for range in keys {
            let out = MatrixMut::strided(&mut ds[at..], rows.len(), range.len(), width);
            gemm(out, Store::Write, A::ONE, d_o, self.key_rows(&self.v, range, h).t(), Threads::One);
            at += range.len();
        }
        vectorized!({
            for ((p, ds), row) in p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width)).zip(rows) {
                let (lse, delta) = (saved.lse[row * self.heads + h], saved.delta[row * self.heads + h]);
                for (p, ds) in p.iter_mut().zip(ds) {
                    *p = (*p - lse).exp();
                    *ds = *p * (*ds - delta);
                }
            }
        });
    }

    /// p (rows, width of all key ranges) = scale * q k^T, -inf where the mask hides the key.
    fn scores(&self, p: &mut [A], rows: Range<usize>, keys: &[Range<usize>], h: usize) {
        let width = width(keys);
        let q = self.query_rows(&self.q, rows.clone(), h);
        let mut at = 0;
        for range in keys {
            let out = MatrixMut::strided(&mut p[at..], rows.len(), range.len(), width);
            gemm(out, Store::Write, self.scale, q, self.key_rows(&self.k, range, h).t(), Threads::One);
            at += range.len();
        }
        for (p, row) in p.chunks_exact_mut(width).zip(rows) {
            let all_keys = keys.iter().flat_map(|range| range.clone());
            for (p, j) in p.iter_mut().zip(all_keys) {
                if !self.mask.sees(row, j) {
                    *p = A::NEG_INFINITY;
                }
            }
        }
    }

    /// out (rows of head h) = alpha * w x, x the keys' rows of k or v.
    fn weighted_sum(&self, out: &mut [A], (w, width): (&[A], usize), tile: &Tile, x: &[A], h: usize, alpha: A) {
        let rows = tile.own.len();
        let (mut at, mut store) = (0, Store::Write);
        for range in &tile.other {
            let target = MatrixMut::strided(&mut *out, rows, self.dim, self.heads * self.dim);
            let w = Matrix::strided(&w[at..], rows, range.len(), width);
            gemm(target, store, alpha, w, self.key_rows(x, range, h), Threads::One);
            at += range.len();
            store = Store::Accumulate;
        }
    }

    /// Head h of some rows of q, o or do.
    fn query_rows<'b>(&self, x: &'b [A], rows: Range<usize>, h: usize) -> Matrix<'b, A> {
        let stride = self.heads * self.dim;
        Matrix::strided(&x[rows.start * stride + h * self.dim..], rows.len(), self.dim, stride)
    }

    /// The kv head that query head h reads, of some rows of k or v.
    fn key_rows<'b>(&self, x: &'b [A], slots: &Range<usize>, h: usize) -> Matrix<'b, A> {
        let stride = self.kv_heads * self.dim;
        let head = h / (self.heads / self.kv_heads);
        Matrix::strided(&x[slots.start * stride + head * self.dim..], slots.len(), self.dim, stride)
    }
}

/// Softmax of each row in place; writes the rows' log-sum-exp to lse[0], lse[lse_stride], ..
#[inline(always)]
pub(super) fn softmax<A: Real>(p: &mut [A], width: usize, lse: &mut [A], lse_stride: usize) {
    for (r, row) in p.chunks_exact_mut(width).enumerate() {
        let max = max_of(row);
        row.iter_mut().for_each(|x| *x = (*x - max).exp());
        let sum = sum_of(width, |i| row[i]);
        let inverse = A::ONE / sum;
        row.iter_mut().for_each(|x| *x = *x * inverse);
        lse[r * lse_stride] = max + A::from_f64(sum.to_f64().ln());
    }
}

/// The tiles' own rows of `x` (rows of `width` elements), to be written by a task each.
fn split<'b, T>(mut x: &'b mut [T], tiles: &[Tile], width: usize) -> Vec<&'b mut [T]> {
    let take = |tile: &Tile| {
        let (head, tail) = std::mem::take(&mut x).split_at_mut(tile.own.len() * width);
        x = tail;
        head
    };
    tiles.iter().map(take).collect()
}
