//! clip: the norm of all gradients and the factor that brings it down to a limit. The contract is in kernels/engine.h.
//!
//! A pass over the gradients, 2 % of a step of the tutorial. Sums that products leave of what they write, as the kernels of a GPU do
//! (`weight_gradients`), would be of tiles, whose size is the vector unit's: a run would no longer have the same bits with AVX2
//! and with AVX-512.

use std::ffi::c_void;

use rayon::prelude::*;

use super::launcher::{elements, run};
use super::simd::{Real, sum_of, vectorized};
use crate::device::bindings::{ENGINE_CLIP_RUN, engine_dtype, engine_status, engine_step_results, engine_stream};

/// Squares that are added in the gradients' own type, before f64.
const CHUNK: usize = 1024;

pub unsafe extern "C" fn clip_factor(
    results: *mut engine_step_results,
    sums: *mut c_void,
    gradients: *const c_void,
    n: u64,
    max_norm: f64,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    run(|| {
        // SAFETY: the table's contract: master gradients are f64 beside f64, else f32.
        let squares = unsafe {
            match (dtype, gradients.is_null()) {
                (engine_dtype::ENGINE_F64, false) => squares(elements::<f64>(gradients, n as usize)),
                (_, false) => squares(elements::<f32>(gradients, n as usize)),
                (engine_dtype::ENGINE_F64, true) => elements::<f64>(sums, n as usize).iter().sum(),
                (_, true) => elements::<f32>(sums, n as usize).iter().map(|&sum| f64::from(sum)).sum(),
            }
        };
        // SAFETY: the table's contract.
        let results = unsafe { &mut *results };
        let norm = squares.sqrt();
        results.grad_norm = norm;
        results.clip_factor = match () {
            _ if !norm.is_finite() || !results.loss.is_finite() => f64::NAN,
            _ if max_norm > 0.0 => (max_norm / (norm + 1e-6)).min(1.0),
            _ => 1.0,
        };
    })
}

/// The sum of squares: runs in parallel, folded in order.
fn squares<T: Real>(gradients: &[T]) -> f64 {
    let run = |run: &[T]| vectorized!(run_squares(run));
    let partial: Vec<f64> = gradients.par_chunks(ENGINE_CLIP_RUN as usize).map(run).collect();
    partial.iter().sum()
}

#[inline(always)]
fn run_squares<T: Real>(run: &[T]) -> f64 {
    let mut sum = 0.0;
    for chunk in run.chunks(CHUNK) {
        sum += sum_of([chunk], |[x]| x * x).to_f64();
    }
    sum
}
