//! attention: softmax(scale * q k^T + mask) v over the token tree, and its gradients. The contract is in kernels/engine.h.
//!
//! A task is a tile of queries. Its query heads that read one kv head are the rows of one product with all keys that they
//! need. In bf16 the products are of bf16 with sums in f32, as on tensor cores: p and ds are rounded where they are multiplied.
//!
//! The backward computes p and ds once: a tile's dq follows from them at once, dk and dv once those of several tiles are
//! there, summed over the tiles in order.

use std::borrow::Cow;
use std::ffi::c_void;
use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Matrix, Store};
use super::launcher::{elements, elements_mut, run, with_dtype};
use super::products::product;
use super::simd::{Real, Scalar, dot, for_each_row, max_of, sum_of, vectorized};
use super::visible::{Mask, TILE, Tile, query_tiles};
use crate::device::bindings::{engine_attention, engine_status, engine_stream};

/// Keys of a task that computes dk or dv.
const KEYS: usize = 128;

/// Elements of p of which, for each thread, gradients are kept until they are multiplied: of more tiles than threads, mostly.
const KEPT: usize = 1 << 20;

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
            let inputs = unsafe { Inputs::<T>::new(attention, [q, k, v]) };
            let rows = inputs.n * inputs.heads;
            // SAFETY: as above.
            let (o, lse) = unsafe { (elements_mut::<T>(o, rows * inputs.dim), elements_mut(lse, rows)) };
            // SAFETY: as above.
            let tiles = unsafe { query_tiles(attention, TILE) };
            inputs.forward(&tiles, o, lse);
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
            let inputs = unsafe { Inputs::<T>::new(attention, [q, k, v]) };
            assert_eq!(inputs.n, inputs.s, "a backward is over all rows");
            assert_eq!(attention.heads_at_once * attention.heads.kv, attention.heads.query, "the host gives no parts");
            let (rows, keys) = (inputs.n * inputs.heads, inputs.s * inputs.kv_heads);
            // SAFETY: as above.
            let saved = unsafe {
                let (d_o, o) = (elements::<T>(d_o, rows * inputs.dim), elements::<T>(o, rows * inputs.dim));
                Saved::new(d_o, o, elements(lse, rows), inputs.dim)
            };
            // SAFETY: as above.
            let (tiles, dq) = unsafe { (query_tiles(attention, TILE), elements_mut::<T>(dq, rows * inputs.dim)) };
            // SAFETY: as above.
            let (dk, dv) = unsafe { (elements_mut::<T>(dk, keys * inputs.dim), elements_mut::<T>(dv, keys * inputs.dim)) };
            T::fill_from_wide(dk, |dk| T::fill_from_wide(dv, |dv| inputs.backward(&tiles, [dk, dv], dq, &saved)));
        })
    })
}

/// What attention reads.
pub(super) struct Inputs<'a, T: Scalar> {
    pub q: &'a [T],
    pub k: &'a [T],
    pub v: &'a [T],
    pub mask: Mask<'a>,
    pub scale: T::Acc,
    /// N
    n: usize,
    /// S
    s: usize,
    /// H, K, Dh
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
}

/// What the backward reads beside the inputs.
struct Saved<'a, T: Scalar> {
    d_o: &'a [T],
    lse: &'a [T::Acc],
    /// rowsum(do * o) per row and head
    delta: Vec<T::Acc>,
}

impl<'a, T: Scalar> Saved<'a, T> {
    fn new(d_o: &'a [T], o: &[T], lse: &'a [T::Acc], dim: usize) -> Self {
        let mut delta = vec![T::Acc::ZERO; lse.len()];
        for_each_row(
            &mut delta,
            1,
            #[inline(always)]
            |i, delta| delta[0] = dot(&d_o[i * dim..][..dim], &o[i * dim..][..dim]),
        );
        Self { d_o, lse, delta }
    }
}

/// A tile's p and ds, for the query heads of a kv head: (rows of the tile, these heads, keys of the tile).
struct Scores<T> {
    p: Vec<T>,
    ds: Vec<T>,
}

