//! rope: q and k normed per head and rotated by their positions, v copied; and back. The contract is in kernels/engine.h.

use std::borrow::Cow;
use std::ffi::c_void;

use rayon::prelude::*;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::rmsnorm::{row_pull, row_rstd};
use super::simd::{Real, Scalar, for_each_part, vectorized};
use crate::device::bindings::{engine_dtype, engine_rope, engine_status, engine_stream};

pub unsafe extern "C" fn rope_forward(
    q: *mut c_void,
    k: *mut c_void,
    v: *mut c_void,
    qkv: *const c_void,
    rope: *const engine_rope,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract.
            let rope = unsafe { Rope::<T>::new(&*rope, qkv) };
            let out = Out { q: q.cast::<T>(), k: k.cast(), v: v.cast() };
            // SAFETY: as above; each row of q, and each slot of k and v, is one row's.
            (0..rope.n).into_par_iter().for_each(|row| vectorized!(unsafe { rope.forward(row, &out) }));
        })
    })
}

pub unsafe extern "C" fn rope_backward(
    dqkv: *mut c_void,
    q_parts: *mut c_void,
    k_parts: *mut c_void,
    dq: *const c_void,
    dk: *const c_void,
    dv: *const c_void,
    qkv: *const c_void,
    rope: *const engine_rope,
    split: u32,
    rows: u32,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (split, rows) = (split as usize, rows as usize);
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract.
            let rope = unsafe { Rope::<T>::new(&*rope, qkv) };
            let (n, query, kv) = (rope.n, rope.query * rope.dim, rope.kv * rope.dim);
            // SAFETY: as above.
            let keys = |from| unsafe { whole::<T>(from, n * kv, split, rope.dim) };
            let (dk, dv) = (keys(dk), keys(dv));
            // SAFETY: as above.
            let gradients = (unsafe { elements::<T>(dq, n * query) }, &dk[..], &dv[..]);
            // SAFETY: as above.
            let out = unsafe { elements_mut::<T>(dqkv, n * rope.width()) };
            rope.backward(out, gradients);
            let norms = [(q_parts, gradients.0, 0, rope.query), (k_parts, gradients.1, rope.query, rope.kv)];
            for (parts, dy, first, heads) in norms.into_iter().filter(|norm| !norm.0.is_null()) {
                // SAFETY: as above.
                let parts = unsafe { elements_mut(parts, n.div_ceil(rows) * rope.dim) };
                rope.norm_parts(parts, rows, dy, (first, heads));
            }
        })
    })
}

/// `len` elements of dk or dv, which lie in `split` parts of each head if that is more than one.
///
/// # Safety
/// They are there, as kernels/engine.h says.
unsafe fn whole<'a, T: Scalar>(from: *const c_void, len: usize, split: usize, dim: usize) -> Cow<'a, [T]> {
    if split == 1 {
        // SAFETY: the caller's promise.
        return unsafe { elements::<T>(from, len) }.into();
    }
    // SAFETY: as above.
    let parts = unsafe { elements::<T::Acc>(from, len * split) };
    let of_head = |parts: &[T::Acc]| -> Vec<T> {
        (0..dim).map(|j| T::narrow(parts.chunks_exact(dim).fold(T::Acc::ZERO, |sum, part| sum + part[j]))).collect()
    };
    parts.chunks_exact(split * dim).flat_map(of_head).collect()
}

/// Where the forward writes.
struct Out<T> {
    q: *mut T,
    k: *mut T,
    v: *mut T,
}

// SAFETY: tasks write to disjoint rows.
unsafe impl<T> Sync for Out<T> {}

/// What `engine_rope` describes, as slices. Heads are addressed by (first head, number of heads) in a row of qkv.
struct Rope<'a, T: Scalar> {
    x: &'a [T],
    q_norm: &'a [T],
    k_norm: &'a [T],
    cos: &'a [T::Acc],
    sin: &'a [T::Acc],
    positions: &'a [u32],
    slots: Option<&'a [u32]>,
    n: usize,
    query: usize,
    kv: usize,
    dim: usize,
    eps: f64,
}

impl<'a, T: Scalar> Rope<'a, T> {
    /// # Safety
    /// All is there as kernels/engine.h says.
    unsafe fn new(rope: &engine_rope, qkv: *const c_void) -> Self {
        let (n, query, kv) = (rope.n as usize, rope.heads.query as usize, rope.heads.kv as usize);
        let dim = rope.heads.dim as usize;
        assert!(dim.is_multiple_of(2), "heads of {dim} elements: rope takes an even number");
        // SAFETY: the caller's promise.
        let positions = unsafe { elements::<u32>(rope.positions.cast(), n) };
        let angles = positions.iter().max().map_or(0, |&p| p as usize + 1) * (dim / 2);
        // SAFETY: as above; the table holds every position.
        unsafe {
            Self {
                x: elements(qkv, n * (query + 2 * kv) * dim),
                q_norm: elements(rope.q_norm, dim),
                k_norm: elements(rope.k_norm, dim),
                cos: elements(rope.cos, angles),
                sin: elements(rope.sin, angles),
                positions,
                slots: (!rope.slots.is_null()).then(|| elements(rope.slots.cast(), n)),
                n,
                query,
                kv,
                dim,
                eps: rope.eps,
            }
        }
    }

    /// Elements of a row of qkv.
    fn width(&self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }

