//! The inner loop of a blocked product: one tile of sums in registers, over packed panels.

use std::ffi::c_void;

use half::bf16;

use super::prefetch::{Ahead, LINE, fetch};
use super::unit::Unit;
use crate::host::simd::Scalar;

/// One tile of a product.
pub(super) struct Tile {
    /// Words that are summed over: a multiple of those that lie together.
    pub steps: usize,
    /// (steps, ROWS) words, as [`Layout`](super::pack::Layout) places them
    pub a: *const u32,
    /// (steps, COLS) words
    pub b: *const u32,
    /// (ROWS, COLS): the tile's sums are written here,
    pub sums: *mut f32,
    /// after what is there has been added.
    pub add: bool,
    /// Where the tile goes when these were its last words.
    pub finish: Option<Finish>,
    /// Memory that will be packed soon, of both sides: asked for meanwhile where [`Tiles::HAS_LARGE_CACHES`](super::tiles::Tiles).
    pub ahead: [Ahead; 2],
}

/// A tile's place in c.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    /// Its first element.
    pub c: *mut c_void,
    /// Elements from one row of c to the next, and from one row of the tile's sums to the next.
    pub stride: usize,
    pub sums_stride: usize,
    /// Of the tile's rows and columns, those that c has.
    pub rows: usize,
    pub cols: usize,
    /// Whether c is bf16, not f32.
    pub narrow: bool,
    /// `+=`
    pub accumulate: bool,
    /// Whether c goes to memory past the caches, which would first read lines of it that are only written: for f32 that is not
    /// added to, and lies at multiples of a cache line.
    pub stream: bool,
}

/// Steps of a tile from one line that is asked for to the next: what is packed for a tile is then asked for by the end of it.
const STEPS_OF_LINE: usize = 8;

/// `sums (R, V * LANES) = or += a b`; R * V sums stay in registers all the while. AHEAD: and asks for the tile's `ahead`.
///
/// # Safety
/// Panels and sums are there as [`Tile`] says.
#[inline(always)]
pub(super) unsafe fn vectors<U: Unit, const R: usize, const V: usize, const AHEAD: bool>(unit: U, job: &Tile) {
    let at = |r: usize, v: usize| job.sums.wrapping_add((r * V + v) * U::LANES);
    let mut sums = [[unit.zero(); V]; R];
    if job.add {
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise: R * V vectors.
                *sums = unsafe { unit.load(at(r, v)) };
            }
        }
    }
    let (mut a, mut b) = (job.a, job.b);
    let mut ahead = job.ahead;
    for step in 0..job.steps {
        if AHEAD && step % STEPS_OF_LINE == 0 {
            ahead.iter_mut().for_each(Ahead::fetch_next);
        }
        // SAFETY: the caller's promise: V vectors and R words a step.
        let mut columns = [unsafe { unit.words(b) }; V];
        for (v, words) in columns.iter_mut().enumerate() {
            // SAFETY: as above.
            *words = unsafe { unit.words(b.add(v * U::LANES)) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let row = unsafe { unit.all(a.add(r)) };
            for (sums, &words) in sums.iter_mut().zip(&columns) {
                *sums = unit.multiply_add(*sums, row, words);
            }
        }
        (a, b) = (a.wrapping_add(R), b.wrapping_add(V * U::LANES));
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sums) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { unit.store(at(r, v), sums) };
        }
    }
}

impl Tile {
    /// Before the sums are computed: asks for c's lines, which come from memory meanwhile.
    #[inline(always)]
    pub fn fetch(&self) {
        if let Some(finish) = self.finish {
            finish.fetch();
        }
    }

    /// After that: puts them where they should go.
    ///
    /// # Safety
    /// Sums and c are there as [`Tile`] says.
    #[inline(always)]
    pub unsafe fn finish<U: Unit>(&self, unit: U) {
        if let Some(finish) = self.finish {
            // SAFETY: the caller's promise.
            unsafe { finish.store(unit, self.sums) };
        }
    }
}

impl Finish {
    /// Asks for c's lines, which come from memory while the tile is computed: those that are only written, too. Stores wait
    /// for their lines one after the other, and behind them everything else.
    #[inline(always)]
    fn fetch(self) {
        if self.stream {
            return;
        }
        let size = if self.narrow { size_of::<bf16>() } else { size_of::<f32>() };
        for row in 0..self.rows {
            let row = self.c.cast::<u8>().wrapping_add(row * self.stride * size);
            (0..self.cols * size).step_by(LINE).for_each(|byte| fetch(row.wrapping_add(byte)));
        }
    }

    /// Puts a tile (ROWS, COLS) in its place.
    ///
    /// # Safety
    /// The tile is there, and lies in c as [`Finish`] says.
    #[inline(always)]
    pub unsafe fn store<U: Unit>(self, unit: U, sums: *const f32) {
        // SAFETY: the caller's promise.
        unsafe { if self.narrow { self.rows::<U, bf16>(unit, sums) } else { self.rows::<U, f32>(unit, sums) } }
    }

    /// # Safety
    /// As [`Finish::store`], c in C.
    #[inline(always)]
    unsafe fn rows<U: Unit, C: Stored>(self, unit: U, sums: *const f32) {
        let whole = self.cols / U::LANES * U::LANES;
        for row in 0..self.rows {
            let c = self.c.cast::<C>().wrapping_add(row * self.stride);
            let sums = sums.wrapping_add(row * self.sums_stride);
            for col in (0..whole).step_by(U::LANES) {
                // SAFETY: the caller's promise.
                unsafe {
                    let (c, mut sums) = (c.add(col), unit.load(sums.add(col)));
                    if self.accumulate {
                        sums = unit.add(C::load(unit, c), sums);
                    }
                    if self.stream { unit.stream(c.cast(), sums) } else { C::store(unit, c, sums) }
                }
            }
            for col in whole..self.cols {
                // SAFETY: as above.
                unsafe {
                    let before = if self.accumulate { (*c.add(col)).wide() } else { 0.0 };
                    *c.add(col) = C::narrow(before + *sums.add(col));
                }
            }
        }
    }
}

/// What c is stored in.
trait Stored: Scalar<Acc = f32> {
    /// # Safety
    /// LANES numbers are there.
    unsafe fn load<U: Unit>(unit: U, from: *const Self) -> U::Sums;

    /// # Safety
    /// There is room for LANES numbers.
    unsafe fn store<U: Unit>(unit: U, to: *mut Self, sums: U::Sums);
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<U: Unit>(unit: U, from: *const f32) -> U::Sums {
        // SAFETY: the caller's promise, here and below.
        unsafe { unit.load(from) }
    }

    #[inline(always)]
    unsafe fn store<U: Unit>(unit: U, to: *mut f32, sums: U::Sums) {
        // SAFETY: as above.
        unsafe { unit.store(to, sums) };
    }
}

impl Stored for bf16 {
    #[inline(always)]
    unsafe fn load<U: Unit>(unit: U, from: *const bf16) -> U::Sums {
        // SAFETY: as above.
        unsafe { unit.widened(from) }
    }

    #[inline(always)]
    unsafe fn store<U: Unit>(unit: U, to: *mut bf16, sums: U::Sums) {
        // SAFETY: as above.
        unsafe { unit.narrowed(to, sums) };
    }
}
