//! Skinny products: y (m, n) = x (m, k) W^T of at most [`MOST_ROWS`] rows, for decoding. Nothing of W is packed or copied.
//!
//! Both x and W lie along k, so an element of y is a dot product: lanes run along k and are added at the end. A tile takes
//! [`DOTS`](super::unit::Unit::DOTS) rows of W and of x. A task takes some rows of W in blocks of eight or nearly so: with so many
//! [terms](terms_at_once) they are 16 to 20 KB, read from memory once, while each group of rows of x (some 10 KB) passes over them in the first-level
//! cache; what comes two blocks later is asked for meanwhile, a line a step. Sums of [`BLOCKS`] blocks wait for one another, so that whole lines of y
//! are rounded and written.
//!
//! What a row of x gives does not depend on the rows beside it, nor on the number of threads: the order of a sum follows
//! from k alone. Some terms are summed in lanes, those added up, and the next terms' sums to them.

use std::ffi::c_void;

use half::bf16;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::dots::{Dots, parts};
use super::prefetch::{LINE, fetch_far};
use super::tiles::Compiled;
use super::unit::Unit;
use crate::device::driver::Operand;
use crate::host::simd::{Scalar, vectorized};

/// Rows of x from which a blocked product is faster: it packs W once and adds no lanes.
pub const MOST_ROWS: usize = 64;

/// Terms that lanes sum at most before they are added: a layer's width in f32, its heads in bf16.
const fn terms_at_once(wide: bool) -> usize {
    if wide { 640 } else { 1024 }
}

/// y and its operands: `x` and `w` lie along k.
#[derive(Clone, Copy)]
pub(super) struct Skinny {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub x: Operand,
    pub w: Operand,
    pub y: *mut c_void,
    /// Whether y is bf16.
    pub narrow: bool,
    pub accumulate: bool,
}

// SAFETY: tasks read x and w, and each writes columns of y of its own.
unsafe impl Sync for Skinny {}

/// Products of numbers that take a thread no longer than others need to wake up.
const ALONE: usize = 1 << 20;

/// Blocks whose sums are put in their places together: of a row they are some cache lines.
const BLOCKS: usize = 8;

/// Rows of W of a block: eight or nearly so, in whole tiles.
const fn block_rows<U: Unit, const WIDE: bool>() -> usize {
    let tile = U::DOTS[WIDE as usize].0;
    if tile < 8 { 8 / tile * tile } else { tile }
}

/// # Safety
/// The matrices are there; WIDE: x and w are f32, else bf16.
pub(super) unsafe fn skinny<U: Compiled, const WIDE: bool>(unit: U, product: &Skinny) {
    assert!(product.m <= MOST_ROWS && !(WIDE && U::PAIRS), "not a skinny product");
    // SAFETY: the caller's promise.
    let x = unsafe { Prepared::new::<U, WIDE>(product) };
    let block = const { block_rows::<U, WIDE>() };
    let per_task = product.n.div_ceil(8 * rayon::current_num_threads()).div_ceil(block).clamp(2, 32) * block;
    let width = const { BLOCKS * block_rows::<U, WIDE>() };
    let run = |task: usize| {
        let rows = task * per_task..((task + 1) * per_task).min(product.n);
        let mut sums = Buffer::new(product.m * width);
        for first in rows.clone().step_by(width) {
            let task = Task { unit, product, x: &x, first, end: rows.end.min(first + width), width };
            // SAFETY: as above: rows of W, and columns of y that are this task's own.
            unsafe { task.run::<WIDE>(sums.sums()) };
        }
    };
    let tasks = 0..product.n.div_ceil(per_task);
    if product.m * product.n * product.k <= ALONE {
        tasks.for_each(run);
    } else {
        tasks.into_par_iter().for_each(run);
    }
}

/// x with its terms as the unit multiplies them, in whole steps: what is beyond k is 0.
struct Prepared {
    words: Buffer,
    /// Words of a row.
    stride: usize,
    /// Words from one step to the next.
    step: usize,
    /// Whole steps of W, and the terms beyond them.
    steps: usize,
    rest: usize,
}

