//! adamw: one update of every parameter in one pass over memory. The contract is in kernels/engine.h.

use std::ffi::c_void;

use half::bf16;
use rayon::prelude::*;

use super::cast::round_stochastic;
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
        // SAFETY: as above; the copy is there or null.
        let copy = (!copy.is_null()).then(|| unsafe { elements_mut::<bf16>(copy, n) });
        // SAFETY: as above: master numbers are f64 beside f64, else f32.
        unsafe {
            if dtype == engine_dtype::ENGINE_F64 {
                Flat::<f64>::new([parameters, m, v], gradients, copy, n).update(step, factor, starts, decays);
            } else {
                Flat::<f32>::new([parameters, m, v], gradients, copy, n).update(step, factor, starts, decays);
            }
        }
    })
}

/// The flat runs of numbers, or a part of them.
struct Flat<'a, T> {
    p: &'a mut [T],
    m: &'a mut [T],
    v: &'a mut [T],
    g: &'a [T],
    copy: Option<&'a mut [bf16]>,
    /// Index of the first number.
    first: usize,
}

impl<'a, T: Real> Flat<'a, T> {
    /// # Safety
    /// Each pointer is n numbers; nobody else uses those that change.
    unsafe fn new(changing: [*mut c_void; 3], g: *const c_void, copy: Option<&'a mut [bf16]>, n: usize) -> Self {
        // SAFETY: the caller's promise.
        let [p, m, v] = changing.map(|pointer| unsafe { elements_mut::<T>(pointer, n) });
        // SAFETY: as above.
        let g = unsafe { elements::<T>(g, n) };
        Self { p, m, v, g, copy, first: 0 }
    }

    fn update(self, step: &engine_adamw_step, factor: f64, starts: &[u64], decays: &[f32]) {
        let mut rest = self;
        for (bounds, &decay) in starts.windows(2).zip(decays) {
            let (group, tail) = rest.split_at((bounds[1] - bounds[0]) as usize);
            rest = tail;
            let numbers = Numbers::new(step, factor, f64::from(decay));
            group.blocks().into_par_iter().for_each(|block| vectorized(|| numbers.update(block)));
        }
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let ((p, p1), (m, m1)) = (self.p.split_at_mut(at), self.m.split_at_mut(at));
        let ((v, v1), (g, g1)) = (self.v.split_at_mut(at), self.g.split_at(at));
        let (copy, copy1) = self.copy.map(|copy| copy.split_at_mut(at)).unzip();
        let first = self.first;
        let tail = Self { p: p1, m: m1, v: v1, g: g1, copy: copy1, first: first + at };
        (Self { p, m, v, g, copy, first }, tail)
    }

    fn blocks(self) -> Vec<Self> {
        let (mut blocks, mut rest) = (Vec::new(), self);
        while !rest.p.is_empty() {
            let len = BLOCK.min(rest.p.len());
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
    /// Number of the update.
    step: u32,
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
            step: step.step as u32,
        }
    }

    #[inline(always)]
    fn update(&self, block: Flat<'_, T>) {
        let Flat { p, m, v, g, copy, first } = block;
        let n = p.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let gi = g[i] * self.factor;
            let mi = self.beta1 * m[i] + self.one_minus_beta1 * gi;
            let vi = self.beta2 * v[i] + self.one_minus_beta2 * gi * gi;
            (m[i], v[i]) = (mi, vi);
            p[i] = p[i] * self.keep - self.rate * mi / (vi.sqrt() * self.root + self.eps);
        }
        if let Some(copy) = copy {
            round_stochastic(copy, p, first, self.step);
        }
    }
}
