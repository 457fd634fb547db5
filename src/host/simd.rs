//! What the CPU's ops are written with: number types, vector dispatch, row-parallel loops and sums in a fixed order.
//!
//! Every op is generic over its element type [`Scalar`] (f32, bf16, f64) and computes in that type's [`Real`] (f32, f32, f64).
//! Loops are written so that the compiler vectorises them, and `vectorized!` compiles them once per instruction set
//! (AVX-512, AVX2, baseline) and picks one at run time. The split of work never depends on the number of threads, and
//! neither does the order of any sum: a run is equal to the bit on any number of cores.

use std::borrow::Cow;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use half::bf16;
use rayon::prelude::*;

use crate::device::Element;

/// The value of an expression, which is compiled for each instruction set and runs in the best one of this machine.
///
/// A macro, so that the expression is always inlined into the function that has the instructions: a call from there would
/// leave them. So must be what it calls: a function or a closure with `#[inline(always)]`. `for_each` of a range is such a call: a
/// loop is none.
macro_rules! vectorized {
    ($($body:tt)*) => {{
        let once = $crate::host::simd::Once;
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let _once = once;
                $($body)*
            },
        )
    }};
}
pub(crate) use vectorized;

/// What a closure moves out of itself to be `FnOnce` alone: one that could be called again is called through a function that
/// is not inlined.
pub struct Once;

/// What is computed in: f32 or f64.
pub trait Real:
    Scalar<Acc = Self>
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;

    /// tanh(x) = 1 - 2 / (exp(2x) + 1): absolute error of a few units in the last place of 1.
    #[inline(always)]
    fn tanh(self) -> Self {
        let two = Self::ONE + Self::ONE;
        Self::ONE - two / ((two * self).exp() + Self::ONE)
    }
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn from_f64(x: f64) -> f32 {
        x as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self as f64
    }

    /// exp in branch-free arithmetic that vectorises (Cephes' expf: relative error under 2e-7); 0 below -87.3.
    #[inline(always)]
    fn exp(self) -> f32 {
        const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
        let x = if self > 88.7 { 88.7 } else { self };
        let x = if x < -87.3 { -87.3 } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
        let p = 1.987_569_1e-4;
        let p = p * r + 1.398_199_9e-3;
        let p = p * r + 8.333_452e-3;
        let p = p * r + 4.166_579_6e-2;
        let p = p * r + 1.666_666_5e-1;
        let p = p * r + 5e-1;
        let y = p * r * r + r + 1.0;
        let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
        // NaN passes through: both comparisons above are false for it.
        if self < -87.3 { 0.0 } else { y * scale }
    }

    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;

    fn from_f64(x: f64) -> f64 {
        x
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn exp(self) -> f64 {
        f64::exp(self)
    }

    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }

    fn tanh(self) -> f64 {
        f64::tanh(self)
    }
}

/// What elements are stored in: f32, bf16 or f64.
pub trait Scalar: Element {
    /// A: what is computed in, and what sums are kept in.
    type Acc: Real;
    fn wide(self) -> Self::Acc;
    /// Rounded to nearest, ties to even.
    fn narrow(x: Self::Acc) -> Self;

    /// All elements in A: themselves where that is their own type.
    fn widened(x: &[Self]) -> Cow<'_, [Self::Acc]>;

    /// Lets `fill` write in A, rounded once: straight into `x` where that is its own type.
    fn fill_from_wide(x: &mut [Self], fill: impl FnOnce(&mut [Self::Acc]));
}

macro_rules! impl_scalar_of_itself {
    ($t:ty) => {
        impl Scalar for $t {
            type Acc = $t;

            #[inline(always)]
            fn wide(self) -> $t {
                self
            }

            #[inline(always)]
            fn narrow(x: $t) -> $t {
                x
            }

            fn widened(x: &[$t]) -> Cow<'_, [$t]> {
                x.into()
            }

            fn fill_from_wide(x: &mut [$t], fill: impl FnOnce(&mut [$t])) {
                fill(x);
            }
        }
    };
}

impl_scalar_of_itself!(f32);
impl_scalar_of_itself!(f64);

impl Scalar for bf16 {
    type Acc = f32;

    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Without branches, so that it vectorises; NaN stays NaN.
    #[inline(always)]
    fn narrow(x: f32) -> bf16 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        bf16::from_bits(if x.is_nan() { 0x7fff } else { rounded as u16 })
    }

    fn widened(x: &[bf16]) -> Cow<'_, [f32]> {
        let mut wide = vec![0.0; x.len()];
        convert(&mut wide, x, bf16::wide);
        wide.into()
    }

    fn fill_from_wide(x: &mut [bf16], fill: impl FnOnce(&mut [f32])) {
        let mut wide = vec![0.0; x.len()];
        fill(&mut wide);
        convert(x, &wide, bf16::narrow);
    }
}

