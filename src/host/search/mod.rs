//! A search for the weights whose product with a row is the largest, without computing all of these products.
//!
//! The head of a model is most of a decoded token's work, and greedy decoding asks of its products only which one is the
//! largest. So weights and rows are kept in bytes beside, and all products of bytes computed: half the bytes of bf16, and twice
//! the products in an instruction. By the inequality of Cauchy and Schwarz, what such a product can be wrong by follows from the norms of what
//! rounding has left: with w = w' + e and x = x' + f,
//!
//! ```text
//! |w x - w' x'| <= |e| |x| + |w'| |f|
//! ```
//!
//! A product whose upper bound lies below the largest lower bound of its row cannot be the largest one. The others, some ten
//! or hundred of 262144, are computed as the head computes them, so that tokens are the same to the bit, the first of
//! equals included.
//!
//! Norms are small where all terms are of one size. So term i is multiplied by a power of two in the weights and divided by it
//! in x, which changes no product: the weights' spread is made that of x at the first rows that come.

use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, Ordering};

use rayon::prelude::*;

use super::gemm::{Matrix, Store};
use super::launcher::elements;
use super::memory;
use super::products::product;
use super::simd::{Scalar, vectorized};
use crate::device::driver::Search;
use crate::device::{DType, room};

pub mod bytes;
mod quantized;

use bytes::{Job, Kernel, MOST_ROWS, PANEL, STEP, TERMS, Unit, with_unit};
use quantized::{LANES, Quantized, quantize};

/// Panels of a task.
const PANELS: usize = 64;

/// Candidates of a row beyond which all products are computed: a part of so many of them.
const MANY: usize = 16;

/// The search ends when so many calls have been in vain, and every second one.
const MOST_MISSES: usize = 4;

/// Bytes of x are numbers of -127 to 127.
const LEVELS_OF_X: i32 = 127;

/// Weights (V, D) of type T, and how they are searched.
pub struct HeadSearch<T> {
    kernel: Kernel,
    weight: *const T,
    rows: usize,
    terms: usize,
    /// Made of the first rows that are looked for. None before and where there is no room, or after too many rows that bytes
    /// could not tell apart.
    panels: Option<Panels>,
    /// How often it was asked, and how often in vain.
    calls: usize,
    misses: usize,
}

impl<T: Scalar<Acc = f32>> HeadSearch<T> {
    /// Of `weight` (rows, terms), with this kernel.
    ///
    /// # Safety
    /// It is there and does not change while this is used.
    pub unsafe fn new(kernel: Kernel, weight: *const T, [rows, terms]: [usize; 2]) -> Self {
        Self { kernel, weight, rows, terms, panels: None, calls: 0, misses: 0 }
    }

    fn weights(&self) -> &[T] {
        // SAFETY: the promise of whoever made this.
        unsafe { elements(self.weight.cast(), self.rows * self.terms) }
    }

    /// For each row of x (R, D) which row of the weights gives the largest product, rounded to T, the first of equals; and how
    /// many products were computed for it. None: they must all be computed.
    pub fn largest(&mut self, x: &[T]) -> Option<Vec<(u32, usize)>> {
        if self.calls == 0 {
            self.panels = with_unit!(self.kernel, panels_of(self.weights(), x, self.terms));
        }
        self.calls += 1;
        let panels = self.panels.as_ref()?;
        let candidates = with_unit!(self.kernel, candidates_of(panels, x));
        let few = |candidates: &[u32]| !candidates.is_empty() && candidates.len() <= self.rows.div_ceil(MANY);
        if !candidates.iter().all(|candidates| few(candidates)) {
            self.misses += 1;
            if self.misses >= MOST_MISSES && 2 * self.misses > self.calls {
                self.panels = None;
            }
            return None;
        }
        let (weights, rows) = (self.weights(), candidates.par_iter().zip(x.par_chunks(self.terms)));
        Some(rows.map(|(candidates, x)| (largest_of(weights, x, candidates), candidates.len())).collect())
    }
}

