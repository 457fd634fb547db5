//! NEON: 4 lanes of f32, up to four products a cycle, 32 registers; bf16 is widened on the way in. With FEAT_BF16, one
//! instruction multiplies 2 rows of 4 terms of bf16 by 2 columns of as many (`bfmmla`): four times as much.
//!
//! Instructions of FEAT_BF16 are in assembly, for their intrinsics are not stable. By Arm's manual they add two products,
//! and that to a sum, and round to odd each time (an inexact number becomes the odd one of its two neighbours); what is smaller
//! than 2^-126 is 0.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use half::bf16;

use super::tile::Tile;
use super::tiles::Tiles;
use super::unit::Unit;

/// f32; every aarch64 has it.
#[derive(Clone, Copy)]
pub(super) struct Neon;

/// FEAT_BF16.
#[derive(Clone, Copy)]
pub(super) struct NeonBf16(());

impl NeonBf16 {
    pub fn new() -> Option<Self> {
        is_aarch64_feature_detected!("bf16").then_some(Self(()))
    }
}

macro_rules! unit {
    ($unit:ty, $pairs:expr, |$sums:ident, $a:ident, $b:ident| $add:expr) => {
        impl Unit for $unit {
            const PAIRS: bool = $pairs;
            const LANES: usize = 4;
            const DOTS: [(usize, usize); 2] = [(4, 5), (6, 4)];
            type Sums = float32x4_t;
            type Words = uint32x4_t;

            #[inline(always)]
            fn zero(self) -> float32x4_t {
                // SAFETY: every aarch64 has NEON; so in all that follows.
                unsafe { vdupq_n_f32(0.0) }
            }

            #[inline(always)]
            unsafe fn load(self, from: *const f32) -> float32x4_t {
                // SAFETY: as above, and the caller's promise.
                unsafe { vld1q_f32(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32, sums: float32x4_t) {
                // SAFETY: as above.
                unsafe { vst1q_f32(to, sums) };
            }

            #[inline(always)]
            unsafe fn widened(self, from: *const bf16) -> float32x4_t {
                // SAFETY: as above.
                unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(from.cast())))) }
            }

            #[inline(always)]
            unsafe fn narrowed(self, to: *mut bf16, sums: float32x4_t) {
                // SAFETY: as above.
                unsafe {
                    let bits = vreinterpretq_u32_f32(sums);
                    let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
                    let up = vaddq_u32(odd, vdupq_n_u32(0x7fff));
                    let rounded = vshrq_n_u32::<16>(vaddq_u32(bits, up));
                    let words = vbslq_u32(vceqq_f32(sums, sums), rounded, vdupq_n_u32(0x7fff));
                    vst1_u16(to.cast(), vmovn_u32(words));
                }
            }

            #[inline(always)]
            fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
                // SAFETY: as above.
                unsafe { vaddq_f32(a, b) }
            }

            #[inline(always)]
            unsafe fn words(self, from: *const u32) -> uint32x4_t {
                // SAFETY: as above. Bytes: words of weights in bf16 lie at even addresses.
                unsafe { vreinterpretq_u32_u8(vld1q_u8(from.cast())) }
            }

            #[inline(always)]
            unsafe fn all(self, from: *const u32) -> uint32x4_t {
                // SAFETY: as above.
                unsafe { vdupq_n_u32(from.read_unaligned()) }
            }

            #[inline(always)]
            fn multiply_add(self, $sums: float32x4_t, $a: uint32x4_t, $b: uint32x4_t) -> float32x4_t {
                // SAFETY: as above; for `bfdot`, a `NeonBf16` is made only where there is FEAT_BF16.
                unsafe { $add }
            }

            #[inline(always)]
            fn halves(self, pairs: uint32x4_t) -> [uint32x4_t; 2] {
                // SAFETY: as above.
                unsafe { [vandq_u32(pairs, vdupq_n_u32(0xffff_0000)), vshlq_n_u32::<16>(pairs)] }
            }

            #[inline(always)]
            fn totals(self, [a, b, c, d]: [float32x4_t; 4]) -> [f32; 4] {
                let mut totals = [0.0; 4];
                // SAFETY: as above; four numbers are stored.
                unsafe { vst1q_f32(totals.as_mut_ptr(), vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))) };
                totals
            }
        }
    };
}

unit!(Neon, false, |sums, a, b| vfmaq_f32(sums, vreinterpretq_f32_u32(a), vreinterpretq_f32_u32(b)));
unit!(NeonBf16, true, |sums, a, b| bfdot(sums, a, b));