impl Prepared {
    /// # Safety
    /// x is there.
    unsafe fn new<U: Compiled, const WIDE: bool>(product: &Skinny) -> Self {
        let terms = if WIDE { U::LANES } else { 2 * U::LANES };
        let step = U::LANES * const { parts::<U, WIDE>() };
        let stride = product.k.div_ceil(terms) * step;
        let mut words = Buffer::new(product.m * stride);
        words.words().fill(0);
        for (row, words) in words.words().chunks_exact_mut(stride.max(1)).enumerate() {
            let first = row * product.x.stride;
            if WIDE {
                // SAFETY: the caller's promise: k elements of a row.
                let x = unsafe { std::slice::from_raw_parts(product.x.address.cast::<f32>().add(first), product.k) };
                words.iter_mut().zip(x).for_each(|(word, x)| *word = x.to_bits());
            } else {
                // SAFETY: as above.
                let x = unsafe { std::slice::from_raw_parts(product.x.address.cast::<bf16>().add(first), product.k) };
                words.chunks_exact_mut(step).zip(x.chunks(terms)).for_each(|(words, x)| lay::<U>(words, x));
            }
        }
        Self { words, stride, step, steps: product.k / terms, rest: product.k % terms }
    }
}

/// One step of x: pairs, or the second terms of all pairs and then the first ones.
fn lay<U: Compiled>(words: &mut [u32], x: &[bf16]) {
    if U::PAIRS && cfg!(target_endian = "little") {
        // They lie so already.
        bytemuck::cast_slice_mut(words)[..x.len()].copy_from_slice(x);
        return;
    }
    for (lane, pair) in x.chunks(2).enumerate() {
        let [first, second] = [0, 1].map(|i| pair.get(i).map_or(0, |x| u32::from(x.to_bits())));
        if U::PAIRS {
            words[lane] = second << 16 | first;
        } else {
            (words[lane], words[U::LANES + lane]) = (second << 16, first << 16);
        }
    }
}

/// Some columns of y, of [`BLOCKS`] blocks at most, whose sums wait for one another.
struct Task<'a, U> {
    unit: U,
    product: &'a Skinny,
    x: &'a Prepared,
    /// The rows of W.
    first: usize,
    end: usize,
    /// Sums of a row of x, of which the first ones are used.
    width: usize,
}

