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
//! A product whose upper bound lies below the largest lower bound of its row cannot be the largest one. The others, of most
//! rows fewer than ten of 262144, are computed as the head computes them, so that tokens are the same to the bit, the first of
//! equals included.
//!
//! Norms are small where little is rounded: `view` says what is taken out before. It is made for a sample of x, the rows that come first.

use std::ffi::c_void;

use rayon::prelude::*;

use super::gemm::{Matrix, Store};
use super::launcher::elements;
use super::products::product;
use super::simd::Scalar;
use crate::device::driver::Search;

pub mod bytes;
mod candidates;
mod panels;
mod quantized;
#[cfg(test)]
mod tests;
mod view;

use bytes::{Kernel, Unit, with_unit};
use candidates::candidates_of;
use panels::Panels;
use view::View;

/// Candidates of a row beyond which all products are computed: a part of so many of them.
const MANY: usize = 16;

/// The search ends when so many calls have been in vain, and every second one.
const MOST_MISSES: usize = 4;

/// Weights (V, D) of type T, and how they are searched.
pub struct HeadSearch<T> {
    kernel: Kernel,
    weight: *const T,
    rows: usize,
    terms: usize,
    /// Rows of x that came so far.
    sample: Vec<T>,
    /// Made at the first search. None before and where there is no room, or after too many rows that bytes could not tell apart.
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
        Self { kernel, weight, rows, terms, sample: Vec::new(), panels: None, calls: 0, misses: 0 }
    }

    fn weights(&self) -> &[T] {
        // SAFETY: the promise of whoever made this.
        unsafe { elements(self.weight.cast(), self.rows * self.terms) }
    }

    /// Of rows of x (R, D) whose like will be looked for.
    pub fn learn(&mut self, x: &[T]) {
        self.sample.extend_from_slice(x);
    }

    /// For each row of x (R, D) which row of the weights gives the largest product, rounded to T, the first of equals; and how
    /// many products were computed for it. None: they must all be computed.
    pub fn largest(&mut self, x: &[T]) -> Option<Vec<(u32, usize)>> {
        if self.calls == 0 {
            self.learn(x);
            let sample = std::mem::take(&mut self.sample);
            let view = View::new(self.weights(), &sample, self.terms);
            self.panels = with_unit!(self.kernel, panels_of(self.weights(), view));
        }
        self.calls += 1;
        let panels = self.panels.as_ref()?;
        let candidates = with_unit!(self.kernel, candidates_of(panels, x, self.terms));
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

fn panels_of<U: Unit, T: Scalar<Acc = f32>>(unit: U, weights: &[T], view: View) -> Option<Panels> {
    Panels::new(unit, weights, view)
}

impl<T: Scalar<Acc = f32>> Search for HeadSearch<T> {
    unsafe fn learn(&mut self, x: *const c_void, rows: usize) {
        // SAFETY: the caller's promise.
        Self::learn(self, unsafe { elements::<T>(x, rows * self.terms) });
    }

    unsafe fn largest(&mut self, tokens: &mut [u32], x: *const c_void) -> bool {
        // SAFETY: the caller's promise.
        let x = unsafe { elements::<T>(x, tokens.len() * self.terms) };
        let found = Self::largest(self, x);
        tokens.iter_mut().zip(found.iter().flatten()).for_each(|(token, (found, _))| *token = *found);
        found.is_some()
    }
}