impl<'a, T: Scalar> Inputs<'a, T> {
    /// # Safety
    /// All is there as kernels/engine.h says, q, k and v in T.
    pub unsafe fn new(attention: &engine_attention, [q, k, v]: [*const c_void; 3]) -> Self {
        let (n, s, dim) = (attention.n as usize, attention.s as usize, attention.heads.dim as usize);
        let (heads, kv_heads) = (attention.heads.query as usize, attention.heads.kv as usize);
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} query heads on {kv_heads} kv heads");
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                q: elements(q, n * heads * dim),
                k: elements(k, s * kv_heads * dim),
                v: elements(v, s * kv_heads * dim),
                mask: Mask::new(attention),
                scale: T::Acc::from_f64(attention.scale),
                n,
                s,
                heads,
                kv_heads,
                dim,
            }
        }
    }

    /// Query heads of a kv head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn forward(&self, tiles: &[Tile], o: &mut [T], lse: &mut [T::Acc]) {
        let o = split(o, tiles, self.heads * self.dim);
        let lse = split(lse, tiles, self.heads);
        tiles.par_iter().zip(o).zip(lse).for_each(|((tile, o), lse)| {
            let visible = self.mask.of_tile(tile);
            for head in 0..self.kv_heads {
                let mut s = self.products_with_keys(self.q, self.k, tile, head);
                let mut p = vec![T::zeroed(); s.len()];
                self.softmax((&mut p, &mut s), &visible, tile.width(), &mut lse[head * self.group()..]);
                self.weighted_sum(o, &p, self.v, tile, head);
            }
        });
    }

    /// Each row's softmax, of scores without the scale, and its log-sum-exp.
    fn softmax(&self, (p, s): (&mut [T], &mut [T::Acc]), visible: &[u32], width: usize, lse: &mut [T::Acc]) {
        let (group, rows) = (self.group(), p.chunks_exact_mut(width).zip(s.chunks_exact_mut(width)));
        vectorized!({
            for (at, (p, s)) in rows.enumerate() {
                let (row, head) = (at / group, at % group);
                for (s, &visible) in s.iter_mut().zip(&visible[row * width..][..width]) {
                    *s = if visible != 0 { *s * self.scale } else { T::Acc::NEG_INFINITY };
                }
                let max = max_of(s);
                s.iter_mut().for_each(|s| *s = (*s - max).exp());
                let sum = sum_of([&*s], |[s]| s);
                let inverse = T::Acc::ONE / sum;
                p.iter_mut().zip(s).for_each(|(p, s)| *p = T::narrow(*s * inverse));
                lse[row * self.heads + head] = max + T::Acc::from_f64(sum.to_f64().ln());
            }
        });
    }

    /// dq, and in A dk and dv.
    fn backward(&self, tiles: &[Tile], [dk, dv]: [&mut [T::Acc]; 2], dq: &mut [T], saved: &Saved<T>) {
        dk.fill(T::Acc::ZERO);
        dv.fill(T::Acc::ZERO);
        let mut dq = split(dq, tiles, self.heads * self.dim).into_iter();
        let kept = KEPT * rayon::current_num_threads();
        let mut from = 0;
        while from < tiles.len() {
            let sizes = tiles[from..].iter().scan(0, |sum, tile| {
                *sum += tile.own.len() * tile.width() * self.group();
                Some(*sum)
            });
            let some = &tiles[from..from + sizes.take_while(|&size| size <= kept).count().max(1)];
            from += some.len();
            let mut dq: Vec<&mut [T]> = dq.by_ref().take(some.len()).collect();
            for head in 0..self.kv_heads {
                let gradients = |(tile, dq): (&Tile, &mut &mut [T])| {
                    let scores = self.scores(tile, head, saved);
                    self.weighted_sum(dq, &scores.ds, self.k, tile, head);
                    scores
                };
                let scores: Vec<Scores<T>> = some.par_iter().zip(&mut dq).map(gradients).collect();
                self.add_of_keys(some, &scores, [&mut *dk, &mut *dv], head, saved);
            }
        }
    }

    /// p = exp(s - lse) and ds = scale * p * (do v^T - delta).
    fn scores(&self, tile: &Tile, head: usize, saved: &Saved<T>) -> Scores<T> {
        let (group, width) = (self.group(), tile.width());
        let visible = self.mask.of_tile(tile);
        let s = self.products_with_keys(self.q, self.k, tile, head);
        let dp = self.products_with_keys(saved.d_o, self.v, tile, head);
        let mut scores = Scores { p: vec![T::zeroed(); s.len()], ds: vec![T::zeroed(); s.len()] };
        let to = scores.p.chunks_exact_mut(width).zip(scores.ds.chunks_exact_mut(width));
        let rows = to.zip(s.chunks_exact(width).zip(dp.chunks_exact(width)));
        vectorized!({
            for (at, ((p, ds), (s, dp))) in rows.enumerate() {
                let row = at / group;
                let place = (tile.own.start + row) * self.heads + head * group + at % group;
                let (lse, delta) = (saved.lse[place], saved.delta[place]);
                let visible = &visible[row * width..][..width];
                for j in 0..width {
                    let power = (s[j] * self.scale - lse).exp();
                    let power = if visible[j] != 0 { power } else { T::Acc::ZERO };
                    p[j] = T::narrow(power);
                    ds[j] = T::narrow(self.scale * power * (dp[j] - delta));
                }
            }
        });
        scores
    }

    /// Adds to dk and dv of a kv head what comes from these tiles.
    fn add_of_keys(
        &self,
        tiles: &[Tile],
        scores: &[Scores<T>],
        [dk, dv]: [&mut [T::Acc]; 2],
        head: usize,
        saved: &Saved<T>,
    ) {
        let slots = KEYS * self.kv_heads * self.dim;
        let tasks = [(false, dk), (true, dv)].into_par_iter();
        let tasks =
            tasks.flat_map(|(is_v, d)| d.par_chunks_mut(slots).enumerate().map(move |(task, to)| (is_v, task, to)));
        tasks.for_each(|(is_v, task, to)| {
            let own = task * KEYS..((task + 1) * KEYS).min(self.s);
            for (tile, scores) in tiles.iter().zip(scores) {
                let (weights, x) = if is_v { (&scores.p, saved.d_o) } else { (&scores.ds, self.q) };
                let x = self.query_rows(x, tile, head);
                let mut at = 0;
                for range in &tile.other {
                    let part = range.start.max(own.start)..range.end.min(own.end);
                    if !part.is_empty() {
                        let from = at + part.start - range.start;
                        let rows = tile.own.len() * self.group();
                        let weights = Matrix::strided(&weights[from..], rows, part.len(), tile.width()).t();
                        let x = Matrix::new(&x, rows, self.dim);
                        let first = part.start - own.start;
                        self.add_rows(&mut *to, first..first + part.len(), head, weights, x);
                    }
                    at += range.len();
                }
            }
        });
    }

    /// Some rows of (.., K, Dh) += a product, in one kv head.
    fn add_rows(&self, to: &mut [T::Acc], rows: Range<usize>, head: usize, a: Matrix<'_, T>, b: Matrix<'_, T>) {
        let (row, dim) = (self.kv_heads * self.dim, self.dim);
        let to = &mut to[rows.start * row..rows.end * row];
        if self.kv_heads == 1 {
            product(to, Store::Accumulate, a, b);
            return;
        }
        let mut sums = vec![T::Acc::ZERO; rows.len() * dim];
        product(&mut sums, Store::Write, a, b);
        for (to, sums) in to.chunks_exact_mut(row).zip(sums.chunks_exact(dim)) {
            to[head * dim..][..dim].iter_mut().zip(sums).for_each(|(to, sum)| *to += *sum);
        }
    }

    /// (rows of the tile, heads of a kv head, keys of the tile): queries' vectors times keys'.
    fn products_with_keys(&self, x: &[T], of_keys: &[T], tile: &Tile, head: usize) -> Vec<T::Acc> {
        let (x, of_keys) = (self.query_rows(x, tile, head), self.key_rows(of_keys, tile, head));
        let (rows, width) = (tile.own.len() * self.group(), tile.width());
        let mut products = vec![T::Acc::ZERO; rows * width];
        product(
            &mut products,
            Store::Write,
            Matrix::new(&x, rows, self.dim),
            Matrix::new(&of_keys, width, self.dim).t(),
        );
        products
    }

    /// to (rows of the tile, H, Dh) = weights x, x the keys' rows of k or v, for the heads of a kv head.
    fn weighted_sum(&self, to: &mut [T], weights: &[T], x: &[T], tile: &Tile, head: usize) {
        let x = self.key_rows(x, tile, head);
        let (rows, width, dim) = (tile.own.len() * self.group(), tile.width(), self.dim);
        let (weights, x) = (Matrix::new(weights, rows, width), Matrix::new(&x, width, dim));
        if self.kv_heads == 1 {
            product(to, Store::Write, weights, x);
            return;
        }
        let mut sums = vec![T::zeroed(); rows * dim];
        product(&mut sums, Store::Write, weights, x);
        let of_row = self.group() * dim;
        for (to, sums) in to.chunks_exact_mut(self.heads * dim).zip(sums.chunks_exact(of_row)) {
            to[head * of_row..][..of_row].copy_from_slice(sums);
        }
    }

    /// (rows of the tile, heads of a kv head, Dh) of q, o or do.
    pub fn query_rows<'b>(&self, x: &'b [T], tile: &Tile, head: usize) -> Cow<'b, [T]> {
        let (row, of_head) = (self.heads * self.dim, self.group() * self.dim);
        let x = &x[tile.own.start * row..tile.own.end * row];
        if self.kv_heads == 1 {
            return x.into();
        }
        let mut gathered = Vec::with_capacity(tile.own.len() * of_head);
        x.chunks_exact(row).for_each(|row| gathered.extend_from_slice(&row[head * of_head..][..of_head]));
        gathered.into()
    }

    /// (keys of the tile, Dh) of k or v, in one kv head.
    pub fn key_rows<'b>(&self, x: &'b [T], tile: &Tile, head: usize) -> Cow<'b, [T]> {
        let (slot, dim) = (self.kv_heads * self.dim, self.dim);
        if let ([range], 1) = (&tile.other[..], self.kv_heads) {
            return x[range.start * slot..range.end * slot].into();
        }
        let mut gathered = Vec::with_capacity(tile.width() * dim);
        if self.kv_heads == 1 {
            tile.other.iter().for_each(|range| gathered.extend_from_slice(&x[range.start * slot..range.end * slot]));
        } else {
            tile.keys().for_each(|j| gathered.extend_from_slice(&x[j * slot + head * dim..][..dim]));
        }
        gathered.into()
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
