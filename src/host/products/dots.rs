//! The inner loop of a skinny product: dot products of a few rows of weights, as they lie in memory, with a few rows of x.

use std::ops::Range;

use super::prefetch::fetch_far;
use super::unit::Unit;

/// One tile of dot products.
pub(super) struct Dots {
    /// Vectors of weights that each product sums over.
    pub steps: usize,
    /// `rows` rows of x as [`Prepared`](super::skinny) lays them, `x_stride` words apart.
    pub x: *const u32,
    pub x_stride: usize,
    /// 1 to what the unit's DOTS say
    pub rows: usize,
    /// `weights` rows, `w_stride` bytes apart.
    pub w: *const u8,
    pub w_stride: usize,
    /// 1 to R
    pub weights: usize,
    /// Sum (row of x, row of weights) is at `row * sums_stride + weight`.
    pub sums: *mut f32,
    pub sums_stride: usize,
    /// `+=`
    pub add: bool,
    /// Of some of the rows of weights: each step asks for what lies so many bytes behind its own, and will be read next.
    pub ahead: usize,
    pub ahead_rows: Range<usize>,
}

/// All dot products of a tile; WIDE: the weights are f32, else bf16. R is what the unit's DOTS say.
///
/// # Safety
/// All is there as [`Dots`] says.
#[inline(always)]
pub(super) unsafe fn dots<U: Unit, const WIDE: bool, const R: usize>(unit: U, job: &Dots) {
    // SAFETY: the caller's promise.
    unsafe {
        if job.weights == R {
            some_rows::<U, WIDE, R>(unit, job);
        } else {
            for weight in 0..job.weights {
                let w = job.w.wrapping_add(weight * job.w_stride);
                let ahead_rows = if job.ahead_rows.contains(&weight) { 0..1 } else { 0..0 };
                some_rows::<U, WIDE, 1>(unit, &Dots { w, sums: job.sums.wrapping_add(weight), ahead_rows, ..*job });
            }
        }
    }
}

/// # Safety
/// As [`dots`], of R rows of weights.
#[inline(always)]
unsafe fn some_rows<U: Unit, const WIDE: bool, const R: usize>(unit: U, job: &Dots) {
    // SAFETY: the caller's promise.
    unsafe {
        match job.rows {
            1 => few::<U, WIDE, R, 1>(unit, job),
            2 => few::<U, WIDE, R, 2>(unit, job),
            3 => few::<U, WIDE, R, 3>(unit, job),
            4 => few::<U, WIDE, R, 4>(unit, job),
            5 => few::<U, WIDE, R, 5>(unit, job),
            _ => few::<U, WIDE, R, 6>(unit, job),
        }
    }
}

/// Words of x beside one word of weights: a pair of bf16 is two where the unit's words are f32.
pub(super) const fn parts<U: Unit, const WIDE: bool>() -> usize {
    if WIDE || U::PAIRS { 1 } else { 2 }
}

/// # Safety
/// As [`dots`], of R rows of weights and X rows of x.
#[inline(always)]
unsafe fn few<U: Unit, const WIDE: bool, const R: usize, const X: usize>(unit: U, job: &Dots) {
    let parts = const { parts::<U, WIDE>() };
    let mut sums = [[unit.zero(); X]; R];
    let (mut w, mut x) = (job.w, job.x);
    for _ in 0..job.steps {
        for row in job.ahead_rows.clone() {
            fetch_far(w.wrapping_add(row * job.w_stride + job.ahead));
        }
        for part in 0..parts {
            // SAFETY: the caller's promise: LANES words a step.
            let mut weights = [unsafe { unit.words(w.cast()) }; R];
            for (r, weights) in weights.iter_mut().enumerate() {
                // SAFETY: as above.
                let words = unsafe { unit.words(w.wrapping_add(r * job.w_stride).cast()) };
                *weights = if parts == 2 { unit.halves(words)[part] } else { words };
            }
            for row in 0..X {
                // SAFETY: as above, `parts` times.
                let x = unsafe { unit.words(x.wrapping_add(row * job.x_stride)) };
                for (sums, &weights) in sums.iter_mut().zip(&weights) {
                    sums[row] = unit.multiply_add(sums[row], x, weights);
                }
            }
            x = x.wrapping_add(U::LANES);
        }
        w = w.wrapping_add(U::LANES * size_of::<u32>());
    }
    // Four rows of weights give four sums that lie side by side.
    for first in (0..R * X).step_by(4) {
        let (count, place) = ((R * X - first).min(4), |i| (i / R, i % R));
        let mut four = [unit.zero(); 4];
        for (i, four) in four.iter_mut().enumerate().take(count) {
            let (row, weight) = place(first + i);
            *four = sums[weight][row];
        }
        let totals = unit.totals(four);
        let at = |i| {
            let (row, weight) = place(first + i);
            job.sums.wrapping_add(row * job.sums_stride + weight)
        };
        // SAFETY: as above, and what lies side by side is there as such.
        unsafe {
            if R.is_multiple_of(4) {
                let to = &mut *at(0).cast::<[f32; 4]>();
                let before = if job.add { *to } else { [0.0; 4] };
                for i in 0..4 {
                    to[i] = before[i] + totals[i];
                }
            } else {
                for (i, total) in totals.into_iter().enumerate().take(count) {
                    *at(i) = if job.add { *at(i) + total } else { total };
                }
            }
        }
    }
}
