//! attention: o = softmax(scale * q k^T + mask) v over the token tree, grouped kv heads, sliding window
//!
//! Shapes    q, o, dq, do (N, H, Dh)     k, v, dk, dv (S, K, Dh)     lse (N, H)
//! Saved     q, k, v, o, lse (log-sum-exp of the scaled, masked scores)
//! Backward  p = exp(s - lse);  dv = p^T do;  ds = p * (do v^T - rowsum(do * o));  dq = scale ds k;  dk = scale ds^T q
//! Order     dq by tiles of queries, dk and dv by tiles of keys: every sum has one owner and a fixed order
//! Cost      4 * Dh FLOP forward, 14 * Dh backward per visible (query, key, head) of the tiles

use std::rc::Rc;

use crate::autograd::{Tape, Var};
use crate::batch::mask::AttentionMask;
use crate::device::Tensor;
use crate::dispatch;
use crate::error::Result;

/// Attention of q (N, H, Dh) over k, v (S, K, Dh) under `mask`. Returns o (N, H * Dh).
pub fn attention(
    tape: &mut Tape,
    (q, k, v): (&Var, &Var, &Var),
    mask: &Rc<AttentionMask>,
    softmax_scale: f64,
) -> Result<Var> {
    let (n, h, dh) = (q.value.shape()[0], q.value.shape()[1], q.value.shape()[2]);
    let dtype = q.value.dtype();
    let mut o = Tensor::empty(tape.device(), &[n, h * dh], dtype)?;
    let mut lse = Tensor::empty(tape.device(), &[n, h], dtype.accumulator())?;
    let inputs = (&q.value, &k.value, &v.value);
    match tape.driver() {
        Some(driver) => device::forward(driver, (&mut o, &mut lse), inputs, mask, softmax_scale)?,
        None => dispatch!(dtype, T => {
            cpu::Inputs::<T>::new(inputs, mask, softmax_scale).forward(o.fresh(), lse.fresh());
        }),
    }
    let o = tape.var(o);
    let (out, q, k, v, mask) = (o.clone(), q.clone(), k.clone(), v.clone(), mask.clone());
    tape.push("attention", move |ctx| {
        let Some(d_o) = ctx.take(&out) else { return Ok(()) };
        let mut dq = Tensor::empty(d_o.device(), q.value.shape(), dtype)?;
        let mut dk = Tensor::empty(d_o.device(), k.value.shape(), dtype)?;
        let mut dv = Tensor::empty(d_o.device(), v.value.shape(), dtype)?;
        let inputs = (&q.value, &k.value, &v.value);
        match d_o.device().driver() {
            Some(driver) => {
                let saved = (&d_o, &out.value, &lse);
                device::backward(driver, (&mut dq, &mut dk, &mut dv), saved, inputs, (&mask, softmax_scale))?
            }
            None => dispatch!(dtype, T => {
                let inputs = cpu::Inputs::<T>::new(inputs, &mask, softmax_scale);
                let saved = cpu::Saved::new(d_o.as_slice(), out.value.as_slice(), lse.as_slice(), dh);
                inputs.backward_q(dq.fresh(), &saved);
                inputs.backward_kv(dk.fresh(), dv.fresh(), &saved);
            }),
        }
        ctx.give(&q, dq)?;
        ctx.give(&k, dk)?;
        ctx.give(&v, dv)
    });
    Ok(o)
}

mod device {
    use crate::batch::mask::AttentionMask;
    use crate::device::bindings::{engine_attention, engine_heads};
    use crate::device::driver::{Driver, engine_dtype};
    use crate::device::{DType, Purpose, Tensor};
    use crate::err;
    use crate::error::Result;
    use crate::launch;

    /// Most parts that a row's keys are split into in decoding, as kernels/engine.h has it.
    const SPLITS: usize = 16;