impl<U: Compiled> Task<'_, U> {
    /// # Safety
    /// The columns are there and are this task's own.
    unsafe fn run<const WIDE: bool>(&self, sums: &mut [f32]) {
        let block = const { block_rows::<U, WIDE>() };
        self.fetch();
        if self.product.k == 0 {
            sums.fill(0.0);
        }
        for first in (self.first..self.end).step_by(block) {
            let parts = self.x.steps.div_ceil(const { terms_at_once(WIDE) } / self.terms::<WIDE>()).max(1);
            let steps = self.x.steps.div_ceil(parts).max(1);
            let rows = (first, block.min(self.end - first));
            for from in (0..self.x.steps).step_by(steps) {
                // SAFETY: the caller's promise.
                unsafe { self.terms_of_block::<WIDE>(rows, from..(from + steps).min(self.x.steps), sums) };
            }
            if self.x.rest > 0 {
                // SAFETY: as above.
                unsafe { self.rest_of_block::<WIDE>(rows, sums) };
            }
        }
        vectorized!({
            // SAFETY: the caller's promise.
            unsafe { if self.product.narrow { self.put::<bf16>(sums) } else { self.put::<f32>(sums) } }
        });
    }

    /// Asks for the lines that will be written: rows of y may lie a power of two apart, where no near cache holds many.
    fn fetch(&self) {
        let &Skinny { n, m, y, narrow, .. } = self.product;
        let size = if narrow { size_of::<bf16>() } else { size_of::<f32>() };
        for row in 0..m {
            let columns = (row * n + self.first) * size..(row * n + self.end) * size;
            columns.step_by(LINE).for_each(|byte| fetch_far(y.cast::<u8>().wrapping_add(byte)));
        }
    }

    /// Puts sums in their places.
    ///
    /// # Safety
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn put<C: Scalar<Acc = f32>>(&self, sums: &[f32]) {
        let &Skinny { n, m, y, accumulate, .. } = self.product;
        for (row, sums) in sums.chunks_exact(self.width).enumerate().take(m) {
            // SAFETY: the caller's promise.
            let y = unsafe {
                std::slice::from_raw_parts_mut(y.cast::<C>().add(row * n + self.first), self.end - self.first)
            };
            if accumulate {
                for (y, sum) in y.iter_mut().zip(sums) {
                    *y = C::narrow(y.wide() + sum);
                }
            } else {
                for (y, sum) in y.iter_mut().zip(sums) {
                    *y = C::narrow(*sum);
                }
            }
        }
    }

    const fn terms<const WIDE: bool>(&self) -> usize {
        if WIDE { U::LANES } else { 2 * U::LANES }
    }

    /// Adds some steps of all dot products of a block.
    ///
    /// # Safety
    /// As [`Task::run`].
    unsafe fn terms_of_block<const WIDE: bool>(
        &self,
        (first, weights): (usize, usize),
        steps: std::ops::Range<usize>,
        sums: &mut [f32],
    ) {
        let w_stride = self.product.w.stride * if WIDE { 4 } else { 2 };
        let bytes = U::LANES * size_of::<u32>();
        let at = |row: usize| self.product.w.address.cast::<u8>().wrapping_add(row * w_stride + steps.start * bytes);
        let groups = self.product.m.div_ceil(U::DOTS[usize::from(WIDE)].1);
        for group in 0..groups {
            let rows = group * self.product.m / groups..(group + 1) * self.product.m / groups;
            for weight in (0..weights).step_by(U::DOTS[usize::from(WIDE)].0) {
                let tile = U::DOTS[usize::from(WIDE)].0.min(weights - weight);
                let job = Dots {
                    steps: steps.len(),
                    x: &raw const self.x.words.read()[rows.start * self.x.stride + steps.start * self.x.step],
                    x_stride: self.x.stride,
                    rows: rows.len(),
                    w: at(first + weight),
                    w_stride,
                    weights: tile,
                    sums: &raw mut sums[rows.start * self.width + first - self.first + weight],
                    sums_stride: self.width,
                    add: steps.start > 0,
                    // The next block's rows, some by each group.
                    ahead: 2 * weights * w_stride,
                    ahead_rows: group * tile / groups..(group + 1) * tile / groups,
                };
                // SAFETY: the caller's promise; the words of x are as many as its steps.
                unsafe { self.unit.dots::<WIDE>(&job) };
            }
        }
    }

    /// Adds the terms beyond the last whole step: copied, with zeros behind them.
    ///
    /// # Safety
    /// As [`Task::run`].
    unsafe fn rest_of_block<const WIDE: bool>(&self, (first, weights): (usize, usize), sums: &mut [f32]) {
        let size = if WIDE { 4 } else { 2 };
        for weight in 0..weights {
            let from = (first + weight) * self.product.w.stride + self.x.steps * self.terms::<WIDE>();
            let mut words = [0u32; 16];
            // SAFETY: the caller's promise: `rest` terms, fewer than a vector has.
            unsafe {
                let w = self.product.w.address.cast::<u8>().wrapping_add(from * size);
                words.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(w, self.x.rest * size);
            }
            for row in 0..self.product.m {
                let job = Dots {
                    steps: 1,
                    x: &raw const self.x.words.read()[row * self.x.stride + self.x.steps * self.x.step],
                    x_stride: self.x.stride,
                    rows: 1,
                    w: words.as_ptr().cast(),
                    w_stride: 0,
                    weights: 1,
                    sums: &raw mut sums[row * self.width + first - self.first + weight],
                    sums_stride: self.width,
                    add: self.x.steps > 0,
                    ahead: 0,
                    ahead_rows: 0..0,
                };
                // SAFETY: as above: one step of each.
                unsafe { self.unit.dots::<WIDE>(&job) };
            }
        }
    }
}