    #[inline(always)]
    fn head(&self, row: usize, head: usize) -> &'a [T] {
        &self.x[row * self.width() + head * self.dim..][..self.dim]
    }

    #[inline(always)]
    fn angles(&self, row: usize) -> (&'a [T::Acc], &'a [T::Acc]) {
        let (half, position) = (self.dim / 2, self.positions[row] as usize);
        (&self.cos[position * half..][..half], &self.sin[position * half..][..half])
    }

    /// # Safety
    /// Nobody else touches this row of q and its slot of k and v.
    #[inline(always)]
    unsafe fn forward(&self, row: usize, out: &Out<T>) {
        let slot = self.slots.map_or(row, |slots| slots[row] as usize);
        // SAFETY: the caller's promise, and the shapes of kernels/engine.h.
        let part = |of: *mut T, row: usize, heads: usize| unsafe {
            elements_mut::<T>(of.wrapping_add(row * heads * self.dim).cast(), heads * self.dim)
        };
        let (q, k, v) = (part(out.q, row, self.query), part(out.k, slot, self.kv), part(out.v, slot, self.kv));
        let mut u = vec![T::Acc::ZERO; self.dim];
        for (h, y) in q.chunks_exact_mut(self.dim).enumerate() {
            self.norm_and_rotate(y, &mut u, self.q_norm, row, h);
        }
        for (h, y) in k.chunks_exact_mut(self.dim).enumerate() {
            self.norm_and_rotate(y, &mut u, self.k_norm, row, self.query + h);
        }
        v.copy_from_slice(&self.x[row * self.width() + (self.query + self.kv) * self.dim..][..v.len()]);
    }

    #[inline(always)]
    fn norm_and_rotate(&self, y: &mut [T], u: &mut [T::Acc], weight: &[T], row: usize, head: usize) {
        let x = self.head(row, head);
        let (rstd, (cos, sin)) = (row_rstd(x, self.eps), self.angles(row));
        for ((u, x), w) in u.iter_mut().zip(x).zip(weight) {
            *u = x.wide() * rstd * (T::Acc::ONE + w.wide());
        }
        rotate(u, cos, sin, T::Acc::ONE);
        for (y, u) in y.iter_mut().zip(u) {
            *y = T::narrow(*u);
        }
    }

    fn backward(&self, dqkv: &mut [T], (dq, dk, dv): (&[T], &[T], &[T])) {
        let (dim, width) = (self.dim, self.width());
        let (query, kv) = (self.query * dim, self.kv * dim);
        if width == 0 {
            return;
        }
        dqkv.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
            vectorized!({
                let (out_q, rest) = out.split_at_mut(query);
                let (out_k, out_v) = rest.split_at_mut(kv);
                let mut dy = vec![T::Acc::ZERO; dim];
                self.backward_heads(out_q, &dq[row * query..], &mut dy, self.q_norm, (row, 0));
                self.backward_heads(out_k, &dk[row * kv..], &mut dy, self.k_norm, (row, self.query));
                out_v.copy_from_slice(&dv[row * kv..][..kv]);
            });
        });
    }

    #[inline(always)]
    fn backward_heads(&self, dx: &mut [T], dy: &[T], back: &mut [T::Acc], weight: &[T], (row, first): (usize, usize)) {
        for (h, (dx, dy)) in dx.chunks_exact_mut(self.dim).zip(dy.chunks_exact(self.dim)).enumerate() {
            let x = self.head(row, first + h);
            let rstd = self.rotated_back(back, dy, row, x);
            let pull = row_pull(rstd, back, x, weight);
            let slopes = back.iter().zip(weight).map(|(back, w)| *back * (T::Acc::ONE + w.wide()));
            for ((dx, slope), x) in dx.iter_mut().zip(slopes).zip(x) {
                *dx = T::narrow(rstd * (slope - x.wide() * pull));
            }
        }
    }

    /// Rotates dy of a head back, into `back`; returns the head's rstd.
    #[inline(always)]
    fn rotated_back(&self, back: &mut [T::Acc], dy: &[T], row: usize, x: &[T]) -> T::Acc {
        let (cos, sin) = self.angles(row);
        for (back, dy) in back.iter_mut().zip(dy) {
            *back = dy.wide();
        }
        rotate(back, cos, sin, -T::Acc::ONE);
        row_rstd(x, self.eps)
    }

    /// Parts of the gradient of a norm's weight, (ceil(N / rows), Dh), from its heads.
    fn norm_parts(&self, parts: &mut [T::Acc], rows: usize, dy: &[T], (first, heads): (usize, usize)) {
        for_each_part(
            parts,
            (self.n, rows, self.dim),
            #[inline(always)]
            |sum: &mut [T::Acc], row| {
                let mut back = vec![T::Acc::ZERO; self.dim];
                for h in 0..heads {
                    let (x, dy) = (self.head(row, first + h), &dy[(row * heads + h) * self.dim..][..self.dim]);
                    let rstd = self.rotated_back(&mut back, dy, row, x);
                    for ((sum, back), x) in sum.iter_mut().zip(&back).zip(x) {
                        *sum += *back * x.wide() * rstd;
                    }
                }
            },
        );
    }
}

/// Rotates the halves of y by the angles, or back by them when `direction` is -1.
#[inline(always)]
fn rotate<A: Real>(y: &mut [A], cos: &[A], sin: &[A], direction: A) {
    let half = y.len() / 2;
    let (low, high) = y.split_at_mut(half);
    let (high, cos, sin) = (&mut high[..half], &cos[..half], &sin[..half]);
    for i in 0..half {
        let (a, b, s) = (low[i], high[i], direction * sin[i]);
        low[i] = a * cos[i] - b * s;
        high[i] = b * cos[i] + a * s;
    }
}