/// Which of some rows of the weights, in ascending order, has the largest product with x, the first of equals.
fn largest_of<T: Scalar>(weights: &[T], x: &[T], candidates: &[u32]) -> u32 {
    let terms = x.len();
    let mut rows = Vec::with_capacity(candidates.len() * terms);
    candidates.iter().for_each(|&row| rows.extend_from_slice(&weights[row as usize * terms..][..terms]));
    let mut products = vec![T::zeroed(); candidates.len()];
    product(&mut products, Store::Write, Matrix::new(x, 1, terms), Matrix::new(&rows, candidates.len(), terms).t());
    let of_first = |best: usize, i: usize| if products[i].wide() > products[best].wide() { i } else { best };
    candidates[(1..products.len()).fold(0, of_first)]
}

impl<T: Scalar<Acc = f32>> Search for HeadSearch<T> {
    unsafe fn largest(&mut self, tokens: &mut [u32], x: *const c_void) -> bool {
        // SAFETY: the caller's promise.
        let x = unsafe { elements::<T>(x, tokens.len() * self.terms) };
        let found = Self::largest(self, x);
        tokens.iter_mut().zip(found.iter().flatten()).for_each(|(token, (found, _))| *token = *found);
        found.is_some()
    }
}

/// Weights in bytes, in panels as a unit reads them.
struct Panels {
    bytes: Block,
    /// Of each panel.
    steps: usize,
    /// What weights are multiplied by, term by term, and x is divided by.
    factors: Vec<f32>,
    /// Of each row: scales, and bounds of norms. Rows that fill up the last panel have none: NaN.
    scales: Vec<f32>,
    errors: Vec<f32>,
    sizes: Vec<f32>,
}

/// Memory for bytes.
struct Block {
    address: *mut u8,
    len: usize,
}

// SAFETY: it is memory that the block owns.
unsafe impl Send for Block {}
// SAFETY: as above; it is written through `&mut` alone.
unsafe impl Sync for Block {}

impl Block {
    /// None where there is no room for it.
    fn new(len: usize) -> Option<Self> {
        room::require(len as u64, "weights in bytes").ok()?;
        Some(Self { address: memory::allocate(len).ok()?.cast(), len })
    }

    fn read(&self) -> &[u8] {
        // SAFETY: so many bytes, zeros at first.
        unsafe { std::slice::from_raw_parts(self.address, self.len) }
    }

    fn write(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this size.
        unsafe { memory::free(self.address.cast(), self.len) };
    }
}

/// Weights in bytes, for rows like those of x. None: there is no room for them, or numbers are not finite.
fn panels_of<U: Unit, T: Scalar<Acc = f32>>(_: U, weights: &[T], x: &[T], terms: usize) -> Option<Panels> {
    let rows = weights.len() / terms.max(1);
    let steps = terms.div_ceil(TERMS);
    // Sums of products of bytes have 31 bits.
    if rows == 0 || terms > i32::MAX as usize / (2 * U::LEVELS + 1) as usize / LEVELS_OF_X as usize {
        return None;
    }
    let len = rows.next_multiple_of(PANEL);
    let mut bytes = Block::new(len * steps * TERMS)?;
    let factors = factors(weights, x, terms);
    let mut norms = vec![Quantized::default(); len];
    let panels = bytes.write().par_chunks_mut(steps * STEP).zip(norms.par_chunks_mut(PANEL));
    panels.zip(weights.par_chunks(PANEL * terms)).for_each(|((panel, norms), weights)| {
        let mut v = vec![0.0; terms.next_multiple_of(LANES)];
        let mut row_bytes = vec![0; v.len()];
        let (words, _) = panel.as_chunks_mut::<TERMS>();
        for (i, norm) in norms.iter_mut().enumerate() {
            let row = weights.chunks_exact(terms).nth(i).unwrap_or_default();
            v[terms..].fill(0.0);
            vectorized!({
                for ((v, weight), factor) in v.iter_mut().zip(row).zip(&factors) {
                    *v = weight.wide() * factor;
                }
                if !row.is_empty() {
                    *norm = quantize(&mut row_bytes, &mut v, U::LEVELS, true);
                }
            });
            for (step, terms) in row_bytes.as_chunks::<TERMS>().0.iter().take(steps).enumerate() {
                words[step * PANEL + i] = *terms;
            }
        }
    });
    let of = |part: fn(&Quantized) -> f32| norms.iter().map(part).collect::<Vec<f32>>();
    let (scales, mut errors, sizes) = (of(|norm| norm.scale), of(|norm| norm.error), of(|norm| norm.size));
    let finite = norms.iter().all(|norm| norm.norm().is_finite());
    // No bound of theirs is reached, nor reaches any.
    errors[rows..].fill(f32::NAN);
    finite.then_some(Panels { bytes, steps, factors, scales, errors, sizes })
}

