//! The CPU backend's ground: the number trait, vector dispatch, row-parallel loops and reductions in a fixed order.
//!
//! Every CPU op is generic over [`Real`]: f32 is what runs, f64 is what the gradient checks use. Loops are written so
//! that the compiler vectorises them, and [`vectorized`] compiles them once per instruction set (AVX-512, AVX2,
//! baseline) and picks one at run time. The split of work never depends on the number of threads, and neither does the
//! order of any sum: a run is equal to the bit on any number of cores.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use rayon::prelude::*;

use crate::device::Element;

/// f32 or f64.
pub trait Real:
    Element
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

/// Runs `f` compiled for the best instruction set of this machine.
#[inline(always)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Sum of `f(i)` for i in 0..n, in 16 running sums that are folded at the end.
#[inline(always)]
pub fn sum_of<T: Real>(n: usize, f: impl Fn(usize) -> T) -> T {
    const LANES: usize = 16;
    let mut lanes = [T::ZERO; LANES];
    let whole = n / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + l);
        }
    }
    let mut sum = T::ZERO;
    for lane in lanes {
        sum += lane;
    }
    for i in whole..n {
        sum += f(i);
    }
    sum
}

/// Inner product.
#[inline(always)]
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let b = &b[..a.len()];
    sum_of(a.len(), |i| a[i] * b[i])
}

/// Largest element; -inf for none.
#[inline(always)]
pub fn max_of<T: Real>(x: &[T]) -> T {
    const LANES: usize = 16;
    let mut lanes = [T::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(T::NEG_INFINITY, |m, &v| if v > m { v } else { m })
}

/// Calls `f(i, row)` for each row of `width` elements of `out`, rows in parallel.
pub fn for_each_row<T: Real>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let rows_per_task = (16_384 / width.max(1)).max(1);
    out.par_chunks_mut(rows_per_task * width).enumerate().for_each(|(task, rows)| {
        vectorized(|| {
            for (r, row) in rows.chunks_exact_mut(width).enumerate() {
                f(task * rows_per_task + r, row);
            }
        });
    });
}

/// Length of the blocks that long vectors are cut into, whatever the number of threads.
pub const BLOCK: usize = 1 << 16;

/// sum += term.
pub fn add_assign<T: Real>(sum: &mut [T], term: &[T]) {
    sum.par_chunks_mut(BLOCK).zip(term.par_chunks(BLOCK)).for_each(|(sum, term)| {
        vectorized(|| sum.iter_mut().zip(term).for_each(|(s, &t)| *s += t));
    });
}

/// sum over all blocks of `per_block(first element, block)`, folded in f64 and in order.
pub fn sum_blocks<T: Real>(x: &[T], per_block: impl Fn(usize, &[T]) -> f64 + Sync) -> f64 {
    let partial: Vec<f64> =
        x.par_chunks(BLOCK).enumerate().map(|(b, block)| vectorized(|| per_block(b * BLOCK, block))).collect();
    partial.iter().sum()
}