    fn description(q: &Tensor, k: &Tensor, mask: &AttentionMask, scale: f64) -> Result<engine_attention> {
        let lists = mask.lists.as_ref().ok_or_else(|| err!("internal: the attention mask is not on the device"))?;
        let (n, query, dim) = (q.shape()[0] as u32, q.shape()[1] as u32, q.shape()[2] as u32);
        assert_eq!((n as usize, k.shape()[0]), (mask.num_queries(), mask.num_slots()), "attention: mask");
        Ok(engine_attention {
            slots: lists.slots.address()?,
            positions: lists.positions.address()?,
            end: lists.end.address()?,
            key_positions: lists.key_positions.address()?,
            key_starts: lists.key_starts.address()?,
            key_tiles: lists.key_tiles.address()?,
            query_starts: lists.query_starts.address()?,
            query_tiles: lists.query_tiles.address()?,
            window: mask.window(),
            n,
            s: k.shape()[0] as u32,
            heads: engine_heads { query, kv: k.shape()[1] as u32, dim },
            scale: scale as f32,
            dtype: engine_dtype(q.dtype()),
        })
    }

    pub fn forward(
        driver: &dyn Driver,
        (o, lse): (&mut Tensor, &mut Tensor),
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        mask: &AttentionMask,
        scale: f64,
    ) -> Result<()> {
        let attention = description(q, k, mask, scale)?;
        let (n, s, decoding) = (attention.n, attention.s, mask.lists.as_ref().is_some_and(|lists| lists.rows == 1));
        let (h, dh) = (q.shape()[1], q.shape()[2]);
        let (q, k, v, stream) = (q.address(), k.address(), v.address(), driver.stream());
        if decoding {
            let purpose = o.device().of(Purpose::Scratch);
            let mut scratch = Tensor::empty(&purpose, &[n as usize * h, SPLITS, dh + 2], DType::F32)?;
            let (o, scratch) = (o.address_mut()?, scratch.address_mut()?.cast());
            // SAFETY: tensors of the shapes that engine.h asks for, and the mask of these rows and slots.
            return unsafe {
                launch!(driver.kernels(), attention_decode { n, s }(o, scratch, q, k, v, &attention, stream))
            };
        }
        let (o, lse) = (o.address_mut()?, lse.address_mut()?.cast());
        // SAFETY: as above.
        unsafe { launch!(driver.kernels(), attention_forward { n, s }(o, lse, q, k, v, &attention, stream)) }
    }

    pub fn backward(
        driver: &dyn Driver,
        (dq, dk, dv): (&mut Tensor, &mut Tensor, &mut Tensor),
        (d_o, o, lse): (&Tensor, &Tensor, &Tensor),
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        (mask, scale): (&AttentionMask, f64),
    ) -> Result<()> {
        let attention = description(q, k, mask, scale)?;
        let (n, s, rows) = (attention.n, attention.s, q.shape()[0] * q.shape()[1]);
        let purpose = dq.device().of(Purpose::Scratch);
        let mut scratch = Tensor::empty(&purpose, &[rows, 1 + 2 * q.shape()[2]], DType::F32)?;
        let (dq, dk, dv) = (dq.address_mut()?, dk.address_mut()?, dv.address_mut()?);
        let (scratch, lse) = (scratch.address_mut()?.cast(), lse.address().cast());
        let (d_o, o, q, k, v) = (d_o.address(), o.address(), q.address(), k.address(), v.address());
        let stream = driver.stream();
        // SAFETY: as above; rows are slots in training.
        unsafe {
            launch!(
                driver.kernels(),
                attention_backward { n, s }(dq, dk, dv, scratch, lse, d_o, o, q, k, v, &attention, stream)
            )
        }
    }
}

mod cpu {
    use std::ops::Range;

    use rayon::prelude::*;

    use crate::batch::mask::{AttentionMask, Tile, Visibility};
    use crate::device::Tensor;
    use crate::host::gemm::{Matrix, MatrixMut, Product, Store, Threads, gemm};
    use crate::host::simd::{Real, dot, for_each_row, max_of, sum_of, vectorized};

