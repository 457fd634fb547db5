//! adamw: one update of every parameter in one pass over memory. The contract is in kernels/engine.h.

use std::ffi::c_void;

use half::bf16;
use rayon::prelude::*;

use super::halves::Rounding;
use super::launcher::{elements, elements_mut, run};
use super::simd::{BLOCK, Real, vectorized};
use crate::device::bindings::{engine_adamw_step, engine_dtype, engine_status, engine_step_results, engine_stream};

pub unsafe extern "C" fn adamw(
    parameters: *mut c_void,
    m: *mut c_void,
    v: *mut c_void,
    copy: *mut c_void,
    gradients: *const c_void,
    results: *const engine_step_results,
    step: *const engine_adamw_step,
    starts: *const u64,
    decays: *const f32,
    groups: u32,
    n: u64,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (groups, n) = (groups as usize, n as usize);
    run(|| {
        // SAFETY: the table's contract.
        let (factor, step) = unsafe { ((*results).clip_factor, &*step) };
        if factor.is_nan() {
            return;
        }
        // SAFETY: as above.
        let starts = unsafe { elements::<u64>(starts.cast(), groups + 1) };
        // SAFETY: as above.
        let decays = unsafe { elements::<f32>(decays.cast(), groups) };
        // SAFETY: as above: numbers are f64 beside f64, else f32; with a copy the parameters are in halves.
        unsafe {
            match (dtype, copy.is_null()) {
                (engine_dtype::ENGINE_F64, _) => {
                    let flat = Flat::new(elements_mut::<f64>(parameters, n), [m, v], gradients, n);
                    flat.update(step, factor, starts, decays);
                }
                (_, true) => {
                    let flat = Flat::new(elements_mut::<f32>(parameters, n), [m, v], gradients, n);
                    flat.update(step, factor, starts, decays);
                }
                (_, false) => {
                    let halves = Halves { copy: elements_mut(copy, n), lower: elements_mut(parameters, n) };
                    Flat::new(halves, [m, v], gradients, n).update(step, factor, starts, decays);
                }
            }
        }
    })
}

/// Weights, or a part of them.
trait Weights<T>: Sized + Send {
    fn len(&self) -> usize;

    fn split_at(self, at: usize) -> (Self, Self);

    /// Replaces each weight by what `change` makes of it and its place among these.
    /// `first`: index of the first one. `steps`: what the weights are split by before and afterwards.
    fn update(self, first: usize, steps: [u32; 2], change: impl FnMut(usize, T) -> T);
}

impl<T: Real> Weights<T> for &mut [T] {
    fn len(&self) -> usize {
        <[T]>::len(self)
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        self.split_at_mut(at)
    }

    #[inline(always)]
    fn update(self, _: usize, _: [u32; 2], mut change: impl FnMut(usize, T) -> T) {
        for (i, weight) in self.iter_mut().enumerate() {
            *weight = change(i, *weight);
        }
    }
}

/// Weights in halves.
struct Halves<'a> {
    copy: &'a mut [bf16],
    lower: &'a mut [u16],
}

impl Weights<f32> for Halves<'_> {
    fn len(&self) -> usize {
        self.copy.len()
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let ((copy, copy1), (lower, lower1)) = (self.copy.split_at_mut(at), self.lower.split_at_mut(at));
        (Self { copy, lower }, Self { copy: copy1, lower: lower1 })
    }

    #[inline(always)]
    fn update(self, first: usize, [before, after]: [u32; 2], mut change: impl FnMut(usize, f32) -> f32) {
        let n = self.copy.len();
        let (copy, lower) = (&mut self.copy[..n], &mut self.lower[..n]);
        let (before, after) = (Rounding::new(first as u64, before), Rounding::new(first as u64, after));
        for i in 0..n {
            let whole = change(i, before.join(copy[i], lower[i], i));
            (copy[i], lower[i]) = after.split(whole, i);
        }
    }
}

/// The flat runs of numbers, or a part of them.
struct Flat<'a, W, T> {
    weights: W,
    m: &'a mut [T],
    v: &'a mut [T],
    g: &'a [T],
    /// Index of the first number.
    first: usize,
}

impl<W: Weights<T>, T: Real> Flat<'_, W, T> {
    /// # Safety
    /// Each pointer is n numbers, as many as there are weights; nobody else uses those that change.
    unsafe fn new(weights: W, moments: [*mut c_void; 2], g: *const c_void, n: usize) -> Self {
        // SAFETY: the caller's promise.
        let [m, v] = moments.map(|pointer| unsafe { elements_mut::<T>(pointer, n) });
        // SAFETY: as above.
        let g = unsafe { elements::<T>(g, n) };
        Self { weights, m, v, g, first: 0 }
    }

    fn update(self, step: &engine_adamw_step, factor: f64, starts: &[u64], decays: &[f32]) {
        let mut rest = self;
        for (bounds, &decay) in starts.windows(2).zip(decays) {
            let (group, tail) = rest.split_at((bounds[1] - bounds[0]) as usize);
            rest = tail;
            let numbers = Numbers::new(step, factor, f64::from(decay));
            group.blocks().into_par_iter().for_each(|block| vectorized!(numbers.update(block)));
        }
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (weights, weights1) = self.weights.split_at(at);
        let ((m, m1), (v, v1)) = (self.m.split_at_mut(at), self.v.split_at_mut(at));
        let ((g, g1), first) = (self.g.split_at(at), self.first);
        let tail = Self { weights: weights1, m: m1, v: v1, g: g1, first: first + at };
        (Self { weights, m, v, g, first }, tail)
    }

    fn blocks(self) -> Vec<Self> {
        let (mut blocks, mut rest) = (Vec::new(), self);
        while rest.weights.len() > 0 {
            let len = BLOCK.min(rest.weights.len());
            let (block, tail) = rest.split_at(len);
            blocks.push(block);
            rest = tail;
        }
        blocks
    }
}

/// The step's numbers in T, for a group of parameters.
struct Numbers<T> {
    keep: T,
    beta1: T,
    beta2: T,
    one_minus_beta1: T,
    one_minus_beta2: T,
    rate: T,
    root: T,
    eps: T,
    factor: T,
    /// What the weights are split by before and afterwards.
    steps: [u32; 2],
}

impl<T: Real> Numbers<T> {
    fn new(step: &engine_adamw_step, factor: f64, decay: f64) -> Self {
        let real = T::from_f64;
        Self {
            keep: real(1.0 - step.learning_rate * step.weight_decay * decay),
            beta1: real(step.beta1),
            beta2: real(step.beta2),
            one_minus_beta1: real(step.one_minus_beta1),
            one_minus_beta2: real(step.one_minus_beta2),
            rate: real(step.rate),
            root: real(step.root),
            eps: real(step.eps),
            factor: real(factor),
            steps: [step.split_by, step.step].map(|step| step as u32),
        }
    }

    #[inline(always)]
    fn update<W: Weights<T>>(&self, block: Flat<'_, W, T>) {
        let Flat { weights, m, v, g, first } = block;
        let n = weights.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        weights.update(
            first,
            self.steps,
            #[inline(always)]
            |i, p| {
                let gi = g[i] * self.factor;
                let mi = self.beta1 * m[i] + self.one_minus_beta1 * gi;
                let vi = self.beta2 * v[i] + self.one_minus_beta2 * gi * gi;
                (m[i], v[i]) = (mi, vi);
                p * self.keep - self.rate * mi / (vi.sqrt() * self.root + self.eps)
            },
        );
    }
}
