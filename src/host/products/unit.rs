//! A vector unit as the products see it: sums in f32, words that are multiplied, and the two kernels compiled for it.
//!
//! A word is 32 bits. For a unit of pairs it is two neighbouring terms in bf16, and one instruction adds both products; for
//! the others it is one f32. In both the second term of a pair is added before the first, as `vdpbf16ps` does, so that all
//! units give the same sums to the bit (the instruction flushes what is smaller than 2^-126, the others do not).

use half::bf16;

use super::dots::{Dots, dots};
use super::peak::spin;
use super::tile::{Finish, Tile, tile};
use crate::host::simd::Scalar;

/// A vector unit that this machine has: whoever holds one may run its instructions.
pub(super) trait Unit: Copy + Send + Sync {
    /// Whether a word is a pair of bf16.
    const PAIRS: bool;
    /// Words of a vector.
    const LANES: usize;
    /// Rows and columns of a tile of a blocked product: its sums fill most registers.
    const ROWS: usize;
    const COLS: usize;
    /// Rows of weights, and of x, of a tile of dot products: with weights in bf16, and in f32.
    const DOTS: [(usize, usize); 2];
    /// LANES sums in f32.
    type Sums: Copy;
    /// LANES words.
    type Words: Copy;

    fn zero(self) -> Self::Sums;

    /// # Safety
    /// LANES numbers are there. No alignment is asked for, here and below.
    unsafe fn load(self, from: *const f32) -> Self::Sums;

    /// # Safety
    /// There is room for LANES numbers.
    unsafe fn store(self, to: *mut f32, sums: Self::Sums);

    /// LANES numbers of bf16 in f32.
    ///
    /// # Safety
    /// They are there.
    unsafe fn widened(self, from: *const bf16) -> Self::Sums;

    /// Rounds to nearest, ties to even; NaN stays NaN.
    ///
    /// # Safety
    /// There is room for LANES numbers.
    unsafe fn narrowed(self, to: *mut bf16, sums: Self::Sums);

    fn add(self, a: Self::Sums, b: Self::Sums) -> Self::Sums;

    /// # Safety
    /// LANES words are there.
    unsafe fn words(self, from: *const u32) -> Self::Words;

    /// One word in all lanes.
    ///
    /// # Safety
    /// It is there.
    unsafe fn all(self, from: *const u32) -> Self::Words;

    /// sums + a * b, lane by lane.
    fn multiply_add(self, sums: Self::Sums, a: Self::Words, b: Self::Words) -> Self::Sums;

    /// The second and the first terms of LANES pairs of bf16, each in f32: for units whose word is one f32.
    fn halves(self, pairs: Self::Words) -> [Self::Words; 2];

    /// The sum over the lanes of each, in a fixed order.
    fn totals(self, sums: [Self::Sums; 4]) -> [f32; 4];

    /// [`tile`] compiled for this unit.
    ///
    /// # Safety
    /// As [`tile`].
    unsafe fn tile(self, job: &Tile);

    /// [`Finish::store`] of a tile, compiled for this unit.
    ///
    /// # Safety
    /// As that.
    unsafe fn finish(self, to: &Finish, sums: *const f32);

    /// [`dots`] compiled for this unit.
    ///
    /// # Safety
    /// As [`dots`].
    unsafe fn dots<const WIDE: bool>(self, job: &Dots);

    /// [`spin`] compiled for this unit.
    fn spin(self, steps: usize);
}

/// Plain Rust: what a machine without any of the other units computes with, 8 lanes of f32.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// Plain Rust that does what [`Avx512Bf16`](super::avx512::Avx512Bf16) does, word for word: for tests where there is none.
#[derive(Clone, Copy)]
pub(super) struct PortablePairs;

/// a * b + c; in one rounding where the machine always can, for elsewhere that is a call of a function.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn second(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

#[inline(always)]
fn first(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

macro_rules! portable {
    ($unit:ty, $pairs:expr, $lanes:expr, $rows:expr, $vectors:expr, $weights:expr, $dot_rows:expr, |$sum:ident, $a:ident, $b:ident| $add:expr) => {
        impl Unit for $unit {
            const PAIRS: bool = $pairs;
            const LANES: usize = $lanes;
            const ROWS: usize = $rows;
            const COLS: usize = $vectors * $lanes;
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

            unsafe fn tile(self, job: &Tile) {
                // SAFETY: the caller's promise.
                unsafe { tile::<Self, $rows, $vectors>(self, job) };
            }

            unsafe fn finish(self, to: &Finish, sums: *const f32) {
                // SAFETY: the caller's promise.
                unsafe { to.store(self, sums) };
            }

            unsafe fn dots<const WIDE: bool>(self, job: &Dots) {
                // SAFETY: the caller's promise.
                unsafe { dots::<Self, WIDE, $weights>(self, job) };
            }

            fn spin(self, steps: usize) {
                spin(self, steps);
            }
        }
    };
}

portable!(Portable, false, 8, 4, 1, 2, 2, |sum, a, b| fused(f32::from_bits(a), f32::from_bits(b), *sum));
portable!(PortablePairs, true, 16, 12, 2, 6, 4, |sum, a, b| {
    fused(first(a), first(b), fused(second(a), second(b), *sum))
});