/// The power of two next to sqrt(x / w) for each term, by the squares of some weights and of x.
fn factors<T: Scalar<Acc = f32>>(weights: &[T], x: &[T], terms: usize) -> Vec<f32> {
    /// So many rows of weights tell how large their terms are.
    const SOME: usize = 4096;
    /// Powers of more do not occur in a model that works.
    const MOST: f32 = 20.0;
    let squares = |rows: &[T], every: usize| -> Vec<f64> {
        let mut squares = vec![0.0; terms];
        for row in rows.chunks_exact(terms).step_by(every) {
            squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x.wide()) * f64::from(x.wide()));
        }
        let counted = (rows.len() / terms).div_ceil(every).max(1) as f64;
        squares.into_iter().map(|sum: f64| sum / counted).collect()
    };
    let of_weights = squares(weights, (weights.len() / terms).div_ceil(SOME));
    let factor = |(x, weight): (f64, f64)| ((x / weight).log2() / 4.0).round() as f32;
    let power = |power: f32| if power.is_finite() { power.clamp(-MOST, MOST).exp2() } else { 1.0 };
    squares(x, 1).into_iter().zip(of_weights).map(factor).map(power).collect()
}

/// A row of x in bytes.
struct Row {
    scale: f32,
    /// What is added to weights, times the sum of x: in every sum of products of bytes.
    offset: i32,
    /// What a norm of a weight's error, and of what its bytes say, counts for.
    of_error: f32,
    of_size: f32,
    /// The largest lower bound so far, as [`key`] orders it.
    floor: AtomicI32,
}

/// A row of weights whose product may be the largest.
struct Candidate {
    row: usize,
    weight: u32,
    upper: f32,
}

/// Rows of x that are multiplied at once.
struct Group {
    rows: Vec<Row>,
    /// Words of x, step by step, of as many rows as the unit takes.
    words: Vec<i32>,
    width: usize,
    /// Products that differ by a smaller part may be equal in T.
    ties: f32,
}

impl Group {
    /// The upper bound that what may be the largest product of a row has at least.
    #[inline(always)]
    fn floor(&self, row: &Row) -> f32 {
        let floor = number(row.floor.load(Ordering::Relaxed));
        if self.ties > 0.0 { floor - floor.abs() * self.ties } else { floor }
    }
}

/// A number that is ordered as x is, if x is a number.
#[inline(always)]
fn key(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    if bits < 0 { bits ^ i32::MAX } else { bits }
}

/// The x of a key.
#[inline(always)]
fn number(key: i32) -> f32 {
    f32::from_bits(if key < 0 { key ^ i32::MAX } else { key } as u32)
}

/// Which rows of the weights may give the largest product, for each row of x, in ascending order.
fn candidates_of<U: Unit, T: Scalar<Acc = f32>>(unit: U, panels: &Panels, x: &[T]) -> Vec<Vec<u32>> {
    let terms = panels.factors.len();
    let rows = x.len() / terms;
    let widest = U::WIDTHS[U::WIDTHS.len() - 1];
    let per_group = rows.div_ceil(rows.div_ceil(widest).max(1)).max(1);
    let groups: Vec<Group> = x.chunks(per_group * terms).map(|x| group::<U, T>(panels, x, terms)).collect();
    let all = panels.scales.len() / PANEL;
    let of_task = |task: usize| {
        let mut found = Vec::new();
        for panel in task * PANELS..((task + 1) * PANELS).min(all) {
            for (i, group) in groups.iter().enumerate() {
                look_through(unit, panels, panel, group, |row, lane, upper| {
                    found.push(Candidate { row: i * per_group + row, weight: (panel * PANEL + lane) as u32, upper });
                });
            }
        }
        found
    };
    let found: Vec<Vec<Candidate>> = (0..all.div_ceil(PANELS)).into_par_iter().map(of_task).collect();
    let floors: Vec<f32> = groups.iter().flat_map(|group| group.rows.iter().map(|row| group.floor(row))).collect();
    let mut candidates = vec![Vec::new(); rows];
    for Candidate { row, weight, upper } in found.into_iter().flatten() {
        if upper >= floors[row] {
            candidates[row].push(weight);
        }
    }
    candidates
}