/// `to[i] = f(from[i])`; a closure should be `#[inline(always)]`, as those of the loops over rows below.
pub fn convert<To: Element, From: Element>(to: &mut [To], from: &[From], f: impl Fn(From) -> To + Sync) {
    to.par_chunks_mut(BLOCK).zip(from.par_chunks(BLOCK)).for_each(|(to, from)| {
        vectorized!(to.iter_mut().zip(from).for_each(|(to, &x)| *to = f(x)));
    });
}

/// Sum of `f` of the elements of all lists at a place, in 16 running sums that are folded at the end.
///
/// # Panics
/// When a list is shorter than the first.
#[inline(always)]
pub fn sum_of<T: Copy, A: Real, const K: usize>(lists: [&[T]; K], f: impl Fn([T; K]) -> A) -> A {
    sum_of_both(lists, [lists[0]], |lists, _| f(lists))
}

/// [`sum_of`] lists of two types.
///
/// # Panics
/// As that.
#[inline(always)]
pub fn sum_of_both<T: Copy, U: Copy, A: Real, const K: usize, const L: usize>(
    lists: [&[T]; K],
    others: [&[U]; L],
    f: impl Fn([T; K], [U; L]) -> A,
) -> A {
    const LANES: usize = 16;
    let n = lists[0].len();
    // Blocks, so that no index is checked within them: the compiler would add one number after the other.
    let parts = lists.map(|list| list[..n].as_chunks::<LANES>());
    let other_parts = others.map(|list| list[..n].as_chunks::<LANES>());
    let mut lanes = [A::ZERO; LANES];
    for block in 0..n / LANES {
        let (blocks, others) = (parts.map(|(blocks, _)| &blocks[block]), other_parts.map(|(blocks, _)| &blocks[block]));
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(blocks.map(|block| block[l]), others.map(|block| block[l]));
        }
    }
    let mut sum = A::ZERO;
    for lane in lanes {
        sum += lane;
    }
    for i in 0..n % LANES {
        sum += f(parts.map(|(_, rest)| rest[i]), other_parts.map(|(_, rest)| rest[i]));
    }
    sum
}

/// Inner product.
#[inline(always)]
pub fn dot<T: Scalar>(a: &[T], b: &[T]) -> T::Acc {
    sum_of([a, b], |[a, b]| a.wide() * b.wide())
}

/// Largest element; -inf for none.
#[inline(always)]
pub fn max_of<T: Scalar>(x: &[T]) -> T::Acc {
    const LANES: usize = 16;
    let mut lanes = [T::Acc::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = if v.wide() > *lane { v.wide() } else { *lane };
        }
    }
    let rest = rest.iter().map(|x| x.wide());
    lanes.into_iter().chain(rest).fold(T::Acc::NEG_INFINITY, |m, v| if v > m { v } else { m })
}

/// Calls `f(i, row)` for each row of `width` elements of `out`, rows in parallel.
pub fn for_each_row<T: Element>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if width == 0 {
        return;
    }
    let rows_per_task = rows_per_task(width);
    out.par_chunks_mut(rows_per_task * width).enumerate().for_each(|(task, rows)| {
        vectorized!({
            for (r, row) in rows.chunks_exact_mut(width).enumerate() {
                f(task * rows_per_task + r, row);
            }
        });
    });
}

/// [`for_each_row`] of which each row has one number more, in `beside`.
pub fn for_each_row_and<T: Element, U: Element>(
    out: &mut [T],
    width: usize,
    beside: &mut [U],
    f: impl Fn(usize, &mut [T], &mut U) + Sync,
) {
    if width == 0 {
        return;
    }
    let rows_per_task = rows_per_task(width);
    let tasks = out.par_chunks_mut(rows_per_task * width).zip(beside.par_chunks_mut(rows_per_task));
    tasks.enumerate().for_each(|(task, (rows, beside))| {
        vectorized!({
            for (r, (row, beside)) in rows.chunks_exact_mut(width).zip(beside).enumerate() {
                f(task * rows_per_task + r, row, beside);
            }
        });
    });
}

fn rows_per_task(width: usize) -> usize {
    (16_384 / width).max(1)
}

/// Length of the blocks that long vectors are cut into, whatever the number of threads.
pub const BLOCK: usize = 1 << 16;

/// Parts of a sum over rows: part p of `width` numbers becomes what `add(part, row)` adds for the rows `p * rows ..` of n, in order.
pub fn for_each_part<A: Real>(
    parts: &mut [A],
    (n, rows, width): (usize, usize, usize),
    add: impl Fn(&mut [A], usize) + Sync,
) {
    if width == 0 {
        return;
    }
    // Several parts a task: they are small.
    let parts_per_task = (64 / rows).max(1);
    parts.par_chunks_mut(parts_per_task * width).enumerate().for_each(|(task, parts)| {
        vectorized!({
            for (p, part) in parts.chunks_exact_mut(width).enumerate() {
                let first = (task * parts_per_task + p) * rows;
                part.fill(A::ZERO);
                for row in first..(first + rows).min(n) {
                    add(part, row);
                }
            }
        });
    });
}

/// sum += term.
pub fn add_assign<T: Real>(sum: &mut [T], term: &[T]) {
    sum.iter_mut().zip(term).for_each(|(s, &t)| *s += t);
}