    pub struct Inputs<'a, T> {
        q: &'a [T],
        k: &'a [T],
        v: &'a [T],
        visibility: &'a Visibility,
        query_tiles: &'a [Tile],
        key_tiles: &'a [Tile],
        scale: T,
        /// H, K, Dh
        heads: usize,
        kv_heads: usize,
        dim: usize,
    }

    /// What the backward reads beside the inputs.
    pub struct Saved<'a, T> {
        d_o: &'a [T],
        lse: &'a [T],
        /// rowsum(do * o) per row and head
        delta: Vec<T>,
    }

    impl<'a, T: Real> Saved<'a, T> {
        pub fn new(d_o: &'a [T], o: &[T], lse: &'a [T], dim: usize) -> Self {
            let mut delta = vec![T::ZERO; lse.len()];
            for_each_row(&mut delta, 1, |i, delta| delta[0] = dot(&d_o[i * dim..][..dim], &o[i * dim..][..dim]));
            Self { d_o, lse, delta }
        }
    }

    impl<'a, T: Product> Inputs<'a, T> {
        pub fn new((q, k, v): (&'a Tensor, &'a Tensor, &'a Tensor), mask: &'a AttentionMask, scale: f64) -> Self {
            let (heads, kv_heads, dim) = (q.shape()[1], k.shape()[1], q.shape()[2]);
            assert_eq!((q.shape()[0], k.shape()[0]), (mask.num_queries(), mask.num_slots()), "attention: mask");
            let (q, k, v) = (q.as_slice(), k.as_slice(), v.as_slice());
            let AttentionMask { visibility, query_tiles, key_tiles, .. } = mask;
            Self { q, k, v, visibility, query_tiles, key_tiles, scale: T::from_f64(scale), heads, kv_heads, dim }
        }

        pub fn forward(&self, o: &mut [T], lse: &mut [T]) {
            let tiles = self.query_tiles;
            let o = split(o, tiles, self.heads * self.dim);
            let lse = split(lse, tiles, self.heads);
            tiles.par_iter().zip(o).zip(lse).for_each(|((tile, o), lse)| {
                let width = width(&tile.other);
                let mut p = vec![T::ZERO; tile.own.len() * width];
                for h in 0..self.heads {
                    self.scores(&mut p, tile.own.clone(), &tile.other, h);
                    vectorized(|| softmax(&mut p, width, &mut lse[h..], self.heads));
                    self.weighted_sum(&mut o[h * self.dim..], (&p, width), tile, self.v, h, T::ONE);
                }
            });
        }

        pub fn backward_q(&self, dq: &mut [T], saved: &Saved<T>) {
            let tiles = self.query_tiles;
            tiles.par_iter().zip(split(dq, tiles, self.heads * self.dim)).for_each(|(tile, dq)| {
                let width = width(&tile.other);
                let mut p = vec![T::ZERO; tile.own.len() * width];
                let mut ds = p.clone();
                for h in 0..self.heads {
                    self.score_gradients((&mut p, &mut ds), tile.own.clone(), &tile.other, h, saved);
                    self.weighted_sum(&mut dq[h * self.dim..], (&ds, width), tile, self.k, h, self.scale);
                }
            });
        }

        pub fn backward_kv(&self, dk: &mut [T], dv: &mut [T], saved: &Saved<T>) {
            let tiles = self.key_tiles;
            let dk = split(dk, tiles, self.kv_heads * self.dim);
            let dv = split(dv, tiles, self.kv_heads * self.dim);
            tiles.par_iter().zip(dk).zip(dv).for_each(|((tile, dk), dv)| {
                dk.fill(T::ZERO);
                dv.fill(T::ZERO);
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
            dk: &mut [T],
            dv: &mut [T],
            (own, rows): (Range<usize>, Range<usize>),
            h: usize,
            saved: &Saved<T>,
        ) {
            let mut p = vec![T::ZERO; rows.len() * own.len()];
            let mut ds = p.clone();
            self.score_gradients((&mut p, &mut ds), rows.clone(), std::slice::from_ref(&own), h, saved);
            let at = h / (self.heads / self.kv_heads) * self.dim;
            let target = |d: &'_ mut [T], w: &[T], x: &[T], alpha: T| {
                let out = MatrixMut::strided(&mut d[at..], own.len(), self.dim, self.kv_heads * self.dim);
                let w = Matrix::new(w, rows.len(), own.len());
                gemm(out, Store::Accumulate, alpha, w.t(), self.query_rows(x, rows.clone(), h), Threads::One);
            };
            target(dv, &p, saved.d_o, T::ONE);
            target(dk, &ds, self.q, self.scale);
        }

        /// p = exp(s - lse) and ds = p * (do v^T - delta), without the scale, of some queries and keys.
        fn score_gradients(
            &self,
            (p, ds): (&mut [T], &mut [T]),
            rows: Range<usize>,
            keys: &[Range<usize>],
            h: usize,
            saved: &Saved<T>,
        ) {
            let width = width(keys);
            self.scores(p, rows.clone(), keys, h);
            let d_o = self.query_rows(saved.d_o, rows.clone(), h);
            let mut at = 0;
            for range in keys {
                let out = MatrixMut::strided(&mut ds[at..], rows.len(), range.len(), width);
                gemm(out, Store::Write, T::ONE, d_o, self.key_rows(self.v, range, h).t(), Threads::One);
                at += range.len();
            }
            vectorized(|| {
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
        fn scores(&self, p: &mut [T], rows: Range<usize>, keys: &[Range<usize>], h: usize) {
            let width = width(keys);
            let q = self.query_rows(self.q, rows.clone(), h);
            let mut at = 0;
            for range in keys {
                let out = MatrixMut::strided(&mut p[at..], rows.len(), range.len(), width);
                gemm(out, Store::Write, self.scale, q, self.key_rows(self.k, range, h).t(), Threads::One);
                at += range.len();
            }
            for (p, row) in p.chunks_exact_mut(width).zip(rows) {
                let all_keys = keys.iter().flat_map(|range| range.clone());
                for (p, j) in p.iter_mut().zip(all_keys) {
                    if !self.visibility.sees(row, j) {
                        *p = T::NEG_INFINITY;
                    }
                }
            }
        }

        /// out (rows of head h) = alpha * w x, x the keys' rows of k or v.
        fn weighted_sum(&self, out: &mut [T], (w, width): (&[T], usize), tile: &Tile, x: &[T], h: usize, alpha: T) {
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
        fn query_rows<'b>(&self, x: &'b [T], rows: Range<usize>, h: usize) -> Matrix<'b, T> {
            let stride = self.heads * self.dim;
            Matrix::strided(&x[rows.start * stride + h * self.dim..], rows.len(), self.dim, stride)
        }

        /// The kv head that query head h reads, of some rows of k or v.
        fn key_rows<'b>(&self, x: &'b [T], slots: &Range<usize>, h: usize) -> Matrix<'b, T> {
            let stride = self.kv_heads * self.dim;
            let head = h / (self.heads / self.kv_heads);
            Matrix::strided(&x[slots.start * stride + head * self.dim..], slots.len(), self.dim, stride)
        }
    }

    fn width(ranges: &[Range<usize>]) -> usize {
        ranges.iter().map(|r| r.len()).sum()
    }

    /// Softmax of each row in place; writes the rows' log-sum-exp to lse[0], lse[lse_stride], ..
    fn softmax<T: Real>(p: &mut [T], width: usize, lse: &mut [T], lse_stride: usize) {
        for (r, row) in p.chunks_exact_mut(width).enumerate() {
            let max = max_of(row);
            row.iter_mut().for_each(|x| *x = (*x - max).exp());
            let sum = sum_of(width, |i| row[i]);
            let inverse = T::ONE / sum;
            row.iter_mut().for_each(|x| *x = *x * inverse);
            lse[r * lse_stride] = max + T::from_f64(sum.to_f64().ln());
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
}