/// Rows of x in bytes. One that is not finite has bounds that no product reaches.
fn group<U: Unit, T: Scalar<Acc = f32>>(panels: &Panels, x: &[T], terms: usize) -> Group {
    // What adding up D products in f32 may be wrong by, in whatever order, and the bounds themselves.
    let rounding = (2 * terms + 64) as f32 * f32::EPSILON;
    let rows = x.len() / terms;
    let width = U::WIDTHS.iter().copied().find(|width| *width >= rows).unwrap_or(rows);
    let mut words = vec![0; panels.steps * width];
    let mut v = vec![0.0; terms.next_multiple_of(LANES)];
    let mut bytes = vec![0; v.len()];
    let quantized = |(i, x): (usize, &[T])| {
        v[terms..].fill(0.0);
        let norms = vectorized!({
            for ((v, x), factor) in v.iter_mut().zip(x).zip(&panels.factors) {
                *v = x.wide() / factor;
            }
            quantize(&mut bytes, &mut v, LEVELS_OF_X, false)
        });
        for (step, terms) in bytes.as_chunks::<TERMS>().0.iter().take(panels.steps).enumerate() {
            words[step * width + i] = i32::from_le_bytes(*terms);
        }
        let sum: i32 = bytes.iter().map(|byte| i32::from(*byte as i8)).sum();
        let of_rounding = norms.norm() * rounding;
        Row {
            scale: norms.scale,
            offset: (U::LEVELS + 1) * sum,
            of_error: norms.norm() + of_rounding,
            of_size: norms.error + of_rounding,
            floor: AtomicI32::new(key(f32::NEG_INFINITY)),
        }
    };
    let rows = x.chunks_exact(terms).enumerate().map(quantized).collect();
    // Two numbers that round to the same one of 8 bits are less than 2^-7 of the larger one apart.
    let ties = if T::DTYPE == DType::Bf16 { 2f32.powi(-7) } else { 0.0 };
    Group { rows, words, width, ties }
}

/// Calls `found(row, lane, upper bound)` for products of a panel that may be the largest, as far as is known.
fn look_through<U: Unit>(
    unit: U,
    panels: &Panels,
    panel: usize,
    group: &Group,
    mut found: impl FnMut(usize, usize, f32),
) {
    let mut sums = [[0; PANEL]; MOST_ROWS];
    let job = Job {
        steps: panels.steps,
        weights: panels.bytes.read()[panel * panels.steps * STEP..].as_ptr(),
        x: group.words.as_ptr(),
        rows: group.width,
        sums: sums.as_mut_ptr(),
    };
    // SAFETY: a panel of so many steps, as many words of each row, and room for the sums of all rows.
    unsafe { unit.multiply(&job) };
    let of_panel = |all: &[f32]| -> [f32; PANEL] { all.as_chunks().0[panel] };
    let (scales, errors, sizes) = (of_panel(&panels.scales), of_panel(&panels.errors), of_panel(&panels.sizes));
    vectorized!({
        for (i, (row, sums)) in group.rows.iter().zip(&sums).enumerate() {
            let floor = group.floor(row);
            let mut uppers = [0.0; PANEL];
            let mut is_reached = false;
            for lane in 0..PANEL {
                let product = (sums[lane] - row.offset) as f32 * (row.scale * scales[lane]);
                uppers[lane] = product + (errors[lane] * row.of_error + sizes[lane] * row.of_size);
                is_reached |= uppers[lane] >= floor;
            }
            if !is_reached {
                continue;
            }
            for lane in 0..PANEL {
                let upper = uppers[lane];
                if upper >= floor {
                    let lower = upper - 2.0 * (errors[lane] * row.of_error + sizes[lane] * row.of_size);
                    row.floor.fetch_max(key(lower), Ordering::Relaxed);
                    found(i, lane, upper);
                }
            }
        }
    });
}