/// An instruction of FEAT_BF16 that adds products of two vectors of bf16 to sums.
macro_rules! instruction {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// There is FEAT_BF16.
        #[inline(always)]
        unsafe fn $name(mut sums: float32x4_t, a: uint32x4_t, b: uint32x4_t) -> float32x4_t {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    ".arch_extension bf16",
                    concat!(stringify!($name), " {sums:v}.4s, {a:v}.8h, {b:v}.8h"),
                    sums = inout(vreg) sums, a = in(vreg) a, b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sums
        }
    };
}

instruction! {
    /// sums + both products of the pairs in each lane.
    bfdot
}

instruction! {
    /// sums (2, 2) + rows of 4 terms (2, 4) times columns of 4 (2, 4)^T.
    bfmmla
}

/// Pairs of rows, and of columns, of a tile.
const ROW_PAIRS: usize = 4;
const COL_PAIRS: usize = 6;

/// Words of a line in a `bfmmla`.
const WORDS: usize = 2;

/// The first halves of both, and the second ones: two squares of two rows, or the other way about.
#[inline(always)]
fn by_halves(a: float32x4_t, b: float32x4_t) -> [float32x4_t; 2] {
    // SAFETY: every aarch64 has NEON.
    unsafe {
        let (a, b) = (vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b));
        [vreinterpretq_f32_f64(vzip1q_f64(a, b)), vreinterpretq_f32_f64(vzip2q_f64(a, b))]
    }
}

/// `sums (8, 12) = or += a b`: squares of 2 by 2 stay in 24 registers all the while.
///
/// # Safety
/// Panels and sums are there as [`Tile`] says.
#[inline(always)]
unsafe fn sums(unit: NeonBf16, job: &Tile) {
    // Two rows of two squares.
    let at = |row: usize, col: usize| {
        let first = job.sums.wrapping_add(2 * row * NeonBf16::COLS + 2 * col);
        [first, first.wrapping_add(NeonBf16::COLS)]
    };
    let mut squares = [[unit.zero(); COL_PAIRS]; ROW_PAIRS];
    if job.add {
        for (row, squares) in squares.iter_mut().enumerate() {
            for col in (0..COL_PAIRS).step_by(2) {
                // SAFETY: the caller's promise.
                let [first, second] = at(row, col).map(|at| unsafe { unit.load(at) });
                [squares[col], squares[col + 1]] = by_halves(first, second);
            }
        }
    }
    let (mut a, mut b) = (job.a, job.b);
    for _ in 0..job.steps / WORDS {
        // SAFETY: the caller's promise: 16 words of a, 24 of b.
        let rows: [_; ROW_PAIRS] = std::array::from_fn(|row| unsafe { unit.words(a.wrapping_add(4 * row)) });
        for col in 0..COL_PAIRS {
            // SAFETY: as above.
            let columns = unsafe { unit.words(b.wrapping_add(4 * col)) };
            for (squares, &rows) in squares.iter_mut().zip(&rows) {
                // SAFETY: as above: whoever holds a unit may use it.
                squares[col] = unsafe { bfmmla(squares[col], rows, columns) };
            }
        }
        (a, b) = (a.wrapping_add(WORDS * NeonBf16::ROWS), b.wrapping_add(WORDS * NeonBf16::COLS));
    }
    for (row, squares) in squares.iter().enumerate() {
        for col in (0..COL_PAIRS).step_by(2) {
            for (at, sums) in at(row, col).into_iter().zip(by_halves(squares[col], squares[col + 1])) {
                // SAFETY: as above.
                unsafe { unit.store(at, sums) };
            }
        }
    }
}

impl Tiles for NeonBf16 {
    const PAIRS: bool = true;
    const ROWS: usize = 2 * ROW_PAIRS;
    const COLS: usize = 2 * COL_PAIRS;
    const TOGETHER: [usize; 2] = [WORDS; 2];
    type Vectors = Self;

    fn vectors(self) -> Self {
        self
    }

    unsafe fn tile(self, job: &Tile) {
        #[target_feature(enable = "bf16")]
        unsafe fn compiled(unit: NeonBf16, job: &Tile) {
            job.fetch();
            // SAFETY: the caller's promise.
            unsafe {
                sums(unit, job);
                job.finish(unit);
            }
        }
        // SAFETY: whoever holds a unit may use it; the caller's promise.
        unsafe { compiled(self, job) };
    }

    fn spin(self, steps: usize) -> usize {
        const CHAINS: usize = ROW_PAIRS * COL_PAIRS;
        let words = [0x3f00_3f00; 4];
        // SAFETY: four words.
        let words = unsafe { self.words(std::hint::black_box(&words).as_ptr()) };
        let mut squares = [self.zero(); CHAINS];
        for _ in 0..steps {
            // SAFETY: whoever holds a unit may use it.
            squares.iter_mut().for_each(|square| *square = unsafe { bfmmla(*square, words, words) });
        }
        std::hint::black_box(&squares);
        let products = 2 * 2 * 4;
        steps * CHAINS * 2 * products
    }
}
