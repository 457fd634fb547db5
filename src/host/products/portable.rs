//! Vector units in plain Rust: for machines without any other, and to test what only some machines have.

use half::bf16;

use super::unit::Unit;
use crate::host::simd::Scalar;

/// Plain Rust: what a machine without any of the other units computes with, 8 lanes of f32.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// Plain Rust that does what [`Avx512Bf16`](super::avx512::Avx512Bf16) does, word for word: for tests where there is none.
#[derive(Clone, Copy)]
pub(super) struct PortablePairs;

/// a * b + c; in one rounding where the machine always can, for elsewhere that is a call of a function.
#[inline(always)]
pub(super) fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
pub(super) fn second(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

#[inline(always)]
pub(super) fn first(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

macro_rules! portable {
    ($unit:ty, $pairs:expr, $lanes:expr, $weights:expr, $dot_rows:expr, |$sum:ident, $a:ident, $b:ident| $add:expr) => {
        impl Unit for $unit {
            const PAIRS: bool = $pairs;
            const LANES: usize = $lanes;
            const DOTS: [(usize, usize); 2] = [($weights, $dot_rows); 2];
            type Sums = [f32; $lanes];
            type Words = [u32; $lanes];

            #[inline(always)]
            fn zero(self) -> [f32; $lanes] {
                [0.0; $lanes]
            }

            #[inline(always)]
            unsafe fn load(self, from: *const f32) -> [f32; $lanes] {
                // SAFETY: the caller's promise.
                unsafe { from.cast::<[f32; $lanes]>().read_unaligned() }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32, sums: [f32; $lanes]) {
                // SAFETY: the caller's promise.
                unsafe { to.cast::<[f32; $lanes]>().write_unaligned(sums) };
            }

            #[inline(always)]
            unsafe fn widened(self, from: *const bf16) -> [f32; $lanes] {
                // SAFETY: the caller's promise.
                unsafe { from.cast::<[bf16; $lanes]>().read_unaligned() }.map(Scalar::wide)
            }

            #[inline(always)]
            unsafe fn narrowed(self, to: *mut bf16, sums: [f32; $lanes]) {
                // SAFETY: the caller's promise.
                unsafe { to.cast::<[bf16; $lanes]>().write_unaligned(sums.map(Scalar::narrow)) };
            }

            #[inline(always)]
            fn add(self, a: [f32; $lanes], b: [f32; $lanes]) -> [f32; $lanes] {
                std::array::from_fn(|lane| a[lane] + b[lane])
            }

            #[inline(always)]
            unsafe fn words(self, from: *const u32) -> [u32; $lanes] {
                // SAFETY: the caller's promise.
                unsafe { from.cast::<[u32; $lanes]>().read_unaligned() }
            }

            #[inline(always)]
            unsafe fn all(self, from: *const u32) -> [u32; $lanes] {
                // SAFETY: the caller's promise.
                [unsafe { from.read_unaligned() }; $lanes]
            }

            #[inline(always)]
            fn multiply_add(self, mut sums: [f32; $lanes], a: [u32; $lanes], b: [u32; $lanes]) -> [f32; $lanes] {
                for (lane, $sum) in sums.iter_mut().enumerate() {
                    let ($a, $b) = (a[lane], b[lane]);
                    *$sum = $add;
                }
                sums
            }

            #[inline(always)]
            fn halves(self, pairs: [u32; $lanes]) -> [[u32; $lanes]; 2] {
                [pairs.map(|pair| pair & 0xffff_0000), pairs.map(|pair| pair << 16)]
            }

            #[inline(always)]
            fn totals(self, sums: [[f32; $lanes]; 4]) -> [f32; 4] {
                sums.map(|sums| sums.iter().fold(0.0, |total, sum| total + sum))
            }
        }
    };
}

portable!(Portable, false, 8, 2, 2, |sum, a, b| fused(f32::from_bits(a), f32::from_bits(b), *sum));
portable!(PortablePairs, true, 16, 6, 4, |sum, a, b| fused(first(a), first(b), fused(second(a), second(b), *sum)));
