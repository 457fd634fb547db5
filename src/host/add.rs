//! add: sum += term. The contract is in kernels/engine.h.

use std::ffi::c_void;

use rayon::prelude::*;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{BLOCK, Scalar, vectorized};
use crate::device::bindings::{engine_dtype, engine_status, engine_stream};

pub unsafe extern "C" fn add(
    sum: *mut c_void,
    term: *const c_void,
    n: u64,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract.
            let (sum, term) = unsafe { (elements_mut::<T>(sum, n as usize), elements::<T>(term, n as usize)) };
            add_in(sum, term);
        })
    })
}

fn add_in<T: Scalar>(sum: &mut [T], term: &[T]) {
    sum.par_chunks_mut(BLOCK).zip(term.par_chunks(BLOCK)).for_each(|(sum, term)| {
        vectorized!(sum.iter_mut().zip(term).for_each(|(s, &t)| *s = T::narrow(s.wide() + t.wide())));
    });
}
